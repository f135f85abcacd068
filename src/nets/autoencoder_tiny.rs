//! `AutoencoderTiny`: the small convolutional autoencoder of TAESD, with diffusers' layout and tensor names.
//!
//! Images are `[batch, 3, height, width]` from black -1 to white 1 for TAESD. This project's own models have four channels,
//! ink `2 alpha (1 - rgb)` and cover `2 alpha`: nothing is 0, so that zero padding continues the paper. Latents are the encoder's raw output, about
//! `[-3, 3]`; shifting and scaling them to what a diffusion model sees is the pipeline's affair.

use super::{
    Pace,
    kernels::{convolve, rectify},
    layers::Conv2d,
    now,
};
use crate::{Error, Result};
use burn::{
    module::Module,
    nn::{
        PaddingConfig2d, Relu,
        conv::Conv2dConfig,
        interpolate::{Interpolate2d, Interpolate2dConfig},
    },
    tensor::{Device, Tensor, activation::tanh},
};
use serde::{Deserialize, Serialize};

/// Configuration of an [`AutoencoderTiny`]: diffusers' fields, and two more whose defaults are diffusers' behaviour.
///
/// Widths may differ from level to level: the convolution between two levels goes from one width to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoencoderTinyConfig {
    /// Channels of the image to encode.
    pub in_channels: usize,
    /// Channels of the decoded image.
    pub out_channels: usize,
    /// Encoder widths, from the image's resolution down.
    pub encoder_block_out_channels: Vec<usize>,
    /// Decoder widths, from the latent's resolution up.
    pub decoder_block_out_channels: Vec<usize>,
    /// Residual blocks of each encoder level.
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks of each decoder level.
    pub num_decoder_blocks: Vec<usize>,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Activation between convolutions; only `"relu"`.
    pub act_fn: String,
    /// Nearest-neighbour upsampling factor between two decoder levels.
    pub upsampling_scaling_factor: usize,
    /// Factor that brings raw latents to unit variance (for the pipeline; not applied here).
    pub scaling_factor: f64,
    /// Mean of raw latents (for the pipeline; not applied here).
    pub shift_factor: f64,
    /// Side of the pixel patches that become channels before the encoder and pixels after the decoder; with more than
    /// 1 nothing runs at the image's full resolution.
    pub patch_size: usize,
    /// Whether pixels in `[-1, 1]` are brought to `[0, 1]` before the encoder and back after the decoder; without it pixel
    /// values go in and come out as they are.
    pub rescale_pixels: bool,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self::taesd()
    }
}

