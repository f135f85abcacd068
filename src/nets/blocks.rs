//! The blocks that the UNet is made of, and that networks beside it share.

use super::{
    kernels::{attend, convolve, geglu, normalize},
    layers::{Conv2d, Linear},
    precision::in_f32,
};
use burn::{
    module::Module,
    nn::{GroupNorm, LayerNorm},
    tensor::{Tensor, activation::silu},
};

/// Two linear layers with SiLU between (diffusers' `TimestepEmbedding`).
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    pub linear_1: Linear,
    pub linear_2: Linear,
}

impl TimestepEmbedding {
    /// `[batch, input]` to `[batch, time]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(silu(self.linear_1.forward(features)))
    }
}

/// Residual block (diffusers' `ResnetBlock2D`): norm, SiLU, convolution, twice, the time embedding entering between.
#[derive(Module, Debug)]
pub struct ResnetBlock {
    pub norm1: GroupNorm,
    pub conv1: Conv2d,
    pub time_emb_proj: Linear,
    pub norm2: GroupNorm,
    pub conv2: Conv2d,
    pub conv_shortcut: Option<Conv2d>,
    pub scale_shift: bool,
}

impl ResnetBlock {
    /// `x`: `[batch, input, height, width]`, `time`: `[batch, time]`, the embedding after SiLU;
    /// answers `[batch, output, height, width]`.
    pub fn forward(&self, x: Tensor<4>, time: &Tensor<2>) -> Tensor<4> {
        let time = self.time_emb_proj.forward(time.clone());
        let h = convolve(&self.conv1, normalize(&self.norm1, x.clone(), None, true));
        let h = if self.scale_shift {
            let [scale, shift] = time.chunk(2, 1).try_into().expect("an even number of features, halved");
            normalize(&self.norm2, h, Some((scale, shift)), true)
        } else {
            let time = time.cast(h.dtype());
            normalize(&self.norm2, h + time.unsqueeze_dims(&[2, 3]), None, true)
        };
        let h = convolve(&self.conv2, h);
        match &self.conv_shortcut {
            Some(shortcut) => convolve(shortcut, x) + h,
            None => x + h,
        }
    }
}

/// Multi-head attention without bias on queries, keys and values (diffusers' `Attention`).
#[derive(Module, Debug)]
pub struct Attention {
    pub to_q: Linear,
    pub to_k: Linear,
    pub to_v: Linear,
    pub to_out_0: Linear,
    pub heads: usize,
}

impl Attention {
    /// `x`: `[batch * positions, dim]`, `context`: `[batch * tokens, context_dim]`; answers the shape of `x`.
    pub fn forward(&self, x: Tensor<2>, context: Tensor<2>, batch: usize) -> Tensor<2> {
        let [rows, dim] = x.dims();
        let split = |features: Tensor<2>| {
            let positions = features.dims()[0] / batch;
            features.reshape([batch, positions, self.heads, dim / self.heads]).swap_dims(1, 2)
        };
        let query = split(self.to_q.forward(x));
        let key = split(self.to_k.forward(context.clone()));
        let value = split(self.to_v.forward(context));
        self.to_out_0.forward(attend(query, key, value).swap_dims(1, 2).reshape([rows, dim]))
    }
}

/// Gated linear unit (diffusers' `GEGLU`): `a * gelu(b)` with `[a, b] = proj(x)`.
#[derive(Module, Debug)]
pub struct Geglu {
    pub proj: Linear,
}

/// The feed-forward half of a transformer layer (diffusers' `FeedForward`).
#[derive(Module, Debug)]
pub struct FeedForward {
    pub net_0: Geglu,
    pub net_2: Linear,
}

impl FeedForward {
    /// `[rows, dim]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.net_2.forward(geglu(self.net_0.proj.forward(x)))
    }
}

/// Self-attention, cross-attention and feed-forward, each residual (diffusers' `BasicTransformerBlock`).
#[derive(Module, Debug)]
pub struct TransformerLayer {
    pub norm1: LayerNorm,
    pub attn1: Attention,
    pub norm2: LayerNorm,
    pub attn2: Attention,
    pub norm3: LayerNorm,
    pub ff: FeedForward,
}

