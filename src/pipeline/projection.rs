//! Previews that cost next to nothing: a linear map from latents to pixels, one pixel a cell.
//!
//! An autoencoder's latents are close to a small picture: the mean of a cell's pixels is nearly linear in the cell's latent.
//! The map is found once, where a model is made, by least squares between latents and what the decoder makes of them.

use super::{
    config::{PICTURE_CHANNELS, PipelineConfig, Projection},
    latent::LatentSpace,
    residency::Residency,
};
use crate::{Error, Image, Result, coop::Space, device::OpenDevice, nets::Pace, pixels, weights::Depot};
#[cfg(not(target_arch = "wasm32"))]
use crate::{
    device::{self, DeviceChoice},
    weights::{manifest::FILE, source::FolderSource},
};
use burn::tensor::{Tensor, TensorData};
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;
use std::rc::Rc;

impl Projection {
    /// The picture that latents `[1, channels, height, width]` are close to, a pixel a cell.
    ///
    /// They are read back and multiplied here: there are so few that no device would do it faster.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails, or if a value is not finite; [`Error::Unsupported`] for latents of other channels.
    pub async fn picture(&self, latents: Tensor<4>) -> Result<Image> {
        let [_, channels, height, width] = latents.dims();
        let inputs = self.weights.first().map_or(0, Vec::len);
        if inputs != channels {
            return Err(Error::Unsupported(format!("a projection of {inputs} channels on latents of {channels}")));
        }
        let values = self.project(&read(latents).await?, height * width);
        pixels::image_of(&values, [height, width])
    }

    /// Planes of ink and cover, of planes of latents with `cells` values each.
    pub fn project(&self, latents: &[f32], cells: usize) -> Vec<f32> {
        let mut pixels = Vec::with_capacity(PICTURE_CHANNELS * cells);
        for (weights, &bias) in self.weights.iter().zip(&self.bias) {
            let value = |cell| {
                let terms = weights.iter().zip(latents.chunks_exact(cells)).map(|(weight, plane)| weight * plane[cell]);
                bias + terms.sum::<f32>()
            };
            pixels.extend((0..cells).map(value));
        }
        pixels
    }
}

/// The least squares between latents and pixels, as their normal equations.
#[derive(Debug, Clone)]
pub struct Fit {
    /// Channels of a latent, and the constant.
    inputs: usize,
    /// `sum z z^T`, `[inputs, inputs]`.
    normal: Vec<f64>,
    /// `sum z p^T`, `[inputs, 4]`.
    target: Vec<f64>,
}

impl Fit {
    /// Nothing seen yet of latents with so many channels.
    pub fn new(channels: usize) -> Self {
        let inputs = channels + 1;
        Self { inputs, normal: vec![0.0; inputs * inputs], target: vec![0.0; inputs * PICTURE_CHANNELS] }
    }

    /// Takes planes of latents, and planes of the pixels that each of their `cells` decodes to in the mean.
    pub fn add(&mut self, latents: &[f32], pixels: &[f32], cells: usize) {
        let mut z = vec![1.0; self.inputs];
        for cell in 0..cells {
            for (value, plane) in z.iter_mut().zip(latents.chunks_exact(cells)) {
                *value = f64::from(plane[cell]);
            }
            for (row, &left) in z.iter().enumerate() {
                for (column, &right) in z.iter().enumerate() {
                    self.normal[row * self.inputs + column] += left * right;
                }
                for (channel, plane) in pixels.chunks_exact(cells).enumerate() {
                    self.target[row * PICTURE_CHANNELS + channel] += left * f64::from(plane[cell]);
                }
            }
        }
    }

    /// The map of the least error; none if what was seen does not determine one.
    pub fn solve(&self) -> Option<Projection> {
        let (n, mut normal, mut target) = (self.inputs, self.normal.clone(), self.target.clone());
        // A little weight decay: a channel that never varied has no weight, rather than any.
        let scale = (0..n).map(|i| normal[i * n + i]).fold(0.0, f64::max);
        (0..n).for_each(|i| normal[i * n + i] += 1e-9 * scale);
        // Gauss and Jordan; the matrix is positive definite, so that no rows need be exchanged.
        for pivot in 0..n {
            let by = normal[pivot * n + pivot];
            if !by.is_finite() || by <= 0.0 {
                return None;
            }
            for row in (0..n).filter(|&row| row != pivot) {
                let factor = normal[row * n + pivot] / by;
                (0..n).for_each(|column| normal[row * n + column] -= factor * normal[pivot * n + column]);
                for channel in 0..PICTURE_CHANNELS {
                    target[row * PICTURE_CHANNELS + channel] -= factor * target[pivot * PICTURE_CHANNELS + channel];
                }
            }
        }
        // Four digits are finer than what a screen shows.
        let solved = |input: usize, channel: usize| {
            let value = target[input * PICTURE_CHANNELS + channel] / normal[input * n + input];
            (value * 1e4).round() as f32 / 1e4
        };
        let weights = (0..PICTURE_CHANNELS).map(|channel| (0..n - 1).map(|input| solved(input, channel)).collect());
        let bias = (0..PICTURE_CHANNELS).map(|channel| solved(n - 1, channel));
        let projection = Projection { weights: weights.collect(), bias: bias.collect() };
        projection.check(n - 1).is_ok().then_some(projection)
    }
}

