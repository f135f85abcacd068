//! Trains an autoencoder: 64 px crops, an L1 loss at three scales, and noise on the latent that keeps it smooth.

use super::{
    Draw,
    data::{
        Dataset,
        mix::{Mix, Sampler},
        picture::{Picture, SIDE},
        splits::Split,
    },
    optimizer::{Optimizer, OptimizerConfig},
    session::{self, Budget, Intervals, LearningRate, Session},
    sheet, warm,
};
use crate::{
    Result,
    nets::autoencoder_tiny::{AutoencoderTiny, AutoencoderTinyConfig, TinyDecoder},
};
use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// What `pangu-draw train autoencoder` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's folder.
    pub dir: PathBuf,
    /// The network.
    pub network: AutoencoderTinyConfig,
    /// When to stop.
    pub budget: Budget,
    /// When to log, to save and to draw.
    pub intervals: Intervals,
    /// Crops in one update.
    pub batch: usize,
    /// Sides in pixels that pictures are brought to before a crop is taken; the least is the side of the whole pictures
    /// that the network is for.
    pub sides: RangeInclusive<usize>,
    /// Side of a crop in pixels.
    pub crop: usize,
    /// Learning rate.
    pub rate: LearningRate,
    /// How often which pictures are seen.
    pub mix: Mix,
    /// A model folder whose autoencoder training begins with.
    pub init: Option<PathBuf>,
    /// Seed of everything random.
    pub seed: u64,
}

impl Options {
    /// What trained the default model: [`AutoencoderTinyConfig::emoji`] on pictures of 128 px.
    pub fn new(dir: PathBuf, budget: Budget) -> Self {
        Self {
            dir,
            network: AutoencoderTinyConfig::emoji(),
            budget,
            intervals: Intervals::default(),
            batch: 32,
            sides: SIDE..=SIDE,
            crop: 64,
            rate: LearningRate { peak: 1.5e-3, warmup: 100, floor: 0.02 },
            mix: Mix::default(),
            init: None,
            seed: 0,
        }
    }

    /// What trained the autoencoder of the sketch and the variation model: [`AutoencoderTinyConfig::sketch`] on pictures of
    /// 64 px, or up to a quarter larger and cropped, so that edges meet the grid of latents everywhere.
    pub fn sketch(dir: PathBuf, budget: Budget) -> Self {
        Self { network: AutoencoderTinyConfig::sketch(), sides: 64..=80, ..Self::new(dir, budget) }
    }
}

/// Standard deviation of the noise on the latent: a Gaussian posterior of fixed variance.
const LATENT_NOISE: f32 = 0.1;
/// Weight of the latent's mean square.
const LATENT_DECAY: f32 = 1e-3;
/// Pictures that reconstruction is measured on, at most.
const HELD_OUT: usize = 256;
/// Pictures that the latents' moments are measured on.
const STATISTICS: usize = 512;
/// Pictures in one evaluation batch.
const EVALUATION_BATCH: usize = 16;

/// What was learnt about the latent space, kept beside the checkpoint as `latent.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatentStatistics {
    /// Mean of each channel over the data set.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
    /// Mean peak signal-to-noise ratio of held-out pictures on white, decibels.
    pub psnr: f32,
    /// The same of their transparency.
    pub psnr_alpha: f32,
}

impl LatentStatistics {
    const FILE: &str = "latent.json";

    /// Raw latents `[batch, channels, height, width]` to mean 0 and standard deviation 1.
    pub fn normalize(&self, latents: Tensor<4>) -> Tensor<4> {
        let [mean, std] = self.moments(&latents.device());
        (latents - mean) / std
    }

    /// What [`LatentStatistics::normalize`] was given.
    pub fn restore(&self, latents: Tensor<4>) -> Tensor<4> {
        let [mean, std] = self.moments(&latents.device());
        latents * std + mean
    }

    fn moments(&self, device: &Device) -> [Tensor<4>; 2] {
        let tensor = |values: &Vec<f32>| TensorData::new(values.clone(), [1, values.len(), 1, 1]);
        [&self.mean, &self.std].map(|values| Tensor::from_data(tensor(values), device))
    }

    /// Reads the statistics of the run in `dir`.
    ///
    /// # Errors
    /// If training did not finish there.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(Self::FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| super::read_error(&path, error))?;
        serde_json::from_str(&text).map_err(|error| super::read_error(&path, error))
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("plain numbers");
        session::write_atomically(&dir.join(Self::FILE), json.as_bytes())
    }
}

