//! Evaluation that can fail: what the drawings of a model are worth, measured by an encoder that had no part in them.
//!
//! | question | module |
//! |---|---|
//! | Is a drawing what its caption says? | [`retrieval`], in the features of [`dual`] |
//! | Are the drawings as varied and as real as pictures? | [`frechet`] |
//! | Are they copies of training pictures? | [`copying`] |
//! | the report | [`report`] |
//!
//! Every number stands beside what real pictures score on the same question: that is the most a model can be asked for.

pub mod copying;
pub mod dual;
pub mod frechet;
pub mod report;
pub mod retrieval;

use super::{
    Draw, captions,
    data::{
        Dataset, Item,
        mix::{Mix, Pool, Sampler},
        picture::Picture,
        scene::{Language, Scene, StyleId},
        splits::Split,
    },
};
use crate::{Result, pipeline::Request};
use copying::{Gallery, Look, Nearest, Threshold, looks};
use dual::{DualEncoder, cosine};
use indicatif::{ProgressBar, ProgressStyle};
use retrieval::{Catalogue, Rank, Scores};
use serde::Serialize;
use std::collections::BTreeSet;

/// What is asked about: things seen in training, and what was held out in each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// What training saw, as often as it saw it.
    Seen,
    /// The same of the core list alone.
    SeenCore,
    /// Tones that a person or hand was never seen in.
    Tone,
    /// Styles that a concept was never seen in.
    Style,
    /// Colours that a glyph was never seen in.
    Colour,
    /// Backgrounds and pairs never seen together.
    Composite,
    /// Concepts that were never named in the language of the prompt.
    Language,
    /// Prompts with a keyword that no caption had.
    Keyword,
    /// Concepts never seen at all.
    Concept,
}

impl Question {
    /// Every question.
    pub const ALL: [Self; 9] = [
        Self::Seen,
        Self::SeenCore,
        Self::Tone,
        Self::Style,
        Self::Colour,
        Self::Composite,
        Self::Language,
        Self::Keyword,
        Self::Concept,
    ];

    /// Whether a picture may stand for this question asked in `language`.
    fn concerns(self, dataset: &Dataset, index: usize, language: Language) -> bool {
        let item = &dataset.items[index];
        let key = |concept: usize| dataset.concepts[concept].key.as_str();
        let named = |language| !captions::subjects(&dataset.concepts, item, language).is_empty();
        let spoken = |language| {
            let second = |concept| dataset.splits.speaks(key(concept), language);
            second(item.concept) && !matches!(item.scene, Scene::Pair { other, .. } if !second(other))
        };
        let (split, plain) = (dataset.split(index), item.scene == Scene::Plain);
        let asked = match self {
            Self::Seen | Self::SeenCore => split == Split::Seen,
            Self::Tone => split == Split::Tone,
            Self::Style => split == Split::Style && plain,
            Self::Colour => split == Split::Colour,
            Self::Composite => split == Split::Composite,
            Self::Concept => split == Split::Concept && plain,
            Self::Language => return split == Split::Seen && plain && named(language) && !spoken(language),
            Self::Keyword => {
                split == Split::Seen && plain && dataset.splits.keyword(key(item.concept), language).is_some()
            }
        };
        asked && Language::ALL.into_iter().all(|language| named(language) && spoken(language))
    }
}

/// What `pangu-draw eval` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Drawings of each question in each language.
    pub per_split: usize,
    /// Denoising steps of those.
    pub steps: usize,
    /// Classifier-free guidance; the model's own if none.
    pub guidance: Option<f64>,
    /// How often what was seen in training.
    pub mix: Mix,
    /// Prompts that are drawn again in few and in many steps, at most.
    pub step_prompts: usize,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { per_split: 32, steps: 12, guidance: None, mix: Mix::default(), step_prompts: 24, seed: 0 }
    }
}

/// Who draws: a model, or whatever a test puts in its place.
pub struct Painter<'a> {
    /// The styles it knows by their ids.
    pub styles: Vec<StyleId>,
    /// Draws one request.
    pub draw: &'a dyn Fn(&Request) -> Result<Picture>,
}

