//! f16 on a GPU: how far networks and pictures are from f32, and what becomes of what f16 is too small for.
#![cfg(feature = "cli")]

mod common;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use clap::Parser;
use common::{Half, golden, relative_error, tensor, values};
use half::f16;
use pangu_draw::{
    Error,
    cli::Cli,
    device::{self, DeviceChoice, OpenDevice, PrecisionChoice},
    nets::{
        Pace,
        autoencoder_kl::AutoencoderKlConfig,
        autoencoder_tiny::AutoencoderTinyConfig,
        controlnet::ControlNetConfig,
        now,
        precision::{Overflow, Precision, Stage},
        unet::UNetConfig,
    },
    pipeline::{Drawing, Generator, MEMORY, Request},
    weights::{Depot, load, safetensors::SafeTensors, source::FolderSource},
};
use pollster::block_on;
use safetensors::SafeTensors as Layout;
use serde::de::DeserializeOwned;
use std::{
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::LazyLock,
};

/// Largest error of a network's output, relative to the largest number in it. f16 rounds each number by up to 0.05 %.
const TOLERANCE: f32 = 5e-3;

/// The GPU of this process, which must have f16; none where there is to be none.
static GPU: LazyLock<Option<OpenDevice>> = LazyLock::new(|| {
    if std::env::var("PANGU_TEST_DEVICES").as_deref() == Ok("cpu") {
        return None;
    }
    let gpu = block_on(device::open(DeviceChoice::Wgpu)).expect("an adapter");
    // What is emulated gets f16 only where it is asked for.
    assert_eq!(gpu.precision(PrecisionChoice::F16).expect("shader-f16"), Precision::F16);
    assert_eq!(gpu.precision(PrecisionChoice::Auto).unwrap() == Precision::F32, gpu.emulated);
    Some(gpu)
});

fn config<C: DeserializeOwned>(golden: &SafeTensors) -> C {
    serde_json::from_str(&golden.metadata()["config"]).expect("the oracle writes the configuration")
}

/// A golden's tensor in f16.
fn half<const D: usize>(golden: &SafeTensors, name: &str, device: &Device) -> Tensor<D> {
    tensor::<D>(golden, name, device).cast(FloatDType::F16)
}

fn assert_near(what: &str, found: Tensor<4>, golden: &SafeTensors, output: &str) {
    assert_eq!(found.dtype(), DType::F16, "{what}");
    let found: Vec<f32> = found.into_data().convert::<f32>().try_to_vec().expect("f32");
    let error = relative_error(&found, &values(golden, output).1);
    println!("parity | {what} | f16 | {error:.2e}");
    assert!(error <= TOLERANCE, "{what}: {error:e} > {TOLERANCE:e}");
    assert!(error > 1e-6, "{what}: {error:e} is f32");
}

#[test]
fn networks_in_f16_are_near_diffusers() {
    let Some(OpenDevice { device, .. }) = &*GPU else { return };
    for name in ["unet_sd15", "unet_sdxl", "unet_emoji", "unet_odd"] {
        let golden = golden(name);
        let config: UNetConfig = config(&golden);
        let unet = load(config.init(device).unwrap(), &golden, "weights.").unwrap();
        // The condition and the time come in f32, whatever the sample is in.
        let sample = half(&golden, "input.sample", device);
        let tokens = tensor(&golden, "input.encoder_hidden_states", device);
        let vector = config.vector_dim().map(|_| tensor(&golden, "input.vector", device));
        let found = unet.forward_now(sample, tensor(&golden, "input.timesteps", device), tokens, vector).unwrap();
        assert_near(name, found, &golden, "output.sample");
    }
    for name in ["taesd", "two_levels", "patched"] {
        let golden = golden(&format!("autoencoder_tiny_{name}"));
        let config: AutoencoderTinyConfig = config(&golden);
        let encoder = load(config.init_encoder(device).unwrap(), &golden, "weights.encoder.").unwrap();
        let decoder = load(config.init_decoder(device).unwrap(), &golden, "weights.decoder.").unwrap();
        let latent = encoder.encode_now(half(&golden, "input.image", device)).unwrap();
        assert_near(&format!("tiny {name} encode"), latent, &golden, "output.latent");
        let image = decoder.decode_now(half(&golden, "input.latent", device)).unwrap();
        assert_near(&format!("tiny {name} decode"), image, &golden, "output.image");
    }
    for name in ["sd", "three_levels"] {
        let golden = golden(&format!("autoencoder_kl_{name}"));
        let config: AutoencoderKlConfig = config(&golden);
        let part = |prefixes| Half { whole: &golden, prefixes };
        let encoder = config.init_encoder(device).unwrap();
        let encoder = load(encoder, &part(["weights.encoder.", "weights.quant_conv."]), "weights.").unwrap();
        let decoder = config.init_decoder(device).unwrap();
        let decoder = load(decoder, &part(["weights.decoder.", "weights.post_quant_conv."]), "weights.").unwrap();
        let latent = encoder.encode_now(half(&golden, "input.image", device)).unwrap();
        assert_near(&format!("KL {name} encode"), latent, &golden, "output.latent");
        let image = decoder.decode_now(half(&golden, "input.latent", device)).unwrap();
        assert_near(&format!("KL {name} decode"), image, &golden, "output.image");
    }
}