/// Trains until the budget is spent, then measures; nothing is measured in a run that pauses. Continues a run that was
/// interrupted.
///
/// # Errors
/// If the folder cannot be written or holds another network's checkpoint.
pub fn train(dataset: &Dataset, options: &Options, device: &Device) -> Result<Option<LatentStatistics>> {
    let device = &device.clone().autodiff();
    device.seed(options.seed);
    let mut model = options.network.init(device)?;
    if let Some(folder) = &options.init {
        model.encoder = warm::start(model.encoder, &folder.join("encoder.gguf"), "encoder.")?;
        model.decoder = warm::start(model.decoder, &folder.join("decoder.gguf"), "decoder.")?;
    }
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::default());
    let mut session = Session::open(&options.dir, options.budget, options.intervals, &mut optimizer)?;
    model = optimizer.weights(model);
    let (training, held_out) = divide(dataset);
    let sampler = Sampler::new(dataset, &training, &options.mix)?;
    let side = *options.sides.start();
    while session.running() {
        let rate = options.rate.at(session.step(), session.done());
        let mut draw = Draw::new(options.seed, session.step());
        let images = crops(dataset, &sampler, options, &mut draw, device)?;
        let loss = loss(&model, images, &mut draw)?;
        let value = loss.clone().inner().into_scalar::<f32>();
        let gradients = loss.backward();
        model = optimizer.step(model, gradients, rate).0;
        session.record(&optimizer, options.batch, value, rate)?;
        if session.sheet_due() {
            reconstructions(&optimizer.averaged(&model), dataset, &held_out, side, &session.sheet_path())?;
        }
    }
    if session.paused() {
        session.finish(&optimizer)?;
        return Ok(None);
    }
    let averaged = optimizer.averaged(&model);
    reconstructions(&averaged, dataset, &held_out, side, &session.sheet_path())?;
    let statistics = measure(&averaged, dataset, &sampler, &held_out, side)?;
    statistics.save(&options.dir)?;
    session.finish(&optimizer)?;
    Ok(Some(statistics))
}

/// Goes on with the decoder of the finished run in `finished` alone, for latents that stay as they are: what was trained
/// on them in the meantime can use it. Measures as [`train`] does.
///
/// # Errors
/// As [`train`]; if there is no finished run.
pub fn refine(
    dataset: &Dataset,
    finished: &Path,
    options: &Options,
    device: &Device,
) -> Result<Option<LatentStatistics>> {
    let mut statistics = LatentStatistics::load(finished)?;
    let AutoencoderTiny { encoder, decoder } = load(finished, &options.network, device)?;
    let device = &device.clone().autodiff();
    let mut model = options.network.init_decoder(device)?;
    let mut optimizer = Optimizer::new(&decoder, OptimizerConfig::default());
    let mut session = Session::open(&options.dir, options.budget, options.intervals, &mut optimizer)?;
    model = optimizer.weights(model);
    let (training, held_out) = divide(dataset);
    let sampler = Sampler::new(dataset, &training, &options.mix)?;
    let side = *options.sides.start();
    while session.running() {
        let rate = options.rate.at(session.step(), session.done());
        let mut draw = Draw::new(options.seed, session.step());
        let images = crops(dataset, &sampler, options, &mut draw, &encoder.devices()[0])?;
        let latent = Tensor::from_data(encoder.encode_now(images.clone())?.into_data(), device);
        let decoded = model.decode_now(noised(latent, LATENT_NOISE / 2.0, &mut draw))?;
        let loss = reconstruction(decoded, Tensor::from_data(images.into_data(), device));
        let value = loss.clone().inner().into_scalar::<f32>();
        model = optimizer.step(model, loss.backward(), rate).0;
        session.record(&optimizer, options.batch, value, rate)?;
    }
    if session.paused() {
        session.finish(&optimizer)?;
        return Ok(None);
    }
    let averaged = AutoencoderTiny { encoder, decoder: optimizer.averaged(&model) };
    reconstructions(&averaged, dataset, &held_out, side, &session.sheet_path())?;
    (statistics.psnr, statistics.psnr_alpha) = quality(&averaged, dataset, &held_out, side)?;
    statistics.save(&options.dir)?;
    session.finish(&optimizer)?;
    Ok(Some(statistics))
}

