//! Where verified chunks are kept, so that they are fetched once.
//!
//! A chunk is kept under its SHA-256: the name says what the content must be, models that share a file share its chunks, and
//! what is damaged is replaced alone. Of a chunk that could not be fetched to its end, the beginning is kept. Beside the chunks
//! lies one record a model, under the hash of its address, that tells what the chunks are for.

use super::{manifest::Manifest, source::Pending};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    any::Any,
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    future::{poll_fn, ready},
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Ending of a record's key.
const RECORD: &str = ".json";
/// Ending of the key of a chunk's beginning.
const BEGUN: &str = ".begun";

/// A key held for this user alone, until it is dropped.
pub type Lock = Box<dyn Any>;

/// Bytes by key: 64 hexadecimal digits, or these and an ending.
pub trait Store {
    /// The bytes under `key`, whatever has become of them since they were put there.
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Result<Option<Vec<u8>>>>;
    /// Puts `bytes` under `key`, wholly or not at all.
    ///
    /// # Errors
    /// [`Error::Write`], e.g. where there is no room.
    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8]) -> Pending<'a, Result<()>>;
    /// Removes what is under `key`, if anything.
    fn remove<'a>(&'a self, key: &'a str) -> Pending<'a, Result<()>>;
    /// All keys, and the lengths of what is under them.
    fn list(&self) -> Pending<'_, Result<BTreeMap<String, u64>>>;
    /// Waits until nobody else fetches what belongs under `key`: whoever called this first has the lock first, even if others
    /// looked at their answers before. Unless somebody else may write to the store, that is a matter of this thread.
    fn lock(&self, key: &str) -> Pending<'static, Lock> {
        let place = Place::new(key);
        Box::pin(async move {
            poll_fn(|context| place.is_first(context)).await;
            Box::new(place) as Lock
        })
    }
}

thread_local! {
    /// By key, who has the lock and behind him those who wait for it.
    static QUEUES: RefCell<BTreeMap<String, VecDeque<Rc<Waiting>>>> = RefCell::default();
}

/// Whom to tell when it is his turn.
type Waiting = RefCell<Option<Waker>>;

/// A place in the queue for a lock; whose place is the first has it.
struct Place {
    key: String,
    waiting: Rc<Waiting>,
}

impl Place {
    fn new(key: &str) -> Self {
        let waiting = Rc::<Waiting>::default();
        QUEUES.with_borrow_mut(|queues| queues.entry(key.into()).or_default().push_back(waiting.clone()));
        Self { key: key.into(), waiting }
    }

    fn is_first(&self, context: &mut Context<'_>) -> Poll<()> {
        let first = QUEUES.with_borrow(|queues| queues.get(&self.key).and_then(|queue| queue.front()).cloned());
        if first.is_none_or(|first| Rc::ptr_eq(&first, &self.waiting)) {
            return Poll::Ready(());
        }
        self.waiting.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = QUEUES.with_borrow_mut(|queues| {
            let queue = queues.get_mut(&self.key)?;
            queue.retain(|waiting| !Rc::ptr_eq(waiting, &self.waiting));
            let next = queue.front().cloned();
            if next.is_none() {
                queues.remove(&self.key);
            }
            next
        });
        if let Some(waker) = next.and_then(|next| next.take()) {
            waker.wake();
        }
    }
}

/// A model of which something is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredModel {
    /// Where it comes from.
    pub address: String,
    /// Its short name.
    pub name: String,
    /// English name.
    pub title_en: String,
    /// Chinese name.
    pub title_zh: String,
    /// Bytes stored of its files; those that it shares count for each model.
    pub stored_bytes: u64,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// What is kept of a model beside its chunks.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    address: String,
    name: String,
    title_en: String,
    title_zh: String,
    bytes: u64,
    chunks: Vec<String>,
    /// `model.json`, for when the origin cannot be reached.
    manifest: String,
}

impl Record {
    fn key(address: &str) -> String {
        hex::encode(Sha256::digest(address)) + RECORD
    }
}

/// Key of the beginning of the chunk under `key`.
pub(super) fn begun(key: &str) -> String {
    format!("{key}{BEGUN}")
}

/// Notes that the chunks of `manifest` are those of the model at `address`.
///
/// # Errors
/// As [`Store::put`].
pub async fn remember(store: &dyn Store, address: &str, manifest: &Manifest) -> Result<()> {
    let record = Record {
        address: address.into(),
        name: manifest.name.clone(),
        title_en: manifest.title.en.clone(),
        title_zh: manifest.title.zh.clone(),
        bytes: manifest.components.iter().map(|component| component.bytes).sum(),
        chunks: manifest.components.iter().flat_map(|component| component.sha256.clone()).collect(),
        manifest: String::from_utf8(manifest.to_json()?).expect("serde_json writes UTF-8"),
    };
    let json = serde_json::to_vec(&record).expect("a record is plain data");
    let key = Record::key(address);
    match store.get(&key).await? {
        Some(bytes) if bytes == json => Ok(()),
        _ => store.put(&key, &json).await,
    }
}

/// The manifest that was remembered of the model at `address`.
///
/// # Errors
/// As [`Store::get`]; [`Error::Corrupt`] if it was damaged since.
pub async fn recall(store: &dyn Store, address: &str) -> Result<Option<Manifest>> {
    let Some(bytes) = store.get(&Record::key(address)).await? else {
        return Ok(None);
    };
    let damaged = |error: serde_json::Error| Error::Corrupt { what: Record::key(address), why: error.to_string() };
    let record: Record = serde_json::from_slice(&bytes).map_err(damaged)?;
    Manifest::from_json(record.manifest.as_bytes()).map(Some)
}

