//! The ggml element types that weights are stored in.
//!
//! Quantized types cut the flat, row-major data into blocks of [`BLOCK`] numbers that share one f16 scale `d`:
//!
//! | type | bytes a block | value | scale | rounding |
//! |---|---|---|---|---|
//! | `Q8_0` | 2 + 32 | `x = d * q`, `q` in -127..=127 | `d = max abs x / 127` | to nearest, halves away from zero |
//! | `Q4_0` | 2 + 16 | `x = d * (q - 8)`, `q` in 0..=15 | `d = m / -8`, `m` the number of largest magnitude | `floor(x / d + 8.5)` |
//!
//! Byte `i` of a `Q4_0` block holds number `i` in its low half and number `i + 16` in its high half. Quantizing divides
//! by the f32 scale, before that is rounded to f16, as ggml's `quantize_row_*_ref` does.

use crate::{Error, Result};
use half::f16;
use std::{fmt, str::FromStr};

/// Numbers in one block of a quantized type.
pub const BLOCK: usize = 32;

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
    /// All types.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q4_0, Self::Q8_0];

    /// The number that GGUF files call this type by (`ggml_type`).
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
        }
    }

    /// The type called `id` in GGUF files, if it is one of these.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.id() == id)
    }

    /// The type's name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q4_0 => "q4_0",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Numbers in one block: 1 for the float types, [`BLOCK`] for the quantized ones.
    pub fn block(self) -> usize {
        if self.is_quantized() { BLOCK } else { 1 }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q8_0 => 2 + BLOCK,
        }
    }

    /// Whether numbers share scales.
    pub fn is_quantized(self) -> bool {
        matches!(self, Self::Q4_0 | Self::Q8_0)
    }

    /// Bytes of `count` numbers; `None` if they do not fill whole blocks or if the length overflows.
    pub fn byte_len(self, count: usize) -> Option<usize> {
        count.is_multiple_of(self.block()).then_some(count / self.block())?.checked_mul(self.block_bytes())
    }

    /// The largest magnitude that can be stored.
    fn limit(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            Self::Q4_0 => f16::MAX.to_f32() * 8.0,
            Self::Q8_0 => f16::MAX.to_f32() * 127.0,
        }
    }

    /// Writes `values` in this type, little-endian.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `values` do not fill whole blocks, or if one of them is not finite in this type.
    pub fn quantize(self, values: &[f32]) -> Result<Vec<u8>> {
        let invalid = |why| Err(Error::Invalid { parameter: "values", why });
        let Some(capacity) = self.byte_len(values.len()) else {
            return invalid(format!("{} numbers do not fill whole blocks of {self}", values.len()));
        };
        if let Some(x) = values.iter().find(|x| x.is_nan() || x.abs() > self.limit()) {
            return invalid(format!("{x} cannot be stored as {self}"));
        }
        let mut bytes = Vec::with_capacity(capacity);
        match self {
            Self::F32 => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            Self::F16 => values.iter().for_each(|&x| bytes.extend(f16::from_f32(x).to_le_bytes())),
            Self::Q8_0 => {
                for block in values.chunks_exact(BLOCK) {
                    let (scale, inverse) = scale(extreme(block).abs() / 127.0);
                    bytes.extend(scale);
                    bytes.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
                }
            }
            Self::Q4_0 => {
                for block in values.chunks_exact(BLOCK) {
                    let (scale, inverse) = scale(extreme(block) / -8.0);
                    // In f64: the sum is then rounded once, by the cast, as in ggml where its C fuses the two operations.
                    let code = |x: f32| (f64::from(x) * f64::from(inverse) + 8.5).min(15.0) as u8;
                    let (low, high) = block.split_at(BLOCK / 2);
                    bytes.extend(scale);
                    bytes.extend(low.iter().zip(high).map(|(&low, &high)| code(low) | code(high) << 4));
                }
            }
        }
        Ok(bytes)
    }

    /// Reads `count` numbers out of `bytes`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if `bytes` has another length than `count` numbers need.
    pub fn dequantize(self, bytes: &[u8], count: usize) -> Result<Vec<f32>> {
        if self.byte_len(count) != Some(bytes.len()) {
            let why = format!("{} bytes are not {count} numbers of type {self}", bytes.len());
            return Err(Error::Corrupt { what: "tensor data".into(), why });
        }
        let mut values = Vec::with_capacity(count);
        self.read(bytes, &mut values);
        Ok(values)
    }

    /// Appends the numbers of the whole blocks in `bytes`.
    pub(super) fn read(self, bytes: &[u8], values: &mut Vec<f32>) {
        for block in bytes.chunks_exact(self.block_bytes()) {
            match self {
                Self::F32 => values.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                Self::F16 => values.push(f16_at_start(block)),
                Self::Q8_0 => {
                    let d = f16_at_start(block);
                    values.extend(block[2..].iter().map(|&q| d * f32::from(q as i8)));
                }
                Self::Q4_0 => {
                    let d = f16_at_start(block);
                    let value = |q: u8| d * (f32::from(q) - 8.0);
                    values.extend(block[2..].iter().map(|q| value(q & 15)));
                    values.extend(block[2..].iter().map(|q| value(q >> 4)));
                }
            }
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GgmlType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| Error::Invalid {
            parameter: "quantize",
            why: format!("`{name}` is none of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// The number of largest magnitude, the first of equals.
fn extreme(block: &[f32]) -> f32 {
    block.iter().fold(0.0, |extreme: f32, &x| if x.abs() > extreme.abs() { x } else { extreme })
}

/// A block's scale as it is stored, and the inverse of the unrounded scale (0 for an empty block).
fn scale(d: f32) -> ([u8; 2], f32) {
    (f16::from_f32(d).to_le_bytes(), if d == 0.0 { 0.0 } else { d.recip() })
}

fn f16_at_start(block: &[u8]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect()
    }

    #[test]
    fn round_trips_within_half_a_step() {
        for (dtype, step) in
            [(GgmlType::F32, 0.0), (GgmlType::F16, 1e-3), (GgmlType::Q8_0, 0.0052), (GgmlType::Q4_0, 0.082)]
        {
            let values = ramp(96);
            let bytes = dtype.quantize(&values).unwrap();
            assert_eq!(Some(bytes.len()), dtype.byte_len(96));
            for (a, b) in values.iter().zip(dtype.dequantize(&bytes, 96).unwrap()) {
                // Q4_0 clips the largest number of the sign opposite to the extreme: a whole step.
                assert!(
                    (a - b).abs() <= if dtype == GgmlType::Q4_0 { step } else { step / 2.0 + 1e-4 * a.abs() },
                    "{dtype}: {a} {b}"
                );
            }
        }
    }

    #[test]
    fn rounds_as_ggml_does() {
        let mut block = [0.0; BLOCK];
        (block[0], block[1], block[2], block[16]) = (127.0, 2.5, -2.5, -127.0);
        let bytes = GgmlType::Q8_0.quantize(&block).unwrap();
        assert_eq!(bytes[..2], f16::ONE.to_le_bytes());
        assert_eq!([bytes[2], bytes[3], bytes[4], bytes[18]], [127, 3, -3i8 as u8, -127i8 as u8]);

        (block[0], block[1], block[2], block[16]) = (-8.0, 7.9, 0.5, -0.5);
        let bytes = GgmlType::Q4_0.quantize(&block).unwrap();
        assert_eq!(bytes[..2], f16::ONE.to_le_bytes());
        // Low halves: -8 -> 0, 7.9 -> 15 (clipped), 0.5 -> 9 (up); high half of byte 0: -0.5 -> 8 (up).
        assert_eq!(bytes[2..5], [0x80, 0x8f, 0x89]);
    }

    #[test]
    fn zeros_stay_zeros() {
        for dtype in GgmlType::ALL {
            let bytes = dtype.quantize(&[0.0; 64]).unwrap();
            assert_eq!(dtype.dequantize(&bytes, 64).unwrap(), [0.0; 64]);
        }
    }

    #[test]
    fn refuses_what_cannot_be_stored() {
        assert!(GgmlType::Q8_0.quantize(&[0.0; 33]).is_err());
        for dtype in GgmlType::ALL {
            for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = [1.0; 32];
                values[5] = x;
                assert_eq!(dtype.quantize(&values).unwrap_err().code(), "invalid");
            }
        }
        assert!(GgmlType::F16.quantize(&[1e6]).is_err());
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(GgmlType::Q4_0.byte_len(31), None);
        assert_eq!(GgmlType::F32.byte_len(usize::MAX / 2), None);
        assert_eq!(GgmlType::Q8_0.dequantize(&[0; 33], 32).unwrap_err().code(), "corrupt");
        assert_eq!(GgmlType::F32.dequantize(&[0; 4], usize::MAX).unwrap_err().code(), "corrupt");
    }

    #[test]
    fn names_and_numbers_agree() {
        for dtype in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(dtype.id()), Some(dtype));
            assert_eq!(dtype.name().parse::<GgmlType>().unwrap(), dtype);
        }
        assert!("q5_k".parse::<GgmlType>().is_err());
    }
}