/// One question in one language.
#[derive(Debug, Clone, Serialize)]
pub struct Alignment {
    /// What was asked.
    pub question: Question,
    /// In which language.
    pub language: Language,
    /// The drawings' scores; none without a model.
    pub drawn: Option<Scores>,
    /// The ceiling: the scores of the real pictures that the prompts describe.
    pub real: Scores,
    /// R@1 of the drawings as a share of the real pictures'.
    pub share_of_ceiling: Option<f32>,
}

/// Squared Frechet distances between sets of one size, in the features named in the report.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FrechetScores {
    /// Pictures in each set.
    pub pictures: usize,
    /// Drawings of what was seen, to real pictures that were held out.
    pub drawn_to_held_out: f64,
    /// Drawings to training pictures.
    pub drawn_to_training: f64,
    /// Real pictures held out to training pictures.
    pub held_out_to_training: f64,
    /// The floor: one half of a set of training pictures to the other.
    pub training_split_half: f64,
}

/// How near pictures come to training pictures.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CopyScores {
    /// Pictures looked at.
    pub pictures: usize,
    /// Share nearer by feature than different designs of one thing are.
    pub near_by_feature: f32,
    /// Share nearer by pixel.
    pub near_by_pixel: f32,
    /// Share nearer in both: near-duplicates.
    pub near_duplicates: f32,
    /// Share whose nearest picture by feature shows the concept asked for.
    pub nearest_shows_concept: f32,
    /// Mean pixel difference to the nearest by pixel.
    pub mean_difference: f32,
}

/// Copying, beside the same for real pictures that were held out.
#[derive(Debug, Clone, Serialize)]
pub struct Copying {
    /// What counts as near.
    pub threshold: Threshold,
    /// Training pictures searched.
    pub gallery: usize,
    /// Drawings of what was seen.
    pub drawn: CopyScores,
    /// Real pictures that were held out.
    pub held_out: CopyScores,
}

/// The same prompts in few and in many steps.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepScores {
    /// Prompts.
    pub prompts: usize,
    /// Steps: few, many.
    pub steps: [usize; 2],
    /// R@1 with few, with many.
    pub recall_at_1: [f32; 2],
    /// Mean PSNR in decibels, and mean cosine of features, between few and many steps of one seed.
    pub between_steps: [f32; 2],
    /// The same between two seeds with many steps.
    pub between_seeds: [f32; 2],
}

/// A promise that was kept or not.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// What was promised.
    pub what: String,
    /// What was measured.
    pub value: f32,
    /// The least that was promised.
    pub at_least: f32,
    /// Whether it was kept.
    pub met: bool,
}

/// A drawing to be looked at.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The question it answers, and the prompt's language.
    pub question: Question,
    /// The prompt's language.
    pub language: Language,
    /// The prompt.
    pub prompt: String,
    /// The style asked for.
    pub style: StyleId,
    /// The drawing.
    pub drawing: Picture,
    /// Rank of its own caption.
    pub rank: Rank,
    /// The nearest training picture.
    pub nearest: Picture,
    /// How near it is.
    pub nearness: Nearest,
    /// Whether that counts as a copy.
    pub copy: bool,
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whose features every number was measured in.
    pub features: String,
    /// Steps and guidance of the drawings, and the seed.
    pub steps: usize,
    /// Classifier-free guidance, if it was not the model's own.
    pub guidance: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Text alignment.
    pub alignment: Vec<Alignment>,
    /// Distances between sets; none without a model.
    pub frechet: Option<FrechetScores>,
    /// Nearness to training pictures; none without a model.
    pub copying: Option<Copying>,
    /// Few steps against many; none without a model.
    pub few_steps: Option<StepScores>,
    /// What was promised; empty without a model.
    pub targets: Vec<Target>,
    /// Drawings to be looked at.
    #[serde(skip)]
    pub shown: Vec<Shown>,
    /// The fifty prompts and their drawings; empty without a model.
    #[serde(skip)]
    pub sheet: Vec<(String, Picture)>,
}

/// One prompt about one picture.
#[derive(Debug, Clone)]
struct Query {
    question: Question,
    language: Language,
    item: usize,
    /// The caption that must be found again.
    subject: String,
    /// The same with what else is asked, a keyword.
    prompt: String,
    seed: u64,
}

/// A drawing and what was measured on it.
struct Answer {
    query: Query,
    picture: Picture,
    look: Look,
    rank: Rank,
}

