//! The ControlNet against diffusers' `ControlNetModel`: residuals, and what the UNet makes of them.

mod common;

use burn::tensor::{Device, Distribution, Tensor};
use common::{assert_close, devices, golden, tensor, values};
use pangu_draw::{
    Error,
    nets::{
        Pace, Progress,
        controlnet::{ControlNet, ControlNetConfig},
        now,
        unet::{UNet, UNetConfig},
    },
    weights::{load, safetensors::SafeTensors},
};
use serde::Deserialize;
use std::{cell::RefCell, rc::Rc};

const GOLDENS: [&str; 3] = ["controlnet_sd15", "controlnet_emoji", "controlnet_odd"];
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Configs {
    unet: UNetConfig,
    controlnet: ControlNetConfig,
    scale: f64,
}

fn configs(golden: &SafeTensors) -> Configs {
    serde_json::from_str(&golden.metadata()["config"]).expect("diffusers' own configurations")
}

fn networks(golden: &SafeTensors, device: &Device) -> (UNet, ControlNet) {
    let Configs { unet, controlnet, .. } = configs(golden);
    let (unet, controlnet) = (unet.init(device).unwrap(), controlnet.init(device).unwrap());
    (load(unet, golden, "weights.unet.").unwrap(), load(controlnet, golden, "weights.controlnet.").unwrap())
}

/// The golden's inputs: sample, timesteps, tokens, vector, image.
type Inputs = (Tensor<4>, Tensor<1>, Tensor<3>, Option<Tensor<2>>, Tensor<4>);

fn inputs(golden: &SafeTensors, device: &Device) -> Inputs {
    (
        tensor(golden, "input.sample", device),
        tensor(golden, "input.timesteps", device),
        tensor(golden, "input.encoder_hidden_states", device),
        configs(golden).unet.vector_dim().map(|_| tensor(golden, "input.vector", device)),
        tensor(golden, "input.image", device),
    )
}

#[test]
fn agrees_with_diffusers() {
    for (device_name, device) in devices() {
        for name in GOLDENS {
            let golden = golden(name);
            let (unet, controlnet) = networks(&golden, &device);
            let (sample, timesteps, context, vector, image) = inputs(&golden, &device);
            let condition = || (sample.clone(), timesteps.clone(), context.clone(), vector.clone());
            let (x, t, tokens, pooled) = condition();
            let residuals = now(controlnet.forward(x, t, tokens, pooled, image, &Pace::free())).unwrap();
            let residuals = residuals.scaled(configs(&golden).scale);
            for (index, residual) in residuals.down.iter().enumerate() {
                let expected = values(&golden, &format!("output.down.{index}")).1;
                assert_close(&format!("{name} down {index} | {device_name}"), residual.clone(), &expected, TOLERANCE);
            }
            let expected = |what: &str| values(&golden, &format!("output.{what}")).1;
            let label = |what: &str| format!("{name} {what} | {device_name}");
            assert_close(&label("mid"), residuals.mid.clone(), &expected("mid"), TOLERANCE);

            let forward = |residuals| {
                let (x, t, tokens, pooled) = condition();
                now(unet.forward_controlled(x, t, tokens, pooled, residuals, &Pace::free())).unwrap()
            };
            assert_close(&label("sample"), forward(Some(residuals.clone())), &expected("sample"), TOLERANCE);
            // No control is the UNet alone, and differs.
            let free: Vec<f32> = forward(None).into_data().try_to_vec().unwrap();
            assert_close(&label("scale 0"), forward(Some(residuals.scaled(0.0))), &free, 1e-6);
            assert!(common::relative_error(&free, &expected("sample")) > 1e-2);
        }
    }
}

#[test]
fn training_starts_without_influence() {
    let device = Device::flex();
    let random = Distribution::Normal(0.0, 1.0);
    let config = ControlNetConfig::sketch();
    let residuals = now(config.init_for_training(&device).unwrap().forward(
        Tensor::random([2, 16, 8, 8], random, &device),
        Tensor::from_floats([10.0, 900.0], &device),
        Tensor::random([2, 3, 512], random, &device),
        Some(Tensor::random([2, 512], random, &device)),
        Tensor::random([2, 1, 64, 64], random, &device),
        &Pace::free(),
    ))
    .unwrap();
    for residual in residuals.down.into_iter().chain([residuals.mid]) {
        assert_eq!(residual.abs().max().into_scalar::<f32>(), 0.0);
    }
}