/// Cells along a side of the pictures that a projection is fitted to.
const CELLS: usize = 16;
/// So many made-up pictures have 3,072 cells, for the few numbers of a map.
const CARDS: u64 = 12;

/// Fits a projection for the model in `depot`: its autoencoder's latents of `pictures` against what it decodes them to. The more
/// they are like what it draws the better; if there are none, made-up ones serve. None if the model has no encoder, or if its
/// decoder is so far from linear that there is no such map.
///
/// # Errors
/// As [`super::Generator::open`]; whatever the autoencoder fails with.
pub async fn fit(depot: &Depot, device: &OpenDevice, pictures: &[Image]) -> Result<Option<Projection>> {
    let manifest = Rc::new(depot.manifest().await?);
    let config = PipelineConfig::from_json(&manifest.pipeline)?;
    if config.latent.encoder.is_none() {
        return Ok(None);
    }
    let (pace, residency) = (Pace::free(), Residency::new(device.device.clone(), u64::MAX));
    let space = LatentSpace::new(&config, (depot, &manifest), &residency)?;
    let mut fit = Fit::new(config.latent.channels);
    let side = CELLS * config.latent.factor;
    let cards: Vec<_> = (0..CARDS).map(|seed| card(side, seed)).collect();
    for picture in if pictures.is_empty() { &cards } else { pictures } {
        let picture = pixels::fit(picture, [side, side], &device.device);
        let latents = space.encode(picture, &pace).await?;
        let decoded = read(space.decode(latents.clone(), &pace).await?).await?;
        let means = cell_means(&decoded, [CELLS, CELLS], config.latent.factor);
        fit.add(&read(latents).await?, &means, CELLS * CELLS);
    }
    Ok(fit.solve())
}

/// Fits a projection for the model in `folder` to `pictures`, if there are any, and writes it into its manifest; answers
/// whether there is one.
///
/// # Errors
/// As [`fit`]; [`Error::Write`].
#[cfg(not(target_arch = "wasm32"))]
pub fn add(folder: &Path, pictures: &[Image]) -> Result<bool> {
    let depot = Depot::new(Rc::new(FolderSource(folder.into())), None);
    let device = pollster::block_on(device::open(DeviceChoice::Cpu))?;
    let Some(projection) = pollster::block_on(fit(&depot, &device, pictures))? else { return Ok(false) };
    let mut manifest = pollster::block_on(depot.manifest())?;
    // By way of a text, in which numbers are as short as they were rounded.
    let text = serde_json::to_string(&projection).expect("plain data");
    let projection: serde_json::Value = serde_json::from_str(&text).expect("it was just written");
    manifest.pipeline["latent"]["projection"] = projection;
    let (path, part) = (folder.join(FILE), folder.join(format!(".{FILE}.part")));
    let written = std::fs::write(&part, manifest.to_json()?).and_then(|()| std::fs::rename(&part, &path));
    written.map_err(|error| Error::Write { what: path.display().to_string(), why: error.to_string() })?;
    Ok(true)
}

/// Means over cells of `factor` pixels a side, of planes with `[height, width]` cells.
pub fn cell_means(pixels: &[f32], [height, width]: [usize; 2], factor: usize) -> Vec<f32> {
    let row = width * factor;
    let mean = |plane: &[f32], cell: usize| {
        let (top, left) = (cell / width * factor, cell % width * factor);
        let rows = (top..top + factor).map(|y| plane[y * row + left..][..factor].iter().sum::<f32>());
        rows.sum::<f32>() / (factor * factor) as f32
    };
    let planes = pixels.chunks_exact(height * factor * row);
    planes.flat_map(|plane| (0..height * width).map(move |cell| mean(plane, cell))).collect()
}

/// A made-up picture: ellipses and rectangles in colours of all kinds, many on a colour or a few on nothing.
fn card(side: usize, seed: u64) -> Image {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // SplitMix64: numbers in [0, 1).
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f32 / (1u64 << 53) as f32
    };
    let mut colour = || {
        let [red, green, blue] = std::array::from_fn(|_| (next() * 255.0).round() as u8);
        [red, green, blue, 255]
    };
    let opaque = seed.is_multiple_of(2);
    let mut rgba = if opaque { colour() } else { [0; 4] }.repeat(side * side);
    let shapes: Vec<_> = (0..if opaque { 12 } else { 3 }).map(|_| colour()).collect();
    for (index, colour) in shapes.into_iter().enumerate() {
        let [x, y, width, height] = std::array::from_fn(|_| next() * side as f32);
        for (at, pixel) in rgba.chunks_exact_mut(4).enumerate() {
            let across = ((at % side) as f32 - x) / (width / 2.0).max(1.0);
            let down = ((at / side) as f32 - y) / (height / 2.0).max(1.0);
            let inside =
                if index.is_multiple_of(2) { across.hypot(down) < 1.0 } else { across.abs().max(down.abs()) < 1.0 };
            if inside {
                pixel.copy_from_slice(&colour);
            }
        }
    }
    Image { width: side, height: side, rgba }
}

