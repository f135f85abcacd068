//! Schedules, samplers, guidance, noise and the time-decoupled generator, against diffusers and against closed forms.

mod common;

use burn::tensor::{Device, Tensor};
use common::{devices, golden, relative_error, tensor, values};
use pangu_draw::{
    Error,
    decoupled::{BoundaryRule, TimeDecoupled},
    diffusion::{
        Cond, Denoiser, Denoising, Network, NetworkDenoiser,
        guidance::{ControlGuided, Guided},
        noise::{Noise, Stream},
        samplers::{Run, Sampler, Step, ddim},
        schedule::{BetaSchedule, Prediction, Schedule, ScheduleConfig, Spacing, initial_scale},
    },
    nets::Pace,
    weights::{TensorSource, safetensors::SafeTensors},
};
use pollster::block_on;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{cell::RefCell, ops::Range};

/// The oracle's network: elementwise, so that every element of a batch is a test of its own.
struct Analytic;

impl Network for Analytic {
    fn predict<'a>(&'a self, x: Tensor<4>, timesteps: Tensor<1>, _: &'a Cond, _: &'a Pace) -> Denoising<'a> {
        let batch = x.dims()[0];
        Box::pin(async move { Ok((x * 0.7 + timesteps.reshape([batch, 1, 1, 1]) * 0.001 - 0.3).tanh()) })
    }
}

/// A denoiser made of a function of `x`, `sigma` and the condition's first token.
struct Function<F>(F);

impl<F: Fn(Tensor<4>, f64, Tensor<4>) -> Tensor<4>> Denoiser for Function<F> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, _: &'a Pace) -> Denoising<'a> {
        let batch = x.dims()[0];
        let token = cond.tokens.clone().slice([0..batch, 0..1, 0..1]).reshape([batch, 1, 1, 1]);
        Box::pin(async move { Ok(self.0(x, sigma, token)) })
    }
}

/// Counts its evaluations and remembers their batch sizes and noise levels.
struct Counting<D> {
    inner: D,
    calls: RefCell<Vec<(usize, f64)>>,
}

impl<D> Counting<D> {
    fn new(inner: D) -> Self {
        Self { inner, calls: RefCell::default() }
    }

    fn sigmas(&self) -> Vec<f64> {
        self.calls.borrow().iter().map(|(_, sigma)| *sigma).collect()
    }
}

impl<D: Denoiser> Denoiser for Counting<D> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        self.calls.borrow_mut().push((x.dims()[0], sigma));
        self.inner.denoise(x, sigma, cond, pace)
    }
}

/// A condition of one token per picture, with this value.
fn cond(batch: usize, value: f64, device: &Device) -> Cond {
    Cond { tokens: Tensor::full([batch, 1, 1], value, device), vector: None }
}

fn host(x: Tensor<4>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32")
}

/// Runs `sampler` from `x` on the CPU with the noise of seed 1.
fn sample(sampler: Sampler, denoiser: &dyn Denoiser, sigmas: &[f64], x: Tensor<4>) -> Result<Tensor<4>, Error> {
    let (cond, noise, pace) = (cond(x.dims()[0], 0.0, &x.device()), Noise::new(1), Pace::free());
    let mut run =
        Run { denoiser, cond: &cond, sigmas, before: 0, noise: &noise, pace: &pace, on_step: &mut |_: Step<'_>| {} };
    block_on(sampler.sample(&mut run, x))
}

fn schedule_of(config: &Value) -> (ScheduleConfig, Schedule) {
    let config: ScheduleConfig = serde_json::from_value(config.clone()).expect("diffusers' field names");
    let schedule = Schedule::new(&config).expect("valid");
    (config, schedule)
}

fn config_of(golden: &SafeTensors) -> Value {
    serde_json::from_str(&golden.metadata()["config"]).expect("JSON")
}

/// The largest relative error of noise levels, in units of what f32 allows the reference.
///
/// diffusers multiplies `1 - beta` up in f32: `abar` is off by up to 1e-7 of itself where it begins, which is
/// `1e-7 / (1 - abar)` of `sigma` (cosine schedules begin at `1 - abar = 4e-5`), and by some 1e-5 where it ends. Spacings
/// between the two ends inherit the error of the lower one.
fn sigma_error(spacing: Spacing, found: &[f64], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "number of noise levels");
    let lowest = f64::from(expected[expected.len() - 2]);
    let error = |(found, expected): (&f64, &f32)| match f64::from(*expected) {
        0.0 => *found,
        expected => {
            let anchor = if matches!(spacing, Spacing::Karras | Spacing::Exponential) { lowest } else { expected };
            (found / expected - 1.0).abs() / (3e-5 + 1e-7 * (1.0 + anchor.powi(-2)))
        }
    };
    found.iter().zip(expected).map(error).fold(0.0, f64::max)
}

