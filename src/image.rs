//! Pictures as bytes, and the PNG that knows how it was drawn.

use crate::{Error, Result};
use std::borrow::Cow;

/// A picture of 8-bit RGBA pixels, colours not multiplied by alpha, row by row from the top left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height * 4` bytes.
    pub rgba: Vec<u8>,
}

impl Image {
    /// Most pixels that a picture from outside may have: what a phone's camera takes, and not what exhausts a tab's memory.
    pub const MAX_PIXELS: usize = 50_000_000;

    /// A picture from outside.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has no pixels or more than [`Image::MAX_PIXELS`], or if the bytes do not fit its sides.
    pub fn new(width: usize, height: usize, rgba: Vec<u8>) -> Result<Self> {
        let bytes = Self::check_size(width, height)? * 4;
        if rgba.len() != bytes {
            let why = format!("has {} bytes, {width}x{height} pixels take {bytes}", rgba.len());
            return Err(Error::Invalid { parameter: "image", why });
        }
        Ok(Self { width, height, rgba })
    }

    /// Checks, before anything is decoded, that a picture of these sides is one that [`Image::new`] takes; answers how many
    /// pixels it has.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check_size(width: usize, height: usize) -> Result<usize> {
        width.checked_mul(height).filter(|count| (1..=Self::MAX_PIXELS).contains(count)).ok_or_else(|| Error::Invalid {
            parameter: "image",
            why: format!("has {width}x{height} pixels, must have 1 to {}", Self::MAX_PIXELS),
        })
    }

    /// The picture at half its sides: means of 2x2 pixels, colours weighted by their alpha. An odd last row or column is
    /// left out.
    pub fn halved(&self) -> Self {
        let (width, height) = ((self.width / 2).max(1), (self.height / 2).max(1));
        let mut rgba = Vec::with_capacity(width * height * 4);
        for y in 0..height {
            for x in 0..width {
                let mut sums = [0u32; 4];
                for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let at = (2 * y + dy).min(self.height - 1) * self.width + (2 * x + dx).min(self.width - 1);
                    let pixel = &self.rgba[4 * at..][..4];
                    let alpha = u32::from(pixel[3]);
                    (0..3).for_each(|channel| sums[channel] += u32::from(pixel[channel]) * alpha);
                    sums[3] += alpha;
                }
                let alpha = sums[3];
                rgba.extend([0, 1, 2].map(|channel| ((sums[channel] + alpha / 2) / alpha.max(1)) as u8));
                rgba.push(((alpha + 2) / 4) as u8);
            }
        }
        Self { width, height, rgba }
    }

    /// `[height, width]` that this picture has where it is scaled to fit into another one of `[height, width]`.
    pub fn fitted(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let scale = (width as f64 / self.width as f64).min(height as f64 / self.height as f64);
        [self.height, self.width].map(|side| ((side as f64 * scale).round() as usize).max(1))
    }

    /// The picture, halved and halved again as long as its sides are at least `times` those of `[height, width]`: what
    /// scaling well needs of a camera's picture, and no more.
    pub fn near(&self, [height, width]: [usize; 2], times: usize) -> Cow<'_, Self> {
        let mut near = Cow::Borrowed(self);
        while near.height >= times * height && near.width >= times * width {
            near = Cow::Owned(near.halved());
        }
        near
    }

    /// The picture on a background of one colour, opaque.
    pub fn on(mut self, background: [u8; 3]) -> Self {
        for pixel in self.rgba.chunks_exact_mut(4) {
            let alpha = u16::from(pixel[3]);
            for (channel, below) in background.into_iter().enumerate() {
                let mixed = u16::from(pixel[channel]) * alpha + u16::from(below) * (255 - alpha);
                pixel[channel] = ((mixed + 127) / 255) as u8;
            }
            pixel[3] = 255;
        }
        self
    }

    /// Encodes as PNG with `texts`, pairs of keyword and text, in an iTXt chunk each.
    ///
    /// # Errors
    /// [`Error::Write`] if the encoder refuses, e.g. an empty picture.
    pub fn to_png(&self, texts: &[(&str, &str)]) -> Result<Vec<u8>> {
        let failed = |error: png::EncodingError| Error::Write { what: "PNG".into(), why: error.to_string() };
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        for (keyword, text) in texts {
            encoder.add_itxt_chunk((*keyword).into(), (*text).into()).map_err(failed)?;
        }
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&self.rgba).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_before_anything_is_decoded() {
        assert!(Image::new(2, 1, vec![0; 8]).is_ok());
        for (width, height, bytes) in [(0, 1, 0), (2, 2, 8), (usize::MAX, 2, 8), (50_001, 1_000, 8)] {
            assert!(
                matches!(Image::new(width, height, vec![0; bytes]), Err(Error::Invalid { .. })),
                "{width}x{height}"
            );
        }
    }

    #[test]
    fn a_background_fills_what_is_transparent() {
        let image = Image { width: 3, height: 1, rgba: vec![255, 0, 0, 255, 255, 0, 0, 51, 9, 9, 9, 0] };
        assert_eq!(image.on([0, 0, 255]).rgba, [255, 0, 0, 255, 51, 0, 204, 255, 0, 0, 255, 255]);
    }

    #[test]
    fn png_carries_its_texts() {
        let image = Image { width: 2, height: 1, rgba: vec![1, 2, 3, 255, 4, 5, 6, 255] };
        let texts = [("parameters", "红苹果\nSteps: 20"), ("pangu-draw", "{}")];
        let png = image.to_png(&texts).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; 8];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, image.rgba);
        let read = &reader.info().utf8_text;
        let read: Vec<_> = read.iter().map(|text| (text.keyword.clone(), text.get_text().unwrap())).collect();
        assert_eq!(read, texts.map(|(keyword, text)| (keyword.into(), text.into())));
    }
}
