//! From prompts to conditions: a model's text encoders, whatever kind they are of.

use super::{
    config::{ClipLayer, PipelineConfig, Style, TextConfig, VectorConfig},
    residency::{Part, Residency, Resident},
};
use crate::{
    Error, Result,
    diffusion::Cond,
    nets::{
        Pace,
        text::{
            bpe::{BpeTokenizer, CONTEXT_LENGTH},
            clip::{ClipText, ClipTextConfig},
            sentence::{SentenceConfig, SentenceEncoder},
            unigram::{Unigram, Vocabulary},
        },
        unet::timestep_embedding,
    },
    weights::{Arrival, Depot, manifest::Manifest},
};
use burn::tensor::{Device, Tensor, TensorData};
use std::rc::Rc;

/// Metadata keys of a text component's tokenizer: the files as checkpoints have them.
pub const TOKENIZER_JSON: &str = "pangu.tokenizer.json";
/// See [`TOKENIZER_JSON`]; older checkpoints have `vocab.json` and `merges.txt` instead.
pub const VOCAB_JSON: &str = "pangu.vocab.json";
/// See [`VOCAB_JSON`].
pub const MERGES_TXT: &str = "pangu.merges.txt";
/// Metadata key of the sentence encoder's [`Vocabulary`], as JSON.
pub const VOCABULARY: &str = "pangu.vocabulary";

/// The text encoders of a model.
pub struct TextEncoders {
    encoders: Vec<Encoder>,
    device: Device,
}

/// A text encoder, and what of its answer counts.
enum Encoder {
    Sentence(Rc<Resident<Sentence>>),
    Clip { clip: Rc<Resident<Clip>>, layer: ClipLayer, pooled: bool, pad: u32 },
}

/// The project's own text encoder and its vocabulary.
struct Sentence {
    net: SentenceEncoder,
    tokenizer: Unigram,
}

/// A CLIP text tower and its vocabulary.
struct Clip {
    net: ClipText,
    tokenizer: BpeTokenizer,
}

/// What is to be encoded.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    /// The prompt as asked.
    pub prompt: &'a str,
    /// The negative prompt.
    pub negative: &'a str,
    /// The style.
    pub style: Option<&'a Style>,
    /// Whether the style's words guide on their own, rather than being put into the prompt.
    pub style_guides: bool,
    /// The picture's `[height, width]` in pixels.
    pub size: [usize; 2],
}

/// What a request's texts were encoded to.
pub struct Prompts {
    /// The prompt, its style's words in it unless style guidance adds them.
    pub cond: Cond,
    /// The negative or empty prompt.
    pub uncond: Cond,
    /// The prompt in its style, for style guidance.
    pub style: Option<Cond>,
}

/// Token features `[1, tokens, dim]` and a pooled vector `[1, dim]` of one text.
struct Encoded {
    tokens: Tensor<3>,
    pooled: Option<Tensor<2>>,
}

impl TextEncoders {
    /// The encoders of `text`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Unsupported`] if the manifest does not list them.
    pub fn new(text: &[TextConfig], folder: (&Depot, &Rc<Manifest>), residency: &Rc<Residency>) -> Result<Self> {
        let encoder = |config: &TextConfig| {
            Ok::<_, Error>(match config {
                TextConfig::Sentence { component } => {
                    Encoder::Sentence(residency.part(folder, component, &["SentenceEncoder"], Sentence::load)?)
                }
                TextConfig::Clip { component, layer, pooled, pad } => {
                    let networks = ["CLIPTextModel", "CLIPTextModelWithProjection"];
                    let clip = residency.part(folder, component, &networks, Clip::load)?;
                    Encoder::Clip { clip, layer: *layer, pooled: *pooled, pad: *pad }
                }
            })
        };
        let encoders = text.iter().map(encoder).collect::<Result<_>>()?;
        Ok(Self { encoders, device: residency.device().clone() })
    }

    /// What must be here before a text can be encoded.
    pub fn parts(&self) -> impl Iterator<Item = Rc<dyn Part>> {
        self.encoders.iter().map(|encoder| match encoder {
            Encoder::Sentence(part) => part.clone() as Rc<dyn Part>,
            Encoder::Clip { clip, .. } => clip.clone(),
        })
    }