#[test]
fn a_controlnet_in_f16_is_near_diffusers() {
    #[derive(serde::Deserialize)]
    struct Configs {
        unet: UNetConfig,
        controlnet: ControlNetConfig,
        scale: f64,
    }
    let Some(OpenDevice { device, .. }) = &*GPU else { return };
    let golden = golden("controlnet_emoji");
    let Configs { unet, controlnet, scale } = config(&golden);
    let unet = load(unet.init(device).unwrap(), &golden, "weights.unet.").unwrap();
    let controlnet = load(controlnet.init(device).unwrap(), &golden, "weights.controlnet.").unwrap();
    let sample = || half(&golden, "input.sample", device);
    let (time, tokens) =
        (tensor(&golden, "input.timesteps", device), tensor(&golden, "input.encoder_hidden_states", device));
    let (vector, image) = (Some(tensor(&golden, "input.vector", device)), half(&golden, "input.image", device));
    let pace = Pace::free();
    let added = controlnet.forward(sample(), time.clone(), tokens.clone(), vector.clone(), image, &pace);
    let added = now(added).unwrap().scaled(scale);
    let found = now(unet.forward_controlled(sample(), time, tokens, vector, Some(added), &pace)).unwrap();
    assert_near("ControlNet", found, &golden, "output.sample");
}

fn open(folder: PathBuf, device: OpenDevice) -> Generator {
    let depot = Depot::new(Rc::new(FolderSource(folder)), None);
    block_on(Generator::open(depot, device, MEMORY)).unwrap()
}

fn draw(generator: &Generator, request: &Request, precision: PrecisionChoice) -> Drawing {
    let request = Request { precision, ..request.clone() };
    block_on(generator.generate(&request, &Pace::free(), &mut |_| {})).unwrap()
}

fn request(prompt: &str) -> Request {
    Request { prompt: prompt.into(), seed: 7, steps: Some(6), ..Request::default() }
}

/// The default model, whose weights are quantized, through all of its networks but the text encoder in f16.
#[test]
fn a_picture_in_f16_is_near_the_one_in_f32() {
    let Some(gpu) = &*GPU else { return };
    let generator = open(format!("{}/www/models/default", env!("CARGO_MANIFEST_DIR")).into(), gpu.clone());
    let request = request("red apple");
    let (small, large) =
        (draw(&generator, &request, PrecisionChoice::F16), draw(&generator, &request, PrecisionChoice::F32));
    let used = |drawing: &Drawing| (drawing.arithmetic.denoise, drawing.arithmetic.autoencoder);
    assert_eq!(used(&small), (Precision::F16, Precision::F16), "{:?}", small.arithmetic);
    assert_eq!(used(&large), (Precision::F32, Precision::F32));
    assert!(small.arithmetic.overflows.is_empty() && large.arithmetic.overflows.is_empty());
    let differences = small.image.rgba.iter().zip(&large.image.rgba).map(|(a, b)| a.abs_diff(*b));
    let (sum, most) = differences.fold((0u64, 0), |(sum, most), d| (sum + u64::from(d), most.max(d)));
    let mean = sum as f64 / small.image.rgba.len() as f64;
    println!("parity | picture, mean difference of 255 | f16 | {mean:.3} (most {most})");
    assert!(0.0 < mean && mean < 1.0, "{mean} of 255, most {most}");
}

