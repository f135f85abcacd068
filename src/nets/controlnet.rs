//! ControlNet (Zhang et al. 2023): a copy of the UNet's way down that reads an image beside the latent and steers the UNet
//! by what it adds to its skips. diffusers' `ControlNetModel`; field names are its tensor names.
//!
//! Read from top to bottom: configuration, initialization, forward.

use super::{
    Pace,
    blocks::{Block, TimestepEmbedding},
    kernels::convolve,
    layers::Conv2d,
    unet::{
        Contracting, Depth, Descent, Inputs, Residuals, Steps, UNetConfig, conv3x3, invalid, zero_branches, zero_conv,
    },
};
use crate::{Error, Result};
use burn::{
    module::Module,
    nn::conv::Conv2dConfig,
    tensor::{Device, Tensor, activation::silu},
};
use serde::{Deserialize, Serialize};

// ---------------------------------------------------------------------------------------------------------------------
// Configuration

/// Configuration of a [`ControlNet`]: the fields of a diffusers ControlNet's `config.json`, with the same names and
/// defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlNetConfig {
    /// Channels of the image that it reads.
    pub conditioning_channels: usize,
    /// Widths of the image's embedding, from its own resolution down; each after the first halves it.
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// Order of the image's channels: `rgb`.
    pub controlnet_conditioning_channel_order: String,
    /// Whether residuals are averaged over the picture: false.
    pub global_pool_conditions: bool,
    /// What it has in common with its UNet. The way up is not used.
    #[serde(flatten)]
    pub unet: UNetConfig,
}

impl Default for ControlNetConfig {
    fn default() -> Self {
        Self {
            conditioning_channels: 3,
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            controlnet_conditioning_channel_order: "rgb".into(),
            global_pool_conditions: false,
            unet: UNetConfig::default(),
        }
    }
}

impl ControlNetConfig {
    /// The ControlNet of the sketch model: an outline, one channel, at eight times the latent's side.
    pub fn sketch() -> Self {
        Self {
            conditioning_channels: 1,
            conditioning_embedding_out_channels: vec![8, 16, 32, 96],
            unet: UNetConfig::sketch(),
            ..Self::default()
        }
    }

    /// Pixels of the image per latent cell along one axis.
    pub fn downscale(&self) -> usize {
        1 << (self.conditioning_embedding_out_channels.len() - 1)
    }

    /// The UNet that it is a copy of, as far as it is one: a way up like the way down.
    fn mirrored(&self) -> UNetConfig {
        let up = self.unet.down_block_types.iter().rev().map(|name| name.replace("Down", "Up")).collect();
        UNetConfig { up_block_types: up, ..self.unet.clone() }
    }

    /// Checks that this network implements the configuration.
    ///
    /// # Errors
    /// As [`UNetConfig::validate`].
    pub fn validate(&self) -> Result<()> {
        self.mirrored().validate()?;
        if self.controlnet_conditioning_channel_order != "rgb" || self.global_pool_conditions {
            return Err(Error::Unsupported("a ControlNet of bgr images, or with global_pool_conditions".into()));
        }
        // The upper bounds are far above any known model; they keep a hostile file from exhausting the memory.
        let widths = &self.conditioning_embedding_out_channels;
        let sane = |width: &usize| (1..=1 << 16).contains(width);
        if !(1..=8).contains(&widths.len()) || !widths.iter().chain([&self.conditioning_channels]).all(sane) {
            let why = format!("{} channels embedded in {widths:?}", self.conditioning_channels);
            return invalid("controlnet config", why);
        }
        Ok(())
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Initialization

    /// A network with PyTorch-like random parameters, allocated when first used.
    ///
    /// # Errors
    /// Those of [`ControlNetConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<ControlNet> {
        self.validate()?;
        let unet = self.mirrored();
        let Contracting { conv_in, time_embedding, add_embedding, down_blocks, mid_block } =
            unet.init_contracting(device);
        let conv1x1 = |channels: usize| Conv2dConfig::new([channels, channels], [1, 1]).init(device).into();
        let channels = &unet.block_out_channels;
        let levels = down_blocks.iter().zip(channels).flat_map(|(block, &channels)| {
            std::iter::repeat_n(channels, block.resnets.len() + block.downsamplers.len())
        });
        let widths = &self.conditioning_embedding_out_channels;
        let blocks = widths
            .windows(2)
            .flat_map(|pair| [conv3x3(pair[0], pair[0], 1, device), conv3x3(pair[0], pair[1], 2, device)]);
        Ok(ControlNet {
            controlnet_cond_embedding: ConditioningEmbedding {
                conv_in: conv3x3(self.conditioning_channels, widths[0], 1, device),
                blocks: blocks.collect(),
                conv_out: conv3x3(widths[widths.len() - 1], channels[0], 1, device),
            },
            controlnet_down_blocks: std::iter::once(channels[0]).chain(levels).map(conv1x1).collect(),
            controlnet_mid_block: conv1x1(channels[channels.len() - 1]),
            conv_in,
            time_embedding,
            add_embedding,
            down_blocks,
            mid_block,
            config: Self { unet, ..self.clone() },
        })
    }

