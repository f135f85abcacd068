//! The trainer on a tiny data set of our own drawings: the build, the sampler's split, exact resumption, falling loss,
//! and a model folder that draws.
#![cfg(feature = "train")]

use burn::tensor::{Device, Tensor, TensorData};
use flate2::{Compression, write::GzEncoder};
use pangu_draw::{
    Error, Image, Result,
    device::{self, DeviceChoice},
    nets::{
        Pace,
        autoencoder_tiny::AutoencoderTinyConfig,
        controlnet::ControlNetConfig,
        picture_encoder::PictureEncoderConfig,
        text::sentence::Sentences,
        unet::{PerLevel, UNetConfig},
    },
    pipeline::{Control, Generator, MEMORY, Request as PictureRequest, config::ControlKind},
    train::{
        Draw, autoencoder,
        captions::{self, captions},
        concepts::{self, Concept, Group, Words, hex_key},
        data::{
            Dataset, Item,
            drawings::NAMES,
            mix::Mix,
            packages::Package,
            picture::{Picture, SIDE},
            recipe::{self, Request},
            scene::{Colour, Language, Relation, Scene, StyleId, Tone},
            splits::{Split, Splits},
        },
        expert::{self, Batch, Material, Role},
        export,
        session::{Budget, Intervals, LearningRate},
        sketch,
        text::TextEncoder,
        variation,
    },
    weights::{Depot, quant::GgmlType, source::FolderSource},
};
use pollster::block_on;
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Held by every test that initializes networks: the device draws their weights from one seed for all threads, and a run
/// that resumes exactly needs the same weights each time.
fn alone() -> MutexGuard<'static, ()> {
    static SEED: Mutex<()> = Mutex::new(());
    SEED.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    archive(cache, StyleId::Flat.package().unwrap(), &files);
    archive(cache, StyleId::Sticker.package().unwrap(), &files);
}

fn build(cache: &Path, low_resolution_share: f32) -> Result<Dataset> {
    recipe::build(&Request {
        cache: cache.into(),
        out: cache.join(format!("data-{low_resolution_share}")),
        styles: vec![StyleId::Flat, StyleId::Sticker],
        low_resolution_share,
        composites: 0,
        extras: false,
    })
}

#[test]
fn a_data_set_is_rendered_packed_and_read_back() {
    let cache = Folder::new("data");
    fill_cache(&cache.0);
    let dataset = build(&cache.0, 0.5).unwrap();
    assert_eq!(dataset.items.len(), 16);
    let low: BTreeSet<bool> = dataset.items.iter().map(|item| item.low_resolution).collect();
    assert_eq!(low.len(), 2, "both kinds occur");

    // Saved as a whole and read again; built again, nothing changes.
    dataset.save(&cache.join("copy")).unwrap();
    assert_eq!(Dataset::load(&cache.join("copy")).unwrap(), dataset);
    assert_eq!(build(&cache.0, 0.5).unwrap(), dataset);

    // A red circle in the middle of nothing.
    let red = (0..16).find(|&i| dataset.concepts[dataset.items[i].concept].en.names[0] == "red circle").unwrap();
    let picture = dataset.picture(red).unwrap();
    let pixel = |x: usize, y: usize| &picture.rgba[(y * SIDE + x) * 4..][..4];
    assert_eq!(pixel(0, 0), [0; 4]);
    assert_eq!(pixel(SIDE / 2, SIDE / 2), [0xdd, 0x22, 0x22, 255]);
    let mut window = Vec::new();
    picture.window([0, 0], 2, false, &mut window);
    assert_eq!(window, [0.0; 16], "nothing is 0");
    window.clear();
    picture.window([SIDE / 2; 2], 1, false, &mut window);
    let ink = |value: u8| f32::from(255 - value) / 127.5;
    assert_eq!(window, [ink(0xdd), ink(0x22), ink(0x22), 2.0]);

    // A part that is missing is made again, the others are taken as they are.
    let part = cache.join("data-0.5").join("sticker.part");
    let bytes = fs::read(&part).unwrap();
    fs::remove_file(&part).unwrap();
    fs::remove_file(cache.join(&StyleId::Flat.package().unwrap().archive())).unwrap();
    assert_eq!(build(&cache.0, 0.5).unwrap(), dataset);
    fs::write(&part, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(Dataset::load(&cache.join("data-0.5")), Err(Error::Corrupt { .. })));
    fs::write(cache.join(&NAMES.archive()), b"not an archive").unwrap();
    assert!(matches!(build(&cache.0, 0.5), Err(Error::Read { .. })));
}

