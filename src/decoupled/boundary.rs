//! Where one expert hands over to the other.

use crate::diffusion::schedule::Schedule;
use serde::{Deserialize, Serialize};

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
