//! `AutoencoderKL`: the variational autoencoder of Stable Diffusion, with diffusers' layout and tensor names.
//!
//! Images are `[batch, 3, height, width]`, black to white in `[-1, 1]`. Latents are raw, as diffusers' `encode` and
//! `decode` have them; `(z - shift_factor) * scaling_factor` is what a diffusion model sees, and the pipeline's affair.

use super::{
    Pace,
    kernels::{attend, convolve, normalize},
    layers::{Conv2d, Linear},
    now,
};
use crate::{Error, Result};
use burn::{
    module::Module,
    nn::{
        GroupNorm, GroupNormConfig, LinearConfig, PaddingConfig2d,
        conv::Conv2dConfig,
        interpolate::{Interpolate2d, Interpolate2dConfig},
    },
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

const EPSILON: f64 = 1e-6;

/// Configuration of a [`KlEncoder`] and its [`KlDecoder`], with diffusers' fields and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoencoderKlConfig {
    /// Channels of the image to encode.
    pub in_channels: usize,
    /// Channels of the decoded image.
    pub out_channels: usize,
    /// Kinds of the encoder's levels; only `DownEncoderBlock2D`.
    pub down_block_types: Vec<String>,
    /// Kinds of the decoder's levels; only `UpDecoderBlock2D`.
    pub up_block_types: Vec<String>,
    /// Widths of the levels, from the image's resolution down.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of an encoder level; a decoder level has one more.
    pub layers_per_block: usize,
    /// Activation; only `"silu"`.
    pub act_fn: String,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of every normalization.
    pub norm_num_groups: usize,
    /// Factor that brings raw latents to unit variance (for the pipeline; not applied here).
    pub scaling_factor: f64,
    /// Mean of raw latents, if it is not 0 (for the pipeline; not applied here).
    pub shift_factor: Option<f64>,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle blocks attend over all positions.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKlConfig {
    /// Stable Diffusion 1.x: f8, 4 latent channels, 84 M parameters.
    pub fn sd15() -> Self {
        Self {
            down_block_types: vec!["DownEncoderBlock2D".into(); 4],
            up_block_types: vec!["UpDecoderBlock2D".into(); 4],
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            ..Self::default()
        }
    }

    /// SDXL, and PanGu-Draw V3: as SD 1.x but for the latent's scale.
    pub fn sdxl() -> Self {
        Self { scaling_factor: 0.13025, ..Self::sd15() }
    }

    /// Pixels per latent cell along one axis.
    pub fn downscale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Initializes the encoder.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the configuration contradicts itself or asks for blocks this engine does not know.
    pub fn init_encoder(&self, device: &Device) -> Result<KlEncoder> {
        self.check()?;
        let widths = &self.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let moments = 2 * self.latent_channels;
        let level = |(i, &width): (usize, &usize)| Level {
            resnets: self.resnets(if i == 0 { first } else { widths[i - 1] }, width, self.layers_per_block, device),
            // The reference pads right and bottom only.
            downsamplers: (i + 1 < widths.len())
                .then(|| Downsample {
                    conv: Conv2dConfig::new([width, width], [3, 3])
                        .with_stride([2, 2])
                        .with_padding(PaddingConfig2d::Explicit(0, 0, 1, 1))
                        .init(device)
                        .into(),
                })
                .into_iter()
                .collect(),
            upsamplers: Vec::new(),
        };
        Ok(KlEncoder {
            encoder: Encoder {
                conv_in: conv3x3(self.in_channels, first, device),
                down_blocks: widths.iter().enumerate().map(level).collect(),
                mid_block: self.middle(last, device),
                conv_norm_out: self.norm(last, device),
                conv_out: conv3x3(last, moments, device),
            },
            quant_conv: self.use_quant_conv.then(|| Conv2dConfig::new([moments, moments], [1, 1]).init(device).into()),
        })
    }

    /// Initializes the decoder.
    ///
    /// # Errors
    /// As [`AutoencoderKlConfig::init_encoder`].
    pub fn init_decoder(&self, device: &Device) -> Result<KlDecoder> {
        self.check()?;
        let widths: Vec<usize> = self.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let latent = self.latent_channels;
        let level = |(i, &width): (usize, &usize)| Level {
            resnets: self.resnets(if i == 0 { first } else { widths[i - 1] }, width, self.layers_per_block + 1, device),
            downsamplers: Vec::new(),
            upsamplers: (i + 1 < widths.len())
                .then(|| Upsample {
                    nearest: Interpolate2dConfig::new().with_scale_factor(Some([2.0, 2.0])).init(),
                    conv: conv3x3(width, width, device),
                })
                .into_iter()
                .collect(),
        };
        Ok(KlDecoder {
            post_quant_conv: self
                .use_post_quant_conv
                .then(|| Conv2dConfig::new([latent, latent], [1, 1]).init(device).into()),
            decoder: Decoder {
                conv_in: conv3x3(latent, first, device),
                mid_block: self.middle(first, device),
                up_blocks: widths.iter().enumerate().map(level).collect(),
                conv_norm_out: self.norm(last, device),
                conv_out: conv3x3(last, self.out_channels, device),
            },
        })
    }

    fn check(&self) -> Result<()> {
        let widths = &self.block_out_channels;
        let of_kind = |types: &[String], kind| types.len() == widths.len() && types.iter().all(|name| name == kind);
        let wrong = if widths.is_empty() {
            "block_out_channels is empty"
        } else if !of_kind(&self.down_block_types, "DownEncoderBlock2D") {
            "down_block_types must be DownEncoderBlock2D, one a level"
        } else if !of_kind(&self.up_block_types, "UpDecoderBlock2D") {
            "up_block_types must be UpDecoderBlock2D, one a level"
        } else if self.act_fn != "silu" {
            "act_fn must be silu"
        } else if [self.in_channels, self.out_channels, self.latent_channels, self.layers_per_block].contains(&0) {
            "channels and layers_per_block must not be 0"
        } else if self.norm_num_groups == 0
            || widths.iter().any(|&width| width == 0 || !width.is_multiple_of(self.norm_num_groups))
        {
            "block_out_channels must be multiples of norm_num_groups"
        } else {
            return Ok(());
        };
        Err(Error::Unsupported(format!("AutoencoderKL: {wrong}")))
    }

    fn norm(&self, channels: usize, device: &Device) -> GroupNorm {
        GroupNormConfig::new(self.norm_num_groups, channels).with_epsilon(EPSILON).init(device)
    }

    fn resnets(&self, input: usize, output: usize, count: usize, device: &Device) -> Vec<ResnetBlock> {
        let resnet = |input| ResnetBlock {
            norm1: self.norm(input, device),
            conv1: conv3x3(input, output, device),
            norm2: self.norm(output, device),
            conv2: conv3x3(output, output, device),
            conv_shortcut: (input != output).then(|| Conv2dConfig::new([input, output], [1, 1]).init(device).into()),
        };
        (0..count).map(|i| resnet(if i == 0 { input } else { output })).collect()
    }

    fn middle(&self, width: usize, device: &Device) -> Middle {
        let linear = || LinearConfig::new(width, width).init(device).into();
        let attention = self.mid_block_add_attention.then(|| Attention {
            group_norm: self.norm(width, device),
            to_q: linear(),
            to_k: linear(),
            to_v: linear(),
            to_out_0: linear(),
        });
        Middle { resnets: self.resnets(width, width, 2, device), attentions: attention.into_iter().collect() }
    }
}

fn conv3x3(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device).into()
}

