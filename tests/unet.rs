//! The UNet against diffusers' `UNet2DConditionModel`: numbers, parameter counts, strict loading, cancelling.

mod common;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Distribution, Gradients, Tensor},
};
use common::{assert_close, devices, golden, relative_error, tensor, values};
use pangu_draw::{
    Error,
    nets::{
        Pace, Progress,
        unet::{PerLevel, UNet, UNetConfig, timestep_embedding},
    },
    weights::{StoredTensor, TensorSource, load, safetensors::SafeTensors, save},
};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

const GOLDENS: [&str; 4] = ["unet_sd15", "unet_sdxl", "unet_emoji", "unet_odd"];
const TOLERANCE: f32 = 1e-4;

fn config(golden: &SafeTensors) -> UNetConfig {
    serde_json::from_str(&golden.metadata()["config"]).expect("diffusers' own configuration")
}

fn network(golden: &SafeTensors, device: &Device) -> UNet {
    let unet = config(golden).init(device).expect("a known configuration");
    load(unet, golden, "weights.").expect("diffusers' own names and shapes")
}

/// The golden's inputs, in the order of `UNet::forward`.
fn inputs(golden: &SafeTensors, device: &Device) -> (Tensor<4>, Tensor<1>, Tensor<3>, Option<Tensor<2>>) {
    (
        tensor(golden, "input.sample", device),
        tensor(golden, "input.timesteps", device),
        tensor(golden, "input.encoder_hidden_states", device),
        config(golden).vector_dim().map(|_| tensor(golden, "input.vector", device)),
    )
}

#[test]
fn agrees_with_diffusers() {
    for (device_name, device) in devices() {
        for name in GOLDENS {
            let golden = golden(name);
            let (sample, timesteps, context, vector) = inputs(&golden, &device);
            let found = network(&golden, &device).forward_now(sample, timesteps, context, vector).unwrap();
            let (shape, expected) = values(&golden, "output.sample");
            assert_eq!(found.dims().to_vec(), shape, "{name}");
            assert_close(&format!("{name} | {device_name}"), found, &expected, TOLERANCE);
        }
    }
}

#[test]
fn gradients_agree_with_pytorch() {
    let device = Device::flex().autodiff();
    for name in GOLDENS {
        let golden = golden(name);
        let unet = network(&golden, &device);
        let (sample, timesteps, context, vector) = inputs(&golden, &device);
        let (sample, context) = (sample.require_grad(), context.require_grad());
        let found = unet.forward_now(sample.clone(), timesteps, context.clone(), vector).unwrap();
        assert_close(&format!("{name} | autodiff"), found.clone(), &values(&golden, "output.sample").1, TOLERANCE);

        let gradients = found.powi_scalar(2).mean().backward();
        let expected = |what: &str| values(&golden, &format!("output.gradient.{what}")).1;
        let label = |what: &str| format!("{name} gradient of {what} | autodiff");
        assert_close(&label("sample"), sample.grad(&gradients).unwrap(), &expected("sample"), TOLERANCE);
        let found = context.grad(&gradients).unwrap();
        assert_close(&label("context"), found, &expected("encoder_hidden_states"), TOLERANCE);

        let mut visitor = WeightGradients { gradients: &gradients, found: Vec::new() };
        unet.visit(&mut visitor);
        let names = save(&unet, "").into_iter().map(|(name, ..)| name);
        let found: BTreeMap<_, _> = names.zip(visitor.found).collect();
        let found: Vec<f32> = found.into_values().flatten().collect();
        let error = relative_error(&found, &expected("weights"));
        println!("parity | {} | {error:.2e}", label("weights"));
        assert!(error <= TOLERANCE, "{name}: {error:e}");
    }
}

/// Of each weight's gradient: its norm, and its product with the weight.
struct WeightGradients<'a> {
    gradients: &'a Gradients,
    found: Vec<[f32; 2]>,
}

