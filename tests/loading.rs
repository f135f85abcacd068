//! Weights on their way: from files and servers, through the store, into networks.

#[path = "common/server.rs"]
mod server;

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::Device,
};
use pangu_draw::{
    Error, Result,
    nets::Pace,
    weights::{
        Arrival, Depot, LoadProgress,
        gguf::{self, Metadata, Value},
        http::{Answer, Body, Broken, Get, Http, Native, Patience, Transport},
        manifest::{self, Component, Manifest, Title},
        quant::GgmlType,
        save,
        source::{FolderSource, MemorySource, Pending, Source},
        stock,
        store::{FolderStore, MemoryStore, Store, delete_model, stored_models},
        watched, write_module,
    },
};
use pollster::block_on;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    future::ready,
    rc::Rc,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

const CHUNK: u64 = 1000;

#[derive(Module, Debug)]
struct Net {
    wide: Linear,
    odd: Linear,
}

impl Net {
    fn new() -> Self {
        let device = Device::flex();
        Self { wide: LinearConfig::new(64, 160).init(&device), odd: LinearConfig::new(32, 77).init(&device) }
    }
}

fn scratch(name: &str) -> std::path::PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let unique = format!("pangu-draw-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(unique);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

static FIRST: OnceLock<Vec<u8>> = OnceLock::new();

/// A model of two components in chunks of 1000 bytes; `salt` tells models apart.
fn model(salt: u8) -> (Manifest, BTreeMap<String, Vec<u8>>) {
    let net = Net::new();
    let folder = scratch("model");
    let mut files = BTreeMap::new();
    let mut components = Vec::new();
    for (role, dtype) in [("first", GgmlType::Q8_0), ("second", GgmlType::Q4_0)] {
        // What is common to all models is `first`.
        let salt = if role == "first" { 0 } else { salt };
        let metadata = Metadata::from([
            (gguf::CONFIG.into(), Value::from(r#"{"width": 64}"#)),
            ("salt".into(), Value::U8(salt)),
            // The header is longer than a chunk, and no chunk is like another: they would be stored once.
            ("words".into(), Value::from_iter((0..400).map(|i| format!("word {i} {role} {salt}")))),
        ]);
        let file = format!("{role}.gguf");
        let write = || write_module(&net, "", dtype, &metadata, Vec::new()).unwrap();
        let bytes = if salt == 0 { FIRST.get_or_init(write).clone() } else { write() };
        std::fs::write(folder.join(&file), &bytes).unwrap();
        components.push(Component::of_file(&folder, role, "Net", &file, CHUNK).unwrap());
        files.insert(file, bytes);
    }
    std::fs::remove_dir_all(folder).unwrap();
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: format!("test-{salt}"),
        title: Title { en: "Test".into(), zh: "测试".into() },
        licence: "MIT".into(),
        attribution: vec![],
        chunk_bytes: CHUNK,
        components,
        vocabulary: None,
        pipeline: serde_json::Value::Null,
    };
    files.insert(manifest::FILE.into(), manifest.to_json().unwrap());
    (manifest, files)
}

/// Loads a whole model, checking that progress is exact; answers the networks' numbers.
fn load_all(depot: &Depot) -> Result<Vec<Vec<f32>>> {
    block_on(async {
        let manifest = depot.manifest().await?;
        manifest.components.iter().for_each(|component| depot.traffic().expect(&manifest.name, component));
        let mut last: Option<LoadProgress> = None;
        let mut on_progress = |progress: LoadProgress| {
            assert!(progress.loaded_bytes <= progress.total_bytes && progress.stored_bytes <= progress.loaded_bytes);
            last = Some(progress);
        };
        let load = async {
            let mut networks = Vec::new();
            for component in &manifest.components {
                let arrival = Arrival::new(depot, &manifest, component).await?;
                assert_eq!(arrival.config::<serde_json::Value>()?["width"], 64);
                let net = arrival.load(Net::new(), "").await?;
                networks.push(save(&net, "").into_iter().flat_map(|(.., values)| values).collect());
            }
            Ok(networks)
        };
        let networks = watched(depot.traffic(), &mut on_progress, load).await?;
        let last = last.expect("something has arrived");
        assert_eq!((last.loaded_bytes, last.component_loaded), (last.total_bytes, last.component_bytes));
        assert_eq!(last.total_bytes, manifest.components.iter().map(|component| component.bytes).sum::<u64>());
        Ok(networks)
    })
}

/// What a [`Server`] does instead of answering properly.
#[derive(Debug, Clone)]
enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The body ends after so many bytes, as if it were whole.
    End(usize),
    /// There is no connection.
    Refuse,
    /// That status, and `Retry-After`.
    Status(u16, Option<&'static str>),
    Compress,
    OtherRange,
    /// One bit of that byte of the body.
    Flip(usize),
}

type Decide = dyn FnMut(&Get<'_>) -> Option<Fault>;

/// A web server without a network, which misbehaves on command.
#[derive(Clone)]
struct Server(Rc<State>);

struct State {
    files: RefCell<BTreeMap<String, Vec<u8>>>,
    ranges: bool,
    /// Decides on the fault of the request that is being answered.
    fault: RefCell<Box<Decide>>,
    asked: RefCell<Vec<String>>,
    sent: Cell<u64>,
    fresh: Cell<usize>,
    slept: RefCell<Vec<Duration>>,
}

impl Server {
    fn new(files: BTreeMap<String, Vec<u8>>, ranges: bool) -> Self {
        Self(Rc::new(State {
            files: RefCell::new(files),
            ranges,
            fault: RefCell::new(Box::new(|_| None)),
            asked: RefCell::default(),
            sent: Cell::default(),
            fresh: Cell::default(),
            slept: RefCell::default(),
        }))
    }

    /// Decides on the fault of every request for a weight file.
    fn fault(&self, mut fault: impl FnMut(&Get<'_>) -> Option<Fault> + 'static) {
        *self.0.fault.borrow_mut() = Box::new(move |get| if get.url.ends_with(".json") { None } else { fault(get) });
    }

    /// The faults of the next requests for weight files, one each.
    fn faults(&self, faults: &[Fault]) {
        let mut faults = VecDeque::from(faults.to_vec());
        self.fault(move |_| faults.pop_front());
    }

    fn depot(&self, store: Option<Rc<dyn Store>>) -> Depot {
        self.depot_at("http://models.example/test/", store)
    }

    fn depot_at(&self, base: &str, store: Option<Rc<dyn Store>>) -> Depot {
        let patience = Patience { progress: 100, ..Patience::default() };
        Depot::new(Rc::new(Http::new(base, self.clone(), patience)), store)
    }

    /// Requests since this was called last.
    fn asked(&self) -> usize {
        let asked = self.0.asked.take();
        asked.iter().filter(|url| !url.ends_with(".json")).count()
    }
}

struct Pieces {
    server: Server,
    bytes: Vec<u8>,
    at: usize,
    cut: bool,
}

impl Body for Pieces {
    fn piece(&mut self) -> Pending<'_, Result<Option<Vec<u8>>, Broken>> {
        let end = (self.at + 170).min(self.bytes.len());
        let piece = self.bytes[self.at..end].to_vec();
        self.at = end;
        self.server.0.sent.set(self.server.0.sent.get() + piece.len() as u64);
        Box::pin(ready(match (piece.is_empty(), self.cut) {
            (false, _) => Ok(Some(piece)),
            (true, false) => Ok(None),
            (true, true) => Err(Broken("cut".into())),
        }))
    }
}

impl Transport for Server {
    fn get<'a>(&'a self, get: Get<'a>) -> Pending<'a, Result<Answer, Broken>> {
        let state = &self.0;
        state.asked.borrow_mut().push(get.url.into());
        state.fresh.set(state.fresh.get() + usize::from(get.fresh));
        let fault = (state.fault.borrow_mut())(&get);
        let files = state.files.borrow();
        let file = files.get(get.url.rsplit('/').next().unwrap());
        let (status, mut bytes, whole) = match file {
            None => (404, Vec::new(), 0),
            Some(file) if state.ranges => {
                let (start, end) = (get.range.start as usize, (get.range.end as usize).min(file.len()));
                match start < end {
                    true => (206, file[start..end].to_vec(), file.len()),
                    false => (416, Vec::new(), file.len()),
                }
            }
            Some(file) => (200, file.clone(), file.len()),
        };
        let end = get.range.start + bytes.len() as u64;
        let mut answer = Answer {
            status,
            content_range: (status == 206).then(|| format!("bytes {}-{}/{whole}", get.range.start, end.max(1) - 1)),
            content_encoding: None,
            retry_after: None,
            length: Some(bytes.len() as u64),
            body: Box::new(Pieces { server: self.clone(), bytes: Vec::new(), at: 0, cut: false }),
        };
        let mut cut = false;
        match fault {
            None => {}
            Some(Fault::Refuse) => return Box::pin(ready(Err(Broken("no route to host".into())))),
            Some(Fault::Cut(at)) => {
                cut = at < bytes.len();
                bytes.truncate(at);
            }
            Some(Fault::End(at)) => {
                bytes.truncate(at);
                (answer.length, answer.content_range) = (None, None);
            }
            Some(Fault::Status(status, after)) => {
                (answer.status, answer.retry_after, bytes) = (status, after.map(String::from), Vec::new());
            }
            Some(Fault::Compress) => answer.content_encoding = Some("gzip".into()),
            Some(Fault::OtherRange) => answer.content_range = Some("bytes 7-9/10".into()),
            Some(Fault::Flip(at)) => {
                let len = bytes.len();
                bytes[at % len] ^= 4;
            }
        }
        answer.body = Box::new(Pieces { server: self.clone(), bytes, at: 0, cut });
        Box::pin(ready(Ok(answer)))
    }

    fn sleep(&self, time: Duration) -> Pending<'_, ()> {
        self.0.slept.borrow_mut().push(time);
        Box::pin(ready(()))
    }
}

/// Numbers without a pattern, the same every time.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    }
}

#[test]
fn models_load_from_everywhere() {
    let (manifest, files) = model(1);
    let folder = scratch("folder");
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    let chunks: usize = manifest.components.iter().map(|component| component.sha256.len()).sum();
    assert!(chunks > 10);
    let memory = load_all(&Depot::new(Rc::new(MemorySource(files.clone())), None)).unwrap();
    assert_eq!(load_all(&Depot::new(Rc::new(FolderSource(folder.clone())), None)).unwrap(), memory);
    for ranges in [true, false] {
        let server = Server::new(files.clone(), ranges);
        assert_eq!(load_all(&server.depot(None)).unwrap(), memory);
        assert_eq!(server.asked(), if ranges { chunks } else { 2 }, "requests, the server knowing ranges: {ranges}");
    }
    std::fs::remove_dir_all(folder).unwrap();
    let lost = Depot::new(Rc::new(FolderSource("/nonexistent".into())), None);
    assert_eq!(load_all(&lost).unwrap_err().code(), "read");
}

#[test]
fn ranges_are_read_as_asked() {
    let (_, files) = model(1);
    let whole = files["first.gguf"].clone();
    for ranges in [true, false] {
        let server = Server::new(files.clone(), ranges);
        let source = Http::new("http://models.example/test", server.clone(), Patience::default());
        let len = whole.len() as u64;
        for range in [1500..2500, 10..20, 20..30, 0..5, len - 3..len + 100] {
            let heard = Cell::new(0);
            let part = block_on(source.read("first.gguf", range.clone(), &|bytes| heard.set(bytes))).unwrap();
            assert_eq!(part, whole[range.start as usize..(range.end.min(len)) as usize]);
            assert_eq!(heard.get(), part.len() as u64);
        }
        assert!(block_on(source.read("first.gguf", len..len + 1, &|_| ())).unwrap().is_empty());
        let lost = block_on(source.read("third.gguf", 0..10, &|_| ())).unwrap_err();
        assert!(matches!(lost, Error::Refused { what, status: 404 } if what.ends_with("third.gguf")));
    }
}

/// A connection that is cut loses nothing: what came is kept, and the rest alone is asked for again.
#[test]
fn a_cut_connection_costs_no_byte() {
    let (manifest, files) = model(1);
    let total: u64 = manifest.components.iter().map(|component| component.bytes).sum();
    let expected = load_all(&Depot::new(Rc::new(MemorySource(files.clone())), None)).unwrap();
    let mut at = random(1);
    for _ in 0..200 {
        let server = Server::new(files.clone(), true);
        let request = at(10);
        let mut count = 0;
        let cut = at(CHUNK as usize);
        server.fault(move |_| {
            count += 1;
            (count - 1 == request).then_some(Fault::Cut(cut))
        });
        let manifest_bytes = files["model.json"].len() as u64;
        assert_eq!(load_all(&server.depot(None)).unwrap(), expected);
        assert_eq!(server.0.sent.get(), total + manifest_bytes, "cut in request {request} after {cut} bytes");
    }
    // Where ranges are ignored the file comes again, and still loads.
    let server = Server::new(files, false);
    server.faults(&[Fault::Cut(2500), Fault::Cut(2700), Fault::Cut(3100)]);
    assert_eq!(load_all(&server.depot(None)).unwrap(), expected);
}

/// A load that ends anywhere is taken up again where it ended: at most the chunk that was on its way comes twice.
#[test]
fn a_load_that_died_is_resumed() {
    let (manifest, files) = model(1);
    let total: u64 = manifest.components.iter().map(|component| component.bytes).sum();
    let manifest_bytes = files["model.json"].len() as u64;
    let expected = load_all(&Depot::new(Rc::new(MemorySource(files.clone())), None)).unwrap();
    let mut at = random(2);
    for _ in 0..200 {
        let store = Rc::new(MemoryStore::default());
        let server = Server::new(files.clone(), true);
        let last = at(total as usize);
        let (mut before, mut over) = (0, false);
        server.fault(move |get| {
            let len = (get.range.end - get.range.start) as usize;
            before += len;
            if over || before > last {
                // All that follows a cut fails, too.
                let cut = if over { Fault::Refuse } else { Fault::Cut(len - (before - last).min(len)) };
                over = true;
                return Some(cut);
            }
            None
        });
        let error = load_all(&server.depot(Some(store.clone()))).unwrap_err();
        assert!(matches!(&error, Error::Read { what, .. } if what.contains("chunk")), "{error}");
        let first = server.0.sent.take() - manifest_bytes;
        server.faults(&[]);
        assert_eq!(load_all(&server.depot(Some(store.clone()))).unwrap(), expected);
        let second = server.0.sent.take() - manifest_bytes;
        assert!(first + second <= total + CHUNK, "died after {last}: {first} and {second} of {total} bytes");
        // And then nothing comes again.
        assert_eq!(load_all(&server.depot(Some(store))).unwrap(), expected);
        assert_eq!(server.0.sent.take(), manifest_bytes);
    }
}

#[test]
fn servers_that_fail_for_a_while_are_asked_again() {
    let (_, files) = model(1);
    let server = Server::new(files, true);
    let mut passing = vec![Fault::Refuse, Fault::Status(429, Some("7")), Fault::Status(503, None)];
    passing.extend([Fault::Status(500, Some("later")), Fault::Cut(0)]);
    server.faults(&passing);
    load_all(&server.depot(None)).unwrap();
    let slept = server.0.slept.take();
    assert_eq!(slept.len(), 5);
    assert_eq!(slept[1], Duration::from_secs(7), "as the server says");
    for (failures, slept) in slept.iter().enumerate().filter(|(i, _)| *i != 1) {
        assert!(*slept <= Duration::from_millis(500 << failures), "{slept:?} after {failures} more");
    }
    // At last it is given up, and the chunk is named.
    let mut count = 0;
    server.fault(move |_| {
        count += 1;
        (count > 3).then_some(Fault::Status(503, Some("1000000")))
    });
    let error = load_all(&server.depot(None)).unwrap_err();
    assert!(matches!(&error, Error::Read { what, why } if what.contains("chunk 3") && why.contains("503")), "{error}");
    let slept = server.0.slept.take();
    assert_eq!(slept.len(), 5);
    assert!(
        slept.iter().all(|time| *time == Patience::default().longest_pause),
        "no server makes anybody wait for days"
    );
}

#[test]
fn what_will_not_get_better_fails_at_once() {
    let (_, files) = model(1);
    for (fault, code, part) in [
        (Fault::Status(403, None), "refused", "403"),
        (Fault::Status(404, None), "refused", "404"),
        (Fault::Status(416, None), "read", "ends before"),
        (Fault::End(500), "read", "ends before"),
        (Fault::Compress, "read", "gzip"),
        (Fault::OtherRange, "read", "bytes 7-9/10"),
    ] {
        let server = Server::new(files.clone(), true);
        let mut count = 0;
        server.fault(move |_| {
            count += 1;
            (count == 2).then(|| fault.clone())
        });
        let error = load_all(&server.depot(None)).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(part) && error.to_string().contains("chunk 1"), "{error}");
        assert_eq!(server.0.slept.take(), []);
    }
}

