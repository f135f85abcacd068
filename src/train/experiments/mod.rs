//! The paper's claims about training, measured on small models of our own at equal compute.
//!
//! | experiment | question | module |
//! |---|---|---|
//! | decoupling | two experts, one model of double size, or a cascade? | [`decoupling`] |
//! | low-resolution | does the structure expert gain from scaled-up pictures? | [`low_resolution`] |
//! | texture-resolution | does the texture expert lose when trained at half resolution? | [`texture_resolution`] |
//! | boundary | where should the experts meet? | [`boundary`] |
//!
//! [`coop`] measures what models draw together, with the default model and its companions.
//!
//! An *arm* is one network trained in one way from one seed ([`Arm`]); arms that experiments share are trained once, and
//! an interrupted experiment goes on where it stopped. What arms draw together is scored in [`score`], what they cost is
//! counted in [`flops`], and [`report`] writes tables and plots.

pub mod boundary;
pub mod coop;
pub mod decoupling;
pub mod flops;
pub mod low_resolution;
pub mod report;
pub mod score;
pub mod texture_resolution;

use super::{
    autoencoder::LatentStatistics,
    data::{
        Dataset, Item,
        mix::{Mix, Pool},
        recipe,
        scene::{Scene, StyleId},
        splits::{Split, hash},
    },
    expert::{self, Material, T_STRUCT, TextFn, View},
    read_error,
    session::{self, Budget, Intervals, LearningRate},
    write_error,
};
use crate::{
    Error, Result,
    decoupled::TimeDecoupled,
    diffusion::{
        NetworkDenoiser,
        schedule::{Prediction, Schedule},
    },
    nets::{
        autoencoder_tiny::{AutoencoderTiny, AutoencoderTinyConfig},
        text::sentence::Sentences,
        unet::{PerLevel, UNet, UNetConfig},
    },
};
use burn::tensor::{Device, Tensor, TensorData};
use score::{Contender, Scores};
use serde::{Deserialize, Serialize};
use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::{Add, Range},
    path::{Path, PathBuf},
    time::Duration,
};

/// How large the experiments are: the same for all their arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Things that the pictures show, each in every style.
    pub concepts: usize,
    /// Samples that one expert of the time-decoupled generator is trained on; other arms follow from equal compute.
    pub samples: u64,
    /// Samples in one update.
    pub batch: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Decay of the weights' average.
    pub average_decay: f32,
    /// Runs of every arm, each from a seed of its own.
    pub seeds: Vec<u64>,
    /// Steps of a drawing.
    pub steps: usize,
    /// Guidance of a drawing.
    pub guidance: f64,
    /// The network of every arm but the undivided model.
    pub network: UNetConfig,
    /// The undivided model: twice the parameters.
    pub doubled: UNetConfig,
}