/// diffusers' `ResnetBlock2D` without a time embedding: norm, SiLU, convolution, twice, plus the input.
#[derive(Module, Debug)]
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = convolve(&self.conv1, normalize(&self.norm1, x.clone(), None, true));
        let h = convolve(&self.conv2, normalize(&self.norm2, h, None, true));
        h + match &self.conv_shortcut {
            Some(shortcut) => convolve(shortcut, x),
            None => x,
        }
    }
}

/// Single-head self-attention over all positions, plus the input (diffusers' `Attention` as its middle block makes it).
#[derive(Module, Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out_0: Linear,
}

impl Attention {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let positions = height * width;
        let h =
            normalize(&self.group_norm, x.clone(), None, false).reshape([batch, channels, positions]).swap_dims(1, 2);
        let head = |projection: &Linear| projection.forward(h.clone()).reshape([batch, 1, positions, channels]);
        let h = attend(head(&self.to_q), head(&self.to_k), head(&self.to_v));
        let h = self.to_out_0.forward(h.reshape([batch, positions, channels]));
        h.swap_dims(1, 2).reshape([batch, channels, height, width]) + x
    }
}

/// diffusers' `UNetMidBlock2D`: a residual block, attention, a residual block.
#[derive(Module, Debug)]
struct Middle {
    attentions: Vec<Attention>,
    resnets: Vec<ResnetBlock>,
}

/// diffusers' `Downsample2D`.
#[derive(Module, Debug)]
struct Downsample {
    conv: Conv2d,
}

/// diffusers' `Upsample2D`.
#[derive(Module, Debug)]
struct Upsample {
    nearest: Interpolate2d,
    conv: Conv2d,
}

/// diffusers' `DownEncoderBlock2D` or `UpDecoderBlock2D`.
#[derive(Module, Debug)]
struct Level {
    resnets: Vec<ResnetBlock>,
    downsamplers: Vec<Downsample>,
    upsamplers: Vec<Upsample>,
}

