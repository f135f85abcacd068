//! Drawing over a picture, inside a mask, and in sizes that a model was not trained on, with a tiny Stable Diffusion.
#![cfg(feature = "cli")]

use clap::Parser;
use pangu_draw::{
    Image, Result,
    cli::Cli,
    device::{self, DeviceChoice},
    nets::Pace,
    pipeline::{Control, Drawing, Event, Generator, MEMORY, Preview, Request, StepEvent, config::ControlKind},
    weights::{Depot, source::FolderSource},
};
use pollster::block_on;
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("drawing-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// The tiny pipeline of tests/goldens, trained (not at all) for 16x16 pixels.
fn stable_diffusion(name: &str) -> Generator {
    converted(name, &[])
}

/// The same, converted with more arguments.
fn converted(name: &str, more: &[&str]) -> Generator {
    let folder = folder(name);
    let golden = format!("{}/tests/goldens/pipeline_sd", env!("CARGO_MANIFEST_DIR"));
    let output = folder.display().to_string();
    let arguments = ["pangu-draw", "convert", &golden, "-o", &output, "--quantize", "f32"];
    Cli::parse_from(arguments.iter().chain(more)).run().unwrap();
    open(folder).unwrap()
}

fn open(folder: PathBuf) -> Result<Generator> {
    let device = block_on(device::open(DeviceChoice::Cpu))?;
    block_on(Generator::open(Depot::new(Rc::new(FolderSource(folder)), None), device, MEMORY))
}

fn request() -> Request {
    Request { prompt: "a red apple".into(), seed: 3, steps: Some(6), ..Request::default() }
}

fn draw(generator: &Generator, request: &Request) -> Drawing {
    block_on(generator.generate(request, &Pace::free(), &mut |_| {})).unwrap()
}

/// An opaque picture with a little of everything.
fn picture(width: usize, height: usize) -> Image {
    let pixel = |i: usize| [(i * 7 % 256) as u8, (i * 13 % 256) as u8, 90, 255];
    Image::new(width, height, (0..width * height).flat_map(pixel).collect()).unwrap()
}

fn mean_difference(a: &Image, b: &Image) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let sum: u64 = a.rgba.iter().zip(&b.rgba).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.rgba.len() as f64
}

#[test]
fn the_less_is_drawn_over_a_picture_the_more_of_it_stays() {
    let generator = stable_diffusion("strength");
    let over = |strength: f64| {
        let request = Request { init: Some(picture(16, 16)), strength: Some(strength), ..request() };
        draw(&generator, &request)
    };
    // What the autoencoder alone makes of it: one step from the lowest noise level.
    let (little, half, all) = (over(0.01), over(0.5), over(1.0));
    let far = |drawing: &Drawing| mean_difference(&drawing.image, &little.image);
    assert!(far(&half) > 0.0 && far(&all) > far(&half), "{} and {}", far(&half), far(&all));
    assert_eq!(half.settings.init.as_ref().unwrap().strength, 0.5);

    let mut steps = Vec::new();
    let request = Request { init: Some(picture(16, 16)), strength: Some(0.5), ..request() };
    let heard = &mut |event| {
        if let Event::Step(step) = event {
            steps.push((step.index, step.of));
        }
    };
    block_on(generator.generate(&request, &Pace::free(), heard)).unwrap();
    assert_eq!(steps, [(0, 3), (1, 3), (2, 3)], "half of six steps are made");
}

#[test]
fn outside_a_mask_nothing_changes() {
    let generator = stable_diffusion("mask");
    let init = picture(16, 16);
    // White in the right half: that is drawn over.
    let mask = (0..256).flat_map(|i| if i % 16 < 8 { [0, 0, 0, 255] } else { [255; 4] }).collect();
    let mask = Image::new(16, 16, mask).unwrap();
    let drawing = draw(&generator, &Request { init: Some(init.clone()), mask: Some(mask), ..request() });
    let (mut inside, mut outside) = (0u32, 0u32);
    for (i, (a, b)) in drawing.image.rgba.chunks_exact(4).zip(init.rgba.chunks_exact(4)).enumerate() {
        let difference = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
        *if i % 16 < 8 { &mut outside } else { &mut inside } += difference;
    }
    assert_eq!(outside, 0);
    assert!(inside > 128, "{inside}: something was drawn");
    assert_eq!(drawing.settings.init.unwrap().strength, 1.0, "inside a mask all is drawn anew, unless asked otherwise");
}

