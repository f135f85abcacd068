//! How well networks draw together, and how well they denoise.
//!
//! | score | what it is | better |
//! |---|---|---|
//! | R@1, R@5 | share of the drawings whose own picture is nearest, or among the five nearest, by Euclidean distance of the latents among all pictures of the style | higher |
//! | Frechet distance | between drawings and pictures of the same prompts, in the autoencoder's latents averaged to 4x4 cells | lower |
//! | sharpness | mean difference of neighbouring pixels, relative to that of the true pictures | 1 |
//! | v error | mean squared error of the predicted velocity on held-out pictures, by timestep; fixed noise, no guidance | lower |
//!
//! Prompts, noise and timesteps are the same for all arms, so that their differences are paired.

use super::Bench;
use crate::{
    Result,
    diffusion::{
        Cond, Denoiser,
        guidance::Guided,
        noise::{Noise, Stream},
        samplers::{Run, Sampler, Step},
        schedule::{Spacing, initial_scale},
    },
    nets::{Pace, now},
    train::{Draw, eval::frechet, expert, sheet},
};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::{ops::Range, path::Path, time::Instant};

/// Drawings made at once.
const BATCH: usize = 32;
/// Drawings on a sheet.
const SHEET: usize = 32;
/// Timesteps that held-out pictures are denoised at.
const STRATA: usize = 16;
/// Cells of a side in the space of the Frechet distance.
const CELLS: usize = 4;

/// The scores of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Pictures drawn, one for each training picture.
    pub drawings: usize,
    /// R@1 over all.
    pub recall_at_1: f64,
    /// R@5 over all.
    pub recall_at_5: f64,
    /// R@1 of pictures that are in the mixed data set at high resolution.
    pub recall_at_1_high: f64,
    /// R@1 of those that it has at low resolution only.
    pub recall_at_1_low: f64,
    /// Frechet distance in the autoencoder's latents averaged to 4x4 cells.
    pub frechet: f64,
    /// Mean difference of neighbouring pixels, relative to that of the true pictures.
    pub sharpness: f64,
    /// Errors on held-out pictures.
    pub errors: Vec<ErrorAt>,
    /// Operations of one drawing, without decoding.
    pub drawing_flops: u64,
    /// Wall time of one drawing, without decoding.
    pub drawing_seconds: f64,
}

/// Error at one timestep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorAt {
    /// The timestep.
    pub timestep: usize,
    /// Mean squared error of v, one number a held-out picture.
    pub v: Vec<f32>,
    /// Mean squared error of the clean latent over all of them.
    pub x0: f32,
}

impl Scores {
    /// Mean v error over the timesteps in `range`; NaN if none was measured there.
    pub fn v_error(&self, range: Range<usize>) -> f64 {
        let errors = self.pictures(range);
        errors.iter().sum::<f64>() / errors.len() as f64
    }

    /// The same for each held-out picture.
    pub fn pictures(&self, range: Range<usize>) -> Vec<f64> {
        let errors: Vec<&ErrorAt> = self.errors.iter().filter(|error| range.contains(&error.timestep)).collect();
        let pictures = errors.first().map_or(0, |error| error.v.len());
        let mean = |at: usize| errors.iter().map(|error| f64::from(error.v[at])).sum::<f64>() / errors.len() as f64;
        (0..pictures).map(mean).collect()
    }
}

/// What a batch of drawings is asked for.
pub struct Prompt {
    /// With and without the words.
    pub cond: Cond,
    /// See [`Prompt::cond`].
    pub uncond: Cond,
    /// Noise of this batch.
    pub noise: Noise,
    /// Drawings.
    pub count: usize,
}

/// Where a drawing begins: the noisy latents, and the noise levels from there on.
pub type Start<'s> = &'s dyn Fn(&Prompt) -> Result<(Tensor<4>, Vec<f64>)>;

/// Who is scored.
pub struct Contender<'c> {
    /// Denoises whole latents.
    pub denoiser: &'c dyn Denoiser,
    /// At these timesteps.
    pub timesteps: Range<usize>,
    /// Where its drawings begin.
    pub start: Start<'c>,
    /// Operations of one drawing.
    pub flops: u64,
}

