//! CLIP's text tower: transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`, with their tensor names.

use crate::{
    Error, Result,
    nets::{
        Pace,
        layers::{Embedding, Linear},
    },
};
use burn::{
    module::Module,
    nn::{EmbeddingConfig, LayerNorm, LayerNormConfig, LinearConfig},
    tensor::{
        Device, Int, Tensor, TensorData,
        activation::{gelu, sigmoid},
        module::attention,
        ops::AttentionModuleOptions,
    },
};
use serde::{Deserialize, Serialize};

/// Configuration of a [`ClipText`]: the fields of transformers' config.json that shape it, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Class the checkpoint was saved from; `CLIPTextModelWithProjection` has a projection.
    pub architectures: Vec<String>,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Width of the features.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Width of the projected pooled vector.
    pub projection_dim: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Epsilon of every normalization.
    pub layer_norm_eps: f64,
    /// Id of the token that the pooled vector is read at; 2, a mistake of early configurations, stands for the largest
    /// id of the sequence.
    pub eos_token_id: u32,
}

/// An activation that CLIP models were trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`, OpenAI's.
    QuickGelu,
    /// `x * Phi(x)`, OpenCLIP's.
    Gelu,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            architectures: vec!["CLIPTextModel".into()],
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    /// OpenAI's CLIP ViT-L/14: the text encoder of SD 1.x, and SDXL's first. 123 M parameters.
    pub fn clip_l() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 768,
            num_attention_heads: 12,
            ..Self::default()
        }
    }

    /// OpenCLIP ViT-bigG/14: the second text encoder of SDXL and of PanGu-Draw V3. 695 M parameters.
    pub fn open_clip_big_g() -> Self {
        Self {
            architectures: vec!["CLIPTextModelWithProjection".into()],
            hidden_size: 1280,
            intermediate_size: 5120,
            projection_dim: 1280,
            num_hidden_layers: 32,
            num_attention_heads: 20,
            hidden_act: Activation::Gelu,
            ..Self::default()
        }
    }

    /// Whether the model projects its pooled vector.
    pub fn has_projection(&self) -> bool {
        self.architectures.iter().any(|class| class == "CLIPTextModelWithProjection")
    }

    /// Initializes the tower.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the configuration contradicts itself.
    pub fn init(&self, device: &Device) -> Result<ClipText> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(Error::Unsupported(format!("ClipText: hidden_size {width} in {heads} heads")));
        }
        if [self.vocab_size, self.max_position_embeddings, self.num_hidden_layers].contains(&0) {
            return Err(Error::Unsupported("ClipText: no vocabulary, positions or layers".into()));
        }
        let norm = || LayerNormConfig::new(width).with_epsilon(self.layer_norm_eps).init(device);
        let linear = |from, to| LinearConfig::new(from, to).init(device).into();
        let layer = |_| Layer {
            layer_norm1: norm(),
            self_attn: SelfAttention {
                q_proj: linear(width, width),
                k_proj: linear(width, width),
                v_proj: linear(width, width),
                out_proj: linear(width, width),
                heads,
            },
            layer_norm2: norm(),
            mlp: Mlp {
                fc1: linear(width, self.intermediate_size),
                fc2: linear(self.intermediate_size, width),
                activation: self.hidden_act,
            },
        };
        let projection = || LinearConfig::new(width, self.projection_dim).with_bias(false).init(device).into();
        Ok(ClipText {
            text_model: TextModel {
                embeddings: Embeddings {
                    token_embedding: EmbeddingConfig::new(self.vocab_size, width).init(device).into(),
                    position_embedding: EmbeddingConfig::new(self.max_position_embeddings, width).init(device).into(),
                },
                encoder: Encoder { layers: (0..self.num_hidden_layers).map(layer).collect() },
                final_layer_norm: norm(),
            },
            text_projection: self.has_projection().then(projection),
            vocabulary: self.vocab_size,
            positions: self.max_position_embeddings,
            eos_token_id: self.eos_token_id,
        })
    }
}

#[derive(Module, Debug)]
struct Embeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

/// Causal multi-head attention (transformers' `CLIPAttention`).
#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl SelfAttention {
    /// `[batch, tokens, width]` to the same.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let split = |projection: &Linear| {
            projection.forward(x.clone()).reshape([batch, tokens, self.heads, width / self.heads]).swap_dims(1, 2)
        };
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let attended = attention(split(&self.q_proj), split(&self.k_proj), split(&self.v_proj), None, None, options);
        self.out_proj.forward(attended.swap_dims(1, 2).reshape([batch, tokens, width]))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.fc1.forward(x);
        self.fc2.forward(match self.activation {
            Activation::QuickGelu => x.clone() * sigmoid(x * 1.702),
            Activation::Gelu => gelu(x),
        })
    }
}

