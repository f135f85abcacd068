//! GGUF version 3: the container of all weights.
//!
//! ```text
//! header   "GGUF", version u32, tensor count u64, metadata count u64
//! metadata key string, value type u32, value                        (strings: length u64, UTF-8)
//! tensors  name string, rank u32, dimensions u64 (innermost first), type u32, offset u64
//! data     each tensor at a multiple of the alignment, counted from the data's start
//! ```
//! Everything is little-endian. Shapes are given in PyTorch's order here, outermost axis first.
//!
//! Blocks of a quantized type run along the innermost axis, which a 3 x 3 convolution makes too short. Such a tensor is
//! stored as the matrix `[out, in * height * width]`, and its true shape goes into the metadata under
//! `comfy.gguf.orig_shape.<tensor name>`, where ComfyUI-GGUF keeps it too. Readers see the true shape only.
//!
//! Files are untrusted: nothing is allocated that the bytes at hand do not pay for, and everything that does not add
//! up is an [`Error::Corrupt`]. Tensor names may be longer than the 64 bytes that ggml's own loader takes, because
//! diffusers' are.

use super::{StoredTensor, TensorSource, quant::GgmlType};
use crate::{Error, Result};
use std::{borrow::Cow, collections::BTreeMap, io::Write};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const DEFAULT_ALIGNMENT: usize = 32;
const MAX_RANK: u32 = 4;
/// Bounds the memory of parsed metadata: an array of bytes grows about 32-fold when it is read.
const MAX_VALUES: usize = 1 << 21;
/// Arrays in arrays in arrays: deeper than any file needs, shallow enough for the stack.
const MAX_DEPTH: usize = 4;
const ALIGNMENT: &str = "general.alignment";
/// Metadata key of a network's configuration: JSON with the fields of its `config.json` as diffusers writes it.
pub const CONFIG: &str = "pangu.config";
const TRUE_SHAPE: &str = "comfy.gguf.orig_shape.";

/// Metadata by key, in the order of keys.
pub type Metadata = BTreeMap<String, Value>;

/// A metadata value, of any type GGUF knows.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the variants are their types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    /// Values of one type.
    Array(Vec<Value>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The number that GGUF files call the value's type by.
    fn kind(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// The text, if the value is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The elements, if the value is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        if let Self::Array(values) = self { Some(values) } else { None }
    }

    /// The value as an integer, if it is one that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::I8(x) => x.try_into().ok(),
            Self::U16(x) => Some(x.into()),
            Self::I16(x) => x.try_into().ok(),
            Self::U32(x) => Some(x.into()),
            Self::I32(x) => x.try_into().ok(),
            Self::U64(x) => Some(x),
            Self::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::U8(x) => out.push(*x),
            Self::I8(x) => out.extend(x.to_le_bytes()),
            Self::U16(x) => out.extend(x.to_le_bytes()),
            Self::I16(x) => out.extend(x.to_le_bytes()),
            Self::U32(x) => out.extend(x.to_le_bytes()),
            Self::I32(x) => out.extend(x.to_le_bytes()),
            Self::F32(x) => out.extend(x.to_le_bytes()),
            Self::Bool(x) => out.push((*x).into()),
            Self::String(x) => write_string(x, out),
            Self::Array(values) => {
                // An empty array has no element to tell its type; the readers do not look at it.
                let kind = values.first().map_or(0, Self::kind);
                if values.iter().any(|value| value.kind() != kind) {
                    return Err(Error::Invalid { parameter: "metadata", why: "an array must be of one type".into() });
                }
                out.extend(kind.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().try_for_each(|value| value.write(out))?;
            }
            Self::U64(x) => out.extend(x.to_le_bytes()),
            Self::I64(x) => out.extend(x.to_le_bytes()),
            Self::F64(x) => out.extend(x.to_le_bytes()),
        }
        Ok(())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self::Array(values.into_iter().map(Into::into).collect())
    }
}

