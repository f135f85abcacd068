//! The one idea of the crate: everything is a denoiser.

use crate::{
    Result,
    nets::{Pace, picture_encoder::PictureEmbedding, text::sentence::Sentences},
};
use burn::tensor::Tensor;
use std::{future::Future, pin::Pin};

/// What a network is conditioned on besides the noise level: the encoded prompts, or pictures, of a batch.
#[derive(Debug, Clone)]
pub struct Cond {
    /// Per-token features for cross-attention, `[batch, tokens, context_dim]`.
    pub tokens: Tensor<3>,
    /// Vector condition added to the time embedding, `[batch, vector_dim]` (SDXL's `add_embeds`, our pooled sentence).
    pub vector: Option<Tensor<2>>,
}

impl Cond {
    /// Stacks conditions along the batch axis. All must have the same token count and agree on having a vector.
    pub fn cat(conds: Vec<Self>) -> Self {
        let vectors: Option<Vec<_>> = conds.iter().map(|cond| cond.vector.clone()).collect();
        Self {
            tokens: Tensor::cat(conds.into_iter().map(|cond| cond.tokens).collect(), 0),
            vector: vectors.map(|vectors| Tensor::cat(vectors, 0)),
        }
    }
}

impl From<Sentences> for Cond {
    fn from(sentences: Sentences) -> Self {
        Self { tokens: sentences.tokens, vector: Some(sentences.pooled) }
    }
}

impl From<PictureEmbedding> for Cond {
    fn from(picture: PictureEmbedding) -> Self {
        Self { tokens: picture.tokens, vector: Some(picture.pooled) }
    }
}

/// A denoising in flight.
pub type Denoising<'a> = Pin<Box<dyn Future<Output = Result<Tensor<4>>> + 'a>>;

/// Estimates the clean latent from a noisy one (Karras et al. 2022, eq. 1 and following).
///
/// `x = x0 + sigma * n` with `n ~ N(0, I)` and `sigma = sqrt((1 - abar_t) / abar_t)`; the answer is `E[x0 | x]` as far as
/// the network knows it. Implementors: a network on its schedule
/// ([`NetworkDenoiser`](super::NetworkDenoiser)), guidance around any denoiser, the time-decoupled pair, fused models.
pub trait Denoiser {
    /// `x`: `[batch, channels, height, width]` at noise level `sigma`; answers `x0_hat` of the same shape.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`] when `pace` was cancelled; whatever the network fails with.
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a>;
}

impl<D: Denoiser + ?Sized> Denoiser for &D {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        (**self).denoise(x, sigma, cond, pace)
    }
}

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        (**self).denoise(x, sigma, cond, pace)
    }
}
