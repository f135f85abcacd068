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
    captions,
    data::{
        Dataset, Item,
        mix::{Mix, Sampler},
        picture::SIDE,
        scene::Language,
    },
    optimizer::{Optimizer, OptimizerConfig},
    session::{self, Budget, Intervals, LearningRate, Session},
    sheet, warm,
};
use crate::{
    Result,
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
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
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

    /// Its name in flags and files.
    pub fn id(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Texture => "texture",
        }
    }
}

/// What of a picture's latent a training sample is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum View {
    /// All of it.
    Whole,
    /// A quarter of the cost: a share `windows` of the samples are windows of half the side, the others whole pictures at
    /// half scale.
    Half {
        /// The share, in `[0, 1]`.
        windows: f32,
    },
}

/// What `pangu-draw train expert` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's folder.
    pub dir: PathBuf,
    /// The timesteps it is trained on, drawn evenly.
    pub timesteps: Range<usize>,
    /// Whether it sees pictures that exist only at low resolution.
    pub low_resolution: bool,
    /// What it sees of a picture.
    pub view: View,
    /// The network.
    pub network: UNetConfig,
    /// A GGUF file with weights that training begins with.
    pub init: Option<PathBuf>,
    /// How often which pictures are seen.
    pub mix: Mix,
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
    /// Seed of everything random.
    pub seed: u64,
}

impl Options {
    /// What trained the default model.
    pub fn new(dir: PathBuf, role: Role, budget: Budget) -> Self {
        Self {
            dir,
            timesteps: role.timesteps(),
            low_resolution: role == Role::Structure,
            view: match role {
                Role::Structure => View::Whole,
                Role::Texture => View::Half { windows: 0.5 },
            },
            network: UNetConfig::emoji(),
            init: None,
            mix: Mix::default(),
            budget,
            intervals: Intervals::default(),
            batch: 16,
            rate: LearningRate { peak: 5e-4, warmup: 200, floor: 0.02 },
            average_decay: 0.998,
            caption_drop: 0.1,
            seed: 0,
        }
    }
}

/// Encodes captions: pooled vectors and tokens.
pub type TextFn<'a> = &'a dyn Fn(&[&str]) -> Result<Sentences>;

/// What training reads instead of pictures: the latents of those it may see. Held-out pictures are not in it.
pub struct Material<'a> {
    /// The data set that the pictures are of.
    pub dataset: &'a Dataset,
    /// Places in the data set, in the order of the latents.
    items: Vec<usize>,
    /// Normalized latents `[items, channels, side, side]` of whole pictures, and of pictures at half scale.
    whole: Latents,
    half: Latents,
    text: TextFn<'a>,
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

/// Pictures encoded at once.
const ENCODING_BATCH: usize = 16;

impl<'a> Material<'a> {
    /// Encodes the pictures of `dataset` that `mix` draws and that are not held out, at their side and at half of it.
    ///
    /// # Errors
    /// If a picture is damaged, or there is nothing to encode.
    pub fn encode(
        dataset: &'a Dataset,
        mix: &Mix,
        autoencoder: &AutoencoderTiny,
        statistics: &LatentStatistics,
        text: TextFn<'a>,
    ) -> Result<Self> {
        Self::encode_at(dataset, mix, autoencoder, statistics, text, SIDE)
    }

