//! A drawing that is interrupted after any step, and finished by somebody else, comes out as if nothing had happened.
#![cfg(feature = "cli")]

use clap::Parser;
use pangu_draw::{
    Error, Image,
    cli::Cli,
    device::{self, DeviceChoice},
    diffusion::samplers::Sampler,
    nets::Pace,
    pipeline::{Checkpoint, Control, Drawing, Event, Generator, MEMORY, Request, config::ControlKind},
    weights::{Depot, TensorSource, safetensors::SafeTensors, source::FolderSource},
};
use pollster::block_on;
use safetensors::{Dtype, tensor::TensorView};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::OnceLock,
};

/// The tiny pipeline of tests/goldens, for 16x16 pixels, beside a companion that follows outlines.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resume");
        let _ = std::fs::remove_dir_all(&root);
        let golden = |name| format!("{}/tests/goldens/{name}", env!("CARGO_MANIFEST_DIR"));
        let (source, controlnet) = (golden("pipeline_sd"), golden("pipeline_sd_controlnet"));
        for (name, option, value) in
            [("model", "--companion", "outline=sketch"), ("sketch", "--controlnet", &controlnet)]
        {
            let output = root.join(name).display().to_string();
            let arguments = ["pangu-draw", "convert", &source, "-o", &output, "--quantize", "f32", option, value];
            Cli::parse_from(arguments).run().unwrap();
        }
        root.join("model")
    })
}

fn fresh() -> Generator {
    let depot = Depot::new(Rc::new(FolderSource(folder().into())), None);
    let device = block_on(device::open(DeviceChoice::Cpu)).unwrap();
    block_on(Generator::open(depot, device, MEMORY)).unwrap()
}

fn request(sampler: Sampler) -> Request {
    Request {
        prompt: "a red apple".into(),
        seed: 3,
        steps: Some(5),
        sampler: Some(sampler.name().into()),
        checkpoints: true,
        ..Request::default()
    }
}

/// An opaque picture with a little of everything.
fn picture(side: usize) -> Image {
    let pixel = |i: usize| [(i * 7 % 256) as u8, (i * 13 % 256) as u8, 90, 255];
    Image::new(side, side, (0..side * side).flat_map(pixel).collect()).unwrap()
}

/// Draws `request` up to step `last`, where it is cancelled; answers the checkpoint there.
fn interrupted(request: &Request, last: usize) -> Checkpoint {
    let pace = Pace::cancellable();
    let mut reached = None;
    let on_event = &mut |event| {
        if let Event::Checkpoint(checkpoint) = event {
            if checkpoint.step() == last {
                pace.cancel();
            }
            reached = Some(checkpoint);
        }
    };
    let drawn = block_on(fresh().generate(request, &pace, on_event));
    assert!(matches!(drawn, Err(Error::Cancelled)), "{drawn:?}");
    reached.expect("a checkpoint after every step")
}

fn resumed(request: &Request, checkpoint: Checkpoint) -> Result<Drawing, Error> {
    block_on(fresh().resume(request, checkpoint, &Pace::free(), &mut |_| {}))
}

fn bits(drawing: &Drawing) -> Vec<u32> {
    drawing.latents.iter::<f32>().map(f32::to_bits).collect()
}

/// Interrupts the drawing of `request` after each of its `steps`.
#[track_caller]
fn goes_on(what: &str, request: &Request, steps: usize) {
    let undisturbed = block_on(fresh().generate(request, &Pace::free(), &mut |_| {})).unwrap();
    for last in 1..=steps {
        let checkpoint = interrupted(request, last);
        assert_eq!(checkpoint.step(), last, "{what}");
        let bytes = checkpoint.to_bytes();
        let mut heard = Vec::new();
        let on_event = &mut |event| match event {
            Event::Step(step) => heard.push(step.index),
            Event::Checkpoint(checkpoint) => assert_eq!(Some(&(checkpoint.step() - 1)), heard.last(), "{what}"),
            _ => {}
        };
        let read = Checkpoint::from_bytes(bytes).unwrap();
        assert_eq!(read, checkpoint, "{what}");
        let drawing = block_on(fresh().resume(request, read, &Pace::free(), on_event)).unwrap();
        assert_eq!(heard, (last..steps).collect::<Vec<_>>(), "{what}: no step is made twice, none left out");
        assert!(bits(&drawing) == bits(&undisturbed), "{what}, interrupted after step {last}");
        assert_eq!((drawing.image, drawing.settings), (undisturbed.image.clone(), undisturbed.settings.clone()));
    }
}