impl Scale {
    /// What the published tables were measured with.
    pub fn new(concepts: usize, samples: u64, seeds: Vec<u64>) -> Self {
        let network = |channels: [usize; 2], heads| UNetConfig {
            block_out_channels: channels.to_vec(),
            attention_head_dim: PerLevel::Each(vec![1, heads]),
            norm_num_groups: 8,
            ..UNetConfig::emoji()
        };
        Self {
            concepts,
            samples,
            batch: 8,
            rate: 1.5e-3,
            average_decay: 0.99,
            seeds,
            steps: 12,
            guidance: 3.0,
            network: network([24, 64], 2),
            doubled: network([32, 96], 3),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Pictures

/// The pictures of the experiments: common things in a few styles. A part of the (thing, style) pairs is kept from
/// training in every arm; of the others, a part is known to most arms only at low resolution.
pub struct Pictures {
    /// What is trained on, part of it at low resolution only.
    pub mixed: Dataset,
    /// The same pictures, all at high resolution.
    pub sharp: Dataset,
    /// The pairs kept from training, at high resolution.
    pub held_out: Dataset,
}

/// One pair in so many is kept from training.
const HELD_OUT: u32 = 4;

impl Pictures {
    /// Renders `styles` into two folders in `out`, once with `low_resolution_share` and once without, and divides them.
    ///
    /// # Errors
    /// Those of [`recipe::build`] and [`Pictures::divide`].
    pub fn build(
        cache: &Path,
        out: &Path,
        styles: &[StyleId],
        low_resolution_share: f32,
        concepts: usize,
    ) -> Result<Self> {
        let build = |name: &str, low_resolution_share| -> Result<Dataset> {
            let dataset = recipe::build(&recipe::Request {
                cache: cache.into(),
                out: out.join(name),
                styles: styles.to_vec(),
                low_resolution_share,
                composites: 0,
                extras: false,
            })?;
            // The folder may hold styles of an earlier request.
            Ok(dataset.filtered(|item| styles.contains(&item.style)))
        };
        Self::divide(&build("data-mixed", low_resolution_share)?, &build("data-sharp", 0.0)?, concepts)
    }

    /// Takes `concepts` of the core list that exist in every style of both data sets, which show the same at different
    /// resolutions.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are too few.
    pub fn divide(mixed: &Dataset, sharp: &Dataset, concepts: usize) -> Result<Self> {
        let plain = |dataset: &Dataset, item: &Item| {
            item.scene == Scene::Plain && dataset.splits.of(&dataset.concepts, item) == Split::Seen
        };
        let pairs = |dataset: &Dataset| -> BTreeSet<(usize, StyleId)> {
            let items = dataset.items.iter().filter(|item| plain(dataset, item));
            items.filter(|item| dataset.concepts[item.concept].core).map(|item| (item.concept, item.style)).collect()
        };
        let both: BTreeSet<_> = pairs(mixed).intersection(&pairs(sharp)).copied().collect();
        let styles: BTreeSet<StyleId> = both.iter().map(|pair| pair.1).collect();
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        both.iter().for_each(|pair| *counts.entry(pair.0).or_default() += 1);
        let mut complete: Vec<usize> = counts.into_iter().filter(|c| c.1 == styles.len()).map(|c| c.0).collect();
        if complete.len() < concepts {
            let why = format!("{concepts} are asked for, {} of the core list exist in every style", complete.len());
            return Err(Error::Invalid { parameter: "concepts", why });
        }
        complete.sort_by_key(|&concept| hash(&["experiment", &sharp.concepts[concept].key]));
        let chosen: BTreeSet<usize> = complete.into_iter().take(concepts).collect();
        let wanted = |dataset: &Dataset, item: &Item| plain(dataset, item) && chosen.contains(&item.concept);
        let held_out = |item: &Item| {
            hash(&["held out", &sharp.concepts[item.concept].key, item.style.id()]).is_multiple_of(HELD_OUT)
        };
        let pictures = Self {
            mixed: mixed.filtered(|item| wanted(mixed, item) && !held_out(item)),
            sharp: sharp.filtered(|item| wanted(sharp, item) && !held_out(item)),
            held_out: sharp.filtered(|item| wanted(sharp, item) && held_out(item)),
        };
        let shown = |dataset: &Dataset| dataset.items.iter().map(|i| (i.concept, i.style)).collect::<Vec<_>>();
        if shown(&pictures.mixed) != shown(&pictures.sharp) {
            let why = "the two data sets do not show the same".into();
            return Err(Error::Invalid { parameter: "data", why });
        }
        Ok(pictures)
    }
}

/// A caption's tokens and its pooled vector.
type Encoded = (Vec<f32>, Vec<f32>);

/// Encodes each caption once: what an arm takes is then its own time.
pub struct Captions<'t> {
    text: TextFn<'t>,
    known: RefCell<HashMap<String, Encoded>>,
}

impl<'t> Captions<'t> {
    /// Remembers what `text` answers.
    pub fn new(text: TextFn<'t>) -> Self {
        Self { text, known: RefCell::default() }
    }

    /// What the encoder would answer.
    ///
    /// # Errors
    /// Those of the text encoder.
    pub fn encode(&self, texts: &[&str]) -> Result<Sentences> {
        let mut known = self.known.borrow_mut();
        let (mut tokens, mut pooled, mut shape) = (Vec::new(), Vec::new(), [0; 2]);
        for &text in texts {
            if !known.contains_key(text) {
                let sentence = (self.text)(&[text])?;
                known.insert(text.into(), (expert::to_vec(sentence.tokens), expert::to_vec(sentence.pooled)));
            }
            let (of_tokens, of_pooled) = &known[text];
            shape = [of_tokens.len() / of_pooled.len(), of_pooled.len()];
            tokens.extend_from_slice(of_tokens);
            pooled.extend_from_slice(of_pooled);
        }
        let ([count, dim], device) = (shape, Device::flex());
        Ok(Sentences {
            tokens: Tensor::from_data(TensorData::new(tokens, [texts.len(), count, dim]), &device),
            pooled: Tensor::from_data(TensorData::new(pooled, [texts.len(), dim]), &device),
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Arms

/// Where the experiments are carried out: what all of them share.
pub struct Bench<'a> {
    /// Sizes.
    pub scale: Scale,
    /// Pictures, part of them at low resolution only.
    pub mixed: Material<'a>,
    /// The same pictures, all at high resolution: what drawings are compared with.
    pub sharp: Material<'a>,
    /// Pictures kept from training.
    pub held_out: Material<'a>,
    /// Turns latents into pictures.
    pub autoencoder: &'a AutoencoderTiny,
    /// Its configuration.
    pub pixels: AutoencoderTinyConfig,
    /// Of its latents.
    pub statistics: &'a LatentStatistics,
    /// The schedule of every arm.
    pub schedule: Schedule,
    /// Tokens of a caption.
    tokens: usize,
    /// Pictures trained on, of those known at low resolution only, and held out.
    pictures: [usize; 3],
    /// Mean difference of neighbouring pixels in true pictures.
    roughness: OnceCell<f64>,
    dir: PathBuf,
    device: Device,
}

/// One network and how it is trained.
#[derive(Clone)]
pub struct Arm<'b, 'a> {
    /// Its folder's name, without the seed.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Pictures.
    pub material: &'b Material<'a>,
    /// Whether it sees those that are known at low resolution only.
    pub low_resolution: bool,
    /// What it sees of a picture.
    pub view: View,
    /// Timesteps.
    pub timesteps: Range<usize>,
    /// Its network.
    pub network: &'b UNetConfig,
    /// Training samples.
    pub samples: u64,
    /// Weights that training begins with.
    pub init: Option<PathBuf>,
}

/// What training cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Parameters trained.
    pub parameters: u64,
    /// Training samples.
    pub samples: u64,
    /// Operations.
    pub flops: u64,
    /// Wall time.
    pub seconds: f64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            parameters: self.parameters + other.parameters,
            samples: self.samples + other.samples,
            flops: self.flops + other.flops,
            seconds: self.seconds + other.seconds,
        }
    }
}

/// A trained arm.
pub struct Trained {
    /// Denoises as the averaged network does.
    pub denoiser: NetworkDenoiser<UNet>,
    /// What training cost.
    pub cost: Cost,
    /// Operations of one evaluation on a whole latent, and on one of half the side.
    pub evaluation: [u64; 2],
    /// The run's folder.
    pub dir: PathBuf,
}

impl<'a> Bench<'a> {
    /// Encodes the pictures; runs and results go to `dir`.
    ///
    /// # Errors
    /// If a picture is damaged, or there are too few, or `dir` has runs of another scale.
    pub fn new(
        scale: Scale,
        pictures: &'a Pictures,
        (autoencoder, pixels, statistics): (&'a AutoencoderTiny, AutoencoderTinyConfig, &'a LatentStatistics),
        text: TextFn<'a>,
        dir: &Path,
        device: &Device,
    ) -> Result<Self> {
        let encode = |dataset| Material::encode(dataset, &mix(), autoencoder, statistics, text);
        let (mixed, sharp, held_out) =
            (encode(&pictures.mixed)?, encode(&pictures.sharp)?, encode(&pictures.held_out)?);
        let tokens = mixed.condition(&[""], device)?.0.dims()[1];
        let low = (0..mixed.len()).filter(|&place| mixed.item(place).low_resolution).count();
        let pictures = [mixed.len(), low, held_out.len()];
        claim(dir, &scale, pictures)?;
        Ok(Self {
            scale,
            mixed,
            sharp,
            held_out,
            autoencoder,
            pixels,
            statistics,
            schedule: expert::schedule()?,
            tokens,
            pictures,
            roughness: OnceCell::new(),
            dir: dir.into(),
            device: device.clone(),
        })
    }

    /// A structure expert for `t >= t_struct`, as the paper trains it: whole pictures, those of low resolution too.
    pub fn structure(&self, seed: u64, t_struct: usize) -> Arm<'_, 'a> {
        Arm {
            name: format!("structure-{t_struct}"),
            seed,
            material: &self.mixed,
            low_resolution: true,
            view: View::Whole,
            timesteps: t_struct..1000,
            network: &self.scale.network,
            samples: self.scale.samples,
            init: None,
        }
    }

    /// A texture expert for `t < t_struct`, as the paper trains it: high resolution only, at half size.
    pub fn texture(&self, seed: u64, t_struct: usize) -> Arm<'_, 'a> {
        Arm {
            name: format!("texture-{t_struct}"),
            low_resolution: false,
            view: View::Half { windows: 0.5 },
            timesteps: 0..t_struct,
            ..self.structure(seed, t_struct)
        }
    }

    /// A texture expert trained on whole pictures.
    pub fn whole_texture(&self, seed: u64) -> Arm<'_, 'a> {
        Arm { name: format!("texture-{T_STRUCT}-whole"), view: View::Whole, ..self.texture(seed, T_STRUCT) }
    }

    /// Operations of training an arm on one sample.
    pub fn flops_per_sample(&self, network: &UNetConfig, view: View) -> u64 {
        let side = match view {
            View::Whole => self.sharp.latent_shape()[1],
            View::Half { .. } => self.sharp.half_side(),
        };
        flops::TRAINING * flops::unet(network, side, self.tokens).flops
    }

    /// Samples that `flops` operations of training pay for, in whole updates.
    pub fn affordable(&self, flops: u64, network: &UNetConfig, view: View) -> u64 {
        let update = self.flops_per_sample(network, view) * self.scale.batch as u64;
        flops.div_ceil(update).max(1) * self.scale.batch as u64
    }

    /// Trains an arm, or continues, or takes what is there.
    ///
    /// # Errors
    /// Those of [`expert::train`].
    pub fn train(&self, arm: &Arm) -> Result<Trained> {
        let dir = self.dir.join("arms").join(format!("{}-seed{}", arm.name, arm.seed));
        let finished = |position: &session::Position| position.samples >= arm.samples;
        if !session::position(&dir)?.as_ref().is_some_and(finished) {
            println!("training {}, {} samples", dir.display(), arm.samples);
            let options = expert::Options {
                dir: dir.clone(),
                timesteps: arm.timesteps.clone(),
                low_resolution: arm.low_resolution,
                view: arm.view,
                network: arm.network.clone(),
                init: arm.init.clone(),
                mix: mix(),
                budget: Budget { samples: Some(arm.samples), minutes: None, pause_after: None },
                intervals: Intervals { sheet: Duration::MAX, ..Intervals::default() },
                batch: self.scale.batch,
                rate: LearningRate { peak: self.scale.rate, warmup: 50, floor: 0.02 },
                average_decay: self.scale.average_decay,
                caption_drop: 0.1,
                seed: arm.seed,
            };
            expert::train(arm.material, (self.autoencoder, self.statistics), &options, &self.device)?;
        }
        let missing = || read_error(&dir, "there is no checkpoint");
        let position = session::position(&dir)?.ok_or_else(missing)?;
        let [whole, half] = [self.sharp.latent_shape()[1], self.sharp.half_side()]
            .map(|side| flops::unet(arm.network, side, self.tokens));
        Ok(Trained {
            denoiser: NetworkDenoiser::new(
                expert::load(&dir, arm.network, &self.device)?,
                self.schedule.clone(),
                Prediction::VPrediction,
            ),
            cost: Cost {
                parameters: whole.parameters,
                samples: position.samples,
                flops: position.samples * self.flops_per_sample(arm.network, arm.view),
                seconds: position.seconds,
            },
            evaluation: [whole.flops, half.flops],
            dir,
        })
    }

    /// Two experts as one denoiser.
    pub fn pair<'t>(
        &self,
        structure: &'t Trained,
        texture: &'t Trained,
        t_struct: usize,
    ) -> TimeDecoupled<&'t NetworkDenoiser<UNet>, &'t NetworkDenoiser<UNet>> {
        let boundary = self.schedule.sigma(t_struct as f64);
        TimeDecoupled { structure: &structure.denoiser, texture: &texture.denoiser, boundary }
    }
}

/// Makes `dir` the folder of one scale: its arms are shared by all experiments, so none may differ. Seeds may be added.
fn claim(dir: &Path, scale: &Scale, pictures: [usize; 3]) -> Result<()> {
    let path = dir.join("scale.json");
    let own = serde_json::to_string_pretty(&(Scale { seeds: Vec::new(), ..scale.clone() }, pictures));
    let own = own.expect("plain data");
    match std::fs::read_to_string(&path) {
        Ok(there) if there == own => Ok(()),
        Ok(_) => {
            let why = format!("{} belongs to experiments of another scale; choose another folder", dir.display());
            Err(Error::Invalid { parameter: "out", why })
        }
        Err(_) => {
            std::fs::create_dir_all(dir).map_err(|error| write_error(dir, error))?;
            session::write_atomically(&path, own.as_bytes())
        }
    }
}

/// Everything that was kept, evenly.
fn mix() -> Mix {
    Mix { pools: vec![(Pool::Core, 1.0)], ..Mix::default() }
}

// ---------------------------------------------------------------------------------------------------------------------
// Results

/// One row of a table: what was trained, what it cost, how it scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The arm, in words.
    pub arm: String,
    /// Where it stands on the experiment's scale, if it has one.
    pub at: Option<f64>,
    /// Its seed.
    pub seed: u64,
    /// What training all its networks cost.
    pub cost: Cost,
    /// How it scored.
    pub scores: Scores,
}

