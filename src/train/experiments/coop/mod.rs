//! Coop-Diffusion, measured: what drawings owe to a companion, what that costs, and what the bridge between resolutions is
//! for.
//!
//! | what | module |
//! |---|---|
//! | (prompt, picture) pairs in which each says what the other does not | [`pairs`] |
//! | how well a drawing follows its picture and its text | [`score`] |
//! | tables, curves, sheets | [`report`] |
//!
//! An *arm* is one way to draw: the home model alone, the companion alone, or both together with one weight and one schedule.
//! Every drawing is kept in the folder of the results, with what it was drawn from: an interrupted experiment goes on where
//! it stopped, and scores can be changed without drawing again. Schedules are chosen on one set of pairs ([`search`]) and
//! compared with either model alone on another.

pub mod pairs;
pub mod report;
pub mod score;

use super::super::{
    data::{Dataset, mix::Mix, scene::StyleId},
    eval::{dual::DualEncoder, retrieval::Catalogue},
    read_error,
    session::write_atomically,
    write_error,
};
use crate::{
    Error, Image, Result,
    coop::latent::{Exchange, Falloff},
    nets::Pace,
    pipeline::{Control, Generator, MEMORY, Passage, Request, config::ControlKind},
    pixels::Upsampler,
    weights::Depot,
};
use pairs::Pair;
use pollster::block_on;
use score::{Ceiling, Score, Scorer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// What `pangu-draw experiment coop` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the drawings and the results.
    pub out: PathBuf,
    /// Pairs of each kind that schedules are chosen on.
    pub pairs: usize,
    /// Other pairs that the chosen one is compared on.
    pub confirm: usize,
    /// Prompts drawn at twice the side.
    pub large: usize,
    /// Pairs that are timed.
    pub costs: usize,
    /// Styles asked for: those that all models know.
    pub styles: Vec<StyleId>,
    /// Styles that only the home model was trained on; outlines are measured on them, too.
    pub home_styles: Vec<StyleId>,
    /// What is asked for.
    pub mix: Mix,
    /// Nothing more is drawn after this time.
    pub budget: Duration,
    /// Seed of the pairs and of the drawings.
    pub seed: u64,
    /// The command, with the model's location, whose memory is measured; nothing if none.
    pub command: Option<(PathBuf, String)>,
}

/// What texts ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repertoire {
    /// [`Options::styles`].
    #[default]
    Shared,
    /// [`Options::home_styles`].
    Home,
}

/// One way to draw.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Arm {
    /// The home model alone, which hears the text only.
    Home,
    /// The companion alone at its own size.
    Foreign,
    /// Both.
    Fused {
        /// The weight `d`.
        strength: f64,
        /// The share of the schedule, from noise on.
        until: f64,
        /// How the weight falls until there.
        falloff: Falloff,
        /// What the companion hears.
        exchange: Exchange,
    },
    /// The companion drafts, the home model goes on from `t_low` down.
    Draft {
        /// `T_low`.
        t_low: f64,
    },
}

impl Arm {
    /// Algorithm 1 as the paper has it: one weight from start to end.
    pub fn plain(strength: f64) -> Self {
        Self::Fused { strength, until: 1.0, falloff: Falloff::Constant, exchange: Exchange::TwoWay }
    }

    /// What tables call it.
    pub fn name(&self) -> String {
        match self {
            Self::Home => "home alone".into(),
            Self::Foreign => "companion alone".into(),
            Self::Fused { strength, until, falloff, exchange } => {
                let falloff = if *falloff == Falloff::Noise { "falling with the noise" } else { "constant" };
                format!("d {strength}, until {until}, {falloff}, {}", exchange.name())
            }
            Self::Draft { t_low } => format!("companion drafts down to t = {t_low}"),
        }
    }
}

/// An arm and its scores, pair by pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How was drawn.
    pub arm: Arm,
    /// One a pair.
    pub scores: Vec<Score>,
}

impl Row {
    /// The mean of a number of the scores.
    pub fn mean(&self, value: impl Fn(&Score) -> f64) -> f64 {
        self.scores.iter().map(value).sum::<f64>() / self.scores.len().max(1) as f64
    }
}