impl TransformerLayer {
    /// `x`: `[batch * positions, dim]`, `context`: `[batch * tokens, context_dim]`; answers the shape of `x`.
    pub fn forward(&self, x: Tensor<2>, context: &Tensor<2>, batch: usize) -> Tensor<2> {
        let normalized = |norm: &LayerNorm, x: &Tensor<2>| in_f32(x.clone(), |x| norm.forward(x));
        let h = normalized(&self.norm1, &x);
        let x = self.attn1.forward(h.clone(), h, batch) + x;
        let x = self.attn2.forward(normalized(&self.norm2, &x), context.clone(), batch) + x;
        self.ff.forward(normalized(&self.norm3, &x)) + x
    }
}

/// The way into or out of a [`Transformer`]: the same map, stored as a matrix or as a 1x1 convolution.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Projection {
    Linear(Linear),
    Conv(Conv2d),
}

/// Attention over the positions of a feature map (diffusers' `Transformer2DModel`).
#[derive(Module, Debug)]
pub struct Transformer {
    pub norm: GroupNorm,
    pub proj_in: Projection,
    pub transformer_blocks: Vec<TransformerLayer>,
    pub proj_out: Projection,
}

impl Transformer {
    /// `x`: `[batch, channels, height, width]`, `context`: `[batch * tokens, context_dim]`; answers the shape of `x`.
    pub fn forward(&self, x: Tensor<4>, context: &Tensor<2>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let positions = height * width;
        let rows = |map: Tensor<4>| {
            map.reshape([batch, channels, positions]).swap_dims(1, 2).reshape([batch * positions, channels])
        };
        let map = |rows: Tensor<2>| {
            rows.reshape([batch, positions, channels]).swap_dims(1, 2).reshape([batch, channels, height, width])
        };

        let h = normalize(&self.norm, x.clone(), None, false);
        let mut h = match &self.proj_in {
            Projection::Linear(linear) => linear.forward(rows(h)),
            Projection::Conv(conv) => rows(convolve(conv, h)),
        };
        for layer in &self.transformer_blocks {
            h = layer.forward(h, context, batch);
        }
        let h = match &self.proj_out {
            Projection::Linear(linear) => map(linear.forward(h)),
            Projection::Conv(conv) => convolve(conv, map(h)),
        };
        h + x
    }
}

/// The 3x3 convolution after upsampling, or with stride 2 for downsampling (diffusers' `Upsample2D`, `Downsample2D`).
#[derive(Module, Debug)]
pub struct Resampler {
    pub conv: Conv2d,
}

/// Doubles height and width by repeating every pixel, cropped to `size` (which is odd where downsampling rounded up).
pub fn upsample(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [batch, channels, h, w] = x.dims();
    x.reshape([batch, channels, h, 1, w, 1])
        .expand([batch, channels, h, 2, w, 2])
        .reshape([batch, channels, 2 * h, 2 * w])
        .slice([0..batch, 0..channels, 0..height, 0..width])
}

/// One level on the way down or up, or the middle (diffusers' `CrossAttnDownBlock2D`, `CrossAttnUpBlock2D`,
/// `UNetMidBlock2DCrossAttn` and the first two without attention): which parts it has tells them apart.
#[derive(Module, Debug)]
pub struct Block {
    pub resnets: Vec<ResnetBlock>,
    pub attentions: Vec<Transformer>,
    pub downsamplers: Vec<Resampler>,
    pub upsamplers: Vec<Resampler>,
}

impl Block {
    /// The `i`-th residual block and its attention, if it has one.
    pub fn unit(&self, i: usize, x: Tensor<4>, time: &Tensor<2>, context: &Tensor<2>) -> Tensor<4> {
        let h = self.resnets[i].forward(x, time);
        match self.attentions.get(i) {
            Some(attention) => attention.forward(h, context),
            None => h,
        }
    }
}