#[test]
fn larger_pictures_begin_with_a_draft() {
    let generator = stable_diffusion("sizes");
    let sized = |width, height, t_low| Request { width: Some(width), height: Some(height), t_low, ..request() };
    let square = draw(&generator, &sized(32, 32, None));
    let draft = square.settings.draft.as_ref().unwrap();
    assert_eq!((draft.size, draft.t_low), (Some([16, 16]), 600.0));
    assert_eq!((square.image.width, square.image.height), (32, 32));

    let wide = draw(&generator, &sized(32, 16, Some(500.0)));
    assert_eq!(wide.settings.draft.as_ref().unwrap().size, Some([12, 22]), "as many pixels in the same proportions");
    assert_eq!((wide.image.width, wide.image.height), (32, 16));

    let direct = draw(&generator, &sized(32, 32, Some(1000.0)));
    assert_eq!(direct.settings.draft, None, "at T there is nothing left to draft");
    assert_eq!((wide.settings.t_low, direct.settings.t_low), (None, Some(1000.0)), "what was asked for is said once");
    assert!(mean_difference(&direct.image, &square.image) > 0.0);
    assert_eq!(draw(&generator, &sized(16, 22, None)).settings.draft, None, "a little more is drawn as it is");
    // All of the draft, scaled: nothing is left to draw.
    let scaled = draw(&generator, &sized(32, 32, Some(0.0)));
    assert_eq!((scaled.image.width, scaled.image.height), (32, 32));
}

#[test]
fn the_same_request_draws_the_same_picture_by_whatever_way() {
    let generator = stable_diffusion("again");
    for request in [
        Request { width: Some(32), height: Some(32), sampler: Some("euler_ancestral".into()), ..request() },
        Request { init: Some(picture(20, 10)), strength: Some(0.7), sampler: Some("lcm".into()), ..request() },
    ] {
        assert_eq!(draw(&generator, &request).image, draw(&generator, &request).image);
    }
}

#[test]
fn what_cannot_be_is_said_before_anything_is_drawn() {
    let generator = stable_diffusion("refused");
    let init = || Some(picture(16, 16));
    let control = |image| Control { image, ..Control::new(ControlKind::Outline, picture(1, 1)) };
    for (request, code) in [
        (Request { mask: init(), ..request() }, "invalid"),
        (Request { init: init(), strength: Some(0.0), ..request() }, "invalid"),
        (Request { init: init(), strength: Some(f64::NAN), ..request() }, "invalid"),
        (Request { t_low: Some(1001.0), ..request() }, "invalid"),
        (Request { upsampler: Some("magic".into()), ..request() }, "invalid"),
        (Request { exchange: Some("shouting".into()), ..request() }, "invalid"),
        (Request { controls: vec![control(None)], ..request() }, "invalid"),
        (Request { controls: vec![control(init())], ..request() }, "unsupported"),
        (Request { draft: Some(ControlKind::Outline), ..request() }, "unsupported"),
    ] {
        let prepared = block_on(generator.prepare(&request, &Pace::free(), &mut |_| {})).unwrap_err();
        let drawn = block_on(generator.generate(&request, &Pace::free(), &mut |_| {})).unwrap_err();
        assert_eq!((prepared.code(), drawn.code()), (code, code), "{prepared}");
    }
}

/// Draws; answers the steps, and the sizes of the decoder's previews.
fn watch(generator: &Generator, request: &Request) -> (Drawing, Vec<StepEvent>, Vec<(usize, usize)>) {
    let (mut steps, mut decoded) = (Vec::new(), Vec::new());
    let heard = &mut |event| match event {
        Event::Step(step) => steps.push(step),
        Event::Preview(image) => decoded.push((image.width, image.height)),
        Event::Load(_) | Event::Checkpoint(_) => {}
    };
    let drawing = block_on(generator.generate(request, &Pace::free(), heard)).unwrap();
    (drawing, steps, decoded)
}

#[test]
fn steps_show_what_the_picture_becomes() {
    let generator = stable_diffusion("previews");
    assert!(generator.config().latent.projection.is_some(), "conversion fits one");
    let asked = |preview, preview_every| Request { preview, preview_every, ..request() };

    let (projected, steps, decoded) = watch(&generator, &asked(Some(Preview::Projection), 2));
    let sizes: Vec<_> =
        steps.iter().map(|step| step.preview.as_ref().map(|image| (image.width, image.height))).collect();
    assert_eq!(sizes, [Some((8, 8)); 6], "a pixel a cell, at every step");
    assert_eq!(decoded, [(16, 16); 2], "and the decoder's as often as asked for, but for the picture itself");
    assert!(steps.iter().all(|step| step.insight.is_none() && step.expert.is_none()));
    assert!(steps.windows(2).all(|pair| pair[0].sigma > pair[1].sigma && pair[0].preview != pair[1].preview));

    let (only_decoded, steps, decoded) = watch(&generator, &asked(None, 2));
    assert!(steps.iter().all(|step| step.preview.is_none()));
    assert_eq!(decoded.len(), 2);

    let (unseen, steps, decoded) = watch(&generator, &asked(Some(Preview::None), 2));
    assert!(steps.iter().all(|step| step.preview.is_none()) && decoded.is_empty());
    assert_eq!((&projected.image, &only_decoded.image), (&unseen.image, &unseen.image), "looking changes nothing");
}