    /// [`Material::encode`] of the pictures at another side.
    ///
    /// # Errors
    /// As [`Material::encode`].
    pub fn encode_at(
        dataset: &'a Dataset,
        mix: &Mix,
        autoencoder: &AutoencoderTiny,
        statistics: &LatentStatistics,
        text: TextFn<'a>,
        side: usize,
    ) -> Result<Self> {
        let device = autoencoder.devices()[0].clone();
        let items = Sampler::new(dataset, &dataset.training(), mix)?.items().to_vec();
        let (mut wholes, mut halves) = (Vec::new(), Vec::new());
        let mut shapes = [[0; 4]; 2];
        let bar = ProgressBar::new(items.len() as u64).with_message("pictures encoded");
        bar.set_style(ProgressStyle::with_template("{wide_bar} {pos} of {len} {msg}").expect("a valid template"));
        for items in items.chunks(ENCODING_BATCH) {
            let images = whole(dataset, items, side, &device)?;
            let small = halved(images.clone());
            for (index, (images, values)) in [(images, &mut wholes), (small, &mut halves)].into_iter().enumerate() {
                let latents = autoencoder.encoder.encode_now(images)?;
                shapes[index] = latents.dims();
                values.extend(to_vec(statistics.normalize(latents)));
            }
            bar.inc(items.len() as u64);
        }
        bar.finish_and_clear();
        let [whole, half] = [(wholes, shapes[0]), (halves, shapes[1])]
            .map(|(values, [_, channels, side, _])| Latents { values, channels, side });
        Ok(Self { dataset, items, whole, half, text })
    }

    /// Draws, of the pictures encoded, those that `options` asks for. What is drawn are places in the material.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are none.
    pub fn sampler(&self, options: &Options) -> Result<Sampler> {
        let seen = |&place: &usize| options.low_resolution || !self.item(place).low_resolution;
        let places: Vec<usize> = (0..self.items.len()).filter(seen).collect();
        Sampler::over(&places, |place| (self.dataset, self.item(place)), &options.mix)
    }

    /// Pictures encoded.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Side of a latent of half a picture's side.
    pub fn half_side(&self) -> usize {
        self.half.side
    }

    /// Places in the data set of the pictures encoded.
    pub fn items(&self) -> &[usize] {
        &self.items
    }

    /// The picture at a place.
    pub fn item(&self, place: usize) -> &Item {
        &self.dataset.items[self.items[place]]
    }

    /// The whole latent at a place, `[channels, side, side]`.
    pub fn latent(&self, place: usize) -> &[f32] {
        self.whole.item(place)
    }

    /// Axes of a whole latent.
    pub fn latent_shape(&self) -> [usize; 3] {
        [self.whole.channels, self.whole.side, self.whole.side]
    }

    /// Condition of `captions`; the empty text is no condition.
    ///
    /// # Errors
    /// Those of the text encoder.
    pub fn condition(&self, captions: &[impl AsRef<str>], device: &Device) -> Result<(Tensor<3>, Tensor<2>)> {
        let captions: Vec<&str> = captions.iter().map(AsRef::as_ref).collect();
        let Sentences { tokens, pooled } = (self.text)(&captions)?;
        let moved = |data: TensorData| data.convert::<f32>();
        Ok((Tensor::from_data(moved(tokens.into_data()), device), Tensor::from_data(moved(pooled.into_data()), device)))
    }

    /// [`Material::condition`] of `captions` and, after them, of as many empty ones.
    pub(super) fn guided(&self, captions: &[String], device: &Device) -> Result<(Tensor<3>, Tensor<2>)> {
        let (tokens, pooled) = self.condition(captions, device)?;
        let (no_tokens, no_pooled) = self.condition(&vec![""; captions.len()], device)?;
        Ok((Tensor::cat(vec![tokens, no_tokens], 0), Tensor::cat(vec![pooled, no_pooled], 0)))
    }
}

/// One batch before it becomes tensors: what a step draws.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Places in the material.
    pub places: Vec<usize>,
    /// Timesteps, stratified over the expert's range.
    pub timesteps: Vec<usize>,
    /// Captions, empty for those dropped.
    pub captions: Vec<String>,
    /// Clean latents, and noise of the same size.
    clean: Vec<f32>,
    noise: Vec<f32>,
    shape: [usize; 4],
}

