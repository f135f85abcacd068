//! The bilingual sentence encoder: Google's Universal Sentence Encoder, multilingual version 3.
//!
//! A deep averaging network over n-gram features (Yang et al. 2020; Iyyer et al. 2015), without attention, so that a
//! prompt costs a few matrix products. For a sentence of `n` tokens with embeddings `e`:
//!
//! ```text
//! n-grams of order 2, 3, 5:      [x_2, x_3, x_5] = LayerNorm(P e),  h_k = x_k + relu(conv_k(x_k)),  c_k = h_k + relu(conv_k'(h_k))
//! features, one per token:       f = W LayerNorm([e, c_2, c_3, c_5])
//! pooled:                        z = tanh(R_2(relu(R_1(sum f / sqrt(n))))),  z / |z|,   R(x) = S x + D' relu(D x)
//! ```
//!
//! Both outputs leave centred and scaled to about unit variance, as a denoising network likes its condition.

use super::unigram::Unigram;
use crate::{
    Error, Result,
    nets::layers::{Embedding, Linear},
};
use burn::{
    module::{Module, Param},
    nn::{EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, LinearConfig},
    tensor::{Device, Int, Tensor, TensorData, activation::relu, ops::PadMode},
};
use serde::{Deserialize, Serialize};

/// Sizes and scales of a [`SentenceEncoder`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SentenceConfig {
    /// Pieces in the vocabulary.
    pub vocabulary: usize,
    /// Channels of the piece embeddings.
    pub embedding_dim: usize,
    /// Widths of the n-gram convolutions, in tokens.
    pub ngram_orders: Vec<usize>,
    /// Channels of each n-gram branch.
    pub ngram_dim: usize,
    /// Channels between the two residual blocks of the averaging network.
    pub hidden_dim: usize,
    /// Channels of both outputs.
    pub output_dim: usize,
    /// Added to variances, and least squared length of a pooled vector.
    pub epsilon: f64,
    /// Tokens given to cross-attention: shorter sentences are padded with zeros, longer ones cut.
    pub token_count: usize,
    /// Standard deviation of the centred pooled vectors, which they are divided by.
    pub pooled_std: f64,
    /// Standard deviation of the centred token features, which they are divided by.
    pub token_std: f64,
}

impl SentenceConfig {
    /// Universal Sentence Encoder, multilingual version 3, with a vocabulary of this size and outputs not yet scaled.
    pub fn use_multilingual_v3(vocabulary: usize) -> Self {
        Self {
            vocabulary,
            embedding_dim: 512,
            ngram_orders: vec![2, 3, 5],
            ngram_dim: 256,
            hidden_dim: 320,
            output_dim: 512,
            epsilon: 1e-12,
            token_count: 16,
            pooled_std: 1.0,
            token_std: 1.0,
        }
    }