#[test]
fn schedules_match_diffusers() {
    for name in ["sd", "linear", "cosine", "zero_snr", "short"] {
        let golden = golden(&format!("schedule_{name}"));
        let (_, schedule) = schedule_of(&config_of(&golden));
        let abar = values(&golden, "output.alphas_cumprod").1;
        let found: Vec<f32> = schedule.alphas_cumprod().iter().map(|abar| *abar as f32).collect();
        assert!(relative_error(&found, &abar) < 1e-5, "{name}: alphas_cumprod");

        let (mut lists, mut worst) = (0, 0f64);
        for key in golden.names() {
            let Some((spacing, steps)) = key.trim_start_matches("output.").split_once('.') else { continue };
            let Ok(steps) = steps.parse() else { continue };
            let spacing = spacing.parse().expect("a spacing");
            let found = schedule.sigmas(spacing, steps).expect("valid");
            let error = sigma_error(spacing, &found, &values(&golden, &key).1);
            assert!(error < 1.0, "{name}, {key}: {error}");
            (lists, worst) = (lists + 1, worst.max(error));
        }
        assert!(lists > 70, "{name}: {lists} lists");

        let (queries, timesteps) = (values(&golden, "input.sigma").1, values(&golden, "output.timestep").1);
        let off =
            queries.iter().zip(timesteps).map(|(sigma, t)| (schedule.timestep(f64::from(*sigma)) - f64::from(t)).abs());
        let off = off.fold(0.0, f64::max);
        println!("parity | schedule {name} | {lists} lists, {worst:.2} of f32's error, timesteps off by {off:.1e}");
        assert!(off < 0.01, "{name}: timestep off by {off}");
        for t in 0..schedule.num_train_timesteps() {
            assert_eq!(schedule.timestep(schedule.sigma(t as f64)), t as f64, "{name}: a whole timestep");
        }
    }
}

