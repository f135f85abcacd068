//! What it costs that weights stay quantized: `cargo bench --bench quantized -- [cpu|wgpu] [q8_0|q4_0]`.
//!
//! Layers of the default model's UNet, and the whole, once on packed weights and once on the same numbers in f32. The
//! two take turns; what is printed is the quicker of either's times and the bytes of the weights, with their ratios.

use burn::{
    module::Module,
    nn::{LinearConfig, PaddingConfig2d, conv::Conv2dConfig},
    tensor::{Device, Distribution, Tensor},
};
use pangu_draw::{
    device::{DeviceChoice, open},
    nets::{
        layers::{Conv2d, Linear},
        unet::{UNet, UNetConfig},
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

const ROUNDS: usize = 5;

/// A file of the module, quantized, and one of what that reads as.
fn files<M: Module>(module: M, dtype: GgmlType) -> [GgufFile; 2] {
    let file = |module: &M, dtype| {
        let bytes = write_module(module, "", dtype, &Metadata::new(), Vec::new()).expect("finite weights");
        GgufFile::new("network", bytes).expect("what was just written")
    };
    let quantized = file(&module, dtype);
    let plain = file(&load(module, &quantized, "").expect("fits"), GgmlType::F32);
    [quantized, plain]
}

/// Runs `work` as often as takes a few milliseconds at least, and answers the time of one run.
fn time(work: &dyn Fn() -> Tensor<1>) -> Duration {
    let mut runs = 1;
    loop {
        let start = Instant::now();
        let outputs: Vec<_> = (0..runs).map(|_| work()).collect();
        let data = block_on(Tensor::cat(outputs, 0).into_data_async()).expect("a working device");
        // The data are waited for where they are looked at.
        data.try_to_vec::<f32>().expect("f32");
        let took = start.elapsed();
        if took > Duration::from_millis(5) || runs >= 16 {
            return took / runs;
        }
        runs *= 2;
    }
}

/// Prints a line of the table: `run` is given the module with its weights.
fn compare<M: Module>(
    what: &str,
    module: impl Fn(&Device) -> M,
    dtype: GgmlType,
    device: &Device,
    run: impl Fn(&M) -> Tensor<1>,
) {
    let cpu = Device::flex();
    let files = files(module(&cpu), dtype);
    let modules = files.each_ref().map(|file| load(module(device), file, "").expect("fits"));
    let bytes = files.map(|file| file.header().tensors.values().map(|tensor| tensor.len).sum::<usize>());
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        for (best, module) in best.iter_mut().zip(&modules) {
            *best = time(&|| run(module)).min(*best);
        }
    }
    println!(
        "| {what:<34} | {:>9.2?} | {:>9.2?} | {:>5.2} | {:>9} | {:>9} | {:>5.2} |",
        best[0],
        best[1],
        best[0].as_secs_f64() / best[1].as_secs_f64(),
        bytes[0],
        bytes[1],
        bytes[0] as f64 / bytes[1] as f64
    );
}

fn main() {
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    let opened = block_on(open(if has("wgpu") { DeviceChoice::Wgpu } else { DeviceChoice::Cpu }))
        .expect("the device that was asked for");
    let dtype = if has("q4_0") { GgmlType::Q4_0 } else { GgmlType::Q8_0 };
    let device = &opened.device;
    let one = |tensor: Tensor<2>| tensor.sum();
    println!("{}, {dtype}, batch 2 (a prompt and its guidance)\n", opened.name);
    println!("| layer | packed | f32 | ratio | packed, bytes | f32, bytes | ratio |\n|---|---|---|---|---|---|---|");
    for (rows, input, output) in
        [(2, 256, 256), (2, 256, 384), (32, 512, 192), (128, 192, 192), (128, 192, 1536), (128, 768, 192)]
    {
        let x = Tensor::<2>::random([rows, input], Distribution::Default, device);
        let linear = |device: &Device| Linear::from(LinearConfig::new(input, output).init(device));
        let what = format!("linear {rows} x {input} x {output}");
        compare(&what, linear, dtype, device, |linear| one(linear.forward(x.clone())));
    }
    for (size, input, output, kernel, stride) in [
        (16, 64, 64, 3, 1),
        (16, 64, 64, 3, 2),
        (8, 64, 192, 3, 1),
        (8, 192, 192, 3, 1),
        (8, 384, 192, 3, 1),
        (8, 384, 192, 1, 1),
        (16, 192, 192, 3, 1),
        (16, 256, 64, 3, 1),
        (16, 128, 64, 3, 1),
    ] {
        let x = Tensor::<4>::random([2, input, size, size], Distribution::Default, device);
        let padding = kernel / 2;
        let config = Conv2dConfig::new([input, output], [kernel; 2])
            .with_stride([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding));
        let conv = |device: &Device| Conv2d::from(config.init(device));
        let what = format!("conv {kernel}x{kernel}/{stride} {input} to {output} at {size} x {size}");
        compare(&what, conv, dtype, device, |conv| one(conv.forward(x.clone()).flatten(1, 3)));
    }
    let random = |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Default, device);
    let (sample, context) = (random([2, 8, 256]).reshape([2, 8, 16, 16]), random([2, 16, 512]));
    let (timesteps, vector) = (Tensor::<1>::full([2], 500.0, device), Tensor::<2>::zeros([2, 512], device));
    let unet = |device: &Device| UNetConfig::emoji().init(device).expect("a valid configuration");
    compare("UNet", unet, dtype, device, |unet: &UNet| {
        let inputs = (sample.clone(), timesteps.clone(), context.clone(), Some(vector.clone()));
        let output = unet.forward_now(inputs.0, inputs.1, inputs.2, inputs.3).expect("nobody cancels");
        one(output.flatten(1, 3))
    });
}
