//! A dual encoder of pictures and captions (as CLIP, Radford et al. 2021), so that drawings are judged by a network that
//! had no part in drawing them: its own towers, its own seed, its own order of the data.
//!
//! | tower | from | through | to |
//! |---|---|---|---|
//! | picture | `[batch, 4, 48, 48]` of ink and cover | strided 3x3 convolutions and residual blocks | unit vectors `[batch, 128]` |
//! | caption | counts of hashed character runs and words `[batch, 8192]` | their mean embedding, one residual layer | unit vectors `[batch, 128]` |
//!
//! Both learn that a picture and its caption point the same way, and away from all others of the batch.

use super::super::{
    Draw, autoencoder, captions,
    data::{
        Dataset, Item,
        mix::{Mix, Sampler},
        picture::Picture,
        scene::Language,
        splits,
    },
    optimizer::{Optimizer, OptimizerConfig},
    session::{self, Budget, Intervals, LearningRate, Session},
};
use crate::{
    Result,
    nets::{
        kernels,
        layers::{Conv2d, Linear},
    },
};
use burn::{
    module::{Module, Param},
    nn::{GroupNorm, GroupNormConfig, Initializer, LinearConfig, PaddingConfig2d, conv::Conv2dConfig},
    tensor::{
        Device, Tensor, TensorData,
        activation::{log_softmax, silu},
    },
};
use std::path::{Path, PathBuf};

/// Side of the pictures that it sees.
pub const INPUT_SIDE: usize = 48;
/// Dimensions of its features.
pub const FEATURES: usize = 128;
/// What it is called wherever a number depends on its features.
pub const NAME: &str = "our dual encoder";

/// Widths of the levels from 24 pixels a side down to 3.
const WIDTHS: [usize; 4] = [24, 48, 96, 128];
/// Residual blocks of each level.
const BLOCKS: [usize; 4] = [0, 1, 1, 0];
/// Channels normalized together.
const GROUP: usize = 8;
/// Rows of the table of embeddings.
const BUCKETS: usize = 8192;
/// The logarithm of the factor before the softmax: where it begins, and how far it may grow (1 / 0.07 and 100).
const SCALE: [f32; 2] = [2.66, 4.6];

/// Pictures and captions to unit vectors of one space.
#[derive(Module, Debug)]
pub struct DualEncoder {
    downs: Vec<Conv2d>,
    blocks: Vec<Vec<Block>>,
    norm: GroupNorm,
    picture: Linear,
    table: Param<Tensor<2>>,
    widen: Linear,
    narrow: Linear,
    scale: Param<Tensor<1>>,
}

/// `x + conv(silu(norm(conv(silu(norm(x))))))`, 3x3 convolutions.
#[derive(Module, Debug)]
struct Block {
    norms: [GroupNorm; 2],
    convs: [Conv2d; 2],
}

fn conv(from: usize, to: usize, stride: usize, device: &Device) -> Conv2d {
    let config = Conv2dConfig::new([from, to], [3, 3]).with_stride([stride, stride]);
    config.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device).into()
}

fn norm(channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(channels / GROUP, channels).init(device)
}

impl Block {
    fn new(width: usize, device: &Device) -> Self {
        let norms = [norm(width, device), norm(width, device)];
        Self { norms, convs: [conv(width, width, 1, device), conv(width, width, 1, device)] }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let layers = self.norms.iter().zip(&self.convs);
        let change =
            layers.fold(x.clone(), |h, (norm, conv)| kernels::convolve(conv, kernels::normalize(norm, h, None, true)));
        x + change
    }
}

impl DualEncoder {
    /// A network with random weights.
    pub fn new(device: &Device) -> Self {
        let inputs = [4, WIDTHS[0], WIDTHS[1], WIDTHS[2]];
        let [.., last] = WIDTHS;
        let side = INPUT_SIDE >> WIDTHS.len();
        Self {
            downs: inputs.into_iter().zip(WIDTHS).map(|(from, to)| conv(from, to, 2, device)).collect(),
            blocks: WIDTHS
                .into_iter()
                .zip(BLOCKS)
                .map(|(width, blocks)| (0..blocks).map(|_| Block::new(width, device)).collect())
                .collect(),
            norm: norm(last, device),
            picture: LinearConfig::new(last * side * side, FEATURES).init(device).into(),
            table: Initializer::Normal { mean: 0.0, std: 1.0 }.init([BUCKETS, FEATURES], device),
            widen: LinearConfig::new(FEATURES, 2 * FEATURES).init(device).into(),
            narrow: LinearConfig::new(2 * FEATURES, FEATURES).init(device).into(),
            scale: Initializer::Constant { value: f64::from(SCALE[0]) }.init([1], device),
        }
    }

