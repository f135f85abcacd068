//! Prompts with pictures, alternately English and Chinese, in which each says what the other does not.
//!
//! | every other pair | the text says | the picture says |
//! |---|---|---|
//! | an emoji | the thing and a style | how another designer drew the thing |
//! | a glyph | the thing and a colour | its shape, in another colour |
//!
//! Pictures whose outline is given are mirrored: no model has seen the outline, and none can know it from the text.

use super::{Bench, score::mirrored};
use crate::{
    Error, Image, Result,
    pipeline::config::ControlKind,
    train::{
        Draw, captions,
        data::{
            Dataset, Item,
            scene::{Language, Scene, StyleId},
            splits::Split,
        },
    },
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A prompt and a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Caption without the style: what must be found again.
    pub subject: String,
    /// The same with the style in words: what is asked for.
    pub prompt: String,
    /// Its language.
    pub language: Language,
    /// Place in the data set of the picture that is given.
    pub given: usize,
    /// Whether it is given mirrored.
    pub mirrored: bool,
    /// Place of the real picture that the text asks for.
    pub target: usize,
    /// Seed of the drawing.
    pub seed: u64,
}

impl Pair {
    /// The picture that is given.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn given(&self, dataset: &Dataset) -> Result<Image> {
        let image = dataset.picture(self.given)?.to_straight();
        Ok(if self.mirrored { mirrored(&image) } else { image })
    }

    /// The same text with the real picture that it asks for.
    pub fn swapped(&self) -> Self {
        Self { given: self.target, mirrored: false, ..self.clone() }
    }
}

/// Chooses `count` pairs that all ask for something else, as far as the data set has them.
///
/// # Errors
/// [`Error::Invalid`] if it has none.
pub fn choose(
    bench: &Bench<'_>,
    control: ControlKind,
    styles: &[StyleId],
    count: usize,
    seed: u64,
) -> Result<Vec<Pair>> {
    let (dataset, options) = (bench.dataset, bench.options);
    let whole = |index: &usize| {
        let item = &dataset.items[*index];
        let named = |language| !captions::subjects(&dataset.concepts, item, language).is_empty();
        let spoken = |language| dataset.splits.speaks(&dataset.concepts[item.concept].key, language);
        dataset.split(*index) == Split::Seen
            && !item.low_resolution
            && Language::ALL.into_iter().all(|language| named(language) && spoken(language))
    };
    let mut by_concept: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
    for index in (0..dataset.items.len()).filter(whole) {
        let Item { concept, scene, style, .. } = dataset.items[index];
        match scene {
            Scene::Plain if StyleId::EMOJI.contains(&style) => {
                by_concept.entry((concept, false)).or_default().push(index)
            }
            Scene::Coloured { .. } => by_concept.entry((concept, true)).or_default().push(index),
            _ => {}
        }
    }
    let asked = |index: usize| {
        let item = &dataset.items[index];
        let style = match item.scene {
            Scene::Plain => styles.contains(&item.style),
            _ => item.style == StyleId::FilledIcon,
        };
        style && options.mix.draws(dataset, item)
    };
    let other = |target: &Item, given: &Item| match target.scene {
        // A line drawing of Fluent's is the outline of Fluent's other pictures: a designer's own.
        Scene::Plain => given.style != target.style && given.style != StyleId::Line,
        _ => given.scene != target.scene && (control == ControlKind::Outline || given.style == StyleId::FilledIcon),
    };
    // Both kinds in an order of their own, each concept once.
    let mut draw = Draw::new(seed, control as u64);
    let mut of_kind = |glyph: bool| {
        let mut concepts: Vec<&Vec<usize>> =
            by_concept.iter().filter(|((_, kind), _)| *kind == glyph).map(|(_, items)| items).collect();
        for last in (1..concepts.len()).rev() {
            concepts.swap(last, draw.below(last + 1));
        }
        let mut found = Vec::new();
        for items in concepts {
            let targets: Vec<usize> = items.iter().copied().filter(|&index| asked(index)).collect();
            if targets.is_empty() {
                continue;
            }
            let target = targets[draw.below(targets.len())];
            let fits = |&index: &usize| other(&dataset.items[target], &dataset.items[index]);
            let given: Vec<usize> = items.iter().copied().filter(fits).collect();
            if !given.is_empty() {
                found.push((given[draw.below(given.len())], target));
            }
        }
        found.into_iter()
    };
    let (mut emoji, mut glyphs) = (of_kind(false), of_kind(true));
    let mut pairs = Vec::new();
    while pairs.len() < count {
        let at = pairs.len();
        let next =
            if at % 2 == 0 { emoji.next().or_else(|| glyphs.next()) } else { glyphs.next().or_else(|| emoji.next()) };
        let Some((given, target)) = next else { break };
        let language = Language::ALL[at / 2 % 2];
        let item = &dataset.items[target];
        let subject = captions::subjects(&dataset.concepts, item, language).swap_remove(0);
        let prompt = captions::styled(&subject, item.style, language);
        let mirrored = control == ControlKind::Outline;
        pairs.push(Pair { subject, prompt, language, given, mirrored, target, seed: seed.wrapping_add(at as u64) });
    }
    if pairs.is_empty() && count > 0 {
        let why = format!("the data set has nothing to ask for in the styles {styles:?}");
        return Err(Error::Invalid { parameter: "styles", why });
    }
    Ok(pairs)
}