    /// The network with random weights, allocated when first used.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if a size is zero or absurd, or if a scale is not positive.
    pub fn init(&self, device: &Device) -> Result<SentenceEncoder> {
        let sizes = [self.vocabulary, self.embedding_dim, self.ngram_dim, self.hidden_dim, self.output_dim];
        let sound = sizes.iter().all(|size| (1..=1 << 20).contains(size))
            && (1..=16).contains(&self.ngram_orders.len())
            && self.ngram_orders.iter().all(|order| (1..=16).contains(order))
            && (1..=1 << 10).contains(&self.token_count)
            && [self.epsilon, self.pooled_std, self.token_std].iter().all(|&x| x > 0.0 && x.is_finite());
        if !sound {
            return Err(Error::Unsupported(format!("SentenceEncoder: {self:?}")));
        }
        let norm = |dim| LayerNormConfig::new(dim).with_epsilon(self.epsilon).init(device);
        let branches = self.ngram_orders.len() * self.ngram_dim;
        let ngrams = self.ngram_orders.iter().map(|&order| Ngram {
            conv1: LinearConfig::new(order * self.ngram_dim, self.ngram_dim).init(device).into(),
            conv2: LinearConfig::new(order * self.ngram_dim, self.ngram_dim).init(device).into(),
            order,
        });
        Ok(SentenceEncoder {
            embedding: EmbeddingConfig::new(self.vocabulary, self.embedding_dim).init(device).into(),
            ngram_projection: LinearConfig::new(self.embedding_dim, branches).init(device).into(),
            ngram_norm: norm(branches),
            ngrams: ngrams.collect(),
            norm: norm(self.embedding_dim + branches),
            projection: LinearConfig::new(self.embedding_dim + branches, self.output_dim).init(device).into(),
            dnn: vec![
                Residual::new(self.output_dim, self.hidden_dim, device),
                Residual::new(self.hidden_dim, self.output_dim, device),
            ],
            pooled_mean: Initializer::Zeros.init([self.output_dim], device),
            token_mean: Initializer::Zeros.init([self.output_dim], device),
            epsilon: self.epsilon,
            token_count: self.token_count,
            pooled_std: self.pooled_std,
            token_std: self.token_std,
        })
    }
}

/// Encoded sentences.
#[derive(Debug, Clone)]
pub struct Sentences {
    /// One vector a sentence, `[batch, output_dim]`.
    pub pooled: Tensor<2>,
    /// N-gram features of the first tokens, zero where a sentence has ended, `[batch, token_count, output_dim]`.
    pub tokens: Tensor<3>,
}

/// The sentence encoder; the formula is in the [module's text](self).
#[derive(Module, Debug)]
pub struct SentenceEncoder {
    embedding: Embedding,
    ngram_projection: Linear,
    ngram_norm: LayerNorm,
    ngrams: Vec<Ngram>,
    norm: LayerNorm,
    projection: Linear,
    dnn: Vec<Residual>,
    pooled_mean: Param<Tensor<1>>,
    token_mean: Param<Tensor<1>>,
    epsilon: f64,
    token_count: usize,
    pooled_std: f64,
    token_std: f64,
}

impl SentenceEncoder {
    /// Encodes `texts`, each by itself; the empty text is a sentence of two tokens, begin and end.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a text is too long, see [`Unigram::encode`].
    pub fn encode(&self, tokenizer: &Unigram, texts: &[&str]) -> Result<Sentences> {
        let sentences = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        Ok(self.forward(&sentences))
    }

    /// What was subtracted from the pooled vectors, `[output_dim]`.
    pub fn pooled_mean(&self) -> Tensor<1> {
        self.pooled_mean.val()
    }

    /// Encodes sentences of piece ids; every id is below the vocabulary's size and no sentence is empty.
    pub fn forward(&self, sentences: &[Vec<u32>]) -> Sentences {
        let lengths: Vec<usize> = sentences.iter().map(Vec::len).collect();
        self.forward_embedded(self.embed(sentences), &lengths)
    }

    /// The rows of the embedding table, `[batch, tokens, embedding_dim]`.
    pub(crate) fn embed(&self, sentences: &[Vec<u32>]) -> Tensor<3> {
        self.embedding.forward(padded(sentences, Unigram::UNKNOWN, &self.embedding.layer.weight.lazy_device()))
    }