/// Tolerance: 1e-4 of the largest value of each step's latent. Both sides compute in f32, and the network's slope is
/// below 1, so that an error made in one step hardly grows: 2e-6 is what is seen, but for Euler on zero-terminal-SNR
/// schedules (4e-5), where the reference's `x + dt * d` cancels at sigma = 4096.
#[test]
fn trajectories_match_diffusers() {
    let goldens: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens"))
        .expect("a folder of goldens")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".safetensors")?.to_owned()))
        .filter(|name| name.starts_with("sampler_"))
        .collect();
    for sampler in Sampler::ALL {
        let count = goldens.iter().filter(|name| name.starts_with(&format!("sampler_{sampler}-"))).count();
        assert!(count >= 4, "{sampler} has {count} goldens");
    }
    for name in goldens {
        let golden = golden(&name);
        let config = config_of(&golden);
        let (schedule_config, schedule) = schedule_of(&config["schedule"]);
        let steps = config["steps"].as_u64().expect("steps") as usize;
        // The run takes the reference's noise levels, so that its f32 rounding of them is not counted twice.
        let reference = values(&golden, "input.sigmas").1;
        let levels = schedule.sigmas(schedule_config.timestep_spacing, steps).expect("valid");
        let error = sigma_error(schedule_config.timestep_spacing, &levels, &reference);
        assert!(error < 1.0, "{name}: noise levels {error}");
        let sigmas: Vec<f64> = reference.into_iter().map(f64::from).collect();

        let sampler: Sampler = config["sampler"].as_str().expect("a name").parse().expect("a sampler");
        let eta = config["eta"].as_f64().expect("eta");
        let noise = Noise::new(config["seed"].as_u64().expect("a seed"));
        let expected = values(&golden, "output.x").1;
        for (backend, device) in devices() {
            let latent = tensor::<4>(&golden, "input.latent", &device);
            let denoiser = NetworkDenoiser::new(Analytic, schedule.clone(), schedule_config.prediction_type);
            let (cond, pace, mut trajectory) = (cond(2, 0.0, &device), Pace::free(), Vec::new());
            let mut run = Run {
                before: 0,
                denoiser: &denoiser,
                cond: &cond,
                sigmas: &sigmas,
                noise: &noise,
                pace: &pace,
                on_step: &mut |step: Step<'_>| {
                    assert_eq!((step.index, step.of, step.sigma), (trajectory.len(), steps, sigmas[step.index]));
                    trajectory.push(host(step.x.clone()));
                },
            };
            let x = latent * initial_scale(sigmas[0]);
            let last = match sampler {
                Sampler::Ddim => block_on(ddim(&mut run, x.into(), eta)),
                _ => block_on(sampler.sample(&mut run, x)),
            };
            trajectory.push(host(last.expect("nothing fails here")));
            let size = trajectory[0].len();
            let errors = trajectory[1..].iter().zip(expected.chunks_exact(size)).map(|(x, y)| relative_error(x, y));
            let error = errors.fold(0.0, f32::max);
            println!("parity | {name} on {backend} | {error:.1e}");
            assert!(error < 1e-4, "{name} on {backend}: {error:e}");
        }
    }
}

/// The hashes come from tests/oracle/diffusion.py's own ChaCha20; the browser tests check the same ones.
#[test]
fn noise_is_the_same_bits_everywhere() {
    for (seed, stream, count, expected) in [
        (0, Stream::Latent, 4096, "6dab17820f6d57be0dd9e8682a4275b86e6b006a98485ffc34dbaac17f214cfa"),
        (7, Stream::Latent, 4096, "0f399775345f398b998a82d90c43742ed526958935785360f9018e8d4d925f93"),
        (0x0123456789ABCDEF, Stream::Step(2), 1001, "09651a070b589ecc9071e93e0b6761f1604c3374f9508b3b7ebc5cb7d6dd6841"),
    ] {
        let bytes: Vec<u8> = Noise::new(seed).values(stream, count).iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(hex::encode(Sha256::digest(bytes)), expected, "seed {seed}");
    }
}

#[test]
fn noise_is_normal_and_streams_are_independent() {
    let count = 200_000;
    let noise = Noise::new(3);
    let [a, b] = [Stream::Latent, Stream::Step(0)].map(|stream| noise.values(stream, count));
    let mean = |f: &dyn Fn(usize) -> f32| (0..count).map(|i| f64::from(f(i))).sum::<f64>() / count as f64;
    // Five standard deviations of each estimate.
    let bound = |variance: f64| 5.0 * (variance / count as f64).sqrt();
    assert!(mean(&|i| a[i]).abs() < bound(1.0), "mean");
    assert!((mean(&|i| a[i].powi(2)) - 1.0).abs() < bound(2.0), "variance");
    assert!((mean(&|i| a[i].powi(4)) - 3.0).abs() < bound(96.0), "kurtosis");
    assert!(mean(&|i| a[i] * b[i]).abs() < bound(1.0), "two streams");
    assert!(mean(&|i| a[i] * a[(i + 1) % count]).abs() < bound(1.0), "neighbours");
    assert_eq!(a[..7], noise.values(Stream::Latent, 7), "a prefix");
    assert_ne!(a[..7], Noise::new(4).values(Stream::Latent, 7), "another seed");
}

