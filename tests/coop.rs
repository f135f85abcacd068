//! Coop-Diffusion against the paper's own lines, and against Gaussian data, where the ideal denoisers are known.

use burn::tensor::{Device, Tensor};
use pangu_draw::{
    coop::{
        Opening, Participant, Space,
        latent::{CoopLatent, Exchange, Falloff, Foreign, Strength},
        resolution::{autocorrelation, bridge, divide, scale_noisy},
    },
    diffusion::{
        Cond, Denoiser, Denoising,
        noise::{Noise, Stream},
        samplers::{Run, Sampler, Step},
        schedule::{Schedule, ScheduleConfig, Spacing},
    },
    nets::Pace,
    pixels::Upsampler,
};
use pollster::block_on;
use std::cell::Cell;

/// Pixels of the home model's picture.
const SIZE: [usize; 2] = [6, 8];

/// The ideal denoiser of data `N(mean, deviation^2)`, every element apart:
/// `E[x0 | x] = mean + deviation^2 / (deviation^2 + sigma^2) (x - mean)`.
struct Gaussian {
    mean: f64,
    deviation: f64,
    asked: Cell<usize>,
}

impl Gaussian {
    fn new(mean: f64, deviation: f64) -> Self {
        Self { mean, deviation, asked: Cell::new(0) }
    }

    fn answer(&self, x: Tensor<4>, sigma: f64) -> Tensor<4> {
        self.asked.set(self.asked.get() + 1);
        let variance = self.deviation * self.deviation;
        (x - self.mean) * (variance / (variance + sigma * sigma)) + self.mean
    }
}

impl Denoiser for Gaussian {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, _: &'a Cond, _: &'a Pace) -> Denoising<'a> {
        let answer = self.answer(x, sigma);
        Box::pin(async { Ok(answer) })
    }
}

/// A latent space without loss: patches of `patch` pixels a side become channels, shifted and scaled.
struct Patches {
    patch: usize,
    shift: f64,
    scale: f64,
    passes: Cell<usize>,
}

impl Patches {
    fn new(patch: usize, shift: f64, scale: f64) -> Self {
        Self { patch, shift, scale, passes: Cell::new(0) }
    }

    fn to_pixels(&self, latents: Tensor<4>) -> Tensor<4> {
        let ([b, c, h, w], r) = (latents.dims(), self.patch);
        let patches = (latents / self.scale + self.shift).reshape([b, c / (r * r), r, r, h, w]);
        patches.permute([0, 1, 4, 2, 5, 3]).reshape([b, c / (r * r), h * r, w * r])
    }

    fn to_latents(&self, pixels: Tensor<4>) -> Tensor<4> {
        let ([b, c, h, w], r) = (pixels.dims(), self.patch);
        let patches = pixels.reshape([b, c, h / r, r, w / r, r]).permute([0, 1, 3, 5, 2, 4]);
        (patches.reshape([b, c * r * r, h / r, w / r]) - self.shift) * self.scale
    }
}

impl Space for Patches {
    fn decode<'a>(&'a self, latents: Tensor<4>, _: &'a Pace) -> Denoising<'a> {
        self.passes.set(self.passes.get() + 1);
        Box::pin(async { Ok(self.to_pixels(latents)) })
    }

    fn encode<'a>(&'a self, pixels: Tensor<4>, _: &'a Pace) -> Denoising<'a> {
        self.passes.set(self.passes.get() + 1);
        Box::pin(async { Ok(self.to_latents(pixels)) })
    }
}

fn participant<'a>(denoiser: &'a dyn Denoiser, space: &'a Patches, [height, width]: [usize; 2]) -> Participant<'a> {
    let patch = space.patch;
    Participant {
        denoiser,
        space,
        latent: [1, 4 * patch * patch, height / patch, width / patch],
        size: [height, width],
    }
}

fn nothing() -> Cond {
    Cond { tokens: Tensor::zeros([1, 1, 1], &Device::flex()), vector: None }
}

fn noise(stream: Stream, shape: [usize; 4]) -> Tensor<4> {
    Noise::new(5).normal(stream, shape, &Device::flex())
}

