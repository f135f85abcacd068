//! Seeded noise, the same bits on every machine and in every browser.

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};
use std::f64::consts::TAU;

/// What a piece of noise is for. Each gets a stream of its own, so that drawing one never shifts another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The latent that a run starts from.
    Latent,
    /// The noise that a stochastic sampler adds in the step of this index.
    Step(usize),
    /// The latent of the foreign model of this index, where models draw together.
    Foreign(usize),
    /// The fresh noise with which another resolution begins.
    Bridge,
}

impl Stream {
    fn id(self) -> u64 {
        match self {
            Self::Latent => 0,
            Self::Step(index) => 1 + index as u64,
            Self::Foreign(index) => (1 << 32) + index as u64,
            Self::Bridge => 1 << 33,
        }
    }
}

/// Standard normal noise from a seed, bit-equal natively and in WebAssembly.
///
/// ChaCha20 with the seed as its key (little-endian, then zeros), the stream's id as its nonce and the block counter
/// from 0 gives 64-bit words `w`. Two words give two uniform numbers, `u1 = ((w1 >> 11) + 1) / 2^53` in `(0, 1]` and
/// `u2 = (w2 >> 11) / 2^53` in `[0, 1)`, and those two normal ones (Box & Muller 1958), rounded to f32:
///
/// `sqrt(-2 ln u1) cos(2 pi u2)`, `sqrt(-2 ln u1) sin(2 pi u2)`
///
/// `ln`, `cos` and `sin` come from the `libm` crate, because the platforms' own differ in the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    seed: u64,
}

impl Noise {
    /// The noise of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The first `count` normal numbers of `stream`.
    pub fn values(&self, stream: Stream, count: usize) -> Vec<f32> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut words = ChaCha20Rng::from_seed(key);
        words.set_stream(stream.id());
        let mut uniform = || (words.next_u64() >> 11) as f64;
        let unit = 2f64.powi(-53);
        let pairs = (0..count.div_ceil(2)).flat_map(|_| {
            let radius = (-2.0 * libm::log((uniform() + 1.0) * unit)).sqrt();
            let angle = TAU * (uniform() * unit);
            [(radius * libm::cos(angle)) as f32, (radius * libm::sin(angle)) as f32]
        });
        pairs.take(count).collect()
    }

    /// A normal tensor of `shape`, filled in row-major order: the first picture of a batch is what it would be alone.
    pub fn normal<const D: usize>(&self, stream: Stream, shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.values(stream, shape.iter().product()), shape), device)
    }
}