    /// Unit vectors `[batch, 128]` of pictures `[batch, 4, 48, 48]`.
    fn see(&self, mut x: Tensor<4>) -> Tensor<2> {
        for (level, (down, blocks)) in self.downs.iter().zip(&self.blocks).enumerate() {
            if level > 0 {
                x = silu(x);
            }
            x = kernels::convolve(down, x);
            x = blocks.iter().fold(x, |x, block| block.forward(x));
        }
        unit(self.picture.forward(kernels::normalize(&self.norm, x, None, true).flatten::<2>(1, 3)))
    }

    /// Unit vectors `[batch, 128]` of captions.
    fn read(&self, texts: &[&str], device: &Device) -> Tensor<2> {
        let mut counts = vec![0.0; texts.len() * BUCKETS];
        for (row, text) in counts.chunks_exact_mut(BUCKETS).zip(texts) {
            let grams = grams(text);
            // The root keeps the length of a mean of independent vectors at 1.
            let weight = 1.0 / (grams.len().max(1) as f32).sqrt();
            grams.iter().for_each(|gram| row[splits::hash(&[gram]) as usize % BUCKETS] += weight);
        }
        let counts = Tensor::<2>::from_data(TensorData::new(counts, [texts.len(), BUCKETS]), device);
        let x = counts.matmul(self.table.val());
        unit(x.clone() + self.narrow.forward(silu(self.widen.forward(x))))
    }

    /// Features of pictures of any side.
    ///
    /// # Errors
    /// Never so far; a damaged picture fails when it is unpacked.
    pub fn pictures(&self, pictures: &[Picture]) -> Result<Vec<Vec<f32>>> {
        let device = self.devices()[0].clone();
        let mut features = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(BATCH) {
            let small: Vec<Picture> = pictures.iter().map(|picture| picture.resized(INPUT_SIDE)).collect();
            features.extend(rows(self.see(autoencoder::tensor(&small, &device))));
        }
        Ok(features)
    }

    /// Features of captions.
    pub fn captions(&self, texts: &[&str]) -> Vec<Vec<f32>> {
        let device = self.devices()[0].clone();
        texts.chunks(BATCH).flat_map(|texts| rows(self.read(texts, &device))).collect()
    }
}

/// Cosine of two unit vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Rows scaled to length 1.
fn unit(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone().square().sum_dim(1) + 1e-8).sqrt();
    x / length
}

fn rows(x: Tensor<2>) -> Vec<Vec<f32>> {
    let width = x.dims()[1];
    let values: Vec<f32> = x.into_data().convert::<f32>().try_into_vec().expect("converted to f32 above");
    values.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

/// What a caption is to the encoder: of each word in letters the word and its runs of three, of Chinese every run of one
/// to three characters; words and runs of two also with the half of the caption that they are in, because a cat left of a
/// dog is not a dog left of a cat.
fn grams(text: &str) -> Vec<String> {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let mut grams = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let letter = |c: char| c.is_alphanumeric() && c.is_ascii();
        let same = |c: &char| letter(*c) == letter(text[at]) && c.is_alphanumeric();
        let length = text[at..].iter().take_while(|c| same(c)).count();
        let half = |start: usize| usize::from(2 * start >= text.len());
        if length > 0 && letter(text[at]) {
            let word: String = text[at..at + length].iter().collect();
            let padded: Vec<char> = format!("^{word}$").chars().collect();
            grams.extend(padded.windows(3).map(|run| run.iter().collect()));
            grams.push(format!("{word} {}", half(at)));
            grams.push(format!("{word} "));
        } else {
            for size in 1..=3 {
                for (start, run) in text[at..at + length].windows(size).enumerate() {
                    let run: String = run.iter().collect();
                    if size == 2 {
                        grams.push(format!("{run} {}", half(at + start)));
                    }
                    grams.push(run);
                }
            }
        }
        at += length.max(1);
    }
    grams
}