fn constant(weight: f64) -> Strength {
    Strength { weight, until: 0.0, falloff: Falloff::Constant }
}

fn sd() -> Schedule {
    Schedule::new(&ScheduleConfig::stable_diffusion()).unwrap()
}

fn values(x: Tensor<4>) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

/// Largest difference over the largest value.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / scale
}

/// Samples with `coop` from the noise of stream `Latent`, and answers the home model's latent.
fn sample(coop: &CoopLatent<'_>, sampler: Sampler, sigmas: &[f64]) -> Tensor<4> {
    let opening = Opening::noise(noise(Stream::Latent, coop.home.latent), sigmas[0]);
    sample_from(coop, opening, sampler, sigmas)
}

fn sample_from(coop: &CoopLatent<'_>, opening: Opening, sampler: Sampler, sigmas: &[f64]) -> Tensor<4> {
    let (cond, pace) = (nothing(), Pace::free());
    let mut run = Run {
        denoiser: coop,
        cond: &cond,
        sigmas,
        before: 0,
        noise: &Noise::new(5),
        pace: &pace,
        on_step: &mut |_: Step<'_>| {},
    };
    block_on(async {
        let x = coop.start(opening, sigmas[0], &pace).await?;
        Ok::<_, pangu_draw::Error>(coop.home(sampler.sample(&mut run, x).await?))
    })
    .unwrap()
}

/// Line by line as the paper writes it, in `t`, `abar` and `eps`, with DDIM as `S`; what the crate does is written in `sigma`
/// and `x0`. The tolerance is that of f32 over 25 steps of divisions by `sqrt(abar)` down to 0.07.
#[test]
fn walks_as_algorithm_1_does() {
    let schedule = sd();
    let sigmas = schedule.sigmas(Spacing::Leading, 25).unwrap();
    let (here, there) = (Gaussian::new(0.3, 0.7), Gaussian::new(-0.5, 1.2));
    let (a, b) = (Patches::new(1, 0.5, 2.0), Patches::new(2, -0.25, 3.0));
    let (home, foreign) = (participant(&here, &a, SIZE), participant(&there, &b, SIZE));
    let start = noise(Stream::Foreign(0), foreign.latent);
    let d = 0.4;

    let abar = |sigma: f64| 1.0 / (sigma * sigma + 1.0);
    // A network that predicts noise, made of the ideal denoiser.
    let eps = |model: &Gaussian, z: &Tensor<4>, sigma: f64| {
        let x = z.clone() / abar(sigma).sqrt();
        (x.clone() - model.answer(x, sigma)) / sigma
    };
    let step = |z: Tensor<4>, eps: Tensor<4>, sigma: f64, next: f64| {
        let z0 = (z - eps.clone() * (1.0 - abar(sigma)).sqrt()) / abar(sigma).sqrt();
        z0 * abar(next).sqrt() + eps * (1.0 - abar(next)).sqrt()
    };
    let mut z = noise(Stream::Latent, home.latent);
    let mut z_foreign = start.clone();
    for pair in sigmas.windows(2) {
        let (sigma, next) = (pair[0], pair[1]);
        let (signal, rest) = (abar(sigma).sqrt(), (1.0 - abar(sigma)).sqrt());
        let eps_foreign = eps(&there, &z_foreign, sigma); // line 1
        let z0_foreign = (z_foreign.clone() - eps_foreign * rest) / signal;
        let bridged = a.to_latents(b.to_pixels(z0_foreign)); // line 2
        let eps_bridged = (z.clone() - bridged * signal) / rest; // line 3
        let eps_fused = eps_bridged * d + eps(&here, &z, sigma) * (1.0 - d); // line 4
        let z0 = (z.clone() - eps_fused.clone() * rest) / signal;
        let eps_fused_foreign = (z_foreign.clone() - b.to_latents(a.to_pixels(z0)) * signal) / rest;
        z = step(z, eps_fused, sigma, next); // line 5
        z_foreign = step(z_foreign, eps_fused_foreign, sigma, next); // line 6
    }

    let models = vec![Foreign { model: foreign, cond: nothing(), strength: constant(d), noise: start }];
    let coop = CoopLatent::new(home, models, Exchange::TwoWay, Upsampler::Bicubic);
    let found = sample(&coop, Sampler::Ddim, &sigmas);
    let error = error(&values(found), &values(z));
    println!("parity | Algorithm 1 | {error:.1e}");
    assert!(error < 1e-4, "{error:e}");
}

