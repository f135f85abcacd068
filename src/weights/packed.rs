//! Weights as devices keep them that are not burn's: quantized ones, and those that are in parts.
//!
//! ggml's blocks are 34 and 18 bytes long, but a GPU reads words of 4 bytes at addresses that are multiples of 4. So a
//! packed tensor is one array of 32-bit words, little-endian: first the codes of all blocks, 8 (`Q8_0`) or 4 (`Q4_0`)
//! words a block and in the file's order, then the blocks' f16 scales, two to a word, the first in the low half.
//! That is as many bytes as in the file, but for the half word that an odd number of blocks leaves empty. Of numbers without
//! scales (`F32`) the codes are the numbers' bits.
//!
//! A GPU reads only so many bytes at once: a larger weight is cut into parts of whole rows, each packed by itself.

use super::quant::{BLOCK, GgmlType};
use crate::{Error, Result};
use half::f16;
use std::ops::Range;

/// Bytes that a shader can read through one binding on any GPU.
pub const LARGEST_BINDING: usize = 128 << 20;

/// In how many parts a weight of `rows` of `columns` numbers is kept, so that each takes at most `limit` bytes even in f32.
pub fn parts(rows: usize, columns: usize, limit: usize) -> usize {
    rows.div_ceil((limit / (4 * columns).max(1)).max(1)).max(1)
}

/// The rows of each part.
pub fn split(rows: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    let each = rows.div_ceil(parts);
    (0..parts).map(move |part| part * each..((part + 1) * each).min(rows))
}

/// Words that the codes of one block take.
fn code_words(dtype: GgmlType) -> usize {
    if dtype.is_quantized() { (dtype.block_bytes() - 2) / 4 } else { BLOCK }
}

/// Words that so many blocks take.
fn words(dtype: GgmlType, blocks: usize) -> Option<usize> {
    let scales = if dtype.is_quantized() { blocks.div_ceil(2) } else { 0 };
    blocks.checked_mul(code_words(dtype))?.checked_add(scales)
}

/// A tensor on its way from the bytes of a file into words.
#[derive(Debug)]
pub struct Packer {
    /// Type in the file.
    dtype: GgmlType,
    words: Vec<u32>,
    /// Index of the first scale.
    scales: usize,
    /// File blocks that are here, and those that come.
    here: usize,
    blocks: usize,
}

