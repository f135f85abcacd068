//! The autoencoders against diffusers' (goldens from tests/oracle/autoencoders.py).

mod common;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use common::{Half, assert_close, devices, golden, tensor, values};
use pangu_draw::{
    nets::{Pace, autoencoder_kl::AutoencoderKlConfig, autoencoder_tiny::AutoencoderTinyConfig},
    weights::{load, safetensors::SafeTensors},
};
use serde::de::DeserializeOwned;

fn config<C: DeserializeOwned>(golden: &SafeTensors) -> C {
    serde_json::from_str(&golden.metadata()["config"]).expect("the oracle writes the configuration")
}

#[test]
fn tiny_matches_diffusers() {
    for name in ["autoencoder_tiny_taesd", "autoencoder_tiny_two_levels", "autoencoder_tiny_patched"] {
        let golden = golden(name);
        let config: AutoencoderTinyConfig = config(&golden);
        for (kind, device) in devices() {
            let encoder = load(config.init_encoder(&device).unwrap(), &golden, "weights.encoder.").unwrap();
            let decoder = load(config.init_decoder(&device).unwrap(), &golden, "weights.decoder.").unwrap();
            let latent = encoder.encode_now(tensor(&golden, "input.image", &device)).unwrap();
            assert_close(&format!("{name} encode {kind}"), latent, &values(&golden, "output.latent").1, 1e-4);
            let image = decoder.decode_now(tensor(&golden, "input.latent", &device)).unwrap();
            assert_close(&format!("{name} decode {kind}"), image, &values(&golden, "output.image").1, 1e-4);
        }
    }
}

#[test]
fn kl_matches_diffusers() {
    for name in ["sd", "three_levels", "without_quant_conv", "without_attention"] {
        let name = format!("autoencoder_kl_{name}");
        let golden = golden(&name);
        let config: AutoencoderKlConfig = config(&golden);
        let half = |prefixes| Half { whole: &golden, prefixes };
        for (kind, device) in devices() {
            let encoder = config.init_encoder(&device).unwrap();
            let encoder = load(encoder, &half(["weights.encoder.", "weights.quant_conv."]), "weights.").unwrap();
            let decoder = config.init_decoder(&device).unwrap();
            let decoder = load(decoder, &half(["weights.decoder.", "weights.post_quant_conv."]), "weights.").unwrap();
            let latent = encoder.encode_now(tensor(&golden, "input.image", &device)).unwrap();
            assert_close(&format!("{name} encode {kind}"), latent, &values(&golden, "output.latent").1, 1e-4);
            let image = decoder.decode_now(tensor(&golden, "input.latent", &device)).unwrap();
            assert_close(&format!("{name} decode {kind}"), image, &values(&golden, "output.image").1, 1e-4);
        }
    }
}

#[test]
fn kl_knows_the_size_of_stable_diffusions() {
    let device = Device::flex();
    let config = AutoencoderKlConfig::sd15();
    let (encoder, decoder) = (config.init_encoder(&device).unwrap(), config.init_decoder(&device).unwrap());
    assert_eq!(encoder.num_params() + decoder.num_params(), 83_653_863);
    let unknown = AutoencoderKlConfig { act_fn: "mish".into(), ..config };
    assert_eq!(unknown.init_encoder(&device).unwrap_err().code(), "unsupported");
}

#[test]
fn tiny_cancels_and_refuses_odd_sizes() {
    let device = Device::flex();
    let encoder = AutoencoderTinyConfig::emoji().init_encoder(&device).unwrap();
    let pace = Pace::cancellable();
    pace.cancel();
    let images = Tensor::<4>::zeros([1, 4, 32, 32], &device);
    assert_eq!(pollster::block_on(encoder.encode(images, &pace)).unwrap_err().code(), "cancelled");
    let odd = Tensor::<4>::zeros([1, 4, 31, 32], &device);
    assert_eq!(encoder.encode_now(odd).unwrap_err().code(), "invalid");
}

#[cfg(feature = "train")]
mod training {
    use super::*;
    use burn::{
        module::{ModuleVisitor, Param},
        tensor::{Distribution, Gradients},
    };

    /// Counts the parameters that have a gradient.
    struct Trained {
        gradients: Gradients,
        parameters: usize,
    }

    impl ModuleVisitor for Trained {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.parameters += param.val().grad(&self.gradients).map_or(0, |gradient| gradient.shape().num_elements());
        }
    }

    #[test]
    fn every_parameter_has_a_gradient() {
        let device = Device::flex().autodiff();
        let config = AutoencoderTinyConfig::emoji();
        let model = config.init(&device).unwrap();
        assert_eq!(model.num_params(), 2_052_616);
        let images = Tensor::<4>::random([1, 4, 32, 32], Distribution::Uniform(-1.0, 1.0), &device);
        let latents = model.encoder.encode_now(images.clone()).unwrap();
        assert_eq!(latents.dims(), [1, 8, 32 / config.downscale(), 4]);
        let loss = (model.decoder.decode_now(latents).unwrap() - images).square().mean();
        let mut trained = Trained { gradients: loss.backward(), parameters: 0 };
        model.visit(&mut trained);
        assert_eq!(trained.parameters, 2_052_616);
    }
}