    /// Encodes the texts of a request.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text an encoder refuses, [`Error::Cancelled`].
    pub async fn encode(&self, texts: Texts<'_>, config: &PipelineConfig, pace: &Pace) -> Result<Prompts> {
        let styled = texts.style.map(|style| style.apply(texts.prompt));
        let (prompt, style) = match (&styled, texts.style_guides) {
            (Some(styled), true) => (texts.prompt, Some(styled.as_str())),
            (Some(styled), false) => (styled.as_str(), None),
            (None, _) => (texts.prompt, None),
        };
        let vector = |encoded: &Encoded| self.vector(encoded, texts.size, &config.vector);
        let cond = self.text(prompt, pace).await?;
        let mut uncond = self.text(texts.negative, pace).await?;
        if config.zero_empty_negative && texts.negative.is_empty() {
            uncond.tokens = uncond.tokens.zeros_like();
            uncond.pooled = uncond.pooled.map(|pooled| pooled.zeros_like());
        }
        let style = match style {
            Some(text) => Some(self.text(text, pace).await?),
            None => None,
        };
        let finish = |encoded: Encoded| -> Result<Cond> {
            let vector = vector(&encoded)?;
            Ok(Cond { tokens: encoded.tokens, vector })
        };
        Ok(Prompts { cond: finish(cond)?, uncond: finish(uncond)?, style: style.map(finish).transpose()? })
    }

    /// One text through every encoder, token features side by side.
    async fn text(&self, text: &str, pace: &Pace) -> Result<Encoded> {
        let mut tokens = Vec::new();
        let mut pooled_text = None;
        for encoder in &self.encoders {
            match encoder {
                Encoder::Sentence(sentence) => {
                    let sentence = sentence.get(pace).await?;
                    let sentences = sentence.net.encode(&sentence.tokenizer, &[text])?;
                    tokens.push(sentences.tokens);
                    pooled_text = Some(sentences.pooled);
                }
                Encoder::Clip { clip, layer, pooled, pad } => {
                    let clip = clip.get(pace).await?;
                    let ids = clip.tokenizer.encode(text, CONTEXT_LENGTH, *pad)?;
                    let output = clip.net.forward(&[ids], pace).await?;
                    tokens.push(match layer {
                        ClipLayer::Last => output.last_hidden_state,
                        ClipLayer::Penultimate => output.penultimate_hidden_state,
                    });
                    if *pooled {
                        pooled_text = Some(output.text_embeds.unwrap_or(output.pooled));
                    }
                }
            }
        }
        Ok(Encoded { tokens: Tensor::cat(tokens, 2), pooled: pooled_text })
    }

    /// The UNet's vector condition, `[1, vector_dim]`.
    fn vector(
        &self,
        encoded: &Encoded,
        [height, width]: [usize; 2],
        config: &VectorConfig,
    ) -> Result<Option<Tensor<2>>> {
        let sinusoids = |numbers: &[usize], dim: usize| {
            let numbers: Vec<f32> = numbers.iter().map(|&n| n as f32).collect();
            let numbers = Tensor::from_data(TensorData::new(numbers.clone(), [numbers.len()]), &self.device);
            let embedded: Tensor<2> = timestep_embedding(numbers, dim, true, 0.0);
            let [count, dim] = embedded.dims();
            embedded.reshape([1, count * dim])
        };
        let pooled = || {
            encoded.pooled.clone().ok_or_else(|| Error::Corrupt {
                what: "model.json, section `pipeline`".into(),
                why: "the vector condition needs a pooled text, and no text encoder gives one".into(),
            })
        };
        Ok(match config {
            VectorConfig::None => None,
            VectorConfig::Pooled => Some(pooled()?),
            VectorConfig::TextTime { dim } => {
                let ids = [height, width, 0, 0, height, width];
                Some(Tensor::cat(vec![pooled()?, sinusoids(&ids, *dim)], 1))
            }
            VectorConfig::SizeBucket { dim, buckets } => {
                let area = |[h, w]: [usize; 2]| h.abs_diff(height) + w.abs_diff(width);
                let nearest = (0..buckets.len()).min_by_key(|&i| area(buckets[i])).unwrap_or(0);
                Some(Tensor::cat(vec![pooled()?, sinusoids(&[nearest], *dim)], 1))
            }
        })
    }
}

