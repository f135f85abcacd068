//! Noise schedules: from training timesteps to noise levels and back, and the noise levels of a sampling run.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{f64::consts::FRAC_PI_2, fmt, str::FromStr};

/// How `beta_t`, the variance of the noise that timestep `t` adds, grows with `t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// `beta` grows linearly (Ho et al. 2020).
    Linear,
    /// `sqrt(beta)` grows linearly (Rombach et al. 2022: Stable Diffusion, SDXL, PanGu-Draw).
    ScaledLinear,
    /// `abar` follows a squared cosine, `beta <= 0.999` (Nichol & Dhariwal 2021, eq. 17).
    SquaredcosCapV2,
}

/// What a network was trained to predict from `x_t = sqrt(abar) x0 + sqrt(1 - abar) n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise `n`.
    #[default]
    Epsilon,
    /// The velocity `v = sqrt(abar) n - sqrt(1 - abar) x0` (Salimans & Ho 2022).
    VPrediction,
    /// The clean latent `x0`.
    Sample,
}

impl Prediction {
    /// `(c_skip, c_out)` of the preconditioning `x0 = c_skip x + c_out F(x / sqrt(sigma^2 + 1))` (Karras et al. 2022,
    /// eq. 7), where `F` is the network and `x = x0 + sigma n`:
    ///
    /// | prediction | `c_skip` | `c_out` |
    /// |---|---|---|
    /// | `epsilon` | `1` | `-sigma` |
    /// | `v_prediction` | `1 / (sigma^2 + 1)` | `-sigma / sqrt(sigma^2 + 1)` |
    /// | `sample` | `0` | `1` |
    pub fn scalings(self, sigma: f64) -> (f64, f64) {
        match self {
            Self::Epsilon => (1.0, -sigma),
            Self::VPrediction => (1.0 / (sigma * sigma + 1.0), -sigma / (sigma * sigma + 1.0).sqrt()),
            Self::Sample => (0.0, 1.0),
        }
    }
}

/// Where in the schedule the steps of a run lie. Table 2 of Lin et al. 2023 compares the first three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Every `T / n`-th timestep counted from 0, plus `steps_offset`: never starts at the last timestep.
    Leading,
    /// Evenly from `T - 1` to 0, between whole timesteps where it falls there.
    Linspace,
    /// Every `T / n`-th timestep counted down from `T - 1`: never wastes a step on timestep 0.
    #[default]
    Trailing,
    /// Evenly in `sigma^(1/7)` (Karras et al. 2022, eq. 5).
    Karras,
    /// Evenly in `ln sigma`.
    Exponential,
}

impl Spacing {
    /// All spacings.
    pub const ALL: [Self; 5] = [Self::Leading, Self::Linspace, Self::Trailing, Self::Karras, Self::Exponential];

    /// The name in requests and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Linspace => "linspace",
            Self::Trailing => "trailing",
            Self::Karras => "karras",
            Self::Exponential => "exponential",
        }
    }
}

impl fmt::Display for Spacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Spacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|spacing| spacing.name() == name).ok_or_else(|| Error::Invalid {
            parameter: "spacing",
            why: format!("`{name}` is none of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// What a noise schedule is made from: the fields of a diffusers `scheduler_config.json`, with the names and the
/// defaults that `EulerDiscreteScheduler` gives them. Fields that only concern one sampler are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleConfig {
    /// Number of training timesteps `T`.
    pub num_train_timesteps: usize,
    /// `beta` at timestep 0.
    pub beta_start: f64,
    /// `beta` at timestep `T - 1`.
    pub beta_end: f64,
    /// How `beta` grows in between.
    pub beta_schedule: BetaSchedule,
    /// All betas, instead of the three fields above.
    pub trained_betas: Option<Vec<f64>>,
    /// Whether to shift and scale `sqrt(abar)` so that the last timestep is pure noise (Lin et al. 2023, algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// Where the steps of a run lie.
    pub timestep_spacing: Spacing,
    /// Added to the timesteps of [`Spacing::Leading`].
    pub steps_offset: usize,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: Spacing::Linspace,
            steps_offset: 0,
        }
    }
}