#[test]
fn damage_on_the_way_is_found_before_it_is_used() {
    let (_, files) = model(1);
    // Once: something on the way is to blame, and is passed by.
    let server = Server::new(files.clone(), true);
    server.faults(&[Fault::Flip(5)]);
    load_all(&server.depot(None)).unwrap();
    assert!(server.0.fresh.get() > 0);
    // Always: the file is.
    server.fault(|get| (get.range.start == 2000).then_some(Fault::Flip(900)));
    let store = Rc::new(MemoryStore::default());
    let error = load_all(&server.depot(Some(store.clone()))).unwrap_err();
    assert!(matches!(&error, Error::Checksum { file, chunk: 2 } if file == "first.gguf"), "{error}");
    // What was right was kept, what was wrong was not.
    server.faults(&[]);
    server.asked();
    load_all(&server.depot(Some(store))).unwrap();
    assert!(server.0.asked.borrow().len() > 2);
    // The model was replaced in the middle.
    let (_, other) = model(2);
    let server = Server::new(files.clone(), true);
    let swap = server.clone();
    let mut count = 0;
    server.fault(move |_| {
        count += 1;
        if count == 6 {
            swap.0.files.try_borrow_mut().map(|mut files| *files = other.clone()).unwrap();
        }
        None
    });
    let error = load_all(&server.depot(None)).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[test]
fn damage_in_the_store_is_mended_alone() {
    let (_, files) = model(1);
    let server = Server::new(files, true);
    let store = Rc::new(MemoryStore::default());
    let expected = load_all(&server.depot(Some(store.clone()))).unwrap();
    server.asked();
    for change in [|bytes: &mut Vec<u8>| bytes[7] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(20), Vec::clear] {
        let keys: Vec<String> = store.0.borrow().keys().filter(|key| !key.ends_with(".json")).cloned().collect();
        change(store.0.borrow_mut().get_mut(&keys[3]).unwrap());
        assert_eq!(load_all(&server.depot(Some(store.clone()))).unwrap(), expected);
        assert_eq!(server.asked(), 1, "the damaged chunk");
    }
}

/// A store in which there is room for some bytes only.
struct Small(MemoryStore, usize);

impl Store for Small {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Result<Option<Vec<u8>>>> {
        self.0.get(key)
    }

    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8]) -> Pending<'a, Result<()>> {
        let used: usize = self.0.0.borrow().values().map(Vec::len).sum();
        if used + bytes.len() > self.1 {
            return Box::pin(ready(Err(Error::Write { what: key.into(), why: "no room".into() })));
        }
        self.0.put(key, bytes)
    }

    fn remove<'a>(&'a self, key: &'a str) -> Pending<'a, Result<()>> {
        self.0.remove(key)
    }

    fn list(&self) -> Pending<'_, Result<BTreeMap<String, u64>>> {
        self.0.list()
    }
}

