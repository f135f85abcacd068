//! Quantized weights as devices keep them.
//!
//! ggml's blocks are 34 and 18 bytes long, but a GPU reads words of 4 bytes at addresses that are multiples of 4. So a
//! packed tensor is one array of 32-bit words, little-endian: first the codes of all blocks, 8 (`Q8_0`) or 4 (`Q4_0`)
//! words a block and in the file's order, then the blocks' f16 scales, two to a word, the first in the low half.
//! That is as many bytes as in the file, but for the half word that an odd number of blocks leaves empty.

use super::quant::{BLOCK, GgmlType};
use crate::{Error, Result};
use half::f16;

/// Words that the codes of one block take.
fn code_words(dtype: GgmlType) -> usize {
    (dtype.block_bytes() - 2) / 4
}

/// `count` numbers of a quantized type as they are in a file, rearranged into words.
///
/// # Errors
/// [`Error::Corrupt`] if `bytes` has another length than they need, [`Error::Invalid`] if the type has no blocks.
pub fn pack(dtype: GgmlType, bytes: &[u8], count: usize) -> Result<Vec<u32>> {
    if !dtype.is_quantized() {
        return Err(Error::Invalid { parameter: "weights", why: format!("{dtype} has no blocks to pack") });
    }
    dtype.check_len(bytes, count)?;
    let blocks = bytes.chunks_exact(dtype.block_bytes());
    let mut words = Vec::with_capacity(blocks.len() * code_words(dtype) + blocks.len().div_ceil(2));
    for block in blocks.clone() {
        words.extend(block[2..].chunks_exact(4).map(|code| u32::from_le_bytes([code[0], code[1], code[2], code[3]])));
    }
    let mut scales = blocks.map(|block| u32::from(u16::from_le_bytes([block[0], block[1]])));
    while let Some(low) = scales.next() {
        words.push(low | scales.next().unwrap_or(0) << 16);
    }
    Ok(words)
}

/// A packed tensor.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    codes: &'a [u32],
    scales: &'a [u32],
    dtype: GgmlType,
}

impl<'a> Blocks<'a> {
    /// The type of `count` numbers that take this many words; the lengths tell the types apart.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if no type does.
    pub fn dtype(words: usize, count: usize) -> Result<GgmlType> {
        let blocks = count / BLOCK;
        let fits = |dtype: &GgmlType| {
            let expected = blocks.checked_mul(code_words(*dtype)).map(|codes| codes + blocks.div_ceil(2));
            count.is_multiple_of(BLOCK) && count > 0 && expected == Some(words)
        };
        [GgmlType::Q8_0, GgmlType::Q4_0].into_iter().find(fits).ok_or_else(|| Error::Corrupt {
            what: "packed weights".into(),
            why: format!("{words} words are not {count} numbers"),
        })
    }

    /// Reads `words` as `count` numbers.
    ///
    /// # Errors
    /// As [`Blocks::dtype`].
    pub fn new(words: &'a [u32], count: usize) -> Result<Self> {
        let dtype = Self::dtype(words.len(), count)?;
        let (codes, scales) = words.split_at(count / BLOCK * code_words(dtype));
        Ok(Self { codes, scales, dtype })
    }

    /// The numbers from `first` on, as many as `numbers` holds, both in whole blocks.
    #[inline(always)]
    pub fn read(&self, first: usize, numbers: &mut [f32]) {
        debug_assert!(first.is_multiple_of(BLOCK) && numbers.len().is_multiple_of(BLOCK), "whole blocks");
        let first = first / BLOCK;
        let (numbers, _) = numbers.as_chunks_mut::<BLOCK>();
        match self.dtype {
            GgmlType::Q4_0 => {
                for (i, numbers) in numbers.iter_mut().enumerate() {
                    let (d, codes) = (self.scale(first + i), self.codes_of::<4>(first + i));
                    let value = |code: u8| d * (f32::from(code) - 8.0);
                    let (low, high) = numbers.split_at_mut(BLOCK / 2);
                    for (j, code) in codes.iter().enumerate() {
                        for (k, code) in code.to_le_bytes().into_iter().enumerate() {
                            low[4 * j + k] = value(code & 15);
                            high[4 * j + k] = value(code >> 4);
                        }
                    }
                }
            }
            _ => {
                for (i, numbers) in numbers.iter_mut().enumerate() {
                    let (d, codes) = (self.scale(first + i), self.codes_of::<8>(first + i));
                    for (j, code) in codes.iter().enumerate() {
                        for (k, code) in code.to_le_bytes().into_iter().enumerate() {
                            numbers[4 * j + k] = d * f32::from(code as i8);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn scale(&self, block: usize) -> f32 {
        f16::from_bits((self.scales[block / 2] >> (16 * (block % 2))) as u16).to_f32()
    }

    #[inline(always)]
    fn codes_of<const WORDS: usize>(&self, block: usize) -> &'a [u32; WORDS] {
        self.codes[block * WORDS..].first_chunk().expect("as many codes as blocks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_numbers_are_those_of_the_file() {
        for dtype in [GgmlType::Q8_0, GgmlType::Q4_0] {
            for blocks in [1, 2, 3, 8] {
                let count = blocks * BLOCK;
                let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-3 * i as f32).collect();
                let bytes = dtype.quantize(&values).unwrap();
                let words = pack(dtype, &bytes, count).unwrap();
                assert_eq!(words.len() * 4, bytes.len().next_multiple_of(4));
                let packed = Blocks::new(&words, count).unwrap();
                let expected = dtype.dequantize(&bytes, count).unwrap();
                let mut found = vec![0.0; count];
                packed.read(0, &mut found);
                assert_eq!(found, expected);
                let mut last = [0.0; BLOCK];
                packed.read(count - BLOCK, &mut last);
                assert_eq!(last, expected[count - BLOCK..]);
            }
        }
    }

    #[test]
    fn only_whole_blocks_are_packed() {
        assert_eq!(pack(GgmlType::Q8_0, &[0; 35], 32).unwrap_err().code(), "corrupt");
        assert_eq!(pack(GgmlType::Q8_0, &[0; 34], 64).unwrap_err().code(), "corrupt");
        assert_eq!(pack(GgmlType::F16, &[0; 64], 32).unwrap_err().code(), "invalid");
        assert_eq!(Blocks::new(&[0; 10], 64).unwrap_err().code(), "corrupt");
        assert_eq!(Blocks::new(&[0; 9], 33).unwrap_err().code(), "corrupt");
        assert_eq!(Blocks::new(&[], 0).unwrap_err().code(), "corrupt");
    }
}