/// With equal weights from start to end the fused path of two Gaussians is known:
/// `x(0) = x_T prod_i (v_i / (v_i + sigma_T^2))^(d_i / 2)` for means of 0 and variances `v_i`, and for equal variances that of
/// the data whose mean is the weighted one. The last step, to 0, is one of Euler's: its error, `sigma_min^2 / 2 v`, is 1.7e-3
/// for the smallest variance, and the others' are far below.
#[test]
fn gaussians_are_fused_as_the_formula_says() {
    let sigmas = sd().sigmas(Spacing::Karras, 200).unwrap();
    let space = |scale: f64| Patches::new(1, 0.0, scale);
    let fused = |here: (f64, f64), there: (f64, f64), d: f64| {
        let (here, there) = (Gaussian::new(here.0, here.1), Gaussian::new(there.0, there.1));
        let (a, b) = (space(1.0), space(1.0));
        let (home, foreign) = (participant(&here, &a, SIZE), participant(&there, &b, SIZE));
        // Spaces that are the same, entered with the same noise, as the paper starts.
        let noise = noise(Stream::Latent, home.latent);
        let models = vec![Foreign { model: foreign, cond: nothing(), strength: constant(d), noise }];
        values(sample(&CoopLatent::new(home, models, Exchange::TwoWay, Upsampler::Bicubic), Sampler::Heun, &sigmas))
    };
    let top = sigmas[0] * sigmas[0];
    let x = values(noise(Stream::Latent, [1, 4, SIZE[0], SIZE[1]]) * (top + 1.0).sqrt());
    for d in [0.0, 0.3, 0.5, 1.0] {
        let shrink = |deviation: f64, weight: f64| (deviation.powi(2) / (deviation.powi(2) + top)).powf(weight / 2.0);
        let factor = shrink(0.5, 1.0 - d) * shrink(1.5, d);
        let expected: Vec<f32> = x.iter().map(|x| x * factor as f32).collect();
        let off = error(&fused((0.0, 0.5), (0.0, 1.5), d), &expected);
        assert!(off < 2e-3, "variances, d = {d}: {off:e}");

        let mean = (1.0 - d) * 2.0 - d;
        let expected: Vec<f32> = x.iter().map(|x| (mean + (f64::from(*x) - mean) * shrink(0.8, 1.0)) as f32).collect();
        let off = error(&fused((2.0, 0.8), (-1.0, 0.8), d), &expected);
        assert!(off < 2e-3, "means, d = {d}: {off:e}");
    }
}

/// At weight 0 nothing of a companion may be felt, in no bit, by no sampler, and it is not asked.
#[test]
fn without_weight_the_home_model_draws_as_alone() {
    let sigmas = sd().sigmas(Spacing::Trailing, 7).unwrap();
    let (here, there) = (Gaussian::new(0.3, 0.7), Gaussian::new(-0.5, 1.2));
    let (a, b) = (Patches::new(1, 0.5, 2.0), Patches::new(2, -0.25, 3.0));
    for sampler in Sampler::ALL {
        let home = participant(&here, &a, SIZE);
        let alone = CoopLatent::new(home, Vec::new(), Exchange::TwoWay, Upsampler::Bicubic);
        let alone = values(sample(&alone, sampler, &sigmas));
        for exchange in Exchange::ALL {
            let foreign = participant(&there, &b, SIZE);
            let noise = noise(Stream::Foreign(0), foreign.latent);
            let models = vec![Foreign { model: foreign, cond: nothing(), strength: constant(0.0), noise }];
            let coop = CoopLatent::new(home, models, exchange, Upsampler::Bicubic);
            assert_eq!(values(sample(&coop, sampler, &sigmas)), alone, "{sampler}, {exchange}");
        }
    }
    assert_eq!(there.asked.get() + b.passes.get(), 0);
}