impl ScheduleConfig {
    /// The schedule of Stable Diffusion, SDXL and PanGu-Draw: `sigma` from 0.029 to 14.61.
    pub fn stable_diffusion() -> Self {
        Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            timestep_spacing: Spacing::Leading,
            steps_offset: 1,
            ..Self::default()
        }
    }

    fn betas(&self) -> Vec<f64> {
        let (start, end, count) = (self.beta_start, self.beta_end, self.num_train_timesteps);
        match (&self.trained_betas, self.beta_schedule) {
            (Some(betas), _) => betas.clone(),
            (None, BetaSchedule::Linear) => linspace(start, end, count).collect(),
            (None, BetaSchedule::ScaledLinear) => linspace(start.sqrt(), end.sqrt(), count).map(|b| b * b).collect(),
            (None, BetaSchedule::SquaredcosCapV2) => {
                let abar = |i: usize| ((i as f64 / count as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                (0..count).map(|i| (1.0 - abar(i + 1) / abar(i)).min(0.999)).collect()
            }
        }
    }
}

/// A variance-preserving noise schedule on `T` discrete timesteps, seen as noise levels.
///
/// With `abar_t = prod_{s <= t} (1 - beta_s)`, a noisy latent `x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) n` divided by
/// `sqrt(abar_t)` is `x0 + sigma_t n` with `sigma_t = sqrt((1 - abar_t) / abar_t)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    alphas_cumprod: Vec<f64>,
    sigmas: Vec<f64>,
    steps_offset: usize,
}

