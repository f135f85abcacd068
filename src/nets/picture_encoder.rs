//! The encoder that the variation model reads a picture with: what the text encoder is to words. This project's own.
//!
//! It names the picture and answers what the text encoder answers to that name, so that a UNet that draws from words draws
//! after pictures. Strided 3x3 convolutions with a residual block after each, down to a grid of 4x4 for a picture of 64x64;
//! features `h` of all of them decide for one word out of each of several groups (things and colours), and the words'
//! meanings are added:
//!
//! ```text
//! p_g = softmax(sharpness (W_g h + b_g))           one for each group g
//! answer = sum over g of p_g M_g                   M_g: [words of g, (1 + tokens) * projection_dim]
//! ```
//!
//! A meaning is a pooled vector and, after it, tokens. The last row of all is the answer to no picture.

use super::{
    Pace,
    kernels::{convolve, normalize},
    layers::{Conv2d, Linear},
    now,
    unet::{conv3x3, invalid, zero_conv},
};
use crate::{Error, Result};
use burn::{
    module::{Module, Param},
    nn::{GroupNorm, GroupNormConfig, Initializer, LinearConfig},
    tensor::{Device, Tensor, activation::softmax, ops::PadMode},
};
use serde::{Deserialize, Serialize};

/// Configuration of a [`PictureEncoder`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Features that words are chosen by.
    pub feature_dim: usize,
    /// Features of a token, and of the pooled vector.
    pub projection_dim: usize,
    /// Words in each group.
    pub vocabulary: Vec<usize>,
    /// Factor of the logits: the higher, the more the likeliest word has its way.
    pub sharpness: f64,
    /// Tokens of a meaning.
    pub tokens: usize,
    /// Tokens answered: those of the meaning, and zeros.
    pub token_count: usize,
}

impl Default for PictureEncoderConfig {
    /// The variation model's, for one word.
    fn default() -> Self {
        Self {
            in_channels: 4,
            sample_size: 64,
            block_out_channels: vec![16, 48, 96, 192],
            norm_num_groups: 8,
            feature_dim: 128,
            projection_dim: 512,
            vocabulary: vec![1],
            sharpness: 3.0,
            tokens: 16,
            token_count: 16,
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
            to_features: LinearConfig::new(last * self.cells(), self.feature_dim).init(device).into(),
            to_words: LinearConfig::new(self.feature_dim, self.words()).init(device).into(),
            meanings: Initializer::Normal { mean: 0.0, std: 1.0 }.init([self.words() + 1, self.meaning()], device),
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

    /// Cells of the last level's grid.
    fn cells(&self) -> usize {
        let side = self.block_out_channels.iter().fold(self.sample_size, |side, _| side.div_ceil(2));
        side * side
    }

    /// Words in all groups.
    pub fn words(&self) -> usize {
        self.vocabulary.iter().sum()
    }

    /// Numbers of one meaning.
    pub fn meaning(&self) -> usize {
        (1 + self.tokens) * self.projection_dim
    }

    fn validate(&self) -> Result<()> {
        // The upper bounds are far above what is sensible; they keep a hostile file from exhausting the memory.
        let fits = |value: &usize| (1..=1 << 14).contains(value);
        let divides = |width: &usize| width.is_multiple_of(self.norm_num_groups);
        let numbers = [
            self.in_channels,
            self.sample_size.saturating_mul(16),
            self.norm_num_groups,
            self.feature_dim,
            self.projection_dim,
            self.token_count.saturating_mul(16),
        ];
        let (widths, groups) = (&self.block_out_channels, &self.vocabulary);
        let lengths = [widths.len(), groups.len()].iter().all(|length| (1..=8).contains(length));
        let numbers = numbers.iter().chain(widths).chain(groups).all(fits);
        if !lengths
            || !numbers
            || !self.sharpness.is_finite()
            || !widths.iter().all(divides)
            || !(1..=self.token_count).contains(&self.tokens)
        {
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
    /// `[batch, token_count, projection_dim]`.
    pub tokens: Tensor<3>,
    /// `[batch, projection_dim]`.
    pub pooled: Tensor<2>,
}

/// Pictures to tokens and a vector.
#[derive(Module, Debug)]
pub struct PictureEncoder {
    levels: Vec<Level>,
    norm_out: GroupNorm,
    to_features: Linear,
    to_words: Linear,
    meanings: Param<Tensor<2>>,
    #[module(skip)]
    config: PictureEncoderConfig,
}

impl PictureEncoder {
    /// The configuration it was made from.
    pub fn config(&self) -> &PictureEncoderConfig {
        &self.config
    }

    /// With these meanings, `[words + 1, meaning]`: the last is that of no picture.
    pub fn with_meanings(self, meanings: Tensor<2>) -> Self {
        Self { meanings: Param::from_tensor(meanings), ..self }
    }

    /// Encodes `pictures` `[batch, in_channels, sample_size, sample_size]` of ink and cover.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Invalid`] for pictures of another shape.
    pub async fn encode(&self, pictures: Tensor<4>, pace: &Pace) -> Result<PictureEmbedding> {
        let groups = self.words(pictures, pace).await?.into_iter();
        let chosen = Tensor::cat(groups.map(|logits| softmax(logits * self.config.sharpness, 1)).collect(), 1);
        Ok(self.embedding(chosen.matmul(self.meanings.val().narrow(0, 0, self.config.words()))))
    }

    /// What stands for no picture: an embedding of a batch of one.
    pub fn none(&self) -> PictureEmbedding {
        self.embedding(self.meanings.val().narrow(0, self.config.words(), 1))
    }

    /// Logits of the words, `[batch, words of the group]` for each group.
    ///
    /// # Errors
    /// As [`PictureEncoder::encode`].
    pub async fn words(&self, pictures: Tensor<4>, pace: &Pace) -> Result<Vec<Tensor<2>>> {
        let (batch, in_channels, side) = (pictures.dims()[0], self.config.in_channels, self.config.sample_size);
        if batch == 0 || pictures.dims() != [batch, in_channels, side, side] {
            let why =
                format!("has shape {:?}, the encoder needs {in_channels} channels of {side}x{side}", pictures.dims());
            return Err(Error::Invalid { parameter: "picture", why });
        }
        let mut h = pictures;
        for (index, level) in self.levels.iter().enumerate() {
            h = level.forward(h);
            pace.checkpoint(index + 1, self.levels.len(), &h).await?;
        }
        let h = normalize(&self.norm_out, h, None, true);
        let logits = self.to_words.forward(self.to_features.forward(h.flatten::<2>(1, 3)));
        Ok(logits.split_with_sizes(self.config.vocabulary.clone(), 1))
    }

    /// Rows of meanings as a condition.
    fn embedding(&self, meanings: Tensor<2>) -> PictureEmbedding {
        let PictureEncoderConfig { projection_dim: dim, tokens, token_count, .. } = self.config;
        let [batch, _] = meanings.dims();
        let words = meanings.clone().narrow(1, dim, tokens * dim).reshape([batch, tokens, dim]);
        let tokens = words.pad([(0, token_count - tokens), (0, 0)], PadMode::Constant(0.0));
        PictureEmbedding { tokens, pooled: meanings.narrow(1, 0, dim) }
    }

    /// [`PictureEncoder::words`] at once, for training.
    ///
    /// # Errors
    /// As [`PictureEncoder::encode`].
    pub fn words_now(&self, pictures: Tensor<4>) -> Result<Vec<Tensor<2>>> {
        now(self.words(pictures, &Pace::free()))
    }
}