#[test]
fn a_full_store_keeps_nobody_from_drawing() {
    let (_, files) = model(1);
    let server = Server::new(files, true);
    let expected = load_all(&server.depot(None)).unwrap();
    for room in [0, 500, 12_000] {
        let store = Rc::new(Small(MemoryStore::default(), room));
        let depot = server.depot(Some(store.clone()));
        assert!(depot.keeps());
        assert_eq!(load_all(&depot).unwrap(), expected);
        assert!(!depot.keeps());
    }
}

#[test]
fn stored_models_are_listed_and_deleted() {
    let folder = scratch("store");
    let store = Rc::new(FolderStore(folder.join("of/models")));
    assert_eq!(block_on(stored_models(&*store)).unwrap(), []);
    let load = |name: &str, files| {
        let address = format!("http://models.example/{name}");
        load_all(&Server::new(files, true).depot_at(&address, Some(store.clone()))).unwrap();
        address
    };
    let (manifest, files) = model(1);
    let (_, others) = model(2);
    let (one, two) = (load("one", files.clone()), load("two", others));
    let bytes: u64 = manifest.components.iter().map(|component| component.bytes).sum();
    let shared = manifest.component("first").unwrap().bytes;
    let mut listed = block_on(stored_models(&*store)).unwrap();
    listed.sort_by(|a, b| a.address.cmp(&b.address));
    let facts: Vec<_> =
        listed.iter().map(|model| (&model.address, &*model.name, model.bytes, model.stored_bytes)).collect();
    assert_eq!(facts, [(&one, "test-1", bytes, bytes), (&two, "test-2", bytes, bytes)]);

    // Without the origin, the manifest is the one that was stored.
    let nowhere = Server::new(BTreeMap::new(), true);
    assert_eq!(block_on(nowhere.depot_at(&one, Some(store.clone())).manifest()).unwrap(), manifest);
    load_all(&nowhere.depot_at(&one, Some(store.clone()))).unwrap();
    assert_eq!(
        block_on(nowhere.depot_at("http://models.example/three", Some(store.clone())).manifest()).unwrap_err().code(),
        "refused"
    );

    // What another model has, too, stays.
    assert_eq!(block_on(delete_model(&*store, "http://models.example/three")).unwrap_err().code(), "invalid");
    assert_eq!(block_on(delete_model(&*store, &one)).unwrap(), bytes - shared);
    let left = block_on(stored_models(&*store)).unwrap();
    assert_eq!((left.len(), left[0].stored_bytes), (1, bytes));
    let server = Server::new(files, true);
    load_all(&server.depot_at(&one, Some(store.clone()))).unwrap();
    assert_eq!(server.0.sent.get(), bytes - shared + manifest_bytes(&server));
    block_on(delete_model(&*store, &one)).unwrap();
    block_on(delete_model(&*store, &two)).unwrap();
    assert_eq!(block_on(store.list()).unwrap(), BTreeMap::new());
    std::fs::remove_dir_all(folder).unwrap();
}