#[test]
fn with_every_sampler() {
    for sampler in Sampler::ALL {
        goes_on(sampler.name(), &request(sampler), 5);
    }
}

#[test]
fn before_and_after_a_draft() {
    for sampler in Sampler::ALL {
        let request = Request { width: Some(32), height: Some(32), t_low: Some(500.0), ..request(sampler) };
        goes_on(&format!("draft, {sampler}"), &request, 5);
    }
    let only = Request { width: Some(32), height: Some(32), t_low: Some(0.0), ..request(Sampler::Dpmpp2m) };
    goes_on("nothing but a draft", &only, 5);
}

#[test]
fn over_a_picture() {
    let mask = (0..256).flat_map(|i| if i % 16 < 8 { [0, 0, 0, 255] } else { [255; 4] }).collect();
    let mask = Image::new(16, 16, mask).unwrap();
    for sampler in [Sampler::EulerAncestral, Sampler::Dpmpp2m] {
        let over = Request { init: Some(picture(16)), strength: Some(0.6), ..request(sampler) };
        goes_on("init", &over, 3);
        goes_on("mask", &Request { mask: Some(mask.clone()), strength: None, ..over }, 5);
    }
}

#[test]
fn with_models_that_draw_together() {
    let control = Control { strength: Some(0.5), ..Control::new(ControlKind::Outline, picture(16)) };
    for exchange in ["two_way", "renoised", "one_way"] {
        for sampler in [Sampler::Heun, Sampler::Dpmpp2m, Sampler::Lcm] {
            let request = Request {
                controls: vec![Control { until: Some(0.7), ..control.clone() }],
                exchange: Some(exchange.into()),
                ..request(sampler)
            };
            goes_on(&format!("{exchange}, {sampler}"), &request, 5);
        }
        // The companion meets the home model in pixels, and draws the draft, too.
        let large = Request {
            width: Some(32),
            height: Some(32),
            t_low: Some(500.0),
            draft: Some(ControlKind::Outline),
            controls: vec![control.clone()],
            exchange: Some(exchange.into()),
            ..request(Sampler::Dpmpp2m)
        };
        goes_on(&format!("{exchange}, draft"), &large, 5);
    }
}

#[test]
fn from_noise_that_the_caller_brought() {
    let request = request(Sampler::EulerAncestral);
    let undisturbed = block_on(fresh().generate(&request, &Pace::free(), &mut |_| {})).unwrap();
    let noise = undisturbed.latents.clone();
    let mut reached = Vec::new();
    let on_event = &mut |event| {
        if let Event::Checkpoint(checkpoint) = event {
            reached.push(checkpoint);
        }
    };
    let drawing = block_on(fresh().generate_from(&request, noise, &Pace::free(), on_event)).unwrap();
    assert!(bits(&drawing) != bits(&undisturbed));
    assert_eq!(reached.len(), 5);
    assert!(bits(&resumed(&request, reached[2].clone()).unwrap()) == bits(&drawing));
}

#[test]
fn checkpoints_are_handed_out_only_if_asked_for() {
    let request = Request { checkpoints: false, ..request(Sampler::Euler) };
    let on_event = &mut |event| assert!(!matches!(event, Event::Checkpoint(_)));
    block_on(fresh().generate(&request, &Pace::free(), on_event)).unwrap();
}