/// For data `N(0, s^2)` the perfect denoiser is `s^2 / (s^2 + sigma^2) x`, the ODE's path `x ~ sqrt(s^2 + sigma^2)`, and
/// every sampler must end with the data's variance.
#[test]
fn samplers_reproduce_a_gaussian() {
    let device = Device::flex();
    let s2 = 0.6f64.powi(2);
    let perfect = Function(|x: Tensor<4>, sigma: f64, _| x * (s2 / (s2 + sigma * sigma)));
    // A consistency model answers the end of the path instead of the mean.
    let consistent = Function(|x: Tensor<4>, sigma: f64, _| x * (s2 / (s2 + sigma * sigma)).sqrt());
    let schedule = Schedule::new(&ScheduleConfig::stable_diffusion()).expect("valid");
    let sigmas = schedule.sigmas(Spacing::Karras, 100).expect("valid");
    let start = (s2 + sigmas[0].powi(2)).sqrt();
    let x = Noise::new(5).normal(Stream::Latent, [4, 4, 32, 32], &device) * start;
    let exact = host(x.clone() * (s2.sqrt() / start));
    for sampler in Sampler::ALL {
        let denoiser: &dyn Denoiser = if sampler == Sampler::Lcm { &consistent } else { &perfect };
        let found = host(sample(sampler, denoiser, &sigmas, x.clone()).expect("samples"));
        let variance = found.iter().map(|x| f64::from(x * x)).sum::<f64>() / found.len() as f64;
        let path = relative_error(&found, &exact);
        println!("gaussian | {sampler} | variance {:.3} of the data's, path off by {path:.1e}", variance / s2);
        // 16,384 samples give a variance within 4.4 % (four standard deviations); first order methods with 100 steps
        // stop short of the data's variance by a few percent.
        assert!((variance / s2 - 1.0).abs() < 0.09, "{sampler}: variance {variance}");
        let order = match sampler {
            Sampler::Euler | Sampler::Ddim => 0.03,
            Sampler::Heun | Sampler::Dpmpp2m => 0.003,
            Sampler::EulerAncestral | Sampler::Lcm => f32::INFINITY,
        };
        assert!(path < order, "{sampler}: path off by {path}");
    }
}

#[test]
fn guidance_in_x0_is_guidance_in_epsilon() {
    let device = Device::flex();
    let (sigma, s, s_style) = (3.7, 6.0, 4.0);
    let inner = Function(|x: Tensor<4>, sigma: f64, token: Tensor<4>| (x * 0.4 + token).tanh() * (1.0 + 0.01 * sigma));
    let [empty, prompt, style] = [-0.2, 0.3, 0.9].map(|value| cond(2, value, &device));
    let x: Tensor<4> = Noise::new(2).normal(Stream::Latent, [2, 3, 4, 4], &device) * sigma;
    let pace = Pace::free();
    let eps =
        |cond: &Cond| (x.clone() - block_on(inner.denoise(x.clone(), sigma, cond, &pace)).expect("denoises")) / sigma;
    let (e0, ec, es) = (eps(&empty), eps(&prompt), eps(&style));
    let guided_eps = e0.clone() + (ec.clone() - e0) * s + (es - ec) * s_style;
    let expected = host(x.clone() - guided_eps * sigma);
    for sequential in [false, true] {
        let inner = Counting::new(&inner);
        let (uncond, style) = (empty.clone(), Some(style.clone()));
        let guided = Guided { inner: &inner, uncond, style, scale: s, style_scale: s_style, sequential };
        let found = block_on(guided.denoise(x.clone(), sigma, &prompt, &pace)).expect("denoises");
        assert!(relative_error(&host(found), &expected) < 1e-5);
        let batches: Vec<usize> = inner.calls.borrow().iter().map(|(batch, _)| *batch).collect();
        assert_eq!(batches, if sequential { vec![2, 2, 2] } else { vec![6] });
    }
}