/// What was measured of one companion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What it follows.
    pub control: ControlKind,
    /// What the texts ask for.
    #[serde(default)]
    pub repertoire: Repertoire,
    /// The pairs that schedules were chosen on.
    pub pairs: Vec<Pair>,
    /// What the real pictures score that the texts ask for.
    pub ceiling: Ceiling,
    /// Every arm that was finished.
    pub rows: Vec<Row>,
    /// The best fused arm, by the joint score.
    pub chosen: Option<Arm>,
    /// Other pairs.
    pub confirmed_pairs: Vec<Pair>,
    /// What their real pictures score.
    pub confirmed_ceiling: Ceiling,
    /// Either model alone, the chosen arm, and the manifest's own, on those.
    pub confirmed: Vec<Row>,
}

impl Measured {
    /// What documents and sheets call it.
    pub fn name(&self) -> String {
        match self.repertoire {
            Repertoire::Shared => self.control.to_string(),
            Repertoire::Home => format!("{}-home", self.control),
        }
    }
}

/// What is drawn where an outline and a picture are given at once, and how well it follows them and the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Both {
    /// How was drawn.
    pub what: String,
    /// Adherence to the outline, adherence to the picture, text: one a pair.
    pub scores: Vec<[f64; 3]>,
}

/// What one way to draw costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// What was drawn.
    pub what: String,
    /// Passes of an autoencoder, the last decoding with them.
    pub passes: usize,
    /// Seconds of each drawing, without loading; side by side with the others.
    pub seconds: Vec<f64>,
    /// Largest resident memory of a process that does nothing else, in bytes; 0 if it was not measured.
    pub peak_bytes: u64,
}

/// What twice the side was drawn by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Large {
    /// How.
    pub what: String,
    /// `T_low`; none without a draft.
    pub t_low: Option<f64>,
    /// Scores of the drawings.
    pub scores: Vec<Score>,
    /// Mean difference of neighbouring values on white, of 1.
    pub roughness: Vec<f64>,
    /// Seconds of each.
    pub seconds: Vec<f64>,
    /// Autocorrelation of the noise that the home model goes on from, at distances of 1, 2 and 3 cells.
    pub autocorrelation: Option<[f64; 3]>,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Of each companion.
    pub measured: Vec<Measured>,
    /// With both controls at once.
    #[serde(default)]
    pub both: Vec<Both>,
    /// Costs; the first is the home model alone.
    pub costs: Vec<Cost>,
    /// Prompts of the large drawings.
    pub large_pairs: Vec<Pair>,
    /// What the real pictures of those score.
    pub large_ceiling: Ceiling,
    /// Mean difference of neighbouring values of those, scaled up.
    pub large_roughness: f64,
    /// Drawings of twice the side.
    pub large: Vec<Large>,
    /// Seconds that the experiment took, with what was drawn before.
    pub seconds: f64,
    /// Steps of each drawing.
    pub steps: usize,
}

const FILE: &str = "coop.json";
/// `T_low` that a companion's drafts are tried with.
const DRAFTS: [f64; 3] = [200.0, 300.0, 400.0];

impl Results {
    /// Reads what [`run`] wrote into `out`.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Corrupt`].
    pub fn load(out: &Path) -> Result<Self> {
        let path = out.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| read_error(&path, error))?;
        let corrupt =
            |error: serde_json::Error| Error::Corrupt { what: path.display().to_string(), why: error.to_string() };
        serde_json::from_str(&text).map_err(corrupt)
    }
}

/// A picture and how long it took.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// The picture.
    pub image: Image,
    /// Seconds without loading.
    pub seconds: f64,
}

/// What is kept beside a drawing.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Of the models and the settings.
    key: String,
    // What serde_json reads back is exact to the last bit of an f32, not of an f64.
    seconds: f32,
    autocorrelation: Option<[f32; 3]>,
}

