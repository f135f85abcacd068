//! How well a drawing follows its picture and its text. All of this was defined before anything was drawn.
//!
//! | score | what it is |
//! |---|---|
//! | adherence to an outline | F1 of lines on 64x64 pixels: those of the outline given, as the ControlNet sees it, and the edges of the drawing ([`crate::control::outline`]), each from a strength of one half on. A pixel is found if the other has a line within one pixel, also diagonally |
//! | adherence to a picture | `1 - r / r0` in `[0, 1]`: `r` is the root mean square difference of drawing and picture on white at 32x32 pixels, `r0` the mean of that between the given pictures of different pairs |
//! | text | cosine of the drawing and of the prompt, style included, in the evaluator's features, as a share of the mean that the real pictures reach that the texts ask for, in `[0, 1]`; and whether the caption is the nearest of all of its kind (R@1), or among the five nearest (R@5) |
//! | | of a drawing and of its mirror image whichever is nearer, because the evaluator has never seen anything mirrored and a mirrored apple is an apple |
//! | joint | harmonic mean of adherence and text, pair by pair |

use super::{Bench, Pair};
use crate::{
    Image, Result,
    control::{Lines, Reading, outline},
    pipeline::config::ControlKind,
    train::{
        data::picture::Picture,
        eval::{
            copying::{Look, looks},
            dual::cosine,
        },
    },
};
use serde::{Deserialize, Serialize};

/// Side on which lines are compared.
pub const SIDE: usize = 64;

/// What one drawing scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Adherence to the picture given, in `[0, 1]`.
    pub adherence: f64,
    /// Cosine with the prompt.
    pub cosine: f64,
    /// The same as a share of the ceiling, in `[0, 1]`.
    pub text: f64,
    /// Rank of its caption among all of its kind.
    pub rank: usize,
}

impl Score {
    /// The harmonic mean of adherence and text.
    pub fn joint(&self) -> f64 {
        harmonic(self.adherence, self.text)
    }

    /// 1 if the caption is among the `k` nearest, else 0.
    pub fn recall(&self, k: usize) -> f64 {
        f64::from(u8::from(self.rank <= k))
    }
}

fn harmonic(a: f64, b: f64) -> f64 {
    if a + b > 0.0 { 2.0 * a * b / (a + b) } else { 0.0 }
}

/// What the real pictures score that the texts ask for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Mean cosine with the prompts.
    pub cosine: f64,
    /// Share whose caption is the nearest.
    pub recall_at_1: f64,
    /// Share whose caption is among the five nearest.
    pub recall_at_5: f64,
    /// Mean adherence to the pictures given.
    pub adherence: f64,
}

/// Scores the drawings of some pairs.
pub struct Scorer<'a> {
    bench: &'a Bench<'a>,
    /// What is followed.
    pub control: ControlKind,
    /// The pairs.
    pub pairs: &'a [Pair],
    /// What real pictures score.
    pub ceiling: Ceiling,
    prompts: Vec<Vec<f32>>,
    given: Vec<Given>,
}

/// What adherence is measured against.
enum Given {
    Lines(Lines),
    /// The picture, and the mean difference of unlike ones.
    Look(Look, f64),
}

impl<'a> Scorer<'a> {
    /// Prepares for `pairs`.
    ///
    /// # Errors
    /// If a picture is damaged.
    pub fn new(bench: &'a Bench<'a>, control: ControlKind, pairs: &'a [Pair]) -> Result<Self> {
        let given: Vec<Image> = pairs.iter().map(|pair| pair.given(bench.dataset)).collect::<Result<_>>()?;
        let targets = pairs.iter().map(|pair| Ok(bench.dataset.picture(pair.target)?.to_straight()));
        let targets: Vec<Image> = targets.collect::<Result<_>>()?;
        let given = match control {
            ControlKind::Outline => {
                let lines = |image: &Image| outline(image, Reading::Auto, [SIDE; 2]);
                given.iter().map(|image| Ok(Given::Lines(lines(image)?))).collect::<Result<Vec<_>>>()?
            }
            ControlKind::Variation => {
                let looks = looks(bench.encoder, &given.iter().map(Picture::from_image).collect::<Vec<_>>())?;
                let different =
                    looks.iter().enumerate().flat_map(|(at, a)| looks[at + 1..].iter().map(move |b| a.difference(b)));
                let (sum, count) = different.fold((0.0, 0), |(sum, count), d| (sum + f64::from(d), count + 1));
                // A lone pair has nothing to compare with.
                let unlike = if count > 0 { sum / f64::from(count) } else { 1.0 };
                looks.into_iter().map(|look| Given::Look(look, unlike)).collect()
            }
        };
        let prompts = bench.encoder.captions(&pairs.iter().map(|pair| pair.prompt.as_str()).collect::<Vec<_>>());
        let mut scorer =
            Self { bench, control, pairs, ceiling: Ceiling { cosine: 1.0, ..Ceiling::default() }, prompts, given };
        let real = scorer.scores(&targets)?;
        let mean = |value: &dyn Fn(&Score) -> f64| real.iter().map(value).sum::<f64>() / real.len().max(1) as f64;
        scorer.ceiling = Ceiling {
            cosine: mean(&|score| score.cosine),
            recall_at_1: mean(&|score| score.recall(1)),
            recall_at_5: mean(&|score| score.recall(5)),
            adherence: mean(&|score| score.adherence),
        };
        Ok(scorer)
    }

