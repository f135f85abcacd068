//! Whether drawings are copies: each one's nearest training picture, in an encoder's features and in plain pixels.
//!
//! What counts as near is taken from real pictures: two designers' pictures of the same thing are no copies of each other,
//! so that a drawing is a near-duplicate if it is nearer to a training picture than nineteen in twenty of such pairs are
//! to each other, by pixels and by features at once.

use super::{
    super::{
        Draw,
        data::{Dataset, picture::Picture, scene::Scene},
    },
    dual::{DualEncoder, cosine},
};
use crate::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// Side that pixels are compared at.
const PIXEL_SIDE: usize = 32;
/// Pictures prepared at once.
const CHUNK: usize = 128;

/// What of a picture is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Its feature, of length 1.
    pub feature: Vec<f32>,
    /// RGB bytes on white, 32 pixels a side.
    pixels: Vec<u8>,
}

/// The looks of some pictures.
///
/// # Errors
/// Those of the encoder.
pub fn looks(encoder: &DualEncoder, pictures: &[Picture]) -> Result<Vec<Look>> {
    let features = encoder.pictures(pictures)?;
    let pixels = pictures.iter().map(|picture| picture.resized(PIXEL_SIDE).on_grey(255));
    Ok(features.into_iter().zip(pixels).map(|(feature, pixels)| Look { feature, pixels }).collect())
}

impl Look {
    /// Root mean square difference of the pixels, 1 being black against white.
    pub fn difference(&self, other: &Self) -> f32 {
        let square = |(a, b): (&u8, &u8)| u32::from(a.abs_diff(*b)).pow(2);
        let sum: u32 = self.pixels.iter().zip(&other.pixels).map(square).sum();
        (sum as f32 / self.pixels.len() as f32).sqrt() / 255.0
    }
}

/// Pictures that may have been copied.
pub struct Gallery {
    items: Vec<usize>,
    looks: Vec<Look>,
}

/// The training picture nearest to one picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Nearest {
    /// Place in the data set of the nearest by feature, and its cosine.
    pub by_feature: (usize, f32),
    /// Place in the data set of the nearest by pixel, and its difference.
    pub by_pixel: (usize, f32),
    /// Cosine of the nearest by pixel.
    pub cosine: f32,
}

impl Nearest {
    /// Whether the nearest by pixel is nearer than different designs are, in both measures.
    pub fn is_copy(&self, threshold: &Threshold) -> bool {
        self.by_pixel.1 < threshold.difference && self.cosine > threshold.cosine
    }
}

/// How near different designs of one thing come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Threshold {
    /// Pairs that it was taken from.
    pub pairs: usize,
    /// The cosine that one pair in twenty exceeds.
    pub cosine: f32,
    /// The pixel difference that one pair in twenty falls below.
    pub difference: f32,
}

impl Gallery {
    /// The looks of `items`; `on_done` hears how many more are done.
    ///
    /// # Errors
    /// If a picture is damaged.
    pub fn new(dataset: &Dataset, items: Vec<usize>, encoder: &DualEncoder, on_done: &dyn Fn(usize)) -> Result<Self> {
        let mut found = Vec::with_capacity(items.len());
        for chunk in items.chunks(CHUNK) {
            let pictures = chunk.iter().map(|&item| dataset.picture(item)).collect::<Result<Vec<_>>>()?;
            found.extend(looks(encoder, &pictures)?);
            on_done(chunk.len());
        }
        Ok(Self { items, looks: found })
    }

    /// Pictures in it.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The nearest to `look`; none in an empty gallery.
    pub fn nearest(&self, look: &Look) -> Option<Nearest> {
        let best = |score: &dyn Fn(&Look) -> f32| {
            let scores = self.looks.iter().map(score).enumerate();
            scores.max_by(|(_, a), (_, b)| a.total_cmp(b))
        };
        let (feature, similarity) = best(&|other| cosine(&look.feature, &other.feature))?;
        let (pixel, difference) = best(&|other| -look.difference(other))?;
        Some(Nearest {
            by_feature: (self.items[feature], similarity),
            by_pixel: (self.items[pixel], -difference),
            cosine: cosine(&look.feature, &self.looks[pixel].feature),
        })
    }

    /// The threshold, from one pair of styles of each thing that comes in several; none if nothing does.
    pub fn threshold(&self, dataset: &Dataset, seed: u64) -> Option<Threshold> {
        let mut designs: BTreeMap<usize, BTreeMap<_, usize>> = BTreeMap::new();
        for (place, &item) in self.items.iter().enumerate() {
            let item = &dataset.items[item];
            if item.scene == Scene::Plain && !item.low_resolution {
                designs.entry(item.concept).or_default().insert(item.style, place);
            }
        }
        let mut draw = Draw::new(seed, 0);
        let (mut cosines, mut differences) = (Vec::new(), Vec::new());
        for designs in designs.values().filter(|designs| designs.len() > 1) {
            let places: Vec<usize> = designs.values().copied().collect();
            let first = draw.below(places.len());
            let second = (first + 1 + draw.below(places.len() - 1)) % places.len();
            let [a, b] = [first, second].map(|design| &self.looks[places[design]]);
            cosines.push(cosine(&a.feature, &b.feature));
            differences.push(a.difference(b));
        }
        cosines.sort_by(|a, b| b.total_cmp(a));
        differences.sort_by(f32::total_cmp);
        let twentieth = cosines.len() / 20;
        Some(Threshold {
            pairs: cosines.len(),
            cosine: *cosines.get(twentieth)?,
            difference: *differences.get(twentieth)?,
        })
    }
}