/// What `pangu-draw train evaluator` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's folder.
    pub dir: PathBuf,
    /// How often which pictures are seen.
    pub mix: Mix,
    /// When to stop.
    pub budget: Budget,
    /// When to log and to save.
    pub intervals: Intervals,
    /// Pictures in one update, which are told apart from one another.
    pub batch: usize,
    /// Learning rate.
    pub rate: LearningRate,
    /// Seed of everything random; never the generator's.
    pub seed: u64,
}

/// Pictures or captions encoded at once.
const BATCH: usize = 128;

impl Options {
    /// What trained the evaluator of the default model.
    pub fn new(dir: PathBuf, budget: Budget) -> Self {
        Self {
            dir,
            mix: Mix::default(),
            budget,
            intervals: Intervals { log: 20, ..Intervals::default() },
            batch: 128,
            rate: LearningRate { peak: 2e-3, warmup: 50, floor: 0.02 },
            seed: 0x0e7a1,
        }
    }
}

/// Trains until the budget is spent, and answers the last loss. Continues a run that was interrupted.
///
/// # Errors
/// If there is nothing to train on, the folder cannot be written, or it holds another network's checkpoint.
pub fn train(dataset: &Dataset, options: &Options, device: &Device) -> Result<f32> {
    let device = &device.clone().autodiff();
    device.seed(options.seed);
    let samplers = Samplers::new(dataset, &options.mix)?;
    let mut model = DualEncoder::new(device);
    let mut optimizer = Optimizer::new(&model, OptimizerConfig { average_decay: 0.99, ..OptimizerConfig::default() });
    let mut session = Session::open(&options.dir, options.budget, options.intervals, &mut optimizer)?;
    model = optimizer.weights(model);
    let mut last = f32::NAN;
    while session.running() {
        let rate = options.rate.at(session.step(), session.done());
        let mut draw = Draw::new(options.seed, session.step());
        let sampler = samplers.draw(&mut draw);
        let batch = Batch::draw(dataset, sampler, options.batch, &mut draw)?;
        let loss = loss(&model, &batch, device);
        last = loss.clone().inner().into_scalar::<f32>();
        model = optimizer.step(model, loss.backward(), rate).0;
        session.record(&optimizer, options.batch, last, rate)?;
    }
    session.finish(&optimizer)?;
    Ok(last)
}

/// The averaged network of the run in `dir`.
///
/// # Errors
/// If there is no checkpoint of this network.
pub fn load(dir: &Path, device: &Device) -> Result<DualEncoder> {
    session::averaged(dir, &DualEncoder::new(device))
}

/// Share of the updates whose pictures are all of one pool: to tell a tone from a tone, or a colour from a colour, an
/// encoder must meet both at once.
const OF_ONE_POOL: f32 = 0.6;

/// Where batches are drawn from.
struct Samplers {
    all: Sampler,
    /// One sampler a pool, and the pools' shares of the mix added up.
    pools: Vec<(f32, Sampler)>,
}

impl Samplers {
    fn new(dataset: &Dataset, mix: &Mix) -> Result<Self> {
        let training = dataset.training();
        let (mut pools, mut sum) = (Vec::new(), 0.0);
        for &(pool, share) in mix.pools.iter().filter(|(_, share)| *share > 0.0) {
            let alone = Mix { pools: vec![(pool, 1.0)], ..mix.clone() };
            // A data set need not have every pool.
            if let Ok(sampler) = Sampler::new(dataset, &training, &alone) {
                sum += share;
                pools.push((sum, sampler));
            }
        }
        Ok(Self { all: Sampler::new(dataset, &training, mix)?, pools })
    }

    fn draw(&self, draw: &mut Draw) -> &Sampler {
        if draw.uniform() >= OF_ONE_POOL {
            return &self.all;
        }
        let at = draw.uniform() * self.pools.last().map_or(0.0, |(sum, _)| *sum);
        self.pools.iter().find(|(sum, _)| at < *sum).map_or(&self.all, |(_, sampler)| sampler)
    }
}

/// What one update learns from.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Places in the data set.
    pub items: Vec<usize>,
    /// One caption a picture.
    pub captions: Vec<String>,
    /// For each picture and each caption of another one, whether the caption is true of the picture all the same.
    pub also_true: Vec<bool>,
    pictures: Vec<Picture>,
    noise: Vec<f32>,
}

