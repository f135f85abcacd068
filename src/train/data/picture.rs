//! One picture of the data set.

use crate::{Error, Image, Result};
use image::{ImageEncoder, RgbaImage, codecs::png, imageops, imageops::FilterType};

/// Side of every picture of a data set in pixels.
pub const SIDE: usize = 128;
/// Side of what a low-resolution picture is scaled up from.
pub const LOW_SIDE: usize = 32;

/// A square picture: RGBA bytes, colours *premultiplied* by alpha, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a side.
    pub side: usize,
    /// `side * side * 4` bytes.
    pub rgba: Vec<u8>,
}

impl Picture {
    /// A picture of premultiplied bytes.
    ///
    /// # Panics
    /// If the bytes do not fit the side.
    pub fn new(side: usize, rgba: Vec<u8>) -> Self {
        assert_eq!(rgba.len(), side * side * 4, "four bytes a pixel");
        Self { side, rgba }
    }

    /// A picture of one colour.
    pub fn filled(side: usize, [r, g, b]: [u8; 3]) -> Self {
        Self::new(side, [r, g, b, 255].repeat(side * side))
    }

    /// A picture without anything.
    pub fn empty(side: usize) -> Self {
        Self::new(side, vec![0; side * side * 4])
    }

    /// From an image whose colours are not premultiplied.
    pub fn from_straight(image: &RgbaImage) -> Self {
        let premultiplied = image.pixels().flat_map(|pixel| {
            let [r, g, b, a] = pixel.0;
            let times = |c: u8| ((u16::from(c) * u16::from(a) + 127) / 255) as u8;
            [times(r), times(g), times(b), a]
        });
        Self::new(image.width() as usize, premultiplied.collect())
    }

    /// The picture with colours not premultiplied, as the rest of the crate has them.
    pub fn to_straight(&self) -> Image {
        let rgba = self.rgba.chunks_exact(4).flat_map(|pixel| {
            let alpha = u16::from(pixel[3]);
            let over = |c: u8| (u16::from(c) * 255 + alpha / 2).checked_div(alpha).unwrap_or(0).min(255) as u8;
            [over(pixel[0]), over(pixel[1]), over(pixel[2]), pixel[3]]
        });
        Image { width: self.side, height: self.side, rgba: rgba.collect() }
    }

    /// From a drawing, or any other picture of bytes.
    pub fn from_image(image: &Image) -> Self {
        let straight = RgbaImage::from_raw(image.width as u32, image.height as u32, image.rgba.clone());
        Self::from_straight(&straight.expect("four bytes a pixel"))
    }

    fn image(&self) -> RgbaImage {
        RgbaImage::from_raw(self.side as u32, self.side as u32, self.rgba.clone()).expect("four bytes a pixel")
    }

    /// The picture at another side: box means on the way down, Catmull-Rom on the way up.
    pub fn resized(&self, side: usize) -> Self {
        let to = side as u32;
        let mut image = match side.cmp(&self.side) {
            std::cmp::Ordering::Equal => return self.clone(),
            std::cmp::Ordering::Less => imageops::thumbnail(&self.image(), to, to),
            std::cmp::Ordering::Greater => imageops::resize(&self.image(), to, to, FilterType::CatmullRom),
        };
        // Catmull-Rom overshoots: a premultiplied colour is never above its alpha.
        image.pixels_mut().for_each(|pixel| {
            let a = pixel[3];
            pixel.0 = pixel.0.map(|c| c.min(a));
        });
        Self::new(side, image.into_raw())
    }

    /// The square of `side` with its corner at `[left, top]`; it must lie inside.
    pub fn cropped(&self, [left, top]: [usize; 2], side: usize) -> Self {
        let row = |y: usize| &self.rgba[(y * self.side + left) * 4..][..side * 4];
        Self::new(side, (top..top + side).flat_map(row).copied().collect())
    }

    /// Lays `other` over this one with its corner at `[left, top]`; it must fit.
    pub fn draw(&mut self, other: &Self, [left, top]: [usize; 2]) {
        for y in 0..other.side {
            for x in 0..other.side {
                let from = (y * other.side + x) * 4;
                let to = ((top + y) * self.side + left + x) * 4;
                let cover = u16::from(255 - other.rgba[from + 3]);
                for channel in 0..4 {
                    let below = (u16::from(self.rgba[to + channel]) * cover + 127) / 255;
                    self.rgba[to + channel] = (u16::from(other.rgba[from + channel]) + below).min(255) as u8;
                }
            }
        }
    }

    /// RGB bytes on a background of one value.
    pub fn on_grey(&self, grey: u8) -> Vec<u8> {
        let over = |pixel: &[u8], channel: usize| {
            let below = (u16::from(grey) * u16::from(255 - pixel[3]) + 127) / 255;
            (u16::from(pixel[channel]) + below).min(255) as u8
        };
        self.rgba.chunks_exact(4).flat_map(|pixel| [0, 1, 2].map(|channel| over(pixel, channel))).collect()
    }

    /// Mean absolute difference of two pictures of one side, both on white, in steps of 255.
    pub fn difference(&self, other: &Self) -> f32 {
        let (a, b) = (self.on_grey(255), other.on_grey(255));
        let sum: u64 = a.iter().zip(&b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f32 / a.len() as f32
    }

    /// Share of the pixels that are not transparent.
    pub fn coverage(&self) -> f32 {
        let covered = self.rgba.chunks_exact(4).filter(|pixel| pixel[3] > 127).count();
        covered as f32 / (self.side * self.side) as f32
    }

    /// The bytes as a PNG file. What a viewer shows of it is darker at soft edges: the colours stay premultiplied.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn pack(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let side = self.side as u32;
        png::PngEncoder::new_with_quality(&mut bytes, png::CompressionType::Fast, png::FilterType::Adaptive)
            .write_image(&self.rgba, side, side, image::ExtendedColorType::Rgba8)
            .map_err(|error| Error::Write { what: "packed picture".into(), why: error.to_string() })?;
        Ok(bytes)
    }

    /// What [`Picture::pack`] wrote.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn unpack(bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: String| Error::Corrupt { what: "packed picture".into(), why };
        let image = image::load_from_memory(bytes).map_err(|error| corrupt(error.to_string()))?;
        if image.width() != image.height() || image.color() != image::ColorType::Rgba8 {
            return Err(corrupt("not a square of RGBA".into()));
        }
        Ok(Self::new(image.width() as usize, image.into_rgba8().into_raw()))
    }

    /// A square window, appended channel by channel as the networks see it: ink `2 (alpha - rgb) / 255` of the
    /// premultiplied colours, which is `2 (1 - rgb)` of the picture on white, then cover `2 alpha / 255`. Nothing is 0.
    pub fn window(&self, [left, top]: [usize; 2], side: usize, flip: bool, out: &mut Vec<f32>) {
        for channel in 0..4 {
            for y in top..top + side {
                let at = |x: usize| {
                    let pixel = &self.rgba[(y * self.side + x) * 4..][..4];
                    let alpha = f32::from(pixel[3]);
                    if channel < 3 { (alpha - f32::from(pixel[channel])) / 127.5 } else { alpha / 127.5 }
                };
                if flip {
                    out.extend((left..left + side).rev().map(at));
                } else {
                    out.extend((left..left + side).map(at));
                }
            }
        }
    }
}