/// Where a tensor lies in its file, and how it is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Axes, outermost first.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: GgmlType,
    /// First byte, counted from the file's start.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

/// A file's metadata and table of tensors, without the tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// The metadata, without the entries about shapes that [`TensorInfo::shape`] already reflects.
    pub metadata: Metadata,
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors' data starts, counted from the file's start.
    pub data_start: usize,
}

impl GgufHeader {
    /// Parses the header of the file called `what`, which is `file_len` bytes long and starts with `bytes`.
    ///
    /// `bytes` may be the whole file or just enough of it; the answer is none if they end before the header does and the file
    /// goes on.
    ///
    /// # Errors
    /// [`Error::Corrupt`] telling what does not add up; [`Error::Unsupported`] for an element type that is not in [`GgmlType`].
    pub fn parse(what: &str, bytes: &[u8], file_len: usize) -> Result<Option<Self>> {
        let to_come = file_len.saturating_sub(bytes.len());
        let mut reader = Reader { what, bytes, values_left: MAX_VALUES, to_come, ran_out: false };
        match reader.header(bytes.len(), file_len) {
            Err(_) if reader.ran_out => Ok(None),
            header => header.map(Some),
        }
    }

    /// The text under `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key)?.as_str()
    }

    /// The text under `key`, which the file called `what` must have.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it has none.
    pub fn text_of(&self, what: &str, key: &str) -> Result<&str> {
        let missing = || Error::Corrupt { what: what.into(), why: format!("its metadata has no text `{key}`") };
        self.text(key).ok_or_else(missing)
    }

    /// The configuration of the network in the file called `what`, which the metadata holds as JSON under [`CONFIG`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none or if it does not fit.
    pub fn config_of<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T> {
        let unfit = |error| Error::Corrupt { what: what.into(), why: format!("its `{CONFIG}`: {error}") };
        serde_json::from_str(self.text_of(what, CONFIG)?).map_err(unfit)
    }
}

/// A cursor over untrusted bytes.
struct Reader<'a> {
    what: &'a str,
    bytes: &'a [u8],
    values_left: usize,
    /// Bytes of the file that follow those at hand.
    to_come: usize,
    /// Whether one of those was needed.
    ran_out: bool,
}

