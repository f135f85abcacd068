//! Pictures as tensors of *ink and cover*, the one format in which models with different latent spaces meet.
//!
//! `[batch, 4, height, width]`: ink `2 alpha (1 - rgb)` of the three colours, then cover `2 alpha`. Nothing is 0, so that
//! zero padding continues the paper; the first three channels alone are the picture on white.

use crate::{Error, Image, Result};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A picture as `[1, 4, height, width]`.
pub fn from_image(image: &Image, device: &Device) -> Tensor<4> {
    let plane = image.width * image.height;
    let mut values = vec![0.0; 4 * plane];
    for (at, pixel) in image.rgba.chunks_exact(4).enumerate() {
        let [r, g, b, a] = [0, 1, 2, 3].map(|channel| f32::from(pixel[channel]) / 255.0);
        for (channel, ink) in [1.0 - r, 1.0 - g, 1.0 - b, 1.0].into_iter().enumerate() {
            values[channel * plane + at] = 2.0 * a * ink;
        }
    }
    Tensor::from_data(TensorData::new(values, [1, 4, image.height, image.width]), device)
}

/// A picture as `[1, 4, height, width]` of another size: scaled to fit, and in the middle of nothing where its proportions
/// differ.
pub fn fit(image: &Image, [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
    let inner = image.fitted([height, width]);
    let scaled = resample(from_image(&image.near(inner, 4), device), inner, Upsampler::Bicubic);
    let margin = |outer: usize, inner: usize| ((outer - inner) / 2, outer - inner - (outer - inner) / 2);
    let ((top, bottom), (left, right)) = (margin(height, inner[0]), margin(width, inner[1]));
    scaled.pad((left, right, top, bottom), 0.0)
}

/// The first picture of `[batch, 4, height, width]`; values out of range are clamped.
///
/// # Errors
/// [`Error::Device`] if the device fails, or if a value is not finite: a black or broken picture is never returned.
pub async fn to_image(pixels: Tensor<4>) -> Result<Image> {
    let [_, _, height, width] = pixels.dims();
    let data = pixels.narrow(0, 0, 1).into_data_async().await;
    let data = data.map_err(|error| Error::Device(format!("reading the picture back: {error:?}")))?;
    let values: Vec<f32> = data.convert::<f32>().try_to_vec().map_err(|error| Error::Device(format!("{error:?}")))?;
    image_of(&values, [height, width])
}

/// The picture of four planes of `[height, width]`, as [`to_image`].
pub(crate) fn image_of(values: &[f32], [height, width]: [usize; 2]) -> Result<Image> {
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::Device("the picture holds values that are not finite".into()));
    }
    let plane = width * height;
    let byte = |value: f32| (value * 255.0).round().clamp(0.0, 255.0) as u8;
    let pixel = |i: usize| {
        let alpha = opacity(values[3 * plane + i] / 2.0);
        let colour = |channel: usize| byte(1.0 - values[channel * plane + i] / (2.0 * alpha));
        if alpha == 0.0 { [0; 4] } else { [colour(0), colour(1), colour(2), byte(alpha)] }
    };
    Ok(Image { width, height, rgba: (0..plane).flat_map(pixel).collect() })
}

/// How light pictures are on black, `[batch, 1, height, width]` in `[0, 1]`: alpha times the mean of the colours.
pub fn lightness(pixels: Tensor<4>) -> Tensor<4> {
    let ink = pixels.clone().narrow(1, 0, 3).mean_dim(1);
    ((pixels.narrow(1, 3, 1) - ink) / 2.0).clamp(0.0, 1.0)
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

/// How pictures are scaled. On the way down the kernel widens with the step, as in Pillow, so that nothing aliases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upsampler {
    /// The pixel that is there.
    Nearest,
    /// Cubic convolution with `a = -1/2` (Keys 1981), support 2.
    #[default]
    Bicubic,
    /// `sinc(x) sinc(x / 3)`, support 3.
    Lanczos,
}