impl ModuleVisitor for WeightGradients<'_> {
    fn visit_float<const D: usize>(&mut self, weight: &Param<Tensor<D>>) {
        let gradient = weight.grad(self.gradients).expect("every weight learns");
        let norm = gradient.clone().square().sum().sqrt().into_scalar();
        let product = (gradient * weight.val().inner()).sum().into_scalar();
        self.found.push([norm, product]);
    }
}

#[test]
fn vector_is_the_pooled_prompt_and_the_sinusoids_of_the_time_ids() {
    for (device_name, device) in devices() {
        for name in ["unet_sdxl", "unet_emoji"] {
            let golden = golden(name);
            let ids: Tensor<2> = tensor(&golden, "input.time_ids", &device);
            let [batch, count] = ids.dims();
            let width = config(&golden).addition_time_embed_dim.unwrap();
            let sinusoids = timestep_embedding(ids.reshape([batch * count]), width, true, 0.0);
            let pooled: Tensor<2> = tensor(&golden, "input.text_embeds", &device);
            let vector = Tensor::cat(vec![pooled, sinusoids.reshape([batch, count * width])], 1);
            let expected = values(&golden, "input.vector").1;
            assert_close(&format!("{name} vector | {device_name}"), vector, &expected, TOLERANCE);
        }
    }
}

#[test]
fn known_models_have_the_published_number_of_parameters() {
    let device = Device::flex();
    for (config, count) in [
        (UNetConfig::sd15(), 859_520_964),
        (UNetConfig::sdxl(), 2_567_463_684),
        (UNetConfig::pangu_draw_v3(), 2_565_825_284),
    ] {
        assert_eq!(config.init(&device).unwrap().num_params(), count);
    }
    println!("emoji: {} parameters", UNetConfig::emoji().init(&device).unwrap().num_params());
}

#[test]
fn training_starts_from_zero() {
    let device = Device::flex();
    let random = Distribution::Normal(0.0, 1.0);
    let config = UNetConfig { block_out_channels: vec![32, 96], ..UNetConfig::emoji() };
    let output = config.init_for_training(&device).unwrap().forward_now(
        Tensor::random([2, 8, 4, 4], random, &device),
        Tensor::from_floats([10.0, 900.0], &device),
        Tensor::random([2, 3, 512], random, &device),
        Some(Tensor::random([2, 512], random, &device)),
    );
    assert_eq!(output.unwrap().abs().max().into_scalar::<f32>(), 0.0);
}

/// A golden with one tensor hidden, added, or cut short.
struct Altered<'a> {
    golden: &'a SafeTensors,
    hidden: &'a str,
    added: Option<&'a str>,
    flattened: &'a str,
}

impl TensorSource for Altered<'_> {
    fn component(&self) -> &str {
        "unet"
    }

    fn names(&self) -> Vec<String> {
        self.golden.names().into_iter().chain(self.added.map(String::from)).collect()
    }

    fn tensor(&self, name: &str) -> pangu_draw::Result<Option<StoredTensor<'_>>> {
        let mut stored = self.golden.tensor(name)?.filter(|_| name != self.hidden);
        if let Some(stored) = stored.as_mut().filter(|_| name == self.flattened) {
            stored.shape = vec![stored.shape.iter().product()];
        }
        Ok(stored)
    }
}