#[track_caller]
fn refused(drawn: Result<impl std::fmt::Debug, Error>, what: &str) {
    match drawn {
        Err(Error::Invalid { parameter: "checkpoint", .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn another_drawing_is_refused() {
    let asked = Request { init: Some(picture(16)), strength: Some(1.0), ..request(Sampler::Euler) };
    let checkpoint = interrupted(&asked, 2);
    for (what, other) in [
        ("seed", Request { seed: 4, ..asked.clone() }),
        ("prompt", Request { prompt: "a green apple".into(), ..asked.clone() }),
        ("steps", Request { steps: Some(6), ..asked.clone() }),
        ("sampler", Request { sampler: Some("dpmpp_2m".into()), ..asked.clone() }),
        ("size", Request { width: Some(18), ..asked.clone() }),
        ("picture", Request { init: Some(picture(17)), ..asked.clone() }),
        ("mask", Request { mask: Some(picture(16)), ..asked.clone() }),
        ("guidance", Request { guidance_scale: Some(1.5), ..asked.clone() }),
    ] {
        refused(resumed(&other, checkpoint.clone()), what);
    }
    resumed(&asked, checkpoint).unwrap();
}

/// What is in a file, to be written again with a difference.
struct Parts {
    about: HashMap<String, String>,
    tensors: Vec<(String, Vec<f32>)>,
}

impl Parts {
    fn of(checkpoint: &Checkpoint) -> Self {
        let file = SafeTensors::new("checkpoint", checkpoint.to_bytes()).unwrap();
        let values = |name: String| {
            let stored = file.tensor(&name).unwrap().unwrap();
            (name, stored.dtype.dequantize(&stored.bytes, stored.shape.iter().product()).unwrap())
        };
        Self { about: file.metadata().clone(), tensors: file.names().into_iter().map(values).collect() }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Result<Checkpoint, Error> {
        change(&mut self);
        let bytes = self.tensors.into_iter().map(|(name, values)| {
            (name, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
        });
        let bytes: Vec<_> = bytes.collect();
        let views =
            bytes.iter().map(|(name, len, bytes)| (name, TensorView::new(Dtype::F32, vec![*len], bytes).unwrap()));
        Checkpoint::from_bytes(safetensors::serialize(views, Some(self.about)).unwrap())
    }
}

#[test]
fn damage_is_refused() {
    let control = Control { strength: Some(0.5), ..Control::new(ControlKind::Outline, picture(16)) };
    let renoised = Request { controls: vec![control], exchange: Some("renoised".into()), ..request(Sampler::Dpmpp2m) };
    let checkpoint = interrupted(&renoised, 2);
    let set = |name: &'static str, value: &'static str| {
        move |parts: &mut Parts| {
            parts.about.insert(name.into(), value.into());
        }
    };
    let edit = |name: &'static str, edit: fn(&mut Vec<f32>)| {
        move |parts: &mut Parts| {
            parts.tensors.iter_mut().filter(|(found, _)| found == name).for_each(|(_, values)| edit(values));
        }
    };
    let resume = |read: Result<Checkpoint, Error>| read.and_then(|checkpoint| resumed(&renoised, checkpoint));
    let parts = || Parts::of(&checkpoint);
    resume(parts().with(|_| {})).unwrap();
    for step in ["0", "-1", "6", "18446744073709551615", "18446744073709551616", "two", ""] {
        refused(resume(parts().with(set("step", step))), step);
    }
    refused(resume(parts().with(set("drawing", ""))), "drawing");
    for name in ["x", "previous", "carried"] {
        refused(resume(parts().with(edit(name, |values| values.truncate(values.len() - 1)))), name);
        refused(resume(parts().with(edit(name, Vec::clear))), name);
        refused(resume(parts().with(edit(name, |values| values[3] = f32::NAN))), name);
        refused(resume(parts().with(edit(name, |values| values[0] = f32::INFINITY))), name);
        refused(resume(parts().with(|parts| parts.tensors.retain(|(found, _)| found != name))), name);
    }
    // A sampler that does not look back takes no previous estimate, and models that carry nothing none that is carried.
    let alone = request(Sampler::Euler);
    let checkpoint = interrupted(&alone, 2);
    for name in ["previous", "carried"] {
        let more = Parts::of(&checkpoint).with(|parts| {
            let x = parts.tensors[0].1.clone();
            parts.tensors.push((name.into(), x));
        });
        refused(more.and_then(|checkpoint| resumed(&alone, checkpoint)), name);
    }
    let bytes = checkpoint.to_bytes();
    for len in [0, 7, 8, bytes.len() - 1] {
        refused(Checkpoint::from_bytes(bytes[..len].to_vec()), "cut");
    }
}
