//! Text alignment: how often a picture's own caption is the nearest of all captions of its kind.

use super::{
    super::{
        captions,
        data::{
            Dataset, Item,
            scene::{Language, Scene, StyleId},
        },
    },
    dual::{DualEncoder, cosine},
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What kind of picture: its caption competes with all captions of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Plain,
    Tone,
    Coloured,
    Composite,
}

impl Kind {
    fn of(scene: Scene) -> Self {
        match scene {
            Scene::Plain => Self::Plain,
            Scene::Tone { .. } => Self::Tone,
            Scene::Coloured { .. } => Self::Coloured,
            Scene::Backdrop { .. } | Scene::Pair { .. } | Scene::Count { .. } => Self::Composite,
        }
    }
}

/// Every caption that pictures compete for, by kind and language: the plainest way to say what a picture shows, without
/// its style. A caption's feature is the mean over itself and itself in the words of each style (as CLIP ensembles its
/// prompts), so that the way of drawing neither helps nor hinders.
pub struct Catalogue(BTreeMap<(Kind, Language), Vec<Captioned>>);

/// A caption and its feature.
type Captioned = (String, Vec<f32>);

impl Catalogue {
    /// The captions of all that `dataset` shows, held out or not.
    pub fn new(dataset: &Dataset, encoder: &DualEncoder) -> Self {
        let mut texts: BTreeMap<(Kind, Language), BTreeSet<String>> = BTreeMap::new();
        let shown: BTreeSet<_> = dataset.items.iter().map(|item| (item.concept, item.scene)).collect();
        let mut styles: BTreeMap<Kind, BTreeSet<StyleId>> = BTreeMap::new();
        for item in &dataset.items {
            styles.entry(Kind::of(item.scene)).or_default().insert(item.style);
        }
        for (concept, scene) in shown {
            let item = Item { concept, scene, ..dataset.items[0] };
            for language in Language::ALL {
                let subject = captions::subjects(&dataset.concepts, &item, language).into_iter().next();
                texts.entry((Kind::of(scene), language)).or_default().extend(subject);
            }
        }
        let encode = |(key, texts): ((Kind, Language), BTreeSet<String>)| {
            let texts: Vec<String> = texts.into_iter().collect();
            let mut sums = encoder.captions(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            for style in styles.get(&key.0).into_iter().flatten() {
                let styled: Vec<String> = texts.iter().map(|text| captions::styled(text, *style, key.1)).collect();
                let features = encoder.captions(&styled.iter().map(String::as_str).collect::<Vec<_>>());
                let values = sums.iter_mut().flatten().zip(features.iter().flatten());
                values.for_each(|(sum, value)| *sum += value);
            }
            for sum in &mut sums {
                let length = cosine(sum, sum).sqrt().max(1e-8);
                sum.iter_mut().for_each(|value| *value /= length);
            }
            (key, texts.into_iter().zip(sums).collect())
        };
        Self(texts.into_iter().map(encode).collect())
    }

    /// The rank of `subject`, the caption of a picture of `scene`, among its competitors for the picture's `feature`, from
    /// 1 on; and how many there are. None if it is not a caption of the data set.
    pub fn rank(&self, scene: Scene, language: Language, subject: &str, feature: &[f32]) -> Option<Rank> {
        let captions = self.0.get(&(Kind::of(scene), language))?;
        let own = captions.binary_search_by(|(text, _)| text.as_str().cmp(subject)).ok()?;
        let likeness = cosine(&captions[own].1, feature);
        // A tie is lost: an encoder that finds everything alike knows nothing.
        let better = |(at, (_, other)): &(usize, &Captioned)| *at != own && cosine(other, feature) >= likeness;
        Some(Rank { rank: 1 + captions.iter().enumerate().filter(better).count(), of: captions.len() })
    }
}

/// A place among competitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rank {
    /// 1 for the nearest.
    pub rank: usize,
    /// Captions compared.
    pub of: usize,
}

/// What the ranks of several pictures come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Pictures.
    pub pictures: usize,
    /// Share whose own caption is the nearest.
    pub recall_at_1: f32,
    /// Share whose own caption is among the five nearest.
    pub recall_at_5: f32,
    /// Median rank.
    pub median_rank: usize,
    /// What `recall_at_1` would be if ranks were drawn by lot.
    pub chance: f32,
    /// Standard error of `recall_at_1`.
    pub error: f32,
}

impl Scores {
    /// Of `ranks`; all 0 if there are none.
    pub fn of(ranks: &[Rank]) -> Self {
        let share = |up_to: usize| ranks.iter().filter(|rank| rank.rank <= up_to).count() as f32 / ranks.len() as f32;
        let mut sorted: Vec<usize> = ranks.iter().map(|rank| rank.rank).collect();
        sorted.sort_unstable();
        let Some(&median_rank) = sorted.get(ranks.len() / 2) else { return Self::default() };
        let recall = share(1);
        Self {
            pictures: ranks.len(),
            recall_at_1: recall,
            recall_at_5: share(5),
            median_rank,
            chance: ranks.iter().map(|rank| 1.0 / rank.of as f32).sum::<f32>() / ranks.len() as f32,
            error: (recall * (1.0 - recall) / ranks.len() as f32).sqrt(),
        }
    }
}