#[test]
fn wrong_inputs_and_configurations_are_refused() {
    let (golden, device) = (golden("controlnet_emoji"), Device::flex());
    let (unet, controlnet) = networks(&golden, &device);
    let (sample, timesteps, context, vector, image) = inputs(&golden, &device);
    let forward = |sample: &Tensor<4>, image: Tensor<4>| {
        let (x, t) = (sample.clone(), timesteps.clone());
        now(controlnet.forward(x, t, context.clone(), vector.clone(), image, &Pace::free()))
    };
    let parameter = |result: pangu_draw::Result<Tensor<4>>| match result {
        Err(Error::Invalid { parameter, .. }) => parameter,
        other => panic!("{other:?}"),
    };
    let refused =
        |sample: &Tensor<4>, image: Tensor<4>| parameter(forward(sample, image).map(|residuals| residuals.mid));
    assert_eq!(refused(&sample, image.clone().narrow(2, 0, 63)), "control image");
    assert_eq!(refused(&sample, image.clone().repeat_dim(1, 3)), "control image");
    assert_eq!(refused(&sample.clone().narrow(1, 0, 7), image.clone()), "sample");
    let mut residuals = forward(&sample, image).unwrap();
    residuals.down.pop();
    let (x, t) = (sample, timesteps.clone());
    let pace = Pace::free();
    let found = now(unet.forward_controlled(x, t, context.clone(), vector.clone(), Some(residuals), &pace));
    assert_eq!(parameter(found), "residuals");

    let read = |json: &str| serde_json::from_str::<ControlNetConfig>(json).unwrap().validate();
    assert!(read("{}").is_ok());
    for json in [
        r#"{"controlnet_conditioning_channel_order": "bgr"}"#,
        r#"{"global_pool_conditions": true}"#,
        r#"{"class_embed_type": "timestep"}"#,
        r#"{"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "block_out_channels": [32, 64]}"#,
    ] {
        assert!(matches!(read(json), Err(Error::Unsupported(_))), "{json}");
    }
    for json in [
        r#"{"conditioning_channels": 0}"#,
        r#"{"conditioning_embedding_out_channels": []}"#,
        r#"{"conditioning_embedding_out_channels": [16, 1000000000]}"#,
        r#"{"block_out_channels": []}"#,
        r#"{"down_block_types": []}"#,
    ] {
        assert!(matches!(read(json), Err(Error::Invalid { .. })), "{json}");
    }
}

#[test]
fn cancelling_stops_inside_a_step() {
    let (golden, device) = (golden("controlnet_odd"), Device::flex());
    let (_, controlnet) = networks(&golden, &device);
    let run = |cancel_after: usize| {
        let (sample, timesteps, context, vector, image) = inputs(&golden, &device);
        let pace = Pace::cancellable();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (handle, log) = (pace.clone(), seen.clone());
        pace.on_progress(move |progress| {
            log.borrow_mut().push(progress);
            if progress.done == cancel_after {
                handle.cancel();
            }
        });
        let result = pollster::block_on(controlnet.forward(sample, timesteps, context, vector, image, &pace));
        (result.map(drop), seen.borrow().clone())
    };
    // The image, 3 levels of 2 on the way down, 2 in the middle.
    let of = 1 + 3 * 2 + 2;
    let expected: Vec<_> = (1..=of).map(|done| Progress { done, of }).collect();
    let (result, seen) = run(usize::MAX);
    assert!(result.is_ok());
    assert_eq!(seen, expected);
    for cancel_after in [1, 4, of] {
        let (result, seen) = run(cancel_after);
        assert!(matches!(result, Err(Error::Cancelled)));
        assert_eq!(seen, expected[..cancel_after]);
    }
}