#[test]
fn the_core_list_is_well_formed() {
    let lines: Vec<[&str; 3]> = concepts::core_list().collect();
    let keys: BTreeSet<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(keys.len(), lines.len(), "no concept twice");
    assert!(lines.len() >= 200);
    assert!(keys.iter().all(|key| hex_key(key) == *key));
}

fn words(name: &str, keywords: &[&str]) -> Words {
    Words { names: vec![name.into()], keywords: keywords.iter().map(|&keyword| keyword.into()).collect() }
}

fn concept(number: usize, group: Group) -> Concept {
    let (en, zh) = (format!("thing <{number}>"), format!("东西<{number}>"));
    let keyword = |at: usize| format!("keyword{at}<{number}>");
    Concept {
        key: format!("{number:x}"),
        group,
        core: number.is_multiple_of(4),
        en: words(&en, &[&keyword(0), &keyword(1)]),
        zh: words(&zh, &[&keyword(2), &keyword(3)]),
        tones: if group == Group::People {
            Tone::ALL.map(|tone| Some(format!("{number:x}-{tone:?}")))
        } else {
            Default::default()
        },
    }
}

/// Every kind of item for many concepts, the pictures all alike.
fn everything() -> Dataset {
    let concepts: Vec<Concept> =
        (0..150).map(|number| concept(number, [Group::People, Group::Animals, Group::Icons][number % 3])).collect();
    let mut items = Vec::new();
    for (index, concept) in concepts.iter().enumerate() {
        let item = |style, scene| Item { concept: index, style, scene, low_resolution: index.is_multiple_of(5) };
        match concept.group {
            Group::Icons => items
                .extend(Colour::ALL.into_iter().map(|colour| item(StyleId::FilledIcon, Scene::Coloured { colour }))),
            _ => items.extend(StyleId::EMOJI.into_iter().take(6).map(|style| item(style, Scene::Plain))),
        }
        match concept.group {
            Group::People => {
                items.extend(Tone::ALL.into_iter().map(|tone| item(StyleId::Flat, Scene::Tone { tone })));
            }
            Group::Animals => {
                let other = (index + 3) % concepts.len();
                items.push(item(StyleId::Flat, Scene::Pair { relation: Relation::Above, other }));
                items.push(item(StyleId::Flat, Scene::Backdrop { colour: Colour::ALL[index % 10] }));
                items.push(item(StyleId::Flat, Scene::Count { count: 3 }));
            }
            _ => {}
        }
    }
    let picture = Picture::filled(SIDE, [200, 30, 40]);
    Dataset::new(concepts, items.into_iter().map(|item| (item, picture.clone())).collect()).unwrap()
}

#[test]
fn every_kind_of_split_holds_something_out_and_leaves_its_parts() {
    let dataset = everything();
    let mut counts = HashMap::new();
    for item in 0..dataset.items.len() {
        *counts.entry(dataset.split(item)).or_insert(0) += 1;
    }
    for split in [Split::Seen, Split::Tone, Split::Style, Split::Colour, Split::Composite, Split::Concept] {
        assert!(counts.contains_key(&split), "{split:?}: {counts:?}");
    }
    assert!(counts[&Split::Seen] > dataset.items.len() * 3 / 5);
    let Splits { languages, keywords, .. } = &dataset.splits;
    assert!(Language::ALL.iter().all(|language| languages.values().any(|withheld| withheld == language)));
    assert_eq!(keywords.len(), dataset.concepts.len());
    // Each tone, and each base that is not held out itself, is still trained on.
    let training = dataset.training();
    for tone in Tone::ALL {
        assert!(training.iter().any(|&item| dataset.items[item].scene == Scene::Tone { tone }));
    }
    let core_held_out =
        dataset.concepts.iter().any(|concept| concept.core && dataset.splits.concepts.contains(&concept.key));
    assert!(!core_held_out, "a core concept is never held out whole");
    // The file says the same.
    let folder = Folder::new("splits");
    dataset.save(&folder.0).unwrap();
    let file: Splits = serde_json::from_slice(&fs::read(folder.join("splits.json")).unwrap()).unwrap();
    assert_eq!(file, dataset.splits);
}

