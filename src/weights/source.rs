//! Where a model folder lies: in memory, on disk, or on a web server.

use super::http::Response;
use crate::{Error, Result};
use std::{collections::BTreeMap, future::Future, ops::Range, pin::Pin, rc::Rc};

/// What is not here yet.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A file that is read from front to back, and what serves the reads that follow: a response that is still coming, if there is a
/// server. Dropping it ends that.
pub struct Reading {
    /// Name of the file.
    pub name: String,
    /// How far reads are expected to go on.
    pub until: u64,
    /// What came of a read that failed.
    pub part: Vec<u8>,
    pub(super) response: Option<Response>,
}

impl Reading {
    /// Of the file called `name`, of which no more is expected to be read than what is asked for.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), until: 0, part: Vec::new(), response: None }
    }

    /// Whether more is coming.
    pub fn goes_on(&self) -> bool {
        self.response.is_some()
    }

    /// Ends what is still coming.
    pub fn end(&mut self) {
        self.response = None;
    }
}

/// The files of a model folder.
pub trait Source {
    /// Reads `range` of the file called `name`; less only where the file ends within it. `on_bytes` hears, as they arrive, how
    /// many bytes of this read are here.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Refused`].
    fn read<'a>(&'a self, name: &'a str, range: Range<u64>, on_bytes: &'a dyn Fn(u64)) -> Pending<'a, Result<Vec<u8>>>;

    /// The same of a file that is read from front to back: what one read leaves of a response, the next one takes up.
    fn read_on<'a>(
        &'a self,
        file: &'a mut Reading,
        range: Range<u64>,
        on_bytes: &'a dyn Fn(u64),
    ) -> Pending<'a, Result<Vec<u8>>> {
        self.read(&file.name, range, on_bytes)
    }

    /// The model folder called `folder` beside this one.
    fn sibling(&self, folder: &str) -> Rc<dyn Source>;

    /// Where the folder is, for people and as a name for what was stored of it.
    fn address(&self) -> String;

    /// Whether reading costs no network.
    fn is_local(&self) -> bool {
        true
    }

    /// Called after bytes turned out to be damaged: whatever lies between here and the origin is not to be trusted again.
    fn distrust(&self) {}
}

/// The address of `folder` beside the folder at `base`.
#[cfg(any(feature = "cli", target_arch = "wasm32"))]
pub(crate) fn sibling_url(base: &str, folder: &str) -> String {
    // A server's root has nothing beside it.
    let parent = base.trim_end_matches('/').rsplit_once('/').map(|(parent, _)| parent);
    let parent = parent.filter(|parent| !parent.ends_with('/')).unwrap_or(base.trim_end_matches('/'));
    format!("{parent}/{folder}")
}

/// Files held in memory, by name; those of a folder beside it are called `../folder/name`.
#[derive(Debug, Clone, Default)]
pub struct MemorySource(pub BTreeMap<String, Vec<u8>>);

impl Source for MemorySource {
    fn read<'a>(&'a self, name: &'a str, range: Range<u64>, on_bytes: &'a dyn Fn(u64)) -> Pending<'a, Result<Vec<u8>>> {
        let found =
            self.0.get(name).ok_or_else(|| Error::Read { what: name.into(), why: "there is no such file".into() });
        let part = found.map(|bytes| {
            let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            bytes[within(range.start)..within(range.end)].to_vec()
        });
        on_bytes(part.as_ref().map_or(0, Vec::len) as u64);
        Box::pin(std::future::ready(part))
    }

    fn sibling(&self, folder: &str) -> Rc<dyn Source> {
        let prefix = format!("../{folder}/");
        let files = self.0.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(&prefix)?.into(), bytes.clone())));
        Rc::new(Self(files.collect()))
    }

    fn address(&self) -> String {
        "memory".into()
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::*;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use super::*;
    use std::{
        fs::File,
        io::{ErrorKind, Read, Seek, SeekFrom},
        path::PathBuf,
    };

    /// A folder on disk.
    #[derive(Debug, Clone)]
    pub struct FolderSource(pub PathBuf);

    impl FolderSource {
        fn read_now(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
            let path = self.0.join(name);
            let read = || {
                let mut file = File::open(&path)?;
                file.seek(SeekFrom::Start(range.start))?;
                let left = file.metadata()?.len().saturating_sub(range.start).min(range.end - range.start);
                let mut bytes = Vec::with_capacity(usize::try_from(left).map_err(|_| ErrorKind::OutOfMemory)?);
                file.take(range.end - range.start).read_to_end(&mut bytes)?;
                Ok(bytes)
            };
            read().map_err(|error: std::io::Error| Error::Read {
                what: path.display().to_string(),
                why: error.to_string(),
            })
        }
    }

    impl Source for FolderSource {
        fn read<'a>(
            &'a self,
            name: &'a str,
            range: Range<u64>,
            on_bytes: &'a dyn Fn(u64),
        ) -> Pending<'a, Result<Vec<u8>>> {
            let read = self.read_now(name, range);
            on_bytes(read.as_ref().map_or(0, Vec::len) as u64);
            Box::pin(std::future::ready(read))
        }

        fn sibling(&self, folder: &str) -> Rc<dyn Source> {
            Rc::new(Self(self.0.join("..").join(folder)))
        }

        fn address(&self) -> String {
            self.0.display().to_string()
        }
    }
}
