//! `pangu-draw fit-preview`: gives a model its cheap preview.

use super::picture;
use crate::{Error, Image, Result, pipeline::projection};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `pangu-draw fit-preview`.
#[derive(Debug, Args)]
pub struct FitPreviewArgs {
    /// Model folder; its model.json is written anew, its other files stay.
    model: PathBuf,
    /// Folder of pictures to fit it to, the more like what the model draws the better [default: made-up ones].
    #[arg(long)]
    pictures: Option<PathBuf>,
}

impl FitPreviewArgs {
    /// Fits and writes.
    ///
    /// # Errors
    /// As [`projection::add`]; for a folder that cannot be read, or holds something else than pictures.
    pub fn run(self) -> Result<()> {
        let pictures = self.pictures.as_deref().map_or(Ok(Vec::new()), read_all)?;
        match projection::add(&self.model, &pictures)? {
            true => println!("{}: every step can be shown", self.model.display()),
            false => println!("{}: no linear map shows its latents", self.model.display()),
        }
        Ok(())
    }
}

/// The pictures in a folder, by their names.
fn read_all(folder: &Path) -> Result<Vec<Image>> {
    let failed = |error: std::io::Error| Error::Read { what: folder.display().to_string(), why: error.to_string() };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.sort();
    paths.iter().map(|path| picture::read(path)).collect()
}
