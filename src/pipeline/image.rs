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
    /// Reads the first picture of decoded values `[batch, 3, height, width]`; values out of range are clamped.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails, or if a value is not finite: a black or broken picture is never returned.
    pub async fn from_decoded(decoded: Tensor<4>, range: PixelRange) -> Result<Self> {
        let [_, channels, height, width] = decoded.dims();
        let data = decoded.slice([0..1, 0..channels]).into_data_async().await;
        let data = data.map_err(|error| Error::Device(format!("reading the picture back: {error:?}")))?;
        let values: Vec<f32> =
            data.convert::<f32>().try_to_vec().map_err(|error| Error::Device(format!("{error:?}")))?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::Device("the picture holds values that are not finite".into()));
        }
        let unit = |value: f32| match range {
            PixelRange::Symmetric => (value + 1.0) / 2.0,
            PixelRange::WhiteZero => 1.0 - value / 2.0,
        };
        let plane = width * height;
        let rgba = (0..plane)
            .flat_map(|i| {
                let byte = |channel: usize| (unit(values[channel * plane + i]) * 255.0).round().clamp(0.0, 255.0) as u8;
                [byte(0), byte(1), byte(2), 255]
            })
            .collect();
        Ok(Self { width, height, rgba })
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

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn decoded(values: [f32; 3]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &Device::flex())
    }

    #[test]
    fn ranges_map_to_bytes_and_clamp() {
        let symmetric =
            pollster::block_on(Image::from_decoded(decoded([-1.0, 0.0, 3.0]), PixelRange::Symmetric)).unwrap();
        assert_eq!(symmetric.rgba, [0, 128, 255, 255]);
        let paper = pollster::block_on(Image::from_decoded(decoded([0.0, 2.0, -1.0]), PixelRange::WhiteZero)).unwrap();
        assert_eq!(paper.rgba, [255, 0, 255, 255]);
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
