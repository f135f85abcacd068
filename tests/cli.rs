//! The command as people use it: whole pipelines against diffusers, and every bad argument.
//! Goldens: tests/oracle/pipelines.py.

mod common;

use common::{golden, relative_error, values};
use image::{ImageEncoder, codecs};
use pangu_draw::{
    Image,
    control::{Reading, outline},
    weights::safetensors::SafeTensors,
};
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

/// A ControlNet sees the outline of a picture; what diffusers was shown is that outline, so that the whole way is compared.
#[test]
fn a_controlnet_steers_as_diffusers_controlnet_does() {
    let golden = golden("pipeline_sd_controlnet");
    let config: serde_json::Value = serde_json::from_str(&golden.metadata()["config"]).unwrap();
    let folder = folder("pipeline-sd-controlnet");
    let path = |file: &str| folder.join(file).display().to_string();
    let goldens = format!("{}/tests/goldens", env!("CARGO_MANIFEST_DIR"));
    let (source, net) = (format!("{goldens}/pipeline_sd"), format!("{goldens}/pipeline_sd_controlnet"));
    succeed(&["convert", &source, "--controlnet", &net, "-o", &path("model"), "--quantize", "f32"]);

    let (shape, pixels) = values(&golden, "input.picture");
    let (height, width) = (shape[2], shape[3]);
    let pixel = |i: usize| [0, 1, 2].map(|channel| pixels[channel * height * width + i] as u8);
    let rgb: Vec<u8> = (0..height * width).flat_map(pixel).collect();
    image::RgbImage::from_raw(width as u32, height as u32, rgb.clone()).unwrap().save(path("picture.png")).unwrap();
    let rgba = rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    let lines = outline(&Image::new(width, height, rgba).unwrap(), Reading::Auto, [16, 16]).unwrap();
    let (_, shown) = values(&golden, "input.lines");
    assert_eq!(lines.values, shown, "outlines have changed: the golden must be computed again");

    let (shape, noise) = values(&golden, "input.latents");
    write_latents(&folder.join("noise.safetensors"), shape, &noise);
    let (_, expected) = values(&golden, "output.latents");
    let control = format!("outline={}:{}", path("picture.png"), config["scale"]);
    let draw = |device: &str, control: &[&str]| {
        let (steps, guidance) = (config["steps"].to_string(), config["guidance"].to_string());
        let mut arguments = vec!["draw", config["prompt"].as_str().unwrap(), "--sampler", "euler", "--size", "16x16"];
        let (noise, latents, picture) = (path("noise.safetensors"), path("final.safetensors"), path("drawn.png"));
        let model = path("model");
        arguments.extend(["--steps", &steps, "--guidance", &guidance, "--spacing", "leading", "--device", device]);
        arguments.extend([
            "--model",
            &model,
            "--latents",
            &noise,
            "--save-latents",
            &latents,
            "-o",
            &picture,
            "--json",
        ]);
        arguments.extend(control);
        let report: serde_json::Value = serde_json::from_str(&succeed(&arguments)).unwrap();
        (report, relative_error(&read_latents(&folder.join("final.safetensors")), &expected))
    };
    for device in ["cpu", "wgpu"] {
        let (report, error) = draw(device, &["--control", &control]);
        println!("parity | pipeline sd with ControlNet on {device} | {error:.2e}");
        assert!(error <= TOLERANCE, "{device}: {error:e}");
        assert_picture(&folder.join("drawn.png"), &values(&golden, "output.image").1);
        let settings = &report["settings"]["controls"][0];
        assert_eq!(
            (settings["kind"].as_str(), settings["strength"].as_f64()),
            (Some("outline"), config["scale"].as_f64())
        );
    }
    let (_, free) = draw("cpu", &[]);
    assert!(free > 0.02, "without it the picture is another one: {free:e}");
    let (_, early) = draw("cpu", &["--control", &control, "--coop-until", "0.3"]);
    assert!(early > TOLERANCE && early < free, "{early:e}: it was let go of");
}

/// Red, green, blue and half of yellow, two by two.
const FOUR: [[u8; 4]; 4] = [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [255, 255, 0, 128]];

/// The pixels of a picture that `pangu-draw draw` took in, as far as what it draws over all of a mask shows them.
fn outlined(path: &Path, arguments: &[&str]) -> Vec<u8> {
    let out = path.with_extension("lines.png");
    let out = out.display().to_string();
    succeed(&[&["outline", path.to_str().unwrap(), "-o", &out], arguments].concat());
    image::open(&out).unwrap().into_luma8().into_raw()
}

