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
    /// Whichever it looks like: a drawing, if nearly all of its ink has one colour and lies in lines.
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
    /// What the image was taken for: a drawing or a picture.
    pub reading: Reading,
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
/// The share of the ink that lies in lines, times the share that has the pen's colour, from which an image is a drawing.
/// Measured on 150 pictures of each style, outlines of 64x64: it takes for drawings 149 of the icons in outlines, 150 of
/// those in two tones and 95 of Fluent's drawings in black (the others are black areas), and of pictures 8 flat ones, 5 in
/// 3D and 37 filled icons.
const DRAWING: f32 = 0.6;
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
    let reading = match reading {
        Reading::Auto if fine.thinness() * fine.uniformity() < DRAWING => Reading::Picture,
        Reading::Auto => Reading::Drawing,
        reading => reading,
    };
    let lines = if reading == Reading::Picture { fine.edges() } else { fine.strokes() };
    Ok(Lines { reading, height: size[0], width: size[1], values: fine.reduce(&lines) })
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
        let inner = image.fitted([height, width]);
        let corner = [(height - inner[0]) / 2 + MARGIN, (width - inner[1]) / 2 + MARGIN];
        // Lines of one pixel must stay visible: those of 8 pixels to one on the fine grid are halved, no others.
        let near = image.near(inner, 8);
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

    /// The share of the inked pixels whose colour is the pen's: its inks, their largest taken for full, are within 48 of 255 of
    /// the median in every channel. Half-covered pixels of a pen's line have its colour too.
    fn uniformity(&self) -> f32 {
        let colour = |pixel: &[u8]| {
            let inks = [0, 1, 2].map(|channel| ink([pixel[0], pixel[1], pixel[2], pixel[3]], channel));
            let most = inks.into_iter().max().unwrap_or(0);
            let seen = f32::from(most) > 255.0 * (INK[0] + INK[1]) / 2.0;
            seen.then(|| inks.map(|ink| (u16::from(ink) * 255 / u16::from(most)) as u8))
        };
        let colours: Vec<[u8; 3]> = self.near.rgba.chunks_exact(4).filter_map(colour).collect();
        if colours.is_empty() {
            return 0.0;
        }
        let pen = [0, 1, 2].map(|channel| {
            let mut values: Vec<u8> = colours.iter().map(|colour| colour[channel]).collect();
            let middle = values.len() / 2;
            *values.select_nth_unstable(middle).1
        });
        let close = |colour: &&[u8; 3]| colour.iter().zip(pen).all(|(value, pen)| value.abs_diff(pen) <= 48);
        colours.iter().filter(close).count() as f32 / colours.len() as f32
    }

    /// Means of the wanted size, a line of one fine pixel being full.
    fn reduce(&self, lines: &GrayImage) -> Vec<f32> {
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
        values
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of `side`, each pixel by its place.
    fn image(side: usize, pixel: impl Fn(usize, usize) -> [u8; 4]) -> Image {
        let rgba = (0..side * side).flat_map(|i| pixel(i % side, i / side)).collect();
        Image { width: side, height: side, rgba }
    }

    fn total(lines: &Lines) -> f32 {
        lines.values.iter().sum()
    }

    const INKED: [u8; 4] = [0, 0, 0, 255];
    const PAPER: [u8; 4] = [255; 4];

    #[test]
    fn a_coloured_square_becomes_its_edges() {
        // Red and green of the same lightness: the colours' edges are found all the same. A third is transparent.
        let square = image(128, |x, _| match x {
            0..32 => [0; 4],
            32..80 => [200, 0, 0, 255],
            _ => [0, 102, 0, 255],
        });
        let lines = outline(&square, Reading::Auto, [64, 64]).unwrap();
        assert_eq!((lines.reading, lines.width, lines.height), (Reading::Picture, 64, 64));
        let row = &lines.values[32 * 64..][..64];
        let peaks: Vec<usize> = (0..64).filter(|&x| row[x] > 0.9).collect();
        assert!(
            peaks.iter().any(|x| (15..=16).contains(x)) && peaks.iter().any(|x| (39..=40).contains(x)),
            "{peaks:?}"
        );
        assert!((0..64).filter(|x| !(14..=17).contains(x) && !(38..=41).contains(x) && *x < 62).all(|x| row[x] == 0.0));
    }

    #[test]
    fn thin_and_thick_strokes_of_a_drawing_survive_and_blots_become_rims() {
        for (side, stroke) in [(512, 1), (512, 40), (64, 1), (1024, 3)] {
            let middle = side / 2;
            let drawing = image(side, |x, _| if (middle..middle + stroke).contains(&x) { INKED } else { PAPER });
            let lines = outline(&drawing, Reading::Auto, [64, 64]).unwrap();
            assert_eq!(lines.reading, Reading::Drawing, "{side} {stroke}");
            let row = &lines.values[20 * 64..][..64];
            assert!(row[32] > 0.9, "{side} {stroke}: {row:?}");
            let width: f32 = row.iter().sum();
            assert!((0.9..=6.0).contains(&width), "{side} {stroke}: {width}");
        }
        let blot = image(128, |x, y| if (24..104).contains(&x) && (24..104).contains(&y) { INKED } else { PAPER });
        let lines = outline(&blot, Reading::Drawing, [64, 64]).unwrap();
        assert_eq!((lines.values[32 * 64 + 32], lines.values[32 * 64 + 13]), (0.0, 1.0));
        assert_eq!(outline(&blot, Reading::Auto, [64, 64]).unwrap().reading, Reading::Picture);
    }

    #[test]
    fn pens_of_any_colour_draw() {
        for pen in [[250, 208, 32, 255], [140, 144, 150, 255], [20, 40, 200, 255]] {
            let drawing = image(256, |x, y| if x.abs_diff(y) < 3 { pen } else { [0; 4] });
            let lines = outline(&drawing, Reading::Auto, [64, 64]).unwrap();
            assert_eq!(lines.reading, Reading::Drawing, "{pen:?}");
            assert!(lines.values[30 * 64 + 30] > 0.9);
        }
    }

    #[test]
    fn odd_images_are_read() {
        for reading in [Reading::Auto, Reading::Drawing, Reading::Picture] {
            let empty = image(40, |_, _| [90, 90, 90, 0]);
            assert_eq!(total(&outline(&empty, reading, [64, 64]).unwrap()), 0.0);
            let white = image(40, |_, _| PAPER);
            assert_eq!(total(&outline(&white, reading, [64, 64]).unwrap()), 0.0);
            for (width, height) in [(1, 1), (1, 900), (2000, 3), (7, 5)] {
                let pixel = Image { width, height, rgba: [60, 90, 10, 255].repeat(width * height) };
                let lines = outline(&pixel, reading, [48, 80]).unwrap();
                assert_eq!((lines.height, lines.width, lines.values.len()), (48, 80, 48 * 80));
                assert!(lines.values.iter().all(|value| (0.0..=1.0).contains(value)));
                let shown = lines.to_image();
                assert_eq!((shown.width, shown.height, shown.rgba.len()), (80, 48, 4 * 48 * 80));
            }
        }
        // A wide picture lies in the middle, above and below it is nothing.
        let wide = Image { width: 200, height: 100, rgba: [0, 90, 200, 255].repeat(200 * 100) };
        assert_eq!(total(&outline(&wide, Reading::Picture, [64, 64]).unwrap()), 0.0, "no frame is drawn");
        let drawing = outline(&wide, Reading::Drawing, [64, 64]).unwrap();
        assert!((0..64).all(|x| drawing.values[8 * 64 + x] == 0.0) && drawing.values[16 * 64 + 32] > 0.0);
        let refused = |image: &Image, size| matches!(outline(image, Reading::Auto, size), Err(Error::Invalid { .. }));
        assert!(refused(&wide, [0, 64]) && refused(&wide, [64, 4096]));
        assert!(refused(&Image { width: 0, height: 0, rgba: Vec::new() }, [64, 64]));
        assert!(refused(&Image { width: 2, height: 2, rgba: vec![0; 3] }, [64, 64]));
    }
}
