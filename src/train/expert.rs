//! Trains one expert of a time-decoupled generator, on its own timesteps and its own data (PanGu-Draw, section 3.1).
//!
//! | expert | timesteps | pictures | latents |
//! |---|---|---|---|
//! | structure | `[500, 1000)` | all, the low-resolution ones scaled up | whole |
//! | texture | `[0, 500)` | high resolution only | half size: windows of the whole, and pictures at half scale |
//!
//! Both learn `v = sqrt(abar) n - sqrt(1 - abar) x0` by plain mean squared error. Measured on a small model, epsilon was
//! 15 % better on its own error and twice as bad on `x0`, where shape and colour are decided.

use super::{
    Draw,
    autoencoder::{LatentStatistics, whole},
    captions::{self, Caption},
    data::{Dataset, Item, SIDE},
    optimizer::{Optimizer, OptimizerConfig},
    session::{self, Budget, Intervals, LearningRate, Session},
    sheet,
};
use crate::{
    Error, Result,
    diffusion::schedule::{Schedule, ScheduleConfig},
    nets::{
        autoencoder_tiny::AutoencoderTiny,
        text::sentence::Sentences,
        unet::{UNet, UNetConfig},
    },
};
use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// The boundary between the experts, in timesteps; the paper's ablation found half of the schedule best.
pub const T_STRUCT: usize = 500;

/// Which expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Draws composition and shape out of noise.
    Structure,
    /// Refines.
    Texture,
}

impl Role {
    /// The timesteps it is trained on and answers for.
    pub fn timesteps(self) -> Range<usize> {
        match self {
            Self::Structure => T_STRUCT..1000,
            Self::Texture => 0..T_STRUCT,
        }
    }

    /// Whether it may see `item`.
    pub fn accepts(self, item: &Item) -> bool {
        self == Self::Structure || !item.low_resolution
    }

    /// Its name in flags and files.
    pub fn id(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Texture => "texture",
        }
    }
}

/// What `pangu-draw train expert` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's folder.
    pub dir: PathBuf,
    /// Which expert.
    pub role: Role,
    /// The network.
    pub network: UNetConfig,
    /// When to stop.
    pub budget: Budget,
    /// When to log, to save and to draw.
    pub intervals: Intervals,
    /// Samples in one update.
    pub batch: usize,
    /// Learning rate.
    pub rate: LearningRate,
    /// Decay of the weights' average.
    pub average_decay: f32,
    /// Share of samples that see the empty caption.
    pub caption_drop: f32,
    /// Share of the texture expert's samples that are windows of whole pictures, the others are pictures at half scale.
    pub window_share: f32,
    /// Seed of everything random.
    pub seed: u64,
}

impl Options {
    /// What trained the default model.
    pub fn new(dir: PathBuf, role: Role, budget: Budget) -> Self {
        Self {
            dir,
            role,
            network: UNetConfig::emoji(),
            budget,
            intervals: Intervals::default(),
            batch: 16,
            rate: LearningRate { peak: 5e-4, warmup: 200, floor: 0.02 },
            average_decay: 0.998,
            caption_drop: 0.1,
            window_share: 0.5,
            seed: 0,
        }
    }
}

/// Latents and encoded captions of every picture: what training reads instead of pictures and words.
pub struct Material {
    items: Vec<Item>,
    /// Captions of each item, and where each is in `pooled` and `tokens`.
    captions: Vec<(Vec<Caption>, usize)>,
    /// Vectors of all captions, the empty one first.
    pooled: Vec<f32>,
    tokens: Vec<f32>,
    pooled_size: usize,
    tokens_shape: [usize; 2],
    /// Normalized latents `[items, channels, side, side]` of whole pictures, and of pictures at half scale.
    whole: Latents,
    half: Latents,
}

/// Latents of one size, one after the other.
struct Latents {
    values: Vec<f32>,
    channels: usize,
    side: usize,
}

impl Latents {
    fn item(&self, index: usize) -> &[f32] {
        let size = self.channels * self.side * self.side;
        &self.values[index * size..][..size]
    }

    /// Appends the window of `side` at `[top, left]` of one latent.
    fn window(&self, index: usize, [top, left]: [usize; 2], side: usize, out: &mut Vec<f32>) {
        for channel in self.item(index).chunks_exact(self.side * self.side) {
            for row in channel.chunks_exact(self.side).skip(top).take(side) {
                out.extend_from_slice(&row[left..left + side]);
            }
        }
    }
}

/// Pictures or captions encoded at once.
const ENCODING_BATCH: usize = 16;