#[test]
fn insight_tells_what_each_model_says() {
    let sketch = folder("insight-sketch").display().to_string();
    let controlnet = format!("{}/tests/goldens/pipeline_sd_controlnet", env!("CARGO_MANIFEST_DIR"));
    let golden = format!("{}/tests/goldens/pipeline_sd", env!("CARGO_MANIFEST_DIR"));
    let arguments = ["pangu-draw", "convert", &golden, "-o", &sketch, "--quantize", "f32", "--controlnet", &controlnet];
    Cli::parse_from(arguments).run().unwrap();
    let generator = converted("insight", &["--name", "home", "--companion", "outline=drawing-insight-sketch:0.25:0.5"]);
    let controls = vec![Control::new(ControlKind::Outline, picture(16, 16))];
    let plain = Request { controls, ..request() };
    let (drawing, steps, _) = watch(&generator, &Request { insight: true, ..plain.clone() });
    let told: Vec<Vec<_>> = steps
        .iter()
        .map(|step| {
            let insight = step.insight.as_ref().unwrap();
            assert_eq!(insight.noisy.as_ref().map(|image| (image.width, image.height)), Some((8, 8)));
            assert!(insight.estimates.iter().all(|estimate| estimate.image.is_some()));
            insight.estimates.iter().map(|estimate| (estimate.model.as_str(), estimate.weight)).collect()
        })
        .collect();
    assert_eq!(told[0], [("home", 0.75), ("pipeline_sd", 0.25)], "both, while the companion draws along");
    assert_eq!(told[5], [("home", 1.0)], "and the home model alone at last");
    // Alone, what it says is what the step shows.
    let last = steps[5].insight.as_ref().unwrap();
    assert_eq!(last.estimates[0].image, steps[5].preview);
    let first = steps[0].insight.as_ref().unwrap();
    assert_ne!(first.estimates[0].image, first.estimates[1].image);

    let (unasked, steps, _) = watch(&generator, &plain);
    assert!(steps.iter().all(|step| step.insight.is_none()));
    assert_eq!(unasked.image, drawing.image, "looking changes nothing");
}

#[test]
fn a_picture_says_how_it_was_drawn() {
    let generator = stable_diffusion("chunks");
    let drawing = draw(&generator, &Request { negative_prompt: "green\nleaf".into(), ..request() });
    let png = drawing.to_png().unwrap();
    let reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
    let texts: Vec<_> =
        reader.info().utf8_text.iter().map(|text| (text.keyword.as_str(), text.get_text().unwrap())).collect();
    assert_eq!(texts[0].0, "parameters");
    let lines: Vec<_> = texts[0].1.lines().collect();
    assert_eq!(lines[..3], ["a red apple", "Negative prompt: green", "leaf"]);
    assert!(lines[3].starts_with("Steps: 6, Sampler: "), "{}", lines[3]);
    assert_eq!(texts[1], ("pangu-draw", serde_json::to_string(&drawing.settings).unwrap()));
}

#[test]
fn a_companion_is_guided_as_the_model_says_that_it_draws_along_with() {
    let net = format!("{}/tests/goldens/pipeline_sd_controlnet", env!("CARGO_MANIFEST_DIR"));
    converted("guided-sketch", &["--controlnet", &net]);
    converted("guided", &["--companion", "outline=drawing-guided-sketch"]);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drawing-guided");
    let path = folder.join("model.json");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let guided = |scale: serde_json::Value| {
        let mut manifest = manifest.clone();
        manifest["pipeline"]["companions"]["outline"]["guidance_scale"] = scale;
        std::fs::write(&path, manifest.to_string()).unwrap();
        open(folder.clone())
    };
    let drawn = |scale| {
        let outline = Control::new(ControlKind::Outline, picture(16, 16));
        let request = Request { controls: vec![outline], steps: Some(2), ..request() };
        draw(&guided(scale).unwrap(), &request).image
    };
    // Stable Diffusion's own guidance is 7.5.
    let own = drawn(serde_json::Value::Null);
    assert!(drawn(7.5.into()) == own);
    assert!(drawn(1.0.into()) != own);
    assert_eq!(guided(51.0.into()).err().unwrap().code(), "corrupt");
}
