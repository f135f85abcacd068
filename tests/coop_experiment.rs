//! The Coop-Diffusion experiment from end to end: the default model with two tiny companions that know nothing, and pictures
//! of shapes.
#![cfg(feature = "train")]

use burn::{module::Module, tensor::Device};
use pangu_draw::{
    coop::latent::{Exchange, Falloff},
    nets::{
        autoencoder_tiny::AutoencoderTinyConfig,
        controlnet::ControlNetConfig,
        picture_encoder::PictureEncoderConfig,
        unet::{PerLevel, UNetConfig},
    },
    pipeline::config::{
        Companion, ControlConfig, ControlKind, Expert, ExpertsConfig, ImageConfig, LatentConfig, PictureConfig,
        PipelineConfig,
    },
    train::{
        concepts::{Concept, Group, Words},
        data::{
            Dataset, Item,
            mix::Mix,
            picture::{Picture, SIDE},
            scene::{Colour, Scene, StyleId},
        },
        eval::dual::DualEncoder,
        experiments::coop::{Arm, Measured, Options, Results, report, run},
    },
    weights::{
        Depot,
        gguf::CONFIG,
        manifest::{Component, Manifest},
        quant::GgmlType,
        source::FolderSource,
        write_module,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

/// Frames of eight colours, thicker ones in one style than in the other, and a glyph in two colours.
fn shapes() -> Dataset {
    let concept = |name: &str, zh: &str, group| Concept {
        key: name.into(),
        group,
        core: true,
        en: Words { names: vec![name.into()], keywords: vec![] },
        zh: Words { names: vec![zh.into()], keywords: vec![] },
        tones: Default::default(),
    };
    let frame = |colour: [u8; 3], side: usize, hole: usize| {
        let mut picture = Picture::empty(SIDE);
        picture.draw(&Picture::filled(side, colour), [(SIDE - side) / 2; 2]);
        picture.draw(&Picture::filled(hole, [255; 3]), [(SIDE - hole) / 2; 2]);
        picture
    };
    let (mut concepts, mut pictures) = (Vec::new(), Vec::new());
    for (index, colour) in Colour::ALL.into_iter().take(8).enumerate() {
        let (en, zh, rgb) = colour.names();
        concepts.push(concept(&format!("{en} frame"), &format!("{zh}方框"), Group::Objects));
        for (style, side) in [(StyleId::Flat, 60), (StyleId::Sticker, 100)] {
            let item = Item { concept: index, style, scene: Scene::Plain, low_resolution: false };
            pictures.push((item, frame(rgb, side, side / 2)));
        }
    }
    for glyph in 0..3 {
        concepts.push(concept(&format!("glyph {glyph}"), &format!("图标{glyph}"), Group::Icons));
        for colour in Colour::ALL {
            let (scene, rgb) = (Scene::Coloured { colour }, colour.names().2);
            let item = Item { concept: 8 + glyph, style: StyleId::FilledIcon, scene, low_resolution: false };
            pictures.push((item, frame(rgb, 50 + 20 * glyph, 20)));
        }
    }
    Dataset::new(concepts, pictures).unwrap()
}

fn network<M: Module>(folder: &Path, role: &str, class: &str, module: &M, prefix: &str, config: String) -> Component {
    let metadata = BTreeMap::from([(CONFIG.to_owned(), config.into())]);
    let bytes = write_module(module, prefix, GgmlType::F32, &metadata, Vec::new()).unwrap();
    fs::write(folder.join(format!("{role}.gguf")), bytes).unwrap();
    Component::of_file(folder, role, class, format!("{role}.gguf"), 4 << 20).unwrap()
}

fn write(folder: &Path, manifest: &Manifest) {
    fs::write(folder.join("model.json"), manifest.to_json().unwrap()).unwrap();
}

/// The default model with two companions beside it, in `root`; draws in two steps.
fn models(root: &Path) -> Depot {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("www/models/default");
    std::os::unix::fs::symlink(&default, root.join("default")).unwrap();
    let mut home = Manifest::from_json(&fs::read(default.join("model.json")).unwrap()).unwrap();
    home.components.iter_mut().for_each(|component| component.folder = Some("default".into()));
    let text = home.components[0].clone();
    let mut pipeline = PipelineConfig::from_json(&home.pipeline).unwrap();
    let companion = |folder: &str| Companion {
        folder: folder.into(),
        strength: 0.5,
        until: 0.6,
        falloff: Falloff::Noise,
        guidance_scale: None,
    };
    pipeline.defaults.steps = 2;
    pipeline.companions =
        BTreeMap::from([(ControlKind::Outline, companion("sketch")), (ControlKind::Variation, companion("variation"))]);
    home.pipeline = serde_json::to_value(&pipeline).unwrap();

    let (device, json) = (Device::flex(), |value: serde_json::Value| value.to_string());
    device.seed(1);
    let tiny = AutoencoderTinyConfig {
        encoder_block_out_channels: vec![8; 3],
        decoder_block_out_channels: vec![8; 3],
        latent_channels: 4,
        ..AutoencoderTinyConfig::emoji()
    };
    let unet = UNetConfig {
        in_channels: 4,
        out_channels: 4,
        block_out_channels: vec![8, 16],
        norm_num_groups: 4,
        attention_head_dim: PerLevel::Each(vec![1, 1]),
        ..UNetConfig::sketch()
    };
    let (sketch, variation) = (root.join("sketch"), root.join("variation"));
    for folder in [&sketch, &variation, &root.join("home")] {
        fs::create_dir(folder).unwrap();
    }
    let space = |role: &str| Component { folder: Some("sketch".into()), ..component(&sketch, role) };
    let config = || json(serde_json::to_value(&tiny).unwrap());
    let decoder =
        network(&sketch, "decoder", "AutoencoderTiny", &tiny.init_decoder(&device).unwrap(), "decoder.", config());
    let encoder =
        network(&sketch, "encoder", "AutoencoderTiny", &tiny.init_encoder(&device).unwrap(), "encoder.", config());
    let class = "UNet2DConditionModel";
    let config = || json(serde_json::to_value(&unet).unwrap());
    let net = ControlNetConfig {
        conditioning_embedding_out_channels: vec![4, 4, 4, 4],
        unet: unet.clone(),
        ..ControlNetConfig::sketch()
    };
    let reader =
        PictureEncoderConfig { block_out_channels: vec![8; 4], norm_num_groups: 4, ..PictureEncoderConfig::default() };
    let own = PipelineConfig {
        experts: ExpertsConfig::Single {
            unet: Expert {
                component: "unet".into(),
                prediction: pangu_draw::diffusion::schedule::Prediction::VPrediction,
            },
        },
        companions: BTreeMap::new(),
        latent: LatentConfig {
            channels: 4,
            shift: vec![0.0],
            scale: vec![1.0],
            projection: None,
            ..pipeline.latent.clone()
        },
        image: ImageConfig { width: 64, height: 64, multiple: 16, max: 64 },
        ..pipeline.clone()
    };
    let with_outline = PipelineConfig {
        control: Some(ControlConfig { component: "controlnet".into(), guidance_scale: 2.0 }),
        ..own.clone()
    };
    let manifest = |name: &str, components, pipeline: &PipelineConfig| Manifest {
        name: name.into(),
        components,
        vocabulary: None,
        pipeline: serde_json::to_value(pipeline).unwrap(),
        ..home.clone()
    };
    let sketched = vec![
        text,
        network(&sketch, "unet", class, &unet.init(&device).unwrap(), "", config()),
        network(
            &sketch,
            "controlnet",
            "ControlNetModel",
            &net.init(&device).unwrap(),
            "",
            json(serde_json::to_value(&net).unwrap()),
        ),
        decoder,
        encoder,
    ];
    write(&sketch, &manifest("sketch", sketched, &with_outline));
    let after_picture =
        PipelineConfig { text: Vec::new(), picture: Some(PictureConfig { component: "picture".into() }), ..own };
    let varied = vec![
        network(
            &variation,
            "picture",
            "PictureEncoder",
            &reader.init(&device).unwrap(),
            "",
            json(serde_json::to_value(&reader).unwrap()),
        ),
        network(&variation, "unet", class, &unet.init(&device).unwrap(), "", config()),
        space("decoder"),
        space("encoder"),
    ];
    write(&variation, &manifest("variation", varied, &after_picture));
    write(&root.join("home"), &home);
    Depot::new(Rc::new(FolderSource(root.join("home"))), None)
}

fn component(folder: &Path, role: &str) -> Component {
    Component::of_file(folder, role, "AutoencoderTiny", format!("{role}.gguf"), 4 << 20).unwrap()
}

#[test]
fn the_whole_experiment_runs_and_goes_on_where_it_stopped() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coop-experiment");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    let depot = models(&root);
    let (dataset, encoder, out) = (shapes(), DualEncoder::new(&Device::flex()), root.join("out"));
    let options = Options {
        out: out.clone(),
        pairs: 2,
        confirm: 1,
        large: 1,
        costs: 1,
        styles: vec![StyleId::Flat],
        home_styles: vec![StyleId::Sticker],
        mix: Mix::default(),
        budget: Duration::ZERO,
        seed: 0,
        command: Some((PathBuf::from(env!("CARGO_BIN_EXE_pangu-draw")), root.join("home").display().to_string())),
    };
    // Without time nothing is drawn, and a report of nothing is written all the same.
    let nothing = run(&dataset, &encoder, depot.clone(), &options).unwrap();
    assert!(nothing.measured.iter().all(|measured| measured.rows.is_empty() && measured.chosen.is_none()));
    report::write(&out, &root.join("nothing.md")).unwrap();

    let options = Options { budget: Duration::from_secs(3600), ..options };
    let results = run(&dataset, &encoder, depot.clone(), &options).unwrap();
    assert_eq!(results.measured.iter().map(|m| m.name()).collect::<Vec<_>>(), ["outline", "variation", "outline-home"]);
    let asked = |measured: &Measured| dataset.items[measured.pairs[0].target].style;
    assert_eq!(
        results.measured.iter().map(asked).collect::<Vec<_>>(),
        [StyleId::Flat, StyleId::Flat, StyleId::Sticker]
    );
    assert_eq!(results.both.len(), 6);
    assert!(
        results.both.iter().all(|way| way.scores.len() == 1 && way.scores[0].iter().all(|s| (0.0..=1.0).contains(s)))
    );
    for measured in &results.measured {
        let arms: Vec<Arm> = measured.rows.iter().map(|row| row.arm).collect();
        assert!(arms.starts_with(&[Arm::Home, Arm::Foreign, Arm::plain(0.2)]) && arms.contains(&Arm::plain(1.0)));
        let exchanges =
            |exchange| arms.iter().any(|arm| matches!(arm, Arm::Fused { exchange: found, .. } if *found == exchange));
        assert!(Exchange::ALL.into_iter().all(exchanges));
        for row in &measured.rows {
            assert_eq!(row.scores.len(), 2);
            assert!(row.scores.iter().all(|s| (0.0..=1.0).contains(&s.adherence) && (0.0..=1.0).contains(&s.joint())));
        }
        let joint = |arm: Arm| {
            let row = measured.rows.iter().find(|row| row.arm == arm).unwrap();
            row.mean(|score| score.joint())
        };
        let chosen = measured.chosen.unwrap();
        let fused = arms.iter().filter(|arm| matches!(arm, Arm::Fused { .. }));
        assert!(fused.into_iter().all(|arm| joint(*arm) <= joint(chosen)));
        assert!(measured.confirmed.len() >= 3);
        // The text and the picture each say something of their own, and no pair is asked twice.
        let pairs: Vec<_> = measured.pairs.iter().chain(&measured.confirmed_pairs).collect();
        assert_eq!(pairs.iter().map(|pair| &pair.subject).collect::<BTreeSet<_>>().len(), 3);
        for pair in pairs {
            let (given, target) = (&dataset.items[pair.given], &dataset.items[pair.target]);
            assert_eq!(given.concept, target.concept);
            assert!(given.style != target.style || given.scene != target.scene);
        }
    }
    assert_eq!(results.costs.len(), 7);
    assert!(results.costs.iter().all(|cost| cost.seconds.len() == 1 && cost.seconds[0] > 0.0));
    if cfg!(target_os = "linux") {
        assert!(results.costs.iter().all(|cost| cost.peak_bytes > 1 << 20), "{:?}", results.costs);
    }
    let of = |what: &str| results.large.iter().find(|large| large.what.starts_with(what)).unwrap();
    let correlation = |what: &str| of(what).autocorrelation.unwrap()[0];
    assert!(correlation("draft, bridge").abs() < 0.1 && correlation("draft, noisy latent") > 0.3);
    assert!(of("directly").autocorrelation.is_none());

    // Nothing is drawn again, and what a person wrote stays.
    let again = run(&dataset, &encoder, depot.clone(), &Options { budget: Duration::ZERO, ..options.clone() }).unwrap();
    assert!(again.measured == results.measured && again.large == results.large);
    let timed = |results: &Results| results.costs.iter().map(|c| c.seconds[0] as f32).collect::<Vec<_>>();
    assert_eq!(timed(&again), timed(&results), "what was timed stays");
    let document = root.join("coop.md");
    fs::write(&document, "# Title\n<!-- outline: measured -->\nold\n<!-- outline: end -->\nA judgement.\n").unwrap();
    for _ in 0..2 {
        report::write(&out, &document).unwrap();
    }
    let text = fs::read_to_string(&document).unwrap();
    assert!(text.starts_with("# Title\n") && text.contains("\nA judgement.\n") && !text.contains("\nold\n"));
    for sheet in ["outline", "outline-home", "variation", "outline-strengths", "both", "drafts", "resolutions"] {
        assert_eq!(text.matches(&format!("](coop/{sheet}.png)")).count(), 1, "{sheet}");
        assert!(root.join(format!("coop/{sheet}.png")).exists());
    }
    assert!(root.join("coop/outline.svg").exists());
    let loaded = Results::load(&out).unwrap();
    assert!(loaded.measured.iter().zip(&results.measured).all(|(a, b)| a.chosen == b.chosen && a.pairs == b.pairs));
}
