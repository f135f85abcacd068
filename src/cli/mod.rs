//! The command line: arguments in, calls to the library, words and files out.

mod cache;
pub mod convert;
mod draw;
#[cfg(feature = "train")]
mod eval;
#[cfg(feature = "train")]
pub mod experiment;
mod files;
pub mod inspect;
mod picture;
mod preview;
#[cfg(feature = "train")]
pub mod train;

use crate::Result;
use clap::{Parser, Subcommand};

/// PanGu-Draw: time-decoupled text-to-image diffusion.
#[derive(Debug, Parser)]
#[command(name = "pangu-draw", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw a picture from a prompt.
    Draw(draw::DrawArgs),
    /// Write what a ControlNet sees of a picture: its outline.
    Outline(picture::OutlineArgs),
    /// Turn a Stable Diffusion folder, as diffusers saves it, into a model folder.
    Convert(convert::ConvertArgs),
    /// Say what a model folder holds, and check it.
    Inspect(inspect::InspectArgs),
    /// Give a model folder what shows its latents at every step without the decoder.
    FitPreview(preview::FitPreviewArgs),
    /// List or delete what is kept of models from the web.
    Cache(cache::CacheArgs),
    /// Build a data set, train a model, export it.
    #[cfg(feature = "train")]
    Train(train::TrainArgs),
    /// Measure a model's drawings: text alignment, Frechet distance, copying, few steps; fifty prompts to look at.
    #[cfg(feature = "train")]
    Eval(eval::EvalArgs),
    /// Measure the paper's claims about training on small models.
    #[cfg(feature = "train")]
    Experiment(experiment::ExperimentArgs),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever the command fails with; one line for a person.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Draw(args) => args.run(),
            Command::Outline(args) => args.run(),
            Command::Convert(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::FitPreview(args) => args.run(),
            Command::Cache(args) => args.run(),
            #[cfg(feature = "train")]
            Command::Train(args) => args.run(),
            #[cfg(feature = "train")]
            Command::Eval(args) => args.run(),
            #[cfg(feature = "train")]
            Command::Experiment(args) => args.run(),
        }
    }
}