impl Batch {
    /// Draws `count` pictures, varies them a little, and draws a caption of each.
    ///
    /// # Errors
    /// If a picture is damaged.
    pub fn draw(dataset: &Dataset, sampler: &Sampler, count: usize, draw: &mut Draw) -> Result<Self> {
        let (mut items, mut texts, mut styled, mut pictures, mut noise) = (vec![], vec![], vec![], vec![], vec![]);
        while items.len() < count {
            let item = sampler.draw(draw);
            let shown = &dataset.items[item];
            let mut captions = captions::captions(&dataset.concepts, shown, &dataset.splits);
            if captions.is_empty() {
                continue;
            }
            let text = captions.swap_remove(captions::draw(&captions, draw)).text;
            let plain = |language| captions::subjects(&dataset.concepts, shown, language).contains(&text);
            styled.push(!Language::ALL.into_iter().any(plain));
            items.push(item);
            texts.push(text);
            pictures.push(varied(&dataset.picture(item)?, draw));
            let strength = NOISE * draw.uniform();
            noise.extend(draw.normal(4 * INPUT_SIDE * INPUT_SIDE).into_iter().map(|n| strength * n));
        }
        let same = |a: &Item, b: &Item, styled: bool| {
            (a.concept, a.scene) == (b.concept, b.scene) && (!styled || a.style == b.style)
        };
        let mut also_true = Vec::with_capacity(count * count);
        for (i, picture) in items.iter().enumerate() {
            also_true.extend(items.iter().enumerate().map(|(j, other)| {
                let (a, b) = (&dataset.items[*picture], &dataset.items[*other]);
                i != j && (texts[i] == texts[j] || same(a, b, styled[j]))
            }));
        }
        Ok(Self { items, captions: texts, also_true, pictures, noise })
    }
}

/// Strongest noise added to a picture, of values in `[0, 2]`.
const NOISE: f32 = 0.15;
/// Share of the pictures that are blurred.
const BLURRED: f32 = 0.3;
/// Pixels by which a picture may be larger or smaller.
const STRETCH: usize = 4;

/// The picture as a drawing might come out: a little larger or smaller, shifted, blurred.
fn varied(picture: &Picture, draw: &mut Draw) -> Picture {
    let side = INPUT_SIDE - STRETCH + draw.below(2 * STRETCH + 1);
    let sharp = if draw.uniform() < BLURRED {
        picture.resized(INPUT_SIDE / 2 + draw.below(INPUT_SIDE / 2))
    } else {
        picture.clone()
    };
    let scaled = sharp.resized(side);
    let corner = [0, 1].map(|_| draw.below(side.abs_diff(INPUT_SIDE) + 1));
    if side > INPUT_SIDE {
        return scaled.cropped(corner, INPUT_SIDE);
    }
    let mut canvas = Picture::empty(INPUT_SIDE);
    canvas.draw(&scaled, corner);
    canvas
}

/// The mean of two cross entropies (InfoNCE, van den Oord et al. 2018): of the caption given the picture, and of the
/// picture given the caption, with `logits = exp(scale) <picture, caption>`. Captions that are true of a picture by
/// chance are left out of its denominator.
fn loss(model: &DualEncoder, batch: &Batch, device: &Device) -> Tensor<1> {
    let count = batch.items.len();
    let images = autoencoder::tensor(&batch.pictures, device);
    let images = images.clone() + Tensor::from_data(TensorData::new(batch.noise.clone(), images.dims()), device);
    let texts: Vec<&str> = batch.captions.iter().map(String::as_str).collect();
    let (pictures, captions) = (model.see(images), model.read(&texts, device));
    let square = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [count, count]), device);
    let left_out = square(batch.also_true.iter().map(|also| if *also { -1e4 } else { 0.0 }).collect());
    let own = square((0..count * count).map(|at| if at % (count + 1) == 0 { 1.0 } else { 0.0 }).collect());
    let scale = model.scale.val().clamp_max(SCALE[1]).exp().unsqueeze::<2>();
    let logits = pictures.matmul(captions.transpose()) * scale + left_out;
    let likelihood = log_softmax(logits.clone(), 1) + log_softmax(logits, 0);
    (likelihood * own).sum() / (-2.0 * count as f32)
}
