//! The ggml element types that weights are stored in.

use crate::{Error, Result};

/// Element types of a GGUF tensor that this engine reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 4-bit blocks of 32 with an f16 scale: `x = d * (q - 8)`.
    Q4_0,
    /// 8-bit blocks of 32 with an f16 scale: `x = d * q`.
    Q8_0,
}

impl GgmlType {
    /// Reads `count` numbers out of `bytes`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if `bytes` has another length than `count` numbers need.
    pub fn dequantize(self, bytes: &[u8], count: usize) -> Result<Vec<f32>> {
        match self {
            Self::F32 if bytes.len() == count * 4 => {
                Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect())
            }
            Self::F16 if bytes.len() == count * 2 => {
                Ok(bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
            }
            _ => Err(Error::Corrupt { what: "tensor".into(), why: "length".into() }),
        }
    }
}
