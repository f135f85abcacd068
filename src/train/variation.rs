//! Trains the encoder of the variation model, which draws of a picture the same thing as somebody else would draw it. Its
//! UNet is the sketch model's, as it is: the encoder names what it sees, and answers what the text encoder answers to that
//! name ([`crate::nets::picture_encoder`]).
//!
//! | words | how many | their meaning |
//! |---|---|---|
//! | things | the emoji of the core list, `apple, flat vector illustration` | the text encoder's answer |
//! | | the glyphs of the core list, `red apple, filled icon` | the mean of its answers over all colours |
//! | colours | ten, and none | the mean, over all glyphs, of what the colour adds to that |
//!
//! The loss is the cross entropy of either group. A picture of a thing beyond the core list is called what its name comes
//! nearest to: `q(word) ~ exp(cos(name, word) / 0.07)` in the text encoder's pooled vectors.
//!
//! Pictures are scaled, moved, mirrored, lighter or darker, and on white, on a pale colour or on nothing, so that all of this
//! comes to mean nothing.
//!
//! A UNet and an encoder trained together from nothing, on 151,200 samples, drew blobs of the right colour.

use super::{
    Draw,
    autoencoder::tensor,
    captions,
    concepts::{Concept, Group},
    data::{
        Dataset, Item,
        mix::{Mix, Sampler},
        picture::Picture,
        scene::{Colour, Language, Scene, StyleId},
        splits::Split,
    },
    expert::{TextFn, to_vec},
    optimizer::{Optimizer, OptimizerConfig},
    read_error,
    session::{self, Budget, Intervals, LearningRate, Session},
    sketch::SIDE,
    write_error,
};
use crate::{
    Error, Result,
    nets::picture_encoder::{PictureEncoder, PictureEncoderConfig},
};
use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData, activation::log_softmax},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

/// What `pangu-draw train variation` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's folder.
    pub dir: PathBuf,
    /// The encoder; its words are those of the data set.
    pub encoder: PictureEncoderConfig,
    /// How often which pictures are seen.
    pub mix: Mix,
    /// When to stop.
    pub budget: Budget,
    /// When to log, to save and to test.
    pub intervals: Intervals,
    /// Samples in one update.
    pub batch: usize,
    /// Learning rate.
    pub rate: LearningRate,
    /// Decay of the weights' average.
    pub average_decay: f32,
    /// Seed of everything random.
    pub seed: u64,
}

impl Options {
    /// What trained the variation model.
    pub fn new(dir: PathBuf, budget: Budget) -> Self {
        Self {
            dir,
            encoder: PictureEncoderConfig::default(),
            mix: Mix::default(),
            budget,
            intervals: Intervals::default(),
            batch: 64,
            rate: LearningRate { peak: 2e-3, warmup: 200, floor: 0.02 },
            average_decay: 0.998,
            seed: 0,
        }
    }
}

/// Temperature of what a thing beyond the core list is called.
const TEMPERATURE: f32 = 0.07;
/// Sentences encoded at once.
const SENTENCES: usize = 64;

/// The words that pictures are described by.
pub struct Lexicon {
    /// The concept of each thing.
    pub things: Vec<usize>,
    /// For each concept the share of each thing in what it is called.
    shares: Vec<Vec<f32>>,
    /// Meanings of things, of colours and of none, and of no picture, one after the other.
    meanings: Vec<f32>,
    /// Tokens of a meaning, and tokens that the text encoder answers.
    tokens: [usize; 2],
    dim: usize,
}

/// The text encoder's answers to some texts: a pooled vector and the tokens after it.
struct Answers {
    rows: Vec<Vec<f32>>,
    token_count: usize,
    dim: usize,
}

impl Answers {
    fn of(texts: &[String], text: TextFn) -> Result<Self> {
        let mut answers = Self { rows: Vec::with_capacity(texts.len()), token_count: 0, dim: 0 };
        for texts in texts.chunks(SENTENCES) {
            let sentences = text(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
            [_, answers.token_count, answers.dim] = sentences.tokens.dims();
            let tokens = to_vec(sentences.tokens.flatten::<2>(1, 2));
            let tokens = tokens.chunks_exact(answers.token_count * answers.dim);
            let pooled = to_vec(sentences.pooled);
            let rows = pooled.chunks_exact(answers.dim).zip(tokens);
            answers.rows.extend(rows.map(|(pooled, tokens)| [pooled, tokens].concat()));
        }
        Ok(answers)
    }
}

fn is_icon(concept: &Concept) -> bool {
    concept.group == Group::Icons
}

/// The best English name, or the Chinese one where that is withheld.
fn name(dataset: &Dataset, concept: usize) -> String {
    let concept = &dataset.concepts[concept];
    let english = dataset.splits.speaks(&concept.key, Language::En);
    let words = if english { &concept.en } else { &concept.zh };
    words.names.first().cloned().unwrap_or_default()
}

fn mean(rows: &[&[f32]]) -> Vec<f32> {
    let mut sum = vec![0.0; rows.first().map_or(0, |row| row.len())];
    rows.iter().for_each(|row| sum.iter_mut().zip(*row).for_each(|(sum, value)| *sum += value / rows.len() as f32));
    sum
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-9)
}

