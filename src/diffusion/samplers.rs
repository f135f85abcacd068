//! Samplers: from noise to a clean latent, by asking a denoiser at falling noise levels.
//!
//! All of them walk `x = x0 + sigma n` down a list of noise levels. Where papers write an Euler step as
//! `x + (sigma' - sigma) d` with `d = (x - x0) / sigma`, the code writes the same as `x0 + (sigma' / sigma) (x - x0)`
//! (`toward`): nothing large cancels when sigma is thousands, as on zero-terminal-SNR schedules.

use super::{
    Cond, Denoiser,
    noise::{Noise, Stream},
};
use crate::{Error, Result, nets::Pace};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    str::FromStr,
};

/// What a sampling run is made of.
pub struct Run<'a> {
    /// Whom to ask.
    pub denoiser: &'a dyn Denoiser,
    /// What to draw.
    pub cond: &'a Cond,
    /// Noise levels, strictly falling, usually to 0 ([`super::schedule::Schedule::sigmas`]).
    pub sigmas: &'a [f64],
    /// Steps of the drawing that were made before this run: indices count on from there.
    pub before: usize,
    /// Where stochastic samplers take their noise from.
    pub noise: &'a Noise,
    /// Cancels the run, between steps and inside them.
    pub pace: &'a Pace,
    /// Hears of every step.
    pub on_step: &'a mut dyn Listener,
}

/// A step whose first evaluation is done.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Index of the step in the drawing, from 0.
    pub index: usize,
    /// Number of steps, up to the end of this run.
    pub of: usize,
    /// Noise level the step starts from.
    pub sigma: f64,
    /// The latent at that level, `[batch, channels, height, width]`.
    pub x: &'a Tensor<4>,
    /// The denoiser's estimate of the clean latent: a preview of the result.
    pub denoised: &'a Tensor<4>,
}

/// Where a run stands between two steps: all that the rest of it depends on. A run that begins there ends as the undisturbed
/// one does, bit for bit where the device computes so.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Steps of the run that are made.
    pub made: usize,
    /// The latent at the next step's noise level, `[batch, channels, height, width]`.
    pub x: Tensor<4>,
    /// The last step's estimate of the clean latent, where a step is made of two of them ([`dpmpp_2m`]).
    pub previous: Option<Tensor<4>>,
}

impl From<Tensor<4>> for Checkpoint {
    /// The beginning of a run, from its first noise level.
    fn from(x: Tensor<4>) -> Self {
        Self { made: 0, x, previous: None }
    }
}

/// Hears of a run's steps, and may take its time: the run waits, so that a listener can decode a preview.
pub trait Listener {
    /// Called when the first evaluation of a step is done; an error ends the run.
    ///
    /// # Errors
    /// The listener's own.
    fn hear<'s>(&'s mut self, step: Step<'s>) -> Pin<Box<dyn Future<Output = Result<()>> + 's>>;

    /// Called when a step is made, with where the run stands now; an error ends the run.
    ///
    /// # Errors
    /// The listener's own.
    fn reach<'s>(&'s mut self, _: Checkpoint) -> Pin<Box<dyn Future<Output = Result<()>> + 's>> {
        Box::pin(ready(Ok(())))
    }
}

/// A function that hears and is done at once.
impl<F: FnMut(Step<'_>)> Listener for F {
    fn hear<'s>(&'s mut self, step: Step<'s>) -> Pin<Box<dyn Future<Output = Result<()>> + 's>> {
        self(step);
        Box::pin(ready(Ok(())))
    }
}

impl Run<'_> {
    /// `(index, sigma, next sigma)` of every step after the first `made`.
    fn steps(&self, made: usize) -> Result<Vec<(usize, f64, f64)>> {
        let falling = self.sigmas.is_sorted_by(|a, b| a > b) && self.sigmas.iter().all(|s| s.is_finite() && *s >= 0.0);
        if self.sigmas.len() < 2 || !falling {
            let why = "a run takes at least one step, from a noise level to a lower one".into();
            return Err(Error::Invalid { parameter: "steps", why });
        }
        let steps = self.sigmas.windows(2).zip(self.before..).map(|(pair, i)| (i, pair[0], pair[1]));
        Ok(steps.skip(made).collect())
    }

    async fn denoise(&self, x: &Tensor<4>, sigma: f64) -> Result<Tensor<4>> {
        self.pace.check()?;
        self.denoiser.denoise(x.clone(), sigma, self.cond, self.pace).await
    }

    /// Denoises for step `index` and tells the listener.
    async fn step(&mut self, index: usize, x: &Tensor<4>, sigma: f64) -> Result<Tensor<4>> {
        let denoised = self.denoise(x, sigma).await?;
        self.on_step
            .hear(Step { index, of: self.before + self.sigmas.len() - 1, sigma, x, denoised: &denoised })
            .await?;
        Ok(denoised)
    }

    /// Tells the listener that step `index` is made, and has come to `x`.
    async fn reach(&mut self, index: usize, x: &Tensor<4>, previous: Option<&Tensor<4>>) -> Result<()> {
        let made = index + 1 - self.before;
        self.on_step.reach(Checkpoint { made, x: x.clone(), previous: previous.cloned() }).await
    }

    fn noise_like(&self, x: &Tensor<4>, index: usize) -> Tensor<4> {
        self.noise.normal(Stream::Step(index), x.dims(), &x.device())
    }
}