#[test]
fn guidance_evaluates_only_what_weighs() {
    let device = Device::flex();
    let inner = Function(|x: Tensor<4>, _, token: Tensor<4>| x * 0.5 + token);
    let [empty, prompt, style] = [1.0, 2.0, 3.0].map(|value| cond(1, value, &device));
    let x: Tensor<4> = Tensor::zeros([1, 1, 2, 2], &device);
    for (scale, style_scale, styled, batch, expected) in [
        (1.0, 0.0, true, 1, 2.0),
        (1.0, 4.0, false, 1, 2.0),
        (4.0, 4.0, false, 2, 1.0 + 4.0),
        (0.0, 0.0, false, 1, 1.0),
        (1.0, 0.5, true, 2, 2.5),
        (2.0, 2.0, true, 2, -1.0 + 2.0 * 3.0),
        (6.0, 4.0, true, 3, -5.0 + 2.0 * 2.0 + 4.0 * 3.0),
    ] {
        let inner = Counting::new(&inner);
        let (uncond, style) = (empty.clone(), styled.then(|| style.clone()));
        let guided = Guided { inner: &inner, uncond, style, scale, style_scale, sequential: false };
        let found = host(block_on(guided.denoise(x.clone(), 1.0, &prompt, &Pace::free())).expect("denoises"));
        assert_eq!(inner.calls.borrow()[..], [(batch, 1.0)], "scale {scale}, style {style_scale}");
        assert!((found[0] - expected).abs() < 1e-5, "scale {scale}, style {style_scale}: {found:?}");
    }
}

#[test]
fn guidance_by_a_control_is_affine_and_composes_with_guidance_by_words() {
    let device = Device::flex();
    let free = Function(|x: Tensor<4>, _, token: Tensor<4>| x * 0.5 + token);
    let controlled = Function(|x: Tensor<4>, _, token: Tensor<4>| x * 0.5 + token * 2.0 + 7.0);
    let [empty, prompt] = [1.0, 2.0].map(|value| cond(1, value, &device));
    let x: Tensor<4> = Tensor::zeros([1, 1, 2, 2], &device);
    // Controlled 9 and 11, free 1 and 2: by the control c = f + s (c - f), by words e + 3 (p - e).
    for (scale, asked, expected) in [(0.0, 1, 1.0 + 3.0), (1.0, 0, 9.0 + 3.0 * 2.0), (2.0, 1, 17.0 + 3.0 * 3.0)] {
        let free = Counting::new(&free);
        let inner = ControlGuided { controlled: &controlled, free: &free, scale };
        let guided =
            Guided { inner, uncond: empty.clone(), style: None, scale: 3.0, style_scale: 0.0, sequential: false };
        let found = host(block_on(guided.denoise(x.clone(), 1.0, &prompt, &Pace::free())).expect("denoises"));
        assert!((found[0] - expected).abs() < 1e-5, "scale {scale}: {found:?}");
        assert_eq!(free.calls.borrow().len(), asked, "scale {scale}");
    }
}

/// The released sampler's loop: the expert of a step follows from the index of the step before it, initially 1000, where
/// the index is that of the nearest noise level. Answers the structure expert's steps.
fn released_rule(schedule: &Schedule, sigmas: &[f64]) -> Range<usize> {
    let index = |sigma: f64| {
        let distance = |t: &usize| (schedule.sigma(*t as f64) - sigma).abs();
        (0..schedule.num_train_timesteps()).min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("some")
    };
    let mut previous = 1000;
    let steps = &sigmas[..sigmas.len() - 1];
    let by_structure = steps.iter().take_while(|sigma| {
        let structure = previous >= 500;
        previous = index(**sigma);
        structure
    });
    0..by_structure.count()
}