impl Lexicon {
    /// The words for the core list of `dataset`, and what `text` answers to them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the data set has no picture of the core list; those of the text encoder.
    pub fn of(dataset: &Dataset, text: TextFn) -> Result<Self> {
        let (concepts, shown) = (&dataset.concepts, dataset.training());
        let shown: BTreeSet<usize> = shown.into_iter().map(|item| dataset.items[item].concept).collect();
        let things: Vec<usize> = shown.into_iter().filter(|&concept| concepts[concept].core).collect();
        if things.is_empty() {
            return Err(Error::Invalid { parameter: "data", why: "there is no picture of the core list".into() });
        }
        let coloured = |&thing: &usize| {
            let name = name(dataset, thing);
            let subjects = Colour::ALL.map(|colour| format!("{} {name}", colour.names().0));
            subjects.map(|subject| captions::styled(&subject, StyleId::FilledIcon, Language::En))
        };
        let (icons, emoji): (Vec<usize>, Vec<usize>) = things.iter().partition(|&&thing| is_icon(&concepts[thing]));
        let flat = |&thing: &usize| captions::styled(&name(dataset, thing), StyleId::Flat, Language::En);
        let emoji_answers = Answers::of(&emoji.iter().map(flat).collect::<Vec<_>>(), text)?;
        let icon_answers = Answers::of(&icons.iter().flat_map(coloured).collect::<Vec<_>>(), text)?;
        let Answers { rows: none, token_count, dim } = Answers::of(&[String::new()], text)?;

        let size = (1 + token_count) * dim;
        let by_icon: Vec<&[Vec<f32>]> = icon_answers.rows.chunks_exact(Colour::ALL.len()).collect();
        let icon_means: Vec<Vec<f32>> =
            by_icon.iter().map(|rows| mean(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())).collect();
        let colours = (0..Colour::ALL.len()).map(|colour| {
            let mut added = vec![0.0; size];
            for (rows, mean) in by_icon.iter().zip(&icon_means) {
                let adds = rows[colour].iter().zip(mean).map(|(row, mean)| (row - mean) / by_icon.len() as f32);
                added.iter_mut().zip(adds).for_each(|(sum, adds)| *sum += adds);
            }
            added
        });
        let colours: Vec<Vec<f32>> = colours.chain([vec![0.0; size]]).collect();
        let rows: Vec<&Vec<f32>> = emoji_answers.rows.iter().chain(&icon_means).chain(&colours).chain(&none).collect();
        // Behind its end a sentence is zeros.
        let used = |row: &Vec<f32>| row.iter().rposition(|&value| value != 0.0).map_or(0, |last| last / dim);
        let tokens = rows.iter().map(|row| used(row)).max().unwrap_or(0).max(1);
        let meanings = rows.iter().flat_map(|row| row[..(1 + tokens) * dim].iter().copied()).collect();

        let things = [emoji, icons].concat();
        let names = Answers::of(&(0..concepts.len()).map(|index| name(dataset, index)).collect::<Vec<_>>(), text)?;
        let pooled = |concept: usize| &names.rows[concept][..dim];
        let shares = (0..concepts.len()).map(|concept| {
            if let Some(own) = things.iter().position(|&thing| thing == concept) {
                return (0..things.len()).map(|thing| f32::from(u8::from(thing == own))).collect();
            }
            let near = things.iter().map(|&thing| match is_icon(&concepts[thing]) == is_icon(&concepts[concept]) {
                true => ((cosine(pooled(concept), pooled(thing)) - 1.0) / TEMPERATURE).exp(),
                false => 0.0,
            });
            let near: Vec<f32> = near.collect();
            let sum = near.iter().sum::<f32>().max(1e-30);
            near.into_iter().map(|share| share / sum).collect()
        });
        Ok(Self { shares: shares.collect(), things, meanings, tokens: [tokens, token_count], dim })
    }

