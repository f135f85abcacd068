//! The networks on WebGPU in a browser, against the same goldens as natively, and the noise against the same bits.
#![cfg(target_arch = "wasm32")]

mod common;
#[path = "common/heap.rs"]
mod heap;

use burn::tensor::{Device, Tensor};
use common::{
    Half,
    quantized::{Case, TYPES, convolution, embedding, linear},
    relative_error, tensor, values,
};
use pangu_draw::{
    device::{self, DeviceChoice},
    diffusion::noise::{Noise, Stream},
    nets::{
        Pace,
        autoencoder_kl::AutoencoderKlConfig,
        autoencoder_tiny::AutoencoderTinyConfig,
        controlnet::ControlNetConfig,
        text::{clip::ClipTextConfig, sentence::SentenceConfig},
        unet::UNetConfig,
    },
    web::{
        journal,
        storage::{DatabaseStore, FileStore},
    },
    weights::{load, quant::GgmlType, safetensors::SafeTensors, store::Store},
};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{cell::RefCell, pin::pin, task::Poll};
use wasm_bindgen_test::{console_log, wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

const TOLERANCE: f32 = 1e-4;

thread_local! {
    static DEVICE: RefCell<Option<Device>> = const { RefCell::new(None) };
}

/// The one WebGPU device of this page.
async fn webgpu() -> Device {
    if let Some(device) = DEVICE.with_borrow(Clone::clone) {
        return device;
    }
    journal::install();
    let opened = device::open(DeviceChoice::Wgpu).await.expect("an adapter");
    console_log!("WebGPU adapter: {}", opened.name);
    DEVICE.set(Some(opened.device.clone()));
    opened.device
}

/// A golden that was compiled in.
macro_rules! golden {
    ($name:literal) => {
        SafeTensors::new($name, include_bytes!(concat!("goldens/", $name, ".safetensors")).to_vec()).expect($name)
    };
}

fn config<C: DeserializeOwned>(golden: &SafeTensors) -> C {
    serde_json::from_str(&golden.metadata()["config"]).expect("a configuration")
}

/// Reads `found` back and compares; a shader that did not compile fails the test too.
async fn assert_close<const D: usize>(what: &str, found: Tensor<D>, golden: &SafeTensors, output: &str) {
    let found = found.into_data_async().await.expect("readable").convert::<f32>().try_to_vec().expect("f32");
    let error = relative_error(&found, &values(golden, output).1);
    console_log!("parity | {what} | browser | {error:.2e}");
    assert!(error <= TOLERANCE, "{what}: {error:e} > {TOLERANCE:e}");
    journal::check().expect("no error in the log");
}

async fn unet(golden: SafeTensors, name: &str) {
    let device = webgpu().await;
    let config: UNetConfig = config(&golden);
    let network = load(config.init(&device).expect("known"), &golden, "weights.").expect("the weights fit");
    let vector = config.vector_dim().map(|_| tensor(&golden, "input.vector", &device));
    let found = network
        .forward(
            tensor(&golden, "input.sample", &device),
            tensor(&golden, "input.timesteps", &device),
            tensor(&golden, "input.encoder_hidden_states", &device),
            vector,
            &Pace::free(),
        )
        .await
        .expect("evaluates");
    assert_close(&format!("UNet | {name}"), found, &golden, "output.sample").await;
}

#[wasm_bindgen_test]
async fn unet_agrees_with_diffusers() {
    unet(golden!("unet_sd15"), "sd15").await;
    unet(golden!("unet_sdxl"), "sdxl").await;
    unet(golden!("unet_emoji"), "emoji").await;
    unet(golden!("unet_odd"), "odd").await;
}

/// The UNet after what a ControlNet adds to it.
#[wasm_bindgen_test]
async fn controlnet_agrees_with_diffusers() {
    #[derive(serde::Deserialize)]
    struct Configs {
        unet: UNetConfig,
        controlnet: ControlNetConfig,
        scale: f64,
    }
    let (golden, device) = (golden!("controlnet_emoji"), webgpu().await);
    let Configs { unet, controlnet, scale } = config(&golden);
    let unet = load(unet.init(&device).expect("known"), &golden, "weights.unet.").expect("fits");
    let controlnet = load(controlnet.init(&device).expect("known"), &golden, "weights.controlnet.").expect("fits");
    let input = || tensor(&golden, "input.sample", &device);
    let timesteps = || tensor(&golden, "input.timesteps", &device);
    let tokens = || tensor(&golden, "input.encoder_hidden_states", &device);
    let vector = || Some(tensor(&golden, "input.vector", &device));
    let image = tensor(&golden, "input.image", &device);
    let pace = Pace::free();
    let residuals =
        controlnet.forward(input(), timesteps(), tokens(), vector(), image, &pace).await.expect("evaluates");
    let residuals = Some(residuals.scaled(scale));
    let found = unet.forward_controlled(input(), timesteps(), tokens(), vector(), residuals, &pace).await;
    assert_close("ControlNet | emoji", found.expect("evaluates"), &golden, "output.sample").await;
}

async fn tiny(golden: SafeTensors, name: &str) {
    let device = webgpu().await;
    let config: AutoencoderTinyConfig = config(&golden);
    let encoder = load(config.init_encoder(&device).expect("known"), &golden, "weights.encoder.").expect("fits");
    let decoder = load(config.init_decoder(&device).expect("known"), &golden, "weights.decoder.").expect("fits");
    let latent = encoder.encode(tensor(&golden, "input.image", &device), &Pace::free()).await.expect("encodes");
    assert_close(&format!("AutoencoderTiny encoder | {name}"), latent, &golden, "output.latent").await;
    let image = decoder.decode(tensor(&golden, "input.latent", &device), &Pace::free()).await.expect("decodes");
    assert_close(&format!("AutoencoderTiny decoder | {name}"), image, &golden, "output.image").await;
}

#[wasm_bindgen_test]
async fn autoencoder_tiny_agrees_with_diffusers() {
    tiny(golden!("autoencoder_tiny_taesd"), "taesd").await;
    tiny(golden!("autoencoder_tiny_two_levels"), "two_levels").await;
    tiny(golden!("autoencoder_tiny_patched"), "patched").await;
}

async fn kl(golden: SafeTensors, name: &str) {
    let device = webgpu().await;
    let config: AutoencoderKlConfig = config(&golden);
    let half = |prefixes| Half { whole: &golden, prefixes };
    let encoder = config.init_encoder(&device).expect("known");
    let encoder = load(encoder, &half(["weights.encoder.", "weights.quant_conv."]), "weights.").expect("fits");
    let decoder = config.init_decoder(&device).expect("known");
    let decoder = load(decoder, &half(["weights.decoder.", "weights.post_quant_conv."]), "weights.").expect("fits");
    let latent = encoder.encode(tensor(&golden, "input.image", &device), &Pace::free()).await.expect("encodes");
    assert_close(&format!("AutoencoderKl encoder | {name}"), latent, &golden, "output.latent").await;
    let image = decoder.decode(tensor(&golden, "input.latent", &device), &Pace::free()).await.expect("decodes");
    assert_close(&format!("AutoencoderKl decoder | {name}"), image, &golden, "output.image").await;
}

#[wasm_bindgen_test]
async fn autoencoder_kl_agrees_with_diffusers() {
    kl(golden!("autoencoder_kl_sd"), "sd").await;
    kl(golden!("autoencoder_kl_three_levels"), "three_levels").await;
    kl(golden!("autoencoder_kl_without_quant_conv"), "without_quant_conv").await;
    kl(golden!("autoencoder_kl_without_attention"), "without_attention").await;
}

async fn sentence(golden: SafeTensors, name: &str) {
    let device = webgpu().await;
    let config: SentenceConfig = config(&golden);
    let sentences: Vec<Vec<u32>> = serde_json::from_str(&golden.metadata()["sentences"]).expect("sentences");
    let encoder = load(config.init(&device).expect("known"), &golden, "weights.").expect("the weights fit");
    let encoded = encoder.forward(&sentences);
    assert_close(&format!("SentenceEncoder pooled | {name}"), encoded.pooled, &golden, "output.pooled").await;
    assert_close(&format!("SentenceEncoder tokens | {name}"), encoded.tokens, &golden, "output.tokens").await;
}

#[wasm_bindgen_test]
async fn sentence_encoder_agrees_with_its_reference() {
    sentence(golden!("sentence_use"), "use").await;
    sentence(golden!("sentence_even"), "even").await;
    sentence(golden!("sentence_single"), "single").await;
}

async fn clip(golden: SafeTensors, name: &str) {
    let device = webgpu().await;
    let config: ClipTextConfig = config(&golden);
    let (shape, ids) = values(&golden, "input.ids");
    let ids: Vec<Vec<u32>> = ids.chunks(shape[1]).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
    let tower = load(config.init(&device).expect("known"), &golden, "weights.").expect("the weights fit");
    let output = tower.forward(&ids, &Pace::free()).await.expect("evaluates");
    let what = |output: &str| format!("ClipText {output} | {name}");
    assert_close(&what("last"), output.last_hidden_state, &golden, "output.last_hidden_state").await;
    assert_close(&what("penultimate"), output.penultimate_hidden_state, &golden, "output.penultimate_hidden_state")
        .await;
    match output.text_embeds {
        Some(embeds) => assert_close(&what("text_embeds"), embeds, &golden, "output.text_embeds").await,
        None => assert_close(&what("pooled"), output.pooled, &golden, "output.pooled").await,
    }
}

#[wasm_bindgen_test]
async fn clip_agrees_with_transformers() {
    clip(golden!("clip_quick_gelu"), "quick_gelu").await;
    clip(golden!("clip_gelu_projection"), "gelu_projection").await;
    clip(golden!("clip_legacy_eos"), "legacy_eos").await;
}

/// Quantized weights, in sizes that fill no tile; tests/quantized.rs has more of them.
#[wasm_bindgen_test]
async fn layers_multiply_by_blocks() {
    let gpu = webgpu().await;
    for device in [gpu, Device::flex()] {
        for dtype in TYPES {
            for sizes in [[1, 32, 1], [3, 96, 70], [33, 288, 64], [257, 64, 129]] {
                linear(dtype, sizes, 1.0, usize::MAX, &device).await;
            }
            linear(dtype, [3, 64, 40], 1e-5, usize::MAX, &device).await;
            for case in [
                Case::new([2, 64, 7, 5], 33, 1, 1, 0),
                Case::new([1, 32, 9, 13], 65, 3, 1, 1),
                Case::new([2, 32, 15, 8], 70, 3, 2, 1),
                Case { padding: [0, 0, 1, 1], ..Case::new([2, 32, 8, 6], 9, 3, 2, 0) },
            ] {
                convolution(dtype, &case, usize::MAX, &device).await;
            }
            embedding(dtype, [7, 96], usize::MAX, &device).await;
        }
        // Weights in parts, too.
        for dtype in GgmlType::ALL {
            linear(dtype, [33, 96, 70], 1.0, 10_000, &device).await;
            convolution(dtype, &Case::new([1, 32, 9, 13], 12, 3, 1, 1), 10_000, &device).await;
            embedding(dtype, [7, 96], 1000, &device).await;
        }
        journal::check().expect("no error in the log");
    }
}

/// As natively (tests/heap.rs).
#[wasm_bindgen_test]
async fn loads_take_two_chunks_and_a_tensor() {
    let devices = [("cpu", Device::flex()), ("webgpu", webgpu().await)];
    heap::loads_take_two_chunks_and_a_tensor(&devices, |line| console_log!("{line}")).await;
    journal::check().expect("no error in the log");
}

/// The hashes that tests/diffusion.rs expects natively.
#[wasm_bindgen_test]
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

/// What every store of chunks does. `here` and `there` are the same store, as two tabs have it.
async fn keeps(here: &dyn Store, there: &dyn Store) {
    let [a, b] = ["a".repeat(64), "b".repeat(64) + ".json"];
    for key in [&a, &b] {
        here.remove(key).await.expect("removed, or never there");
        assert_eq!(here.get(key).await.expect("readable"), None);
    }
    // Longer than a chunk is by default.
    let long: Vec<u8> = (0..5 << 20).map(|i: u32| (i ^ (i >> 8)) as u8).collect();
    here.put(&a, &long).await.expect("room");
    assert_eq!(there.get(&a).await.expect("readable").as_ref(), Some(&long));
    let len = async |key: &str| there.list().await.expect("readable").get(key).copied();
    assert_eq!((len(&a).await, len(&b).await), (Some(5 << 20), None));
    // What is replaced is replaced wholly.
    for bytes in [&b"short"[..], b""] {
        there.put(&a, bytes).await.expect("room");
        here.put(&b, bytes).await.expect("room");
        assert_eq!(here.get(&a).await.expect("readable").as_deref(), Some(bytes));
        assert_eq!((len(&a).await, len(&b).await), (Some(bytes.len() as u64), Some(bytes.len() as u64)));
    }
    here.remove(&a).await.expect("removed");
    assert_eq!((there.get(&a).await.expect("readable"), len(&a).await, len(&b).await), (None, None, Some(0)));
    here.remove(&b).await.expect("removed");

    // A lock is its holder's until it is dropped, and nobody else's lock.
    let held = here.lock(&a).await;
    drop(there.lock(&b).await);
    let mut waiting = pin!(there.lock(&a));
    // Long enough for it to be granted by mistake.
    for _ in 0..3 {
        assert!(std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context))).await.is_pending());
        here.list().await.expect("readable");
    }
    drop(held);
    waiting.await;
}

#[wasm_bindgen_test]
async fn chunks_are_kept_in_files() {
    let open = async || FileStore::open().await.expect("a private file system");
    keeps(&open().await, &open().await).await;
}

#[wasm_bindgen_test]
async fn chunks_are_kept_in_a_database() {
    let open = async || DatabaseStore::open().await.expect("a database");
    keeps(&open().await, &open().await).await;
}