/// The models and what they are measured with.
pub struct Bench<'a> {
    /// The pictures.
    pub dataset: &'a Dataset,
    /// Judges.
    pub encoder: &'a DualEncoder,
    /// The captions that drawings compete for.
    pub catalogue: Catalogue,
    /// The home model.
    pub home: Generator,
    /// Each companion by itself.
    pub alone: BTreeMap<ControlKind, Generator>,
    options: &'a Options,
    began: Instant,
    /// Whether the time was spent before all was drawn.
    late: Cell<bool>,
}

/// Measures `model` and its companions; answers what is finished when the time is spent.
///
/// # Errors
/// If a model or the data set cannot be read, a drawing fails, or the folder cannot be written.
pub fn run(dataset: &Dataset, encoder: &DualEncoder, depot: Depot, options: &Options) -> Result<Results> {
    let bench = Bench::new(dataset, encoder, depot, options)?;
    let former = Results::load(&options.out).ok();
    let mut results = Results { steps: bench.home.config().defaults.steps, ..Results::default() };
    let save = |results: &mut Results| {
        results.seconds = bench.began.elapsed().as_secs_f64();
        let json = serde_json::to_string(results).expect("plain data");
        write_atomically(&options.out.join(FILE), json.as_bytes())
    };
    let home_styles = (!options.home_styles.is_empty() && bench.alone.contains_key(&ControlKind::Outline))
        .then_some((ControlKind::Outline, Repertoire::Home));
    for (control, repertoire) in bench.alone.keys().map(|kind| (*kind, Repertoire::Shared)).chain(home_styles) {
        results.measured.push(bench.search(control, repertoire)?);
        save(&mut results)?;
    }
    results.both = bench.both(&results)?;
    save(&mut results)?;
    // What was timed in turn is not timed again in part.
    match bench.costs(&results)? {
        Some(costs) => results.costs = costs,
        None => results.costs = former.map(|former| former.costs).unwrap_or_default(),
    }
    save(&mut results)?;
    bench.large(&mut results)?;
    save(&mut results)?;
    report::sheets(&bench, &results)?;
    save(&mut results)?;
    if bench.late.get() {
        eprintln!("the time is spent; run again to go on");
    }
    Ok(results)
}

impl<'a> Bench<'a> {
    fn new(dataset: &'a Dataset, encoder: &'a DualEncoder, depot: Depot, options: &'a Options) -> Result<Self> {
        let load = |depot: Depot| {
            let device = block_on(crate::device::open(crate::device::DeviceChoice::Cpu))?;
            block_on(Generator::open(depot, device, MEMORY))
        };
        std::fs::create_dir_all(&options.out).map_err(|error| write_error(&options.out, error))?;
        let home = load(depot.clone())?;
        let mut alone = BTreeMap::new();
        for (kind, companion) in &home.config().companions {
            alone.insert(*kind, load(depot.sibling(&companion.folder))?);
        }
        let catalogue = Catalogue::new(dataset, encoder);
        let (began, late) = (Instant::now(), Cell::new(false));
        Ok(Self { dataset, encoder, catalogue, home, alone, options, began, late })
    }

    /// What a drawing depends on beside its settings: the models that have a part in it.
    fn models(&self, generator: &Generator, request: &Request) -> Vec<String> {
        let home = std::ptr::eq(generator, &self.home);
        let kinds = request.controls.iter().map(|control| control.kind).chain(request.draft);
        let kinds: BTreeSet<ControlKind> = kinds.filter(|_| home).collect();
        let companions = kinds.iter().map(|kind| &self.alone[kind]);
        companions.chain([generator]).map(|model| model.manifest().fingerprint()).collect()
    }