/// Drawings shown of each question in each language.
const SHOWN: usize = 16;
/// Prompts of the sheet, one a line.
const FIFTY: &str = include_str!("../../../docs/fifty.txt");
/// Steps compared: few, many.
const STEPS: [usize; 2] = [8, 25];
/// Streams of random numbers that no question uses.
const STREAMS: u64 = 1 << 32;

/// Evaluates `painter`, or only the encoder on real pictures if there is none.
///
/// # Errors
/// If a drawing fails, or the data set has nothing of what `options.mix` draws.
pub fn run(dataset: &Dataset, encoder: &DualEncoder, painter: Option<&Painter>, options: &Options) -> Result<Report> {
    let bench = Bench { dataset, encoder, painter, options, catalogue: Catalogue::new(dataset, encoder) };
    let queries: Vec<Query> = bench.queries()?;
    let real = bench.real(&queries)?;
    let mut report = Report {
        features: dual::NAME.into(),
        steps: options.steps,
        guidance: options.guidance,
        seed: options.seed,
        alignment: Vec::new(),
        frechet: None,
        copying: None,
        few_steps: None,
        targets: Vec::new(),
        shown: Vec::new(),
        sheet: Vec::new(),
    };
    let answers = match painter {
        Some(painter) => bench.answers(painter, &queries)?,
        None => Vec::new(),
    };
    for question in Question::ALL {
        for language in Language::ALL {
            let asked = |query: &Query| query.question == question && query.language == language;
            let real: Vec<Rank> = queries.iter().zip(&real).filter(|(q, _)| asked(q)).map(|(_, rank)| *rank).collect();
            let drawn: Vec<Rank> = answers.iter().filter(|a| asked(&a.query)).map(|a| a.rank).collect();
            if !real.is_empty() {
                let (real, drawn) = (Scores::of(&real), painter.map(|_| Scores::of(&drawn)));
                let share = |drawn: Scores| drawn.recall_at_1 / real.recall_at_1.max(f32::EPSILON);
                report.alignment.push(Alignment {
                    question,
                    language,
                    drawn,
                    real,
                    share_of_ceiling: drawn.map(share),
                });
            }
        }
    }
    if let Some(painter) = painter {
        let (gallery, held_out) = (bench.gallery()?, bench.held_out()?);
        let seen: Vec<&Answer> = answers.iter().filter(|answer| answer.query.question == Question::Seen).collect();
        report.frechet = bench.frechet(&seen)?;
        if let Some(threshold) = gallery.threshold(dataset, options.seed) {
            report.copying = Some(bench.copying(&gallery, threshold, &seen, &held_out)?);
        }
        let threshold = report.copying.as_ref().map(|copying| copying.threshold);
        report.shown = bench.shown(&gallery, threshold, &answers)?;
        report.few_steps = Some(bench.few_steps(painter, &seen)?);
        report.sheet = bench.sheet(painter)?;
        report.targets = targets(&report.alignment);
    }
    Ok(report)
}

/// What the issue of the default model promises.
fn targets(alignment: &[Alignment]) -> Vec<Target> {
    let of = |question, language| alignment.iter().find(|a| a.question == question && a.language == language);
    let mut targets = Vec::new();
    let mut promise = |what: String, value: f32, at_least: f32| {
        targets.push(Target { what, value, at_least, met: value >= at_least });
    };
    for (question, name, least) in [
        (Question::Seen, "seen", 0.8),
        (Question::Colour, "unseen colours", 0.5),
        (Question::Tone, "unseen tones", 0.5),
    ] {
        for language in Language::ALL {
            if let Some(share) = of(question, language).and_then(|a| a.share_of_ceiling) {
                promise(format!("{name}, {}: R@1 as a share of the ceiling", language.id()), share, least);
            }
        }
    }
    let recall = |language| of(Question::Seen, language).and_then(|a| a.drawn).map(|scores| scores.recall_at_1);
    if let (Some(en), Some(zh)) = (recall(Language::En), recall(Language::Zh)) {
        promise("seen: R@1 of Chinese less that of English".into(), zh - en, -0.05);
    }
    targets
}

/// What all parts of an evaluation share.
struct Bench<'a> {
    dataset: &'a Dataset,
    encoder: &'a DualEncoder,
    painter: Option<&'a Painter<'a>>,
    options: &'a Options,
    catalogue: Catalogue,
}