/// The models of which something is stored.
///
/// # Errors
/// As [`Store::list`].
pub async fn stored_models(store: &dyn Store) -> Result<Vec<StoredModel>> {
    let (records, sizes) = contents(store).await?;
    let models = records.into_values().map(|record| StoredModel {
        stored_bytes: record.chunks.iter().filter_map(|chunk| sizes.get(chunk)).sum(),
        address: record.address,
        name: record.name,
        title_en: record.title_en,
        title_zh: record.title_zh,
        bytes: record.bytes,
    });
    Ok(models.collect())
}

/// Removes the model at `address`, and every chunk that no other model has; answers how many bytes that made free.
///
/// # Errors
/// As [`Store::remove`]; [`Error::Invalid`] if there is no such model.
pub async fn delete_model(store: &dyn Store, address: &str) -> Result<u64> {
    let (mut records, sizes) = contents(store).await?;
    let key = Record::key(address);
    if records.remove(&key).is_none() {
        return Err(Error::Invalid { parameter: "model", why: format!("nothing is stored of {address}") });
    }
    // The record goes first: interrupted here, the chunks belong to nobody and go with the next model that is deleted.
    store.remove(&key).await?;
    let mut freed = 0;
    for (key, len) in sizes {
        let chunk = key.strip_suffix(BEGUN).unwrap_or(&key);
        if !records.values().any(|record| record.chunks.iter().any(|used| used == chunk)) {
            store.remove(&key).await?;
            freed += len;
        }
    }
    Ok(freed)
}

/// Records by key, and the lengths of all else.
async fn contents(store: &dyn Store) -> Result<(BTreeMap<String, Record>, BTreeMap<String, u64>)> {
    let (mut records, mut sizes) = (BTreeMap::new(), BTreeMap::new());
    for (key, len) in store.list().await? {
        if !key.ends_with(RECORD) {
            sizes.insert(key, len);
        } else if let Some(bytes) = store.get(&key).await?
            && let Ok(record) = serde_json::from_slice(&bytes)
        {
            records.insert(key, record);
        }
    }
    Ok((records, sizes))
}

/// A store that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryStore(pub RefCell<BTreeMap<String, Vec<u8>>>);

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Result<Option<Vec<u8>>>> {
        Box::pin(ready(Ok(self.0.borrow().get(key).cloned())))
    }

    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8]) -> Pending<'a, Result<()>> {
        self.0.borrow_mut().insert(key.into(), bytes.into());
        Box::pin(ready(Ok(())))
    }

    fn remove<'a>(&'a self, key: &'a str) -> Pending<'a, Result<()>> {
        self.0.borrow_mut().remove(key);
        Box::pin(ready(Ok(())))
    }

    fn list(&self) -> Pending<'_, Result<BTreeMap<String, u64>>> {
        let sizes = self.0.borrow().iter().map(|(key, bytes)| (key.clone(), bytes.len() as u64)).collect();
        Box::pin(ready(Ok(sizes)))
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::FolderStore;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use super::*;
    use std::{fs, io, path::PathBuf};

    /// Ending of a file that is being written.
    const UNFINISHED: &str = "part";

    /// A folder on disk, made when something is put there.
    #[derive(Debug, Clone)]
    pub struct FolderStore(pub PathBuf);

    impl FolderStore {
        fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
            fs::create_dir_all(&self.0)?;
            let part = self.0.join(format!("{key}.{}.{UNFINISHED}", std::process::id()));
            fs::write(&part, bytes)?;
            fs::rename(&part, self.0.join(key)).inspect_err(|_| {
                let _ = fs::remove_file(&part);
            })
        }

        fn sizes(&self) -> io::Result<BTreeMap<String, u64>> {
            let mut sizes = BTreeMap::new();
            for entry in fs::read_dir(&self.0)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string()
                    && !name.ends_with(UNFINISHED)
                {
                    sizes.insert(name, entry.metadata()?.len());
                }
            }
            Ok(sizes)
        }

        fn path(&self, key: &str) -> String {
            self.0.join(key).display().to_string()
        }
    }

    /// What is not there is no error.
    fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    impl Store for FolderStore {
        fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Result<Option<Vec<u8>>>> {
            let read = found(fs::read(self.0.join(key)));
            let read = read.map_err(|error| Error::Read { what: self.path(key), why: error.to_string() });
            Box::pin(ready(read))
        }

        fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8]) -> Pending<'a, Result<()>> {
            let written = self.write(key, bytes);
            let written = written.map_err(|error| Error::Write { what: self.path(key), why: error.to_string() });
            Box::pin(ready(written))
        }

        fn remove<'a>(&'a self, key: &'a str) -> Pending<'a, Result<()>> {
            let removed = found(fs::remove_file(self.0.join(key)));
            let removed = removed.map_err(|error| Error::Write { what: self.path(key), why: error.to_string() });
            Box::pin(ready(removed.map(|_| ())))
        }

        fn list(&self) -> Pending<'_, Result<BTreeMap<String, u64>>> {
            let listed = found(self.sizes()).map(Option::unwrap_or_default);
            let listed = listed.map_err(|error| Error::Read { what: self.path(""), why: error.to_string() });
            Box::pin(ready(listed))
        }
    }
}
