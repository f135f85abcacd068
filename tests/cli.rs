//! The command as people use it: whole pipelines against diffusers, and every bad argument.
//! Goldens: tests/oracle/pipelines.py.

mod common;

use common::{golden, relative_error, values};
use pangu_draw::weights::safetensors::SafeTensors;
use safetensors::{Dtype, tensor::TensorView};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Eight guided steps amplify rounding; measured on the CPU and on lavapipe: below 1e-5. The bound is the project's.
const TOLERANCE: f32 = 1e-3;

/// A fresh folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn pangu_draw(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pangu-draw")).args(arguments).output().unwrap()
}

fn succeed(arguments: &[&str]) -> String {
    let output = pangu_draw(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A model folder converted from the tiny pipeline that diffusers saved.
fn converted(name: &str, to: &Path, quantize: &str) -> String {
    let model = to.join("model").display().to_string();
    let source = format!("{}/tests/goldens/pipeline_{name}", env!("CARGO_MANIFEST_DIR"));
    succeed(&["convert", &source, "-o", &model, "--quantize", quantize]);
    model
}

fn write_latents(path: &Path, shape: Vec<usize>, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape, &bytes).unwrap();
    fs::write(path, safetensors::serialize([("latents", view)], None).unwrap()).unwrap();
}

fn read_latents(path: &Path) -> Vec<f32> {
    let file = SafeTensors::new("latents", fs::read(path).unwrap()).unwrap();
    values(&file, "latents").1
}

fn draws_as_diffusers_does(name: &str) {
    let golden = golden(&format!("pipeline_{name}"));
    let config: serde_json::Value = serde_json::from_str(&golden.metadata()["config"]).unwrap();
    let text = |key: &str| config[key].as_str().unwrap().to_owned();
    let folder = folder(&format!("pipeline-{name}"));
    let model = converted(name, &folder, "f32");
    let path = |file: &str| folder.join(file).display().to_string();
    let (shape, noise) = values(&golden, "input.latents");
    write_latents(&folder.join("noise.safetensors"), shape, &noise);

    for device in ["cpu", "wgpu"] {
        for (sampler, spacing) in [("euler", "leading"), ("dpmpp_2m", "trailing")] {
            for (key, negative) in
                [(sampler.to_owned(), String::new()), (format!("{sampler}_negative"), text("negative"))]
            {
                let (steps, guidance) = (config["steps"].to_string(), config["guidance"].to_string());
                let json = succeed(&[
                    "draw",
                    &text("prompt"),
                    "--negative",
                    &negative,
                    "--model",
                    &model,
                    "--device",
                    device,
                    "--sampler",
                    sampler,
                    "--spacing",
                    spacing,
                    "--steps",
                    &steps,
                    "--guidance",
                    &guidance,
                    "--size",
                    "16x16",
                    "--latents",
                    &path("noise.safetensors"),
                    "--save-latents",
                    &path("final.safetensors"),
                    "-o",
                    &path("picture.png"),
                    "--json",
                ]);
                let report: serde_json::Value = serde_json::from_str(&json).unwrap();
                assert_eq!(report["settings"]["prompt"], config["prompt"]);
                assert!(report["seconds"]["denoise"].as_f64().unwrap() > 0.0);

                let (_, expected) = values(&golden, &format!("output.{key}.latents"));
                // diffusers answers latents before they are divided by the scaling factor, as the UNet sees them.
                let error = relative_error(&read_latents(&folder.join("final.safetensors")), &expected);
                println!("parity | pipeline {name} {key} on {device} | {error:.2e}");
                assert!(error <= TOLERANCE, "{name} {key} on {device}: {error:e}");
                let (_, picture) = values(&golden, &format!("output.{key}.image"));
                assert_picture(&folder.join("picture.png"), &picture);
            }
        }
    }
}

/// The PNG shows `expected`, `[1, 3, height, width]` in 0..1, to within one grey level of rounding.
fn assert_picture(path: &Path, expected: &[f32]) {
    let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    assert_eq!(expected.len(), 3 * width * height);
    let mut rgba = vec![0; width * height * 4];
    reader.next_frame(&mut rgba).unwrap();
    for (i, pixel) in rgba.chunks_exact(4).enumerate() {
        for channel in 0..3 {
            let wanted = expected[channel * width * height + i] * 255.0;
            assert!(
                (f32::from(pixel[channel]) - wanted).abs() <= 1.0,
                "pixel {i} channel {channel}: {} for {wanted}",
                pixel[channel]
            );
        }
    }
}

#[test]
fn stable_diffusion_draws_as_diffusers_does() {
    draws_as_diffusers_does("sd");
}

#[test]
fn stable_diffusion_xl_draws_as_diffusers_does() {
    draws_as_diffusers_does("sdxl");
}

#[test]
fn the_same_seed_draws_the_same_picture() {
    let folder = folder("seeds");
    let model = converted("sd", &folder, "q8_0");
    let draw = |seed: &str, file: &str| {
        let path = folder.join(file);
        let out = path.display().to_string();
        succeed(&["draw", "red", "--model", &model, "--device", "cpu", "--steps", "2", "--seed", seed, "-o", &out]);
        fs::read(path).unwrap()
    };
    assert_eq!(draw("7", "a.png"), draw("7", "b.png"));
    assert_ne!(draw("7", "a.png"), draw("8", "c.png"));
}

#[test]
fn bad_arguments_get_one_clear_line() {
    let folder = folder("bad");
    let model = converted("sd", &folder, "q4_0");
    let out = folder.join("picture.png").display().to_string();
    let text = folder.join("text.safetensors").display().to_string();
    fs::write(&text, "no safetensors").unwrap();
    let wrong = folder.join("wrong.safetensors");
    write_latents(&wrong, vec![1, 4, 2, 2], &[0.0; 16]);
    let damaged = folder.join("damaged");
    fs::create_dir(&damaged).unwrap();
    for entry in fs::read_dir(&model).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            *bytes.last_mut().unwrap() ^= 1;
        }
        fs::write(damaged.join(path.file_name().unwrap()), bytes).unwrap();
    }
    let no_model = folder.join("nowhere").display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["--steps", "0"], "steps"),
        (&["--steps", "100000"], "steps"),
        (&["--style", "baroque"], "style"),
        (&["--size", "17x16"], "width"),
        (&["--size", "16x9000"], "height"),
        (&["--size", "big"], "WIDTHxHEIGHT"),
        (&["--guidance", "-1"], "guidance"),
        (&["--guidance", "NaN"], "guidance"),
        (&["--sampler", "magic"], "sampler"),
        (&["--spacing", "magic"], "spacing"),
        (&["--background", "#12345"], "background"),
        (&["--background", "red"], "background"),
        (&["--device", "abacus"], "device"),
        (&["--model", &no_model], "model.json"),
        (&["--model", &damaged.display().to_string()], "checksum"),
        (&["--latents", &text], "damaged"),
        (&["--latents", &wrong.display().to_string()], "latents"),
        (&["-o", "/nowhere/picture.png"], "/nowhere"),
        (&["-o", folder.to_str().unwrap()], "folder"),
        (&["--save-latents", "/nowhere/latents.safetensors"], "/nowhere"),
    ];
    for (arguments, word) in cases {
        let mut all = vec!["draw", "red apple"];
        for (flag, value) in [("--model", &model[..]), ("--device", "cpu"), ("-o", &out[..])] {
            if !arguments.contains(&flag) {
                all.extend([flag, value]);
            }
        }
        all.extend(*arguments);
        let output = pangu_draw(&all);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeded");
        assert!(message.starts_with("error: ") && message.contains(word), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{arguments:?}: {message}");
        assert!(!Path::new(&out).exists(), "{arguments:?} left a picture");
    }
    for prompt in ["", "  ", &"long ".repeat(1000)] {
        let output = pangu_draw(&["draw", prompt, "--model", &model, "--device", "cpu", "-o", &out]);
        assert!(String::from_utf8(output.stderr).unwrap().contains("prompt"), "{prompt:?}");
        assert!(!output.status.success());
    }
}
