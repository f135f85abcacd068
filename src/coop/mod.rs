//! Coop-Diffusion (PanGu-Draw, section 3.3): pretrained models with different latent spaces and resolutions draw one picture.
//!
//! | what | module |
//! |---|---|
//! | sub-module 1, bridging latent spaces: Algorithm 1 | [`latent`] |
//! | sub-module 2, bridging resolutions | [`resolution`] |
//!
//! Models meet in pixels, as ink and cover ([`crate::pixels`]), and at equal noise level `sigma`, whatever their schedules
//! call it: equal signal-to-noise, not equal `t`.

pub mod latent;
pub mod resolution;
mod strength;

use crate::{
    Result,
    diffusion::{Denoiser, Denoising, schedule::initial_scale},
    nets::Pace,
    pixels::{Upsampler, resample},
};
use burn::tensor::Tensor;

/// A latent space: the way to pixels and back.
pub trait Space {
    /// Latents `[batch, channels, height, width]` as the model's networks see them, to pixels `[batch, 4, H, W]` of ink and
    /// cover.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; whatever the autoencoder fails with.
    fn decode<'a>(&'a self, latents: Tensor<4>, pace: &'a Pace) -> Denoising<'a>;

    /// What [`Space::decode`] undoes, up to the autoencoder's error.
    ///
    /// # Errors
    /// As [`Space::decode`].
    fn encode<'a>(&'a self, pixels: Tensor<4>, pace: &'a Pace) -> Denoising<'a>;
}

/// One model among several that draw a picture.
#[derive(Clone, Copy)]
pub struct Participant<'a> {
    /// Estimates its clean latent.
    pub denoiser: &'a dyn Denoiser,
    /// Its latent space.
    pub space: &'a dyn Space,
    /// Its latent, `[batch, channels, height, width]`.
    pub latent: [usize; 4],
    /// Its picture, `[height, width]` in pixels.
    pub size: [usize; 2],
}

impl Participant<'_> {
    /// A clean latent of this model in the space, and at the size, of another: `E(scale(D(x0)))`. Models that share both
    /// share their latents as they are.
    ///
    /// # Errors
    /// As [`Space::decode`].
    pub async fn cross(&self, to: &Participant<'_>, x0: Tensor<4>, by: Upsampler, pace: &Pace) -> Result<Tensor<4>> {
        if std::ptr::addr_eq(self.space, to.space) && self.size == to.size {
            return Ok(x0);
        }
        let pixels = self.space.decode(x0, pace).await?;
        to.space.encode(resample(pixels, to.size, by), pace).await
    }
}

/// Where a run begins.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The noisy latent.
    pub x: Tensor<4>,
    /// The clean latent in it, where the picture is known already.
    pub x0: Option<Tensor<4>>,
}

impl Opening {
    /// Noise alone at `sigma`: `sqrt(sigma^2 + 1) n`.
    pub fn noise(noise: Tensor<4>, sigma: f64) -> Self {
        Self { x: noise * initial_scale(sigma), x0: None }
    }

    /// A picture that is known at `sigma`: `x0 + sigma n`.
    pub fn known(x0: Tensor<4>, noise: Tensor<4>, sigma: f64) -> Self {
        Self { x: x0.clone() + noise * sigma, x0: Some(x0) }
    }
}