    /// Draws, unless it was drawn before; nothing if the time is spent.
    ///
    /// # Errors
    /// Those of the generator; [`Error::Write`].
    pub fn draw(
        &self,
        generator: &Generator,
        request: &Request,
        passage: Passage,
    ) -> Result<Option<(Drawn, Option<[f32; 3]>)>> {
        let settings = generator.resolve(request)?;
        let settings = serde_json::to_string(&(self.models(generator, request), &settings, passage == Passage::Bridge));
        let key = hex::encode(Sha256::digest(settings.expect("plain data")));
        let folder = self.options.out.join("drawings");
        let (picture, about) = (folder.join(format!("{key}.png")), folder.join(format!("{key}.json")));
        let kept: Option<Kept> = std::fs::read(&about)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .filter(|k: &Kept| k.key == key);
        if let Some(kept) = kept
            && let Ok(bytes) = std::fs::read(&picture)
        {
            let decoded = image::load_from_memory(&bytes).map_err(|error| read_error(&picture, error))?.into_rgba8();
            let image = Image::new(decoded.width() as usize, decoded.height() as usize, decoded.into_raw())?;
            return Ok(Some((Drawn { image, seconds: f64::from(kept.seconds) }, kept.autocorrelation)));
        }
        if self.began.elapsed() > self.options.budget {
            self.late.set(true);
            return Ok(None);
        }
        let pace = Pace::free();
        if std::ptr::eq(generator, &self.home) {
            block_on(generator.prepare(request, &pace, &mut |_| ()))?;
        }
        let (drawing, noise) = block_on(generator.generate_through(request, passage, &pace))?;
        let seconds = drawing.timings.iter().map(|(_, seconds)| seconds).sum::<f64>() as f32;
        let autocorrelation = match noise {
            // Lags up to 3 cells.
            Some(noise) if noise.dims()[3] > 3 => {
                let at = |cells| block_on(crate::coop::resolution::autocorrelation(noise.clone(), [0, cells]));
                Some([at(1)?, at(2)?, at(3)?])
            }
            _ => None,
        };
        // A draft that is finished leaves no noise.
        let autocorrelation = autocorrelation.filter(|lags| lags.iter().all(|lag| lag.is_finite()));
        std::fs::create_dir_all(&folder).map_err(|error| write_error(&folder, error))?;
        write_atomically(&picture, &drawing.to_png()?)?;
        let kept = Kept { key, seconds, autocorrelation };
        write_atomically(&about, serde_json::to_string(&kept).expect("plain data").as_bytes())?;
        Ok(Some((Drawn { image: drawing.image, seconds: f64::from(seconds) }, autocorrelation)))
    }

    /// What `arm` is asked for.
    ///
    /// # Errors
    /// If the pair's picture is damaged.
    pub fn request(&self, pair: &Pair, control: ControlKind, arm: Arm) -> Result<Request> {
        let given = || Ok::<_, Error>(Control::new(control, pair.given(self.dataset)?));
        // The style is in the words, so that all models hear the same.
        let request =
            Request { prompt: pair.prompt.clone(), style: Some(String::new()), seed: pair.seed, ..Request::default() };
        Ok(match arm {
            Arm::Home => request,
            Arm::Foreign => Request { controls: vec![given()?], ..request },
            Arm::Fused { strength, until, falloff, exchange } => {
                let control =
                    Control { strength: Some(strength), until: Some(until), falloff: Some(falloff), ..given()? };
                Request { controls: vec![control], exchange: Some(exchange.name().into()), ..request }
            }
            Arm::Draft { t_low } => {
                // The companion follows its picture in the draft and its estimate at the bridge; after it the home model is alone.
                let model = self.home.config();
                let of = |timesteps: f64| timesteps / model.schedule.num_train_timesteps as f64;
                let until = (1.0 - of(t_low) + 1.0 / model.defaults.steps as f64).min(1.0);
                let control = Control { strength: Some(1.0), until: Some(until), ..given()? };
                Request { draft: Some(control.kind), t_low: Some(t_low), controls: vec![control], ..request }
            }
        })
    }

    /// What `arm` draws of each pair; nothing if the time was spent before.
    ///
    /// # Errors
    /// As [`Bench::draw`].
    pub fn arm(&self, pairs: &[Pair], control: ControlKind, arm: Arm) -> Result<Option<Vec<Drawn>>> {
        let generator = if arm == Arm::Foreign { &self.alone[&control] } else { &self.home };
        let mut drawn = Vec::new();
        for pair in pairs {
            let request = self.request(pair, control, arm)?;
            let Some((one, _)) = self.draw(generator, &request, Passage::Bridge)? else { return Ok(None) };
            drawn.push(one);
        }
        Ok(Some(drawn))
    }