impl Upsampler {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nearest, Self::Bicubic, Self::Lanczos];

    /// The name in requests and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        }
    }

    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.5,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn kernel(self, x: f64) -> f64 {
        let x = x.abs();
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x) };
        match self {
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }

    /// What each of `to` pixels takes from each of `from`: `[from, to]`, columns that sum to one. Pixel `i` has its centre at
    /// `i + 1/2`; what a kernel would take from beyond the edge is shared by the pixels that are there.
    fn weights(self, from: usize, to: usize) -> Vec<f32> {
        let step = from as f64 / to as f64;
        let (stretch, mut weights) = (step.max(1.0), vec![0.0; from * to]);
        for column in 0..to {
            let centre = (column as f64 + 0.5) * step;
            if self == Self::Nearest {
                weights[(centre as usize).min(from - 1) * to + column] = 1.0;
                continue;
            }
            let reach = self.support() * stretch;
            let rows = (centre - reach).max(0.0) as usize..((centre + reach).ceil() as usize).min(from);
            let weight = |row: usize| self.kernel((row as f64 + 0.5 - centre) / stretch);
            let sum: f64 = rows.clone().map(weight).sum();
            rows.for_each(|row| weights[row * to + column] = (weight(row) / sum) as f32);
        }
        weights
    }
}

impl fmt::Display for Upsampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Upsampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|upsampler| upsampler.name() == name).ok_or_else(|| Error::Invalid {
            parameter: "upsampler",
            why: format!("`{name}` is none of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// `[batch, channels, height, width]` at another `[height, width]`: one matrix product an axis, the same on every device.
pub fn resample(pixels: Tensor<4>, [height, width]: [usize; 2], upsampler: Upsampler) -> Tensor<4> {
    let rows = |pixels: Tensor<4>, to: usize| {
        let [batch, channels, height, from] = pixels.dims();
        if from == to {
            return pixels;
        }
        let weights = TensorData::new(upsampler.weights(from, to), [from, to]);
        let weights = Tensor::<2>::from_data(weights, &pixels.device());
        pixels.reshape([batch * channels * height, from]).matmul(weights).reshape([batch, channels, height, to])
    };
    rows(rows(pixels, width).swap_dims(2, 3), height).swap_dims(2, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(values: [f32; 4]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, 4, 1, 1]), &Device::flex())
    }

    #[test]
    fn cover_becomes_opacity_and_ink_is_divided_by_it() {
        let read = |values: [f32; 4]| pollster::block_on(to_image(pixel(values))).unwrap().rgba;
        assert_eq!(read([0.0, 1.0, 0.5, 1.0]), [255, 0, 128, 128]);
        assert_eq!(read([0.01, 0.0, 0.02, 0.02]), [0; 4], "a faint error is nothing");
        assert_eq!(read([0.0, 2.0, 0.0, 1.98]), [255, 0, 255, 255]);
        assert_eq!(read([-9.0, 2.0, 9.0, 9.0]), [255, 0, 0, 255], "values out of range are clamped");
    }

    #[test]
    fn non_finite_values_are_an_error() {
        let result = pollster::block_on(to_image(pixel([0.0, f32::NAN, 0.0, 2.0])));
        assert!(matches!(result, Err(Error::Device(_))));
    }

    #[test]
    fn an_image_survives_the_way_to_a_tensor_and_back() {
        let image = Image::new(2, 2, vec![255, 0, 7, 255, 0, 0, 0, 0, 90, 120, 3, 128, 1, 2, 3, 255]).unwrap();
        let back = pollster::block_on(to_image(from_image(&image, &Device::flex()))).unwrap();
        assert_eq!(back.rgba, image.rgba);
    }

    #[test]
    fn scaling_keeps_what_is_even_and_nearest_repeats() {
        let device = Device::flex();
        let even = Tensor::<4>::ones([1, 4, 5, 7], &device);
        for upsampler in Upsampler::ALL {
            for size in [[1, 1], [10, 14], [3, 8]] {
                let scaled = resample(even.clone(), size, upsampler);
                let far = (scaled - 1.0).abs().max().into_scalar::<f32>();
                assert!(far < 1e-6, "{upsampler} to {size:?}: {far}");
            }
        }
        let ramp = Tensor::<4>::from_data(TensorData::new(vec![1.0f32, 2.0, 3.0], [1, 1, 1, 3]), &device);
        let twice: Vec<f32> = resample(ramp, [1, 6], Upsampler::Nearest).into_data().try_to_vec().unwrap();
        assert_eq!(twice, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    }
}
