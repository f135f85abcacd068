//! The trainer: pinned picture packages become a data set, the data set an autoencoder and two experts, and those a
//! model folder that the rest of the crate draws with.
//!
//! | step | module | command |
//! |---|---|---|
//! | download, render, pack | [`data`], [`concepts`], [`captions`] | `pangu-draw train data` |
//! | pictures -> latents -> pictures | [`autoencoder`] | `pangu-draw train autoencoder` |
//! | structure and texture, apart, each on its own timesteps and its own data | [`expert`] | `pangu-draw train expert` |
//! | a model folder | [`export`] | `pangu-draw train export` |
//! | what the model knows by name | [`vocabulary`] | `pangu-draw train vocabulary` |
//! | an encoder that judges drawings | [`eval::dual`] | `pangu-draw train evaluator` |
//! | what the drawings are worth | [`eval`] | `pangu-draw eval` |
//!
//! [`experiments`] trains small models in many ways to measure the paper's claims.
//!
//! [`optimizer`], [`session`], [`plot`] and [`sheet`] are what the loops share. Nothing random depends on anything but
//! a seed and the step's number, so an interrupted run continues exactly as it would have gone on.

pub mod autoencoder;
pub mod captions;
pub mod concepts;
pub mod data;
pub mod eval;
pub mod experiments;
pub mod expert;
pub mod export;
pub mod optimizer;
pub mod plot;
pub mod session;
pub mod sheet;
pub mod sketch;
pub mod text;
pub mod variation;
pub mod vocabulary;
pub mod warm;

use crate::{Error, Result};
use burn::tensor::{Device, DeviceKind};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use std::path::Path;

/// A device by its flag: `cpu`, `wgpu`, or `cuda` (feature `cuda`).
///
/// # Errors
/// [`Error::Invalid`] for any other name, or for `cuda` in a build without it.
pub fn device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::flex()),
        "wgpu" => Ok(Device::wgpu(DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        _ => Err(Error::Invalid {
            parameter: "device",
            why: format!("`{name}` is not one of cpu, wgpu, cuda (cuda needs a build with the feature `cuda`)"),
        }),
    }
}

/// Everything random in one training step, drawn from the run's seed and the step's number alone.
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The numbers of step `step` of a run with seed `seed`.
    pub fn new(seed: u64, step: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(step);
        Self(rng)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Uniform in `0..count`; `count` must not be 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((u64::from(self.0.next_u32()) * count as u64) >> 32) as usize
    }

    /// `count` numbers from N(0, 1) (Box-Muller).
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            let (sin, cos) = (std::f32::consts::TAU * self.uniform()).sin_cos();
            values.extend([radius * cos, radius * sin]);
        }
        values.truncate(count);
        values
    }
}

/// [`Error::Read`] about a path.
fn read_error(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Read { what: path.display().to_string(), why: why.to_string() }
}

/// [`Error::Write`] about a path.
fn write_error(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Write { what: path.display().to_string(), why: why.to_string() }
}
