//! A model's latent space: its autoencoder, whatever kind it is of, between latents and ink and cover.

use super::{
    config::{LatentConfig, PipelineConfig, PixelRange, Projection},
    residency::{Part, Residency, Resident},
};
use crate::{
    Error, Result,
    coop::Space,
    diffusion::Denoising,
    nets::{
        Pace,
        autoencoder_kl::{AutoencoderKlConfig, KlDecoder, KlEncoder},
        autoencoder_tiny::{AutoencoderTinyConfig, TinyDecoder, TinyEncoder},
        precision::Stage,
    },
    weights::{Arrival, Depot, manifest::Manifest},
};
use burn::tensor::{Device, Tensor, TensorData};
use std::{ops::Range, rc::Rc};

/// A latent space's way to pixels and back.
pub struct LatentSpace {
    key: String,
    decoder: Rc<Resident<Decoder>>,
    encoder: Option<Rc<Resident<Encoder>>>,
    /// `[1, channels or 1, 1, 1]`.
    shift: Tensor<4>,
    scale: Tensor<4>,
    pixels: PixelRange,
    projection: Option<Projection>,
    factor: usize,
    /// Side of a tile in cells.
    tile: usize,
}

enum Decoder {
    Tiny(Box<TinyDecoder>),
    Kl(Box<KlDecoder>),
}

enum Encoder {
    Tiny(Box<TinyEncoder>),
    Kl(Box<KlEncoder>),
}

/// Networks that a latent space may be made of.
const AUTOENCODERS: [&str; 2] = ["AutoencoderTiny", "AutoencoderKL"];

/// Latents with a side longer than this, and longer than those that the model was trained on, are decoded in tiles of it: the
/// activations of one tile, not of the picture, are what memory must hold. In cells.
const TILE: usize = 64;
/// Cells that neighbouring tiles share. Across them one fades into the other, so that what differs at their edges, where a
/// tile does not see beyond itself, leaves no seam.
const OVERLAP: usize = 8;

impl LatentSpace {
    /// What tells the space of a model from others: the numbers of its configuration and the content of its files.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the manifest does not list them.
    pub fn key(config: &LatentConfig, manifest: &Manifest) -> Result<String> {
        let roles = config.encoder.iter().chain([&config.decoder]);
        let files: String = roles.map(|role| Ok(manifest.component(role)?.sha256.concat())).collect::<Result<_>>()?;
        // How a space is shown does not make it another.
        let config = LatentConfig { projection: None, ..config.clone() };
        Ok(files + &serde_json::to_string(&config).expect("plain data"))
    }

    /// The space of the model in `folder`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Unsupported`] if the manifest does not list the networks, or others.
    pub fn new(config: &PipelineConfig, folder: (&Depot, &Rc<Manifest>), residency: &Rc<Residency>) -> Result<Self> {
        let (latent, image) = (&config.latent, &config.image);
        let encoder = |role: &String| residency.part(folder, role, &AUTOENCODERS, Encoder::load);
        let per_channel = |values: &[f32]| {
            let values = TensorData::new(values.to_vec(), [1, values.len(), 1, 1]);
            Tensor::from_data(values, residency.device())
        };
        Ok(Self {
            key: Self::key(latent, folder.1)?,
            decoder: residency.part(folder, &latent.decoder, &AUTOENCODERS, Decoder::load)?,
            encoder: latent.encoder.as_ref().map(encoder).transpose()?,
            shift: per_channel(&latent.shift),
            scale: per_channel(&latent.scale),
            pixels: latent.pixels,
            projection: latent.projection.clone(),
            factor: latent.factor,
            tile: TILE.max(image.width.max(image.height) / latent.factor),
        })
    }

    /// Whether this is the space of that [`LatentSpace::key`].
    pub fn is(&self, key: &str) -> bool {
        self.key == key
    }

    /// What shows latents without decoding them, if the model has it.
    pub fn projection(&self) -> Option<&Projection> {
        self.projection.as_ref()
    }

    /// What decodes.
    pub fn decoder(&self) -> Rc<dyn Part> {
        self.decoder.clone()
    }

    /// What encodes, if the model has it.
    pub fn encoder(&self) -> Option<Rc<dyn Part>> {
        self.encoder.clone().map(|encoder| encoder as Rc<dyn Part>)
    }