/// What an experiment found, as its JSON file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The experiment.
    pub experiment: String,
    /// How large it was.
    pub scale: Scale,
    /// Pictures trained on, of those known at low resolution only, and held out.
    pub pictures: [usize; 3],
    /// Timesteps that its arms differ in.
    pub timesteps: [usize; 2],
    /// What was measured, seed by seed.
    pub outcomes: Vec<Outcome>,
}

impl Results {
    /// The results of `experiment` so far, to which the bench's seeds are added.
    fn open(bench: &Bench, experiment: &str, timesteps: Range<usize>) -> Result<Self> {
        let earlier = Self::load(&bench.dir, experiment)?;
        let (outcomes, seeds) = earlier.map_or_else(Default::default, |e| (e.outcomes, e.scale.seeds));
        let mut scale = bench.scale.clone();
        scale.seeds.retain(|seed| !seeds.contains(seed));
        scale.seeds.splice(0..0, seeds);
        Ok(Self {
            experiment: experiment.into(),
            scale,
            pictures: bench.pictures,
            timesteps: [timesteps.start, timesteps.end],
            outcomes,
        })
    }

    /// Reads the results of `experiment` in `dir`; nothing if it has none yet.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Corrupt`].
    pub fn load(dir: &Path, experiment: &str) -> Result<Option<Self>> {
        let path = dir.join(format!("{experiment}.json"));
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|error| read_error(&path, error))?;
        let corrupt =
            |error: serde_json::Error| Error::Corrupt { what: path.display().to_string(), why: error.to_string() };
        serde_json::from_str(&text).map(Some).map_err(corrupt)
    }
}

impl Bench<'_> {
    /// Scores a contender and adds it to the results, which are written at once; does nothing if they have it.
    fn measure(
        &self,
        results: &mut Results,
        (arm, at): (&str, Option<f64>),
        seed: u64,
        cost: Cost,
        contender: &Contender,
    ) -> Result<()> {
        if results.outcomes.iter().any(|outcome| outcome.arm == arm && outcome.seed == seed) {
            return Ok(());
        }
        let dir = self.dir.join(&results.experiment);
        std::fs::create_dir_all(&dir).map_err(|error| write_error(&dir, error))?;
        let name = arm.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let scores = self.score(contender, &dir.join(format!("{name}-seed{seed}.png")))?;
        let (recall, error) = (scores.recall_at_1, scores.v_error(0..1000));
        println!("{}: {arm}, seed {seed}: R@1 {recall:.3}, v error {error:.4}", results.experiment);
        results.outcomes.push(Outcome { arm: arm.into(), at, seed, cost, scores });
        let path = self.dir.join(format!("{}.json", results.experiment));
        let json = serde_json::to_string_pretty(results).expect("plain data");
        session::write_atomically(&path, json.as_bytes())
    }
}