    /// Encodes embedded sentences, `[batch, tokens, embedding_dim]`, of which the first `lengths[i]` tokens count.
    pub(crate) fn forward_embedded(&self, embedded: Tensor<3>, lengths: &[usize]) -> Sentences {
        let [batch, longest, _] = embedded.dims();
        let device = embedded.device();
        let mask: Vec<f32> =
            lengths.iter().flat_map(|&length| (0..longest).map(move |at| f32::from(u8::from(at < length)))).collect();
        let mask = Tensor::<3>::from_data(TensorData::new(mask, [batch, longest, 1]), &device);
        let weight: Vec<f32> = lengths.iter().map(|&length| (length as f32).sqrt().recip()).collect();
        let weight = Tensor::<2>::from_data(TensorData::new(weight, [batch, 1]), &device);

        let x = self.ngram_norm.forward(self.ngram_projection.forward(embedded.clone())) * mask.clone();
        let branches = x.chunk(self.ngrams.len(), 2);
        let branches = self.ngrams.iter().zip(branches).map(|(ngram, x)| ngram.forward(x, &mask));
        let features = Tensor::cat([embedded].into_iter().chain(branches).collect(), 2);
        let features = self.projection.forward(self.norm.forward(features)) * mask.clone();

        let sum: Tensor<2> = features.clone().sum_dim(1).squeeze_dim(1);
        let hidden = relu(self.dnn[0].forward(sum * weight));
        let pooled = self.dnn[1].forward(hidden).tanh();
        let length = pooled.clone().square().sum_dim(1).clamp_min(self.epsilon).sqrt();
        let pooled = (pooled / length - self.pooled_mean.val().unsqueeze()) / self.pooled_std;

        let tokens = (features - self.token_mean.val().unsqueeze()) / self.token_std * mask;
        let kept = longest.min(self.token_count);
        let tokens = tokens.narrow(1, 0, kept).pad([(0, self.token_count - kept), (0, 0)], PadMode::Constant(0.0));
        Sentences { pooled, tokens }
    }
}

/// Sentences as one tensor, `[batch, tokens]`, the shorter ones filled up with `fill`.
pub(crate) fn padded(sentences: &[Vec<u32>], fill: u32, device: &Device) -> Tensor<2, Int> {
    let longest = sentences.iter().map(Vec::len).max().unwrap_or(0);
    let rows =
        sentences.iter().flat_map(|ids| ids.iter().copied().chain(std::iter::repeat_n(fill, longest - ids.len())));
    let ids: Vec<i32> = rows.map(|id| id as i32).collect();
    Tensor::from_data(TensorData::new(ids, [sentences.len(), longest]), device)
}

/// One n-gram branch: two residual convolutions over windows of `order` tokens, zero outside the sentence.
#[derive(Module, Debug)]
struct Ngram {
    conv1: Linear,
    conv2: Linear,
    order: usize,
}

impl Ngram {
    /// `x`: `[batch, tokens, ngram_dim]`, zero where `mask`, `[batch, tokens, 1]`, is -> the same shape.
    fn forward(&self, x: Tensor<3>, mask: &Tensor<3>) -> Tensor<3> {
        let h = (x.clone() + relu(self.conv1.forward(self.windows(x)))) * mask.clone();
        h.clone() + relu(self.conv2.forward(self.windows(h)))
    }

    /// Each token with its neighbours side by side, `[batch, tokens, order * ngram_dim]`: `(order - 1) / 2` to the
    /// left, the others to the right.
    fn windows(&self, x: Tensor<3>) -> Tensor<3> {
        let tokens = x.dims()[1];
        let left = (self.order - 1) / 2;
        let padded = x.pad([(left, self.order - 1 - left), (0, 0)], PadMode::Constant(0.0));
        Tensor::cat((0..self.order).map(|at| padded.clone().narrow(1, at, tokens)).collect(), 2)
    }
}

/// `shortcut(x) + output(relu(hidden(x)))`, all without bias.
#[derive(Module, Debug)]
struct Residual {
    hidden: Linear,
    output: Linear,
    shortcut: Linear,
}

impl Residual {
    fn new(from: usize, to: usize, device: &Device) -> Self {
        let linear = |from| LinearConfig::new(from, to).with_bias(false).init(device).into();
        Self { hidden: linear(from), output: linear(to), shortcut: linear(from) }
    }

    /// `[batch, from]` -> `[batch, to]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.shortcut.forward(x.clone()) + self.output.forward(relu(self.hidden.forward(x)))
    }
}