#[test]
fn pictures_are_read_whatever_they_are() {
    let folder = folder("pictures");
    // A bar on the left of a picture of 64x32; with this orientation it stands on top of one of 32x64.
    let bar = image::RgbImage::from_fn(64, 32, |x, _| image::Rgb(if x < 16 { [0; 3] } else { [255; 3] }));
    // Big-endian TIFF with one entry: orientation (0x0112), short, 6 = a quarter turn clockwise.
    let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    let rows = |lines: &[u8], width: usize| -> Vec<usize> {
        lines.chunks_exact(width).enumerate().filter(|(_, row)| row.iter().any(|v| *v < 128)).map(|(y, _)| y).collect()
    };
    let write = |name: &str, exif: Option<Vec<u8>>| {
        let mut bytes = Vec::new();
        let color = image::ExtendedColorType::Rgb8;
        if name.ends_with("jpg") {
            let mut encoder = codecs::jpeg::JpegEncoder::new(&mut bytes);
            exif.into_iter().for_each(|exif| encoder.set_exif_metadata(exif).unwrap());
            encoder.write_image(&bar, 64, 32, color).unwrap();
        } else if name.ends_with("webp") {
            let mut encoder = codecs::webp::WebPEncoder::new_lossless(&mut bytes);
            exif.into_iter().for_each(|exif| encoder.set_exif_metadata(exif).unwrap());
            encoder.write_image(&bar, 64, 32, color).unwrap();
        } else {
            let mut encoder = codecs::png::PngEncoder::new(&mut bytes);
            exif.into_iter().for_each(|exif| encoder.set_exif_metadata(exif).unwrap());
            encoder.write_image(&bar, 64, 32, color).unwrap();
        }
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for name in ["turned.jpg", "turned.webp", "turned.png"] {
        let lines = outlined(&write(name, Some(exif.clone())), &["--size", "32x64"]);
        let found = rows(&lines, 32);
        assert!(!found.is_empty() && found.iter().all(|y| y.abs_diff(16) <= 2), "{name}: lines in rows {found:?}");
        let plain = outlined(&write(&format!("plain-{name}"), None), &["--size", "64x32"]);
        assert!(rows(&plain, 64).len() > 24, "{name}: the line of the bar stands");
    }
    // Whatever a file is called, and in every format.
    for name in ["bar.bmp", "bar.gif"] {
        let path = folder.join(name);
        image::DynamicImage::from(bar.clone()).save(&path).unwrap();
        let lied = folder.join(format!("{name}.png"));
        fs::copy(&path, &lied).unwrap();
        assert_eq!(outlined(&lied, &["--size", "64x32"]), outlined(&path, &["--size", "64x32"]));
    }
    // Transparency is kept: what is not there has no lines, whatever its colour.
    let hidden =
        image::RgbaImage::from_fn(64, 64, |x, _| image::Rgba(if x < 32 { [9, 9, 9, 0] } else { [200, 9, 9, 0] }));
    hidden.save(folder.join("hidden.png")).unwrap();
    assert!(outlined(&folder.join("hidden.png"), &[]).iter().all(|v| *v == 255));
    let shown =
        image::RgbaImage::from_fn(64, 64, |x, _| image::Rgba(if x < 32 { [9, 9, 9, 0] } else { [200, 9, 9, 255] }));
    shown.save(folder.join("shown.png")).unwrap();
    assert!(outlined(&folder.join("shown.png"), &["--reading", "picture"]).contains(&0));
    // In every colour type.
    image::DynamicImage::from(bar).into_luma16().save(folder.join("grey16.png")).unwrap();
    assert!(!rows(&outlined(&folder.join("grey16.png"), &[]), 64).is_empty());
}

#[test]
fn a_picture_outside_a_mask_comes_out_as_it_went_in() {
    let folder = folder("mask");
    let model = converted("sd", &folder, "q8_0");
    let path = |name: &str| folder.join(name).display().to_string();
    let four = image::RgbaImage::from_fn(16, 16, |x, y| image::Rgba(FOUR[(y / 8 * 2 + x / 8) as usize]));
    four.save(path("init.png")).unwrap();
    let mask = image::GrayImage::from_fn(16, 16, |x, _| image::Luma([if x < 8 { 255 } else { 0 }]));
    mask.save(path("mask.png")).unwrap();
    let json = succeed(&[
        "draw",
        "red apple",
        "--model",
        &model,
        "--device",
        "cpu",
        "--steps",
        "2",
        "--init",
        &path("init.png"),
        "--mask",
        &path("mask.png"),
        "--strength",
        "0.5",
        "-o",
        &path("out.png"),
        "--json",
    ]);
    let drawn = image::open(path("out.png")).unwrap().into_rgba8();
    // The model paints opaque pictures, but what it does not touch stays transparent where it was.
    assert_eq!((drawn.get_pixel(12, 4).0, drawn.get_pixel(12, 12).0), (FOUR[1], FOUR[3]));
    assert_ne!(drawn.get_pixel(4, 12).0, FOUR[2]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["settings"]["init"]["strength"], 0.5);
    assert!(report["settings"]["init"]["mask"].is_string());
}

#[test]
fn larger_pictures_take_their_settings() {
    let folder = folder("larger");
    let model = converted("sd", &folder, "q8_0");
    let out = folder.join("out.png").display().to_string();
    let json = succeed(&[
        "draw",
        "red apple",
        "--model",
        &model,
        "--device",
        "cpu",
        "--steps",
        "2",
        "--size",
        "32x32",
        "--t-low",
        "500",
        "--upsampler",
        "lanczos",
        "-o",
        &out,
        "--json",
    ]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["settings"]["draft"]["tLow"], 500.0);
    assert_eq!(report["settings"]["upsampler"], "lanczos");
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
    let picture = folder.join("red.png");
    image::RgbImage::from_pixel(8, 8, image::Rgb([255, 0, 0])).save(&picture).unwrap();
    let bytes = fs::read(&picture).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).unwrap();
        folder.join(name).display().to_string()
    };
    let cut = write("cut.png", &bytes[..bytes.len() - 20]);
    let noise = write("noise.png", &[&bytes[..33], &[7; 300]].concat());
    let no_picture = write("text.png", b"no picture at all");
    let nothing = write("empty.png", b"");
    // The header of a PNG of 60,000 x 60,000 pixels, and one byte of them.
    let huge =
        write("huge.png", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\xea\x60\0\0\xea\x60\x08\x06\0\0\0\x80\xd2\x75\x42\0\0\0\x01IDATx\x76\xe6\x84\xe6");
    let huge_bmp = {
        let mut header = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        header.extend([60_000u32, 60_000].iter().flat_map(|side| side.to_le_bytes()));
        header.extend([1, 0, 24, 0].into_iter().chain([0; 24]));
        write("huge.bmp", &header)
    };
    let picture = picture.display().to_string();
    let outline = |path: &str| format!("outline={path}");
    let [missing, folder_as_picture] = [&no_model[..], folder.to_str().unwrap()].map(outline);
    let [cut, noise, no_picture, nothing, huge_control, red] =
        [&cut[..], &noise, &no_picture, &nothing, &huge, &picture].map(outline);
    let too_strong = format!("{red}:1.5");
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
        (&["--control", "outline"], "KIND=PATH"),
        (&["--control", "outline="], "KIND=PATH"),
        (&["--control", "pose=a.png"], "outline, variation"),
        (&["--control", &missing], "nowhere"),
        (&["--control", &folder_as_picture], "bad"),
        (&["--control", &cut], "cut.png"),
        (&["--control", &noise], "noise.png"),
        (&["--control", &no_picture], "PNG, JPEG, WebP, GIF or BMP"),
        (&["--control", &nothing], "empty.png"),
        (&["--control", &huge_control], "60000x60000"),
        (&["--init", &huge_bmp], "60000x60000"),
        (&["--init", &no_model], "nowhere"),
        (&["--init", &text], "text.safetensors"),
        (&["--control", &red], "outline"),
        (&["--control", &too_strong], "outline"),
        (&["--coop-until", "0.5"], "--control"),
        (&["--exchange", "shouting"], "two_way"),
        (&["--t-low", "-1"], "t low"),
        (&["--t-low", "1001"], "t low"),
        (&["--t-low", "NaN"], "t low"),
        (&["--upsampler", "magic"], "bicubic"),
        (&["--draft", "magic"], "variation"),
        (&["--draft", "outline"], "companion"),
        (&["--strength", "0.5"], "--init"),
        (&["--init", &picture, "--strength", "0"], "strength"),
        (&["--init", &picture, "--strength", "2"], "strength"),
        (&["--init", &picture, "--mask", &no_model], "nowhere"),
        (&["--mask", &picture], "mask"),
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
    let cases: &[(&[&str], &str)] = &[
        (&[&no_model], "nowhere"),
        (&[&huge], "60000x60000"),
        (&[&picture, "--size", "0x8"], "outline size"),
        (&[&picture, "--size", "8x9999"], "outline size"),
        (&[&picture, "--size", "8"], "WIDTHxHEIGHT"),
        (&[&picture, "--reading", "aloud"], "picture"),
        (&[&picture, "-o", "/nowhere/lines.png"], "/nowhere"),
    ];
    for (arguments, word) in cases {
        let mut all = vec!["outline"];
        all.extend(*arguments);
        if !arguments.contains(&"-o") {
            all.extend(["-o", &out]);
        }
        let output = pangu_draw(&all);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && message.starts_with("error: ") && message.contains(word),
            "{all:?}: {message}"
        );
        assert!(!message.contains("panicked") && !Path::new(&out).exists(), "{all:?}: {message}");
    }
    for prompt in ["", "  ", &"long ".repeat(1000)] {
        let output = pangu_draw(&["draw", prompt, "--model", &model, "--device", "cpu", "-o", &out]);
        assert!(String::from_utf8(output.stderr).unwrap().contains("prompt"), "{prompt:?}");
        assert!(!output.status.success());
    }
}
