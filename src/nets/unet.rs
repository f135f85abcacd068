//! The denoising UNet of Stable Diffusion, SDXL and PanGu-Draw: diffusers' `UNet2DConditionModel`.
//!
//! Read from top to bottom: configuration, initialization, forward. Field names are diffusers' tensor names.

use super::{
    Pace,
    blocks::{
        Attention, Block, FeedForward, Geglu, Projection, Resampler, ResnetBlock, TimestepEmbedding, Transformer,
        TransformerLayer, upsample,
    },
    kernels::{convolve, normalize},
    layers::Conv2d,
    now,
};
use crate::{Error, Result};
use burn::{
    module::Module,
    nn::{GroupNorm, GroupNormConfig, Initializer, LayerNormConfig, LinearConfig, PaddingConfig2d, conv::Conv2dConfig},
    tensor::{Device, Tensor, activation::silu},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

// ---------------------------------------------------------------------------------------------------------------------
// Configuration

/// A setting that is the same at every resolution level, or given for each (finest level first).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// One value for all levels.
    Same(usize),
    /// One value for each level.
    Each(Vec<usize>),
}

impl PerLevel {
    /// The value at `level`.
    ///
    /// # Panics
    /// If there are fewer levels; [`UNetConfig::validate`] sees to that.
    pub fn at(&self, level: usize) -> usize {
        match self {
            Self::Same(value) => *value,
            Self::Each(values) => values[level],
        }
    }
}

/// Configuration of a [`UNet`]: the fields of a diffusers `unet/config.json`, with the same names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Height and width of the latents it was trained on; informative only.
    pub sample_size: Option<usize>,
    /// Channels of the noisy latent.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether the timestep's sinusoids are ordered `[cos, sin]` (true) or `[sin, cos]`.
    pub flip_sin_to_cos: bool,
    /// Shift of the sinusoids' frequency ladder, see [`timestep_embedding`].
    pub freq_shift: f64,
    /// Kind of each level on the way down, finest first: `DownBlock2D` or `CrossAttnDownBlock2D`.
    pub down_block_types: Vec<String>,
    /// Kind of the middle: `UNetMidBlock2DCrossAttn`.
    pub mid_block_type: String,
    /// Kind of each level on the way up, coarsest first: `UpBlock2D` or `CrossAttnUpBlock2D`.
    pub up_block_types: Vec<String>,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level on the way down; there is one more on the way up.
    pub layers_per_block: PerLevel,
    /// Activation: `silu`, also written `swish`.
    pub act_fn: String,
    /// Groups of every group normalization.
    pub norm_num_groups: usize,
    /// Epsilon of the residual blocks' group normalizations.
    pub norm_eps: f64,
    /// Features of each token of the encoded prompt.
    pub cross_attention_dim: usize,
    /// Transformer layers in each attention unit.
    pub transformer_layers_per_block: PerLevel,
    /// In spite of its name the number of attention *heads*, unless `num_attention_heads` is given.
    pub attention_head_dim: PerLevel,
    /// Number of attention heads, where a configuration has it.
    pub num_attention_heads: Option<PerLevel>,
    /// Whether attention units enter and leave through linear layers rather than 1x1 convolutions.
    pub use_linear_projection: bool,
    /// `text_time` for a network with a vector condition, else nothing.
    pub addition_embed_type: Option<String>,
    /// Sinusoids for each of SDXL's time ids (or PanGu's bucket index) within the vector condition; informative only.
    pub addition_time_embed_dim: Option<usize>,
    /// Features of the vector condition.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// How the time embedding enters a residual block: `default` adds it, `scale_shift` modulates the second norm.
    pub resnet_time_scale_shift: String,
    /// Every other field of the file. Those that choose a variant must choose the common one, see
    /// [`UNetConfig::validate`].
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Settings of diffusers' that this network has only one value of (as JSON; null is always allowed).
const FIXED: [(&str, &str); 22] = [
    ("attention_type", "\"default\""),
    ("center_input_sample", "false"),
    ("class_embed_type", "null"),
    ("class_embeddings_concat", "false"),
    ("conv_in_kernel", "3"),
    ("conv_out_kernel", "3"),
    ("cross_attention_norm", "null"),
    ("downsample_padding", "1"),
    ("dual_cross_attention", "false"),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("mid_block_only_cross_attention", "false"),
    ("mid_block_scale_factor", "1"),
    ("num_class_embeds", "null"),
    ("only_cross_attention", "false"),
    ("resnet_out_scale_factor", "1"),
    ("resnet_skip_time_act", "false"),
    ("reverse_transformer_layers_per_block", "null"),
    ("time_cond_proj_dim", "null"),
    ("time_embedding_act_fn", "null"),
    ("time_embedding_type", "\"positional\""),
    ("timestep_post_act", "null"),
];

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: strings(&[
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ]),
            mid_block_type: "UNetMidBlock2DCrossAttn".into(),
            up_block_types: strings(&["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::Same(2),
            act_fn: "silu".into(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            transformer_layers_per_block: PerLevel::Same(1),
            attention_head_dim: PerLevel::Same(8),
            num_attention_heads: None,
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            resnet_time_scale_shift: "default".into(),
            other: BTreeMap::new(),
        }
    }
}

