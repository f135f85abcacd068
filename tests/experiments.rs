//! The paper's experiments on a tiny fixture: arms cost the same computation, are trained and scored once, and end up in
//! the document between its markers.
#![cfg(feature = "train")]

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use pangu_draw::{
    Error, Result,
    diffusion::{NetworkDenoiser, schedule::Prediction},
    nets::{
        autoencoder_tiny::AutoencoderTinyConfig,
        controlnet::ControlNetConfig,
        picture_encoder::PictureEncoderConfig,
        text::sentence::Sentences,
        unet::{PerLevel, UNetConfig},
    },
    train::{
        Draw,
        autoencoder::LatentStatistics,
        concepts::{Concept, Group, Words},
        data::{
            Dataset, Item,
            picture::{Picture, SIDE},
            scene::{Scene, StyleId},
        },
        experiments::{
            Bench, Captions, Pictures, Results, Scale, decoupling, flops, low_resolution, report, score::Contender,
        },
        expert,
    },
};
use std::{cell::Cell, collections::BTreeSet, fs, path::PathBuf};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pangu-draw-experiments-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const CONCEPTS: usize = 12;
const STYLES: [StyleId; 2] = [StyleId::Flat, StyleId::Sticker];

/// Squares of a colour of their own; every other one scaled up from few pixels, if `mixed`.
fn dataset(mixed: bool) -> Dataset {
    let concept = |index: usize| Concept {
        key: format!("{index:x}"),
        group: Group::Objects,
        core: true,
        en: Words { names: vec![format!("square {index}")], keywords: Vec::new() },
        zh: Words { names: vec![format!("方形{index}")], keywords: Vec::new() },
        tones: Default::default(),
    };
    let mut pictures = Vec::new();
    for style in STYLES {
        for concept in 0..CONCEPTS {
            let low_resolution = mixed && (concept + usize::from(style == StyleId::Flat)) % 2 == 0;
            let mut picture = Picture::empty(SIDE);
            picture.draw(&Picture::filled(SIDE / 2, [20 * concept as u8, 90, 200]), [5 * concept, 30]);
            let picture = if low_resolution { picture.resized(16).resized(SIDE) } else { picture };
            pictures.push((Item { concept, style, scene: Scene::Plain, low_resolution }, picture));
        }
    }
    Dataset::new((0..CONCEPTS).map(concept).collect(), pictures).unwrap()
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

fn scale(seeds: Vec<u64>) -> Scale {
    let network = |width: usize| UNetConfig {
        in_channels: 4,
        out_channels: 4,
        block_out_channels: vec![width, 2 * width],
        norm_num_groups: 4,
        cross_attention_dim: 8,
        attention_head_dim: PerLevel::Each(vec![1, 1]),
        projection_class_embeddings_input_dim: Some(8),
        ..UNetConfig::emoji()
    };
    Scale { batch: 4, steps: 4, network: network(8), doubled: network(12), ..Scale::new(CONCEPTS, 256, seeds) }
}

#[test]
fn the_pictures_are_divided_alike() {
    let (mixed, sharp) = (dataset(true), dataset(false));
    let pictures = Pictures::divide(&mixed, &sharp, 8).unwrap();
    let pairs = |dataset: &Dataset| dataset.items.iter().map(|i| (i.concept, i.style)).collect::<BTreeSet<_>>();
    assert_eq!(pairs(&pictures.mixed), pairs(&pictures.sharp));
    assert!(pairs(&pictures.sharp).is_disjoint(&pairs(&pictures.held_out)), "what is held out is not trained on");
    let all: BTreeSet<_> = pairs(&pictures.sharp).union(&pairs(&pictures.held_out)).copied().collect();
    assert_eq!(all.len(), 8 * STYLES.len());
    assert!(pictures.mixed.items.iter().any(|item| item.low_resolution));
    assert!(!pictures.sharp.items.iter().chain(&pictures.held_out.items).any(|item| item.low_resolution));
    assert!(matches!(Pictures::divide(&mixed, &sharp, CONCEPTS + 1), Err(Error::Invalid { .. })));
}

#[test]
fn captions_are_encoded_once() {
    let calls = Cell::new(0);
    let counted = |texts: &[&str]| {
        calls.set(calls.get() + texts.len());
        encode(texts)
    };
    let captions = Captions::new(&counted);
    let values = |sentences: Sentences| sentences.tokens.into_data().try_into_vec::<f32>().unwrap();
    let texts = ["a cat", "", "a cat"];
    assert_eq!(values(captions.encode(&texts).unwrap()), values(encode(&texts).unwrap()));
    assert_eq!(values(captions.encode(&texts[..2]).unwrap()), values(encode(&texts[..2]).unwrap()));
    assert_eq!(calls.get(), 2);
}

#[test]
fn arms_cost_the_same_and_are_trained_and_scored_once() {
    let folder = Folder::new("arms");
    let device = Device::flex();
    let pictures = Pictures::divide(&dataset(true), &dataset(false), CONCEPTS).unwrap();
    let pixels = AutoencoderTinyConfig {
        encoder_block_out_channels: vec![8; 3],
        decoder_block_out_channels: vec![8; 3],
        latent_channels: 4,
        ..AutoencoderTinyConfig::emoji()
    };
    device.seed(0);
    let autoencoder = pixels.init(&device).unwrap();
    let statistics = LatentStatistics { mean: vec![0.0; 4], std: vec![0.2; 4], psnr: 0.0, psnr_alpha: 0.0 };
    let bench = |scale| {
        let parts = (&autoencoder, pixels.clone(), &statistics);
        Bench::new(scale, &pictures, parts, &encode, &folder.0, &device)
    };

    let load = |experiment| Results::load(&folder.0, experiment).unwrap().unwrap();
    let alone = bench(scale(vec![0])).unwrap();
    decoupling::run(&alone).unwrap();
    let first = load(decoupling::NAME);
    assert_eq!(first.outcomes.len(), 3);
    let budget = first.outcomes[0].cost.flops as f64;
    for outcome in &first.outcomes {
        let ratio = outcome.cost.flops as f64 / budget;
        assert!((ratio - 1.0).abs() < 0.06, "{}: {ratio} of the computation", outcome.arm);
        let scores = &outcome.scores;
        assert!((0.0..=1.0).contains(&scores.recall_at_1) && scores.recall_at_1 <= scores.recall_at_5);
        assert!(scores.frechet.is_finite() && scores.sharpness.is_finite() && scores.drawing_flops > 0);
        let sheet = folder.0.join(format!("decoupling/{}-seed0.png", outcome.arm.replace(' ', "-")));
        assert!(sheet.exists(), "{}", sheet.display());
    }
    // The cascade's whole network is asked below the boundary only.
    assert!(first.outcomes[0].scores.v_error(0..1000).is_finite());
    assert!(first.outcomes[2].scores.v_error(0..500).is_finite());
    assert!(first.outcomes[2].scores.v_error(500..1000).is_nan());

    // Training has brought the error down.
    let untrained = alone.scale.network.init_for_training(&device).unwrap();
    let untrained = NetworkDenoiser::new(untrained, expert::schedule().unwrap(), Prediction::VPrediction);
    let contender =
        Contender { denoiser: &untrained, timesteps: 500..1000, start: &|prompt| alone.from_noise(prompt), flops: 0 };
    let before = alone.score(&contender, &folder.0.join("untrained.png")).unwrap().v_error(500..1000);
    let after = first.outcomes[0].scores.v_error(500..1000);
    assert!(after < 0.98 * before, "{before} before, {after} after");

    // Nothing is trained or scored again, and a second seed is added to the first.
    let weights = folder.0.join("arms/structure-500-seed0/checkpoint.safetensors");
    let written = fs::metadata(&weights).unwrap().modified().unwrap();
    decoupling::run(&bench(scale(vec![0, 1])).unwrap()).unwrap();
    let both = load(decoupling::NAME);
    assert_eq!(both.outcomes[..3], first.outcomes[..]);
    assert_eq!(both.outcomes.len(), 6);
    assert_eq!(both.scale.seeds, [0, 1]);
    assert_ne!(both.outcomes[0].scores.errors, both.outcomes[3].scores.errors, "seeds differ");
    low_resolution::run(&alone).unwrap();
    let shared = load(low_resolution::NAME);
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), written, "a finished arm is taken as it is");
    assert_eq!(shared.outcomes[1].scores.errors, first.outcomes[0].scores.errors, "the same two experts");

    // Another scale needs another folder.
    let other = Scale { samples: 8, ..scale(vec![0]) };
    assert!(matches!(bench(other), Err(Error::Invalid { parameter: "out", .. })));

    // The document keeps what people wrote.
    let document = folder.0.join("experiments.md");
    let text = "# Title\n<!-- decoupling: measured -->\nold\n<!-- decoupling: end -->\nA conclusion.\n";
    fs::write(&document, text).unwrap();
    for _ in 0..2 {
        report::write(&folder.0, &document).unwrap();
    }
    let text = fs::read_to_string(&document).unwrap();
    assert!(text.starts_with("# Title\n") && text.contains("\nA conclusion.\n") && !text.contains("\nold\n"));
    assert_eq!(text.matches("| resolution boost |").count(), 2, "one row in each of two tables");
    assert_eq!(text.matches("<!-- low-resolution: measured -->").count(), 1);
    let plot = fs::read_to_string(folder.0.join("experiments/decoupling-errors.svg")).unwrap();
    assert_eq!(plot.matches("<polyline").count(), 3);
}

