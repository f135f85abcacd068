//! The outline of a picture, or of a drawing that is one already.

use crate::{Error, Image, Result};
use image::{
    GrayImage, Luma,
    imageops::{FilterType, resize},
};
use imageproc::{distance_transform::Norm, edges::canny, morphology};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What a picture is taken for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// Whichever it looks like, see [`Reading::of`].
    #[default]
    Auto,
    /// A drawing of lines: the lines themselves are the outline.
    Drawing,
    /// A picture of areas: its edges are the outline.
    Picture,
}

/// An outline.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// Values in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Strength in `[0, 1]`, 1 a full line, row by row from the top left: `height * width` values.
    pub values: Vec<f32>,
}

impl Lines {
    /// Dark lines on white, for showing.
    pub fn to_image(&self) -> Image {
        let grey = |strength: &f32| (255.0 * (1.0 - strength)).round().clamp(0.0, 255.0) as u8;
        let rgba = self.values.iter().flat_map(|strength| {
            let grey = grey(strength);
            [grey, grey, grey, 255]
        });
        Image { width: self.width, height: self.height, rgba: rgba.collect() }
    }
}

/// Lines are found at this multiple of the wanted size, and then reduced: a line of one pixel there is a full line.
const FINE: usize = 2;
/// Empty pixels around what lines are found in, on the fine grid: Canny finds none on its border.
const MARGIN: usize = 8;
/// Longest wanted side.
const MAX_SIDE: usize = 1024;
/// Canny's thresholds. An edge between two areas that differ by `d` of 255 has the strength `2.1 d` after its blur: from
/// 48 a line begins, down to 24 it goes on.
const CANNY: [f32; 2] = [50.0, 100.0];
/// Half of the thickest line of a drawing, on the fine grid: what is thicker is an area, and its rim is the line. The
/// icons that the sketch model learnt from have lines of 10.7 pixels there.
const THICK: u8 = 6;
/// Darkness from which ink is seen, and from which it is full, of 1.
const INK: [f32; 2] = [0.15, 0.5];

/// The outline of `image` in `size` (`[height, width]`), scaled to fit and centred.
///
/// As a picture: Canny's edges of red, green and blue on white and of the opacity, the strongest of the four. As a drawing:
/// its ink, thin lines made as strong as thick ones, and of blots the rim. Around a picture of other proportions, or with
/// transparency, is nothing; around an opaque one its border goes on, so that no frame is drawn.
///
/// # Errors
/// [`Error::Invalid`] if a side of `size` is 0 or above 1024, or if the image is not [`Image::new`]'s.
pub fn outline(image: &Image, reading: Reading, size: [usize; 2]) -> Result<Lines> {
    if !size.iter().all(|side| (1..=MAX_SIDE).contains(side)) {
        let why = format!("is {size:?}, must be 1 to {MAX_SIDE}");
        return Err(Error::Invalid { parameter: "outline size", why });
    }
    if image.width * image.height == 0 || image.rgba.len() != image.width * image.height * 4 {
        let why = format!("has {} bytes for {}x{} pixels", image.rgba.len(), image.width, image.height);
        return Err(Error::Invalid { parameter: "image", why });
    }
    let fine = Fine::new(image, size);
    let picture = match reading {
        Reading::Picture => true,
        Reading::Drawing => false,
        Reading::Auto => fine.thinness() < 0.5,
    };
    Ok(fine.reduce(&if picture { fine.edges() } else { fine.strokes() }))
}

impl Reading {
    /// What [`Reading::Auto`] takes `image` for: a drawing, if at least 0.8 of its dark pixels belong to lines.
    ///
    /// # Errors
    /// As [`outline`].
    pub fn of(image: &Image) -> Result<Self> {
        outline(image, Self::Auto, [1, 1]).map(|_| Self::Auto)
    }
}

/// An image on the fine grid, where lines are found.
struct Fine<'a> {
    /// The image, or one of half its size, or of a quarter, and so on.
    near: Cow<'a, Image>,
    /// `[height, width]` of the outline.
    size: [usize; 2],
    /// Where the image lies on the fine grid, which has [`MARGIN`] on each side: `[top, left]`, `[height, width]`.
    corner: [usize; 2],
    inner: [usize; 2],
}

impl<'a> Fine<'a> {
    fn new(image: &'a Image, size: [usize; 2]) -> Self {
        let [height, width] = size.map(|side| side * FINE);
        let scale = (width as f64 / image.width as f64).min(height as f64 / image.height as f64);
        let inner = [image.height, image.width].map(|side| ((side as f64 * scale).round() as usize).max(1));
        let corner = [(height - inner[0]) / 2 + MARGIN, (width - inner[1]) / 2 + MARGIN];
        let mut near = Cow::Borrowed(image);
        // Lines of one pixel must stay visible: those of 8 pixels to one on the fine grid are halved, no others.
        while near.height >= 8 * inner[0] && near.width >= 8 * inner[1] {
            near = Cow::Owned(near.halved());
        }
        Self { near, size, corner, inner }
    }

    /// One value a pixel of the near image.
    fn plane(&self, value: impl Fn([u8; 4]) -> u8) -> GrayImage {
        let values = self.near.rgba.chunks_exact(4).map(|p| value([p[0], p[1], p[2], p[3]])).collect();
        GrayImage::from_raw(self.near.width as u32, self.near.height as u32, values).expect("a value for each pixel")
    }