impl UNetConfig {
    /// Stable Diffusion 1.x: 859,520,964 parameters.
    pub fn sd15() -> Self {
        Self { sample_size: Some(64), cross_attention_dim: 768, ..Self::default() }
    }

    /// Stable Diffusion XL base: 2,567,463,684 parameters. The vector condition is the pooled prompt (1280) and
    /// 6 time ids of 256 sinusoids.
    pub fn sdxl() -> Self {
        Self {
            sample_size: Some(128),
            down_block_types: strings(&["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]),
            up_block_types: strings(&["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
            block_out_channels: vec![320, 640, 1280],
            cross_attention_dim: 2048,
            transformer_layers_per_block: PerLevel::Each(vec![1, 2, 10]),
            attention_head_dim: PerLevel::Each(vec![5, 10, 20]),
            use_linear_projection: true,
            addition_embed_type: Some("text_time".into()),
            addition_time_embed_dim: Some(256),
            projection_class_embeddings_input_dim: Some(1280 + 6 * 256),
            ..Self::default()
        }
    }

    /// One expert of PanGu-Draw V3: 2,565,825,284 parameters. SDXL's, but the vector condition is the pooled prompt
    /// (1280) and 256 sinusoids of the index of the size bucket.
    pub fn pangu_draw_v3() -> Self {
        Self { projection_class_embeddings_input_dim: Some(1280 + 256), ..Self::sdxl() }
    }

    /// The small experts this project trains: 8 latent channels, two levels, the vector condition is the pooled
    /// sentence (512).
    pub fn emoji() -> Self {
        Self {
            sample_size: Some(16),
            in_channels: 8,
            out_channels: 8,
            down_block_types: strings(&["DownBlock2D", "CrossAttnDownBlock2D"]),
            up_block_types: strings(&["CrossAttnUpBlock2D", "UpBlock2D"]),
            block_out_channels: vec![64, 192],
            layers_per_block: PerLevel::Same(1),
            cross_attention_dim: 512,
            attention_head_dim: PerLevel::Each(vec![1, 3]),
            use_linear_projection: true,
            addition_embed_type: Some("text_time".into()),
            projection_class_embeddings_input_dim: Some(512),
            resnet_time_scale_shift: "scale_shift".into(),
            ..Self::default()
        }
    }

    /// The network of the sketch and the variation model: as [`UNetConfig::emoji`], for 8x8 latents of 16 channels.
    pub fn sketch() -> Self {
        Self {
            sample_size: Some(8),
            in_channels: 16,
            out_channels: 16,
            block_out_channels: vec![96, 160],
            attention_head_dim: PerLevel::Each(vec![3, 5]),
            ..Self::emoji()
        }
    }

    /// Number of resolution levels.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Features of the vector condition, if the network takes one.
    pub fn vector_dim(&self) -> Option<usize> {
        self.addition_embed_type.as_ref().and(self.projection_class_embeddings_input_dim)
    }

    /// Checks that this network implements the configuration.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a variant of diffusers' network that is not implemented, [`Error::Invalid`] for
    /// numbers that do not fit together.
    pub fn validate(&self) -> Result<()> {
        let unsupported = |field: &str, value: &dyn std::fmt::Debug| {
            Err(Error::Unsupported(format!("a UNet configuration with {field} = {value:?}")))
        };
        for (field, only) in FIXED {
            let value = self.other.get(field).unwrap_or(&Value::Null);
            let only: Value = serde_json::from_str(only).expect("the table holds JSON");
            let same = *value == only || (value.as_f64().is_some() && value.as_f64() == only.as_f64());
            if !value.is_null() && !same {
                return unsupported(field, value);
            }
        }
        for (field, value, known) in [
            ("mid_block_type", Some(&self.mid_block_type), ["UNetMidBlock2DCrossAttn", "UNetMidBlock2DCrossAttn"]),
            ("act_fn", Some(&self.act_fn), ["silu", "swish"]),
            ("addition_embed_type", self.addition_embed_type.as_ref(), ["text_time", "text_time"]),
            ("resnet_time_scale_shift", Some(&self.resnet_time_scale_shift), ["default", "scale_shift"]),
        ] {
            if let Some(value) = value
                && !known.contains(&value.as_str())
            {
                return unsupported(field, value);
            }
        }
        for (field, types, known) in [
            ("down_block_types", &self.down_block_types, ["DownBlock2D", "CrossAttnDownBlock2D"]),
            ("up_block_types", &self.up_block_types, ["UpBlock2D", "CrossAttnUpBlock2D"]),
        ] {
            if let Some(unknown) = types.iter().find(|name| !known.contains(&name.as_str())) {
                return unsupported(field, unknown);
            }
            if types.len() != self.levels() {
                return invalid("unet config", format!("{field} must have {} entries", self.levels()));
            }
        }

        // The upper bounds are far above any known model; they keep a hostile file from exhausting the memory.
        let in_range = |field: &str, value: usize, most: usize| match value {
            value if (1..=most).contains(&value) => Ok(()),
            _ => invalid("unet config", format!("{field} must be 1 to {most}, not {value}")),
        };
        const WIDEST: usize = 1 << 16;
        in_range("number of levels", self.levels(), 16)?;
        in_range("in_channels", self.in_channels, WIDEST)?;
        in_range("out_channels", self.out_channels, WIDEST)?;
        in_range("norm_num_groups", self.norm_num_groups, WIDEST)?;
        in_range("cross_attention_dim", self.cross_attention_dim, WIDEST)?;
        if self.addition_embed_type.is_some() {
            in_range("projection_class_embeddings_input_dim", self.vector_dim().unwrap_or(0), WIDEST)?;
        }
        for (field, setting) in [
            ("layers_per_block", &self.layers_per_block),
            ("transformer_layers_per_block", &self.transformer_layers_per_block),
            ("attention_head_dim", self.heads()),
        ] {
            if let PerLevel::Each(values) = setting
                && values.len() != self.levels()
            {
                return invalid("unet config", format!("{field} must have {} entries", self.levels()));
            }
            for level in 0..self.levels() {
                in_range(field, setting.at(level), 128)?;
            }
        }
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            in_range("block_out_channels", channels, WIDEST)?;
            let heads = if self.attends(level) { self.heads().at(level) } else { 1 };
            for (what, divisor) in [("2", 2), ("norm_num_groups", self.norm_num_groups), ("the heads", heads)] {
                if !channels.is_multiple_of(divisor) {
                    return invalid("unet config", format!("{channels} channels are not a multiple of {what}"));
                }
            }
        }
        Ok(())
    }

    /// Whether any attention runs at `level`; it always does in the middle, at the coarsest.
    fn attends(&self, level: usize) -> bool {
        let last = self.levels() - 1;
        let types = [&self.down_block_types[level], &self.up_block_types[last - level]];
        level == last || types.iter().any(|name| name.starts_with("CrossAttn"))
    }

    fn heads(&self) -> &PerLevel {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim)
    }
}

pub(super) fn invalid<T>(parameter: &'static str, why: String) -> Result<T> {
    Err(Error::Invalid { parameter, why })
}

// ---------------------------------------------------------------------------------------------------------------------
// Initialization

impl UNetConfig {
    /// A network with PyTorch-like random parameters, allocated when first used.
    ///
    /// # Errors
    /// Those of [`UNetConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<UNet> {
        self.validate()?;
        let channels = &self.block_out_channels;
        let (first, last) = (channels[0], self.levels() - 1);
        let Contracting { conv_in, time_embedding, add_embedding, down_blocks, mid_block } =
            self.init_contracting(device);
        let up_blocks = (0..=last).rev().map(|level| {
            // Each skip has its level's width, but the last comes from the level above.
            let below = channels[(level + 1).min(last)];
            let layers = self.layers_per_block.at(level) + 1;
            let resnets = (0..layers)
                .map(|i| {
                    let input = if i == 0 { below } else { channels[level] };
                    let skip = if i == layers - 1 { channels[level.saturating_sub(1)] } else { channels[level] };
                    (input + skip, channels[level])
                })
                .collect::<Vec<_>>();
            let attentions = if is_attended(&self.up_block_types[last - level]) { layers } else { 0 };
            Block {
                upsamplers: resampler(level > 0, channels[level], 1, device),
                ..self.init_block(level, resnets, attentions, device)
            }
        });
        Ok(UNet {
            conv_in,
            time_embedding,
            add_embedding,
            down_blocks,
            mid_block,
            up_blocks: up_blocks.collect(),
            conv_norm_out: self.norm(first, self.norm_eps, device),
            conv_out: conv3x3(first, self.out_channels, 1, device),
            config: self.clone(),
        })
    }

    /// A network to be trained from scratch: [`UNetConfig::init`], but the last layer of every residual branch and
    /// the output are zero, so that training starts from the identity (Goyal et al. 2017; Dhariwal & Nichol 2021).
    ///
    /// # Errors
    /// Those of [`UNetConfig::validate`].
    pub fn init_for_training(&self, device: &Device) -> Result<UNet> {
        let mut unet = self.init(device)?;
        zero_conv(&mut unet.conv_out, device);
        let mid = std::iter::once(&mut unet.mid_block);
        unet.down_blocks
            .iter_mut()
            .chain(mid)
            .chain(&mut unet.up_blocks)
            .for_each(|block| zero_branches(block, device));
        Ok(unet)
    }

    /// The parts that the ControlNet has too; the configuration must be valid.
    pub(super) fn init_contracting(&self, device: &Device) -> Contracting {
        let channels = &self.block_out_channels;
        let (first, last) = (channels[0], self.levels() - 1);
        let embedding = |input| TimestepEmbedding {
            linear_1: LinearConfig::new(input, 4 * first).init(device).into(),
            linear_2: LinearConfig::new(4 * first, 4 * first).init(device).into(),
        };
        let down_blocks = (0..=last).map(|level| {
            let input = channels[level.saturating_sub(1)];
            let resnets = (0..self.layers_per_block.at(level))
                .map(|i| (if i == 0 { input } else { channels[level] }, channels[level]))
                .collect::<Vec<_>>();
            let attentions = if is_attended(&self.down_block_types[level]) { resnets.len() } else { 0 };
            Block {
                downsamplers: resampler(level < last, channels[level], 2, device),
                ..self.init_block(level, resnets, attentions, device)
            }
        });
        Contracting {
            conv_in: conv3x3(self.in_channels, first, 1, device),
            time_embedding: embedding(first),
            add_embedding: self.vector_dim().map(embedding),
            down_blocks: down_blocks.collect(),
            mid_block: self.init_block(last, vec![(channels[last], channels[last]); 2], 1, device),
        }
    }

    fn norm(&self, channels: usize, epsilon: f64, device: &Device) -> GroupNorm {
        GroupNormConfig::new(self.norm_num_groups, channels).with_epsilon(epsilon).init(device)
    }

    /// A block of `(input, output)` channel residual blocks, the first `attentions` of which are followed by attention.
    fn init_block(&self, level: usize, resnets: Vec<(usize, usize)>, attentions: usize, device: &Device) -> Block {
        let channels = self.block_out_channels[level];
        Block {
            resnets: resnets.into_iter().map(|(input, output)| self.init_resnet(input, output, device)).collect(),
            attentions: (0..attentions).map(|_| self.init_transformer(level, channels, device)).collect(),
            downsamplers: Vec::new(),
            upsamplers: Vec::new(),
        }
    }

    fn init_resnet(&self, input: usize, output: usize, device: &Device) -> ResnetBlock {
        let time = 4 * self.block_out_channels[0];
        let scale_shift = self.resnet_time_scale_shift == "scale_shift";
        ResnetBlock {
            norm1: self.norm(input, self.norm_eps, device),
            conv1: conv3x3(input, output, 1, device),
            time_emb_proj: LinearConfig::new(time, if scale_shift { 2 * output } else { output }).init(device).into(),
            norm2: self.norm(output, self.norm_eps, device),
            conv2: conv3x3(output, output, 1, device),
            conv_shortcut: (input != output).then(|| Conv2dConfig::new([input, output], [1, 1]).init(device).into()),
            scale_shift,
        }
    }

    fn init_transformer(&self, level: usize, dim: usize, device: &Device) -> Transformer {
        let projection = || match self.use_linear_projection {
            true => Projection::Linear(LinearConfig::new(dim, dim).init(device).into()),
            false => Projection::Conv(Conv2dConfig::new([dim, dim], [1, 1]).init(device).into()),
        };
        let attention = |context| Attention {
            to_q: LinearConfig::new(dim, dim).with_bias(false).init(device).into(),
            to_k: LinearConfig::new(context, dim).with_bias(false).init(device).into(),
            to_v: LinearConfig::new(context, dim).with_bias(false).init(device).into(),
            to_out_0: LinearConfig::new(dim, dim).init(device).into(),
            heads: self.heads().at(level),
        };
        let layer = |_| TransformerLayer {
            norm1: LayerNormConfig::new(dim).init(device),
            attn1: attention(dim),
            norm2: LayerNormConfig::new(dim).init(device),
            attn2: attention(self.cross_attention_dim),
            norm3: LayerNormConfig::new(dim).init(device),
            ff: FeedForward {
                net_0: Geglu { proj: LinearConfig::new(dim, 8 * dim).init(device).into() },
                net_2: LinearConfig::new(4 * dim, dim).init(device).into(),
            },
        };
        Transformer {
            norm: self.norm(dim, 1e-6, device),
            proj_in: projection(),
            transformer_blocks: (0..self.transformer_layers_per_block.at(level)).map(layer).collect(),
            proj_out: projection(),
        }
    }
}

/// The way down and the middle, freshly initialized.
pub(super) struct Contracting {
    pub conv_in: Conv2d,
    pub time_embedding: TimestepEmbedding,
    pub add_embedding: Option<TimestepEmbedding>,
    pub down_blocks: Vec<Block>,
    pub mid_block: Block,
}

fn is_attended(kind: &str) -> bool {
    kind.starts_with("CrossAttn")
}

pub(super) fn conv3x3(input: usize, output: usize, stride: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([input, output], [3, 3])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
        .into()
}

pub(super) fn zero_conv(conv: &mut Conv2d, device: &Device) {
    let shape = conv.layer.weight.lazy_shape();
    conv.layer.bias = Some(Initializer::Zeros.init([shape[0]], device));
    conv.layer.weight = Initializer::Zeros.init(shape, device);
}

/// Makes every residual branch of a block start as nothing.
pub(super) fn zero_branches(block: &mut Block, device: &Device) {
    block.resnets.iter_mut().for_each(|resnet| zero_conv(&mut resnet.conv2, device));
    for transformer in &mut block.attentions {
        match &mut transformer.proj_out {
            Projection::Conv(conv) => zero_conv(conv, device),
            Projection::Linear(linear) => {
                linear.layer.weight = Initializer::Zeros.init(linear.layer.weight.lazy_shape(), device);
                linear.layer.bias = Some(Initializer::Zeros.init([transformer.norm.num_channels], device));
            }
        }
    }
}

fn resampler(wanted: bool, channels: usize, stride: usize, device: &Device) -> Vec<Resampler> {
    wanted.then(|| Resampler { conv: conv3x3(channels, channels, stride, device) }).into_iter().collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

/// Sinusoidal features of timesteps (diffusers' `get_timestep_embedding`): with `half = dim / 2` and
/// `f_i = 10000^(-i / (half - freq_shift))`, the features are `[sin(t f_i), cos(t f_i)]`, or `[cos, sin]` if
/// `flip_sin_to_cos`. An odd `dim` ends in a zero.
///
/// Also SDXL's time ids and PanGu-Draw's bucket index.
///
/// # Shapes
/// - `t`: `[batch]`, may be fractional
/// - output: `[batch, dim]`
pub fn timestep_embedding(t: Tensor<1>, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Tensor<2> {
    let half = dim / 2;
    let revolutions: Vec<f32> = (0..half)
        .map(|i| (-(10_000f64.ln()) * i as f64 / (half as f64 - freq_shift)).exp() / std::f64::consts::TAU)
        .map(|frequency| frequency as f32)
        .collect();
    let device = t.device();
    let [batch] = t.dims();
    let turns = t.reshape([batch, 1]) * Tensor::<1>::from_floats(revolutions.as_slice(), &device).unsqueeze();
    // GPUs promise an exact sine only near zero: take whole turns off first.
    let angle = (turns.clone() - turns.round()) * std::f64::consts::TAU;
    let (sin, cos) = (angle.clone().sin(), angle.cos());
    let mut features = if flip_sin_to_cos { vec![cos, sin] } else { vec![sin, cos] };
    if dim % 2 == 1 {
        features.push(Tensor::zeros([batch, 1], &device));
    }
    Tensor::cat(features, 1)
}

/// diffusers' `UNet2DConditionModel`: predicts noise, velocity or the clean latent, as it was trained to.
#[derive(Module, Debug)]
pub struct UNet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<Block>,
    mid_block: Block,
    up_blocks: Vec<Block>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    config: UNetConfig,
}

impl UNet {
    /// The configuration it was made from.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Evaluates the network, offering `pace` a checkpoint after each of its [`UNet::units`].
    ///
    /// # Shapes
    /// - `sample`: `[batch, in_channels, height, width]`
    /// - `timesteps`: `[batch]`, 0 to 999, may be fractional
    /// - `encoder_hidden_states`: `[batch, tokens, cross_attention_dim]`
    /// - `vector`: `[batch, projection_class_embeddings_input_dim]`, for SDXL the pooled prompt followed by the
    ///   sinusoids of the time ids
    /// - output: `[batch, out_channels, height, width]`, in the type of `sample`
    ///
    /// # Errors
    /// [`Error::Cancelled`], or [`Error::Invalid`] if a shape does not fit the configuration.
    pub async fn forward(
        &self,
        sample: Tensor<4>,
        timesteps: Tensor<1>,
        encoder_hidden_states: Tensor<3>,
        vector: Option<Tensor<2>>,
        pace: &Pace,
    ) -> Result<Tensor<4>> {
        self.forward_controlled(sample, timesteps, encoder_hidden_states, vector, None, pace).await
    }

    /// [`UNet::forward`] with what a [`ControlNet`](super::controlnet::ControlNet) adds: `residuals.down` to the skips,
    /// `residuals.mid` after the middle.
    ///
    /// # Errors
    /// As [`UNet::forward`]; [`Error::Invalid`] if the residuals are another network's.
    pub async fn forward_controlled(
        &self,
        sample: Tensor<4>,
        timesteps: Tensor<1>,
        encoder_hidden_states: Tensor<3>,
        vector: Option<Tensor<2>>,
        residuals: Option<Residuals>,
        pace: &Pace,
    ) -> Result<Tensor<4>> {
        let steps = &mut Steps { pace, done: 0, of: self.units() };
        let descent = Descent {
            conv_in: &self.conv_in,
            time_embedding: &self.time_embedding,
            add_embedding: self.add_embedding.as_ref(),
            down_blocks: &self.down_blocks,
            mid_block: &self.mid_block,
            config: &self.config,
        };
        let inputs = Inputs { sample, timesteps, encoder_hidden_states, vector };
        let Depth { residuals: Residuals { down: mut skips, mid: mut h }, time, context } =
            descent.forward(inputs, None, steps).await?;
        if let Some(Residuals { down, mid }) = residuals {
            let fitting = down.iter().chain([&mid]).map(Tensor::dims).eq(skips.iter().chain([&h]).map(Tensor::dims));
            if !fitting {
                return invalid("residuals", "are not of a ControlNet of this UNet".into());
            }
            skips = skips.into_iter().zip(down).map(|(skip, residual)| skip + residual).collect();
            h = h + mid;
        }
        for block in &self.up_blocks {
            for i in 0..block.resnets.len() {
                let skip = skips.pop().expect("the way down left one for each unit on the way up");
                h = block.unit(i, Tensor::cat(vec![h, skip], 1), &time, &context);
                steps.step(&h).await?;
            }
            for upsampler in &block.upsamplers {
                let [_, _, height, width] = skips.last().expect("a finer level follows").dims();
                h = convolve(&upsampler.conv, upsample(h, [height, width]));
            }
        }
        Ok(convolve(&self.conv_out, normalize(&self.conv_norm_out, h, None, true)))
    }

    /// [`UNet::forward`] without a pace, for the trainer: nothing in it waits, so that it needs no executor.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for [`UNet::forward`].
    pub fn forward_now(
        &self,
        sample: Tensor<4>,
        timesteps: Tensor<1>,
        encoder_hidden_states: Tensor<3>,
        vector: Option<Tensor<2>>,
    ) -> Result<Tensor<4>> {
        now(self.forward(sample, timesteps, encoder_hidden_states, vector, &Pace::free()))
    }

    /// Checkpoints in one evaluation: one for each residual block with its attention.
    pub fn units(&self) -> usize {
        let sides = self.down_blocks.iter().chain(&self.up_blocks);
        sides.map(|block| block.resnets.len()).sum::<usize>() + self.mid_block.resnets.len()
    }
}

/// What a ControlNet adds to a UNet's way (diffusers' `down_block_additional_residuals` and
/// `mid_block_additional_residual`), each in the shape of what it is added to.
#[derive(Debug, Clone)]
pub struct Residuals {
    /// One for each skip: after `conv_in`, each residual block and each downsampler.
    pub down: Vec<Tensor<4>>,
    /// The middle's.
    pub mid: Tensor<4>,
}

impl Residuals {
    /// All of them times diffusers' `conditioning_scale`: 0 is no control, 1 what was trained.
    pub fn scaled(self, conditioning_scale: f64) -> Self {
        let scaled = |residual: Tensor<4>| residual * conditioning_scale;
        Self { down: self.down.into_iter().map(scaled).collect(), mid: scaled(self.mid) }
    }
}

/// Checkpoints of one evaluation.
pub(super) struct Steps<'a> {
    pub pace: &'a Pace,
    pub done: usize,
    pub of: usize,
}

impl Steps<'_> {
    pub async fn step(&mut self, activation: &Tensor<4>) -> Result<()> {
        self.done += 1;
        self.pace.checkpoint(self.done, self.of, activation).await
    }
}