/// The same walk gives the operations and the parameters, and those are known.
#[test]
fn the_parameters_are_those_of_the_networks() {
    for (config, parameters) in [
        (UNetConfig::sd15(), 859_520_964),
        (UNetConfig::sdxl(), 2_567_463_684),
        (UNetConfig::pangu_draw_v3(), 2_565_825_284),
    ] {
        assert_eq!(flops::unet(&config, 64, 77).parameters, parameters);
    }
    let device = Device::flex();
    let own = UNetConfig::emoji();
    assert_eq!(flops::unet(&own, 16, 12).parameters, own.init(&device).unwrap().num_params() as u64);
    let own = ControlNetConfig::sketch();
    assert_eq!(flops::controlnet(&own, 8, 16).parameters, own.init(&device).unwrap().num_params() as u64);
    let own = PictureEncoderConfig { vocabulary: vec![30, 4], ..PictureEncoderConfig::default() };
    let meanings = (own.words() + 1) * own.meaning();
    let all = own.init(&device).unwrap().num_params();
    assert_eq!(flops::picture_encoder(&own).parameters, (all - meanings) as u64);
    let own = AutoencoderTinyConfig::emoji();
    let [encoder, decoder] = flops::autoencoder(&own, 128).map(|count| count.parameters);
    assert_eq!(encoder, own.init_encoder(&device).unwrap().num_params() as u64);
    assert_eq!(decoder, own.init_decoder(&device).unwrap().num_params() as u64);
}

