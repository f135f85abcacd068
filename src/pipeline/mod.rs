//! A request in, events and an image out. Nothing here knows who asks.

pub mod config;
mod generator;
mod infotext;
mod latent;
mod model;
mod plan;
mod request;
mod residency;
mod studio;
pub mod text;

pub use crate::weights::LoadProgress;
pub use generator::{Generator, MEMORY, Passage};
pub use plan::{Plan, PlannedComponent};
pub use request::{
    Background, Control, ControlSettings, DraftSettings, InitSettings, MAX_PROMPT, MAX_STEPS, Request, Settings,
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
    /// What the picture looks like so far, if the request asked for previews.
    Preview(Image),
}

/// A step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepEvent {
    /// Index of the step, from 0.
    pub index: usize,
    /// Steps in the run.
    pub of: usize,
    /// Noise level the step starts from.
    pub sigma: f64,
}