/// `x0 + ratio (x - x0)`: the Euler step from `sigma` to `ratio * sigma`.
fn toward(x: Tensor<4>, denoised: Tensor<4>, ratio: f64) -> Tensor<4> {
    x * ratio + denoised * (1.0 - ratio)
}

/// Euler's method on the probability-flow ODE `dx / dsigma = (x - x0) / sigma` (Karras et al. 2022, algorithm 1 without
/// its correction; diffusers' `EulerDiscreteScheduler`). One evaluation a step.
///
/// `x' = x + (sigma' - sigma) (x - x0) / sigma`
///
/// # Errors
/// [`Error::Invalid`] if the run has no step, [`Error::Cancelled`], or the denoiser's. So for all samplers.
pub async fn euler(run: &mut Run<'_>, from: Checkpoint) -> Result<Tensor<4>> {
    let mut x = from.x;
    for (i, sigma, next) in run.steps(from.made)? {
        let denoised = run.step(i, &x, sigma).await?;
        x = toward(x, denoised, next / sigma);
        run.reach(i, &x, None).await?;
    }
    Ok(x)
}

/// DDIM (Song et al. 2021, eq. 12 and 16; diffusers' `DDIMScheduler`). One evaluation a step; `eta` from 0,
/// deterministic, to 1, as much new noise as DDPM's posterior has.
///
/// Divided by `sqrt(abar')`, the paper's step reads
///
/// `x' = x0 + sigma_down (x - x0) / sigma + sigma_up n`, `sigma_up = eta sigma' sqrt(1 - sigma'^2 / sigma^2)`,
/// `sigma_down^2 = sigma'^2 - sigma_up^2`
///
/// so that with `eta = 0` it is [`euler`], and with `eta = 1` [`euler_ancestral`].
///
/// # Errors
/// As [`euler`].
pub async fn ddim(run: &mut Run<'_>, from: Checkpoint, eta: f64) -> Result<Tensor<4>> {
    let mut x = from.x;
    for (i, sigma, next) in run.steps(from.made)? {
        let denoised = run.step(i, &x, sigma).await?;
        let sigma_up = eta * next * (1.0 - (next / sigma).powi(2)).sqrt();
        let sigma_down = (next * next - sigma_up * sigma_up).sqrt();
        x = toward(x, denoised, sigma_down / sigma);
        if sigma_up > 0.0 {
            let noise = run.noise_like(&x, i);
            x = x + noise * sigma_up;
        }
        run.reach(i, &x, None).await?;
    }
    Ok(x)
}

/// Ancestral sampling with Euler steps: each step overshoots to `sigma_down` and adds fresh noise of `sigma_up`
/// (k-diffusion's `sample_euler_ancestral`, diffusers' `EulerAncestralDiscreteScheduler`). It is [`ddim`] with
/// `eta = 1`. One evaluation a step.
///
/// # Errors
/// As [`euler`].
pub async fn euler_ancestral(run: &mut Run<'_>, from: Checkpoint) -> Result<Tensor<4>> {
    ddim(run, from, 1.0).await
}

/// Heun's method: an Euler step, corrected by the slope at its end (Karras et al. 2022, algorithm 1; diffusers'
/// `HeunDiscreteScheduler`). Two evaluations a step, one in a last step to 0.
///
/// `d = (x - x0) / sigma`, `x_e = x + (sigma' - sigma) d`, `d' = (x_e - x0') / sigma'`,
/// `x' = x + (sigma' - sigma) (d + d') / 2`
///
/// # Errors
/// As [`euler`].
pub async fn heun(run: &mut Run<'_>, from: Checkpoint) -> Result<Tensor<4>> {
    let mut x = from.x;
    for (i, sigma, next) in run.steps(from.made)? {
        let denoised = run.step(i, &x, sigma).await?;
        let predicted = toward(x.clone(), denoised, next / sigma);
        x = if next > 0.0 {
            let slope = (predicted.clone() - run.denoise(&predicted, next).await?) / next;
            (predicted + x + slope * (next - sigma)) / 2.0
        } else {
            predicted
        };
        run.reach(i, &x, None).await?;
    }
    Ok(x)
}

