//! Texture expert: trained at half against full resolution, drawing at full.
//!
//! | arm | samples | computation |
//! |---|---|---|
//! | half size (the paper's) | as all | about a quarter |
//! | whole | as all | all |
//! | half size, as much computation | about four times as many | as the whole one |
//!
//! All draw with the same structure expert.

use super::{Bench, Results, score::Contender};
use crate::{
    Result,
    train::expert::{T_STRUCT, View},
};

/// Its name.
pub const NAME: &str = "texture-resolution";

/// Trains and scores its arms.
///
/// # Errors
/// Those of [`Bench::train`] and [`Bench::score`].
pub fn run(bench: &Bench) -> Result<Results> {
    let mut results = Results::open(bench, NAME, 0..T_STRUCT)?;
    for &seed in &bench.scale.seeds {
        let structure = bench.train(&bench.structure(seed, T_STRUCT))?;
        let (half, whole) = (bench.texture(seed, T_STRUCT), bench.whole_texture(seed));
        let mut longer = half.clone();
        longer.name += "-longer";
        let budget = whole.samples * bench.flops_per_sample(whole.network, View::Whole);
        longer.samples = bench.affordable(budget, half.network, half.view);
        for (name, arm) in [("half size", half), ("whole", whole), ("half size, as much computation as whole", longer)]
        {
            let texture = bench.train(&arm)?;
            let contender = Contender {
                denoiser: &bench.pair(&structure, &texture, T_STRUCT),
                timesteps: 0..1000,
                start: &|prompt| bench.from_noise(prompt),
                flops: bench.drawing(bench.scale.steps, texture.evaluation[0]),
            };
            bench.measure(&mut results, (name, None), seed, texture.cost, &contender)?;
        }
    }
    Ok(results)
}