impl<'a> Reader<'a> {
    fn corrupt<T>(&self, why: impl Into<String>) -> Result<T> {
        Err(Error::Corrupt { what: self.what.into(), why: why.into() })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.bytes.split_at_checked(len) {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
            None => {
                self.ran_out = len <= self.left();
                self.corrupt(format!("it ends in the middle of its header ({len} bytes wanted, {} left)", self.left()))
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes between here and the end of the file.
    fn left(&self) -> usize {
        self.bytes.len().saturating_add(self.to_come)
    }

    /// A count of things that take at least `min_bytes` each.
    fn count(&mut self, things: &str, min_bytes: usize) -> Result<usize> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.left() / min_bytes => Ok(count),
            _ => self.corrupt(format!("{count} {things} do not fit the {} bytes that follow", self.left())),
        }
    }

    fn string(&mut self) -> Result<&'a str> {
        let len = self.count("bytes of text", 1)?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).or_else(|_| self.corrupt("a text is not UTF-8"))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(self.array::<1>()?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return self.corrupt(format!("a truth value is {other}")),
            },
            8 => Value::String(self.string()?.into()),
            9 if depth < MAX_DEPTH => {
                let kind = self.u32()?;
                let count = self.count("values of an array", 1)?;
                match self.values_left.checked_sub(count) {
                    Some(left) => self.values_left = left,
                    None => return self.corrupt(format!("its metadata holds more than {MAX_VALUES} values")),
                }
                // Grown as the values come: an array of arrays must not multiply its claims.
                (0..count).map(|_| self.value(kind, depth + 1)).collect::<Result<Vec<_>>>().map(Value::Array)?
            }
            9 => return self.corrupt("arrays are nested too deep"),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return self.corrupt(format!("a metadata value has the unknown type {other}")),
        })
    }

    fn metadata(&mut self, count: usize) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        for _ in 0..count {
            let key = self.string()?;
            let kind = self.u32()?;
            let value = self.value(kind, 0)?;
            if metadata.insert(key.into(), value).is_some() {
                return self.corrupt(format!("the metadata key `{key}` occurs twice"));
            }
        }
        Ok(metadata)
    }

    /// One entry of the tensor table; its `start` is still counted from the data's start.
    fn tensor(&mut self, metadata: &mut Metadata) -> Result<(String, TensorInfo)> {
        let name = self.string()?;
        let rank = self.u32()?;
        if rank > MAX_RANK {
            return self.corrupt(format!("tensor `{name}` has {rank} axes, more than {MAX_RANK}"));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            match usize::try_from(self.u64()?) {
                Ok(axis) if axis > 0 => shape.insert(0, axis),
                _ => return self.corrupt(format!("tensor `{name}` has an axis of impossible length")),
            }
        }
        let id = self.u32()?;
        let Some(dtype) = GgmlType::from_id(id) else {
            return Err(Error::Unsupported(format!("{}: tensor `{name}` of ggml type {id}", self.what)));
        };
        if !shape.last().unwrap_or(&1).is_multiple_of(dtype.block()) {
            return self.corrupt(format!("rows of tensor `{name}` do not fill whole blocks of {dtype}"));
        }
        let count = checked_product(&shape);
        let (Some(count), Ok(start)) = (count, usize::try_from(self.u64()?)) else {
            return self.corrupt(format!("tensor `{name}` is impossibly large"));
        };
        let Some(len) = dtype.byte_len(count) else {
            return self.corrupt(format!("tensor `{name}` is impossibly large"));
        };
        if let Some(value) = metadata.remove(&format!("{TRUE_SHAPE}{name}")) {
            let axes = value.as_array().filter(|axes| axes.len() <= MAX_RANK as usize).unwrap_or_default();
            shape = axes.iter().map(|axis| axis.as_u64()?.try_into().ok()).collect::<Option<_>>().unwrap_or_default();
            if checked_product(&shape) != Some(count) {
                return self.corrupt(format!("tensor `{name}` does not have the shape its metadata says"));
            }
        }
        Ok((name.into(), TensorInfo { shape, dtype, start, len }))
    }

    fn header(&mut self, prefix_len: usize, file_len: usize) -> Result<GgufHeader> {
        if self.take(4)? != MAGIC {
            return self.corrupt("it does not start with GGUF");
        }
        let version = self.u32()?;
        if version != VERSION {
            return self.corrupt(format!("its GGUF version is {version}, not {VERSION}"));
        }
        let tensor_count = self.count("tensors", 24)?;
        let metadata_count = self.count("metadata entries", 13)?;
        let mut metadata = self.metadata(metadata_count)?;
        let alignment = match metadata.get(ALIGNMENT).map(Value::as_u64) {
            None => DEFAULT_ALIGNMENT,
            Some(Some(alignment @ 8..=65536)) if alignment.is_power_of_two() => alignment as usize,
            Some(_) => return self.corrupt("general.alignment is not a power of two from 8 to 65536"),
        };
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let (name, info) = self.tensor(&mut metadata)?;
            if !info.start.is_multiple_of(alignment) {
                return self.corrupt(format!("tensor `{name}` is not aligned"));
            }
            if tensors.contains_key(&name) {
                return self.corrupt(format!("the tensor name `{name}` occurs twice"));
            }
            tensors.insert(name, info);
        }
        let data_start = (prefix_len - self.bytes.len()).next_multiple_of(alignment);
        let mut by_start: Vec<(&String, &mut TensorInfo)> = tensors.iter_mut().collect();
        by_start.sort_by_key(|(_, info)| info.start);
        let mut free = data_start;
        for (name, info) in by_start {
            let range =
                info.start.checked_add(data_start).and_then(|start| Some((start, start.checked_add(info.len)?)));
            match range {
                Some((start, end)) if start >= free && end <= file_len => (info.start, free) = (start, end),
                Some((start, _)) if start < free => {
                    return self.corrupt(format!("tensor `{name}` overlaps another one"));
                }
                _ => return self.corrupt(format!("tensor `{name}` reaches beyond the end of the file")),
            }
        }
        Ok(GgufHeader { metadata, tensors, data_start })
    }
}