    /// Lays what has the size of `inner` onto the fine grid; around it is `around`, or its border goes on.
    fn lay(&self, inner: &GrayImage, around: Option<u8>) -> GrayImage {
        let [height, width] = self.size.map(|side| (side * FINE + 2 * MARGIN) as u32);
        let [top, left] = self.corner.map(|at| at as u32);
        GrayImage::from_fn(width, height, |x, y| {
            let inside = |at: u32, corner: u32, side: u32| (corner..corner + side).contains(&at);
            match around {
                Some(value) if !inside(x, left, inner.width()) || !inside(y, top, inner.height()) => Luma([value]),
                _ => {
                    let clamped = |at: u32, corner: u32, side: u32| at.saturating_sub(corner).min(side - 1);
                    *inner.get_pixel(clamped(x, left, inner.width()), clamped(y, top, inner.height()))
                }
            }
        })
    }

    /// Canny's edges, 255 or 0.
    fn edges(&self) -> GrayImage {
        let opaque = self.near.rgba.chunks_exact(4).all(|pixel| pixel[3] == u8::MAX);
        let [height, width] = self.inner.map(|side| side as u32);
        let found = |plane: GrayImage, around: u8| {
            let scaled = resize(&plane, width, height, FilterType::Triangle);
            canny(&self.lay(&scaled, (!opaque).then_some(around)), CANNY[0], CANNY[1])
        };
        let mut edges = found(self.plane(|pixel| pixel[3]), 0);
        for channel in 0..3 {
            let on_white = self.plane(|pixel| u8::MAX - ink(pixel, channel));
            let more = found(on_white, u8::MAX);
            edges.iter_mut().zip(more.iter()).for_each(|(edge, more)| *edge = (*edge).max(*more));
        }
        edges
    }

    /// Ink of the strongest channel: the darkest within each pixel of the fine grid.
    fn ink(&self) -> GrayImage {
        let [height, width] = self.inner;
        let mut plane = self.plane(|pixel| (0..3).map(|channel| ink(pixel, channel)).max().expect("three channels"));
        if self.near.width < width || self.near.height < height {
            plane = resize(&plane, width as u32, height as u32, FilterType::Triangle);
        }
        let (from_width, from_height) = (plane.width() as usize, plane.height() as usize);
        let range = |at: usize, to: usize, from: usize| at * from / to..((at + 1) * from).div_ceil(to);
        let darkest = |x: usize, y: usize| {
            let pixels = range(y, height, from_height)
                .flat_map(|y| range(x, width, from_width).map(move |x| (x as u32, y as u32)));
            pixels.map(|(x, y)| plane.get_pixel(x, y)[0]).max().expect("at least one pixel")
        };
        let pooled = GrayImage::from_fn(width as u32, height as u32, |x, y| Luma([darkest(x as usize, y as usize)]));
        let mut pooled = self.lay(&pooled, Some(0));
        pooled.iter_mut().for_each(|value| {
            let [from, full] = INK;
            let strength = (f32::from(*value) / 255.0 - from) / (full - from);
            *value = (strength.clamp(0.0, 1.0) * 255.0).round() as u8;
        });
        pooled
    }

    /// A drawing's lines, and the rims of its areas.
    fn strokes(&self) -> GrayImage {
        let mut ink = self.ink();
        let core = morphology::erode(&marks(&ink), Norm::LInf, THICK);
        ink.iter_mut().zip(core.iter()).filter(|(_, core)| **core > 0).for_each(|(ink, _)| *ink = 0);
        ink
    }

    /// The share of the marks that are lines, not areas; 0 if there are none.
    fn thinness(&self) -> f32 {
        let marks = marks(&self.ink());
        let areas = morphology::open(&marks, Norm::LInf, THICK);
        let count = |image: &GrayImage| image.iter().filter(|value| **value > 0).count() as f32;
        1.0 - count(&areas) / count(&marks).max(1.0)
    }

    /// Means of the wanted size, a line of one fine pixel being full.
    fn reduce(&self, lines: &GrayImage) -> Lines {
        let [height, width] = self.size;
        let mut values = Vec::with_capacity(height * width);
        for y in 0..height {
            for x in 0..width {
                let fine = (0..FINE * FINE).map(|i| {
                    let [x, y] = [x * FINE + i % FINE + MARGIN, y * FINE + i / FINE + MARGIN];
                    f32::from(lines.get_pixel(x as u32, y as u32)[0])
                });
                values.push((fine.sum::<f32>() / (255.0 * FINE as f32)).min(1.0));
            }
        }
        Lines { width, height, values }
    }
}

/// What a channel of a pixel lacks to white.
fn ink(pixel: [u8; 4], channel: usize) -> u8 {
    ((u16::from(u8::MAX - pixel[channel]) * u16::from(pixel[3]) + 127) / 255) as u8
}

/// Where there is more than half of the ink, 255.
fn marks(ink: &GrayImage) -> GrayImage {
    imageproc::contrast::threshold(ink, 127, imageproc::contrast::ThresholdType::Binary)
}

/// Measures.
pub fn measure(image: &Image) -> [f32; 3] {
    let fine = Fine::new(image, [64, 64]);
    let marks = marks(&fine.ink());
    let count = |image: &GrayImage| image.iter().filter(|value| **value > 0).count() as f32;
    let e = fine.edges();
    let near = morphology::dilate(&e, Norm::LInf, 3);
    let m = count(&marks);
    let both = marks.iter().zip(near.iter()).filter(|(a, b)| **a > 0 && **b > 0).count() as f32;
    [fine.thinness(), m / (128.0 * 128.0), both / m.max(1.0)]
}
