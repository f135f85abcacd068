//! Files that a command writes: whole, or not at all.

use crate::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Fails before any work is done if `path` cannot be written later.
pub fn check_writable(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let why = match fs::metadata(folder) {
        Ok(meta) if !meta.is_dir() => format!("{} is not a folder", folder.display()),
        Ok(_) if path.is_dir() => "it is a folder".into(),
        Ok(_) => match tempfile(path).and_then(|file| fs::File::create(&file).and_then(|_| fs::remove_file(&file))) {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        },
        Err(error) => format!("{}: {error}", folder.display()),
    };
    Err(Error::Write { what: path.display().to_string(), why })
}

/// A name beside `path` for a file that is not complete yet.
fn tempfile(path: &Path) -> std::io::Result<PathBuf> {
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidFilename)?;
    Ok(path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id())))
}

/// Writes `bytes` to `path`, which is never seen half-written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let part = tempfile(path)?;
        fs::write(&part, bytes).and_then(|()| fs::rename(&part, path)).inspect_err(|_| {
            let _ = fs::remove_file(&part);
        })
    };
    write().map_err(|error: std::io::Error| Error::Write { what: path.display().to_string(), why: error.to_string() })
}
