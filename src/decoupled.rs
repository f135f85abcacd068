//! The time-decoupled generator of PanGu-Draw (arXiv 2312.16486, section 3.2): one denoiser made of two experts.

use crate::{
    diffusion::{Cond, Denoiser, Denoising, schedule::Schedule},
    nets::Pace,
};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

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

/// Which expert takes the step at the boundary: the paper and the released sampler differ by one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundaryRule {
    /// By the step's own timestep: structure while `t >= T_struct` (the paper).
    #[default]
    Timestep,
    /// By the timestep of the step before it, initially `T`: structure also takes the first step below `T_struct`
    /// (the released `PanGuEDMSampler`, which asks once a step).
    PreviousStep,
}

impl BoundaryRule {
    /// The lowest noise level, among a run's `sigmas` and all between them, that belongs to the structure expert.
    ///
    /// `t_struct` is in timesteps of `schedule`, 500 of 1000 in the paper.
    pub fn boundary(self, schedule: &Schedule, t_struct: f64, sigmas: &[f64]) -> f64 {
        match self {
            Self::Timestep => schedule.sigma(t_struct),
            Self::PreviousStep => {
                // The released sampler takes the index of the nearest noise level, hence the rounding.
                let below = |sigma: &&f64| schedule.timestep(**sigma).round() < t_struct;
                sigmas.iter().find(below).copied().unwrap_or(0.0)
            }
        }
    }
}