#[test]
fn nothing_held_out_is_ever_in_a_training_batch() {
    let _alone = alone();
    let dataset = everything();
    let device = Device::flex();
    let autoencoder = tiny_autoencoder().init(&device).unwrap();
    let material = Material::encode(&dataset, &Mix::default(), &autoencoder, &no_statistics(), &encode).unwrap();
    let (mut seen, mut captions) = (BTreeSet::new(), BTreeSet::new());
    for role in [Role::Structure, Role::Texture] {
        let mut options = expert::Options::new("unused".into(), role, budget(1, None));
        options.batch = 64;
        options.caption_drop = 0.0;
        let sampler = material.sampler(&options).unwrap();
        for step in 0..200 {
            let batch = Batch::draw(&material, &sampler, &options, &mut Draw::new(3, step));
            for (&place, caption) in batch.places.iter().zip(&batch.captions) {
                let item = material.item(place);
                assert_eq!(dataset.splits.of(&dataset.concepts, item), Split::Seen, "{item:?}");
                seen.insert(place);
                let others = match item.scene {
                    Scene::Pair { other, .. } => vec![item.concept, other],
                    _ => vec![item.concept],
                };
                for concept in others.into_iter().map(|index| &dataset.concepts[index]) {
                    for (language, words) in Language::ALL.into_iter().zip([&concept.en, &concept.zh]) {
                        if !dataset.splits.speaks(&concept.key, language) {
                            assert!(!caption.contains(&words.names[0]), "{caption} speaks {language:?}");
                        }
                        let withheld = dataset.splits.keyword(&concept.key, language).unwrap();
                        assert!(!caption.contains(withheld), "{caption} has {withheld}");
                    }
                }
                captions.insert(caption.clone());
            }
        }
    }
    assert!(seen.len() > dataset.training().len() * 9 / 10, "almost everything else was drawn");
    // Nor is it an outline of what is in one.
    let seen = |items: &[usize]| items.iter().all(|&item| dataset.split(item) == Split::Seen);
    let drawings = sketch::drawings(&dataset);
    assert!(drawings.len() > 100 && drawings.values().all(|items| seen(items)));
    let line = |item: &usize| dataset.items[*item].style == StyleId::Line;
    assert!(drawings.values().flatten().all(line));
    assert!((0..dataset.items.len()).any(|item| line(&item) && dataset.split(item) == Split::Style));
    assert!(captions.iter().any(|caption| caption.contains("keyword")));
    assert!(captions.len() > 1000);
}

#[test]
fn a_mix_decides_what_is_drawn() {
    let dataset = everything();
    let drawn = |mix: &str| -> Vec<Item> {
        let sampler =
            pangu_draw::train::data::mix::Sampler::new(&dataset, &dataset.training(), &Mix::parse(mix).unwrap())
                .unwrap();
        (0..2000).map(|step| dataset.items[sampler.draw(&mut Draw::new(1, step))]).collect()
    };
    let share = |items: &[Item], wanted: &dyn Fn(&Item) -> bool| {
        items.iter().filter(|item| wanted(item)).count() as f32 / items.len() as f32
    };
    let items = drawn("core=0.75,icons=0.25,beyond-core=0,flat=3,3d=1,cartoon=0,sticker=0,line=0,retro=0");
    let icons = share(&items, &|item| dataset.concepts[item.concept].group == Group::Icons);
    // Three standard deviations of a share among 2,000.
    assert!((icons - 0.25).abs() < 0.03, "{icons}");
    assert!(items.iter().all(|item| dataset.concepts[item.concept].core));
    let flat = share(&items, &|item| item.style == StyleId::Flat) / (1.0 - icons);
    assert!((flat - 0.75).abs() < 0.06, "{flat}");
    assert!(share(&drawn("toned=1"), &|item| matches!(item.scene, Scene::Tone { .. })) == 1.0);
    for wrong in ["core", "core=x", "core=-1", "cores=1"] {
        assert!(matches!(Mix::parse(wrong), Err(Error::Invalid { .. })), "{wrong}");
    }
}