impl AutoencoderTinyConfig {
    /// `madebyollin/taesd` and `taesdxl`: f8, 4 latent channels, 64 channels throughout.
    pub fn taesd() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_channels: 4,
            act_fn: "relu".into(),
            upsampling_scaling_factor: 2,
            scaling_factor: 1.0,
            shift_factor: 0.0,
            patch_size: 1,
            rescale_pixels: true,
        }
    }

    /// The autoencoder of this project's own models: f8, 8 latent channels, 2x2 patches, ink and cover.
    ///
    /// A 128x128 picture costs 0.80 GFLOP to encode and 2.10 GFLOP to decode; 2.06 M parameters.
    pub fn emoji() -> Self {
        Self {
            in_channels: 4,
            out_channels: 4,
            encoder_block_out_channels: vec![32, 64, 128],
            decoder_block_out_channels: vec![128, 96, 48],
            num_encoder_blocks: vec![1, 1, 1],
            num_decoder_blocks: vec![2, 1, 1],
            latent_channels: 8,
            patch_size: 2,
            rescale_pixels: false,
            ..Self::taesd()
        }
    }

    /// The autoencoder that the sketch and the variation model share: as [`AutoencoderTinyConfig::emoji`], with 16 latent
    /// channels and narrower, for pictures of 64x64.
    pub fn sketch() -> Self {
        Self {
            encoder_block_out_channels: vec![32, 64, 96],
            decoder_block_out_channels: vec![96, 64, 48],
            latent_channels: 16,
            ..Self::emoji()
        }
    }

    /// Pixels per latent cell along one axis.
    pub fn downscale(&self) -> usize {
        self.patch_size << (self.encoder_block_out_channels.len() - 1)
    }

    /// Initializes both halves.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the configuration contradicts itself.
    pub fn init(&self, device: &Device) -> Result<AutoencoderTiny> {
        Ok(AutoencoderTiny { encoder: self.init_encoder(device)?, decoder: self.init_decoder(device)? })
    }

    /// Initializes the encoder alone.
    ///
    /// # Errors
    /// As [`AutoencoderTinyConfig::init`].
    pub fn init_encoder(&self, device: &Device) -> Result<TinyEncoder> {
        self.check()?;
        let widths = &self.encoder_block_out_channels;
        let mut layers = Vec::new();
        for (level, (&width, &blocks)) in widths.iter().zip(&self.num_encoder_blocks).enumerate() {
            layers.push(Layer::Conv(match level {
                0 => conv3x3(self.in_channels * self.patch_size.pow(2), width).init(device).into(),
                _ => conv3x3(widths[level - 1], width).with_stride([2, 2]).with_bias(false).init(device).into(),
            }));
            layers.extend((0..blocks).map(|_| Layer::Block(Block::new(width, device))));
        }
        layers.push(Layer::Conv(conv3x3(widths[widths.len() - 1], self.latent_channels).init(device).into()));
        Ok(TinyEncoder { layers, patch_size: self.patch_size, rescale_pixels: self.rescale_pixels })
    }

    /// Initializes the decoder alone.
    ///
    /// # Errors
    /// As [`AutoencoderTinyConfig::init`].
    pub fn init_decoder(&self, device: &Device) -> Result<TinyDecoder> {
        self.check()?;
        let widths = &self.decoder_block_out_channels;
        let mut layers =
            vec![Layer::Conv(conv3x3(self.latent_channels, widths[0]).init(device).into()), Layer::Relu(Relu::new())];
        for (level, (&width, &blocks)) in widths.iter().zip(&self.num_decoder_blocks).enumerate() {
            layers.extend((0..blocks).map(|_| Layer::Block(Block::new(width, device))));
            layers.extend(match widths.get(level + 1) {
                Some(&next) => {
                    let factor = self.upsampling_scaling_factor as f32;
                    let upsample = Interpolate2dConfig::new().with_scale_factor(Some([factor, factor])).init();
                    let conv = conv3x3(width, next).with_bias(false).init(device).into();
                    vec![Layer::Upsample(upsample), Layer::Conv(conv)]
                }
                None => {
                    vec![Layer::Conv(conv3x3(width, self.out_channels * self.patch_size.pow(2)).init(device).into())]
                }
            });
        }
        Ok(TinyDecoder { layers, patch_size: self.patch_size, rescale_pixels: self.rescale_pixels })
    }

    fn check(&self) -> Result<()> {
        let levels = |widths: &[usize], blocks: &[usize]| {
            !widths.is_empty() && widths.len() == blocks.len() && widths.iter().all(|&width| width > 0)
        };
        let wrong = if !levels(&self.encoder_block_out_channels, &self.num_encoder_blocks) {
            "encoder_block_out_channels and num_encoder_blocks must name the same levels"
        } else if !levels(&self.decoder_block_out_channels, &self.num_decoder_blocks) {
            "decoder_block_out_channels and num_decoder_blocks must name the same levels"
        } else if self.act_fn != "relu" {
            "act_fn must be relu"
        } else if [self.in_channels, self.out_channels, self.latent_channels].contains(&0) {
            "channels must not be 0"
        } else if self.patch_size == 0 || self.upsampling_scaling_factor == 0 {
            "patch_size and upsampling_scaling_factor must not be 0"
        } else {
            return Ok(());
        };
        Err(Error::Unsupported(format!("AutoencoderTiny: {wrong}")))
    }
}

fn conv3x3(from: usize, to: usize) -> Conv2dConfig {
    Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
}

/// diffusers' `AutoencoderTinyBlock` of one width: `relu(conv(relu(conv(relu(conv(x))))) + x)`, 3x3 convolutions.
#[derive(Module, Debug)]
struct Block {
    conv_0: Conv2d,
    conv_2: Conv2d,
    conv_4: Conv2d,
}

impl Block {
    fn new(width: usize, device: &Device) -> Self {
        let conv = || conv3x3(width, width).init(device).into();
        Self { conv_0: conv(), conv_2: conv(), conv_4: conv() }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = rectify(convolve(&self.conv_0, x.clone()));
        let y = rectify(convolve(&self.conv_2, y));
        rectify(convolve(&self.conv_4, y) + x)
    }
}

