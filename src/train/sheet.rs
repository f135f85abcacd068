//! Pictures side by side in one PNG.

use super::write_error;
use crate::Result;
use burn::tensor::Tensor;
use image::{Rgb, RgbImage, imageops};
use std::path::Path;

/// Space between pictures.
const GAP: u32 = 4;

/// Splits `[batch, 4, height, width]` of ink and cover into pictures on white.
pub fn pictures(images: Tensor<4>) -> Vec<RgbImage> {
    let [_, channels, height, width] = images.dims();
    let values: Vec<f32> = images.into_data().convert::<f32>().try_into_vec().expect("converted to f32 above");
    let area = height * width;
    // Ink is what is missing to white.
    let byte = |v: f32| (255.0 - v * 127.5).round().clamp(0.0, 255.0) as u8;
    let picture = |image: &[f32]| {
        RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let at = y as usize * width + x as usize;
            Rgb([0, 1, 2].map(|channel| byte(image[channel * area + at])))
        })
    };
    values.chunks_exact(channels * area).map(picture).collect()
}

/// Writes `pictures`, all of one size, in rows of `columns`.
///
/// # Errors
/// [`crate::Error::Write`].
pub fn write(pictures: &[RgbImage], columns: usize, path: &Path) -> Result<()> {
    let Some(first) = pictures.first() else { return Ok(()) };
    let (width, height) = (first.width() + GAP, first.height() + GAP);
    let rows = pictures.len().div_ceil(columns) as u32;
    let mut sheet = RgbImage::from_pixel(columns as u32 * width + GAP, rows * height + GAP, Rgb([224; 3]));
    for (index, picture) in pictures.iter().enumerate() {
        let (column, row) = ((index % columns) as u32, (index / columns) as u32);
        imageops::replace(&mut sheet, picture, i64::from(GAP + column * width), i64::from(GAP + row * height));
    }
    sheet.save(path).map_err(|error| write_error(path, error))
}
