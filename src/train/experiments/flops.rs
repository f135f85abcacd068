//! What a network costs, counted from its configuration: parameters, and floating-point operations of one evaluation.
//!
//! Counted are convolutions, linear layers and attention's two products, a multiplication and an addition as two
//! operations. Norms, activations and additions are not: they are a few per cent. A training step is counted as three
//! evaluations, forward and twice as much backward. The frozen text encoder is not counted.

use crate::nets::{
    autoencoder_tiny::AutoencoderTinyConfig, controlnet::ControlNetConfig, picture_encoder::PictureEncoderConfig,
    unet::UNetConfig,
};

/// Evaluations that one training sample costs.
pub const TRAINING: u64 = 3;

/// The cost of one network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Numbers that are trained.
    pub parameters: u64,
    /// Operations of one evaluation of one sample.
    pub flops: u64,
}

impl Count {
    fn weights(&mut self, weights: usize, bias: usize, rows: usize) {
        self.parameters += (weights + bias) as u64;
        self.flops += 2 * weights as u64 * rows as u64;
    }

    fn linear(&mut self, from: usize, to: usize, rows: usize) {
        self.weights(from * to, to, rows);
    }

    fn convolution(&mut self, from: usize, to: usize, kernel: usize, side: usize) {
        self.weights(from * to * kernel * kernel, to, side * side);
    }

    fn norm(&mut self, channels: usize) {
        self.parameters += 2 * channels as u64;
    }

    /// Queries, keys, values and output of width `dim`, the first three without bias, and the two products.
    fn attention(&mut self, dim: usize, positions: usize, context: usize, tokens: usize) {
        self.weights(dim * dim, 0, positions);
        self.weights(2 * context * dim, 0, tokens);
        self.linear(dim, dim, positions);
        self.flops += 4 * (positions * tokens * dim) as u64;
    }
}

/// A walk through the levels of a UNet.
struct Walk<'a> {
    config: &'a UNetConfig,
    /// Cells of a side on each level.
    sides: Vec<usize>,
    tokens: usize,
    count: Count,
}

impl<'a> Walk<'a> {
    /// The way down and the middle, for latents of `side`, conditioned on `tokens` tokens.
    fn contracting(config: &'a UNetConfig, side: usize, tokens: usize) -> Self {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], config.levels() - 1);
        let sides = (0..=last).map(|level| side.div_ceil(1 << level)).collect();
        let mut walk = Self { config, sides, tokens, count: Count::default() };
        walk.count.convolution(config.in_channels, first, 3, side);
        for features in std::iter::once(first).chain(config.vector_dim()) {
            walk.count.linear(features, 4 * first, 1);
            walk.count.linear(4 * first, 4 * first, 1);
        }
        for level in 0..=last {
            for layer in 0..config.layers_per_block.at(level) {
                let from = if layer == 0 { channels[level.saturating_sub(1)] } else { channels[level] };
                walk.resnet(from, channels[level], level);
                if config.down_block_types[level].starts_with("CrossAttn") {
                    walk.transformer(level);
                }
            }
            if level < last {
                walk.count.convolution(channels[level], channels[level], 3, walk.sides[level + 1]);
            }
        }
        walk.resnet(channels[last], channels[last], last);
        walk.transformer(last);
        walk.resnet(channels[last], channels[last], last);
        walk
    }

    fn resnet(&mut self, from: usize, to: usize, level: usize) {
        let (count, side) = (&mut self.count, self.sides[level]);
        let modulation = if self.config.resnet_time_scale_shift == "scale_shift" { 2 * to } else { to };
        count.norm(from);
        count.convolution(from, to, 3, side);
        count.linear(4 * self.config.block_out_channels[0], modulation, 1);
        count.norm(to);
        count.convolution(to, to, 3, side);
        if from != to {
            count.convolution(from, to, 1, side);
        }
    }

    fn transformer(&mut self, level: usize) {
        let (count, config) = (&mut self.count, self.config);
        let (dim, positions) = (config.block_out_channels[level], self.sides[level] * self.sides[level]);
        count.norm(dim);
        count.linear(dim, dim, positions);
        for _ in 0..config.transformer_layers_per_block.at(level) {
            (0..3).for_each(|_| count.norm(dim));
            count.attention(dim, positions, dim, positions);
            count.attention(dim, positions, config.cross_attention_dim, self.tokens);
            count.linear(dim, 8 * dim, positions);
            count.linear(4 * dim, dim, positions);
        }
        count.linear(dim, dim, positions);
    }
}