    /// `config` for these words.
    fn config(&self, config: &PictureEncoderConfig) -> PictureEncoderConfig {
        let [tokens, token_count] = self.tokens;
        let vocabulary = vec![self.things.len(), Colour::ALL.len() + 1];
        PictureEncoderConfig { projection_dim: self.dim, vocabulary, tokens, token_count, ..config.clone() }
    }

    /// The thing a picture shows, if it is one of the core list.
    fn thing(&self, item: &Item) -> Option<usize> {
        self.things.iter().position(|&thing| thing == item.concept)
    }
}

/// The number of a picture's colour word.
fn colour(item: &Item) -> usize {
    match item.scene {
        Scene::Coloured { colour } => colour as usize,
        _ => Colour::ALL.len(),
    }
}

/// The picture a little smaller, elsewhere, mirrored, lighter or darker, and on something.
fn disguised(picture: &Picture, draw: &mut Draw) -> Picture {
    let side = SIDE - draw.below(SIDE / 4 + 1);
    let corner = [0, 1].map(|_| draw.below(SIDE - side + 1));
    let light = 0.9 + 0.2 * draw.uniform();
    let mut picture = picture.resized(side);
    if draw.uniform() < 0.5 {
        picture.rgba =
            picture.rgba.chunks_exact(4 * side).flat_map(|row| row.rchunks_exact(4).flatten().copied()).collect();
    }
    picture.rgba.chunks_exact_mut(4).for_each(|pixel| {
        let alpha = pixel[3];
        pixel[..3].iter_mut().for_each(|c| *c = ((f32::from(*c) * light) as u8).min(alpha));
    });
    let mut paper = match draw.uniform() {
        nothing if nothing < 0.5 => Picture::empty(SIDE),
        white if white < 0.85 => Picture::filled(SIDE, [255; 3]),
        _ => Picture::filled(SIDE, [0; 3].map(|_: u8| 200 + draw.below(56) as u8)),
    };
    paper.draw(&picture, corner);
    paper
}

/// Mean cross entropy with the shares `[batch, words]` of each word.
fn cross_entropy(logits: Tensor<2>, shares: Vec<f32>) -> Tensor<1> {
    let (dims, device) = (logits.dims(), logits.device());
    let shares = Tensor::<2>::from_data(TensorData::new(shares, dims), &device);
    (log_softmax(logits, 1) * shares).sum() / -(dims[0] as f32)
}

/// Pictures that the encoder is tested on, none of which it is trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tests {
    /// Things of the core list in a style that they, or nothing at all, were trained in.
    pub things: Vec<usize>,
    /// Glyphs of the core list in a colour that they were not trained in.
    pub colours: Vec<usize>,
}

/// Pictures tested on at most, of either kind.
const TESTS: usize = 512;

impl Tests {
    /// Those of `dataset`, for a training with `mix`.
    pub fn of(dataset: &Dataset, lexicon: &Lexicon, mix: &Mix) -> Self {
        let tests = |wanted: &dyn Fn(usize, &Item) -> bool| {
            let known = |index: &usize| lexicon.thing(&dataset.items[*index]).is_some();
            let wanted = |index: &usize| known(index) && wanted(*index, &dataset.items[*index]);
            let all: Vec<usize> = (0..dataset.items.len()).filter(wanted).collect();
            all.iter().copied().step_by(all.len().div_ceil(TESTS).max(1)).collect()
        };
        let emoji = |item: &Item| item.scene == Scene::Plain && StyleId::EMOJI.contains(&item.style);
        Self {
            things: tests(&|index, item| {
                let split = dataset.split(index);
                emoji(item) && (split == Split::Style || split == Split::Seen && !mix.draws(dataset, item))
            }),
            colours: tests(&|index, item| dataset.split(index) == Split::Colour && mix.draws(dataset, item)),
        }
    }