/// One evaluation's progress: a checkpoint after each residual block or resampling.
struct Run<'a> {
    pace: &'a Pace,
    done: usize,
    of: usize,
}

impl<'a> Run<'a> {
    fn new(levels: &[Level], middle: &Middle, pace: &'a Pace) -> Self {
        let units = |level: &Level| level.resnets.len() + level.downsamplers.len() + level.upsamplers.len();
        let of = levels.iter().map(units).sum::<usize>() + middle.resnets.len() + middle.attentions.len();
        Self { pace, done: 0, of }
    }

    async fn passed(&mut self, x: &Tensor<4>) -> Result<()> {
        self.done += 1;
        self.pace.checkpoint(self.done, self.of, x).await
    }

    async fn levels(&mut self, levels: &[Level], mut x: Tensor<4>) -> Result<Tensor<4>> {
        for level in levels {
            for resnet in &level.resnets {
                x = resnet.forward(x);
                self.passed(&x).await?;
            }
            for downsample in &level.downsamplers {
                x = convolve(&downsample.conv, x);
                self.passed(&x).await?;
            }
            for upsample in &level.upsamplers {
                x = convolve(&upsample.conv, upsample.nearest.forward(x));
                self.passed(&x).await?;
            }
        }
        Ok(x)
    }

    async fn middle(&mut self, middle: &Middle, mut x: Tensor<4>) -> Result<Tensor<4>> {
        for (i, resnet) in middle.resnets.iter().enumerate() {
            x = resnet.forward(x);
            self.passed(&x).await?;
            if let Some(attention) = middle.attentions.get(i) {
                x = attention.forward(x);
                self.passed(&x).await?;
            }
        }
        Ok(x)
    }
}

/// The tensors under `encoder.`.
#[derive(Module, Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<Level>,
    mid_block: Middle,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The tensors under `decoder.`.
#[derive(Module, Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: Middle,
    up_blocks: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// Pixels to latents: the tensors `encoder.*` and `quant_conv.*` of diffusers' `AutoencoderKL`.
#[derive(Module, Debug)]
pub struct KlEncoder {
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
}

impl KlEncoder {
    /// Mean of the latent's distribution, `[batch, latent_channels, height / f, width / f]`, for `images`
    /// `[batch, in_channels, height, width]`, `f` being [`AutoencoderKlConfig::downscale`].
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub async fn encode(&self, images: Tensor<4>, pace: &Pace) -> Result<Tensor<4>> {
        let Encoder { conv_in, down_blocks, mid_block, conv_norm_out, conv_out } = &self.encoder;
        let mut run = Run::new(down_blocks, mid_block, pace);
        let x = run.levels(down_blocks, convolve(conv_in, images)).await?;
        let x = run.middle(mid_block, x).await?;
        let moments = convolve(conv_out, normalize(conv_norm_out, x, None, true));
        let moments = match &self.quant_conv {
            Some(conv) => conv.forward(moments),
            None => moments,
        };
        // The second half is the logarithm of the variance.
        let channels = moments.dims()[1];
        Ok(moments.narrow(1, 0, channels / 2))
    }

    /// [`KlEncoder::encode`] at once.
    ///
    /// # Errors
    /// As [`KlEncoder::encode`].
    pub fn encode_now(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        now(self.encode(images, &Pace::free()))
    }
}

/// Latents to pixels: the tensors `post_quant_conv.*` and `decoder.*` of diffusers' `AutoencoderKL`.
#[derive(Module, Debug)]
pub struct KlDecoder {
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
}

impl KlDecoder {
    /// Decodes `latents` `[batch, latent_channels, height / f, width / f]` into images
    /// `[batch, out_channels, height, width]`, not clamped to `[-1, 1]`.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub async fn decode(&self, latents: Tensor<4>, pace: &Pace) -> Result<Tensor<4>> {
        let Decoder { conv_in, mid_block, up_blocks, conv_norm_out, conv_out } = &self.decoder;
        let mut run = Run::new(up_blocks, mid_block, pace);
        let z = match &self.post_quant_conv {
            Some(conv) => conv.forward(latents),
            None => latents,
        };
        let x = run.middle(mid_block, convolve(conv_in, z)).await?;
        let x = run.levels(up_blocks, x).await?;
        Ok(convolve(conv_out, normalize(conv_norm_out, x, None, true)))
    }

    /// [`KlDecoder::decode`] at once.
    ///
    /// # Errors
    /// As [`KlDecoder::decode`].
    pub fn decode_now(&self, latents: Tensor<4>) -> Result<Tensor<4>> {
        now(self.decode(latents, &Pace::free()))
    }
}
