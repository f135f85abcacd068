//! How often what is seen: shares of the pools, and of the core concepts within them.

use super::{
    super::{Draw, concepts::Group},
    Dataset, Item,
    scene::{Scene, StyleId},
};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A kind of pictures that is weighted as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// Emoji of the core list.
    Core,
    /// All other emoji that are no flags, without skin tones.
    Emoji,
    /// Emoji in a skin tone.
    Toned,
    /// Flags.
    Flags,
    /// Recoloured glyphs.
    Icons,
    /// Clip art.
    ClipArt,
    /// Backgrounds, pairs, counts.
    Composites,
}

impl Pool {
    const ALL: [Self; 7] =
        [Self::Core, Self::Emoji, Self::Toned, Self::Flags, Self::Icons, Self::ClipArt, Self::Composites];

    /// The pool of an item.
    pub fn of(dataset: &Dataset, item: &Item) -> Self {
        let concept = &dataset.concepts[item.concept];
        match item.scene {
            Scene::Tone { .. } => Self::Toned,
            Scene::Coloured { .. } => Self::Icons,
            Scene::Backdrop { .. } | Scene::Pair { .. } | Scene::Count { .. } => Self::Composites,
            Scene::Plain if item.style == StyleId::ClipArt => Self::ClipArt,
            Scene::Plain if concept.group == Group::Flags => Self::Flags,
            Scene::Plain if concept.core => Self::Core,
            Scene::Plain => Self::Emoji,
        }
    }

    /// Its name in flags.
    fn id(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Emoji => "emoji",
            Self::Toned => "toned",
            Self::Flags => "flags",
            Self::Icons => "icons",
            Self::ClipArt => "clip-art",
            Self::Composites => "composites",
        }
    }
}

/// How much of what training sees: a share for each pool, and weights of styles and of concepts within the pools.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// Share of each pool; those not named have none.
    pub pools: Vec<(Pool, f32)>,
    /// Weight of each emoji style; those not named have 1.
    pub styles: Vec<(StyleId, f32)>,
    /// Weight of what shows concepts beyond the core list, within the pools that have both.
    pub beyond_core: f32,
}

impl Default for Mix {
    /// The shares of the whole recipe.
    fn default() -> Self {
        use Pool::{ClipArt, Composites, Core, Emoji, Flags, Icons, Toned};
        Self {
            pools: vec![
                (Core, 0.20),
                (Emoji, 0.35),
                (Toned, 0.15),
                (Flags, 0.03),
                (Icons, 0.12),
                (ClipArt, 0.05),
                (Composites, 0.10),
            ],
            styles: Vec::new(),
            beyond_core: 1.0,
        }
    }
}

impl Mix {
    /// Reads `core=0.6,toned=0.2,beyond-core=0.1,line=0.3`: names of pools, of styles, and `beyond-core`. Pools that are
    /// not named have no share, unless none is named.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: String| Error::Invalid { parameter: "mix", why };
        let mut mix = Self { pools: Vec::new(), ..Self::default() };
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (name, weight) =
                entry.split_once('=').ok_or_else(|| invalid(format!("`{entry}` is no NAME=WEIGHT")))?;
            let weight: f32 = weight.parse().map_err(|_| invalid(format!("`{weight}` is no number")))?;
            if !(0.0..=1e6).contains(&weight) {
                return Err(invalid(format!("{weight} is no weight")));
            }
            match Pool::ALL.into_iter().find(|pool| pool.id() == name) {
                Some(pool) => mix.pools.push((pool, weight)),
                None if name == "beyond-core" => mix.beyond_core = weight,
                None => mix.styles.push((StyleId::parse(name)?, weight)),
            }
        }
        if mix.pools.is_empty() {
            mix.pools = Self::default().pools;
        }
        Ok(mix)
    }

    /// Whether a picture of that kind is ever drawn.
    pub fn draws(&self, dataset: &Dataset, item: &Item) -> bool {
        self.share(Pool::of(dataset, item)) > 0.0 && self.weight(dataset, item) > 0.0
    }

    fn share(&self, pool: Pool) -> f64 {
        f64::from(self.pools.iter().filter(|(id, _)| *id == pool).map(|(_, share)| share).sum::<f32>())
    }

    /// The weight of an item within its pool.
    fn weight(&self, dataset: &Dataset, item: &Item) -> f64 {
        let style = self.styles.iter().find(|(id, _)| *id == item.style).map_or(1.0, |(_, weight)| *weight);
        let core = |concept: usize| dataset.concepts[concept].core;
        let known = core(item.concept) && !matches!(item.scene, Scene::Pair { other, .. } if !core(other));
        f64::from(if known { style } else { style * self.beyond_core })
    }
}

/// Draws items of a data set with the frequencies of a [`Mix`].
#[derive(Debug, Clone)]
pub struct Sampler {
    items: Vec<usize>,
    /// Sums of the weights up to and with each item.
    sums: Vec<f64>,
}

impl Sampler {
    /// A sampler of `items` of a data set; a pool without items gives its share to the others.
    ///
    /// # Errors
    /// [`Error::Invalid`] if nothing is left to draw.
    pub fn new(dataset: &Dataset, items: &[usize], mix: &Mix) -> Result<Self> {
        Self::over(items, |item| (dataset, &dataset.items[item]), mix)
    }

    /// A sampler of anything that stands for an item.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn over<'d>(what: &[usize], item: impl Fn(usize) -> (&'d Dataset, &'d Item), mix: &Mix) -> Result<Self> {
        let mut totals = [0.0f64; Pool::ALL.len()];
        let mut weighted = Vec::with_capacity(what.len());
        for &index in what {
            let (dataset, item) = item(index);
            let (pool, weight) = (Pool::of(dataset, item), mix.weight(dataset, item));
            totals[pool as usize] += weight;
            weighted.push((index, pool, weight));
        }
        let (mut items, mut sums, mut sum) = (Vec::new(), Vec::new(), 0.0);
        for (index, pool, weight) in weighted {
            if weight > 0.0 && mix.share(pool) > 0.0 {
                sum += mix.share(pool) * weight / totals[pool as usize];
                items.push(index);
                sums.push(sum);
            }
        }
        if items.is_empty() {
            return Err(Error::Invalid { parameter: "mix", why: "there are no pictures of it".into() });
        }
        Ok(Self { items, sums })
    }

    /// Draws one item.
    pub fn draw(&self, draw: &mut Draw) -> usize {
        let at = f64::from(draw.uniform()) * self.sums[self.sums.len() - 1];
        self.items[self.sums.partition_point(|&sum| sum <= at).min(self.items.len() - 1)]
    }

    /// The items that can be drawn.
    pub fn items(&self) -> &[usize] {
        &self.items
    }
}