/// transformers' `CLIPEncoderLayer`: attention and feed-forward, each after a norm and residual.
#[derive(Module, Debug)]
struct Layer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
}

impl Layer {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.self_attn.forward(self.layer_norm1.forward(x.clone())) + x;
        self.mlp.forward(self.layer_norm2.forward(x.clone())) + x
    }
}

#[derive(Module, Debug)]
struct Encoder {
    layers: Vec<Layer>,
}

#[derive(Module, Debug)]
struct TextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
}

/// CLIP's text tower.
///
/// Its tensors are named `text_model.*` and `text_projection.weight`, as checkpoints of either class have it;
/// transformers 5 saves a `CLIPTextModel` without the `text_model.`.
#[derive(Module, Debug)]
pub struct ClipText {
    text_model: TextModel,
    text_projection: Option<Linear>,
    vocabulary: usize,
    positions: usize,
    eos_token_id: u32,
}

/// What [`ClipText::forward`] answers.
#[derive(Debug, Clone)]
pub struct ClipTextOutput {
    /// The last layer's features after the final norm, `[batch, tokens, hidden_size]`: what SD 1.x attends to.
    pub last_hidden_state: Tensor<3>,
    /// What enters the last layer, not normalized, `[batch, tokens, hidden_size]`: what SDXL attends to.
    pub penultimate_hidden_state: Tensor<3>,
    /// `last_hidden_state` at the end-of-text token, `[batch, hidden_size]`.
    pub pooled: Tensor<2>,
    /// `pooled`, projected, `[batch, projection_dim]`, if the model has a projection.
    pub text_embeds: Option<Tensor<2>>,
}

impl ClipText {
    /// Encodes token ids, one row a text, all of one length, e.g. from [`BpeTokenizer`](super::bpe::BpeTokenizer).
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no row, if rows differ in length or are longer than the model's positions, or if
    /// an id is outside the vocabulary; [`Error::Cancelled`].
    pub async fn forward(&self, ids: &[Vec<u32>], pace: &Pace) -> Result<ClipTextOutput> {
        let (batch, tokens) = (ids.len(), ids.first().map_or(0, Vec::len));
        if tokens == 0 || tokens > self.positions || ids.iter().any(|row| row.len() != tokens) {
            let why = format!("rows must have one length of 1 to {}", self.positions);
            return Err(Error::Invalid { parameter: "token ids", why });
        }
        if let Some(id) = ids.iter().flatten().find(|&&id| id as usize >= self.vocabulary) {
            let why = format!("{id} is not below the vocabulary's {}", self.vocabulary);
            return Err(Error::Invalid { parameter: "token ids", why });
        }
        let TextModel { embeddings, encoder, final_layer_norm } = &self.text_model;
        let device = embeddings.token_embedding.layer.weight.lazy_device();
        let flat = TensorData::new(ids.concat(), [batch, tokens]);
        let places = Tensor::<1, Int>::arange(0..tokens as i64, &device).unsqueeze();
        let mut x = embeddings.token_embedding.forward(Tensor::from_data(flat, &device))
            + embeddings.position_embedding.forward(places);

        let mut penultimate_hidden_state = x.clone();
        for (done, layer) in encoder.layers.iter().enumerate() {
            penultimate_hidden_state = x.clone();
            x = layer.forward(x);
            pace.checkpoint(done + 1, encoder.layers.len(), &x.clone().unsqueeze()).await?;
        }
        let last_hidden_state = final_layer_norm.forward(x);
        let at_end = |(i, row): (usize, &Vec<u32>)| {
            let end = self.end_of_text(row);
            last_hidden_state.clone().slice([i..i + 1, end..end + 1]).squeeze_dim::<2>(1)
        };
        let pooled = Tensor::cat(ids.iter().enumerate().map(at_end).collect(), 0);
        let text_embeds = self.text_projection.as_ref().map(|projection| projection.forward(pooled.clone()));
        Ok(ClipTextOutput { last_hidden_state, penultimate_hidden_state, pooled, text_embeds })
    }

    /// Where the pooled vector of a row is read: at its first end-of-text token, or at 0 if there is none.
    fn end_of_text(&self, row: &[u32]) -> usize {
        let end = match self.eos_token_id {
            2 => row.iter().max().copied().unwrap_or_default(),
            id => id,
        };
        row.iter().position(|&id| id == end).unwrap_or(0)
    }
}