impl Bench<'_> {
    /// Draws, denoises, and scores both; the sheet at `path` shows some of the drawings.
    ///
    /// # Errors
    /// Those of the networks, or if the sheet cannot be written.
    pub fn score(&self, contender: &Contender, path: &Path) -> Result<Scores> {
        let places: Vec<usize> = (0..self.sharp.len()).collect();
        let clock = Instant::now();
        let drawn = self.draw(&places, contender)?;
        let seconds = clock.elapsed().as_secs_f64();
        let ranks = expert::ranks(&drawn, &self.sharp, &places);
        let share = |found: &dyn Fn(usize) -> bool, of: &dyn Fn(usize) -> bool| {
            let asked: Vec<usize> = places.iter().copied().filter(|&place| of(place)).collect();
            asked.iter().filter(|&&place| found(ranks[place])).count() as f64 / asked.len().max(1) as f64
        };
        let low = |place: usize| self.mixed.item(place).low_resolution;
        let truth: Vec<f32> = places.iter().flat_map(|&place| self.sharp.latent(place)).copied().collect();
        let frechet = frechet::distance(&self.pooled(&drawn), &self.pooled(&truth))?;

        let shown: Vec<usize> =
            (0..SHEET.min(places.len())).map(|at| at * places.len() / SHEET.min(places.len())).collect();
        let drawings = self.decode(&drawn, &shown)?;
        if self.roughness.get().is_none() {
            let measured = roughness(self.decode(&truth, &shown)?);
            self.roughness.get_or_init(|| measured);
        }
        let sharpness = roughness(drawings.clone()) / self.roughness.get().expect("set above");
        sheet::write(&sheet::pictures(drawings), 8, path)?;

        Ok(Scores {
            drawings: places.len(),
            recall_at_1: share(&|rank| rank == 1, &|_| true),
            recall_at_5: share(&|rank| rank <= 5, &|_| true),
            recall_at_1_high: share(&|rank| rank == 1, &|place| !low(place)),
            recall_at_1_low: share(&|rank| rank == 1, &low),
            frechet,
            sharpness,
            errors: self.errors(contender)?,
            drawing_flops: contender.flops,
            drawing_seconds: seconds / places.len() as f64,
        })
    }

    /// Noise levels of a drawing.
    ///
    /// # Errors
    /// If the scale asks for no step.
    pub fn sigmas(&self) -> Result<Vec<f64>> {
        self.schedule.sigmas(Spacing::Trailing, self.scale.steps)
    }

    /// Latents of noise at the first of [`Bench::sigmas`].
    ///
    /// # Errors
    /// As [`Bench::sigmas`].
    pub fn from_noise(&self, prompt: &Prompt) -> Result<(Tensor<4>, Vec<f64>)> {
        let ([channels, side, _], sigmas) = (self.sharp.latent_shape(), self.sigmas()?);
        let noise = prompt.noise.normal(Stream::Latent, [prompt.count, channels, side, side], &self.device);
        Ok((noise * initial_scale(sigmas[0]), sigmas))
    }

    /// Walks `x` down `sigmas`, guided.
    ///
    /// # Errors
    /// The denoiser's.
    pub fn sample(&self, denoiser: &dyn Denoiser, prompt: &Prompt, sigmas: &[f64], x: Tensor<4>) -> Result<Tensor<4>> {
        let guided = Guided {
            inner: denoiser,
            uncond: prompt.uncond.clone(),
            style: None,
            scale: self.scale.guidance,
            style_scale: 0.0,
            sequential: false,
        };
        let mut run = Run {
            before: 0,
            denoiser: &guided,
            cond: &prompt.cond,
            sigmas,
            noise: &prompt.noise,
            pace: &Pace::free(),
            on_step: &mut |_: Step<'_>| (),
        };
        now(Sampler::Dpmpp2m.sample(&mut run, x))
    }

    /// Operations of one guided drawing with `evaluation` operations for each of `steps` evaluations.
    pub fn drawing(&self, steps: usize, evaluation: u64) -> u64 {
        2 * steps as u64 * evaluation
    }

    /// Normalized latents of drawings of the pictures at `places`, one after the other.
    fn draw(&self, places: &[usize], contender: &Contender) -> Result<Vec<f32>> {
        let prompts = expert::prompts(&self.sharp, places);
        let mut latents = Vec::new();
        for (number, prompts) in prompts.chunks(BATCH).enumerate() {
            let prompt = Prompt {
                cond: self.condition(prompts)?,
                uncond: self.condition(&vec![""; prompts.len()])?,
                noise: Noise::new(number as u64),
                count: prompts.len(),
            };
            let (x, sigmas) = (contender.start)(&prompt)?;
            latents.extend(expert::to_vec(self.sample(contender.denoiser, &prompt, &sigmas, x)?));
        }
        Ok(latents)
    }

    fn condition(&self, captions: &[impl AsRef<str>]) -> Result<Cond> {
        let (tokens, pooled) = self.sharp.condition(captions, &self.device)?;
        Ok(Cond { tokens, vector: Some(pooled) })
    }

    /// Errors on the held-out pictures at [`STRATA`] timesteps, as far as the contender is asked there.
    fn errors(&self, contender: &Contender) -> Result<Vec<ErrorAt>> {
        let places: Vec<usize> = (0..self.held_out.len()).collect();
        let cond = expert::prompts(&self.held_out, &places);
        let [channels, side, _] = self.held_out.latent_shape();
        let size = channels * side * side;
        let timesteps = (0..STRATA).map(|stratum| (2 * stratum + 1) * 1000 / (2 * STRATA));
        let mut errors = Vec::new();
        for timestep in timesteps.filter(|timestep| contender.timesteps.contains(timestep)) {
            let (sigma, mut v, mut x0) = (self.schedule.sigma(timestep as f64), Vec::new(), 0.0);
            let mut draw = Draw::new(0, timestep as u64);
            for (places, captions) in places.chunks(BATCH).zip(cond.chunks(BATCH)) {
                let clean: Vec<f32> = places.iter().flat_map(|&place| self.held_out.latent(place)).copied().collect();
                let noise = draw.normal(clean.len());
                let noisy = clean.iter().zip(&noise).map(|(x0, n)| x0 + sigma as f32 * n).collect();
                let shape = [places.len(), channels, side, side];
                let x = Tensor::<4>::from_data(TensorData::new(noisy, shape), &self.device);
                let cond = self.condition(captions)?;
                let denoised = now(contender.denoiser.denoise(x, sigma, &cond, &Pace::free()))?;
                for (denoised, clean) in expert::to_vec(denoised).chunks_exact(size).zip(clean.chunks_exact(size)) {
                    let error: f32 = denoised.iter().zip(clean).map(|(a, b)| (a - b) * (a - b)).sum();
                    // An error of x0 is one of v, times sqrt(1 - abar) = sigma / sqrt(sigma^2 + 1).
                    v.push(error / size as f32 * ((sigma * sigma + 1.0) / (sigma * sigma)) as f32);
                    x0 += error / size as f32 / self.held_out.len() as f32;
                }
            }
            errors.push(ErrorAt { timestep, v, x0 });
        }
        Ok(errors)
    }

    /// Means over cells of normalized latents: vectors of `channels * CELLS * CELLS` numbers.
    fn pooled(&self, latents: &[f32]) -> Vec<Vec<f32>> {
        let [channels, side, _] = self.sharp.latent_shape();
        let cell = side / CELLS;
        let means = |latent: &[f32]| {
            let mut means = vec![0.0; channels * CELLS * CELLS];
            for (at, value) in latent.iter().enumerate() {
                let (channel, row, column) = (at / (side * side), at / side % side, at % side);
                means[(channel * CELLS + row / cell) * CELLS + column / cell] += value / (cell * cell) as f32;
            }
            means
        };
        latents.chunks_exact(channels * side * side).map(means).collect()
    }

    /// Some of `latents` as the autoencoder decodes them.
    fn decode(&self, latents: &[f32], shown: &[usize]) -> Result<Tensor<4>> {
        let [channels, side, _] = self.sharp.latent_shape();
        let size = channels * side * side;
        let decoded = shown.iter().map(|&at| {
            let data = TensorData::new(latents[at * size..][..size].to_vec(), [1, channels, side, side]);
            self.autoencoder.decoder.decode_now(self.statistics.restore(Tensor::from_data(data, &self.device)))
        });
        Ok(Tensor::cat(decoded.collect::<Result<_>>()?, 0))
    }
}

/// Mean absolute difference of neighbouring pixels.
fn roughness(images: Tensor<4>) -> f64 {
    let [_, _, height, width] = images.dims();
    let images = images.clamp(0.0, 2.0);
    let across = images.clone().narrow(3, 1, width - 1) - images.clone().narrow(3, 0, width - 1);
    let down = images.clone().narrow(2, 1, height - 1) - images.narrow(2, 0, height - 1);
    f64::from(across.abs().mean().into_scalar::<f32>()) + f64::from(down.abs().mean().into_scalar::<f32>())
}
