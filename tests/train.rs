//! The trainer on a tiny data set of our own drawings: the build, the sampler's split, exact resumption, falling loss,
//! and a model folder that draws.
#![cfg(feature = "train")]

use burn::tensor::{Device, Tensor, TensorData};
use flate2::{Compression, write::GzEncoder};
use pangu_draw::{
    Error, Result,
    nets::{
        autoencoder_tiny::AutoencoderTinyConfig,
        text::sentence::Sentences,
        unet::{PerLevel, UNetConfig},
    },
    train::{
        Draw, autoencoder,
        captions::{self, captions},
        concepts::{self, Concept, hex_key},
        data::{self, Dataset, NAMES, Package, Request, SIDE, StyleId},
        expert::{self, Batch, Material, Role},
        session::{Budget, Intervals, LearningRate},
    },
};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A folder that is removed at the end of its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pangu-draw-train-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SHAPES: [(&str, &str, &str, &str); 8] = [
    ("1f534", "red circle", "红色圆形", r##"<circle cx="16" cy="16" r="12" fill="#d22"/>"##),
    ("1f535", "blue circle", "蓝色圆形", r##"<circle cx="16" cy="16" r="12" fill="#22d"/>"##),
    ("1f7e5", "red square", "红色方形", r##"<path fill="#d22" d="M5 5h22v22H5z"/>"##),
    ("1f7e6", "blue square", "蓝色方形", r##"<path fill="#22d" d="M5 5h22v22H5z"/>"##),
    ("1f53a", "red triangle", "红色三角形", r##"<path fill="#d22" d="M16 4l13 24H3z"/>"##),
    ("1f537", "blue diamond", "蓝色菱形", r##"<path fill="#22d" d="M16 3l13 13-13 13L3 16z"/>"##),
    ("1f7e2", "green circle", "绿色圆形", r##"<circle cx="16" cy="16" r="12" fill="#2a2"/>"##),
    ("2764-fe0f", "green heart", "绿心", r##"<path fill="#2a2" d="M16 29L4 16a7 7 0 0 1 12-8 7 7 0 0 1 12 8z"/>"##),
];

fn archive(cache: &Path, package: Package, files: &[(&str, Vec<u8>)]) {
    let file = fs::File::create(cache.join(package.archive())).unwrap();
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append_data(&mut header, format!("package/{name}"), bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
}

/// Archives in the pinned packages' formats, with our own drawings in them.
fn fill_cache(cache: &Path) {
    let names = |label: fn(&(&str, &str, &str, &str)) -> String| {
        let entries: Vec<serde_json::Value> = SHAPES
            .iter()
            .map(|shape| serde_json::json!({"label": label(shape), "hexcode": shape.0, "tags": ["shape"], "group": 8}))
            .collect();
        serde_json::to_vec(&entries).unwrap()
    };
    archive(
        cache,
        NAMES,
        &[("en/data.json", names(|shape| shape.1.into())), ("zh/data.json", names(|shape| shape.2.into()))],
    );
    let icons: HashMap<&str, serde_json::Value> =
        SHAPES.iter().map(|shape| (shape.1, serde_json::json!({"body": shape.3}))).collect();
    let chars: HashMap<&str, &str> = SHAPES.iter().map(|shape| (shape.0, shape.1)).collect();
    let icons = serde_json::to_vec(&serde_json::json!({"icons": icons, "width": 32, "height": 32})).unwrap();
    let files = [("icons.json", icons), ("chars.json", serde_json::to_vec(&chars).unwrap())];
    archive(cache, StyleId::Flat.package(), &files);
    archive(cache, StyleId::Sticker.package(), &files);
}

fn build(cache: &Path, low_resolution_share: f32) -> Result<Dataset> {
    let styles = vec![StyleId::Flat, StyleId::Sticker];
    let concepts = data::names(cache)?;
    Dataset::build(&Request { cache: cache.into(), styles, concepts, low_resolution_share }, |_, _| ())
}

#[test]
fn a_data_set_is_rendered_packed_and_read_back() {
    let cache = Folder::new("data");
    fill_cache(&cache.0);
    let dataset = build(&cache.0, 0.5).unwrap();
    assert_eq!(dataset.items.len(), 16);
    let low: BTreeSet<bool> = dataset.items.iter().map(|item| item.low_resolution).collect();
    assert_eq!(low.len(), 2, "both kinds occur");

    let file = cache.join("data.bin");
    dataset.save(&file).unwrap();
    assert_eq!(Dataset::load(&file).unwrap(), dataset);
    // What is there is not fetched again, and the same packages make the same pictures.
    assert_eq!(build(&cache.0, 0.5).unwrap(), dataset);

    // A red circle in the middle of white paper.
    let red = (0..16).find(|&i| dataset.concepts[dataset.items[i].concept].en.names[0] == "red circle").unwrap();
    let pixel = |x: usize, y: usize| &dataset.image(red)[(y * SIDE + x) * 3..][..3];
    assert_eq!(pixel(0, 0), [255; 3]);
    assert_eq!(pixel(SIDE / 2, SIDE / 2), [0xdd, 0x22, 0x22]);
    let mut window = Vec::new();
    dataset.window(red, [0, 0], 2, false, &mut window);
    assert_eq!(window, [0.0; 12], "white is 0");

    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(Dataset::load(&file), Err(Error::Corrupt { .. })));
    fs::write(cache.join(&NAMES.archive()), b"not an archive").unwrap();
    assert!(matches!(build(&cache.0, 0.5), Err(Error::Read { .. })));
}

#[test]
fn the_curated_list_is_well_formed() {
    let lines: Vec<[&str; 3]> = concepts::lines().collect();
    let keys: BTreeSet<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(keys.len(), lines.len(), "no concept twice");
    assert!(lines.len() >= 120);
    for [key, _, zh] in lines {
        assert_eq!(hex_key(key), key);
        assert!(!zh.is_empty(), "{key} has a Chinese name");
    }
}

#[test]
fn captions_are_bilingual_and_drawn_alike_from_the_same_seed() {
    let words =
        |name: &str, keyword: &str| concepts::Words { names: vec![name.into()], keywords: vec![keyword.into()] };
    let concept = Concept { hexcode: "1f34e".into(), en: words("red apple", "fruit"), zh: words("苹果", "水果") };
    let all = captions(&concept, StyleId::ThreeD);
    let weight: f32 = all.iter().map(|caption| caption.weight).sum();
    assert!((weight - 1.0).abs() < 1e-5);
    for text in ["red apple", "苹果", "red apple, 3D render", "苹果，3D立体渲染", "a 3D render of a red apple"]
    {
        assert!(all.iter().any(|caption| caption.text == text), "{text}");
    }
    let drawn = || (0..100).map(|step| captions::draw(&all, &mut Draw::new(7, step))).collect::<Vec<_>>();
    assert_eq!(drawn(), drawn());
    assert!(drawn().iter().collect::<BTreeSet<_>>().len() > 4);
}

fn tiny_autoencoder() -> AutoencoderTinyConfig {
    AutoencoderTinyConfig {
        encoder_block_out_channels: vec![8; 3],
        decoder_block_out_channels: vec![8; 3],
        latent_channels: 4,
        ..AutoencoderTinyConfig::emoji()
    }
}

fn tiny_unet() -> UNetConfig {
    UNetConfig {
        in_channels: 4,
        out_channels: 4,
        block_out_channels: vec![32, 64],
        cross_attention_dim: 8,
        attention_head_dim: PerLevel::Each(vec![1, 1]),
        projection_class_embeddings_input_dim: Some(8),
        ..UNetConfig::emoji()
    }
}

fn budget(samples: u64, pause_after: Option<u64>) -> Budget {
    Budget { samples: Some(samples), minutes: None, pause_after }
}

const EVERY_UPDATE: Intervals =
    Intervals { log: 1, checkpoint: Duration::from_secs(3600), sheet: Duration::from_secs(3600) };

/// The losses a run logged.
fn losses(dir: &Path) -> Vec<f32> {
    let log = fs::read_to_string(dir.join("loss.csv")).unwrap();
    log.lines().skip(1).map(|line| line.split(',').nth(3).unwrap().parse().unwrap()).collect()
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}

#[test]
fn the_autoencoder_learns_and_resumes_exactly() {
    let folder = Folder::new("autoencoder");
    fill_cache(&folder.0);
    let dataset = build(&folder.0, 0.0).unwrap();
    let run = |dir: &str, pause_after| {
        let mut options = autoencoder::Options::new(folder.join(dir), budget(96, pause_after));
        options.network = tiny_autoencoder();
        options.batch = 4;
        options.crop = 32;
        options.rate = LearningRate { peak: 3e-3, warmup: 4, floor: 0.1 };
        options.intervals = EVERY_UPDATE;
        autoencoder::train(&dataset, &options, &Device::flex()).unwrap()
    };
    let statistics = run("whole", None).expect("a finished run is measured");
    assert_eq!(statistics.mean.len(), 4);
    let whole = losses(&folder.join("whole"));
    assert_eq!(whole.len(), 24);
    assert!(mean(&whole[20..]) < 0.8 * mean(&whole[..4]), "{whole:?}");

    assert!(run("parts", Some(9)).is_none());
    assert_eq!(losses(&folder.join("parts")).len(), 9);
    assert_eq!(run("parts", None), Some(statistics));
    assert_eq!(losses(&folder.join("parts")), whole);
    let checkpoint = |dir: &str| fs::read(folder.join(dir).join("checkpoint.safetensors")).unwrap();
    let numbers = |bytes: Vec<u8>| bytes[8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize..].to_vec();
    assert!(numbers(checkpoint("parts")) == numbers(checkpoint("whole")), "weights differ after resuming");

    // A checkpoint of another network is refused by name.
    let other = AutoencoderTinyConfig { latent_channels: 5, ..tiny_autoencoder() };
    let refused = autoencoder::load(&folder.join("whole"), &other, &Device::flex());
    assert!(matches!(refused, Err(Error::Corrupt { .. })));
}

/// A stand-in for the text encoder: numbers from the text's bytes.
fn encode(texts: &[&str]) -> Result<Sentences> {
    let numbers = |count: usize| -> Vec<f32> {
        let of = |text: &&str| {
            let seed = text.bytes().fold(0u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
            Draw::new(seed, 0).normal(count)
        };
        texts.iter().flat_map(of).collect()
    };
    let device = Device::flex();
    Ok(Sentences {
        pooled: Tensor::from_data(TensorData::new(numbers(8), [texts.len(), 8]), &device),
        tokens: Tensor::from_data(TensorData::new(numbers(32), [texts.len(), 4, 8]), &device),
    })
}

#[test]
fn the_experts_see_their_own_data_learn_and_resume_exactly() {
    let folder = Folder::new("expert");
    fill_cache(&folder.0);
    let dataset = build(&folder.0, 0.5).unwrap();
    let device = Device::flex();
    let autoencoder = tiny_autoencoder().init(&device).unwrap();
    let statistics = autoencoder::LatentStatistics { mean: vec![0.0; 4], std: vec![1.0; 4], psnr: 0.0 };
    let material = Material::encode(&dataset, &autoencoder, &statistics, &encode).unwrap();
    let options = |dir: &str, role, pause_after| {
        let mut options = expert::Options::new(folder.join(dir), role, budget(96, pause_after));
        options.network = tiny_unet();
        options.batch = 8;
        options.rate = LearningRate { peak: 2e-3, warmup: 3, floor: 0.1 };
        options.intervals = EVERY_UPDATE;
        options
    };

    for role in [Role::Structure, Role::Texture] {
        let options = options("unused", role, None);
        let items = material.items(role);
        let batches = (0..50).map(|step| Batch::draw(&material, &items, &options, &mut Draw::new(0, step)));
        let (mut seen, mut timesteps) = (BTreeSet::new(), BTreeSet::new());
        for batch in batches {
            seen.extend(batch.items.iter().map(|&item| dataset.items[item].low_resolution));
            timesteps.extend(batch.timesteps);
        }
        assert_eq!(seen.contains(&true), role == Role::Structure, "{role:?} and low-resolution pictures");
        assert!(seen.contains(&false));
        assert!(timesteps.iter().all(|t| role.timesteps().contains(t)), "{role:?}");
        assert!(timesteps.len() > 200);
    }

    for role in [Role::Structure, Role::Texture] {
        let run = |dir: &str, pause_after| {
            let options = options(dir, role, pause_after);
            expert::train(&material, (&autoencoder, &statistics), &options, &device).unwrap();
            losses(&options.dir)
        };
        let whole = run(&format!("{}-whole", role.id()), None);
        assert_eq!(whole.len(), 12);
        assert!(mean(&whole[9..]) < mean(&whole[..3]), "{role:?}: {whole:?}");
        let parts = format!("{}-parts", role.id());
        assert_eq!(run(&parts, Some(5)), whole[..5]);
        assert_eq!(run(&parts, None), whole);
        assert!(folder.join(&parts).join("loss.svg").exists());
    }
}