impl Batch {
    /// Draws the batch of one step.
    pub fn draw(material: &Material, sampler: &Sampler, options: &Options, draw: &mut Draw) -> Self {
        let (range, count) = (&options.timesteps, options.batch);
        let side = match options.view {
            View::Whole => material.whole.side,
            View::Half { .. } => material.half.side,
        };
        let mut batch = Self {
            places: Vec::new(),
            timesteps: Vec::new(),
            captions: Vec::new(),
            clean: Vec::new(),
            noise: Vec::new(),
            shape: [count, material.whole.channels, side, side],
        };
        for index in 0..count {
            let place = sampler.draw(draw);
            let at = (index as f32 + draw.uniform()) / count as f32;
            batch.places.push(place);
            batch.timesteps.push((range.start + (at * range.len() as f32) as usize).min(range.end - 1));
            let dataset = material.dataset;
            let mut captions = captions::captions(&dataset.concepts, material.item(place), &dataset.splits);
            let dropped = draw.uniform() < options.caption_drop || captions.is_empty();
            let caption =
                if dropped { String::new() } else { captions.swap_remove(captions::draw(&captions, draw)).text };
            batch.captions.push(caption);
            let windowed = match options.view {
                View::Whole => true,
                View::Half { windows } => draw.uniform() < windows,
            };
            if windowed {
                let corner = [0, 1].map(|_| draw.below(material.whole.side - side + 1));
                material.whole.window(place, corner, side, &mut batch.clean);
            } else {
                batch.clean.extend_from_slice(material.half.item(place));
            }
        }
        batch.noise = draw.normal(batch.clean.len());
        batch
    }

    /// `x_t = sqrt(abar) x0 + sqrt(1 - abar) n` and the target `v`.
    fn noisy(&self, schedule: &Schedule) -> (Vec<f32>, Vec<f32>) {
        let size = self.clean.len() / self.places.len();
        let (mut x, mut v) = (Vec::with_capacity(self.clean.len()), Vec::with_capacity(self.clean.len()));
        for ((clean, noise), t) in self.clean.chunks_exact(size).zip(self.noise.chunks_exact(size)).zip(&self.timesteps)
        {
            let (a, s) = coefficients(schedule, *t);
            x.extend(clean.iter().zip(noise).map(|(x0, n)| a * x0 + s * n));
            v.extend(clean.iter().zip(noise).map(|(x0, n)| a * n - s * x0));
        }
        (x, v)
    }