/// At weight 1 the picture is the foreign model's; where the autoencoders lose nothing, exactly so.
#[test]
fn with_all_the_weight_the_foreign_model_draws() {
    let sigmas = sd().sigmas(Spacing::Trailing, 12).unwrap();
    let (here, there) = (Gaussian::new(0.3, 0.7), Gaussian::new(-0.5, 1.2));
    let (a, b) = (Patches::new(1, 0.5, 2.0), Patches::new(2, -0.25, 3.0));
    let (home, foreign) = (participant(&here, &a, SIZE), participant(&there, &b, SIZE));
    for exchange in [Exchange::TwoWay, Exchange::OneWay] {
        let noise = noise(Stream::Latent, foreign.latent);
        let models = vec![Foreign { model: foreign, cond: nothing(), strength: constant(1.0), noise }];
        let fused = sample(&CoopLatent::new(home, models, exchange, Upsampler::Bicubic), Sampler::Euler, &sigmas);
        let alone = CoopLatent::new(foreign, Vec::new(), exchange, Upsampler::Bicubic);
        let alone = a.to_latents(b.to_pixels(sample(&alone, Sampler::Euler, &sigmas)));
        let off = error(&values(fused), &values(alone));
        assert!(off < 1e-5, "{exchange}: {off:e}");
    }
    assert_eq!(here.asked.get(), 0, "whose weight is 0 is not asked");
}

/// A model that draws along with itself draws as it does alone, whatever the weight and however many of it there are.
#[test]
fn identical_models_draw_one_model_s_picture() {
    let sigmas = sd().sigmas(Spacing::Trailing, 12).unwrap();
    let model = Gaussian::new(0.3, 0.7);
    let spaces = [Patches::new(2, 0.5, 2.0), Patches::new(2, 0.5, 2.0), Patches::new(2, 0.5, 2.0)];
    let home = participant(&model, &spaces[0], SIZE);
    let alone = CoopLatent::new(home, Vec::new(), Exchange::TwoWay, Upsampler::Bicubic);
    let alone = values(sample(&alone, Sampler::Dpmpp2m, &sigmas));
    for exchange in [Exchange::TwoWay, Exchange::OneWay] {
        for (first, second) in [(0.2, 0.0), (0.7, 0.3), (0.4, 0.4), (1.0, 1.0)] {
            let along = |space, weight| Foreign {
                model: participant(&model, space, SIZE),
                cond: nothing(),
                strength: constant(weight),
                noise: noise(Stream::Latent, home.latent),
            };
            let models = vec![along(&spaces[1], first), along(&spaces[2], second)];
            let coop = CoopLatent::new(home, models, exchange, Upsampler::Bicubic);
            let off = error(&values(sample(&coop, Sampler::Dpmpp2m, &sigmas)), &alone);
            assert!(off < 1e-5, "{exchange}, {first} and {second}: {off:e}");
        }
    }
}

/// What each exchange costs: four passes of an autoencoder a step, or two; none once the weight has fallen to 0.
#[test]
fn a_one_way_exchange_saves_half_of_the_passes() {
    let sigmas = sd().sigmas(Spacing::Trailing, 10).unwrap();
    let passes = |exchange, until: f64| {
        let (here, there) = (Gaussian::new(0.3, 0.7), Gaussian::new(-0.5, 1.2));
        let (a, b) = (Patches::new(1, 0.5, 2.0), Patches::new(2, -0.25, 3.0));
        let (home, foreign) = (participant(&here, &a, SIZE), participant(&there, &b, SIZE));
        let noise = noise(Stream::Foreign(0), foreign.latent);
        let strength = Strength { weight: 0.5, until, falloff: Falloff::Noise };
        let models = vec![Foreign { model: foreign, cond: nothing(), strength, noise }];
        sample(&CoopLatent::new(home, models, exchange, Upsampler::Bicubic), Sampler::Euler, &sigmas);
        (a.passes.get() + b.passes.get(), there.asked.get())
    };
    assert_eq!(passes(Exchange::TwoWay, 0.0), (40, 10));
    assert_eq!(passes(Exchange::OneWay, 0.0), (20, 10));
    // The first estimate is made of noise alone, so that nothing need be encoded for it.
    assert_eq!(passes(Exchange::Renoised, 0.0), (38, 10));
    assert_eq!(passes(Exchange::TwoWay, sigmas[3]), (16, 4));
}