#[test]
fn experts_follow_their_rule() {
    let device = Device::flex();
    let schedule = Schedule::new(&ScheduleConfig::stable_diffusion()).expect("valid");
    // Linspace is left out: with an odd number of steps its middle lies at 499.5, a tie that rounding decides.
    for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Karras, Spacing::Exponential] {
        for steps in (1..=60).chain([100, 333, 999]) {
            let sigmas = schedule.sigmas(spacing, steps).expect("valid");
            let released = released_rule(&schedule, &sigmas);
            let paper = 0..sigmas.iter().take_while(|sigma| schedule.timestep(**sigma) >= 500.0).count();
            for (rule, expected) in [(BoundaryRule::PreviousStep, released), (BoundaryRule::Timestep, paper)] {
                let boundary = rule.boundary(&schedule, 500.0, &sigmas);
                let found = sigmas[..steps].iter().take_while(|sigma| **sigma >= boundary).count();
                assert_eq!(0..found, expected, "{rule:?}, {spacing}, {steps} steps");
            }
        }
    }
    for rule in [BoundaryRule::PreviousStep, BoundaryRule::Timestep] {
        for sampler in Sampler::ALL {
            for steps in [1, 2, 5, 8, 13] {
                let sigmas = schedule.sigmas(Spacing::Trailing, steps).expect("valid");
                let expert = || Counting::new(Function(|x: Tensor<4>, sigma: f64, _| x / (1.0 + sigma * sigma)));
                let (structure, texture) = (expert(), expert());
                let boundary = rule.boundary(&schedule, 500.0, &sigmas);
                let generator = TimeDecoupled { structure: &structure, texture: &texture, boundary };
                sample(sampler, &generator, &sigmas, Tensor::ones([1, 1, 2, 2], &device)).expect("samples");
                // Heun asks twice at every level between the first and the last.
                let times = |i: usize| if sampler == Sampler::Heun && i > 0 { 2 } else { 1 };
                let asked = |steps: Range<usize>| -> Vec<f64> {
                    steps.flat_map(|i| std::iter::repeat_n(sigmas[i], times(i))).collect()
                };
                let first = match rule {
                    BoundaryRule::PreviousStep => released_rule(&schedule, &sigmas).end,
                    BoundaryRule::Timestep => sigmas.iter().filter(|sigma| schedule.timestep(**sigma) >= 500.0).count(),
                };
                assert_eq!(structure.sigmas(), asked(0..first), "structure, {rule:?}, {sampler}, {steps} steps");
                assert_eq!(texture.sigmas(), asked(first..steps), "texture, {rule:?}, {sampler}, {steps} steps");
            }
        }
    }
}

#[test]
fn a_run_can_be_cancelled_between_steps() {
    let device = Device::flex();
    let schedule = Schedule::new(&ScheduleConfig::stable_diffusion()).expect("valid");
    let sigmas = schedule.sigmas(Spacing::Trailing, 8).expect("valid");
    let (cond, noise, x) = (cond(1, 0.0, &device), Noise::new(0), Tensor::<4>::ones([1, 1, 2, 2], &device));
    for sampler in Sampler::ALL {
        let denoiser = Counting::new(Function(|x: Tensor<4>, _, _| x * 0.5));
        let pace = Pace::cancellable();
        let mut cancel = |step: Step<'_>| {
            if step.index == 2 {
                pace.cancel();
            }
        };
        let mut run = Run {
            denoiser: &denoiser,
            cond: &cond,
            sigmas: &sigmas,
            before: 0,
            noise: &noise,
            pace: &pace,
            on_step: &mut cancel,
        };
        let outcome = block_on(sampler.sample(&mut run, x.clone()));
        assert!(matches!(outcome, Err(Error::Cancelled)), "{sampler}: {outcome:?}");
        assert_eq!(denoiser.calls.borrow().len(), if sampler == Sampler::Heun { 5 } else { 3 }, "{sampler}");
    }
}