    /// A network to be trained from scratch: the last layer of every residual branch, of the image's embedding and of
    /// every output is zero, so that it begins by adding nothing.
    ///
    /// # Errors
    /// Those of [`ControlNetConfig::validate`].
    pub fn init_for_training(&self, device: &Device) -> Result<ControlNet> {
        let mut network = self.init(device)?;
        zero_conv(&mut network.controlnet_cond_embedding.conv_out, device);
        let outputs = network.controlnet_down_blocks.iter_mut().chain([&mut network.controlnet_mid_block]);
        outputs.for_each(|conv| zero_conv(conv, device));
        network.down_blocks.iter_mut().chain([&mut network.mid_block]).for_each(|block| zero_branches(block, device));
        Ok(network)
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

/// diffusers' `ControlNetConditioningEmbedding`: convolutions with SiLU between, half of them with stride 2.
#[derive(Module, Debug)]
struct ConditioningEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl ConditioningEmbedding {
    fn forward(&self, image: Tensor<4>) -> Tensor<4> {
        let activated = |h, conv| silu(convolve(conv, h));
        let h = self.blocks.iter().fold(activated(image, &self.conv_in), activated);
        convolve(&self.conv_out, h)
    }
}

/// diffusers' `ControlNetModel`.
#[derive(Module, Debug)]
pub struct ControlNet {
    controlnet_cond_embedding: ConditioningEmbedding,
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<Block>,
    controlnet_down_blocks: Vec<Conv2d>,
    mid_block: Block,
    controlnet_mid_block: Conv2d,
    #[module(skip)]
    config: ControlNetConfig,
}

impl ControlNet {
    /// The configuration it was made from.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// Evaluates the network, offering `pace` a checkpoint after each of its [`ControlNet::units`]. What it answers goes
    /// to [`UNet::forward_controlled`](super::unet::UNet::forward_controlled) with the same sample, timesteps and
    /// condition.
    ///
    /// # Shapes
    /// - `sample`, `timesteps`, `encoder_hidden_states`, `vector`: as [`UNet::forward`](super::unet::UNet::forward)
    /// - `image`: `[batch, conditioning_channels, f height, f width]`, values in `[0, 1]`, `f` being
    ///   [`ControlNetConfig::downscale`]
    ///
    /// # Errors
    /// [`Error::Cancelled`], or [`Error::Invalid`] if a shape does not fit the configuration.
    pub async fn forward(
        &self,
        sample: Tensor<4>,
        timesteps: Tensor<1>,
        encoder_hidden_states: Tensor<3>,
        vector: Option<Tensor<2>>,
        image: Tensor<4>,
        pace: &Pace,
    ) -> Result<Residuals> {
        let [batch, _, height, width] = sample.dims();
        let f = self.config.downscale();
        let expected = [batch, self.config.conditioning_channels, height * f, width * f];
        if image.dims() != expected {
            let why = format!("has shape {:?}, the ControlNet needs {expected:?}", image.dims());
            return invalid("control image", why);
        }
        let steps = &mut Steps { pace, done: 0, of: self.units() };
        let hint = self.controlnet_cond_embedding.forward(image);
        steps.step(&hint).await?;
        let descent = Descent {
            conv_in: &self.conv_in,
            time_embedding: &self.time_embedding,
            add_embedding: self.add_embedding.as_ref(),
            down_blocks: &self.down_blocks,
            mid_block: &self.mid_block,
            config: &self.config.unet,
        };
        let inputs = Inputs { sample, timesteps, encoder_hidden_states, vector };
        let Depth { residuals: Residuals { down, mid }, .. } = descent.forward(inputs, Some(hint), steps).await?;
        let down = self.controlnet_down_blocks.iter().zip(down).map(|(conv, h)| convolve(conv, h)).collect();
        Ok(Residuals { down, mid: convolve(&self.controlnet_mid_block, mid) })
    }

    /// Checkpoints in one evaluation: one for the image's embedding and one for each residual block with its attention.
    pub fn units(&self) -> usize {
        1 + self.down_blocks.iter().chain([&self.mid_block]).map(|block| block.resnets.len()).sum::<usize>()
    }
}