#[test]
fn loading_is_strict() {
    let golden = golden("unet_sdxl");
    let device = Device::flex();
    let name = "weights.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0.weight";
    let intact = Altered { golden: &golden, hidden: "", added: None, flattened: "" };
    let outcome = |source: Altered| {
        let unet = config(&golden).init(&device).unwrap();
        load(unet, &source, "weights.").err()
    };
    assert!(outcome(Altered { ..intact }).is_none());
    match outcome(Altered { hidden: name, ..intact }) {
        Some(Error::TensorMissing { name: found, .. }) => assert_eq!(found, name),
        other => panic!("{other:?}"),
    }
    match outcome(Altered { added: Some("weights.surplus"), ..intact }) {
        Some(Error::TensorUnexpected { name, .. }) => assert_eq!(name, "weights.surplus"),
        other => panic!("{other:?}"),
    }
    match outcome(Altered { flattened: name, ..intact }) {
        Some(Error::TensorShape { name: found, expected, found: shape, .. }) => {
            assert_eq!((found.as_str(), expected, shape), (name, vec![16, 16], vec![256]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_configurations_are_refused() {
    let read = |json: &str| serde_json::from_str::<UNetConfig>(json).unwrap().validate();
    assert!(read("{}").is_ok());
    assert!(read(r#"{"_class_name": "UNet2DConditionModel", "mid_block_scale_factor": 1.0}"#).is_ok());
    for json in [
        r#"{"class_embed_type": "timestep"}"#,
        r#"{"time_cond_proj_dim": 256}"#,
        r#"{"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}"#,
        r#"{"act_fn": "gelu"}"#,
        r#"{"addition_embed_type": "image"}"#,
        r#"{"resnet_time_scale_shift": "ada_group"}"#,
        r#"{"up_block_types": ["UpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D", "UpBlock2D"]}"#,
    ] {
        assert!(matches!(read(json), Err(Error::Unsupported(_))), "{json}");
    }
    for json in [
        r#"{"block_out_channels": []}"#,
        r#"{"block_out_channels": [320, 640, 1280, 1281]}"#,
        r#"{"layers_per_block": 0}"#,
        r#"{"norm_num_groups": 0}"#,
        r#"{"attention_head_dim": [5, 10]}"#,
        r#"{"addition_embed_type": "text_time"}"#,
        r#"{"transformer_layers_per_block": 1000000000}"#,
    ] {
        assert!(matches!(read(json), Err(Error::Invalid { .. })), "{json}");
    }
    let config = UNetConfig { layers_per_block: PerLevel::Each(vec![1, 2]), ..UNetConfig::emoji() };
    let again: UNetConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
}

#[test]
fn wrong_inputs_are_refused() {
    let golden = golden("unet_emoji");
    let device = Device::flex();
    let unet = network(&golden, &device);
    let (sample, timesteps, context, vector) = inputs(&golden, &device);
    let parameter = |result: pangu_draw::Result<Tensor<4>>| match result {
        Err(Error::Invalid { parameter, .. }) => parameter,
        other => panic!("{other:?}"),
    };
    let forward = |sample: &Tensor<4>, timesteps: &Tensor<1>, context: &Tensor<3>, vector: &Option<Tensor<2>>| {
        parameter(unet.forward_now(sample.clone(), timesteps.clone(), context.clone(), vector.clone()))
    };
    assert_eq!(forward(&sample, &timesteps, &context, &None), "vector");
    assert_eq!(forward(&sample, &timesteps, &context.clone().narrow(2, 0, 15), &vector), "encoder_hidden_states");
    assert_eq!(forward(&sample, &timesteps.clone().narrow(0, 0, 1), &context, &vector), "timesteps");
    assert_eq!(forward(&sample.narrow(1, 0, 7), &timesteps, &context, &vector), "sample");
}

#[test]
fn cancelling_stops_inside_a_step() {
    let golden = golden("unet_odd");
    let device = Device::flex();
    let unet = network(&golden, &device);
    let run = |cancel_after: usize| {
        let (sample, timesteps, context, vector) = inputs(&golden, &device);
        let pace = Pace::cancellable();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (handle, log) = (pace.clone(), seen.clone());
        pace.on_progress(move |progress| {
            log.borrow_mut().push(progress);
            if progress.done == cancel_after {
                handle.cancel();
            }
        });
        let result = pollster::block_on(unet.forward(sample, timesteps, context, vector, &pace));
        let seen = seen.borrow().clone();
        (result, seen)
    };
    // 3 levels of 2 on the way down, 2 in the middle, 3 levels of 3 on the way up.
    let of = 3 * 2 + 2 + 3 * 3;
    let expected: Vec<_> = (1..=of).map(|done| Progress { done, of }).collect();
    let (result, seen) = run(usize::MAX);
    assert!(result.is_ok());
    assert_eq!(seen, expected);
    for cancel_after in [1, 7, of] {
        let (result, seen) = run(cancel_after);
        assert!(matches!(result, Err(Error::Cancelled)));
        assert_eq!(seen, expected[..cancel_after]);
    }
}