fn manifest_bytes(server: &Server) -> u64 {
    server.0.files.borrow()["model.json"].len() as u64
}

/// What is stored without being used comes from the store later, and a component that is needed by two is fetched once.
#[test]
fn stocking_fetches_without_loading() {
    let (manifest, files) = model(1);
    let server = Server::new(files, true);
    let depot = server.depot(Some(Rc::new(MemoryStore::default())));
    let component = manifest.component("second").unwrap();
    assert_eq!(depot.stored_bytes(&block_on(depot.sizes()).unwrap(), &manifest, component), 0);
    block_on(stock(&depot, &manifest, component)).unwrap();
    assert_eq!(server.0.sent.get(), component.bytes);
    assert_eq!(depot.stored_bytes(&block_on(depot.sizes()).unwrap(), &manifest, component), component.bytes);
    load_all(&depot).unwrap();
    let rest: u64 = manifest.components.iter().map(|component| component.bytes).sum();
    assert_eq!(server.0.sent.get(), rest + manifest_bytes(&server));
}

/// The same over sockets, by the command line's client.
#[test]
fn loads_survive_a_real_server() {
    use server::Fault as Wrong;
    let (manifest, files) = model(1);
    let expected = load_all(&Depot::new(Rc::new(MemorySource(files.clone())), None)).unwrap();
    let patience = Patience {
        stall: Duration::from_millis(300),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        ..Patience::default()
    };
    let server = server::Server::start(files.clone());
    let load = |faults: Vec<Wrong>, store: Option<Rc<dyn Store>>| {
        let mut faults = VecDeque::from(faults);
        server.forget();
        server.misbehave(move |request| match request.path.ends_with(".json") {
            true => vec![Wrong::Fine],
            false => faults.pop_front().into_iter().collect(),
        });
        load_all(&Depot::new(Rc::new(Http::new(&server.url(), Native::default(), patience)), store))
    };
    let chunks: usize = manifest.components.iter().map(|component| component.sha256.len()).sum();
    let weights = || server.requests().iter().filter(|request| !request.path.ends_with(".json")).count();
    for (fault, more) in [
        (Wrong::Fine, 0),
        (Wrong::Cut(0), 1),
        (Wrong::Cut(700), 1),
        (Wrong::Stall(100, Duration::from_secs(1)), 1),
        (Wrong::Silence(Duration::from_secs(1)), 1),
        (Wrong::Status(503), 1),
        (Wrong::RetryAfter(429, 0), 1),
        (Wrong::Part(300), 1),
        // The client undoes it, as browsers do.
        (Wrong::Gzip, 0),
        (Wrong::Short(100), 1),
        (Wrong::Long(100), 0),
        (Wrong::Flip(1500), 1),
        (Wrong::Redirect(format!("{}/first.gguf", server.url())), 1),
    ] {
        let what = format!("{fault:?}");
        assert_eq!(load(vec![Wrong::Fine, fault], None).expect(&what), expected, "{what}");
        assert_eq!(weights(), chunks + more, "{what}");
    }
    for (fault, code) in [
        (Wrong::Status(403), "refused"),
        (Wrong::Status(404), "refused"),
        (Wrong::Status(416), "read"),
        (Wrong::ContentRange("bytes 7-9/10".into()), "read"),
    ] {
        let what = format!("{fault:?}");
        let error = load(vec![Wrong::Fine, fault], None).expect_err(&what);
        assert_eq!(error.code(), code, "{what}: {error}");
        assert!(error.to_string().contains("chunk 1"), "{error}");
    }
    // What ignores ranges sends each file once.
    assert_eq!(load(vec![Wrong::IgnoreRange; chunks], None).unwrap(), expected);
    assert_eq!(weights(), 2);
    // A store fetches nothing twice.
    let store = Rc::new(MemoryStore::default());
    for requests in [chunks, 0] {
        assert_eq!(load(vec![], Some(store.clone())).unwrap(), expected);
        assert_eq!(weights(), requests);
    }
}

#[test]
fn a_cancel_ends_a_load_at_once() {
    let (manifest, files) = model(1);
    let depot = Depot::new(Rc::new(MemorySource(files)), None);
    let pace = Pace::cancellable();
    let load = pace.race(async {
        pace.cancel();
        // It would never end.
        std::future::pending::<()>().await;
        Arrival::new(&depot, &manifest, &manifest.components[0]).await
    });
    assert_eq!(block_on(load).err().unwrap().code(), "cancelled");
}