fn checked_product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis))
}

/// A GGUF file held in memory.
#[derive(Debug, Clone)]
pub struct GgufFile {
    component: String,
    header: GgufHeader,
    bytes: Vec<u8>,
}

impl GgufFile {
    /// Parses `bytes`, the file of the component of that name.
    ///
    /// # Errors
    /// Those of [`GgufHeader::parse`].
    pub fn new(component: impl Into<String>, bytes: Vec<u8>) -> Result<Self> {
        let component = component.into();
        let header = GgufHeader::parse(&component, &bytes, bytes.len())?.expect("the whole file is here");
        Ok(Self { component, header, bytes })
    }

    /// Metadata and table of tensors.
    pub fn header(&self) -> &GgufHeader {
        &self.header
    }

    /// The text under `key` of the metadata; see [`GgufHeader::text_of`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.header.text_of(&self.component, key)
    }

    /// The network's configuration; see [`GgufHeader::config_of`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none or if it does not fit.
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.header.config_of(&self.component)
    }
}

impl TensorSource for GgufFile {
    fn component(&self) -> &str {
        &self.component
    }

    fn names(&self) -> Vec<String> {
        self.header.tensors.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        Ok(self.header.tensors.get(name).map(|info| StoredTensor {
            shape: info.shape.clone(),
            dtype: info.dtype,
            bytes: Cow::Borrowed(&self.bytes[info.start..info.start + info.len]),
        }))
    }
}

/// A tensor that a [`GgufWriter`] is going to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// Name.
    pub name: String,
    /// Axes, outermost first, at most four of them.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: GgmlType,
}

impl TensorPlan {
    /// Plans a tensor of a network whose weights are to be stored as `wanted`.
    ///
    /// Matrices, embeddings and convolutions get that type; where whole blocks do not fit their rows, F16. Vectors
    /// (biases and norms) are few and sensitive: they stay F32.
    pub fn for_network(name: impl Into<String>, shape: Vec<usize>, wanted: GgmlType) -> Self {
        let dtype = match shape.len() {
            0 | 1 => GgmlType::F32,
            _ if Self::fits(&shape, wanted) => wanted,
            _ => GgmlType::F16,
        };
        Self { name: name.into(), shape, dtype }
    }

    /// The shape in the file: the true one, or a matrix where blocks would not fit the innermost axis.
    fn stored_shape(&self) -> Cow<'_, [usize]> {
        match self.shape[..] {
            [out, ref rest @ .., last] if !rest.is_empty() && !last.is_multiple_of(self.dtype.block()) => {
                vec![out, rest.iter().product::<usize>() * last].into()
            }
            _ => Cow::Borrowed(&self.shape),
        }
    }

    /// Whether a tensor of this shape can be stored as `dtype`: at most four axes, and whole blocks to a row.
    pub fn fits(shape: &[usize], dtype: GgmlType) -> bool {
        let row = match shape {
            [] => Some(1),
            [row] => Some(*row),
            [_, rest @ ..] => checked_product(rest),
        };
        shape.len() <= MAX_RANK as usize
            && shape.iter().all(|&axis| axis > 0 && i32::try_from(axis).is_ok())
            && row.is_some_and(|row| row.is_multiple_of(dtype.block()))
    }

    /// Bytes in the file, if the tensor can be stored at all.
    fn len(&self) -> Option<usize> {
        Self::fits(&self.shape, self.dtype).then(|| self.dtype.byte_len(checked_product(&self.shape)?))?
    }
}

