//! Networks come when they are needed and leave when memory is short, and the picture is the same.

use pangu_draw::{
    Result,
    device::{self, DeviceChoice},
    nets::Pace,
    pipeline::{Event, Generator, LoadProgress, Request},
    weights::{
        Depot,
        source::{FolderSource, Pending, Source},
        store::MemoryStore,
    },
};
use pollster::block_on;
use std::{
    cell::RefCell,
    ops::Range,
    rc::Rc,
    task::{Context, Waker},
};

const PARTS: [&str; 4] = ["text", "structure", "texture", "decoder"];

/// Names of files, and bytes read of them.
type Reads = Rc<RefCell<Vec<(String, u64)>>>;

/// The default model as if it were far away; counts the bytes read of each weight file.
struct Remote {
    folder: FolderSource,
    read: Reads,
}

impl Source for Remote {
    fn read<'a>(&'a self, name: &'a str, range: Range<u64>, on_bytes: &'a dyn Fn(u64)) -> Pending<'a, Result<Vec<u8>>> {
        self.read.borrow_mut().push((name.into(), range.end - range.start));
        self.folder.read(name, range, on_bytes)
    }

    fn sibling(&self, folder: &str) -> Rc<dyn Source> {
        self.folder.sibling(folder)
    }

    fn address(&self) -> String {
        "https://models.example/default".into()
    }

    fn is_local(&self) -> bool {
        false
    }
}

fn folder() -> FolderSource {
    FolderSource(format!("{}/www/models/default", env!("CARGO_MANIFEST_DIR")).into())
}

/// A generator of the default model, and what was read of it.
fn remote(memory: u64, keeps: bool) -> (Generator, Reads) {
    let read = Reads::default();
    let source = Remote { folder: folder(), read: Rc::clone(&read) };
    let store = keeps.then(|| Rc::new(MemoryStore::default()) as Rc<_>);
    let device = block_on(device::open(DeviceChoice::Cpu)).unwrap();
    (block_on(Generator::open(Depot::new(Rc::new(source), store), device, memory)).unwrap(), read)
}

fn weights(read: &Reads) -> u64 {
    read.take().iter().filter(|(name, _)| name.ends_with(".gguf")).map(|(_, bytes)| bytes).sum()
}

fn bytes(generator: &Generator, roles: &[&str]) -> u64 {
    roles.iter().map(|role| generator.manifest().component(role).unwrap().bytes).sum()
}

fn request() -> Request {
    Request { prompt: "red apple".into(), seed: 5, steps: Some(3), ..Request::default() }
}

fn draw(generator: &Generator) -> (Vec<u8>, usize) {
    let mut arrivals = 0;
    let mut on_event = |event| arrivals += usize::from(matches!(event, Event::Load(_)));
    let drawing = block_on(generator.generate(&request(), &Pace::free(), &mut on_event)).unwrap();
    (drawing.image.rgba, arrivals)
}

#[test]
fn a_picture_does_not_depend_on_what_leaves_memory() {
    let (roomy, read) = remote(u64::MAX, true);
    let sum = bytes(&roomy, &PARTS);
    let (expected, arrivals) = draw(&roomy);
    assert_eq!((weights(&read), roomy.resident_bytes()), (sum, (sum, sum)));
    assert!(arrivals > 4);
    assert_eq!(draw(&roomy), (expected.clone(), 0));

    // Only what is needed stays: everything comes from the network once, then from the store.
    let (tight, read) = remote(0, true);
    for from_network in [sum, 0] {
        let (picture, _) = draw(&tight);
        assert!(picture == expected);
        assert_eq!(weights(&read), from_network);
        let (_, peak) = tight.resident_bytes();
        let largest = PARTS.iter().map(|role| bytes(&tight, &[role])).max().unwrap();
        assert!(peak <= largest && peak * 10 <= sum * 6, "{peak} of {sum}");
    }

    // Without a store nothing leaves, as it would have to be fetched again.
    let (forgetful, read) = remote(0, false);
    assert!(draw(&forgetful).0 == expected);
    assert_eq!((weights(&read), forgetful.resident_bytes()), (sum, (sum, sum)));
}