/// The refined decoder of the run in `dir`.
///
/// # Errors
/// If there is no checkpoint of this network.
pub fn load_refined(dir: &Path, config: &AutoencoderTinyConfig, device: &Device) -> Result<TinyDecoder> {
    session::averaged(dir, &config.init_decoder(device)?)
}

/// The averaged network of the run in `dir`.
///
/// # Errors
/// If there is no checkpoint of this network.
pub fn load(dir: &Path, config: &AutoencoderTinyConfig, device: &Device) -> Result<AutoencoderTiny> {
    session::averaged(dir, &config.init(device)?)
}

/// What is trained on, and what is measured on: sharp pictures of the held-out concepts, or one picture in 32 where there
/// are fewer than 16 of those.
fn divide(dataset: &Dataset) -> (Vec<usize>, Vec<usize>) {
    let sharp = |item: &usize| !dataset.items[*item].low_resolution;
    let mut training: Vec<usize> = dataset.training().into_iter().filter(sharp).collect();
    let unseen = |item: &usize| dataset.split(*item) == Split::Concept;
    let mut held_out: Vec<usize> = (0..dataset.items.len()).filter(sharp).filter(unseen).collect();
    if held_out.len() < 16 {
        held_out = training.iter().copied().step_by(32).collect();
        if training.len() >= 32 {
            training.retain(|item| !held_out.contains(item));
        }
    }
    let stride = held_out.len().div_ceil(HELD_OUT).max(1);
    (training, held_out.into_iter().step_by(stride).collect())
}

/// A batch of random crops `[batch, 4, crop, crop]`, half of them mirrored.
fn crops(
    dataset: &Dataset,
    sampler: &Sampler,
    options: &Options,
    draw: &mut Draw,
    device: &Device,
) -> Result<Tensor<4>> {
    let side = options.crop;
    let (least, most) = options.sides.clone().into_inner();
    let mut values = Vec::with_capacity(options.batch * 4 * side * side);
    for _ in 0..options.batch {
        let mut picture = dataset.picture(sampler.draw(draw))?;
        if (least, most) != (SIDE, SIDE) {
            picture = picture.resized(least + draw.below(most - least + 1));
        }
        let corner = [0, 1].map(|_| draw.below(picture.side - side + 1));
        picture.window(corner, side, draw.uniform() < 0.5, &mut values);
    }
    Ok(Tensor::from_data(TensorData::new(values, [options.batch, 4, side, side]), device))
}

/// The reconstruction's loss, with noise on the latent and a decay of it, `1e-3 mean(z^2)`.
fn loss(model: &AutoencoderTiny, images: Tensor<4>, draw: &mut Draw) -> Result<Tensor<1>> {
    let latent = model.encoder.encode_now(images.clone())?;
    let decay = latent.clone().square().mean();
    let decoded = model.decoder.decode_now(noised(latent, LATENT_NOISE, draw))?;
    Ok(reconstruction(decoded, images) + decay * LATENT_DECAY)
}

fn noised(latent: Tensor<4>, std: f32, draw: &mut Draw) -> Tensor<4> {
    let shape = latent.shape();
    let noise = draw.normal(shape.num_elements());
    let noise = Tensor::<4>::from_data(TensorData::new(noise, shape), &latent.device());
    latent + noise * std
}

/// `L1 + 0.5 L1(gradients) + 0.5 L1(half size) + 0.5 L1(quarter size) + 0.5 MSE`.
fn reconstruction(decoded: Tensor<4>, images: Tensor<4>) -> Tensor<1> {
    let error = decoded - images;
    let [_, _, height, width] = error.dims();
    let half = halved(error.clone());
    let quarter = halved(half.clone());
    // The difference of neighbours is linear, so the error's gradient is the gradients' error.
    let across = error.clone().narrow(3, 1, width - 1) - error.clone().narrow(3, 0, width - 1);
    let down = error.clone().narrow(2, 1, height - 1) - error.clone().narrow(2, 0, height - 1);
    let rest = across.abs().mean()
        + down.abs().mean()
        + half.abs().mean()
        + quarter.abs().mean()
        + error.clone().square().mean();
    error.abs().mean() + rest * 0.5
}

/// Means of 2x2 pixels.
fn halved(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let pairs = x.reshape([batch * channels * height / 2, 2, width / 2, 2]);
    pairs.mean_dim(1).mean_dim(3).reshape([batch, channels, height / 2, width / 2])
}