#[test]
fn weights_fall_as_they_are_told() {
    let strength = Strength { weight: 0.8, until: 0.5, falloff: Falloff::Noise };
    assert_eq!(strength.at(1.0), 0.4);
    assert_eq!((strength.at(0.49), strength.at(0.0)), (0.0, 0.0));
    assert_eq!(constant(0.8).at(1e-3), 0.8);
    assert_eq!(constant(0.8).at(0.0), 0.0, "at the end there is nothing to fuse");
}

/// Models of other sizes: a foreign one of half the sides whose pictures are even draws the same evenness.
#[test]
fn models_of_other_sizes_meet_in_pixels() {
    let sigmas = sd().sigmas(Spacing::Trailing, 12).unwrap();
    let (here, there) = (Gaussian::new(2.0, 0.001), Gaussian::new(-1.0, 0.001));
    let (a, b) = (Patches::new(1, 0.0, 1.0), Patches::new(1, 0.0, 1.0));
    let (home, foreign) = (participant(&here, &a, [8, 8]), participant(&there, &b, [4, 4]));
    for upsampler in Upsampler::ALL {
        let noise = noise(Stream::Foreign(0), foreign.latent);
        let models = vec![Foreign { model: foreign, cond: nothing(), strength: constant(0.25), noise }];
        let coop = CoopLatent::new(home, models, Exchange::TwoWay, upsampler);
        let found = values(sample(&coop, Sampler::Euler, &sigmas));
        let off = error(&found, &[1.25; 256]);
        assert!(off < 0.02, "{upsampler}: {off}");
    }
}

/// The paper's figure 3a in numbers: fresh noise is uncorrelated, scaled noise is not. 4096 numbers have a standard error of
/// .016.
#[test]
fn the_bridge_starts_from_fresh_noise_and_scaling_does_not() {
    let device = Device::flex();
    let schedule = sd();
    let sigma = schedule.sigma(600.0);
    let (low, high) = (Gaussian::new(0.0, 1.0), Gaussian::new(0.0, 1.0));
    let (a, b) = (Patches::new(1, 0.0, 1.0), Patches::new(1, 0.0, 1.0));
    let (low, high) = (participant(&low, &a, [16, 16]), participant(&high, &b, [32, 32]));
    let x0 = Tensor::<4>::full(low.latent, 0.5, &device);
    let fresh = noise(Stream::Bridge, high.latent);
    let pace = Pace::free();
    for upsampler in Upsampler::ALL {
        let opening = block_on(bridge(&low, &high, x0.clone(), sigma, fresh.clone(), upsampler, &pace)).unwrap();
        let known = opening.x0.clone().unwrap();
        assert!(error(&values(known.clone()), &[0.5; 4096]) < 1e-5, "an even picture stays even");
        let bridged = (opening.x - known) / sigma;
        let scaled = scale_noisy(noise(Stream::Latent, low.latent), high.size, upsampler);
        for lag in [[0, 1], [1, 0], [1, 1]] {
            let (good, bad) = block_on(async {
                (
                    autocorrelation(bridged.clone(), lag).await.unwrap(),
                    autocorrelation(scaled.clone(), lag).await.unwrap(),
                )
            });
            assert!(good.abs() < 0.08 && bad > 0.2, "{upsampler} {lag:?}: {good} and {bad}");
        }
    }
}

#[test]
fn a_run_is_divided_where_the_noise_falls_to_the_bridge() {
    let sigmas = [14.0, 7.0, 3.0, 1.0, 0.0];
    assert_eq!(divide(&sigmas, 3.0), (&sigmas[..3], &sigmas[2..]));
    assert_eq!(divide(&sigmas, 4.0), (&sigmas[..3], &sigmas[2..]));
    assert_eq!(divide(&sigmas, 99.0), (&sigmas[..1], &sigmas[..]));
    assert_eq!(divide(&sigmas, 0.0), (&sigmas[..], &sigmas[4..]));
}
