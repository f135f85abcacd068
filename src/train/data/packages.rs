//! Pinned packages: archives fetched once by their registry's own client, and the files in them.

use super::super::{read_error, write_error};
use crate::{Error, Result};
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A package of an npm registry, pinned.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Name, e.g. `@iconify-json/noto`.
    pub name: &'static str,
    /// Exact version.
    pub version: &'static str,
}

impl Package {
    /// Name of the archive that `npm pack` writes.
    pub fn archive(&self) -> String {
        format!("{}-{}.tgz", self.name.trim_start_matches('@').replace('/', "-"), self.version)
    }

    /// Path of the archive in `cache`, fetched with npm if it is not there yet.
    ///
    /// # Errors
    /// [`Error::Read`] if npm is missing or fails.
    pub fn fetch(&self, cache: &Path) -> Result<PathBuf> {
        let path = cache.join(self.archive());
        if !path.exists() {
            let spec = format!("{}@{}", self.name, self.version);
            let failed = |why: String| Error::Read { what: format!("package {spec} (with `npm pack`)"), why };
            // npm writes in place: an interrupted download must not look like a finished one.
            let partial = cache.join("partial");
            std::fs::create_dir_all(&partial).map_err(|error| write_error(&partial, error))?;
            let output = Command::new("npm")
                .args(["pack", "--silent", &spec, "--pack-destination"])
                .arg(&partial)
                .output()
                .map_err(|error| failed(error.to_string()))?;
            if !output.status.success() {
                return Err(failed(String::from_utf8_lossy(&output.stderr).trim().into()));
            }
            std::fs::rename(partial.join(self.archive()), &path).map_err(|error| failed(error.to_string()))?;
        }
        Ok(path)
    }

    /// The files of the archive that `keep` wants, by their paths inside `package/`.
    ///
    /// # Errors
    /// If the package cannot be fetched or is damaged.
    pub fn files(&self, cache: &Path, keep: impl Fn(&str) -> bool) -> Result<HashMap<String, Vec<u8>>> {
        let path = self.fetch(cache)?;
        let file = std::fs::File::open(&path).map_err(|error| read_error(&path, error))?;
        let wanted =
            |name: &str| Some(name.strip_prefix("package/").unwrap_or(name).to_owned()).filter(|name| keep(name));
        unpack(GzDecoder::new(file), &path, wanted)
    }

    /// One JSON file of the package.
    ///
    /// # Errors
    /// If the package cannot be fetched or is damaged.
    pub fn json<T: for<'de> Deserialize<'de>>(&self, cache: &Path, name: &str) -> Result<T> {
        let what = || format!("{name} of {}@{}", self.name, self.version);
        let mut files = self.files(cache, |file| file == name)?;
        let bytes = files.remove(name).ok_or_else(|| Error::Read { what: what(), why: "not in the package".into() })?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Corrupt { what: what(), why: error.to_string() })
    }
}

/// A package of Debian, pinned.
#[derive(Debug, Clone, Copy)]
pub struct DebianPackage {
    /// Name.
    pub name: &'static str,
    /// Exact version.
    pub version: &'static str,
}

impl DebianPackage {
    /// Name of the archive that `apt-get download` writes.
    pub fn archive(&self) -> String {
        format!("{}_{}_all.deb", self.name, self.version.replace(':', "%3a"))
    }

    /// The files of the package that `keep` wants, by their paths from the root without the leading `/`.
    ///
    /// # Errors
    /// [`Error::Read`] if the archive is not in `cache` and `apt-get download` fails, or without `dpkg-deb`.
    pub fn files(&self, cache: &Path, keep: impl Fn(&str) -> bool) -> Result<HashMap<String, Vec<u8>>> {
        let path = cache.join(self.archive());
        let failed = |why: String| Error::Read { what: format!("Debian package {} {}", self.name, self.version), why };
        if !path.exists() {
            let partial = cache.join("partial");
            std::fs::create_dir_all(&partial).map_err(|error| write_error(&partial, error))?;
            let output = Command::new("apt-get")
                .args(["download", &format!("{}={}", self.name, self.version)])
                .current_dir(&partial)
                .output()
                .map_err(|error| failed(error.to_string()))?;
            if !output.status.success() {
                return Err(failed(String::from_utf8_lossy(&output.stderr).trim().into()));
            }
            std::fs::rename(partial.join(self.archive()), &path).map_err(|error| failed(error.to_string()))?;
        }
        let mut tar = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("dpkg-deb: {error}")))?;
        let wanted = |name: &str| Some(name.trim_start_matches("./").to_owned()).filter(|name| keep(name));
        let files = unpack(tar.stdout.take().expect("piped above"), &path, wanted);
        let status = tar.wait().map_err(|error| failed(error.to_string()))?;
        if status.success() { files } else { Err(failed(format!("dpkg-deb: {status}"))) }
    }
}

/// The files of a tar stream that `wanted` has a name for.
fn unpack(tar: impl Read, path: &Path, wanted: impl Fn(&str) -> Option<String>) -> Result<HashMap<String, Vec<u8>>> {
    let mut files = HashMap::new();
    for entry in tar::Archive::new(tar).entries().map_err(|error| read_error(path, error))? {
        let mut entry = entry.map_err(|error| read_error(path, error))?;
        let name = entry.path().map_err(|error| read_error(path, error))?.to_string_lossy().into_owned();
        if let Some(name) = wanted(&name).filter(|_| entry.header().entry_type().is_file()) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|error| read_error(path, error))?;
            files.insert(name, bytes);
        }
    }
    Ok(files)
}