impl Schedule {
    /// Computes the schedule that `config` describes.
    ///
    /// A schedule rescaled to zero terminal SNR has `abar = 0`, hence an infinite `sigma`, at its last timestep; `2^-24`
    /// stands for that 0, as in diffusers, so that `sigma` ends at 4096.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there are 2 to 100,000 timesteps on which `sigma` grows strictly and stays finite, and
    /// `steps_offset` is at most their number.
    pub fn new(config: &ScheduleConfig) -> Result<Self> {
        let invalid = |why: &str| Error::Invalid { parameter: "schedule", why: why.into() };
        if !(2..=100_000).contains(&config.num_train_timesteps) {
            return Err(invalid("num_train_timesteps must lie in 2..=100000"));
        }
        if config.steps_offset > config.num_train_timesteps {
            return Err(invalid("steps_offset is not a timestep"));
        }
        let betas = config.betas();
        if betas.len() != config.num_train_timesteps {
            return Err(invalid("trained_betas must have num_train_timesteps elements"));
        }
        let products = betas.iter().scan(1.0, |abar, beta| {
            *abar *= 1.0 - beta;
            Some(*abar)
        });
        let mut alphas_cumprod: Vec<f64> = products.collect();
        if config.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(&mut alphas_cumprod);
        }
        let sigmas: Vec<f64> = alphas_cumprod.iter().map(|abar| ((1.0 - abar) / abar).sqrt()).collect();
        if !(sigmas[0] > 0.0 && sigmas.is_sorted_by(|a, b| a < b) && sigmas.iter().all(|sigma| sigma.is_finite())) {
            return Err(invalid("the noise level must grow from timestep to timestep and stay finite"));
        }
        Ok(Self { alphas_cumprod, sigmas, steps_offset: config.steps_offset })
    }

    /// `abar_t` for every timestep `t` in `0..T`.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// Number of training timesteps `T`.
    pub fn num_train_timesteps(&self) -> usize {
        self.sigmas.len()
    }

    /// The noise level at timestep 0.
    pub fn sigma_min(&self) -> f64 {
        self.sigmas[0]
    }

    /// The noise level at timestep `T - 1`.
    pub fn sigma_max(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// The noise level at timestep `t`, clamped to `0..=T-1`; between timesteps linear in `sigma`, as diffusers places
    /// its steps.
    pub fn sigma(&self, t: f64) -> f64 {
        let t = t.clamp(0.0, (self.sigmas.len() - 1) as f64);
        let low = t as usize;
        let high = (low + 1).min(self.sigmas.len() - 1);
        self.sigmas[low] + (t - low as f64) * (self.sigmas[high] - self.sigmas[low])
    }

    /// The timestep whose noise level is `sigma`, clamped to `0..=T-1`; between timesteps linear in `ln sigma`
    /// (k-diffusion's `sigma_to_t`). Inverts [`Schedule::sigma`] exactly at whole timesteps, and up to a few hundredths
    /// between them.
    pub fn timestep(&self, sigma: f64) -> f64 {
        match self.sigmas.partition_point(|&level| level <= sigma) {
            0 => 0.0,
            above if above == self.sigmas.len() => (above - 1) as f64,
            above => {
                let (low, high) = (self.sigmas[above - 1], self.sigmas[above]);
                (above - 1) as f64 + (sigma / low).ln() / (high / low).ln()
            }
        }
    }

    /// The noise levels of a run of `steps` steps: `steps` levels, falling, then 0.
    ///
    /// They are diffusers' `EulerDiscreteScheduler.sigmas`; [`Spacing::Karras`] and [`Spacing::Exponential`] span the
    /// whole schedule.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `1 <= steps <= T`, and if `steps_offset` pushes the first step past the schedule's end.
    pub fn sigmas(&self, spacing: Spacing, steps: usize) -> Result<Vec<f64>> {
        let count = self.sigmas.len();
        let invalid = |why| Error::Invalid { parameter: "steps", why };
        if !(1..=count).contains(&steps) {
            return Err(invalid(format!("{steps} is not in 1..={count}")));
        }
        let (min, max) = (self.sigma_min(), self.sigma_max());
        let mut sigmas: Vec<f64> = match spacing {
            Spacing::Leading => {
                let stride = count / steps;
                (0..steps).rev().map(|i| self.sigma((i * stride + self.steps_offset) as f64)).collect()
            }
            Spacing::Linspace => linspace(0.0, (count - 1) as f64, steps).rev().map(|t| self.sigma(t)).collect(),
            Spacing::Trailing => {
                // numpy's arange strides by the difference of its first two elements; in ties its rounding decides.
                let stride = count as f64 - (count as f64 - count as f64 / steps as f64);
                let timestep = |i: usize| (count as f64 - i as f64 * stride).round_ties_even() - 1.0;
                (0..steps).map(|i| self.sigma(timestep(i))).collect()
            }
            Spacing::Karras => {
                linspace(max.powf(1.0 / 7.0), min.powf(1.0 / 7.0), steps).map(|root| root.powi(7)).collect()
            }
            Spacing::Exponential => linspace(max.ln(), min.ln(), steps).map(f64::exp).collect(),
        };
        sigmas.push(0.0);
        if !sigmas.is_sorted_by(|a, b| a > b) {
            return Err(invalid(format!("{steps} steps do not fit the schedule with its steps_offset")));
        }
        Ok(sigmas)
    }
}

/// The standard deviation of `x = x0 + sigma n` for data of unit variance, `sqrt(sigma^2 + 1)`: a run that begins at
/// `sigma` starts from unit noise times this (the released PanGu-Draw sampler; diffusers' DDIM and DPM-Solver++).
pub fn initial_scale(sigma: f64) -> f64 {
    (sigma * sigma + 1.0).sqrt()
}

/// Shifts `sqrt(abar)` so that it ends at 0 and scales it so that it begins where it did (Lin et al. 2023, algorithm 1).
fn rescale_zero_terminal_snr(alphas_cumprod: &mut [f64]) {
    let last = alphas_cumprod.len() - 1;
    let (first_root, last_root) = (alphas_cumprod[0].sqrt(), alphas_cumprod[last].sqrt());
    for abar in &mut *alphas_cumprod {
        *abar = ((abar.sqrt() - last_root) * first_root / (first_root - last_root)).powi(2);
    }
    alphas_cumprod[last] = 2f64.powi(-24);
}

/// `count` numbers from `from` to `to`, both included; `from` alone if `count` is 1.
fn linspace(from: f64, to: f64, count: usize) -> impl DoubleEndedIterator<Item = f64> {
    let stride = (to - from) / (count.max(2) - 1) as f64;
    (0..count).map(move |i| from + i as f64 * stride)
}