/// Whole pictures as the networks see them, `[pictures, 4, side, side]`.
pub fn tensor(pictures: &[Picture], device: &Device) -> Tensor<4> {
    let side = pictures.first().map_or(0, |picture| picture.side);
    let mut values = Vec::with_capacity(pictures.len() * 4 * side * side);
    pictures.iter().for_each(|picture| picture.window([0, 0], side, false, &mut values));
    Tensor::from_data(TensorData::new(values, [pictures.len(), 4, side, side]), device)
}

/// Some of a data set's pictures, `[items, 4, side, side]`.
///
/// # Errors
/// Those of [`Dataset::picture`].
pub fn whole(dataset: &Dataset, items: &[usize], side: usize, device: &Device) -> Result<Tensor<4>> {
    let pictures = items.iter().map(|&item| Ok(dataset.picture(item)?.resized(side))).collect::<Result<Vec<_>>>()?;
    Ok(tensor(&pictures, device))
}

/// Held-out pictures above what becomes of them.
fn reconstructions(
    model: &AutoencoderTiny,
    dataset: &Dataset,
    items: &[usize],
    side: usize,
    path: &Path,
) -> Result<()> {
    let device = model.devices()[0].clone();
    let mut rows = Vec::new();
    let shown: Vec<usize> = items.iter().copied().step_by(items.len().div_ceil(32).max(1)).collect();
    for items in shown.chunks(8) {
        let images = whole(dataset, items, side, &device)?;
        let decoded = model.decoder.decode_now(model.encoder.encode_now(images.clone())?)?;
        rows.extend(sheet::pictures(images));
        rows.extend(sheet::pictures(decoded));
    }
    sheet::write(&rows, shown.len().min(8), path)
}

fn measure(
    model: &AutoencoderTiny,
    dataset: &Dataset,
    sampler: &Sampler,
    held_out: &[usize],
    side: usize,
) -> Result<LatentStatistics> {
    let device = model.devices()[0].clone();
    let (psnr, psnr_alpha) = quality(model, dataset, held_out, side)?;
    let (mut sums, mut squares, mut count) = (Vec::<f64>::new(), Vec::<f64>::new(), 0);
    let mut draw = Draw::new(0, u64::MAX);
    let items: Vec<usize> = (0..STATISTICS).map(|_| sampler.draw(&mut draw)).collect();
    for items in items.chunks(EVALUATION_BATCH) {
        let latent = model.encoder.encode_now(whole(dataset, items, side, &device)?)?;
        let [batch, channels, height, width] = latent.dims();
        sums.resize(channels, 0.0);
        squares.resize(channels, 0.0);
        for (index, values) in to_vec(latent).chunks_exact(height * width).enumerate() {
            sums[index % channels] += values.iter().map(|v| f64::from(*v)).sum::<f64>();
            squares[index % channels] += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        }
        count += batch * height * width;
    }
    let mean: Vec<f64> = sums.iter().map(|sum| sum / count as f64).collect();
    let std = squares.iter().zip(&mean).map(|(square, mean)| (square / count as f64 - mean * mean).sqrt() as f32);
    Ok(LatentStatistics { std: std.collect(), mean: mean.into_iter().map(|m| m as f32).collect(), psnr, psnr_alpha })
}

/// Mean peak signal-to-noise ratios of the pictures on white, and of their transparency.
fn quality(model: &AutoencoderTiny, dataset: &Dataset, held_out: &[usize], side: usize) -> Result<(f32, f32)> {
    let device = model.devices()[0].clone();
    let [mut psnr, mut psnr_alpha] = [0.0f32; 2];
    for &item in held_out {
        let image = whole(dataset, &[item], side, &device)?;
        let decoded = model.decoder.decode_now(model.encoder.encode_now(image.clone())?)?.clamp(0.0, 2.0);
        let error = to_vec((decoded - image).square());
        let (ink, cover) = error.split_at(error.len() / 4 * 3);
        let decibels = |error: &[f32]| {
            let mse = error.iter().sum::<f32>() / error.len() as f32;
            10.0 * (4.0 / mse.max(1e-10)).log10() / held_out.len() as f32
        };
        psnr += decibels(ink);
        psnr_alpha += decibels(cover);
    }
    Ok((psnr, psnr_alpha))
}

fn to_vec(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted above")
}