    fn row(&self, scorer: &Scorer<'_>, arm: Arm) -> Result<Option<Row>> {
        let Some(drawn) = self.arm(scorer.pairs, scorer.control, arm)? else { return Ok(None) };
        let images: Vec<Image> = drawn.into_iter().map(|drawn| drawn.image).collect();
        Ok(Some(Row { arm, scores: scorer.scores(&images)? }))
    }

    /// Either model alone, the weights from 0 to 1, then schedules: the cheap arms first. What comes later varies the best
    /// so far.
    fn search(&self, control: ControlKind, repertoire: Repertoire) -> Result<Measured> {
        let Options { pairs, confirm, seed, .. } = *self.options;
        let styles = match repertoire {
            Repertoire::Shared => &self.options.styles,
            Repertoire::Home => &self.options.home_styles,
        };
        let all = pairs::choose(self, control, styles, pairs + confirm, seed)?;
        let (chosen_on, confirmed_on) = all.split_at(pairs.min(all.len()));
        let scorer = Scorer::new(self, control, chosen_on)?;
        let mut rows: Vec<Row> = Vec::new();
        let add = |rows: &mut Vec<Row>, arm: Arm| -> Result<()> {
            if !rows.iter().any(|row| row.arm == arm) {
                rows.extend(self.row(&scorer, arm)?);
            }
            Ok(())
        };
        for arm in [Arm::Home, Arm::Foreign].into_iter().chain([0.2, 0.4, 0.6, 0.8, 1.0].map(Arm::plain)) {
            add(&mut rows, arm)?;
        }
        let fused = |strength, until, falloff, exchange| Arm::Fused { strength, until, falloff, exchange };
        for strength in [0.4, 0.6, 0.8] {
            for until in [0.5, 0.7, 0.9] {
                add(&mut rows, fused(strength, until, Falloff::Constant, Exchange::OneWay))?;
            }
        }
        let best = |rows: &[Row]| {
            // Of equals the first: the simpler one.
            let fused = rows.iter().rev().filter(|row| matches!(row.arm, Arm::Fused { .. }));
            fused.max_by(|a, b| a.mean(Score::joint).total_cmp(&b.mean(Score::joint))).map(|row| row.arm)
        };
        if let Some(Arm::Fused { strength, until, exchange, .. }) = best(&rows) {
            for (strength, until) in [(1.0, until), (strength, 1.0)] {
                add(&mut rows, fused(strength, until, Falloff::Constant, exchange))?;
            }
            add(&mut rows, fused(strength, until, Falloff::Noise, exchange))?;
        }
        if let Some(Arm::Fused { strength, until, falloff, .. }) = best(&rows) {
            for exchange in Exchange::ALL {
                add(&mut rows, fused(strength, until, falloff, exchange))?;
            }
        }
        let chosen = best(&rows);
        if control == ControlKind::Outline && repertoire == Repertoire::Shared {
            for t_low in DRAFTS {
                add(&mut rows, Arm::Draft { t_low })?;
            }
        }
        let drafts = rows.iter().filter(|row| matches!(row.arm, Arm::Draft { .. }));
        let draft = drafts.max_by(|a, b| a.mean(Score::joint).total_cmp(&b.mean(Score::joint))).map(|row| row.arm);

        let companion = &self.home.config().companions[&control];
        let own = fused(companion.strength, companion.until, companion.falloff, Exchange::default());
        let confirming = Scorer::new(self, control, confirmed_on)?;
        let mut confirmed: Vec<Row> = Vec::new();
        for arm in [Arm::Home, Arm::Foreign].into_iter().chain(chosen).chain(draft).chain([own]) {
            if !confirmed_on.is_empty() && !confirmed.iter().any(|row| row.arm == arm) {
                confirmed.extend(self.row(&confirming, arm)?);
            }
        }
        Ok(Measured {
            control,
            repertoire,
            ceiling: scorer.ceiling.clone(),
            pairs: chosen_on.to_vec(),
            rows,
            chosen,
            confirmed_ceiling: confirming.ceiling.clone(),
            confirmed_pairs: confirmed_on.to_vec(),
            confirmed,
        })
    }