impl Bench<'_> {
    /// Whether a picture is in a style that can be asked for.
    fn drawable(&self, item: &Item) -> bool {
        let emoji = StyleId::EMOJI.contains(&item.style);
        !emoji || self.painter.is_none_or(|painter| painter.styles.contains(&item.style))
    }

    fn indices(&self, keep: impl Fn(usize) -> bool) -> Vec<usize> {
        let items = self.dataset.items.iter().enumerate();
        items.filter(|(index, item)| self.drawable(item) && keep(*index)).map(|(index, _)| index).collect()
    }

    /// The prompts: for each question and language pictures that all show something else.
    fn queries(&self) -> Result<Vec<Query>> {
        let mut queries = Vec::new();
        for (stream, question) in (0..).zip(Question::ALL) {
            for language in Language::ALL {
                let items = self.indices(|index| question.concerns(self.dataset, index, language));
                let mix = match question {
                    Question::SeenCore => Mix { pools: vec![(Pool::Core, 1.0)], ..self.options.mix.clone() },
                    // What is not seen at all is in no mix.
                    Question::Concept => Mix { beyond_core: 1.0, ..Mix::default() },
                    _ => self.options.mix.clone(),
                };
                // A data set may have nothing to ask about.
                let Ok(sampler) = Sampler::new(self.dataset, &items, &mix) else { continue };
                // Both languages draw the same numbers, so that they ask about the same pictures where they can.
                let mut draw = Draw::new(self.options.seed, stream);
                let mut shown = BTreeSet::new();
                for _ in 0..100 * self.options.per_split {
                    let item = sampler.draw(&mut draw);
                    let Item { concept, scene, .. } = self.dataset.items[item];
                    if shown.len() < self.options.per_split && shown.insert((concept, scene)) {
                        queries.push(self.query(question, language, item, shown.len() as u64));
                    }
                }
            }
        }
        Ok(queries)
    }

    fn query(&self, question: Question, language: Language, item: usize, number: u64) -> Query {
        let shown = &self.dataset.items[item];
        let subject = captions::subjects(&self.dataset.concepts, shown, language).swap_remove(0);
        let keyword = self.dataset.splits.keyword(&self.dataset.concepts[shown.concept].key, language);
        let prompt = match (question, keyword, language) {
            (Question::Keyword, Some(keyword), Language::En) => format!("{subject}, {keyword}"),
            (Question::Keyword, Some(keyword), Language::Zh) => format!("{subject}，{keyword}"),
            _ => subject.clone(),
        };
        Query { question, language, item, subject, prompt, seed: self.options.seed.wrapping_add(number) }
    }

    fn rank(&self, query: &Query, feature: &[f32]) -> Rank {
        let scene = self.dataset.items[query.item].scene;
        let rank = self.catalogue.rank(scene, query.language, &query.subject, feature);
        rank.expect("the catalogue has the caption of every picture")
    }

    /// Ranks of the real pictures that the prompts describe.
    fn real(&self, queries: &[Query]) -> Result<Vec<Rank>> {
        let pictures = queries.iter().map(|query| self.dataset.picture(query.item)).collect::<Result<Vec<_>>>()?;
        let features = self.encoder.pictures(&pictures)?;
        Ok(queries.iter().zip(features).map(|(query, feature)| self.rank(query, &feature)).collect())
    }

    /// What is asked of a painter: styles that it does not know by id are asked for in words.
    fn request(&self, painter: &Painter, query: &Query) -> Request {
        let style = self.dataset.items[query.item].style;
        let known = painter.styles.contains(&style);
        let styled = || captions::styled(&query.prompt, style, query.language);
        Request {
            prompt: if known { query.prompt.clone() } else { styled() },
            style: Some(if known { style.id().into() } else { String::new() }),
            seed: query.seed,
            steps: Some(self.options.steps),
            guidance_scale: self.options.guidance,
            ..Request::default()
        }
    }

    fn answers(&self, painter: &Painter, queries: &[Query]) -> Result<Vec<Answer>> {
        let bar = bar(queries.len(), "prompts drawn");
        let mut answers = Vec::with_capacity(queries.len());
        for query in queries {
            let picture = (painter.draw)(&self.request(painter, query))?;
            let look = looks(self.encoder, std::slice::from_ref(&picture))?.swap_remove(0);
            let rank = self.rank(query, &look.feature);
            answers.push(Answer { query: query.clone(), picture, look, rank });
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(answers)
    }

    /// Everything that training may have copied.
    fn gallery(&self) -> Result<Gallery> {
        let items = self.indices(|index| self.dataset.split(index) == Split::Seen);
        let bar = bar(items.len(), "training pictures looked at");
        let gallery = Gallery::new(self.dataset, items, self.encoder, &|done| bar.inc(done as u64))?;
        bar.finish_and_clear();
        Ok(gallery)
    }

    /// As many real pictures as there are drawings of what was seen, of the same mix.
    fn sample(&self, items: &[usize], count: usize, stream: u64) -> Result<Vec<usize>> {
        let sampler = Sampler::new(self.dataset, items, &self.options.mix)?;
        let mut draw = Draw::new(self.options.seed, STREAMS + stream);
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        // A small data set has to repeat itself.
        for _ in 0..100 * count {
            let item = sampler.draw(&mut draw);
            if found.len() < count && (seen.insert(item) || seen.len() == sampler.items().len()) {
                found.push(item);
            }
        }
        Ok(found)
    }

    fn held_out(&self) -> Result<Vec<usize>> {
        let items = self.indices(|index| self.dataset.split(index) != Split::Seen);
        if items.is_empty() { Ok(items) } else { self.sample(&items, 2 * self.options.per_split, 0) }
    }

    fn features(&self, items: &[usize]) -> Result<Vec<Vec<f32>>> {
        let pictures = items.iter().map(|&item| self.dataset.picture(item)).collect::<Result<Vec<_>>>()?;
        self.encoder.pictures(&pictures)
    }

    fn frechet(&self, seen: &[&Answer]) -> Result<Option<FrechetScores>> {
        let drawn: Vec<Vec<f32>> = seen.iter().map(|answer| answer.look.feature.clone()).collect();
        let training =
            self.sample(&self.indices(|index| self.dataset.split(index) == Split::Seen), 2 * drawn.len(), 1)?;
        let held_out = self.indices(|index| self.dataset.split(index) != Split::Seen);
        if held_out.is_empty() || drawn.len() < 2 || training.len() < 2 * drawn.len() {
            return Ok(None);
        }
        let held_out = self.features(&self.sample(&held_out, drawn.len(), 0)?)?;
        let (first, second) = training.split_at(drawn.len());
        let (first, second) = (self.features(first)?, self.features(second)?);
        Ok(Some(FrechetScores {
            pictures: drawn.len(),
            drawn_to_held_out: frechet::distance(&drawn, &held_out)?,
            drawn_to_training: frechet::distance(&drawn, &first)?,
            held_out_to_training: frechet::distance(&held_out, &first)?,
            training_split_half: frechet::distance(&first, &second)?,
        }))
    }

    fn copying(
        &self,
        gallery: &Gallery,
        threshold: Threshold,
        seen: &[&Answer],
        held_out: &[usize],
    ) -> Result<Copying> {
        let scores = |looks: &[(usize, &Look)]| {
            let count = looks.len().max(1) as f32;
            let found: Vec<(usize, Nearest)> =
                looks.iter().filter_map(|(item, look)| Some((*item, gallery.nearest(look)?))).collect();
            let share = |holds: &dyn Fn(&(usize, Nearest)) -> bool| {
                found.iter().filter(|found| holds(found)).count() as f32 / count
            };
            let concept = |item: usize| self.dataset.items[item].concept;
            CopyScores {
                pictures: looks.len(),
                near_by_feature: share(&|(_, nearest)| nearest.by_feature.1 > threshold.cosine),
                near_by_pixel: share(&|(_, nearest)| nearest.by_pixel.1 < threshold.difference),
                near_duplicates: share(&|(_, nearest)| nearest.is_copy(&threshold)),
                nearest_shows_concept: share(&|(item, nearest)| concept(*item) == concept(nearest.by_feature.0)),
                mean_difference: found.iter().map(|(_, nearest)| nearest.by_pixel.1).sum::<f32>() / count,
            }
        };
        let drawn: Vec<(usize, &Look)> = seen.iter().map(|answer| (answer.query.item, &answer.look)).collect();
        let pictures = held_out.iter().map(|&item| self.dataset.picture(item)).collect::<Result<Vec<_>>>()?;
        let real = looks(self.encoder, &pictures)?;
        let real: Vec<(usize, &Look)> = held_out.iter().copied().zip(&real).collect();
        Ok(Copying { threshold, gallery: gallery.len(), drawn: scores(&drawn), held_out: scores(&real) })
    }

    fn shown(&self, gallery: &Gallery, threshold: Option<Threshold>, answers: &[Answer]) -> Result<Vec<Shown>> {
        let mut shown: Vec<Shown> = Vec::new();
        for answer in answers {
            let Query { question, language, item, prompt, .. } = &answer.query;
            let already = shown.iter().filter(|shown| (shown.question, shown.language) == (*question, *language));
            let Some(nearness) = gallery.nearest(&answer.look) else { continue };
            if already.count() < SHOWN {
                shown.push(Shown {
                    question: *question,
                    language: *language,
                    prompt: prompt.clone(),
                    style: self.dataset.items[*item].style,
                    drawing: answer.picture.clone(),
                    rank: answer.rank,
                    nearest: self.dataset.picture(nearness.by_pixel.0)?,
                    nearness,
                    copy: threshold.is_some_and(|threshold| nearness.is_copy(&threshold)),
                });
            }
        }
        Ok(shown)
    }

    fn few_steps(&self, painter: &Painter, seen: &[&Answer]) -> Result<StepScores> {
        let stride = seen.len().div_ceil(self.options.step_prompts.max(1)).max(1);
        let queries: Vec<&Query> = seen.iter().step_by(stride).map(|answer| &answer.query).collect();
        let bar = bar(3 * queries.len(), "prompts drawn in few and many steps");
        let [mut between_steps, mut between_seeds, mut recall] = [[0.0; 2]; 3];
        for query in &queries {
            let draw = |steps: usize, seed: u64| -> Result<(Picture, Vec<f32>)> {
                let sampler = Some("dpmpp_2m".into());
                let request = Request { steps: Some(steps), seed, sampler, ..self.request(painter, query) };
                let picture = (painter.draw)(&request)?;
                let feature = self.encoder.pictures(std::slice::from_ref(&picture))?.swap_remove(0);
                bar.inc(1);
                Ok((picture, feature))
            };
            let few = draw(STEPS[0], query.seed)?;
            let many = draw(STEPS[1], query.seed)?;
            let other = draw(STEPS[1], query.seed.wrapping_add(STREAMS))?;
            let share = 1.0 / queries.len() as f32;
            for (sums, a) in [(&mut between_steps, &few), (&mut between_seeds, &other)] {
                sums[0] += psnr(&a.0, &many.0) * share;
                sums[1] += cosine(&a.1, &many.1) * share;
            }
            for (sum, (_, feature)) in recall.iter_mut().zip([&few, &many]) {
                *sum += if self.rank(query, feature).rank == 1 { share } else { 0.0 };
            }
        }
        bar.finish_and_clear();
        Ok(StepScores { prompts: queries.len(), steps: STEPS, recall_at_1: recall, between_steps, between_seeds })
    }

    /// The fifty prompts in the model's default style.
    fn sheet(&self, painter: &Painter) -> Result<Vec<(String, Picture)>> {
        let prompts: Vec<&str> = FIFTY.lines().filter(|line| !line.is_empty()).collect();
        let bar = bar(prompts.len(), "prompts of the sheet drawn");
        let mut sheet = Vec::new();
        for (seed, prompt) in (0..).zip(prompts) {
            let request =
                Request { prompt: prompt.into(), seed, guidance_scale: self.options.guidance, ..Request::default() };
            sheet.push((prompt.to_owned(), (painter.draw)(&request)?));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(sheet)
    }
}

fn bar(count: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} {msg}, {eta} left").expect("a valid template");
    ProgressBar::new(count as u64).with_style(style).with_message(what)
}

/// Peak signal-to-noise ratio of two pictures of one side on white, decibels; 100 for equal ones.
fn psnr(a: &Picture, b: &Picture) -> f32 {
    let (a, b) = (a.on_grey(255), b.on_grey(255));
    let sum: u64 = a.iter().zip(&b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    let mean = sum as f32 / a.len() as f32;
    (10.0 * (255.0f32.powi(2) / mean.max(1e-9)).log10()).min(100.0)
}