/// A child of PyTorch's `nn.Sequential`; those without parameters count in its numbering too.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // a dozen values in all
enum Layer {
    Conv(Conv2d),
    Block(Block),
    Relu(Relu),
    Upsample(Interpolate2d),
}

async fn sequential(layers: &[Layer], mut x: Tensor<4>, pace: &Pace) -> Result<Tensor<4>> {
    for (done, layer) in layers.iter().enumerate() {
        x = match layer {
            Layer::Conv(conv) => convolve(conv, x),
            Layer::Block(block) => block.forward(x),
            Layer::Relu(_) => rectify(x),
            Layer::Upsample(upsample) => upsample.forward(x),
        };
        pace.checkpoint(done + 1, layers.len(), &x).await?;
    }
    Ok(x)
}

/// Pixels to latents, diffusers' `EncoderTiny`.
#[derive(Module, Debug)]
pub struct TinyEncoder {
    layers: Vec<Layer>,
    patch_size: usize,
    rescale_pixels: bool,
}

impl TinyEncoder {
    /// Encodes `images` `[batch, in_channels, height, width]` into latents
    /// `[batch, latent_channels, height / f, width / f]`, `f` being [`AutoencoderTinyConfig::downscale`].
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Invalid`] if the sides are not multiples of the patch size.
    pub async fn encode(&self, images: Tensor<4>, pace: &Pace) -> Result<Tensor<4>> {
        let [_, _, height, width] = images.dims();
        let patch = self.patch_size;
        if !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
            let why = format!("{width}x{height} is not a multiple of {patch}");
            return Err(Error::Invalid { parameter: "image size", why });
        }
        let pixels = if self.rescale_pixels { (images + 1.0) / 2.0 } else { images };
        sequential(&self.layers, pixel_unshuffle(pixels, patch), pace).await
    }

    /// [`TinyEncoder::encode`] at once, for training.
    ///
    /// # Errors
    /// As [`TinyEncoder::encode`].
    pub fn encode_now(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        now(self.encode(images, &Pace::free()))
    }
}

/// Latents to pixels, diffusers' `DecoderTiny`.
#[derive(Module, Debug)]
pub struct TinyDecoder {
    layers: Vec<Layer>,
    patch_size: usize,
    rescale_pixels: bool,
}

impl TinyDecoder {
    /// Decodes `latents` `[batch, latent_channels, height / f, width / f]` into images
    /// `[batch, out_channels, height, width]`, not clamped to their range.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub async fn decode(&self, latents: Tensor<4>, pace: &Pace) -> Result<Tensor<4>> {
        // The reference keeps latents softly within [-3, 3].
        let y = sequential(&self.layers, tanh(latents / 3.0) * 3.0, pace).await?;
        let pixels = pixel_shuffle(y, self.patch_size);
        Ok(if self.rescale_pixels { pixels * 2.0 - 1.0 } else { pixels })
    }

    /// [`TinyDecoder::decode`] at once, for training.
    ///
    /// # Errors
    /// As [`TinyDecoder::decode`].
    pub fn decode_now(&self, latents: Tensor<4>) -> Result<Tensor<4>> {
        now(self.decode(latents, &Pace::free()))
    }
}

/// Both halves, diffusers' `AutoencoderTiny`.
#[derive(Module, Debug)]
pub struct AutoencoderTiny {
    /// Pixels to latents.
    pub encoder: TinyEncoder,
    /// Latents to pixels.
    pub decoder: TinyDecoder,
}

/// `[batch, c, h * r, w * r]` to `[batch, c * r * r, h, w]`, PyTorch's `pixel_unshuffle`.
fn pixel_unshuffle(x: Tensor<4>, r: usize) -> Tensor<4> {
    if r == 1 {
        return x;
    }
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h / r, r, w / r, r]).permute([0, 1, 3, 5, 2, 4]).reshape([n, c * r * r, h / r, w / r])
}

/// `[batch, c * r * r, h, w]` to `[batch, c, h * r, w * r]`, PyTorch's `pixel_shuffle`.
fn pixel_shuffle(x: Tensor<4>, r: usize) -> Tensor<4> {
    if r == 1 {
        return x;
    }
    let [n, c, h, w] = x.dims();
    x.reshape([n, c / (r * r), r, r, h, w]).permute([0, 1, 4, 2, 5, 3]).reshape([n, c / (r * r), h * r, w * r])
}
