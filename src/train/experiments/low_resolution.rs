//! Structure expert: trained on high resolution only, with scaled-up pictures of low resolution beside them, or on all at
//! high resolution, which the others cannot have: the upper bound.
//!
//! All see as many samples, and draw with the same texture expert.

use super::{Arm, Bench, Results, score::Contender};
use crate::{Result, train::expert::T_STRUCT};

/// Its name.
pub const NAME: &str = "low-resolution";

/// Trains and scores its arms.
///
/// # Errors
/// Those of [`Bench::train`] and [`Bench::score`].
pub fn run(bench: &Bench) -> Result<Results> {
    let mut results = Results::open(bench, NAME, T_STRUCT..1000)?;
    for &seed in &bench.scale.seeds {
        let texture = bench.train(&bench.texture(seed, T_STRUCT))?;
        let mixed = bench.structure(seed, T_STRUCT);
        let named = |name: &str| format!("{}-{name}", mixed.name);
        for (name, arm) in [
            ("high resolution only", Arm { name: named("high-only"), low_resolution: false, ..mixed.clone() }),
            ("low resolution too", mixed.clone()),
            ("all at high resolution", Arm { name: named("all-high"), material: &bench.sharp, ..mixed.clone() }),
        ] {
            let structure = bench.train(&arm)?;
            let contender = Contender {
                denoiser: &bench.pair(&structure, &texture, T_STRUCT),
                timesteps: 0..1000,
                start: &|prompt| bench.from_noise(prompt),
                flops: bench.drawing(bench.scale.steps, structure.evaluation[0]),
            };
            bench.measure(&mut results, (name, None), seed, structure.cost, &contender)?;
        }
    }
    Ok(results)
}
