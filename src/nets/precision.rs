//! The numbers that networks compute with: f16 where a device has it, and f32 again where f16 was too small.
//!
//! A network computes in the type of the sample it is given. Means and variances, softmax over attention, the time embedding and
//! layers with dense weights are in f32 whatever that is; sums of products are added up in f32.
//!
//! f16 ends at 65504. What grows beyond becomes infinite, then not a number, and either stays that to the network's output,
//! which [`Pace::evaluate`](super::Pace::evaluate) looks at.

use burn::tensor::{FloatDType, Tensor};
use serde::Serialize;

/// The numbers between a network's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Half the bytes, and on many GPUs twice the speed.
    F16,
    /// What every device has.
    F32,
}

impl Precision {
    /// burn's name.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F16 => FloatDType::F16,
            Self::F32 => FloatDType::F32,
        }
    }
}

/// What may compute in f16. Encoders of prompts and pictures run once a drawing and stay in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// UNets, and ControlNets beside them.
    Denoise,
    /// The way to pixels and back.
    Autoencoder,
}

/// An evaluation that f16 was too small for: it was made again in f32, as were those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overflow {
    /// Where.
    pub stage: Stage,
    /// Which evaluation of the stage's networks, from 1.
    pub evaluation: usize,
}

/// The numbers that a drawing was computed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Arithmetic {
    /// The denoiser's, at its end.
    pub denoise: Precision,
    /// The autoencoder's, at its end.
    pub autoencoder: Precision,
    /// Where f16 was too small.
    pub overflows: Vec<Overflow>,
}

/// How many evaluations each stage has made, and in what.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    arithmetic: Arithmetic,
    evaluations: [usize; 2],
}

impl Tally {
    pub fn new(precision: Precision) -> Self {
        let arithmetic = Arithmetic { denoise: precision, autoencoder: precision, overflows: Vec::new() };
        Self { arithmetic, evaluations: [0; 2] }
    }

    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic.clone()
    }

    /// Counts an evaluation and answers what it is to be made in.
    pub fn begin(&mut self, stage: Stage) -> Precision {
        self.evaluations[stage as usize] += 1;
        *self.precision(stage)
    }

    /// The last evaluation of `stage` was not finite.
    pub fn overflow(&mut self, stage: Stage) {
        *self.precision(stage) = Precision::F32;
        self.arithmetic.overflows.push(Overflow { stage, evaluation: self.evaluations[stage as usize] });
    }

    fn precision(&mut self, stage: Stage) -> &mut Precision {
        match stage {
            Stage::Denoise => &mut self.arithmetic.denoise,
            Stage::Autoencoder => &mut self.arithmetic.autoencoder,
        }
    }
}

/// What `work` makes of `x` in f32, in the type of `x`.
pub(super) fn in_f32<const D: usize, const E: usize>(
    x: Tensor<D>,
    work: impl FnOnce(Tensor<D>) -> Tensor<E>,
) -> Tensor<E> {
    let dtype = x.dtype();
    work(x.cast(FloatDType::F32)).cast(dtype)
}
