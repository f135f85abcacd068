//! What f16 saves: `cargo bench --bench precision`, on a GPU that has it.
//!
//! Layers of the default model's UNet on `Q8_0` weights, and the whole, with numbers in f16 and in f32; then the whole in f16
//! with and without the look at its output. The two take turns; what is printed is the quicker of either's times, with the
//! ratio.

use burn::{
    module::Module,
    nn::{LinearConfig, PaddingConfig2d, conv::Conv2dConfig},
    tensor::{Device, Distribution, FloatDType, Tensor},
};
use pangu_draw::{
    device::{DeviceChoice, PrecisionChoice, open},
    nets::{
        Pace,
        layers::{Conv2d, Linear},
        precision::{Precision, Stage},
        unet::UNetConfig,
    },
    weights::{
        gguf::{GgufFile, Metadata},
        load,
        quant::GgmlType,
        write_module,
    },
};
use pollster::block_on;
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;

/// The module with its weights quantized.
fn quantized<M: Module>(module: impl Fn(&Device) -> M, device: &Device) -> M {
    let plain = module(&Device::flex());
    let bytes = write_module(&plain, "", GgmlType::Q8_0, &Metadata::new(), Vec::new()).expect("finite weights");
    load(module(device), &GgufFile::new("network", bytes).expect("what was just written"), "").expect("fits")
}

/// Runs `work` once and waits for it.
fn time(work: &dyn Fn() -> Tensor<4>) -> Duration {
    let start = Instant::now();
    let data = block_on(work().cast(FloatDType::F32).into_data_async()).expect("a working device");
    // The data are waited for where they are looked at.
    data.try_to_vec::<f32>().expect("f32");
    start.elapsed()
}

/// Prints a line of the table.
fn compare(what: &str, works: [&dyn Fn() -> Tensor<4>; 2]) {
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        for (best, work) in best.iter_mut().zip(works) {
            *best = time(work).min(*best);
        }
    }
    let ratio = best[0].as_secs_f64() / best[1].as_secs_f64();
    println!("| {what:<34} | {:>9.2?} | {:>9.2?} | {ratio:>5.2} |", best[0], best[1]);
}

/// The same in f16 and in f32.
fn halved(what: &str, x: Tensor<4>, work: impl Fn(Tensor<4>) -> Tensor<4>) {
    let inputs = [FloatDType::F16, FloatDType::F32].map(|dtype| x.clone().cast(dtype));
    compare(what, [&|| work(inputs[0].clone()), &|| work(inputs[1].clone())]);
}

fn main() {
    let opened = block_on(open(DeviceChoice::Wgpu)).expect("a GPU");
    opened.precision(PrecisionChoice::F16).expect("a GPU that has f16");
    let device = &opened.device;
    let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, device);
    println!("{}, Q8_0, batch 2\n\n| | f16 | f32 | ratio |\n|---|---|---|---|", opened.name);
    for (rows, input, output) in [(128, 192, 1536), (128, 768, 192), (2048, 192, 1536)] {
        let linear = quantized(|device| Linear::from(LinearConfig::new(input, output).init(device)), device);
        let what = format!("linear {rows} x {input} x {output}");
        halved(&what, random([1, 1, rows, input]), |x| linear.forward(x));
    }
    for (size, input, output) in [(16, 192, 192), (16, 128, 64), (64, 64, 64)] {
        let config = Conv2dConfig::new([input, output], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        let conv = quantized(|device| Conv2d::from(config.init(device)), device);
        let what = format!("conv 3x3 {input} to {output} at {size} x {size}");
        halved(&what, random([2, input, size, size]), |x| conv.forward(x));
    }
    let unet = quantized(|device| UNetConfig::emoji().init(device).expect("a valid configuration"), device);
    let context = random([1, 2, 16, 512]).squeeze_dim::<3>(0);
    let (timesteps, vector) = (Tensor::<1>::full([2], 500.0, device), Tensor::<2>::zeros([2, 512], device));
    let forward = async |x: Tensor<4>| {
        unet.forward(x, timesteps.clone(), context.clone(), Some(vector.clone()), &Pace::free()).await
    };
    for side in [16, 32] {
        let x = random([2, 8, side, side]);
        let plain = || block_on(forward(x.clone().cast(FloatDType::F16))).expect("nobody cancels");
        halved(&format!("UNet at {side} x {side}"), x.clone(), |x| block_on(forward(x)).expect("nobody cancels"));
        let pace = Pace::free().computing_in(Precision::F16);
        let looked = || {
            let network = async |dtype| forward(x.clone().cast(dtype)).await;
            block_on(pace.evaluate(Stage::Denoise, network)).expect("a working device")
        };
        compare(&format!("f16, looked at, over f16, at {side}"), [&looked, &plain]);
    }
}