#[test]
fn the_operations_are_those_of_the_shapes() {
    // What AutoencoderTinyConfig::emoji documents.
    let giga = flops::autoencoder(&AutoencoderTinyConfig::emoji(), 128).map(|count| (count.flops as f64 / 1e7).round());
    assert_eq!(giga, [80.0, 210.0]);

    // One level and one layer, by hand: 2 channels, 2x2 latents, 3 tokens of 1 feature.
    let config = UNetConfig {
        in_channels: 1,
        out_channels: 1,
        down_block_types: vec!["DownBlock2D".into()],
        up_block_types: vec!["UpBlock2D".into()],
        block_out_channels: vec![2],
        layers_per_block: PerLevel::Same(1),
        cross_attention_dim: 1,
        ..UNetConfig::default()
    };
    let positions = 4;
    let ends = 2 * 2 * 9 * 2 * positions;
    let time = 2 * (2 * 8 + 8 * 8);
    let resnet = 2 * 2 * 2 * 2 * 9 * positions + 2 * 8 * 2;
    let widened = resnet + 2 * 2 * 2 * 9 * positions + 2 * 4 * 2 * positions;
    let own = 4 * 2 * 4 * positions + 4 * positions * positions * 2;
    let cross = 2 * 2 * 4 * positions + 2 * 2 * 2 * 3 + 4 * positions * 3 * 2;
    let transformer = 2 * 2 * 4 * positions + own + cross + 2 * (2 * 16 + 8 * 2) * positions;
    let expected = ends + time + 3 * resnet + 2 * widened + transformer;
    assert_eq!(flops::unet(&config, 2, 3).flops, expected as u64);
}
