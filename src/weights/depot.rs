//! A model folder together with the store of what has arrived of it.

use super::{
    manifest::{Component, Manifest},
    source::{Pending, Reading, Source},
    store::{self, Lock, Store},
    traffic::Traffic,
};
use crate::{Error, Result};
use std::{
    cell::Cell,
    collections::BTreeMap,
    ops::Range,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

/// Where chunks come from: the store, else the source, and then they are stored.
#[derive(Clone)]
pub struct Depot {
    source: Rc<dyn Source>,
    store: Option<Rc<dyn Store>>,
    traffic: Rc<Traffic>,
    /// Whether the store would not take a chunk.
    full: Rc<Cell<bool>>,
}

impl Depot {
    /// The folder in `source`; what arrives is kept in `store`.
    pub fn new(source: Rc<dyn Source>, store: Option<Rc<dyn Store>>) -> Self {
        Self { source, store, traffic: Rc::default(), full: Rc::default() }
    }

    /// The folder beside this one.
    pub fn sibling(&self, folder: &str) -> Self {
        Self { source: self.source.sibling(folder), ..self.clone() }
    }

    /// Where the folder is.
    pub fn address(&self) -> String {
        self.source.address()
    }

    /// What arrives from this folder and those beside it.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Whether what has arrived can be had again without the network.
    pub fn keeps(&self) -> bool {
        self.source.is_local() || self.store.is_some() && !self.full.get()
    }

    /// Reads the folder's manifest, and notes in the store what its chunks are for. Where the source cannot be reached, the
    /// manifest that was stored serves.
    ///
    /// # Errors
    /// As [`Manifest::load`].
    pub async fn manifest(&self) -> Result<Manifest> {
        let Some(store) = &self.store else {
            return Manifest::load(&*self.source).await;
        };
        let address = self.address();
        match Manifest::load(&*self.source).await {
            Ok(manifest) => {
                // A store that is full, or broken, must not keep anybody from drawing.
                if let Err(error) = store::remember(&**store, &address, &manifest).await {
                    log::warn!("{error}");
                    self.full.set(true);
                }
                Ok(manifest)
            }
            Err(error @ (Error::Read { .. } | Error::Refused { .. })) => {
                store::recall(&**store, &address).await.ok().flatten().ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The folder that a component of this one lies in.
    pub(super) fn of(&self, component: &Component) -> Self {
        component.folder.as_ref().map_or_else(|| self.clone(), |folder| self.sibling(folder))
    }

    /// What is to blame for a checksum that does not match: the file, or a model that was replaced meanwhile.
    async fn blamed(&self, component: &Component, error: Error) -> Error {
        let same = |there: &Component| there.file == component.file && there.sha256 == component.sha256;
        match Manifest::load(&*self.source).await {
            // A component of another model's manifest lies here under its own role.
            Ok(now) if now.components.iter().any(same) => error,
            Ok(_) => Error::Changed { what: self.address() },
            Err(_) => error,
        }
    }

    /// Keys and lengths of all that is stored.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn sizes(&self) -> Result<BTreeMap<String, u64>> {
        match &self.store {
            Some(store) => store.list().await,
            None => Ok(BTreeMap::new()),
        }
    }

    /// Bytes of `component` that need no network where `sizes` are stored, by the lengths alone.
    pub fn stored_bytes(&self, sizes: &BTreeMap<String, u64>, manifest: &Manifest, component: &Component) -> u64 {
        if self.source.is_local() {
            return component.bytes;
        }
        let chunks = component.sha256.iter().zip(manifest.chunks(component));
        let stored = chunks.map(|(sum, range)| {
            let len = range.end - range.start;
            let beginning = || sizes.get(&store::begun(sum)).filter(|beginning| **beginning < len);
            sizes.get(sum).filter(|stored| **stored == len).or_else(beginning).copied().unwrap_or(0)
        });
        stored.sum()
    }
}

#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
impl Depot {
    /// Opens a model folder: a URL (`http://` or `https://`), of which what arrives is kept in `store`, or a path.
    pub fn open(location: &str, store: Rc<dyn Store>) -> Self {
        use super::{
            http::{Http, Native, Patience},
            source::FolderSource,
        };
        if location.starts_with("http://") || location.starts_with("https://") {
            return Self::new(Rc::new(Http::new(location, Native::default(), Patience::default())), Some(store));
        }
        Self::new(Rc::new(FolderSource(location.into())), None)
    }
}

/// Says in an error which chunk was read.
fn named(error: Error, index: usize, range: &Range<u64>) -> Error {
    let chunk = |what: String| format!("{what}, chunk {index} (bytes {} to {})", range.start, range.end);
    match error {
        Error::Read { what, why } => Error::Read { what: chunk(what), why },
        Error::Refused { what, status } => Error::Refused { what: chunk(what), status },
        error => error,
    }
}

/// Lets whoever waits for several things look at all of them: what blocks is ready at once and would never let go.
pub(crate) fn turn() -> impl Future<Output = ()> {
    let mut turned = false;
    std::future::poll_fn(move |context: &mut Context<'_>| {
        if std::mem::replace(&mut turned, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Runs `work`, and tells `on_progress` of what arrives meanwhile.
pub async fn watched<T>(
    traffic: &Traffic,
    on_progress: &mut dyn FnMut(super::LoadProgress),
    work: impl Future<Output = T>,
) -> T {
    let (mut work, mut seen) = (pin!(work), traffic.version());
    std::future::poll_fn(|context| {
        let polled = Pin::new(&mut work).poll(context);
        if let Some(progress) = traffic.news(&mut seen) {
            on_progress(progress);
        }
        polled
    })
    .await
}

/// The chunks of a component in order, verified.
///
/// A chunk that the store has damaged is fetched again, alone. What comes damaged from the source is asked for once more,
/// past all that lies between here and the origin.
pub(super) struct Chunks {
    depot: Depot,
    component: Component,
    ranges: Vec<Range<u64>>,
    /// Index of the next one.
    next: usize,
    file: Reading,
    /// The next one's lock, where it is still coming: nobody else is to fetch it meanwhile.
    lock: Option<Pending<'static, Lock>>,
    /// What was stored when that was first asked.
    sizes: Option<BTreeMap<String, u64>>,
}

impl Chunks {
    pub fn new(depot: &Depot, manifest: &Manifest, component: &Component) -> Self {
        Self {
            depot: depot.of(component),
            component: component.clone(),
            ranges: manifest.chunks(component).collect(),
            next: 0,
            file: Reading::new(&component.file),
            lock: None,
            sizes: None,
        }
    }

    /// The next chunk; none after the last.
    ///
    /// # Errors
    /// As [`stock`].
    pub async fn next(&mut self) -> Option<Result<Vec<u8>>> {
        let index = self.next;
        self.next += 1;
        let range = self.ranges.get(index)?.clone();
        let bytes = self.chunk(index, range).await;
        turn().await;
        Some(bytes)
    }

    /// Waits for the rest of the chunks, to no other end than that they are verified and stored.
    pub async fn drain(mut self) -> Result<()> {
        while let Some(chunk) = self.next().await {
            drop(chunk?);
        }
        Ok(())
    }

    async fn chunk(&mut self, index: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let Some(store) = self.depot.store.clone() else {
            self.file.until = self.component.bytes;
            return self.fetch(index, range, &mut bytes).await.map(|()| bytes);
        };
        let key = self.key(index).to_owned();
        let lock = match self.lock.take() {
            Some(lock) => lock,
            None => match self.stored(&*store, index).await {
                Ok(Some(bytes)) => return Ok(bytes),
                _ => store.lock(&key),
            },
        };
        let lock = lock.await;
        // Somebody else may have fetched it meanwhile. What is not right now, is not because somebody is writing it.
        match self.stored(&*store, index).await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(_) => {
                log::warn!("chunk {index} of {} was damaged in the store; it is fetched again", self.component.file);
                let _ = store.remove(&key).await;
            }
        }
        if !self.file.goes_on() {
            self.file.until = self.missing_until(index).await;
        }
        let begun = store::begun(&key);
        let beginning = store.get(&begun).await.ok().flatten();
        let has_begun = beginning.is_some();
        bytes = beginning.filter(|bytes| (bytes.len() as u64) < range.end - range.start).unwrap_or_default();
        if let Err(error) = self.fetch(index, range, &mut bytes).await {
            // What came of it serves another time. Should it not be stored, nothing is lost but that.
            let _ = match bytes.is_empty() {
                true => store.remove(&begun).await,
                false => store.put(&begun, &bytes).await,
            };
            return Err(error);
        }
        if !self.depot.full.get()
            && let Err(error) = store.put(&key, &bytes).await
        {
            log::warn!("{error}; what arrives from now on is not stored");
            self.depot.full.set(true);
        }
        if has_begun {
            let _ = store.remove(&begun).await;
        }
        if self.file.goes_on() {
            // Whoever waits for this one and finds it stored then waits for the next one, too.
            self.lock = self.component.sha256.get(index + 1).map(|key| store.lock(key));
        }
        drop(lock);
        Ok(bytes)
    }

    fn key(&self, index: usize) -> &str {
        self.component.sha256.get(index).map(String::as_str).unwrap_or_default()
    }

    /// Where the chunks end that are missing in the store, from the one at `index` on.
    async fn missing_until(&mut self, index: usize) -> u64 {
        if self.sizes.is_none() {
            // What cannot be listed is fetched.
            self.sizes = Some(self.depot.sizes().await.unwrap_or_default());
        }
        let (sizes, component) = (self.sizes.as_ref(), &self.component);
        let chunks = component.sha256.iter().zip(&self.ranges).skip(index + 1);
        let missing = chunks.take_while(|(sum, range)| {
            sizes.and_then(|sizes| sizes.get(*sum)).is_none_or(|len| *len != range.end - range.start)
        });
        missing.last().map_or(self.ranges[index].end, |(_, range)| range.end)
    }

    /// What the store has of a chunk; an error if it cannot be read or is not what it should be.
    async fn stored(&self, store: &dyn Store, index: usize) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = store.get(self.key(index)).await? else {
            return Ok(None);
        };
        self.component.verify(index, &bytes)?;
        self.depot.traffic.arrived(&self.component, index, bytes.len() as u64, bytes.len() as u64);
        Ok(Some(bytes))
    }

    /// Completes `bytes`, the beginning of a chunk. Where that fails, they are what another time can begin with.
    async fn fetch(&mut self, index: usize, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        let Self { depot, component, file, .. } = self;
        let len = range.end - range.start;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let had = bytes.len() as u64;
            let on_bytes = |more| depot.traffic.arrived(component, index, had + more, had);
            match depot.source.read_on(file, range.start + had..range.end, &on_bytes).await {
                Ok(rest) if bytes.is_empty() => *bytes = rest,
                Ok(rest) => bytes.extend(rest),
                Err(error) => {
                    bytes.append(&mut file.part);
                    return Err(named(error, index, &range));
                }
            }
            if (bytes.len() as u64) < len {
                bytes.clear();
                let what = format!("{}, chunk {index}", component.file);
                return Err(Error::Read { what, why: format!("the file ends before its {} bytes", component.bytes) });
            }
            let Err(error) = component.verify(index, bytes) else {
                on_bytes(len - had);
                return Ok(());
            };
            bytes.clear();
            if attempt == 2 {
                return Err(depot.blamed(component, error).await);
            }
            depot.traffic.arrived(component, index, 0, 0);
            file.end();
            depot.source.distrust();
        }
    }
}

/// Brings a component into the store, and nowhere else, unless it is at hand anyway.
///
/// # Errors
/// [`Error::Read`] and [`Error::Refused`], both naming the chunk; [`Error::Checksum`] if the source has other bytes,
/// [`Error::Changed`] if it has another model now.
pub fn stock(depot: &Depot, manifest: &Manifest, component: &Component) -> Pending<'static, Result<()>> {
    let chunks = Chunks::new(depot, manifest, component);
    if chunks.depot.source.is_local() {
        return Box::pin(std::future::ready(Ok(())));
    }
    Box::pin(chunks.drain())
}