impl Material {
    /// Encodes all of `dataset`, its captions with `text`.
    ///
    /// # Errors
    /// Those of `text`.
    pub fn encode(
        dataset: &Dataset,
        autoencoder: &AutoencoderTiny,
        statistics: &LatentStatistics,
        text: &dyn Fn(&[&str]) -> Result<Sentences>,
    ) -> Result<Self> {
        let device = autoencoder.devices()[0].clone();
        let (mut wholes, mut halves) = (Vec::new(), Vec::new());
        let mut shapes = [[0; 4]; 2];
        let indices: Vec<usize> = (0..dataset.items.len()).collect();
        for items in indices.chunks(ENCODING_BATCH) {
            let images = whole(dataset, items, &device);
            let small = halved(images.clone());
            for (index, (images, values)) in [(images, &mut wholes), (small, &mut halves)].into_iter().enumerate() {
                let latents = autoencoder.encoder.encode_now(images)?;
                shapes[index] = latents.dims();
                let mut latents = to_vec(latents);
                let [_, channels, height, width] = shapes[index];
                for (at, plane) in latents.chunks_exact_mut(height * width).enumerate() {
                    let (mean, std) = (statistics.mean[at % channels], statistics.std[at % channels]);
                    plane.iter_mut().for_each(|z| *z = (*z - mean) / std);
                }
                values.extend(latents);
            }
        }
        let [whole, half] = [(wholes, shapes[0]), (halves, shapes[1])]
            .map(|(values, [_, channels, side, _])| Latents { values, channels, side });

        let mut texts = vec![String::new()];
        let captions: Vec<(Vec<Caption>, usize)> = dataset
            .items
            .iter()
            .map(|item| {
                let captions = captions::captions(&dataset.concepts[item.concept], item.style);
                let first = texts.len();
                texts.extend(captions.iter().map(|caption| caption.text.clone()));
                (captions, first)
            })
            .collect();
        let (mut pooled, mut tokens) = (Vec::new(), Vec::new());
        let (mut pooled_size, mut tokens_shape) = (0, [0; 2]);
        for texts in texts.chunks(ENCODING_BATCH) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let sentences = text(&texts)?;
            pooled_size = sentences.pooled.dims()[1];
            tokens_shape = [sentences.tokens.dims()[1], sentences.tokens.dims()[2]];
            pooled.extend(to_vec(sentences.pooled));
            tokens.extend(to_vec(sentences.tokens));
        }
        Ok(Self { items: dataset.items.clone(), captions, pooled, tokens, pooled_size, tokens_shape, whole, half })
    }

    /// The items that `role` is trained on.
    pub fn items(&self, role: Role) -> Vec<usize> {
        (0..self.items.len()).filter(|&item| role.accepts(&self.items[item])).collect()
    }

    /// Condition of `captions`, given by their places among all captions (0 is the empty one).
    fn condition(&self, captions: &[usize], device: &Device) -> (Tensor<3>, Tensor<2>) {
        let [length, size] = self.tokens_shape;
        let pick = |values: &[f32], size: usize| -> Vec<f32> {
            captions.iter().flat_map(|&caption| values[caption * size..][..size].iter().copied()).collect()
        };
        let tokens = TensorData::new(pick(&self.tokens, length * size), [captions.len(), length, size]);
        let pooled = TensorData::new(pick(&self.pooled, self.pooled_size), [captions.len(), self.pooled_size]);
        (Tensor::from_data(tokens, device), Tensor::from_data(pooled, device))
    }
}

/// One batch before it becomes tensors: what a step draws.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Items of the data set.
    pub items: Vec<usize>,
    /// Timesteps, stratified over the expert's range.
    pub timesteps: Vec<usize>,
    /// Places of the captions among all captions, 0 for the empty one.
    captions: Vec<usize>,
    /// Clean latents, and noise of the same size.
    clean: Vec<f32>,
    noise: Vec<f32>,
    shape: [usize; 4],
}

impl Batch {
    /// Draws the batch of one step from `items`.
    pub fn draw(material: &Material, items: &[usize], options: &Options, draw: &mut Draw) -> Self {
        let (role, count) = (options.role, options.batch);
        let side = match role {
            Role::Structure => material.whole.side,
            Role::Texture => material.half.side,
        };
        let range = role.timesteps();
        let mut batch = Self {
            items: Vec::new(),
            timesteps: Vec::new(),
            captions: Vec::new(),
            clean: Vec::new(),
            noise: Vec::new(),
            shape: [count, material.whole.channels, side, side],
        };
        for index in 0..count {
            let item = items[draw.below(items.len())];
            let at = (index as f32 + draw.uniform()) / count as f32;
            batch.items.push(item);
            batch.timesteps.push((range.start + (at * range.len() as f32) as usize).min(range.end - 1));
            let (captions, first) = &material.captions[item];
            let caption = captions::draw(captions, draw);
            batch.captions.push(if draw.uniform() < options.caption_drop { 0 } else { first + caption });
            if role == Role::Structure || draw.uniform() < options.window_share {
                let corner = [0, 1].map(|_| draw.below(material.whole.side - side + 1));
                material.whole.window(item, corner, side, &mut batch.clean);
            } else {
                batch.clean.extend_from_slice(material.half.item(item));
            }
        }
        batch.noise = draw.normal(batch.clean.len());
        batch
    }