    /// An outline and a picture at once, on the pairs that the outline's schedule was compared on: the outline of one design, the
    /// picture of the other.
    fn both(&self, results: &Results) -> Result<Vec<Both>> {
        let of = |control| {
            let mut all = results.measured.iter().filter(|measured| measured.repertoire == Repertoire::Shared);
            all.find(|measured| measured.control == control)
        };
        let (Some(outline), Some(variation)) = (of(ControlKind::Outline), of(ControlKind::Variation)) else {
            return Ok(Vec::new());
        };
        let pairs = &outline.confirmed_pairs[..];
        let mut rows = Vec::new();
        if pairs.is_empty() {
            return Ok(rows);
        }
        let swapped: Vec<Pair> = pairs.iter().map(Pair::swapped).collect();
        let followed = Scorer::new(self, ControlKind::Outline, pairs)?;
        let resembled = Scorer::new(self, ControlKind::Variation, &swapped)?;
        for (what, drawn) in self.ways(pairs, outline.chosen, variation.chosen)? {
            let scores = followed.scores(&drawn)?.into_iter().zip(resembled.scores(&drawn)?);
            rows.push(Both { what, scores: scores.map(|(a, b)| [a.adherence, b.adherence, a.text]).collect() });
        }
        Ok(rows)
    }

    /// What is drawn of pairs and their swapped ones with no control, with either and with both; ends early where the time does.
    ///
    /// # Errors
    /// As [`Bench::draw`].
    pub fn ways(
        &self,
        pairs: &[Pair],
        outline: Option<Arm>,
        variation: Option<Arm>,
    ) -> Result<Vec<(String, Vec<Image>)>> {
        let mut ways = Vec::new();
        let (Some(outline), Some(variation)) = (outline, variation) else { return Ok(ways) };
        let requests = |share: f64, exchange: Exchange| {
            let of_pair = move |pair: &Pair| {
                let mut request = self.request(pair, ControlKind::Outline, outline)?;
                request.controls.extend(self.request(&pair.swapped(), ControlKind::Variation, variation)?.controls);
                for control in &mut request.controls {
                    control.strength = control.strength.map(|weight| weight * share);
                }
                request.exchange = Some(exchange.name().into());
                Ok(request)
            };
            pairs.iter().map(of_pair).collect::<Result<Vec<Request>>>()
        };
        let alone = |control, arm| {
            let of_pair = move |pair: &Pair| match control {
                ControlKind::Outline => self.request(pair, control, arm),
                ControlKind::Variation => self.request(&pair.swapped(), control, arm),
            };
            pairs.iter().map(of_pair).collect::<Result<Vec<Request>>>()
        };
        for (what, requests) in [
            ("home alone".to_owned(), alone(ControlKind::Outline, Arm::Home)?),
            (format!("outline: {}", outline.name()), alone(ControlKind::Outline, outline)?),
            (format!("picture: {}", variation.name()), alone(ControlKind::Variation, variation)?),
            ("both, two_way".to_owned(), requests(1.0, Exchange::TwoWay)?),
            ("both, one_way".to_owned(), requests(1.0, Exchange::OneWay)?),
            ("both, each with half of its weight, one_way".to_owned(), requests(0.5, Exchange::OneWay)?),
        ] {
            let mut drawn = Vec::new();
            for request in requests {
                let Some((one, _)) = self.draw(&self.home, &request, Passage::Bridge)? else { return Ok(ways) };
                drawn.push(one.image);
            }
            ways.push((what, drawn));
        }
        Ok(ways)
    }