#[test]
fn nonsense_is_a_typed_error() {
    let device = Device::flex();
    let schedule = Schedule::new(&ScheduleConfig::stable_diffusion()).expect("valid");
    let invalid = |error: Error, expected: &str| match error {
        Error::Invalid { parameter, .. } => assert_eq!(parameter, expected),
        other => panic!("{other}"),
    };
    for (spacing, steps) in [(Spacing::Trailing, 0), (Spacing::Karras, 1001), (Spacing::Leading, 1000)] {
        invalid(schedule.sigmas(spacing, steps).expect_err("no such run"), "steps");
    }
    let denoiser = Function(|x: Tensor<4>, _, _| x);
    for sigmas in
        [&[][..], &[0.0], &[1.0], &[1.0, 1.0], &[1.0, 2.0], &[1.0, -1.0], &[f64::INFINITY, 0.0], &[f64::NAN, 0.0]]
    {
        for sampler in Sampler::ALL {
            let x = Tensor::ones([1, 1, 2, 2], &device);
            invalid(sample(sampler, &denoiser, sigmas, x).expect_err("no such run"), "steps");
        }
    }
    invalid("dpm".parse::<Sampler>().expect_err("unknown"), "sampler");
    invalid("even".parse::<Spacing>().expect_err("unknown"), "spacing");
    let base = ScheduleConfig::stable_diffusion();
    for config in [
        ScheduleConfig { num_train_timesteps: 1, ..base.clone() },
        ScheduleConfig { num_train_timesteps: usize::MAX, ..base.clone() },
        ScheduleConfig { beta_end: f64::NAN, ..base.clone() },
        ScheduleConfig { beta_start: -0.1, ..base.clone() },
        ScheduleConfig { beta_end: 1.5, ..base.clone() },
        ScheduleConfig { trained_betas: Some(vec![0.1; 3]), ..base.clone() },
        ScheduleConfig { steps_offset: usize::MAX, ..base.clone() },
    ] {
        invalid(Schedule::new(&config).expect_err("no such schedule"), "schedule");
    }
}

#[test]
fn names_and_files_read_back() {
    for sampler in Sampler::ALL {
        let json = serde_json::to_string(&sampler).expect("JSON");
        assert_eq!(json, format!("\"{sampler}\""));
        assert_eq!(serde_json::from_str::<Sampler>(&json).expect("reads back"), sampler);
        assert_eq!(sampler.name().replace('_', "-").parse::<Sampler>().expect("kebab"), sampler);
    }
    for spacing in Spacing::ALL {
        assert_eq!(serde_json::to_string(&spacing).expect("JSON"), format!("\"{spacing}\""));
        assert_eq!(spacing.name().parse::<Spacing>().expect("reads back"), spacing);
    }
    // The scheduler_config.json of Stable Diffusion 2.1, a v-prediction model.
    let config: ScheduleConfig = serde_json::from_str(
        r#"{"_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "beta_start": 0.00085, "clip_sample": false, "num_train_timesteps": 1000, "prediction_type": "v_prediction",
            "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null}"#,
    )
    .expect("diffusers' file");
    assert_eq!(config.beta_schedule, BetaSchedule::ScaledLinear);
    assert_eq!(config.prediction_type, Prediction::VPrediction);
    let schedule = Schedule::new(&config).expect("valid");
    assert!((schedule.sigma_min() - 0.0292).abs() < 1e-4 && (schedule.sigma_max() - 14.6146).abs() < 1e-4);
    let trained = ScheduleConfig { trained_betas: Some(vec![0.01; 1000]), ..config };
    assert!((Schedule::new(&trained).expect("valid").alphas_cumprod()[1] - 0.9801).abs() < 1e-12);
}