/// The values of a tensor of one picture.
async fn read(tensor: Tensor<4>) -> Result<Vec<f32>> {
    let data: TensorData = tensor.into_data_async().await.map_err(|error| Error::Device(format!("{error:?}")))?;
    data.convert::<f32>().try_to_vec().map_err(|error| Error::Device(format!("{error:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Generator, MEMORY, Request};
    use burn::tensor::Device;

    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| ((i as f32 + seed) * 12.9898).sin() * 43758.547 % 1.0).collect()
    }

    #[test]
    fn a_linear_decoder_is_found_again() {
        let known = Projection {
            weights: vec![vec![0.5, -0.25, 0.1], vec![0.0, 1.5, 0.2], vec![-1.0, 0.3, 0.0], vec![0.7, 0.7, -0.7]],
            bias: vec![0.1, 0.2, -0.3, 2.0],
        };
        let mut fit = Fit::new(3);
        for seed in 0..3 {
            let latents = numbers(3 * 20, seed as f32);
            fit.add(&latents, &known.project(&latents, 20), 20);
        }
        assert_eq!(fit.solve().unwrap(), known);
    }

    #[test]
    fn what_is_not_determined_has_no_weight() {
        assert_eq!(Fit::new(2).solve(), None, "nothing was seen");
        // The second channel never varies.
        let latents: Vec<f32> = [numbers(10, 0.0), vec![0.0; 10]].concat();
        let pixels: Vec<f32> = (0..4).flat_map(|_| latents[..10].iter().map(|value| 2.0 * value + 1.0)).collect();
        let mut fit = Fit::new(2);
        fit.add(&latents, &pixels, 10);
        let projection = fit.solve().unwrap();
        assert_eq!((projection.weights[3].as_slice(), projection.bias[3]), (&[2.0, 0.0][..], 1.0));
        let mut fit = Fit::new(1);
        fit.add(&[f32::NAN], &[1.0; 4], 1);
        assert_eq!(fit.solve(), None);
    }

    #[test]
    fn means_are_taken_cell_by_cell() {
        let pixels = [1.0, 3.0, 10.0, 10.0, 5.0, 7.0, 10.0, 30.0];
        assert_eq!(cell_means(&pixels, [1, 2], 2), [4.0, 15.0]);
    }

    #[test]
    fn latents_of_other_channels_are_refused() {
        let projection = Projection { weights: vec![vec![1.0]; 4], bias: vec![0.0; 4] };
        let latents = Tensor::zeros([1, 2, 1, 1], &Device::flex());
        let refused = pollster::block_on(projection.picture(latents));
        assert!(matches!(refused, Err(Error::Unsupported(_))));
    }

    /// The shipped projection, on drawings it was not fitted to: what it says of a cell is within 0.3 of the decoder's mean
    /// there, root mean square, of the range 2.
    #[test]
    fn the_default_models_projection_shows_its_drawings() {
        let source = FolderSource(format!("{}/www/models/default", env!("CARGO_MANIFEST_DIR")).into());
        let depot = Depot::new(Rc::new(source), None);
        pollster::block_on(async {
            let device = device::open(DeviceChoice::Cpu).await.unwrap();
            let generator = Generator::open(depot.clone(), device, MEMORY).await.unwrap();
            let manifest = Rc::new(depot.manifest().await.unwrap());
            let config = PipelineConfig::from_json(&manifest.pipeline).unwrap();
            let residency = Residency::new(Device::flex(), u64::MAX);
            let space = LatentSpace::new(&config, (&depot, &manifest), &residency).unwrap();
            let projection = config.latent.projection.expect("the shipped model has one");
            let (mut squares, mut count) = (0.0, 0);
            for (seed, prompt) in ["red apple", "cat", "blue car"].into_iter().enumerate() {
                let request =
                    Request { prompt: prompt.into(), seed: seed as u64, steps: Some(6), ..Request::default() };
                let drawing = generator.generate(&request, &Pace::free(), &mut |_| ()).await.unwrap();
                let latents = Tensor::<4>::from_data(drawing.latents.clone(), &Device::flex());
                let decoded = read(space.decode(latents, &Pace::free()).await.unwrap()).await.unwrap();
                let means = cell_means(&decoded, [16, 16], 8);
                let latents: Vec<f32> = drawing.latents.try_to_vec().unwrap();
                let shown = projection.project(&latents, 256);
                squares += means.iter().zip(&shown).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
                count += means.len();
            }
            let error = (squares / count as f64).sqrt();
            println!("projection of the default model: {error:.4} of 2, root mean square over {count} values");
            assert!(error < 0.3, "{error}");
        });
    }
}