    /// Times drawings in turn, so that whatever else the machine does meets all of them; nothing if the time is spent.
    fn costs(&self, results: &Results) -> Result<Option<Vec<Cost>>> {
        let steps = self.home.config().defaults.steps;
        let Some(Measured { control, pairs, .. }) = results.measured.first() else { return Ok(None) };
        let (control, pairs) = (*control, &pairs[..self.options.costs.min(pairs.len())]);
        if pairs.is_empty() {
            return Ok(None);
        }
        let model = self.home.config();
        let folder = &model.companions[&control].folder;
        let fused = |exchange: Exchange, passes: usize| {
            let arm = Arm::Fused { strength: 0.5, until: 1.0, falloff: Falloff::Constant, exchange };
            (format!("with {folder}, d 0.5 in all {steps} steps, {exchange}"), arm, None, passes)
        };
        let [height, width] = self.large_size();
        let (whole, t_low) = (model.schedule.num_train_timesteps as f64, model.defaults.t_low);
        // What, how, `T_low` of a large picture, and passes of an autoencoder.
        let ways = [
            ("home alone".to_owned(), Arm::Home, None, 1),
            (format!("{folder} alone"), Arm::Foreign, None, 1),
            fused(Exchange::TwoWay, 4 * steps + 1),
            fused(Exchange::Renoised, 4 * steps - 1),
            fused(Exchange::OneWay, 2 * steps + 1),
            (format!("home, {width}x{height} directly"), Arm::Home, Some(whole), 1),
            (format!("home, {width}x{height} from a draft, T_low {t_low}"), Arm::Home, Some(t_low), 3),
        ];
        let cost = |way: &(String, Arm, Option<f64>, usize)| Cost {
            what: way.0.clone(),
            passes: way.3,
            seconds: Vec::new(),
            peak_bytes: 0,
        };
        let mut costs: Vec<Cost> = ways.iter().map(cost).collect();
        let pace = Pace::free();
        for pair in pairs {
            for (cost, (_, arm, t_low, _)) in costs.iter_mut().zip(&ways) {
                if self.began.elapsed() > self.options.budget {
                    self.late.set(true);
                    return Ok(None);
                }
                let mut request = self.request(pair, control, *arm)?;
                if t_low.is_some() {
                    request = Request { width: Some(width), height: Some(height), t_low: *t_low, ..request };
                }
                let generator = if *arm == Arm::Foreign { &self.alone[&control] } else { &self.home };
                if *arm != Arm::Foreign {
                    block_on(generator.prepare(&request, &pace, &mut |_| ()))?;
                }
                let drawing = block_on(generator.generate(&request, &pace, &mut |_| ()))?;
                cost.seconds.push(drawing.timings.iter().map(|(_, seconds)| seconds).sum());
            }
        }
        if let (Some((command, model)), Some(pair)) = (&self.options.command, pairs.first()) {
            self.memory(&mut costs, command, model, pair, control)?;
        }
        Ok(Some(costs))
    }

    /// Twice the side that the home model was trained on.
    fn large_size(&self) -> [usize; 2] {
        let image = &self.home.config().image;
        [image.height, image.width].map(|side| (2 * side).min(image.max))
    }

