//! Where the structure expert ends and the texture expert begins.
//!
//! Both are trained anew for each boundary, each on as many samples as for any other, so that all pairs cost the same.

use super::{Bench, Results, score::Contender};
use crate::Result;

/// Its name.
pub const NAME: &str = "boundary";

/// The boundaries, in timesteps.
pub const BOUNDARIES: [usize; 5] = [500, 200, 350, 650, 800];

/// Trains and scores its arms.
///
/// # Errors
/// Those of [`Bench::train`] and [`Bench::score`].
pub fn run(bench: &Bench) -> Result<Results> {
    let mut results = Results::open(bench, NAME, 0..1000)?;
    for &seed in &bench.scale.seeds {
        for t_struct in BOUNDARIES {
            let structure = bench.train(&bench.structure(seed, t_struct))?;
            let texture = bench.train(&bench.texture(seed, t_struct))?;
            let contender = Contender {
                denoiser: &bench.pair(&structure, &texture, t_struct),
                timesteps: 0..1000,
                start: &|prompt| bench.from_noise(prompt),
                flops: bench.drawing(bench.scale.steps, structure.evaluation[0]),
            };
            let arm = format!("T_struct = {t_struct}");
            let cost = structure.cost + texture.cost;
            bench.measure(&mut results, (&arm, Some(t_struct as f64)), seed, cost, &contender)?;
        }
    }
    Ok(results)
}