/// A [`UNet`](crate::nets::unet::UNet) on square latents of `side`, conditioned on `tokens` tokens.
pub fn unet(config: &UNetConfig, side: usize, tokens: usize) -> Count {
    let channels = &config.block_out_channels;
    let (first, last) = (channels[0], config.levels() - 1);
    let mut walk = Walk::contracting(config, side, tokens);
    for level in (0..=last).rev() {
        let layers = config.layers_per_block.at(level) + 1;
        for layer in 0..layers {
            let from = if layer == 0 { channels[(level + 1).min(last)] } else { channels[level] };
            let skip = if layer == layers - 1 { channels[level.saturating_sub(1)] } else { channels[level] };
            walk.resnet(from + skip, channels[level], level);
            if config.up_block_types[last - level].starts_with("CrossAttn") {
                walk.transformer(level);
            }
        }
        if level > 0 {
            walk.count.convolution(channels[level], channels[level], 3, walk.sides[level - 1]);
        }
    }
    walk.count.norm(first);
    walk.count.convolution(first, config.out_channels, 3, side);
    walk.count
}

/// A [`ControlNet`](crate::nets::controlnet::ControlNet) beside a UNet on square latents of `side`.
pub fn controlnet(config: &ControlNetConfig, side: usize, tokens: usize) -> Count {
    let mut walk = Walk::contracting(&config.unet, side, tokens);
    let widths = &config.conditioning_embedding_out_channels;
    let (channels, mut pixels) = (&config.unet.block_out_channels, side * config.downscale());
    walk.count.convolution(config.conditioning_channels, widths[0], 3, pixels);
    for pair in widths.windows(2) {
        walk.count.convolution(pair[0], pair[0], 3, pixels);
        pixels = pixels.div_ceil(2);
        walk.count.convolution(pair[0], pair[1], 3, pixels);
    }
    walk.count.convolution(widths[widths.len() - 1], channels[0], 3, side);
    walk.count.convolution(channels[0], channels[0], 1, side);
    let last = config.unet.levels() - 1;
    // One convolution of 1x1 for every output of the way down, and one for the middle.
    for (level, &width) in channels.iter().enumerate() {
        (0..config.unet.layers_per_block.at(level))
            .for_each(|_| walk.count.convolution(width, width, 1, walk.sides[level]));
        let below = walk.sides[(level + 1).min(last)];
        walk.count.convolution(width, width, 1, below);
    }
    walk.count
}

/// A [`PictureEncoder`](crate::nets::picture_encoder::PictureEncoder) up to the choice of its words, which is what is trained.
pub fn picture_encoder(config: &PictureEncoderConfig) -> Count {
    let (mut count, mut from, mut side) = (Count::default(), config.in_channels, config.sample_size);
    for &width in &config.block_out_channels {
        side = side.div_ceil(2);
        count.convolution(from, width, 3, side);
        for _ in 0..2 {
            count.norm(width);
            count.convolution(width, width, 3, side);
        }
        from = width;
    }
    count.norm(from);
    count.linear(from * side * side, config.feature_dim, 1);
    count.linear(config.feature_dim, config.words(), 1);
    count
}

/// The encoder and the decoder of an [`AutoencoderTiny`](crate::nets::autoencoder_tiny::AutoencoderTiny) on square
/// pictures of `side` pixels.
pub fn autoencoder(config: &AutoencoderTinyConfig, side: usize) -> [Count; 2] {
    let patch = config.patch_size * config.patch_size;
    let half = |widths: &[usize], blocks: &[usize], from: usize, to: usize, side: &dyn Fn(usize) -> usize| {
        let mut count = Count::default();
        let mut before = from;
        for (level, (&width, &blocks)) in widths.iter().zip(blocks).enumerate() {
            count.convolution(before, width, 3, side(level));
            if level > 0 {
                // Between two levels there is no bias.
                count.parameters -= width as u64;
            }
            (0..3 * blocks).for_each(|_| count.convolution(width, width, 3, side(level)));
            before = width;
        }
        count.convolution(before, to, 3, side(widths.len() - 1));
        count
    };
    let (finest, coarsest) = (side / config.patch_size, side / config.downscale());
    [
        half(
            &config.encoder_block_out_channels,
            &config.num_encoder_blocks,
            config.in_channels * patch,
            config.latent_channels,
            &|level| finest >> level,
        ),
        half(
            &config.decoder_block_out_channels,
            &config.num_decoder_blocks,
            config.latent_channels,
            config.out_channels * patch,
            &|level| coarsest << level,
        ),
    ]
}