    /// `x_t = sqrt(abar) x0 + sqrt(1 - abar) n` and the target `v`.
    fn noisy(&self, schedule: &Schedule) -> (Vec<f32>, Vec<f32>) {
        let size = self.clean.len() / self.items.len();
        let (mut x, mut v) = (Vec::with_capacity(self.clean.len()), Vec::with_capacity(self.clean.len()));
        for ((clean, noise), t) in self.clean.chunks_exact(size).zip(self.noise.chunks_exact(size)).zip(&self.timesteps)
        {
            let (a, s) = coefficients(schedule, *t);
            x.extend(clean.iter().zip(noise).map(|(x0, n)| a * x0 + s * n));
            v.extend(clean.iter().zip(noise).map(|(x0, n)| a * n - s * x0));
        }
        (x, v)
    }
}

/// `sqrt(abar_t)` and `sqrt(1 - abar_t)`.
fn coefficients(schedule: &Schedule, t: usize) -> (f32, f32) {
    let abar = schedule.alphas_cumprod()[t];
    (abar.sqrt() as f32, (1.0 - abar).sqrt() as f32)
}

/// The schedule both experts share.
///
/// # Errors
/// Never: the configuration is valid.
pub fn schedule() -> Result<Schedule> {
    Schedule::new(&ScheduleConfig::stable_diffusion())
}

/// Pictures of a sheet in one row.
const SHEET_COLUMNS: usize = 8;
/// Pictures of a sheet.
const SHEET_ITEMS: usize = 32;

/// Trains until the budget is spent. Continues a run that was interrupted.
///
/// `decoder` draws the sheets.
///
/// # Errors
/// If there is nothing to train on, the folder cannot be written, or it holds another network's checkpoint.
pub fn train(
    material: &Material,
    decoder: (&AutoencoderTiny, &LatentStatistics),
    options: &Options,
    device: &Device,
) -> Result<f32> {
    let items = material.items(options.role);
    if items.is_empty() {
        return Err(Error::Invalid { parameter: "data", why: format!("no pictures for {}", options.role.id()) });
    }
    let device = &device.clone().autodiff();
    device.seed(options.seed);
    let schedule = schedule()?;
    let config = OptimizerConfig { average_decay: options.average_decay, ..OptimizerConfig::default() };
    let mut model = options.network.init_for_training(device)?;
    let mut optimizer = Optimizer::new(&model, config);
    let mut session = Session::open(&options.dir, options.budget, options.intervals, &mut optimizer)?;
    model = optimizer.weights(model);
    let mut last = f32::NAN;
    while session.running() {
        let rate = options.rate.at(session.step(), session.done());
        let mut draw = Draw::new(options.seed, session.step());
        let batch = Batch::draw(material, &items, options, &mut draw);
        let loss = loss(&model, material, &batch, &schedule, device)?;
        last = loss.clone().inner().into_scalar::<f32>();
        model = optimizer.step(model, loss.backward(), rate).0;
        session.record(&optimizer, options.batch, last, rate)?;
        if session.sheet_due() {
            let report = report(&optimizer.averaged(&model), material, decoder, options, &schedule, &session)?;
            session.say(report);
        }
    }
    if !session.paused() {
        let report = report(&optimizer.averaged(&model), material, decoder, options, &schedule, &session)?;
        session.say(report);
    }
    session.finish(&optimizer)?;
    Ok(last)
}

fn loss(model: &UNet, material: &Material, batch: &Batch, schedule: &Schedule, device: &Device) -> Result<Tensor<1>> {
    let (x, v) = batch.noisy(schedule);
    let tensor = |values| Tensor::<4>::from_data(TensorData::new(values, batch.shape), device);
    let timesteps: Vec<f32> = batch.timesteps.iter().map(|&t| t as f32).collect();
    let timesteps = Tensor::<1>::from_data(TensorData::new(timesteps, [batch.items.len()]), device);
    let (tokens, pooled) = material.condition(&batch.captions, device);
    let prediction = model.forward_now(tensor(x), timesteps, tokens, Some(pooled))?;
    Ok((prediction - tensor(v)).square().mean())
}

/// The averaged network of the run in `dir`.
///
/// # Errors
/// If there is no checkpoint of this network.
pub fn load(dir: &Path, config: &UNetConfig, device: &Device) -> Result<UNet> {
    let model = config.init(device)?;
    let mut optimizer = Optimizer::new(&model, OptimizerConfig::default());
    session::load(dir, &mut optimizer)?;
    Ok(optimizer.averaged(&model))
}