/// Writes a GGUF file one tensor at a time.
pub struct GgufWriter<W> {
    out: W,
    /// Byte lengths of the tensors that are still to come, the next one last.
    pending: Vec<usize>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header of a file with these `tensors`, in this order.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a plan that GGUF cannot hold, [`Error::Write`].
    pub fn new(mut out: W, metadata: &Metadata, tensors: &[TensorPlan]) -> Result<Self> {
        let mut metadata = metadata.clone();
        metadata.remove(ALIGNMENT);
        let mut table = Vec::new();
        let mut pending = Vec::new();
        let mut offset = 0u64;
        for plan in tensors {
            let len = plan.len().ok_or_else(|| Error::Invalid {
                parameter: "tensors",
                why: format!("`{}` of shape {:?} cannot be stored as {}", plan.name, plan.shape, plan.dtype),
            })?;
            let stored = plan.stored_shape();
            if let Cow::Owned(_) = stored {
                let axes = plan.shape.iter().map(|&axis| Value::I32(axis as i32)).collect();
                metadata.insert(format!("{TRUE_SHAPE}{}", plan.name), Value::Array(axes));
            }
            write_string(&plan.name, &mut table);
            table.extend((stored.len() as u32).to_le_bytes());
            stored.iter().rev().for_each(|&axis| table.extend((axis as u64).to_le_bytes()));
            table.extend(plan.dtype.id().to_le_bytes());
            table.extend(offset.to_le_bytes());
            offset += len.next_multiple_of(DEFAULT_ALIGNMENT) as u64;
            pending.push(len);
        }
        pending.reverse();
        let mut header = Vec::from(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in &metadata {
            write_string(key, &mut header);
            header.extend(value.kind().to_le_bytes());
            value.write(&mut header)?;
        }
        header.extend(table);
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        out.write_all(&header).map_err(write_error)?;
        Ok(Self { out, pending })
    }

    /// Writes the next tensor's data.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the plan has no further tensor or one of another length, [`Error::Write`].
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<()> {
        if self.pending.pop() != Some(bytes.len()) {
            return Err(Error::Invalid {
                parameter: "tensors",
                why: format!("{} bytes were not planned here", bytes.len()),
            });
        }
        let padding = bytes.len().next_multiple_of(DEFAULT_ALIGNMENT) - bytes.len();
        self.out.write_all(bytes).map_err(write_error)?;
        self.out.write_all(&[0; DEFAULT_ALIGNMENT][..padding]).map_err(write_error)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a planned tensor was not written, [`Error::Write`].
    pub fn finish(mut self) -> Result<W> {
        if !self.pending.is_empty() {
            return Err(Error::Invalid { parameter: "tensors", why: format!("{} are missing", self.pending.len()) });
        }
        self.out.flush().map_err(write_error)?;
        Ok(self.out)
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_error(error: std::io::Error) -> Error {
    Error::Write { what: "a GGUF file".into(), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str, shape: &[usize], dtype: GgmlType) -> TensorPlan {
        TensorPlan { name: name.into(), shape: shape.into(), dtype }
    }

    fn metadata() -> Metadata {
        let values = [
            Value::U8(1),
            Value::I8(-1),
            Value::U16(2),
            Value::I16(-2),
            Value::U32(3),
            Value::I32(-3),
            Value::F32(0.5),
            Value::Bool(true),
            Value::from("红苹果"),
            ["a", "b"].into_iter().collect(),
            Value::U64(4),
            Value::I64(-4),
            Value::F64(0.25),
            Value::Array(vec![Value::Array(vec![Value::U8(1)]), Value::Array(vec![])]),
        ];
        values.into_iter().enumerate().map(|(i, value)| (format!("key.{i}"), value)).collect()
    }

    fn file(metadata: &Metadata, tensors: &[TensorPlan]) -> Vec<u8> {
        let mut writer = GgufWriter::new(Vec::new(), metadata, tensors).unwrap();
        for (i, plan) in tensors.iter().enumerate() {
            writer.tensor(&vec![i as u8 + 1; plan.len().unwrap()]).unwrap();
        }
        writer.finish().unwrap()
    }

    fn why(bytes: &[u8]) -> String {
        match GgufHeader::parse("file", bytes, bytes.len()) {
            Err(Error::Corrupt { what, why }) if what == "file" => why,
            other => panic!("not refused as corrupt: {other:?}"),
        }
    }

    #[test]
    fn round_trips() {
        let plans = [
            plan("scalar", &[], GgmlType::F32),
            plan("bias", &[3], GgmlType::F16),
            plan("linear", &[5, 64], GgmlType::Q8_0),
            plan("conv", &[2, 32, 3, 3], GgmlType::Q4_0),
            plan("projection", &[7, 32, 1, 1], GgmlType::Q8_0),
        ];
        let bytes = file(&metadata(), &plans);
        let file = GgufFile::new("test", bytes.clone()).unwrap();
        assert_eq!(file.header().metadata, metadata());
        assert_eq!(file.names().len(), plans.len());
        for (i, plan) in plans.iter().enumerate() {
            let stored = file.tensor(&plan.name).unwrap().unwrap();
            assert_eq!((&stored.shape, stored.dtype), (&plan.shape, plan.dtype), "{}", plan.name);
            assert_eq!(*stored.bytes, vec![i as u8 + 1; plan.len().unwrap()]);
        }
        assert!(file.tensor("other").unwrap().is_none());
        let start = file.header().data_start;
        assert_eq!(GgufHeader::parse("file", &bytes[..start], bytes.len()).unwrap().as_ref(), Some(file.header()));
        // Less than the header is not enough, and not wrong either.
        for end in 0..start - 32 {
            assert_eq!(GgufHeader::parse("file", &bytes[..end], bytes.len()).unwrap(), None, "{end}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = file(&metadata(), &[plan("a", &[2, 32], GgmlType::Q8_0), plan("b", &[3], GgmlType::F32)]);
        // The last tensor's padding may be missing.
        let end = bytes.len() - (32 - 12);
        (0..end).for_each(|len| drop(why(&bytes[..len])));
        assert!(GgufHeader::parse("file", &bytes[..end], end).is_ok());
    }

    #[test]
    fn no_flipped_byte_panics() {
        let bytes = file(&metadata(), &[plan("a", &[2, 32, 3, 3], GgmlType::Q8_0), plan("b", &[3], GgmlType::F32)]);
        for i in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut hostile = bytes.clone();
                hostile[i] ^= flip;
                if let Ok(file) = GgufFile::new("file", hostile) {
                    for name in file.names() {
                        let stored = file.tensor(&name).unwrap().unwrap();
                        stored.dtype.dequantize(&stored.bytes, stored.shape.iter().product()).unwrap();
                    }
                }
            }
        }
    }

    /// A header of one's own making: each part as bytes.
    fn hostile(tensors: u64, entries: u64, parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat();
        parts.iter().for_each(|part| bytes.extend(*part));
        bytes.resize(bytes.len() + 256, 0);
        bytes
    }

    fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [&(key.len() as u64).to_le_bytes(), key.as_bytes(), &kind.to_le_bytes(), value].concat()
    }

    fn tensor(name: &str, dims: &[u64], dtype: u32, offset: u64) -> Vec<u8> {
        let mut bytes = entry(name, dims.len() as u32, &[]);
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(dtype.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes
    }

    #[test]
    fn refuses_hostile_headers() {
        let huge = u64::MAX.to_le_bytes();
        let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
        let nested = [array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(9, 1)].concat();
        let a = tensor("a", &[8], 0, 0);
        for (bytes, reason) in [
            (b"GGML............................".to_vec(), "start with GGUF"),
            ([&b"GGUF"[..], &2u32.to_le_bytes(), &[0; 64]].concat(), "version is 2"),
            (hostile(u64::MAX, 0, &[]), "tensors do not fit"),
            (hostile(0, 1 << 40, &[]), "entries do not fit"),
            (hostile(0, 1, &[&huge]), "text do not fit"),
            (hostile(0, 1, &[&entry("k", 8, &huge)]), "text do not fit"),
            (hostile(0, 1, &[&entry("k", 9, &array(0, u64::MAX))]), "array do not fit"),
            (hostile(0, 1, &[&entry("k", 9, &nested)]), "nested"),
            (hostile(0, 1, &[&entry("k", 13, &[])]), "unknown type 13"),
            (hostile(0, 1, &[&entry("k", 7, &[2])]), "truth value"),
            (hostile(0, 1, &[&[1, 0, 0, 0, 0, 0, 0, 0, 0xff]]), "UTF-8"),
            (hostile(0, 2, &[&entry("k", 7, &[0]), &entry("k", 7, &[1])]), "`k` occurs twice"),
            (hostile(1, 1, &[&entry(ALIGNMENT, 4, &[0; 4]), &a]), "alignment"),
            (hostile(1, 0, &[&tensor("a", &[1; 5], 0, 0)]), "5 axes"),
            (hostile(1, 0, &[&tensor("a", &[0], 0, 0)]), "impossible length"),
            (hostile(1, 0, &[&tensor("a", &[1 << 40, 1 << 40], 0, 0)]), "impossibly large"),
            (hostile(1, 0, &[&tensor("a", &[1 << 62], 0, 0)]), "impossibly large"),
            (hostile(1, 0, &[&tensor("a", &[33], 8, 0)]), "whole blocks"),
            (hostile(1, 0, &[&tensor("a", &[8], 0, 4)]), "not aligned"),
            (hostile(1, 0, &[&tensor("a", &[8], 0, u64::MAX - 31)]), "beyond the end"),
            (hostile(1, 0, &[&tensor("a", &[1 << 20], 0, 0)]), "beyond the end"),
            (hostile(2, 0, &[&a, &tensor("a", &[8], 0, 32)]), "`a` occurs twice"),
            (hostile(2, 0, &[&a, &tensor("b", &[8], 0, 0)]), "overlaps"),
            (hostile(1, 1, &[&entry("comfy.gguf.orig_shape.a", 9, &array(5, 0)), &a]), "shape its metadata says"),
        ] {
            assert!(why(&bytes).contains(reason), "{reason}: {}", why(&bytes));
        }
        let unknown = hostile(1, 0, &[&tensor("a", &[256], 12, 0)]);
        assert_eq!(GgufHeader::parse("file", &unknown, unknown.len()).unwrap_err().code(), "unsupported");
    }

    #[test]
    fn arrays_cannot_claim_more_memory_than_allowed() {
        let count = MAX_VALUES as u64 + 1;
        let mut bytes = hostile(0, 1, &[&entry("k", 9, &[&0u32.to_le_bytes()[..], &count.to_le_bytes()].concat())]);
        bytes.resize(bytes.len() + MAX_VALUES, 0);
        assert!(why(&bytes).contains("more than"));
    }

    #[test]
    fn the_writer_refuses_what_gguf_cannot_hold() {
        let refused = |plan| GgufWriter::new(Vec::new(), &Metadata::new(), &[plan]).is_err();
        assert!(refused(plan("a", &[2, 33], GgmlType::Q8_0)));
        assert!(refused(plan("a", &[1; 5], GgmlType::F32)));
        assert!(refused(plan("a", &[0], GgmlType::F32)));
        let mixed = Metadata::from([("k".into(), Value::Array(vec![Value::U8(0), Value::I8(0)]))]);
        assert!(GgufWriter::new(Vec::new(), &mixed, &[]).is_err());
        let mut writer = GgufWriter::new(Vec::new(), &Metadata::new(), &[plan("a", &[2], GgmlType::F32)]).unwrap();
        assert!(writer.tensor(&[0; 4]).is_err());
        let writer = GgufWriter::new(Vec::new(), &Metadata::new(), &[plan("a", &[2], GgmlType::F32)]).unwrap();
        assert!(writer.finish().is_err());
    }
}