    /// Peak resident memory of the command drawing one picture in each way, as Linux counts it (`VmHWM`).
    fn memory(&self, costs: &mut [Cost], command: &Path, model: &str, pair: &Pair, control: ControlKind) -> Result<()> {
        let given = self.options.out.join("given.png");
        write_atomically(&given, &pair.given(self.dataset)?.to_png(&[])?)?;
        let with = |exchange: &str| {
            let control = format!("{control}={}:0.5", given.display());
            let arguments = ["--control", &control, "--coop-until", "1", "--exchange", exchange];
            arguments.map(str::to_owned).to_vec()
        };
        let folder = &self.home.config().companions[&control].folder;
        let beside = Path::new(model).join("..").join(folder).display().to_string();
        let alone = format!("{control}={}", given.display());
        let [height, width] = self.large_size();
        let size = format!("{width}x{height}");
        let whole = self.home.config().schedule.num_train_timesteps.to_string();
        let own = |arguments: &[&str]| arguments.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let ways = [
            (model, vec![]),
            (&beside, own(&["--control", &alone])),
            (model, with("two-way")),
            (model, with("renoised")),
            (model, with("one-way")),
            (model, own(&["--size", &size, "--t-low", &whole])),
            (model, own(&["--size", &size])),
        ];
        for (cost, (model, arguments)) in costs.iter_mut().zip(ways) {
            let mut draw = Command::new(command);
            draw.args(["draw", &pair.prompt, "--model", model, "--device", "cpu", "--style", "", "--json", "-o"]);
            draw.arg(self.options.out.join("memory.png")).args(arguments).stdout(std::process::Stdio::null());
            let mut child = draw.spawn().map_err(|error| read_error(command, error))?;
            let status = format!("/proc/{}/status", child.id());
            // The last value before the process ends: it never falls.
            while child.try_wait().map_err(|error| read_error(command, error))?.is_none() {
                let text = std::fs::read_to_string(&status).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.trim().parse().ok());
                cost.peak_bytes = cost.peak_bytes.max(kib.unwrap_or(0u64) * 1024);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Pictures of twice the side, directly and from drafts, across the bridge and by scaling the noisy latent.
    fn large(&self, results: &mut Results) -> Result<()> {
        let Some(Measured { control, .. }) = results.measured.first() else { return Ok(()) };
        let control = *control;
        let pairs = pairs::choose(self, control, &self.options.styles, self.options.large, self.options.seed ^ 1)?;
        if pairs.is_empty() {
            return Ok(());
        }
        let scorer = Scorer::new(self, control, &pairs)?;
        let [height, width] = self.large_size();
        let whole = self.home.config().schedule.num_train_timesteps as f64;
        for (t_low, passage, upsampler) in [
            (None, Passage::Bridge, Upsampler::Bicubic),
            (Some(600.0), Passage::Bridge, Upsampler::Bicubic),
            (Some(600.0), Passage::ScaledNoise, Upsampler::Bicubic),
            (Some(400.0), Passage::Bridge, Upsampler::Bicubic),
            (Some(500.0), Passage::Bridge, Upsampler::Bicubic),
            (Some(300.0), Passage::Bridge, Upsampler::Bicubic),
            (Some(800.0), Passage::Bridge, Upsampler::Bicubic),
            (Some(200.0), Passage::Bridge, Upsampler::Bicubic),
            (Some(400.0), Passage::ScaledNoise, Upsampler::Bicubic),
            (Some(600.0), Passage::ScaledNoise, Upsampler::Nearest),
            (Some(0.0), Passage::Bridge, Upsampler::Bicubic),
        ] {
            let (mut images, mut seconds, mut correlations) = (Vec::new(), Vec::new(), Vec::new());
            for pair in &pairs {
                let request = Request {
                    width: Some(width),
                    height: Some(height),
                    t_low: Some(t_low.unwrap_or(whole)),
                    upsampler: Some(upsampler.name().into()),
                    ..self.request(pair, control, Arm::Home)?
                };
                let Some((drawn, correlation)) = self.draw(&self.home, &request, passage)? else { return Ok(()) };
                images.push(drawn.image);
                seconds.push(drawn.seconds);
                correlations.extend(correlation);
            }
            let mean =
                |at: usize| correlations.iter().map(|c| f64::from(c[at])).sum::<f64>() / correlations.len() as f64;
            let what = match (t_low, passage) {
                (None, _) => "directly".to_owned(),
                (Some(0.0), _) => "the finished draft, scaled".to_owned(),
                (_, Passage::Bridge) => "draft, bridge".to_owned(),
                (_, Passage::ScaledNoise) => format!("draft, noisy latent scaled ({upsampler})"),
            };
            results.large.push(Large {
                what,
                t_low,
                scores: scorer.scores(&images)?,
                roughness: images.iter().map(score::roughness).collect(),
                seconds,
                autocorrelation: (!correlations.is_empty()).then(|| [0, 1, 2].map(mean)),
            });
        }
        let real: Result<Vec<f64>> = pairs
            .iter()
            .map(|pair| Ok(score::roughness(&self.dataset.picture(pair.target)?.resized(width).to_straight())))
            .collect();
        let real = real?;
        results.large_roughness = real.iter().sum::<f64>() / real.len().max(1) as f64;
        results.large_ceiling = scorer.ceiling.clone();
        results.large_pairs = pairs;
        Ok(())
    }
}
