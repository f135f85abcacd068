//! A request in, events and an image out. Nothing here knows who asks.

mod checkpoint;
pub mod config;
mod generator;
mod infotext;
mod latent;
mod model;
mod plan;
pub mod projection;
mod request;
mod residency;
mod studio;
pub mod text;

pub use crate::weights::LoadProgress;
pub use checkpoint::Checkpoint;
pub use generator::{Generator, MEMORY, Passage};
pub use plan::{Plan, PlannedComponent};
pub use request::{
    Background, Control, ControlSettings, DraftSettings, InitSettings, MAX_PROMPT, MAX_STEPS, Preview, Request,
    Settings,
};

use crate::{Image, nets::precision::Arithmetic};

use burn::tensor::TensorData;
use serde::Serialize;

/// Seconds spent by stage, in order.
pub type Timings = Vec<(&'static str, f64)>;

/// A finished picture and how it came about.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// The picture.
    pub image: Image,
    /// All settings, the defaults filled in: the same settings draw the same picture.
    pub settings: Settings,
    /// The final latents, `[1, channels, height, width]`, as the experts see them.
    pub latents: TensorData,
    /// Seconds by stage: `text`, `denoise`, `decode`.
    pub timings: Timings,
    /// The numbers that it was computed with, and where f16 was too small.
    pub arithmetic: Arithmetic,
}

impl Drawing {
    /// The picture as PNG that carries its settings twice: in a chunk `parameters` as other tools write and read them
    /// ([`Settings::infotext`]), in a chunk `pangu-draw` whole and exactly, as JSON.
    ///
    /// # Errors
    /// As [`Image::to_png`].
    pub fn to_png(&self) -> crate::Result<Vec<u8>> {
        let settings = serde_json::to_string(&self.settings).expect("settings are plain data");
        self.image.to_png(&[("parameters", &self.settings.infotext()), ("pangu-draw", &settings)])
    }
}

/// What happens while a picture is drawn.
#[derive(Debug, Clone)]
pub enum Event {
    /// Something that the drawing needs has arrived.
    Load(LoadProgress),
    /// A step's first evaluation is done.
    Step(StepEvent),
    /// What the decoder makes of the picture so far, if the request asked for that ([`Request::preview_every`]).
    Preview(Image),
    /// Where the drawing stands after a step, if the request asked for checkpoints.
    Checkpoint(Checkpoint),
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct StepEvent {
    /// Index of the step, from 0.
    pub index: usize,
    /// Steps in the run.
    pub of: usize,
    /// Noise level the step starts from.
    pub sigma: f64,
    /// Which of the model's two experts has this noise level; none in an undivided model.
    pub expert: Option<ExpertName>,
    /// What the picture looks like so far, a pixel a latent cell ([`Preview::Projection`]).
    pub preview: Option<Image>,
    /// What the step was made of, if the request asked for it.
    pub insight: Option<Insight>,
}

/// The two experts of a time-decoupled model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertName {
    /// Draws composition and shape out of noise.
    Structure,
    /// Finishes.
    Texture,
}

/// What a step was made of, for those who like to see it. There are no pictures of models without a projection.
#[derive(Debug, Clone, PartialEq)]
pub struct Insight {
    /// The latent that the step starts from, noise and all, scaled to unit variance as the networks see it.
    pub noisy: Option<Image>,
    /// What each of the models that were asked takes the picture to be; the home model first, if it was asked.
    pub estimates: Vec<ModelEstimate>,
}

/// One model's estimate of the clean picture.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelEstimate {
    /// The model's name.
    pub model: String,
    /// Its weight among all.
    pub weight: f64,
    /// Its estimate, a pixel a latent cell.
    pub image: Option<Image>,
}
