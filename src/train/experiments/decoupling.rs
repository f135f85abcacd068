//! The time-decoupled generator against its rivals (PanGu-Draw, figure 2), all trained with the same computation.
//!
//! | arm | networks | training | drawing |
//! |---|---|---|---|
//! | two experts | structure and texture | as the paper trains them | structure down to `T_struct`, texture below |
//! | resolution boost | one of twice the parameters, for all t | half of the computation on all pictures at half size, then half on whole pictures of high resolution | the one network |
//! | cascade | one for pictures of half the side, for all t; one for whole pictures, t below `T_struct` | the second as much as a texture expert on whole pictures, the first on all pictures with the rest | the first at half size; decoded, scaled up in pixels, encoded, noised to `T_struct`; the second from there |

use super::{
    Arm, Bench, Cost, Results, Trained, flops,
    score::{Contender, Prompt},
};
use crate::{
    Result,
    diffusion::{noise::Stream, schedule::initial_scale},
    train::{
        expert::{T_STRUCT, View},
        export,
    },
    weights::quant::GgmlType,
};
use burn::{
    nn::interpolate::{Interpolate2dConfig, InterpolateMode},
    tensor::Tensor,
};

/// Its name.
pub const NAME: &str = "decoupling";

/// Pictures at half scale, without windows.
const SMALL: View = View::Half { windows: 0.0 };

/// Trains and scores its arms.
///
/// # Errors
/// Those of [`Bench::train`] and [`Bench::score`].
pub fn run(bench: &Bench) -> Result<Results> {
    let mut results = Results::open(bench, NAME, 0..1000)?;
    for &seed in &bench.scale.seeds {
        let (structure, texture) =
            (bench.train(&bench.structure(seed, T_STRUCT))?, bench.train(&bench.texture(seed, T_STRUCT))?);
        let cost = structure.cost + texture.cost;
        let contender = Contender {
            denoiser: &bench.pair(&structure, &texture, T_STRUCT),
            timesteps: 0..1000,
            start: &|prompt| bench.from_noise(prompt),
            flops: bench.drawing(bench.scale.steps, structure.evaluation[0]),
        };
        bench.measure(&mut results, ("two experts", None), seed, cost, &contender)?;

        let [small, single] = boosted(bench, seed, cost.flops)?;
        let contender = Contender {
            denoiser: &single.denoiser,
            timesteps: 0..1000,
            start: &|prompt| bench.from_noise(prompt),
            flops: bench.drawing(bench.scale.steps, single.evaluation[0]),
        };
        // The same parameters, trained twice.
        let of_both = Cost { parameters: single.cost.parameters, ..small.cost + single.cost };
        bench.measure(&mut results, ("resolution boost", None), seed, of_both, &contender)?;

        let large = bench.train(&bench.whole_texture(seed))?;
        let small = bench.train(&Arm {
            name: "cascade-small".into(),
            view: SMALL,
            timesteps: 0..1000,
            samples: bench.affordable(cost.flops.saturating_sub(large.cost.flops), &bench.scale.network, SMALL),
            ..bench.structure(seed, T_STRUCT)
        })?;
        let tail = tail(bench)?;
        let side = bench.pixels.downscale() * bench.sharp.latent_shape()[1];
        let [_, decoding] = flops::autoencoder(&bench.pixels, side / 2).map(|count| count.flops);
        let [encoding, _] = flops::autoencoder(&bench.pixels, side).map(|count| count.flops);
        let contender = Contender {
            denoiser: &large.denoiser,
            timesteps: 0..T_STRUCT,
            start: &|prompt| enlarged(bench, &small, prompt),
            flops: bench.drawing(bench.scale.steps, small.evaluation[1])
                + decoding
                + encoding
                + bench.drawing(tail.len() - 1, large.evaluation[0]),
        };
        bench.measure(&mut results, ("cascade", None), seed, small.cost + large.cost, &contender)?;
    }
    Ok(results)
}

/// One network for all timesteps: half of `budget` on small pictures, half on whole ones.
fn boosted(bench: &Bench, seed: u64, budget: u64) -> Result<[Trained; 2]> {
    let network = &bench.scale.doubled;
    let first = Arm {
        name: "boost-small".into(),
        view: SMALL,
        timesteps: 0..1000,
        network,
        samples: bench.affordable(budget / 2, network, SMALL),
        ..bench.structure(seed, T_STRUCT)
    };
    let small = bench.train(&first)?;
    let weights = small.dir.join("weights.gguf");
    if !weights.exists() {
        let class = "UNet2DConditionModel";
        export::write(small.denoiser.network(), class, network, "", GgmlType::F32, &weights)?;
    }
    let single = bench.train(&Arm {
        name: "boost-whole".into(),
        low_resolution: false,
        view: View::Whole,
        samples: bench.affordable(budget / 2, network, View::Whole),
        init: Some(weights),
        ..first
    })?;
    Ok([small, single])
}

/// Noise levels of the cascade's second network.
fn tail(bench: &Bench) -> Result<Vec<f64>> {
    let first = bench.schedule.sigma((T_STRUCT - 1) as f64);
    Ok(std::iter::once(first).chain(bench.sigmas()?.into_iter().filter(|&sigma| sigma < first)).collect())
}

/// Drawings of the cascade's first network, twice as large, with fresh noise for the second.
fn enlarged(bench: &Bench, small: &Trained, prompt: &Prompt) -> Result<(Tensor<4>, Vec<f64>)> {
    let ([channels, side, _], half) = (bench.sharp.latent_shape(), bench.sharp.half_side());
    let (sigmas, tail) = (bench.sigmas()?, tail(bench)?);
    let noise = |stream, side| prompt.noise.normal(stream, [prompt.count, channels, side, side], &bench.device);
    let x = noise(Stream::Step(0), half) * initial_scale(sigmas[0]);
    let drawn = bench.statistics.restore(bench.sample(&small.denoiser, prompt, &sigmas, x)?);
    let pixels = bench.autoencoder.decoder.decode_now(drawn)?.clamp(0.0, 2.0);
    let double = Interpolate2dConfig::new()
        .with_scale_factor(Some([2.0; 2]))
        .with_mode(InterpolateMode::Linear)
        .with_align_corners(false)
        .init();
    let clean = bench.statistics.normalize(bench.autoencoder.encoder.encode_now(double.forward(pixels))?);
    Ok((clean + noise(Stream::Latent, side) * tail[0], tail))
}
