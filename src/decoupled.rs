//! The time-decoupled generator of PanGu-Draw (arXiv 2312.16486, section 3.2): one denoiser made of two experts.

mod boundary;

pub use boundary::BoundaryRule;

use crate::{
    diffusion::{Cond, Denoiser, Denoising},
    nets::Pace,
};
use burn::tensor::Tensor;

/// Two experts that share the timesteps of one schedule:
///
/// `denoise(x, sigma) = structure(x, sigma) if sigma >= boundary else texture(x, sigma)`
///
/// The structure generator was trained on `t` in `[T_struct, T]` and lays out shapes; the texture generator on `t` in
/// `[0, T_struct)`, and refines them. One latent passes from one to the other; nothing is added or scaled in between.
/// Exactly one expert is asked at each noise level, so an expert may be a denoiser that still waits for its weights,
/// or one whose weights are gone once the boundary is passed.
#[derive(Debug, Clone)]
pub struct TimeDecoupled<S, T> {
    /// Denoises down to the boundary.
    pub structure: S,
    /// Denoises below it.
    pub texture: T,
    /// The lowest noise level of the structure expert ([`BoundaryRule::boundary`]).
    pub boundary: f64,
}

impl<S: Denoiser, T: Denoiser> Denoiser for TimeDecoupled<S, T> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        if sigma >= self.boundary {
            self.structure.denoise(x, sigma, cond, pace)
        } else {
            self.texture.denoise(x, sigma, cond, pace)
        }
    }
}