    /// Mean squared error of a prediction of v from the noisy latents and the timesteps.
    pub(super) fn loss(
        &self,
        predict: impl FnOnce(Tensor<4>, Tensor<1>) -> Result<Tensor<4>>,
        device: &Device,
    ) -> Result<Tensor<1>> {
        let (x, v) = self.noisy(&schedule()?);
        let tensor = |values| Tensor::<4>::from_data(TensorData::new(values, self.shape), device);
        let timesteps: Vec<f32> = self.timesteps.iter().map(|&t| t as f32).collect();
        let timesteps = Tensor::<1>::from_data(TensorData::new(timesteps, [self.places.len()]), device);
        Ok((predict(tensor(x), timesteps)? - tensor(v)).square().mean())
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
    let init = |device: &Device| match &options.init {
        Some(file) => warm::start(options.network.init_for_training(device)?, file, ""),
        None => options.network.init_for_training(device),
    };
    let loss = |model: &UNet, batch: &Batch, _: &mut Draw, device: &Device| {
        let (tokens, pooled) = material.condition(&batch.captions, device)?;
        batch.loss(|x, timesteps| model.forward_now(x, timesteps, tokens, Some(pooled)), device)
    };
    let report = |model: &UNet, sheet: &Sheet| {
        let (tokens, pooled) = material.guided(&sheet.prompts(material), &model.devices()[0])?;
        let clean = sheet.draw(material, options, &model.devices()[0], |x, timesteps| {
            model.forward_now(x, timesteps, tokens.clone(), Some(pooled.clone()))
        })?;
        let found =
            ranks(&to_vec(clean.clone()), material, &sheet.places).into_iter().filter(|&rank| rank == 1).count();
        sheet::write(&decode(decoder, clean)?, SHEET_COLUMNS, &sheet.path)?;
        Ok(format!("the true picture is nearest for {found} of {} drawings", sheet.places.len()))
    };
    fit(material, options, device, init, loss, report)
}

/// The loop that every denoiser of this project is trained in: `init` makes the network, `loss` judges it on a batch,
/// `report` draws a sheet with the averaged weights and says what it shows.
pub(super) fn fit<M: Module>(
    material: &Material,
    options: &Options,
    device: &Device,
    init: impl FnOnce(&Device) -> Result<M>,
    loss: impl Fn(&M, &Batch, &mut Draw, &Device) -> Result<Tensor<1>>,
    report: impl Fn(&M, &Sheet) -> Result<String>,
) -> Result<f32> {
    let sampler = material.sampler(options)?;
    let device = &device.clone().autodiff();
    device.seed(options.seed);
    let config = OptimizerConfig { average_decay: options.average_decay, ..OptimizerConfig::default() };
    let mut model = init(device)?;
    let mut optimizer = Optimizer::new(&model, config);
    let mut session = Session::open(&options.dir, options.budget, options.intervals, &mut optimizer)?;
    model = optimizer.weights(model);
    let draw_sheet = |model: &M, optimizer: &Optimizer, session: &Session| {
        let mut draw = Draw::new(options.seed, u64::MAX);
        let places = (0..SHEET_ITEMS).map(|_| sampler.draw(&mut draw)).collect();
        let said =
            report(&optimizer.averaged(model), &Sheet { places, seed: options.seed, path: session.sheet_path() })?;
        session.say(format!("update {}: {said}", session.step()));
        Ok::<_, crate::Error>(())
    };
    let mut last = f32::NAN;
    while session.running() {
        let rate = options.rate.at(session.step(), session.done());
        let mut draw = Draw::new(options.seed, session.step());
        let batch = Batch::draw(material, &sampler, options, &mut draw);
        let loss = loss(&model, &batch, &mut draw, device)?;
        last = loss.clone().inner().into_scalar::<f32>();
        model = optimizer.step(model, loss.backward(), rate).0;
        session.record(&optimizer, options.batch, last, rate)?;
        if session.sheet_due() {
            draw_sheet(&model, &optimizer, &session)?;
        }
    }
    if !session.paused() {
        session.save(&optimizer)?;
        if options.intervals.sheet < Duration::MAX {
            draw_sheet(&model, &optimizer, &session)?;
        }
    }
    session.finish(&optimizer)?;
    Ok(last)
}

/// The averaged network of the run in `dir`.
///
/// # Errors
/// If there is no checkpoint of this network.
pub fn load(dir: &Path, config: &UNetConfig, device: &Device) -> Result<UNet> {
    session::averaged(dir, &config.init(device)?)
}

/// Pictures of a sheet in one row.
pub(super) const SHEET_COLUMNS: usize = 8;
/// Pictures of a sheet.
const SHEET_ITEMS: usize = 32;
/// Steps of a sheet's drawing through the trained range.
const SHEET_STEPS: usize = 12;
/// Guidance of a sheet's drawing.
const SHEET_GUIDANCE: f32 = 3.0;

/// What a sheet is drawn of.
pub(super) struct Sheet {
    /// Places in the material.
    pub places: Vec<usize>,
    /// Seed of the noise.
    pub seed: u64,
    /// The PNG to write.
    pub path: PathBuf,
}

impl Sheet {
    /// What the pictures are asked for by.
    pub fn prompts(&self, material: &Material) -> Vec<String> {
        prompts(material, &self.places)
    }