    /// Scores one drawing a pair.
    ///
    /// # Errors
    /// Those of the encoder and of the outlines.
    pub fn scores(&self, images: &[Image]) -> Result<Vec<Score>> {
        let seen =
            |images: &[Image]| looks(self.bench.encoder, &images.iter().map(Picture::from_image).collect::<Vec<_>>());
        let mirrored = seen(&images.iter().map(mirrored).collect::<Vec<_>>())?;
        let looks = seen(images)?;
        let mut scores = Vec::new();
        for (at, pair) in self.pairs.iter().enumerate() {
            let (image, look, prompt) = (&images[at], &looks[at], &self.prompts[at]);
            let adherence = match &self.given[at] {
                Given::Lines(lines) => f1(lines, &outline(image, Reading::Picture, [SIDE; 2])?),
                Given::Look(given, unlike) => {
                    (1.0 - f64::from(look.difference(given)) / unlike.max(1e-9)).clamp(0.0, 1.0)
                }
            };
            let scene = self.bench.dataset.items[pair.target].scene;
            let rank = |look: &Look| {
                let rank = self.bench.catalogue.rank(scene, pair.language, &pair.subject, &look.feature);
                rank.expect("the catalogue has the caption of every picture").rank
            };
            let likeness = |look: &Look| f64::from(cosine(prompt, &look.feature));
            let cosine = likeness(look).max(likeness(&mirrored[at]));
            let rank = rank(look).min(rank(&mirrored[at]));
            let text = (cosine / self.ceiling.cosine.max(1e-9)).clamp(0.0, 1.0);
            scores.push(Score { adherence, cosine, text, rank });
        }
        Ok(scores)
    }
}

/// The image as a mirror shows it.
pub fn mirrored(image: &Image) -> Image {
    let row = |row: &[u8]| row.rchunks_exact(4).flatten().copied().collect::<Vec<u8>>();
    Image { rgba: image.rgba.chunks_exact(4 * image.width).flat_map(row).collect(), ..*image }
}

/// F1 of two sets of line pixels, those of a strength of one half or more: harmonic mean of the shares of either set that have
/// a pixel of the other within one pixel, also diagonally. 0 if a set is empty.
pub fn f1(a: &Lines, b: &Lines) -> f64 {
    let set = |lines: &Lines| lines.values.iter().map(|value| *value >= 0.5).collect::<Vec<bool>>();
    let (width, height) = (a.width, a.height);
    assert_eq!((width, height), (b.width, b.height), "outlines of one size");
    let (a, b) = (set(a), set(b));
    let found = |from: &[bool], among: &[bool]| {
        let near = |at: usize| {
            let (x, y) = (at % width, at / width);
            let rows = y.saturating_sub(1)..(y + 2).min(height);
            rows.flat_map(|y| (x.saturating_sub(1)..(x + 2).min(width)).map(move |x| y * width + x)).any(|at| among[at])
        };
        let pixels = (0..from.len()).filter(|&at| from[at]);
        let (count, hits) = pixels.fold((0, 0), |(count, hits), at| (count + 1, hits + usize::from(near(at))));
        hits as f64 / count.max(1) as f64
    };
    harmonic(found(&a, &b), found(&b, &a))
}

/// Mean absolute difference of horizontal and vertical neighbours on white, of 1: speckles raise it, blur lowers it.
pub fn roughness(image: &Image) -> f64 {
    let (width, height) = (image.width, image.height);
    let image = image.clone().on([255; 3]);
    let value = |x: usize, y: usize, c: usize| f64::from(image.rgba[4 * (y * width + x) + c]);
    let (mut sum, mut count) = (0.0, 0);
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                if x + 1 < width {
                    sum += (value(x, y, c) - value(x + 1, y, c)).abs();
                    count += 1;
                }
                if y + 1 < height {
                    sum += (value(x, y, c) - value(x, y + 1, c)).abs();
                    count += 1;
                }
            }
        }
    }
    sum / 255.0 / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rows: [&str; 4]) -> Lines {
        let values = rows.concat().chars().map(|c| if c == '#' { 1.0 } else { 0.4 }).collect();
        Lines { reading: Reading::Drawing, width: 4, height: 4, values }
    }

    #[test]
    fn f1_forgives_one_pixel_and_no_more() {
        let line = lines(["#...", "#...", "#...", "#..."]);
        let beside = lines([".#..", ".#..", ".#..", ".#.."]);
        let far = lines(["...#", "...#", "...#", "...#"]);
        let none = lines(["....", "....", "....", "...."]);
        assert_eq!((f1(&line, &line), f1(&line, &beside), f1(&line, &far), f1(&line, &none)), (1.0, 1.0, 0.0, 0.0));
        // Half of a line is all right as far as it goes: precision 1; three of four pixels are found.
        let half = lines(["#...", "#...", "....", "...."]);
        assert!((f1(&line, &half) - 2.0 * 0.75 / 1.75).abs() < 1e-12);
        assert_eq!(f1(&line, &half), f1(&half, &line));
    }

    #[test]
    fn a_mirror_turns_left_and_right() {
        let image = Image { width: 2, height: 2, rgba: (0..16).collect() };
        let turned = mirrored(&image);
        assert_eq!(turned.rgba, [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]);
        assert_eq!(mirrored(&turned), image);
    }

    #[test]
    fn roughness_is_the_step_between_neighbours() {
        let image = Image { width: 2, height: 1, rgba: [[255, 255, 255, 255], [204, 204, 204, 255]].concat() };
        assert!((roughness(&image) - 0.2).abs() < 1e-12);
    }
}