    async fn decode_tile(&self, latents: Tensor<4>, pace: &Pace) -> Result<Tensor<4>> {
        let latents = latents / self.scale.clone() + self.shift.clone();
        let decoder = self.decoder.get(pace).await?;
        let decode = async |dtype| match &*decoder {
            Decoder::Tiny(net) => net.decode(latents.clone().cast(dtype), pace).await,
            Decoder::Kl(net) => net.decode(latents.clone().cast(dtype), pace).await,
        };
        let decoded = pace.evaluate(Stage::Autoencoder, decode).await?;
        let [_, channels, _, _] = decoded.dims();
        if channels != self.pixels.channels() {
            return Err(Error::Unsupported(format!("{channels} channels of a picture as {:?}", self.pixels)));
        }
        Ok(self.pixels.to_ink(decoded))
    }

    /// [`Space::decode`] in tiles of `tile` cells a side that share `overlap` of them.
    async fn decode_tiled(&self, latents: Tensor<4>, tile: usize, overlap: usize, pace: &Pace) -> Result<Tensor<4>> {
        let [batch, channels, height, width] = latents.dims();
        let mut bands = Vec::new();
        let rows = tiles(height, tile, overlap);
        for row in &rows {
            let columns = tiles(width, tile, overlap);
            let mut band = Vec::new();
            for column in &columns {
                let part = latents.clone().slice([0..batch, 0..channels, row.clone(), column.clone()]);
                band.push(self.decode_tile(part, pace).await?);
            }
            bands.push(stitch(band, &columns, self.factor, 3));
        }
        Ok(stitch(bands, &rows, self.factor, 2))
    }
}

impl Decoder {
    async fn load(arrival: Arrival, device: Device) -> Result<Self> {
        if arrival.network() == AUTOENCODERS[0] {
            let config: AutoencoderTinyConfig = arrival.config()?;
            return Ok(Self::Tiny(Box::new(arrival.load(config.init_decoder(&device)?, "decoder.").await?)));
        }
        let config: AutoencoderKlConfig = arrival.config()?;
        Ok(Self::Kl(Box::new(arrival.load(config.init_decoder(&device)?, "").await?)))
    }
}

impl Encoder {
    async fn load(arrival: Arrival, device: Device) -> Result<Self> {
        if arrival.network() == AUTOENCODERS[0] {
            let config: AutoencoderTinyConfig = arrival.config()?;
            return Ok(Self::Tiny(Box::new(arrival.load(config.init_encoder(&device)?, "encoder.").await?)));
        }
        let config: AutoencoderKlConfig = arrival.config()?;
        Ok(Self::Kl(Box::new(arrival.load(config.init_encoder(&device)?, "").await?)))
    }
}

impl Space for LatentSpace {
    fn decode<'a>(&'a self, latents: Tensor<4>, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(self.decode_tiled(latents, self.tile, OVERLAP, pace))
    }

    fn encode<'a>(&'a self, pixels: Tensor<4>, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(async move {
            let pixels = self.pixels.from_ink(pixels);
            let why = "this model takes no pictures in: it has no encoder";
            let encoder = self.encoder.as_ref().ok_or_else(|| Error::Unsupported(why.into()))?;
            let encoder = encoder.get(pace).await?;
            let encode = async |dtype| match &*encoder {
                Encoder::Tiny(net) => net.encode(pixels.clone().cast(dtype), pace).await,
                Encoder::Kl(net) => net.encode(pixels.clone().cast(dtype), pace).await,
            };
            let latents = pace.evaluate(Stage::Autoencoder, encode).await?;
            Ok((latents - self.shift.clone()) * self.scale.clone())
        })
    }
}

impl PixelRange {
    /// Decoded values as ink and cover ([`crate::pixels`]): a model without transparency paints an opaque picture.
    pub fn to_ink(self, decoded: Tensor<4>) -> Tensor<4> {
        match self {
            Self::InkAndCover => decoded,
            Self::Symmetric => {
                let [batch, _, height, width] = decoded.dims();
                let cover = Tensor::full([batch, 1, height, width], 2.0, &decoded.device());
                Tensor::cat(vec![-decoded + 1.0, cover], 1)
            }
        }
    }

    /// What [`PixelRange::to_ink`] was given; a picture with transparency is put on white where the model knows none.
    pub fn from_ink(self, pixels: Tensor<4>) -> Tensor<4> {
        match self {
            Self::InkAndCover => pixels,
            Self::Symmetric => -pixels.narrow(1, 0, 3) + 1.0,
        }
    }
}