impl Packer {
    /// For `count` numbers of a type: quantized ones stay so, others become f32.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they do not fill whole blocks of [`BLOCK`] or do not fit into memory.
    pub fn new(dtype: GgmlType, count: usize) -> Result<Self> {
        let invalid = |why| Error::Invalid { parameter: "weights", why };
        let blocks = count / BLOCK;
        let length = words(dtype, blocks).filter(|_| count.is_multiple_of(BLOCK));
        let length = length.ok_or_else(|| invalid(format!("{count} numbers do not fill whole blocks")))?;
        let mut words = Vec::new();
        words.try_reserve_exact(length).map_err(|_| invalid(format!("{count} numbers do not fit into memory")))?;
        words.resize(length, 0);
        Ok(Self { dtype, words, scales: blocks * code_words(dtype), here: 0, blocks: count / dtype.block() })
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> usize {
        (self.blocks - self.here) * self.dtype.block_bytes()
    }

    /// Takes the next bytes of the file, in whole blocks of its type and not more than are missing.
    pub fn push(&mut self, bytes: &[u8]) {
        for block in bytes.chunks_exact(self.dtype.block_bytes()) {
            match self.dtype {
                GgmlType::F32 => self.words[self.here] = u32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                GgmlType::F16 => self.words[self.here] = f16::from_le_bytes([block[0], block[1]]).to_f32().to_bits(),
                GgmlType::Q4_0 | GgmlType::Q8_0 => {
                    let length = code_words(self.dtype);
                    let (words, _) = block[2..].as_chunks();
                    for (word, code) in self.words[self.here * length..][..length].iter_mut().zip(words) {
                        *word = u32::from_le_bytes(*code);
                    }
                    let scale = u32::from(u16::from_le_bytes([block[0], block[1]]));
                    self.words[self.scales + self.here / 2] |= scale << (16 * (self.here % 2));
                }
            }
            self.here += 1;
        }
    }

    /// All words, as soon as nothing is missing, where the numbers are those from `first` on of a packed tensor of `of`: how many
    /// words that has, and runs of its words with the places where they begin. `first` is a multiple of two blocks.
    pub fn finish(&mut self, first: usize, of: usize) -> (usize, Vec<(usize, Vec<u32>)>) {
        debug_assert_eq!(self.here, self.blocks, "all bytes have come");
        let (first, blocks, each) = (first / BLOCK, of / BLOCK, code_words(self.dtype));
        let mut codes = std::mem::take(&mut self.words);
        let length = words(self.dtype, blocks).expect("no more words than numbers");
        if codes.len() == length {
            return (length, vec![(0, codes)]);
        }
        let scales = codes.split_off(self.scales);
        let runs = [(first * each, codes), (blocks * each + first / 2, scales)];
        (length, runs.into_iter().filter(|(_, run)| !run.is_empty()).collect())
    }
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
        let fits = |dtype: &GgmlType| {
            count.is_multiple_of(BLOCK) && count > 0 && self::words(*dtype, count / BLOCK) == Some(words)
        };
        [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::F32].into_iter().find(fits).ok_or_else(|| Error::Corrupt {
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
            GgmlType::F32 | GgmlType::F16 => {
                for (i, numbers) in numbers.iter_mut().enumerate() {
                    *numbers = self.codes_of::<BLOCK>(first + i).map(f32::from_bits);
                }
            }
            GgmlType::Q8_0 => {
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
        for dtype in GgmlType::ALL {
            for blocks in [1, 2, 3, 8] {
                let count = blocks * BLOCK;
                let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-3 * i as f32).collect();
                let bytes = dtype.quantize(&values).unwrap();
                let mut packer = Packer::new(dtype, count).unwrap();
                // In pieces, as they come.
                let middle = blocks / 2 * BLOCK / dtype.block() * dtype.block_bytes();
                packer.push(&bytes[..middle]);
                assert_eq!(packer.missing(), bytes.len() - middle);
                packer.push(&bytes[middle..]);
                assert_eq!(packer.missing(), 0);
                let (length, mut runs) = packer.finish(0, count);
                let (0, words) = runs.remove(0) else { panic!("one run, from the start") };
                assert_eq!((length, runs.len()), (words.len(), 0));
                let kept = if dtype == GgmlType::F16 { count * 4 } else { bytes.len().next_multiple_of(4) };
                assert_eq!(words.len() * 4, kept);
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
    fn pieces_are_runs_of_the_whole() {
        for dtype in GgmlType::ALL {
            let count = 7 * BLOCK;
            let values: Vec<f32> = (0..count).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
            let packed = |numbers: Range<usize>| {
                let mut packer = Packer::new(dtype, numbers.len()).unwrap();
                packer.push(&dtype.quantize(&values[numbers.clone()]).unwrap());
                packer.finish(numbers.start, count)
            };
            let (length, whole) = packed(0..count);
            let mut joined = vec![0; length];
            for numbers in [4 * BLOCK..count, 0..2 * BLOCK, 2 * BLOCK..4 * BLOCK] {
                let (of, runs) = packed(numbers);
                assert_eq!(of, length);
                runs.iter().for_each(|(at, run)| joined[*at..*at + run.len()].copy_from_slice(run));
            }
            assert_eq!([(0, joined)], whole[..]);
        }
    }

    #[test]
    fn only_whole_blocks_are_packed() {
        assert_eq!(Packer::new(GgmlType::Q8_0, 33).unwrap_err().code(), "invalid");
        assert_eq!(Packer::new(GgmlType::F32, 31).unwrap_err().code(), "invalid");
        assert_eq!(Packer::new(GgmlType::F32, usize::MAX / 32 * 32).unwrap_err().code(), "invalid");
        assert_eq!(Blocks::new(&[0; 10], 64).unwrap_err().code(), "corrupt");
        assert_eq!(Blocks::new(&[0; 9], 33).unwrap_err().code(), "corrupt");
        assert_eq!(Blocks::new(&[], 0).unwrap_err().code(), "corrupt");
    }

    #[test]
    fn parts_are_within_the_limit_and_together_all_rows() {
        for rows in [1, 2, 7, 9, 100] {
            for limit in [1, 128, 256, 400, 1000, 12_800, usize::MAX] {
                let parts = parts(rows, 32, limit);
                let ranges: Vec<_> = split(rows, parts).collect();
                assert_eq!(ranges.len(), parts);
                assert!(ranges.iter().all(|part| !part.is_empty() && (part.len() * 128 <= limit || part.len() == 1)));
                assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
            }
        }
    }
}