/// A copy of the tiny pipeline of tests/goldens in which one weight is so large that what comes out of its layer is beyond f16;
/// the normalization after it brings that back.
fn overflowing(name: &str, network: &str, weight: &str, quantize: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("precision-{name}"));
    let _ = fs::remove_dir_all(&root);
    let (source, model) = (root.join("source"), root.join("model"));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/pipeline_sd");
    for folder in ["", "text_encoder", "vae", "scheduler", "tokenizer", "unet"] {
        fs::create_dir_all(source.join(folder)).unwrap();
        for entry in fs::read_dir(golden.join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_file() {
                fs::copy(&entry, source.join(folder).join(entry.file_name().unwrap())).unwrap();
            }
        }
    }
    let path = source.join(network).join("diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let (header, layout) = Layout::read_metadata(&bytes).unwrap();
    let (from, to) = layout.info(weight).unwrap().data_offsets;
    for value in bytes[8 + header..][from..to].chunks_exact_mut(2) {
        let large = f16::from_le_bytes([value[0], value[1]]).to_f32() * 1e5;
        value.copy_from_slice(&f16::from_f32(large.clamp(-6e4, 6e4)).to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
    let (source, output) = (source.display().to_string(), model.display().to_string());
    Cli::parse_from(["pangu-draw", "convert", &source, "-o", &output, "--quantize", quantize]).run().unwrap();
    model
}

#[test]
fn what_overflows_is_computed_again_in_f32_and_said() {
    let Some(gpu) = &*GPU else { return };
    for (name, network, weight, quantize, stage) in [
        ("dense", "unet", "down_blocks.0.resnets.0.conv1.weight", "f32", Stage::Denoise),
        ("packed", "unet", "mid_block.resnets.0.conv1.weight", "q8_0", Stage::Denoise),
        ("decoder", "vae", "decoder.mid_block.resnets.0.conv1.weight", "f32", Stage::Autoencoder),
    ] {
        let generator = open(overflowing(name, network, weight, quantize), gpu.clone());
        let request = request("a red apple");
        let (small, large) =
            (draw(&generator, &request, PrecisionChoice::F16), draw(&generator, &request, PrecisionChoice::F32));
        let found = &small.arithmetic;
        assert_eq!(found.overflows, [Overflow { stage, evaluation: 1 }], "{name}");
        let expected = match stage {
            Stage::Denoise => (Precision::F32, Precision::F16),
            Stage::Autoencoder => (Precision::F16, Precision::F32),
        };
        assert_eq!((found.denoise, found.autoencoder), expected, "{name}");
        // Where the denoiser ends in f32 the latents are those of f32, bit for bit.
        if stage == Stage::Denoise {
            assert_eq!(small.latents, large.latents, "{name}");
        }
        let most = small.image.rgba.iter().zip(&large.image.rgba).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        println!("parity | picture after an overflow, {name} | f16 | {most} of 255");
        assert!(most <= 8, "{name}: {most}");
    }
}

#[test]
fn the_cpu_computes_in_f32() {
    let cpu = block_on(device::open(DeviceChoice::Cpu)).unwrap();
    let generator = open(format!("{}/www/models/default", env!("CARGO_MANIFEST_DIR")).into(), cpu);
    let request = Request { steps: Some(1), ..request("red apple") };
    let drawing = draw(&generator, &request, PrecisionChoice::Auto);
    assert_eq!((drawing.arithmetic.denoise, drawing.arithmetic.autoencoder), (Precision::F32, Precision::F32));
    assert_eq!(drawing.settings.precision, None);
    let wanted = Request { precision: PrecisionChoice::F16, ..request };
    let refused = block_on(generator.generate(&wanted, &Pace::free(), &mut |_| {})).unwrap_err();
    assert!(matches!(refused, Error::Invalid { parameter: "precision", .. }), "{refused}");
}
