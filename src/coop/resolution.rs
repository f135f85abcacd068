//! Sub-module 2 of Coop-Diffusion: one model begins a picture at one resolution, another finishes it at another
//! (PanGu-Draw, section 3.3).
//!
//! ```text
//! sigma_T ... low-resolution model ... sigma_low | x0' -> D' -> scale in pixels -> E -> + sigma_low n | high-resolution model ... 0
//! ```
//!
//! Scaling the noisy latent itself would be cheaper and is wrong: neighbours then share their noise, which no model was
//! trained on (the paper's figure 3a). [`scale_noisy`] does it all the same, to be looked at; [`autocorrelation`] shows
//! what is wrong with it.

use super::{Opening, Participant};
use crate::{
    Result,
    nets::Pace,
    pixels::{Upsampler, resample},
};
use burn::tensor::Tensor;

/// The steps of a run before the bridge and after it: noise levels down to the first that is at most `low`, and from that
/// one on. Before it there may be no step, and after it none.
pub fn divide(sigmas: &[f64], low: f64) -> (&[f64], &[f64]) {
    let at = sigmas.partition_point(|&sigma| sigma > low).min(sigmas.len() - 1);
    (&sigmas[..=at], &sigmas[at..])
}

/// Where `high` goes on at `sigma`, from `low`'s estimate `x0` of its clean latent there: `E(scale(D'(x0))) + sigma n`, with
/// *fresh* noise `n`, standard normal in the shape of `high`'s latent.
///
/// It serves either direction: nothing asks which of the two is larger.
///
/// # Errors
/// As [`super::Space::decode`].
pub async fn bridge(
    low: &Participant<'_>,
    high: &Participant<'_>,
    x0: Tensor<4>,
    sigma: f64,
    noise: Tensor<4>,
    upsampler: Upsampler,
    pace: &Pace,
) -> Result<Opening> {
    Ok(Opening::known(low.cross(high, x0, upsampler, pace).await?, noise, sigma))
}

/// The noisy latent itself at another `[height, width]`: the mistake of the paper's figure 3a.
pub fn scale_noisy(x: Tensor<4>, size: [usize; 2], upsampler: Upsampler) -> Tensor<4> {
    resample(x, size, upsampler)
}

/// Correlation of a latent with itself, moved by `[down, right]` cells: the mean over batch, channels and cells of
/// `n(y, x) n(y + down, x + right)` over that of `n^2`. Near 0 for independent noise, by about one over the root of the
/// number of cells.
///
/// # Panics
/// If the move leaves no cell.
pub async fn autocorrelation(noise: Tensor<4>, [down, right]: [usize; 2]) -> Result<f32> {
    let [_, _, height, width] = noise.dims();
    let window = |top: usize, left: usize| noise.clone().narrow(2, top, height - down).narrow(3, left, width - right);
    let mean = (window(0, 0) * window(down, right)).mean() / noise.clone().square().mean();
    let data = mean.into_data_async().await;
    let data = data.map_err(|error| crate::Error::Device(format!("reading a number back: {error:?}")))?;
    Ok(data.convert::<f32>().iter::<f32>().next().expect("one number"))
}