/// What [`UNet::forward`] is given.
pub(super) struct Inputs {
    pub sample: Tensor<4>,
    pub timesteps: Tensor<1>,
    pub encoder_hidden_states: Tensor<3>,
    pub vector: Option<Tensor<2>>,
}

/// The way down and the middle of a UNet or a ControlNet.
pub(super) struct Descent<'a> {
    pub conv_in: &'a Conv2d,
    pub time_embedding: &'a TimestepEmbedding,
    pub add_embedding: Option<&'a TimestepEmbedding>,
    pub down_blocks: &'a [Block],
    pub mid_block: &'a Block,
    pub config: &'a UNetConfig,
}

/// Where a [`Descent`] ends: the skips and the middle, the time embedding after SiLU, the tokens of all samples in rows.
pub(super) struct Depth {
    pub residuals: Residuals,
    pub time: Tensor<2>,
    pub context: Tensor<2>,
}

impl Descent<'_> {
    /// `hint` is added after `conv_in`.
    pub async fn forward(&self, inputs: Inputs, hint: Option<Tensor<4>>, steps: &mut Steps<'_>) -> Result<Depth> {
        inputs.check(self.config)?;
        let Inputs { sample, timesteps, encoder_hidden_states, vector } = inputs;
        let context = encoder_hidden_states.flatten(0, 1).cast(sample.dtype());
        let config = self.config;
        let features =
            timestep_embedding(timesteps, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift);
        let mut time = self.time_embedding.forward(features);
        if let (Some(embedding), Some(vector)) = (self.add_embedding, vector) {
            time = time + embedding.forward(vector);
        }
        let time = silu(time);

        let mut h = convolve(self.conv_in, sample);
        if let Some(hint) = hint {
            h = h + hint;
        }
        let mut down = vec![h.clone()];
        for block in self.down_blocks {
            for i in 0..block.resnets.len() {
                h = block.unit(i, h, &time, &context);
                steps.step(&h).await?;
                down.push(h.clone());
            }
            for downsampler in &block.downsamplers {
                h = convolve(&downsampler.conv, h);
                down.push(h.clone());
            }
        }
        for i in 0..self.mid_block.resnets.len() {
            h = self.mid_block.unit(i, h, &time, &context);
            steps.step(&h).await?;
        }
        Ok(Depth { residuals: Residuals { down, mid: h }, time, context })
    }
}

impl Inputs {
    fn check(&self, config: &UNetConfig) -> Result<()> {
        let [batch, channels, height, width] = self.sample.dims();
        let [_, tokens, _] = self.encoder_hidden_states.dims();
        let check = |parameter, found: &[usize], expected: &[usize]| match found == expected {
            true => Ok(()),
            false => invalid(parameter, format!("has shape {found:?}, the UNet needs {expected:?}")),
        };
        check("sample", &[channels], &[config.in_channels])?;
        check("timesteps", &self.timesteps.dims(), &[batch])?;
        let context = [batch, tokens, config.cross_attention_dim];
        check("encoder_hidden_states", &self.encoder_hidden_states.dims(), &context)?;
        match (&self.vector, config.vector_dim()) {
            (Some(vector), Some(dim)) => check("vector", &vector.dims(), &[batch, dim])?,
            (None, None) => {}
            (found, _) => {
                let article = if found.is_some() { "no" } else { "a" };
                invalid("vector", format!("this UNet takes {article} vector condition"))?;
            }
        }
        if batch * height * width * tokens == 0 {
            return invalid("sample", "batch, height, width and tokens must be at least 1".into());
        }
        Ok(())
    }
}
