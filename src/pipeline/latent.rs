//! A model's latent space: its autoencoder, whatever kind it is of, between latents and ink and cover.

use super::{
    components::Components,
    config::{ImageConfig, LatentConfig, PixelRange},
};
use crate::{
    Error, Result,
    coop::Space,
    diffusion::Denoising,
    nets::{
        Pace,
        autoencoder_kl::{AutoencoderKlConfig, KlDecoder, KlEncoder},
        autoencoder_tiny::{AutoencoderTinyConfig, TinyDecoder, TinyEncoder},
    },
    weights,
};
use burn::tensor::{Device, Tensor, TensorData};
use std::{cell::OnceCell, ops::Range};

/// A latent space's way to pixels and back. The encoder comes when something needs it.
pub struct LatentSpace {
    decoder: Decoder,
    encoder: OnceCell<Encoder>,
    /// `[1, channels or 1, 1, 1]`.
    shift: Tensor<4>,
    scale: Tensor<4>,
    pixels: PixelRange,
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
    /// Loads the decoder.
    ///
    /// # Errors
    /// As [`weights::load`]; [`Error::Unsupported`] for a network this engine does not know.
    pub fn load(components: &Components, config: &LatentConfig, image: &ImageConfig, device: &Device) -> Result<Self> {
        let (file, network) = components.find(&config.decoder, &AUTOENCODERS)?;
        let decoder = if network == AUTOENCODERS[0] {
            let config: AutoencoderTinyConfig = file.config()?;
            Decoder::Tiny(Box::new(weights::load(config.init_decoder(device)?, file, "decoder.")?))
        } else {
            let config: AutoencoderKlConfig = file.config()?;
            Decoder::Kl(Box::new(weights::load(config.init_decoder(device)?, file, "")?))
        };
        let per_channel =
            |values: &[f32]| Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len(), 1, 1]), device);
        Ok(Self {
            decoder,
            encoder: OnceCell::new(),
            shift: per_channel(&config.shift),
            scale: per_channel(&config.scale),
            pixels: config.pixels,
            factor: config.factor,
            tile: TILE.max(image.width.max(image.height) / config.factor),
        })
    }

    /// Whether the encoder is here.
    pub fn encodes(&self) -> bool {
        self.encoder.get().is_some()
    }

    /// Loads the encoder, unless it is here.
    ///
    /// # Errors
    /// As [`LatentSpace::load`]; [`Error::Unsupported`] if the model has none.
    pub fn load_encoder(&self, components: &Components, role: &str, device: &Device) -> Result<()> {
        if self.encodes() {
            return Ok(());
        }
        let (file, network) = components.find(role, &AUTOENCODERS)?;
        let encoder = if network == AUTOENCODERS[0] {
            let config: AutoencoderTinyConfig = file.config()?;
            Encoder::Tiny(Box::new(weights::load(config.init_encoder(device)?, file, "encoder.")?))
        } else {
            let config: AutoencoderKlConfig = file.config()?;
            Encoder::Kl(Box::new(weights::load(config.init_encoder(device)?, file, "")?))
        };
        let _ = self.encoder.set(encoder);
        Ok(())
    }

    async fn decode_tile(&self, latents: Tensor<4>, pace: &Pace) -> Result<Tensor<4>> {
        let latents = latents / self.scale.clone() + self.shift.clone();
        let decoded = match &self.decoder {
            Decoder::Tiny(net) => net.decode(latents, pace).await?,
            Decoder::Kl(net) => net.decode(latents, pace).await?,
        };
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

impl Space for LatentSpace {
    fn decode<'a>(&'a self, latents: Tensor<4>, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(self.decode_tiled(latents, self.tile, OVERLAP, pace))
    }

    fn encode<'a>(&'a self, pixels: Tensor<4>, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(async move {
            let pixels = self.pixels.from_ink(pixels);
            let latents = match self.encoder.get() {
                Some(Encoder::Tiny(net)) => net.encode(pixels, pace).await?,
                Some(Encoder::Kl(net)) => net.encode(pixels, pace).await?,
                None => return Err(Error::Unsupported("the encoder was not loaded; call Generator::prepare".into())),
            };
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
    use super::{
        super::{components::Tally, config::PipelineConfig},
        *,
    };
    use crate::{
        diffusion::noise::{Noise, Stream},
        weights::{manifest::Manifest, source::FolderSource},
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
        let manifest = pollster::block_on(Manifest::load(&source)).unwrap();
        let config = PipelineConfig::from_json(&manifest.pipeline).unwrap();
        let mut ignored = |_| {};
        let mut tally = Tally { loaded_bytes: 0, total_bytes: 1, on_progress: &mut ignored };
        let (pace, device) = (Pace::free(), Device::flex());
        let load = Components::load(&source, &manifest, &["decoder"], &pace, &mut tally);
        let components = pollster::block_on(load).unwrap();
        let space = LatentSpace::load(&components, &config.latent, &config.image, &device).unwrap();
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
