//! Inpainting: what lies outside a mask is known.

use super::{Cond, Denoiser, Denoising};
use crate::nets::Pace;
use burn::tensor::Tensor;

/// A denoiser that knows a part of the clean latent:
///
/// `x0 = m x0_hat + (1 - m) x0_known`
///
/// At every noise level the estimate outside the mask is the truth, so that the sampler's path there ends in it, and the
/// denoiser sees its surroundings with the right noise (Lugmayr et al. 2022 replace the noisy latent instead; for an ODE that
/// began at `x0_known + sigma n` it is the same).
#[derive(Debug, Clone)]
pub struct Masked<D> {
    /// Draws inside.
    pub inner: D,
    /// The clean latent, in the shape of `x`.
    pub known: Tensor<4>,
    /// `m` in `[0, 1]`, in the shape of `x` or of one channel of it: 1 is drawn, 0 is kept.
    pub mask: Tensor<4>,
}

impl<D: Denoiser> Denoiser for Masked<D> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(async move {
            let drawn = self.inner.denoise(x, sigma, cond, pace).await?;
            Ok(self.known.clone() + (drawn - self.known.clone()) * self.mask.clone())
        })
    }
}