#[test]
fn a_plan_fetches_nothing_and_tells_the_truth() {
    for (memory, keeps) in [(u64::MAX, true), (0, true), (0, false)] {
        let (generator, read) = remote(memory, keeps);
        let sum = bytes(&generator, &PARTS);
        let plan = block_on(generator.plan(&request())).unwrap();
        assert_eq!(weights(&read), 0);
        let roles: Vec<&str> = plan.components.iter().map(|component| component.role.as_str()).collect();
        assert_eq!(roles, PARTS);
        assert_eq!((plan.fetch_bytes, plan.stored_bytes, plan.obstacle), (sum, 0, None));
        draw(&generator);
        let (_, peak) = generator.resident_bytes();
        assert!(
            peak <= plan.peak_weight_bytes && plan.peak_weight_bytes <= sum,
            "{peak} of {}",
            plan.peak_weight_bytes
        );
        let plan = block_on(generator.plan(&request())).unwrap();
        assert_eq!((plan.fetch_bytes, plan.stored_bytes), (0, if keeps { sum } else { 0 }));
    }
    // Where memory is short, no more than the largest part is ever there.
    let (generator, _) = remote(0, true);
    let largest = PARTS.iter().map(|role| bytes(&generator, &[role])).max();
    assert_eq!(Some(block_on(generator.plan(&request())).unwrap().peak_weight_bytes), largest);
    // A picture to begin with takes the encoder, too.
    let (generator, _) = remote(u64::MAX, true);
    let image = pangu_draw::Image::new(1, 1, vec![0; 4]).unwrap();
    let plan = block_on(generator.plan(&Request { init: Some(image), ..request() })).unwrap();
    assert_eq!(plan.fetch_bytes, bytes(&generator, &PARTS) + bytes(&generator, &["encoder"]));
}

#[test]
fn a_load_brings_what_the_first_step_needs() {
    let (generator, read) = remote(u64::MAX, true);
    let mut last = None;
    let pace = Pace::free();
    block_on(generator.load(&request(), &pace, &mut |progress| last = Some(progress))).unwrap();
    let first = bytes(&generator, &["text", "structure"]);
    assert_eq!(weights(&read), first);
    assert_eq!(last.map(|progress| (progress.loaded_bytes, progress.total_bytes)), Some((first, first)));
    block_on(generator.prepare(&request(), &pace, &mut |_| ())).unwrap();
    assert_eq!(weights(&read), bytes(&generator, &["texture", "decoder"]));
    // Where memory is short, what is needed later is fetched as far as the store.
    let (generator, read) = remote(0, true);
    block_on(generator.prepare(&request(), &pace, &mut |_| ())).unwrap();
    assert_eq!((weights(&read), generator.resident_bytes()), (bytes(&generator, &PARTS), (0, 0)));
    draw(&generator);
    assert_eq!(weights(&read), 0);
}

/// Loads what `request` needs beside `other`, a load that is under way; how far the load then says to have come.
fn load_beside(generator: &Generator, request: &Request, other: impl Future<Output = Result<()>>) -> Option<[u64; 2]> {
    let mut last = None;
    let mut on_progress = |progress: LoadProgress| last = Some([progress.loaded_bytes, progress.total_bytes]);
    let pace = Pace::free();
    let (other, load) =
        block_on(futures_util::future::join(other, generator.prepare(request, &pace, &mut on_progress)));
    other.unwrap();
    load.unwrap();
    last
}

#[test]
fn a_load_ends_whole_whatever_comes_beside_it() {
    let pace = Pace::free();
    let image = pangu_draw::Image::new(1, 1, vec![0; 4]).unwrap();
    let more = Request { init: Some(image), ..request() };
    for polls in 0.. {
        let (generator, _) = remote(u64::MAX, true);
        let mut nothing = |_| ();
        let mut other = Box::pin(generator.prepare(&more, &pace, &mut nothing));
        let mut context = Context::from_waker(Waker::noop());
        if (0..polls).any(|_| other.as_mut().poll(&mut context).is_ready()) {
            assert!(polls > PARTS.len(), "it was interrupted at every chunk");
            break;
        }
        // The other load goes on, or it is dropped with what it has.
        let goes_on = polls % 2 == 0;
        let last = if goes_on {
            load_beside(&generator, &more, other)
        } else {
            drop(other);
            load_beside(&generator, &request(), async { Ok(()) })
        };
        if let Some([loaded, total]) = last {
            assert_eq!(loaded, total, "beside another after {polls} polls, which goes on: {goes_on}");
        }
    }
}
