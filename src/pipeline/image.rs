//! Pictures: from decoded values to pixels to a PNG that knows how it was drawn.

use super::config::PixelRange;
use crate::{Error, Result};
use burn::tensor::Tensor;

/// A picture of 8-bit RGBA pixels, row by row from the top left.
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
    /// Reads the first picture of decoded values `[batch, 3 or 4, height, width]`; values out of range are clamped.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails, or if a value is not finite: a black or broken picture is never returned.
    pub async fn from_decoded(decoded: Tensor<4>, range: PixelRange) -> Result<Self> {
        let [_, channels, height, width] = decoded.dims();
        if channels != range.channels() {
            return Err(Error::Unsupported(format!("{channels} channels of a picture as {range:?}")));
        }
        let data = decoded.slice([0..1, 0..channels]).into_data_async().await;
        let data = data.map_err(|error| Error::Device(format!("reading the picture back: {error:?}")))?;
        let values: Vec<f32> =
            data.convert::<f32>().try_to_vec().map_err(|error| Error::Device(format!("{error:?}")))?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::Device("the picture holds values that are not finite".into()));
        }
        let plane = width * height;
        let byte = |value: f32| (value * 255.0).round().clamp(0.0, 255.0) as u8;
        let pixel = |i: usize| {
            let [r, g, b] = [0, 1, 2].map(|channel| values[channel * plane + i]);
            let alpha = match range {
                PixelRange::Symmetric => 1.0,
                PixelRange::InkAndCover => opacity(values[3 * plane + i] / 2.0),
            };
            let unit = |value: f32| match range {
                PixelRange::Symmetric => (value + 1.0) / 2.0,
                PixelRange::InkAndCover => 1.0 - value / (2.0 * alpha.max(1e-6)),
            };
            if alpha == 0.0 { [0; 4] } else { [byte(unit(r)), byte(unit(g)), byte(unit(b)), byte(alpha)] }
        };
        let rgba = (0..plane).flat_map(pixel).collect();
        Ok(Self { width, height, rgba })
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

    /// Encodes as PNG with `parameters` in an iTXt chunk named `parameters`, where other tools look for them.
    ///
    /// # Errors
    /// [`Error::Write`] if the encoder refuses, e.g. an empty picture.
    pub fn to_png(&self, parameters: &str) -> Result<Vec<u8>> {
        let failed = |error: png::EncodingError| Error::Write { what: "PNG".into(), why: error.to_string() };
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.add_itxt_chunk("parameters".into(), parameters.into()).map_err(failed)?;
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&self.rgba).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(bytes)
    }
}

/// Opacity in `[0, 1]`, where an autoencoder's faint errors about nothing and about everything are taken away.
fn opacity(alpha: f32) -> f32 {
    const FAINT: f32 = 1.0 / 32.0;
    if alpha < FAINT {
        0.0
    } else if alpha > 1.0 - FAINT {
        1.0
    } else {
        alpha
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn decoded<const N: usize>(values: [f32; N]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, N, 1, 1]), &Device::flex())
    }

    #[test]
    fn cover_becomes_opacity_and_ink_is_divided_by_it() {
        let read = |values: [f32; 4]| {
            let image = pollster::block_on(Image::from_decoded(decoded(values), PixelRange::InkAndCover)).unwrap();
            image.rgba
        };
        assert_eq!(read([0.0, 1.0, 0.5, 1.0]), [255, 0, 128, 128]);
        assert_eq!(read([0.01, 0.0, 0.02, 0.02]), [0; 4], "a faint error is nothing");
        assert_eq!(read([0.0, 2.0, 0.0, 1.98]), [255, 0, 255, 255]);
    }

    #[test]
    fn a_background_fills_what_is_transparent() {
        let image = Image { width: 3, height: 1, rgba: vec![255, 0, 0, 255, 255, 0, 0, 51, 9, 9, 9, 0] };
        assert_eq!(image.on([0, 0, 255]).rgba, [255, 0, 0, 255, 51, 0, 204, 255, 0, 0, 255, 255]);
    }

    #[test]
    fn ranges_map_to_bytes_and_clamp() {
        let symmetric =
            pollster::block_on(Image::from_decoded(decoded([-1.0, 0.0, 3.0]), PixelRange::Symmetric)).unwrap();
        assert_eq!(symmetric.rgba, [0, 128, 255, 255]);
    }

    #[test]
    fn non_finite_values_are_an_error() {
        let result = pollster::block_on(Image::from_decoded(decoded([0.0, f32::NAN, 0.0]), PixelRange::Symmetric));
        assert!(matches!(result, Err(Error::Device(_))));
    }

    #[test]
    fn png_carries_its_parameters() {
        let image = Image { width: 2, height: 1, rgba: vec![1, 2, 3, 255, 4, 5, 6, 255] };
        let png = image.to_png("prompt: 红苹果").unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; 8];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, image.rgba);
        let text = &reader.info().utf8_text[0];
        assert_eq!((text.keyword.as_str(), text.get_text().unwrap().as_str()), ("parameters", "prompt: 红苹果"));
    }
}
