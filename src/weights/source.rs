//! Where a model folder lies: in memory, on disk, or on a web server.

use super::{gguf::GgufFile, manifest::Manifest};
use crate::{Error, Result};
use std::{collections::BTreeMap, future::Future, ops::Range, pin::Pin};

/// A read in flight.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + 'a>>;

/// The files of a model folder.
///
/// A file is read from its start in consecutive ranges, so a source that speaks to a server may answer them all out of
/// one response.
pub trait Source {
    /// Reads `range` of the file called `name`; less only where the file ends within it.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn read<'a>(&'a self, name: &'a str, range: Range<u64>) -> Reading<'a>;

    /// The model folder called `folder` beside this one.
    fn sibling<'a>(&'a self, folder: &str) -> Box<dyn Source + 'a>;
}

/// The address of `folder` beside the folder at `base`.
#[cfg(any(feature = "cli", target_arch = "wasm32"))]
pub(crate) fn sibling_url(base: &str, folder: &str) -> String {
    // A server's root has nothing beside it.
    let parent = base.trim_end_matches('/').rsplit_once('/').map(|(parent, _)| parent);
    let parent = parent.filter(|parent| !parent.ends_with('/')).unwrap_or(base.trim_end_matches('/'));
    format!("{parent}/{folder}")
}

/// Reads the component of that role chunk by chunk, and verifies each before it is used.
///
/// `on_progress` gets the number of bytes that are here and verified, after each chunk; its error ends the load.
///
/// # Errors
/// [`Error::Read`], [`Error::Checksum`], [`Error::Corrupt`], [`Error::Unsupported`], and what `on_progress` answers.
pub async fn load_component(
    source: &dyn Source,
    manifest: &Manifest,
    role: &str,
    on_progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<GgufFile> {
    let component = manifest.component(role)?;
    let elsewhere = component.folder.as_ref().map(|folder| source.sibling(folder));
    let source = elsewhere.as_deref().unwrap_or(source);
    let failed = |why: String| Error::Read { what: component.file.clone(), why };
    let mut bytes = Vec::new();
    // The length comes from the manifest: it may be more than there is memory.
    usize::try_from(component.bytes)
        .ok()
        .and_then(|len| bytes.try_reserve_exact(len).ok())
        .ok_or_else(|| failed(format!("its {} bytes do not fit into memory", component.bytes)))?;
    for (i, range) in manifest.chunks(component).enumerate() {
        let chunk = source.read(&component.file, range.clone()).await?;
        if chunk.len() as u64 != range.end - range.start {
            return Err(failed(format!("it ends before its {} bytes are complete", component.bytes)));
        }
        component.verify(i, &chunk)?;
        bytes.extend(chunk);
        on_progress(bytes.len() as u64)?;
    }
    GgufFile::new(&component.file, bytes)
}

/// Files held in memory, by name; those of a folder beside it are called `../folder/name`.
#[derive(Debug, Clone, Default)]
pub struct MemorySource(pub BTreeMap<String, Vec<u8>>);

impl Source for MemorySource {
    fn read<'a>(&'a self, name: &'a str, range: Range<u64>) -> Reading<'a> {
        let found =
            self.0.get(name).ok_or_else(|| Error::Read { what: name.into(), why: "there is no such file".into() });
        let part = found.map(|bytes| {
            let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            bytes[within(range.start)..within(range.end)].to_vec()
        });
        Box::pin(std::future::ready(part))
    }

    fn sibling<'a>(&'a self, folder: &str) -> Box<dyn Source + 'a> {
        let prefix = format!("../{folder}/");
        let files = self.0.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(&prefix)?.into(), bytes.clone())));
        Box::new(Self(files.collect()))
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::*;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use super::*;
    use std::{
        fs::File,
        io::{Read, Seek, SeekFrom},
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
                let mut bytes = Vec::new();
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
        fn read<'a>(&'a self, name: &'a str, range: Range<u64>) -> Reading<'a> {
            Box::pin(std::future::ready(self.read_now(name, range)))
        }

        fn sibling<'a>(&'a self, folder: &str) -> Box<dyn Source + 'a> {
            Box::new(Self(self.0.join("..").join(folder)))
        }
    }

    /// Opens a model folder: a URL (`http://` or `https://`, feature `cli`), or a path.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a URL without the feature `cli`.
    pub fn open(location: &str) -> Result<Box<dyn Source>> {
        if !location.starts_with("http://") && !location.starts_with("https://") {
            return Ok(Box::new(FolderSource(location.into())));
        }
        #[cfg(feature = "cli")]
        return Ok(Box::new(HttpSource::new(location)));
        #[cfg(not(feature = "cli"))]
        return Err(Error::Unsupported(format!("{location}: URLs need the feature `cli`")));
    }

    #[cfg(feature = "cli")]
    pub use http::HttpSource;

    #[cfg(feature = "cli")]
    mod http {
        use super::*;
        use std::{cell::RefCell, io, time::Duration};

        /// A folder on a web server. Consecutive ranges are read out of one response, so servers need not know ranges.
        pub struct HttpSource {
            base: String,
            agent: ureq::Agent,
            response: RefCell<Option<Response>>,
        }

        /// A response that is being read.
        struct Response {
            name: String,
            position: u64,
            body: Box<dyn Read>,
        }

        impl HttpSource {
            /// The folder at `base`, with or without a slash at its end.
            pub fn new(base: &str) -> Self {
                let patience = Some(Duration::from_secs(60));
                let config = ureq::Agent::config_builder()
                    .timeout_connect(patience)
                    .timeout_recv_response(patience)
                    .timeout_per_read(patience)
                    .build();
                Self { base: base.trim_end_matches('/').into(), agent: config.into(), response: RefCell::new(None) }
            }

            fn read_now(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
                let url = format!("{}/{name}", self.base);
                let failed = |why: &dyn std::fmt::Display| Error::Read { what: url.clone(), why: why.to_string() };
                let open = self.response.take().filter(|r| r.name == name && r.position == range.start);
                let mut response = match open {
                    Some(response) => response,
                    None => {
                        let body = self.request(&url, range.start).map_err(|error| failed(&error))?;
                        Response { name: name.into(), position: range.start, body }
                    }
                };
                let mut bytes = Vec::new();
                let part = response.body.by_ref().take(range.end - range.start).read_to_end(&mut bytes);
                part.map_err(|error| failed(&error))?;
                response.position += bytes.len() as u64;
                self.response.replace(Some(response));
                Ok(bytes)
            }

            /// The file's bytes from `start` on.
            fn request(&self, url: &str, start: u64) -> Result<Box<dyn Read>, ureq::Error> {
                // Offsets count the file's own bytes, not those of a compressed transfer.
                let mut request = self.agent.get(url).header("Accept-Encoding", "identity");
                if start > 0 {
                    request = request.header("Range", format!("bytes={start}-"));
                }
                let response = request.call()?;
                let partial = response.status() == 206;
                let mut body = response.into_body().into_reader();
                if !partial {
                    io::copy(&mut body.by_ref().take(start), &mut io::sink())?;
                }
                Ok(Box::new(body))
            }
        }

        impl Source for HttpSource {
            fn read<'a>(&'a self, name: &'a str, range: Range<u64>) -> Reading<'a> {
                Box::pin(std::future::ready(self.read_now(name, range)))
            }

            fn sibling<'a>(&'a self, folder: &str) -> Box<dyn Source + 'a> {
                Box::new(Self::new(&sibling_url(&self.base, folder)))
            }
        }
    }
}