/// DPM-Solver++(2M) (Lu et al. 2022, algorithm 2; diffusers' `DPMSolverMultistepScheduler` of order 2, midpoint). One
/// evaluation a step: the previous one serves to extrapolate half a step ahead. The first step, and a last one to 0,
/// are of first order.
///
/// With `lambda = -ln sigma`, `h = lambda' - lambda` and `r = h_previous / h`:
///
/// `D = x0 + (x0 - x0_previous) / (2 r)`, `x' = (sigma' / sigma) x - (exp(-h) - 1) D`
///
/// # Errors
/// As [`euler`].
pub async fn dpmpp_2m(run: &mut Run<'_>, from: Checkpoint) -> Result<Tensor<4>> {
    let Checkpoint { made, mut x, mut previous } = from;
    for (i, sigma, next) in run.steps(made)? {
        let denoised = run.step(i, &x, sigma).await?;
        let h = (sigma / next).ln();
        let ahead = match previous {
            Some(old) if next > 0.0 => {
                let h_old = (run.sigmas[i - run.before - 1] / sigma).ln();
                denoised.clone() + (denoised.clone() - old) * (h / (2.0 * h_old))
            }
            _ => denoised.clone(),
        };
        x = toward(x, ahead, next / sigma);
        run.reach(i, &x, Some(&denoised)).await?;
        previous = Some(denoised);
    }
    Ok(x)
}

/// Sampling from a latent consistency model (Luo et al. 2023, algorithm 3; diffusers' `LCMScheduler`), whose network
/// answers the end of the ODE's path: jump to it, and add fresh noise of the next level. One evaluation a step.
///
/// `x' = x0 + sigma' n`
///
/// The paper's boundary scalings `c_skip(t)`, `c_out(t)` are within 1e-5 of 0 and 1 at every timestep that such models
/// are distilled for (19 and up), and left out.
///
/// # Errors
/// As [`euler`].
pub async fn lcm(run: &mut Run<'_>, from: Checkpoint) -> Result<Tensor<4>> {
    let mut x = from.x;
    for (i, sigma, next) in run.steps(from.made)? {
        x = run.step(i, &x, sigma).await?;
        if next > 0.0 {
            let noise = run.noise_like(&x, i);
            x = x + noise * next;
        }
        run.reach(i, &x, None).await?;
    }
    Ok(x)
}

/// The samplers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// [`euler`].
    Euler,
    /// [`euler_ancestral`].
    EulerAncestral,
    /// [`heun`].
    Heun,
    /// [`dpmpp_2m`].
    #[serde(rename = "dpmpp_2m")]
    Dpmpp2m,
    /// [`ddim`] with `eta = 0`.
    Ddim,
    /// [`lcm`].
    Lcm,
}

impl Sampler {
    /// All samplers.
    pub const ALL: [Self; 6] = [Self::Euler, Self::EulerAncestral, Self::Heun, Self::Dpmpp2m, Self::Ddim, Self::Lcm];

    /// The name in requests and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::EulerAncestral => "euler_ancestral",
            Self::Heun => "heun",
            Self::Dpmpp2m => "dpmpp_2m",
            Self::Ddim => "ddim",
            Self::Lcm => "lcm",
        }
    }

    /// Whether a [`Checkpoint`] of this sampler, but for a run's beginning, has a previous estimate.
    pub fn looks_back(self) -> bool {
        self == Self::Dpmpp2m
    }

    /// Walks a latent, which stands at the run's first noise level, or a run that came as far as a checkpoint, down to the
    /// last noise level.
    ///
    /// # Errors
    /// As [`euler`]; [`Error::Invalid`] for a checkpoint that is none of this run.
    pub async fn sample(self, run: &mut Run<'_>, from: impl Into<Checkpoint>) -> Result<Tensor<4>> {
        let from = from.into();
        let looks_back = from.made > 0 && self.looks_back();
        if from.made > 0 && from.made >= run.sigmas.len() || from.previous.is_some() != looks_back {
            let why = format!("after {} steps of another run than this one of {self}", from.made);
            return Err(Error::Invalid { parameter: "checkpoint", why });
        }
        match self {
            Self::Euler => euler(run, from).await,
            Self::EulerAncestral => euler_ancestral(run, from).await,
            Self::Heun => heun(run, from).await,
            Self::Dpmpp2m => dpmpp_2m(run, from).await,
            Self::Ddim => ddim(run, from, 0.0).await,
            Self::Lcm => lcm(run, from).await,
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Sampler {
    type Err = Error;

    /// Reads a name, written with `_` or with `-`.
    fn from_str(name: &str) -> Result<Self> {
        let snake = name.replace('-', "_");
        Self::ALL.into_iter().find(|sampler| sampler.name() == snake).ok_or_else(|| Error::Invalid {
            parameter: "sampler",
            why: format!("`{name}` is none of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}