#[test]
fn captions_are_bilingual_and_drawn_alike_from_the_same_seed() {
    let apple =
        Concept { en: words("red apple", &["fruit"]), zh: words("苹果", &["水果"]), ..concept(1, Group::Food) };
    let banana = Concept { en: words("banana", &[]), zh: words("香蕉", &[]), ..concept(2, Group::Food) };
    let concepts = [apple, banana];
    let item = |scene| Item { concept: 0, style: StyleId::ThreeD, scene, low_resolution: false };
    let all = captions(&concepts, &item(Scene::Plain), &Splits::default());
    let weight: f32 = all.iter().map(|caption| caption.weight).sum();
    assert!((weight - 1.0).abs() < 1e-5);
    for text in ["red apple", "苹果", "red apple, 3D render", "苹果，3D立体渲染", "a 3D render of a red apple"]
    {
        assert!(all.iter().any(|caption| caption.text == text), "{text}");
    }
    for (scene, en, zh) in [
        (Scene::Tone { tone: Tone::Dark }, "red apple with dark skin tone", "较深肤色的苹果"),
        (Scene::Coloured { colour: Colour::Blue }, "blue red apple", "蓝色的苹果"),
        (Scene::Backdrop { colour: Colour::Orange }, "red apple on an orange background", "橙色背景上的苹果"),
        (Scene::Count { count: 3 }, "three red apples", "三个苹果"),
        (Scene::Pair { relation: Relation::LeftOf, other: 1 }, "red apple to the left of banana", "苹果在香蕉左边"),
        (Scene::Pair { relation: Relation::Above, other: 1 }, "red apple above banana", "苹果在香蕉上面"),
    ] {
        let all = captions(&concepts, &item(scene), &Splits::default());
        for text in [en, zh] {
            assert!(all.iter().any(|caption| caption.text == text), "{text}");
        }
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
    let _alone = alone();
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

    // The decoder alone goes on, the latents stay as they are.
    let mut options = autoencoder::Options::new(folder.join("refined"), budget(480, None));
    options.network = tiny_autoencoder();
    options.batch = 4;
    options.crop = 32;
    options.rate = LearningRate { peak: 1e-3, warmup: 4, floor: 0.1 };
    options.intervals = EVERY_UPDATE;
    let refined = autoencoder::refine(&dataset, &folder.join("whole"), &options, &Device::flex()).unwrap().unwrap();
    let before = autoencoder::LatentStatistics::load(&folder.join("whole")).unwrap();
    assert_eq!(refined.mean, before.mean);
    assert!(refined.psnr > before.psnr, "{} dB after {} dB", refined.psnr, before.psnr);
    assert!(autoencoder::load_refined(&options.dir, &tiny_autoencoder(), &Device::flex()).is_ok());

    // A checkpoint of another network is refused by name.
    let other = AutoencoderTinyConfig { latent_channels: 5, ..tiny_autoencoder() };
    let refused = autoencoder::load(&folder.join("whole"), &other, &Device::flex());
    assert!(matches!(refused, Err(Error::Corrupt { .. })));
}

fn no_statistics() -> autoencoder::LatentStatistics {
    autoencoder::LatentStatistics { mean: vec![0.0; 4], std: vec![1.0; 4], psnr: 0.0, psnr_alpha: 0.0 }
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
    let _alone = alone();
    let folder = Folder::new("expert");
    fill_cache(&folder.0);
    let dataset = build(&folder.0, 0.5).unwrap();
    let device = Device::flex();
    let autoencoder = tiny_autoencoder().init(&device).unwrap();
    let statistics = no_statistics();
    let material = Material::encode(&dataset, &Mix::default(), &autoencoder, &statistics, &encode).unwrap();
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
        let sampler = material.sampler(&options).unwrap();
        let batches = (0..50).map(|step| Batch::draw(&material, &sampler, &options, &mut Draw::new(0, step)));
        let (mut seen, mut timesteps) = (BTreeSet::new(), BTreeSet::new());
        for batch in batches {
            seen.extend(batch.places.iter().map(|&place| material.item(place).low_resolution));
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

/// What a run wrote last, without the times in its header.
fn weights(dir: &Path) -> Vec<u8> {
    let bytes = fs::read(dir.join("checkpoint.safetensors")).unwrap();
    bytes[8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize..].to_vec()
}

#[test]
fn the_sketch_model_learns_and_resumes_exactly() {
    let _alone = alone();
    let folder = Folder::new("sketch");
    fill_cache(&folder.0);
    let dataset = build(&folder.0, 0.0).unwrap();
    let device = Device::flex();
    let autoencoder = tiny_autoencoder().init(&device).unwrap();
    let statistics = no_statistics();
    let mix = Mix::default();
    let material = Material::encode_at(&dataset, &mix, &autoencoder, &statistics, &encode, sketch::SIDE).unwrap();
    assert_eq!(material.latent_shape(), [4, 8, 8]);
    let denoiser = |options: &mut expert::Options| {
        options.network = tiny_unet();
        options.batch = 8;
        options.rate = LearningRate { peak: 2e-3, warmup: 3, floor: 0.1 };
        options.intervals = EVERY_UPDATE;
    };
    let sketch = |dir: &str, pause_after| {
        let mut options = sketch::Options::new(folder.join(dir), budget(160, pause_after));
        denoiser(&mut options.denoiser);
        options.control = ControlNetConfig {
            conditioning_channels: 1,
            conditioning_embedding_out_channels: vec![4; 4],
            unet: tiny_unet(),
            ..ControlNetConfig::default()
        };
        sketch::train(&material, (&autoencoder, &statistics), &options, &device).unwrap()
    };
    let loss = sketch("whole", None);
    let logged = losses(&folder.join("whole"));
    assert_eq!(logged.len(), 20);
    assert!(mean(&logged[15..]) < 0.9 * mean(&logged[..3]), "{logged:?}");
    sketch("parts", Some(7));
    assert_eq!(losses(&folder.join("parts")).len(), 7);
    assert_eq!(sketch("parts", None), loss);
    assert!(weights(&folder.join("parts")) == weights(&folder.join("whole")), "differs after resuming");
    // A sheet at the end, not where the run paused.
    let sheet = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("sheet-");
    let sheets = fs::read_dir(folder.join("parts")).unwrap().filter(|entry| sheet(entry.as_ref().unwrap()));
    assert_eq!(sheets.count(), 1);
}

#[test]
fn the_encoder_of_pictures_answers_as_the_text_encoder_and_resumes_exactly() {
    let _alone = alone();
    let folder = Folder::new("variation");
    fill_cache(&folder.0);
    let dataset = build(&folder.0, 0.0).unwrap();
    let device = Device::flex();
    let train = |dir: &str, pause_after| {
        let mut options = variation::Options::new(folder.join(dir), budget(1600, pause_after));
        options.encoder = PictureEncoderConfig { block_out_channels: vec![16; 4], ..Default::default() };
        options.mix = Mix::parse("core=1").unwrap();
        options.batch = 8;
        options.rate = LearningRate { peak: 3e-3, warmup: 3, floor: 0.1 };
        options.average_decay = 0.9;
        options.intervals = EVERY_UPDATE;
        variation::train(&dataset, &encode, &options, &device).unwrap()
    };
    let loss = train("whole", None);
    train("parts", Some(7));
    assert_eq!(losses(&folder.join("parts")).len(), 7);
    assert_eq!(train("parts", None), loss);
    assert!(weights(&folder.join("parts")) == weights(&folder.join("whole")), "differs after resuming");

    let encoder = variation::load(&folder.join("whole"), &device).unwrap();
    let lexicon = variation::Lexicon::of(&dataset, &encode).unwrap();
    assert!(lexicon.things.len() > 2);
    let same = |found: Tensor<3>, expected: Tensor<3>| {
        let scale: f32 = expected.clone().square().mean().into_scalar();
        (found - expected).square().mean().into_scalar::<f32>() / scale
    };
    for (index, item) in dataset.items.iter().enumerate().filter(|(_, item)| lexicon.things.contains(&item.concept)) {
        let picture = dataset.picture(index).unwrap().resized(sketch::SIDE);
        let found = block_on(encoder.encode(autoencoder::tensor(&[picture], &device), &Pace::free())).unwrap();
        let name = &dataset.concepts[item.concept].en.names[0];
        let expected = encode(&[&captions::styled(name, StyleId::Flat, Language::En)]).unwrap();
        let pooled = same(found.pooled.unsqueeze(), expected.pooled.unsqueeze());
        let tokens = same(found.tokens, expected.tokens);
        assert!(pooled.max(tokens) < 0.1, "{name}: {pooled} and {tokens} after {:?}", losses(&folder.join("whole")));
    }
    let nothing = encode(&[""]).unwrap();
    let none = encoder.none();
    assert_eq!(none.pooled.into_data(), nothing.pooled.into_data());
    assert_eq!(none.tokens.into_data(), nothing.tokens.into_data());
}

#[test]
fn pictures_are_tested_on_what_training_does_not_draw() {
    let dataset = everything();
    let lexicon = variation::Lexicon::of(&dataset, &encode).unwrap();
    assert!(lexicon.things.iter().all(|&thing| dataset.concepts[thing].core));
    let mix = Mix::parse("core=0.5,icons=0.5,retro=0").unwrap();
    let tests = variation::Tests::of(&dataset, &lexicon, &mix);
    let drawn = |item: &usize| dataset.split(*item) == Split::Seen && mix.draws(&dataset, &dataset.items[*item]);
    assert!(!tests.things.iter().chain(&tests.colours).any(drawn));
    let style = |&item: &usize| dataset.items[item].style;
    assert!(tests.things.iter().any(|item| style(item) == StyleId::Retro));
    assert!(tests.things.iter().any(|item| style(item) != StyleId::Retro));
    assert!(tests.colours.iter().all(|&item| dataset.split(item) == Split::Colour));
    assert!(!tests.colours.is_empty());
}

/// A companion that was trained for a moment, exported beside the shipped models, draws along with the default one.
#[test]
fn an_exported_companion_draws_along() {
    let _alone = alone();
    let folder = Folder::new("companion");
    fill_cache(&folder.0);
    let dataset = build(&folder.0, 0.0).unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("www/models");
    for name in ["default", "sketch"] {
        fs::create_dir(folder.join(name)).unwrap();
        for file in fs::read_dir(models.join(name)).unwrap().map(|file| file.unwrap().path()) {
            fs::copy(&file, folder.join(name).join(file.file_name().unwrap())).unwrap();
        }
    }
    let device = Device::flex();
    let text = TextEncoder::open(&folder.join("default/text.gguf"), &device).unwrap();
    let encode = |texts: &[&str]| text.network.encode(&text.tokenizer, texts);
    let mut options = variation::Options::new(folder.join("run"), budget(32, None));
    options.mix = Mix::parse("core=1").unwrap();
    options.batch = 8;
    variation::train(&dataset, &encode, &options, &device).unwrap();
    let out = folder.join("variation");
    let exported = export::CompanionOptions {
        run: folder.join("run"),
        styles: vec![StyleId::Flat],
        dtype: GgmlType::Q8_0,
        out: out.clone(),
    };
    let bytes = export::export_variation(&exported, &device).unwrap();
    let names: BTreeSet<_> = fs::read_dir(&out).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, BTreeSet::from(["model.json".into(), "picture.gguf".into()]));
    assert_eq!(bytes, fs::metadata(out.join("picture.gguf")).unwrap().len());

    let load = |name: &str| {
        let depot = Depot::new(Rc::new(FolderSource(folder.join(name))), None);
        let device = block_on(device::open(DeviceChoice::Cpu)).unwrap();
        let generator = block_on(Generator::open(depot, device, MEMORY)).unwrap();
        move |request: &PictureRequest| block_on(generator.generate(request, &Pace::free(), &mut |_| {})).unwrap().image
    };
    let picture = dataset.picture(0).unwrap().to_straight();
    let request = |strength: Option<f64>, picture: &Image| PictureRequest {
        prompt: "apple".into(),
        steps: Some(2),
        controls: vec![Control { strength, ..Control::new(ControlKind::Variation, picture.clone()) }],
        ..PictureRequest::default()
    };
    let home = load("default");
    let alone = home(&PictureRequest { controls: Vec::new(), ..request(None, &picture) });
    assert!(home(&request(Some(0.0), &picture)) == alone, "without weight it is felt");
    let along = home(&request(Some(0.5), &picture));
    assert!(along != alone, "with weight it is not felt");
    // It listens to the picture, and draws by itself, too.
    let other = dataset.picture(5).unwrap().to_straight();
    assert!(home(&request(Some(0.5), &other)) != along);
    let companion = load("variation");
    let by_itself = |picture| companion(&PictureRequest { prompt: String::new(), ..request(None, picture) });
    assert!(by_itself(&picture) != by_itself(&other));
}