    /// Draws normalized latents `[places, channels, side, side]`. `predict` is asked for v of a doubled batch, with and
    /// without condition.
    ///
    /// A network of all timesteps or of the late ones starts from noise; one of the early ones from the true pictures with
    /// the noise of its first timestep.
    pub fn draw(
        &self,
        material: &Material,
        options: &Options,
        device: &Device,
        predict: impl Fn(Tensor<4>, Tensor<1>) -> Result<Tensor<4>>,
    ) -> Result<Tensor<4>> {
        let (range, schedule) = (&options.timesteps, schedule()?);
        let count = self.places.len();
        let Latents { channels, side, .. } = material.whole;
        let mut x = Draw::new(self.seed, u64::MAX - 1).normal(count * channels * side * side);
        if range.end < schedule.alphas_cumprod().len() {
            let (a, s) = coefficients(&schedule, range.end - 1);
            let clean = self.places.iter().flat_map(|&place| material.latent(place));
            x.iter_mut().zip(clean).for_each(|(n, x0)| *n = a * x0 + s * *n);
        }
        let mut x = Tensor::<4>::from_data(TensorData::new(x, [count, channels, side, side]), device);
        let mut clean = x.clone();
        for step in 0..SHEET_STEPS {
            let at = |step: usize| range.end - 1 - step * (range.len() - 1) / SHEET_STEPS;
            let (a, s) = coefficients(&schedule, at(step));
            let timesteps = Tensor::<1>::full([2 * count], at(step) as f32, device);
            let v = predict(Tensor::cat(vec![x.clone(), x.clone()], 0), timesteps)?;
            let (v, free) = (v.clone().narrow(0, 0, count), v.narrow(0, count, count));
            let v = free.clone() + (v - free) * SHEET_GUIDANCE;
            clean = x.clone() * a - v.clone() * s;
            let noise = x * s + v * a;
            let (a, s) = coefficients(&schedule, at(step + 1));
            x = clean.clone() * a + noise * s;
        }
        Ok(clean)
    }
}

/// Normalized latents as pictures on white.
pub(super) fn decode(
    (autoencoder, statistics): (&AutoencoderTiny, &LatentStatistics),
    latents: Tensor<4>,
) -> Result<Vec<RgbImage>> {
    let latents = statistics.restore(latents);
    let mut pictures = Vec::new();
    for index in 0..latents.dims()[0] {
        pictures.extend(sheet::pictures(autoencoder.decoder.decode_now(latents.clone().narrow(0, index, 1))?));
    }
    Ok(pictures)
}

/// What the pictures at `places` are asked for by, every other one in Chinese.
pub(super) fn prompts(material: &Material, places: &[usize]) -> Vec<String> {
    let prompt = |(index, &place): (usize, &usize)| {
        let (item, language) = (material.item(place), Language::ALL[index % 2]);
        let subject = captions::subjects(&material.dataset.concepts, item, language).into_iter().next();
        captions::styled(&subject.unwrap_or_default(), item.style, language)
    };
    places.iter().enumerate().map(prompt).collect()
}

/// For each of `drawn`, normalized whole latents one after the other: the rank, from 1, of its own picture among all of
/// the same style, the nearest first.
pub(super) fn ranks(drawn: &[f32], material: &Material, places: &[usize]) -> Vec<usize> {
    let size = drawn.len() / places.len();
    let distance = |drawing: &[f32], place: usize| -> f32 {
        drawing.iter().zip(material.latent(place)).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    let rank = |(drawing, &place): (&[f32], &usize)| {
        let own = distance(drawing, place);
        let style = material.item(place).style;
        let rivals = (0..material.items.len()).filter(|&rival| material.item(rival).style == style);
        1 + rivals.filter(|&rival| distance(drawing, rival) < own).count()
    };
    drawn.chunks_exact(size).zip(places).map(rank).collect()
}

/// Pictures at half scale: means of 2x2 pixels.
fn halved(images: Tensor<4>) -> Tensor<4> {
    let [batch, channels, side, _] = images.dims();
    let pairs = images.reshape([batch * channels * side / 2, 2, side / 2, 2]);
    pairs.mean_dim(1).mean_dim(3).reshape([batch, channels, side / 2, side / 2])
}

pub(super) fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32 above")
}