/// Where tiles of `tile` cells lie along an axis of `length`, each sharing at least `overlap` cells with the one before.
fn tiles(length: usize, tile: usize, overlap: usize) -> Vec<Range<usize>> {
    if length <= tile {
        return std::iter::once(0..length).collect();
    }
    let count = (length - overlap).div_ceil(tile - overlap);
    (0..count).map(|i| i * (length - tile) / (count - 1)).map(|start| start..start + tile).collect()
}

/// Puts decoded tiles together along `axis`; across the pixels that two share, one fades into the other.
fn stitch(parts: Vec<Tensor<4>>, cells: &[Range<usize>], factor: usize, axis: usize) -> Tensor<4> {
    let mut parts = parts.into_iter().zip(cells);
    let (mut whole, _) = parts.next().expect("at least one tile");
    for (part, cells) in parts {
        let (start, have, length) = (cells.start * factor, whole.dims()[axis], part.dims()[axis]);
        let shared = have - start;
        let ramp: Vec<f32> = (0..shared).map(|i| (i as f32 + 0.5) / shared as f32).collect();
        let mut shape = [1; 4];
        shape[axis] = shared;
        let ramp = Tensor::<4>::from_data(TensorData::new(ramp, shape), &part.device());
        let (before, after) = (whole.clone().narrow(axis, start, shared), part.clone().narrow(axis, 0, shared));
        let faded = before.clone() + (after - before) * ramp;
        whole =
            Tensor::cat(vec![whole.narrow(axis, 0, start), faded, part.narrow(axis, shared, length - shared)], axis);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diffusion::noise::{Noise, Stream},
        weights::source::FolderSource,
    };

    #[test]
    fn tiles_cover_an_axis_and_overlap() {
        for (length, tile, overlap) in [(5, 8, 2), (8, 8, 2), (9, 8, 2), (100, 16, 8), (131, 64, 8)] {
            let tiles = tiles(length, tile, overlap);
            assert_eq!((tiles[0].start, tiles[tiles.len() - 1].end), (0, length));
            for pair in tiles.windows(2) {
                assert!(pair[1].start > pair[0].start && pair[0].end >= pair[1].start + overlap, "{tiles:?}");
            }
        }
    }

    /// The default model's decoder sees about ten cells around it, so that tiles which share eight differ where they fade: by
    /// 1.0e-3 of the range 2 in the mean, measured on noise, where every cell differs from the next.
    #[test]
    fn tiles_show_what_the_whole_shows() {
        let source = FolderSource(format!("{}/www/models/default", env!("CARGO_MANIFEST_DIR")).into());
        let depot = Depot::new(Rc::new(source), None);
        let manifest = Rc::new(pollster::block_on(depot.manifest()).unwrap());
        let config = PipelineConfig::from_json(&manifest.pipeline).unwrap();
        let (pace, device) = (Pace::free(), Device::flex());
        let residency = Residency::new(device.clone(), u64::MAX);
        let space = LatentSpace::new(&config, (&depot, &manifest), &residency).unwrap();
        let latents = Noise::new(1).normal(Stream::Latent, [1, 8, 40, 24], &device);
        let decode = |tile| {
            let decoded = pollster::block_on(space.decode_tiled(latents.clone(), tile, OVERLAP, &pace)).unwrap();
            assert_eq!(decoded.dims(), [1, 4, 320, 192]);
            decoded
        };
        let off = (decode(24) - decode(64)).abs().mean().into_scalar::<f32>();
        assert!(0.0 < off && off < 5e-3, "{off} of 2");
    }

    #[test]
    fn what_agrees_is_stitched_without_a_seam() {
        let device = Device::flex();
        let values: Vec<f32> = (0..40 * 2).map(|i| i as f32).collect();
        let whole = Tensor::<4>::from_data(TensorData::new(values.clone(), [1, 1, 2, 40]), &device);
        let cells = tiles(20, 8, 3);
        let parts = cells.iter().map(|cells| whole.clone().narrow(3, cells.start * 2, cells.len() * 2)).collect();
        let stitched = stitch(parts, &cells, 2, 3);
        assert_eq!(stitched.into_data().try_to_vec::<f32>().unwrap(), values);
    }
}
