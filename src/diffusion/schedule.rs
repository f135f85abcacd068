//! Noise schedules.

use serde::{Deserialize, Serialize};

/// What a network was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// `v = sqrt(abar) n - sqrt(1 - abar) x0` (Salimans & Ho 2022).
    VPrediction,
    /// The clean latent.
    Sample,
}

/// How beta grows over the training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Linear in beta.
    Linear,
    /// Linear in sqrt(beta).
    ScaledLinear,
    /// Cosine (Nichol & Dhariwal 2021).
    SquaredcosCapV2,
}

/// A schedule as diffusers' `scheduler_config.json` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleConfig {
    /// Training timesteps, 1000.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// Shape in between.
    pub beta_schedule: BetaSchedule,
    /// Rescale so that the last step has no signal left (Lin et al. 2023).
    #[serde(default)]
    pub rescale_betas_zero_snr: bool,
}