impl Sentence {
    async fn load(arrival: Arrival, device: Device) -> Result<Self> {
        let corrupt = |why| Error::Corrupt { what: "the text encoder's vocabulary".into(), why };
        let config: SentenceConfig = arrival.config()?;
        let vocabulary: Vocabulary =
            serde_json::from_str(arrival.text(VOCABULARY)?).map_err(|error| corrupt(error.to_string()))?;
        if vocabulary.pieces.len() != config.vocabulary {
            let why = format!("{} pieces for {} embeddings", vocabulary.pieces.len(), config.vocabulary);
            return Err(corrupt(why));
        }
        Ok(Self { net: arrival.load(config.init(&device)?, "").await?, tokenizer: Unigram::new(vocabulary)? })
    }
}

impl Clip {
    async fn load(arrival: Arrival, device: Device) -> Result<Self> {
        let config: ClipTextConfig = arrival.config()?;
        let tokenizer = match arrival.header().text(TOKENIZER_JSON) {
            Some(json) => BpeTokenizer::from_tokenizer_json(json.as_bytes())?,
            None => {
                let (vocabulary, merges) = (arrival.text(VOCAB_JSON)?, arrival.text(MERGES_TXT)?);
                BpeTokenizer::new(vocabulary.as_bytes(), merges.as_bytes())?
            }
        };
        Ok(Self { net: arrival.load(config.init(&device)?, "").await?, tokenizer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{
        gguf::{CONFIG, Metadata, Value},
        manifest::{self, Component, Title},
        quant::GgmlType,
        source::MemorySource,
        write_module,
    };
    use pollster::block_on;
    use sha2::{Digest, Sha256};

    /// Two models that have a CLIP tower in common, but not what they fill up short prompts with.
    #[test]
    fn models_that_share_a_tower_pad_as_each_says() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/clip_bpe.json")).unwrap();
        let config = ClipTextConfig {
            vocab_size: 677,
            hidden_size: 16,
            intermediate_size: 16,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            eos_token_id: 676,
            ..ClipTextConfig::default()
        };
        let device = Device::flex();
        let net = config.init(&device).unwrap();
        let metadata = Metadata::from([
            (CONFIG.into(), Value::String(serde_json::to_string(&config).unwrap())),
            (VOCAB_JSON.into(), Value::String(golden["vocab_json"].as_str().unwrap().into())),
            (MERGES_TXT.into(), Value::String(golden["merges_txt"].as_str().unwrap().into())),
        ]);
        let bytes = write_module(&net, "", GgmlType::F32, &metadata, Vec::new()).unwrap();
        let component = Component {
            role: "text".into(),
            network: "CLIPTextModel".into(),
            file: "text.gguf".into(),
            folder: None,
            bytes: bytes.len() as u64,
            sha256: vec![hex::encode(Sha256::digest(&bytes))],
        };
        let manifest = Rc::new(Manifest {
            format: manifest::FORMAT,
            name: "tower".into(),
            title: Title { en: "Tower".into(), zh: "塔".into() },
            licence: "MIT".into(),
            attribution: vec![],
            chunk_bytes: bytes.len() as u64,
            components: vec![component],
            vocabulary: None,
            pipeline: serde_json::Value::Null,
        });
        let depot = Depot::new(Rc::new(MemorySource([("text.gguf".into(), bytes)].into())), None);
        let (residency, pace) = (Residency::new(device, u64::MAX), Pace::free());
        let encoders = |pad| {
            let clip = TextConfig::Clip { component: "text".into(), layer: ClipLayer::Last, pooled: false, pad };
            TextEncoders::new(&[clip], (&depot, &manifest), &residency).unwrap()
        };
        let models = [(encoders(676), "ids_end"), (encoders(0), "ids_bang")];
        for (text, i) in [("a red apple", 4), ("a", 2)] {
            assert_eq!(golden["texts"][i], text);
            for (model, ids) in &models {
                let ids: Vec<u32> = serde_json::from_value(golden[ids][i].clone()).unwrap();
                let expected = block_on(net.forward(&[ids], &pace)).unwrap().last_hidden_state;
                let found = block_on(model.text(text, &pace)).unwrap().tokens;
                found.into_data().assert_eq(&expected.into_data(), true);
            }
        }
        assert_eq!(residency.bytes(), manifest.components[0].bytes, "the tower is here once");
        assert_eq!(block_on(encoders(677).text("a", &pace)).err().unwrap().code(), "corrupt");
    }
}
