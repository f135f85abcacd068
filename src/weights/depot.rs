//! A model folder together with the store of what has arrived of it.

use super::{
    manifest::{Component, Manifest},
    source::{Pending, Source},
    store::{self, Store},
    traffic::Traffic,
};
use crate::{Error, Result};
use futures_util::StreamExt;
use std::{
    cell::Cell,
    collections::BTreeMap,
    ops::Range,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

/// Hands out verified chunks: from the store, else from the source, and then they are stored.
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

    /// One chunk of `component`, verified.
    ///
    /// A chunk that the store has damaged is fetched again, alone. What comes damaged from the source is asked for once more,
    /// past all that lies between here and the origin.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Refused`], both naming the chunk; [`Error::Checksum`] if the source has other bytes.
    pub async fn chunk(&self, component: &Component, index: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = self.chunk_now(component, index, range).await;
        turn().await;
        bytes
    }

    async fn chunk_now(&self, component: &Component, index: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let key = component.sha256.get(index).map(String::as_str).unwrap_or_default();
        let Some(store) = self.store.as_deref() else {
            return self.fetch(component, index, range).await;
        };
        if let Ok(Some(bytes)) = self.stored(store, key, component, index).await {
            return Ok(bytes);
        }
        let _lock = store.lock(key).await;
        // Somebody else may have fetched it meanwhile. What is not right now, is not because somebody is writing it.
        match self.stored(store, key, component, index).await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(_) => {
                log::warn!("chunk {index} of {} was damaged in the store; it is fetched again", component.file);
                let _ = store.remove(key).await;
            }
        }
        let bytes = self.fetch(component, index, range).await?;
        if !self.full.get()
            && let Err(error) = store.put(key, &bytes).await
        {
            log::warn!("{error}; what arrives from now on is not stored");
            self.full.set(true);
        }
        Ok(bytes)
    }

    /// What the store has under `key`; an error if it cannot be read or is not what it should be.
    async fn stored(
        &self,
        store: &dyn Store,
        key: &str,
        component: &Component,
        index: usize,
    ) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = store.get(key).await? else {
            return Ok(None);
        };
        component.verify(index, &bytes)?;
        self.traffic.arrived(component, index, bytes.len() as u64, true);
        Ok(Some(bytes))
    }

    async fn fetch(&self, component: &Component, index: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let on_bytes = |bytes| self.traffic.arrived(component, index, bytes, false);
            let read = self.source.read(&component.file, range.clone(), &on_bytes).await;
            let bytes = read.map_err(|error| named(error, index, &range))?;
            if bytes.len() as u64 != range.end - range.start {
                let what = format!("{}, chunk {index}", component.file);
                return Err(Error::Read { what, why: format!("the file ends before its {} bytes", component.bytes) });
            }
            match component.verify(index, &bytes) {
                Ok(()) => {
                    on_bytes(bytes.len() as u64);
                    return Ok(bytes);
                }
                Err(_) if attempt == 1 => {
                    on_bytes(0);
                    self.source.distrust();
                }
                Err(error) => return Err(self.blamed(component, error).await),
            }
        }
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
        let stored = chunks.filter_map(|(sum, range)| {
            let len = range.end - range.start;
            (sizes.get(sum) == Some(&len)).then_some(len)
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
fn turn() -> impl Future<Output = ()> {
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

/// Chunks of a component in order, two of them on their way at once.
pub(super) fn chunks(depot: Depot, manifest: &Manifest, component: &Component) -> Chunks {
    let component = Rc::new(component.clone());
    let ranges: Vec<_> = manifest.chunks(&component).enumerate().collect();
    let fetch = move |(index, range)| {
        let (depot, component) = (depot.clone(), component.clone());
        async move { depot.chunk(&component, index, range).await }
    };
    Box::pin(futures_util::stream::iter(ranges).map(fetch).buffered(2))
}

/// See [`chunks`].
pub(super) type Chunks = Pin<Box<dyn futures_util::Stream<Item = Result<Vec<u8>>>>>;

/// Waits for the rest of the chunks, to no other end than that they are verified and stored.
pub(super) async fn drain(mut chunks: Chunks) -> Result<()> {
    while let Some(chunk) = chunks.next().await {
        drop(chunk?);
    }
    Ok(())
}

/// Brings a component into the store, and nowhere else, unless it is at hand anyway.
///
/// # Errors
/// As [`Depot::chunk`].
pub fn stock(depot: &Depot, manifest: &Manifest, component: &Component) -> Pending<'static, Result<()>> {
    let depot = depot.of(component);
    if depot.source.is_local() {
        return Box::pin(std::future::ready(Ok(())));
    }
    Box::pin(drain(chunks(depot, manifest, component)))
}