/// Steps of a sheet's drawing through one expert's range.
const SHEET_STEPS: usize = 12;
/// Guidance of a sheet's drawing.
const SHEET_GUIDANCE: f32 = 3.0;

/// Draws a sheet with one expert and says how often its estimate is nearest to the true picture among all of its style.
///
/// The structure expert starts from noise; the texture expert from true pictures with the noise of its first timestep.
fn report(
    model: &UNet,
    material: &Material,
    (autoencoder, statistics): (&AutoencoderTiny, &LatentStatistics),
    options: &Options,
    schedule: &Schedule,
    session: &Session,
) -> Result<String> {
    let items = material.items(options.role);
    let count = SHEET_ITEMS.min(items.len());
    let items: Vec<usize> = (0..count).map(|index| items[index * items.len() / count]).collect();
    let device = model.devices()[0].clone();
    let range = options.role.timesteps();
    let Latents { channels, side, .. } = material.whole;
    let mut draw = Draw::new(options.seed, u64::MAX);
    let mut x = draw.normal(count * channels * side * side);
    if options.role == Role::Texture {
        let (a, s) = coefficients(schedule, range.end - 1);
        let clean = items.iter().flat_map(|&item| material.whole.item(item));
        x.iter_mut().zip(clean).for_each(|(n, x0)| *n = a * x0 + s * *n);
    }
    // Languages alternate: the first and the second group of captions are the styled English and Chinese names.
    let captions: Vec<usize> = items
        .iter()
        .enumerate()
        .map(|(index, &item)| {
            let (captions, first) = &material.captions[item];
            let chinese = captions.iter().position(|caption| !caption.text.is_ascii()).unwrap_or(0);
            first + if index % 2 == 1 { chinese } else { 0 }
        })
        .collect();
    let shape = [count, channels, side, side];
    let mut x = Tensor::<4>::from_data(TensorData::new(x, shape), &device);
    let (tokens, pooled) = material.condition(&captions, &device);
    let (no_tokens, no_pooled) = material.condition(&vec![0; count], &device);
    let (tokens, pooled) = (Tensor::cat(vec![tokens, no_tokens], 0), Tensor::cat(vec![pooled, no_pooled], 0));
    let mut clean = x.clone();
    for step in 0..SHEET_STEPS {
        let at = |step: usize| range.end - 1 - step * (range.len() - 1) / SHEET_STEPS;
        let (a, s) = coefficients(schedule, at(step));
        let timesteps = Tensor::<1>::full([2 * count], at(step) as f32, &device);
        let both = Tensor::cat(vec![x.clone(), x.clone()], 0);
        let v = model.forward_now(both, timesteps, tokens.clone(), Some(pooled.clone()))?;
        let (v, free) = (v.clone().narrow(0, 0, count), v.narrow(0, count, count));
        let v = free.clone() + (v - free) * SHEET_GUIDANCE;
        clean = x.clone() * a - v.clone() * s;
        let noise = x * s + v * a;
        let (a, s) = coefficients(schedule, at(step + 1));
        x = clean.clone() * a + noise * s;
    }
    let found = nearest(&to_vec(clean.clone()), material, &items);
    let vector =
        |values: &[f32]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, channels, 1, 1]), &device);
    let latents = clean * vector(&statistics.std) + vector(&statistics.mean);
    let mut pictures = Vec::new();
    for index in 0..count {
        pictures.extend(sheet::pictures(autoencoder.decoder.decode_now(latents.clone().narrow(0, index, 1))?));
    }
    sheet::write(&pictures, SHEET_COLUMNS, &session.sheet_path())?;
    Ok(format!("update {}: the true picture is nearest for {found} of {count} drawings", session.step()))
}

/// How many of `drawn` are nearer to their own item's latent than to any other of the same style.
fn nearest(drawn: &[f32], material: &Material, items: &[usize]) -> usize {
    let size = drawn.len() / items.len();
    let distance = |drawing: &[f32], item: usize| -> f32 {
        drawing.iter().zip(material.whole.item(item)).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    let own = |&(drawing, &item): &(&[f32], &usize)| {
        let best = distance(drawing, item);
        let rivals =
            (0..material.items.len()).filter(|&rival| material.items[rival].style == material.items[item].style);
        rivals.into_iter().all(|rival| distance(drawing, rival) >= best)
    };
    drawn.chunks_exact(size).zip(items).filter(own).count()
}

/// Pictures at half scale: means of 2x2 pixels.
fn halved(images: Tensor<4>) -> Tensor<4> {
    let [batch, channels, _, _] = images.dims();
    let pairs = images.reshape([batch * channels * SIDE / 2, 2, SIDE / 2, 2]);
    pairs.mean_dim(1).mean_dim(3).reshape([batch, channels, SIDE / 2, SIDE / 2])
}

fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32 above")
}
