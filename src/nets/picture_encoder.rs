//! The encoder that the variation model reads a picture with: what the text encoder is to words. This project's own.
//!
//! Strided 3x3 convolutions with a residual block after each, down to a grid of 4x4 for a picture of 64x64; every cell
//! becomes a token, and their mean the pooled vector. "No picture" is not a picture: it is zeros in place of both.

use super::{
    Pace,
    kernels::{convolve, normalize},
    layers::{Conv2d, Linear},
    now,
    unet::{conv3x3, invalid, zero_conv},
};
use crate::{Error, Result};
use burn::{
    module::Module,
    nn::{GroupNorm, GroupNormConfig, LinearConfig, conv::Conv2dConfig},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

/// Configuration of a [`PictureEncoder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PictureEncoderConfig {
    /// Channels of the picture: ink and cover.
    pub in_channels: usize,
    /// Side of the pictures it was trained on, in pixels.
    pub sample_size: usize,
    /// Width of each level; each halves the picture.
    pub block_out_channels: Vec<usize>,
    /// Groups of every group normalization.
    pub norm_num_groups: usize,
    /// Features of a token, and of the pooled vector.
    pub projection_dim: usize,
}

impl Default for PictureEncoderConfig {
    /// The variation model's: 1.57 M parameters.
    fn default() -> Self {
        Self {
            in_channels: 4,
            sample_size: 64,
            block_out_channels: vec![32, 64, 128, 192],
            norm_num_groups: 32,
            projection_dim: 512,
        }
    }
}

impl PictureEncoderConfig {
    /// A network with PyTorch-like random parameters, allocated when first used.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that do not fit together.
    pub fn init(&self, device: &Device) -> Result<PictureEncoder> {
        self.validate()?;
        let norm = |channels| GroupNormConfig::new(self.norm_num_groups, channels).init(device);
        let inputs = std::iter::once(&self.in_channels).chain(&self.block_out_channels);
        let levels = inputs.zip(&self.block_out_channels).map(|(&input, &width)| Level {
            down: conv3x3(input, width, 2, device),
            norm1: norm(width),
            conv1: conv3x3(width, width, 1, device),
            norm2: norm(width),
            conv2: conv3x3(width, width, 1, device),
        });
        let last = self.block_out_channels[self.block_out_channels.len() - 1];
        Ok(PictureEncoder {
            levels: levels.collect(),
            norm_out: norm(last),
            to_tokens: Conv2dConfig::new([last, self.projection_dim], [1, 1]).init(device).into(),
            to_pooled: LinearConfig::new(last, self.projection_dim).init(device).into(),
            config: self.clone(),
        })
    }

    /// A network to be trained from scratch: [`PictureEncoderConfig::init`], every residual branch beginning as nothing.
    ///
    /// # Errors
    /// As [`PictureEncoderConfig::init`].
    pub fn init_for_training(&self, device: &Device) -> Result<PictureEncoder> {
        let mut network = self.init(device)?;
        network.levels.iter_mut().for_each(|level| zero_conv(&mut level.conv2, device));
        Ok(network)
    }

    fn validate(&self) -> Result<()> {
        // The upper bounds are far above what is sensible; they keep a hostile file from exhausting the memory.
        let fits = |value: &usize| (1..=1 << 14).contains(value);
        let divides = |width: &usize| width.is_multiple_of(self.norm_num_groups);
        let numbers =
            [self.in_channels, self.sample_size.saturating_mul(16), self.norm_num_groups, self.projection_dim];
        let widths = &self.block_out_channels;
        if !(1..=8).contains(&widths.len()) || !numbers.iter().chain(widths).all(fits) || !widths.iter().all(divides) {
            return invalid("picture encoder config", format!("{self:?} does not fit together"));
        }
        Ok(())
    }
}

/// Half the size, and a residual block there.
#[derive(Module, Debug)]
struct Level {
    down: Conv2d,
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
}

impl Level {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = convolve(&self.down, x);
        let h = convolve(&self.conv1, normalize(&self.norm1, x.clone(), None, true));
        convolve(&self.conv2, normalize(&self.norm2, h, None, true)) + x
    }
}

/// What a picture says, as a UNet is conditioned on it.
#[derive(Debug, Clone)]
pub struct PictureEmbedding {
    /// `[batch, tokens, projection_dim]`, the grid's cells row by row.
    pub tokens: Tensor<3>,
    /// `[batch, projection_dim]`.
    pub pooled: Tensor<2>,
}

impl PictureEmbedding {
    /// What stands for no picture: zeros in the same shapes. One in ten of the training samples had these.
    pub fn none(&self) -> Self {
        Self { tokens: self.tokens.zeros_like(), pooled: self.pooled.zeros_like() }
    }
}

/// Pictures to tokens and a vector.
#[derive(Module, Debug)]
pub struct PictureEncoder {
    levels: Vec<Level>,
    norm_out: GroupNorm,
    to_tokens: Conv2d,
    to_pooled: Linear,
    #[module(skip)]
    config: PictureEncoderConfig,
}

impl PictureEncoder {
    /// The configuration it was made from.
    pub fn config(&self) -> &PictureEncoderConfig {
        &self.config
    }

    /// Encodes `pictures` `[batch, in_channels, height, width]` of ink and cover. There is a token for each cell of the
    /// last level's grid: 16 for 64x64.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Invalid`] for pictures of other channels, or without pixels.
    pub async fn encode(&self, pictures: Tensor<4>, pace: &Pace) -> Result<PictureEmbedding> {
        let [batch, channels, height, width] = pictures.dims();
        if channels != self.config.in_channels || batch * height * width == 0 {
            let why =
                format!("has shape {:?}, the encoder needs {} channels", pictures.dims(), self.config.in_channels);
            return Err(Error::Invalid { parameter: "picture", why });
        }
        let mut h = pictures;
        for (index, level) in self.levels.iter().enumerate() {
            h = level.forward(h);
            pace.checkpoint(index + 1, self.levels.len(), &h).await?;
        }
        let h = normalize(&self.norm_out, h, None, true);
        Ok(PictureEmbedding {
            tokens: convolve(&self.to_tokens, h.clone()).flatten::<3>(2, 3).swap_dims(1, 2),
            pooled: self.to_pooled.forward(h.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)),
        })
    }

    /// [`PictureEncoder::encode`] at once, for training.
    ///
    /// # Errors
    /// As [`PictureEncoder::encode`].
    pub fn encode_now(&self, pictures: Tensor<4>) -> Result<PictureEmbedding> {
        now(self.encode(pictures, &Pace::free()))
    }
}