    /// Shares of the pictures that `model` calls right: things at once and among five, and colours. Not a number where
    /// there are none.
    ///
    /// # Errors
    /// If a picture is damaged.
    pub fn score(&self, model: &PictureEncoder, dataset: &Dataset, lexicon: &Lexicon) -> Result<[f64; 3]> {
        let device = model.devices()[0].clone();
        // How many words the encoder prefers to the right one.
        let better = |items: &[usize], group: usize, right: &dyn Fn(&Item) -> usize| -> Result<Vec<usize>> {
            let mut better = Vec::new();
            for items in items.chunks(SENTENCES) {
                let pictures = items.iter().map(|&item| Ok(dataset.picture(item)?.resized(SIDE)));
                let logits =
                    model.words_now(tensor(&pictures.collect::<Result<Vec<_>>>()?, &device))?.swap_remove(group);
                let words = logits.dims()[1];
                for (row, &item) in to_vec(logits).chunks_exact(words).zip(items) {
                    let right = row[right(&dataset.items[item])];
                    better.push(row.iter().filter(|&&logit| logit > right).count());
                }
            }
            Ok(better)
        };
        let among = |better: &[usize], k: usize| {
            better.iter().filter(|&&better| better < k).count() as f64 / better.len() as f64
        };
        let things = better(&self.things, 0, &|item| lexicon.thing(item).expect("chosen so"))?;
        Ok([among(&things, 1), among(&things, 5), among(&better(&self.colours, 1, &colour)?, 1)])
    }
}

const CONFIG: &str = "encoder.json";

/// Trains until the budget is spent, and answers the last loss. Continues a run that was interrupted.
///
/// # Errors
/// If there is nothing to train on, the folder cannot be written, or it holds another network's checkpoint.
pub fn train(dataset: &Dataset, text: TextFn, options: &Options, device: &Device) -> Result<f32> {
    let lexicon = Lexicon::of(dataset, text)?;
    let sampler = Sampler::new(dataset, &dataset.training(), &options.mix)?;
    let tests = Tests::of(dataset, &lexicon, &options.mix);
    let device = &device.clone().autodiff();
    device.seed(options.seed);
    let config = lexicon.config(&options.encoder);
    let meanings = TensorData::new(lexicon.meanings.clone(), [config.words() + 1, config.meaning()]);
    let mut model = config.init_for_training(device)?.with_meanings(Tensor::from_data(meanings, device));
    let average_decay = options.average_decay;
    let mut optimizer = Optimizer::new(&model, OptimizerConfig { average_decay, ..OptimizerConfig::default() });
    let mut session = Session::open(&options.dir, options.budget, options.intervals, &mut optimizer)?;
    let path = options.dir.join(CONFIG);
    std::fs::write(&path, serde_json::to_vec(&config).expect("plain data")).map_err(|e| write_error(&path, e))?;
    model = optimizer.weights(model);
    let test = |model: &PictureEncoder, optimizer: &Optimizer, session: &Session| {
        let [first, fifth, colours] = tests.score(&optimizer.averaged(model), dataset, &lexicon)?;
        let [things, glyphs] = [tests.things.len(), tests.colours.len()];
        session.say(format!(
            "update {}: of {things} things R@1 {first:.3}, R@5 {fifth:.3}; of {glyphs} glyphs the colour {colours:.3}",
            session.step()
        ));
        Ok::<_, Error>(())
    };
    let mut last = f32::NAN;
    while session.running() {
        let rate = options.rate.at(session.step(), session.done());
        let mut draw = Draw::new(options.seed, session.step());
        let (mut pictures, mut things, mut colours) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.batch {
            let item = sampler.draw(&mut draw);
            pictures.push(disguised(&dataset.picture(item)?, &mut draw));
            let item = &dataset.items[item];
            things.extend_from_slice(&lexicon.shares[item.concept]);
            colours.extend((0..=Colour::ALL.len()).map(|word| f32::from(u8::from(word == colour(item)))));
        }
        let logits = model.words_now(tensor(&pictures, device))?;
        let losses = logits.into_iter().zip([things, colours]).map(|(logits, shares)| cross_entropy(logits, shares));
        let loss = Tensor::cat(losses.collect(), 0).sum();
        last = loss.clone().inner().into_scalar::<f32>();
        model = optimizer.step(model, loss.backward(), rate).0;
        session.record(&optimizer, options.batch, last, rate)?;
        if session.sheet_due() {
            test(&model, &optimizer, &session)?;
        }
    }
    if !session.paused() && options.intervals.sheet < Duration::MAX {
        test(&model, &optimizer, &session)?;
    }
    session.finish(&optimizer)?;
    Ok(last)
}

/// The averaged encoder of the run in `dir`.
///
/// # Errors
/// If there is no checkpoint of it.
pub fn load(dir: &Path, device: &Device) -> Result<PictureEncoder> {
    let path = dir.join(CONFIG);
    let json = std::fs::read(&path).map_err(|error| read_error(&path, error))?;
    let config: PictureEncoderConfig = serde_json::from_slice(&json).map_err(|error| read_error(&path, error))?;
    session::averaged(dir, &config.init(device)?)
}
