//! `pangu-draw fit-preview`: gives a model its cheap preview.

use crate::{Result, pipeline::projection};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `pangu-draw fit-preview`.
#[derive(Debug, Args)]
pub struct FitPreviewArgs {
    /// Model folder; its model.json is written anew, its other files stay.
    model: PathBuf,
}

impl FitPreviewArgs {
    /// Fits and writes.
    ///
    /// # Errors
    /// As [`projection::add`].
    pub fn run(self) -> Result<()> {
        match projection::add(&self.model)? {
            true => println!("{}: every step can be shown", self.model.display()),
            false => println!("{}: no linear map shows its latents", self.model.display()),
        }
        Ok(())
    }
}
