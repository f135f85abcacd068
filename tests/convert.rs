//! `pangu-draw convert` and `inspect`, on tiny pipelines that diffusers saved.
#![cfg(feature = "cli")]

mod common;

use burn::tensor::{Device, Distribution, Tensor};
use clap::Parser;
use common::{assert_close, devices};
use pangu_draw::{
    Error, Result,
    cli::{convert::ConvertArgs, inspect::Report},
    diffusion::schedule::Prediction,
    nets::{
        Pace, autoencoder_kl::AutoencoderKlConfig, controlnet::ControlNetConfig, text::clip::ClipTextConfig,
        unet::UNetConfig,
    },
    pipeline::config::{ControlKind, ExpertsConfig, PipelineConfig, TextConfig, VectorConfig},
    weights::{
        Arrival, Depot, TensorSource,
        gguf::GgufFile,
        load,
        manifest::{Component, Manifest},
        quant::GgmlType,
        safetensors::SafeTensors,
        source::FolderSource,
    },
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: ConvertArgs,
}

/// A folder of its own that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("pangu-draw-convert-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(unique);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A copy of a golden pipeline, to be changed.
    fn pipeline(&self, name: &str) -> PathBuf {
        let copy = self.join(name);
        copy_folder(&golden(name), &copy);
        copy
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() { copy_folder(&entry, &target) } else { fs::copy(entry, target).map(drop).unwrap() }
    }
}

fn convert(source: &Path, output: &Path, options: &[&str]) -> Result<()> {
    let paths = [source.to_str().unwrap(), "-o", output.to_str().unwrap()];
    Command::parse_from(["convert"].iter().chain(&paths).chain(options)).args.run()
}

fn open(model: &Path) -> (Manifest, BTreeMap<String, GgufFile>) {
    let depot = Depot::new(Rc::new(FolderSource(model.into())), None);
    let manifest = pollster::block_on(depot.manifest()).unwrap();
    let file = |component: &Component| {
        pollster::block_on(pollster::block_on(Arrival::new(&depot, &manifest, component)).unwrap().drain()).unwrap();
        GgufFile::new(&component.file, fs::read(model.join(&component.file)).unwrap()).unwrap()
    };
    let files = manifest.components.iter().map(|component| (component.role.clone(), file(component))).collect();
    (manifest, files)
}

/// Loads every component into its network, which is strict about names and shapes.
fn load_networks(files: &BTreeMap<String, GgufFile>) {
    let device = Device::flex();
    for (role, file) in files {
        match role.as_str() {
            "unet" => {
                load(file.config::<UNetConfig>().unwrap().init(&device).unwrap(), file, "").map(drop).unwrap();
            }
            "decoder" => {
                let config: AutoencoderKlConfig = file.config().unwrap();
                load(config.init_decoder(&device).unwrap(), file, "").map(drop).unwrap();
            }
            "encoder" => {
                let config: AutoencoderKlConfig = file.config().unwrap();
                load(config.init_encoder(&device).unwrap(), file, "").map(drop).unwrap();
            }
            _ => {
                let config: ClipTextConfig = file.config().unwrap();
                load(config.init(&device).unwrap(), file, "").map(drop).unwrap();
            }
        }
    }
}

#[test]
fn whole_pipelines_convert_to_every_type() {
    for (name, roles) in [
        ("pipeline_sd", &["text", "unet", "decoder", "encoder"][..]),
        ("pipeline_sdxl", &["text", "text_2", "unet", "decoder", "encoder"]),
    ] {
        for dtype in GgmlType::ALL {
            let scratch = Scratch::new();
            let model = scratch.join("model");
            let options =
                ["--quantize", dtype.name(), "--name", "tiny", "--licence", "MIT", "--attribution", "Someone"];
            convert(&golden(name), &model, &options).unwrap();
            let (manifest, files) = open(&model);
            assert_eq!(manifest.components.iter().map(|c| c.role.as_str()).collect::<Vec<_>>(), roles);
            assert_eq!((manifest.name.as_str(), manifest.licence.as_str()), ("tiny", "MIT"));
            assert_eq!(manifest.attribution, ["Someone"]);
            load_networks(&files);

            let report = pollster::block_on(Report::read(model.to_str().unwrap())).unwrap();
            println!("{report}");
            assert_eq!(report.components.len(), roles.len());
            let lengths = fs::read_dir(&model).unwrap().map(|entry| entry.unwrap());
            let ggufs = lengths.filter(|entry| entry.path().extension().is_some_and(|e| e == "gguf"));
            assert_eq!(report.bytes, ggufs.map(|entry| entry.metadata().unwrap().len()).sum::<u64>());
            // Rows of the tiny autoencoder's convolutions do not fill blocks; they fall back to F16.
            let all_rows_fit = |role: &str| !dtype.is_quantized() || role.starts_with("text") || role == "unet";
            let mut stored = report.components.iter().filter(|c| all_rows_fit(&c.role));
            assert!(stored.all(|c| c.types.contains_key(dtype.name())), "{report}");
        }
    }
}

/// On a GPU the `Q8_0` matrices stay quantized, here inside whole networks.
#[test]
fn quantized_networks_compute_the_same_on_every_device() {
    let cpu = Device::flex();
    for name in ["pipeline_sd", "pipeline_sdxl"] {
        let scratch = Scratch::new();
        let model = scratch.join("model");
        convert(&golden(name), &model, &["--quantize", "q8_0"]).unwrap();
        let (_, files) = open(&model);
        let config: UNetConfig = files["unet"].config().unwrap();
        let text: ClipTextConfig = files["text"].config().unwrap();
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &cpu);
        // Odd numbers of tokens and an odd latent, so that no tile is full.
        let latent = random([2, 4, 7 * 9]).into_data();
        let context = random([2, 77, config.cross_attention_dim]).into_data();
        let vector = config.vector_dim().map(|dim| random([1, 2, dim]).into_data());
        let run = |device: &Device| {
            let unet = load(config.init(device).unwrap(), &files["unet"], "").unwrap();
            let context = Tensor::from_data(context.clone(), device);
            let vector = vector.clone().map(|data| Tensor::<3>::from_data(data, device).squeeze_dim(0));
            let x = Tensor::<3>::from_data(latent.clone(), device).reshape([2, 4, 7, 9]);
            let unet = unet.forward_now(x, Tensor::from_data([500.0f32, 20.0], device), context, vector).unwrap();
            let clip = load(text.init(device).unwrap(), &files["text"], "").unwrap();
            let clip = pollster::block_on(clip.forward(&[(0..77).collect()], &Pace::free())).unwrap();
            (unet, clip.last_hidden_state)
        };
        let (unet, clip) = run(&cpu);
        let (unet, clip) = (floats(unet), floats(clip));
        for (kind, device) in devices() {
            let (found_unet, found_clip) = run(&device);
            assert_close(&format!("UNet in Q8_0, {name}, {kind}"), found_unet, &unet, 1e-4);
            assert_close(&format!("ClipText in Q8_0, {name}, {kind}"), found_clip, &clip, 1e-4);
        }
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().unwrap()
}

#[test]
fn float_types_keep_every_value() {
    for dtype in ["f32", "f16"] {
        let scratch = Scratch::new();
        let model = scratch.join("model");
        let source = golden("pipeline_sdxl");
        convert(&source, &model, &["--quantize", dtype]).unwrap();
        let (_, files) = open(&model);
        let report = pollster::block_on(Report::read(model.to_str().unwrap())).unwrap();
        let mut parameters = 0;
        for (folder, weights, roles) in [
            ("text_encoder", "model", &["text"][..]),
            ("text_encoder_2", "model", &["text_2"]),
            ("unet", "diffusion_pytorch_model", &["unet"]),
            ("vae", "diffusion_pytorch_model", &["decoder", "encoder"]),
        ] {
            let bytes = fs::read(source.join(folder).join(format!("{weights}.safetensors"))).unwrap();
            let original = SafeTensors::new(folder, bytes).unwrap();
            for name in original.names() {
                let expected = original.tensor(&name).unwrap().unwrap();
                let names = [name.clone(), format!("text_model.{name}")];
                let found = roles.iter().flat_map(|role| names.iter().map(move |name| (role, name)));
                let found = found.filter_map(|(role, name)| files[*role].tensor(name).unwrap()).collect::<Vec<_>>();
                assert_eq!(found.len(), 1, "{folder} {name}");
                assert_eq!(found[0].shape, expected.shape);
                let count: usize = expected.shape.iter().product();
                let values = |stored: &pangu_draw::weights::StoredTensor<'_>| {
                    stored.dtype.dequantize(&stored.bytes, count).unwrap()
                };
                assert_eq!(values(&found[0]), values(&expected), "{folder} {name}");
                parameters += count as u64;
            }
        }
        assert_eq!(report.parameters, parameters);
    }
}

#[test]
fn the_pipeline_section_says_how_to_draw() {
    let scratch = Scratch::new();
    for (name, xl) in [("pipeline_sd", false), ("pipeline_sdxl", true)] {
        let model = scratch.join(&format!("{name}-model"));
        convert(&golden(name), &model, &[]).unwrap();
        let (manifest, files) = open(&model);
        let config = PipelineConfig::from_json(&manifest.pipeline).unwrap();
        let ExpertsConfig::Single { unet } = &config.experts else { panic!("{:?}", config.experts) };
        assert_eq!((unet.component.as_str(), unet.prediction), ("unet", Prediction::Epsilon));
        assert_eq!(config.latent.scale, [if xl { 0.13025 } else { 0.18215 }]);
        assert_eq!((config.latent.factor, config.image.width, config.image.multiple), (2, 16, 2));
        assert_eq!(config.schedule.steps_offset, 1);
        assert_eq!((config.defaults.sampler.as_str(), config.defaults.spacing.as_str()), ("euler", "leading"));
        assert_eq!(config.zero_empty_negative, xl);
        assert_eq!(config.vector, if xl { VectorConfig::TextTime { dim: 8 } } else { VectorConfig::None });
        let pads: Vec<u32> = config
            .text
            .iter()
            .map(|text| match text {
                TextConfig::Clip { pad, .. } => *pad,
                other => panic!("{other:?}"),
            })
            .collect();
        // "<|endoftext|>" is the last of 521 tokens, "!" the first.
        assert_eq!(pads, if xl { vec![520, 0] } else { vec![520] });
        let keys = if xl { vec!["pangu.vocab.json", "pangu.merges.txt"] } else { vec!["pangu.tokenizer.json"] };
        keys.iter().for_each(|key| assert!(!files["text"].text(key).unwrap().is_empty()));
    }
}

/// Rewrites a safetensors file as `(name, dtype, shape, data)` are mapped.
fn tensors_of(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let owned =
        |(name, view): (String, TensorView<'_>)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
    parsed.tensors().into_iter().map(owned).collect()
}

fn write_tensors(path: &Path, tensors: &BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn shards_and_old_names_give_the_same_files() {
    let scratch = Scratch::new();
    let source = scratch.pipeline("pipeline_sdxl");

    // The UNet in two shards.
    let single = source.join("unet/diffusion_pytorch_model.safetensors");
    let mut first = tensors_of(&single);
    fs::remove_file(single).unwrap();
    let middle = first.keys().nth(first.len() / 2).unwrap().clone();
    let second = first.split_off(&middle);
    let mut map = serde_json::Map::new();
    for (i, shard) in [&first, &second].into_iter().enumerate() {
        let file = format!("diffusion_pytorch_model-{:05}-of-00002.safetensors", i + 1);
        write_tensors(&source.join("unet").join(&file), shard);
        map.extend(shard.keys().map(|name| (name.clone(), file.clone().into())));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    fs::write(source.join("unet/diffusion_pytorch_model.safetensors.index.json"), index).unwrap();

    // The autoencoder's attention with its old names, as 1x1 convolutions.
    let path = source.join("vae/diffusion_pytorch_model.safetensors");
    let old = tensors_of(&path).into_iter().map(|(name, (dtype, mut shape, data))| {
        let renamed = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
        let new = renamed.iter().fold(name, |name, (new, old)| name.replace(&format!(".{new}."), &format!(".{old}.")));
        if new.contains(".attentions.") && shape.len() == 2 {
            shape.extend([1, 1]);
        }
        (new, (dtype, shape, data))
    });
    let old: BTreeMap<_, _> = old.collect();
    assert!(old.contains_key("decoder.mid_block.attentions.0.proj_attn.bias"));
    write_tensors(&path, &old);

    // A text encoder with position ids, and under another variant's name.
    let path = source.join("text_encoder_2/model.safetensors");
    let mut text = tensors_of(&path);
    text.insert("text_model.embeddings.position_ids".into(), (Dtype::I64, vec![1, 77], vec![0; 77 * 8]));
    fs::remove_file(path).unwrap();
    write_tensors(&source.join("text_encoder_2/model.fp16.safetensors"), &text);

    let (plain, changed) = (scratch.join("plain"), scratch.join("changed"));
    convert(&golden("pipeline_sdxl"), &plain, &["--quantize", "q8_0", "--name", "x"]).unwrap();
    convert(&source, &changed, &["--quantize", "q8_0", "--name", "x"]).unwrap();
    for file in fs::read_dir(&plain).unwrap().map(|entry| entry.unwrap().file_name()) {
        assert!(fs::read(plain.join(&file)).unwrap() == fs::read(changed.join(&file)).unwrap(), "{file:?}");
    }
}

#[test]
fn only_a_model_folder_is_ever_replaced_and_only_by_a_whole_one() {
    let scratch = Scratch::new();
    let (source, model) = (golden("pipeline_sd"), scratch.join("models/model"));
    let entries = || fs::read_dir(scratch.join("models")).unwrap().count();
    convert(&source, &model, &[]).unwrap();
    let manifest = fs::read(model.join("model.json")).unwrap();
    assert_eq!(convert(&source, &model, &[]).unwrap_err().code(), "write");
    let broken = scratch.pipeline("pipeline_sd");
    fs::remove_file(broken.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(convert(&broken, &model, &["--force"]).unwrap_err().code(), "read");
    assert_eq!(fs::read(model.join("model.json")).unwrap(), manifest);
    convert(&source, &model, &["--force", "--quantize", "q8_0"]).unwrap();
    assert_ne!(fs::read(model.join("model.json")).unwrap(), manifest);
    load_networks(&open(&model).1);
    assert_eq!(entries(), 1, "nothing is left beside the model");

    let precious = scratch.join("models/precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "kept").unwrap();
    assert_eq!(convert(&source, &precious, &["--force"]).unwrap_err().code(), "write");
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
    assert_eq!(entries(), 2);
}

#[test]
fn unknown_and_damaged_pipelines_are_refused_by_name() {
    let refusal = |change: &dyn Fn(&Path)| {
        let scratch = Scratch::new();
        let source = scratch.pipeline("pipeline_sd");
        change(&source);
        let error = convert(&source, &scratch.join("model"), &[]).unwrap_err();
        assert!(!scratch.join("model").exists());
        assert!(!error.to_string().contains('\n'), "one line: {error}");
        (error.code(), error.to_string())
    };
    let edit = |source: &Path, file: &str, pointer: &str, value: Value| {
        let path = source.join(file);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        *json.pointer_mut(pointer).unwrap() = value;
        fs::write(path, json.to_string()).unwrap();
    };
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let index = "unet/diffusion_pytorch_model.safetensors.index.json";
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(Change<'_>, &str, &str); 12] = [
        (&|s| fs::remove_file(s.join("model_index.json")).unwrap(), "read", "model_index.json"),
        (&|s| fs::write(s.join("model_index.json"), "{").unwrap(), "corrupt", "model_index.json"),
        (&|s| edit(s, "model_index.json", "/_class_name", json!("FluxPipeline")), "unsupported", "FluxPipeline"),
        (&|s| edit(s, "model_index.json", "/unet/1", json!("DiT")), "unsupported", "DiT"),
        (&|s| edit(s, "unet/config.json", "/act_fn", json!("relu")), "unsupported", "act_fn"),
        (&|s| edit(s, "scheduler/scheduler_config.json", "/beta_schedule", json!("odd")), "unsupported", "odd"),
        (&|s| edit(s, "tokenizer/tokenizer_config.json", "/pad_token", json!("<pad>")), "corrupt", "<pad>"),
        (&|s| fs::remove_dir_all(s.join("tokenizer")).unwrap(), "read", "tokenizer"),
        (&|s| fs::write(s.join(weights), [0xff; 64]).unwrap(), "corrupt", "longer than the file"),
        (&|s| fs::write(s.join(weights), []).unwrap(), "read", weights),
        (
            &|s| {
                let bytes = fs::read(s.join(weights)).unwrap();
                fs::write(s.join(weights), &bytes[..bytes.len() - 1]).unwrap();
            },
            "corrupt",
            "length does not fit",
        ),
        (
            &|s| {
                fs::remove_file(s.join(weights)).unwrap();
                let map = json!({"weight_map": {"a": "../../secret.safetensors"}});
                fs::write(s.join(index), map.to_string()).unwrap();
            },
            "corrupt",
            "not a file name",
        ),
    ];
    for (change, code, word) in cases {
        let (found, message) = refusal(change);
        assert!(found == code && message.contains(word), "{code} {word}: {found} {message}");
    }
}

#[test]
fn inspect_finds_damage() {
    let scratch = Scratch::new();
    let model = scratch.join("model");
    convert(&golden("pipeline_sd"), &model, &["--quantize", "q8_0"]).unwrap();
    let path = model.join("unet.gguf");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
    let error = pollster::block_on(Report::read(model.to_str().unwrap())).unwrap_err();
    assert!(matches!(error, Error::Checksum { file, chunk: 0 } if file == "unet.gguf"));
}

#[test]
fn a_controlnet_and_companions_come_beside_the_pipeline() {
    let scratch = Scratch::new();
    let (source, output) = (golden("pipeline_sd"), scratch.join("model"));
    let net = golden("pipeline_sd_controlnet").display().to_string();
    let companions = ["--companion", "variation=varied:0.25:0.75", "--companion", "outline=sketched"];
    convert(&source, &output, &[&["--controlnet", &net, "--quantize", "f32"], &companions[..]].concat()).unwrap();
    let (manifest, files) = open(&output);
    let config = PipelineConfig::from_json(&manifest.pipeline).unwrap();
    assert_eq!(config.control.as_ref().unwrap().component, "controlnet");
    let of = |kind| config.companions[&kind].clone();
    let (outline, variation) = (of(ControlKind::Outline), of(ControlKind::Variation));
    assert_eq!((variation.folder.as_str(), variation.strength, variation.until), ("varied", 0.25, 0.75));
    assert_eq!((outline.folder.as_str(), outline.strength, outline.until), ("sketched", 0.5, 0.5));
    assert_eq!(manifest.component("controlnet").unwrap().network, "ControlNetModel");
    let net: ControlNetConfig = files["controlnet"].config().unwrap();
    let loaded = load(net.init(&Device::flex()).unwrap(), &files["controlnet"], "").unwrap();
    assert_eq!(loaded.config().conditioning_channels, 3);
}

#[test]
fn a_controlnet_that_does_not_fit_is_refused() {
    let scratch = Scratch::new();
    let source = golden("pipeline_sd");
    let refused = |net: &Path, word: &str| {
        let output = scratch.join("model");
        let error = convert(&source, &output, &["--controlnet", net.to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert!(!output.exists());
    };
    refused(&scratch.join("nowhere"), "nowhere");
    refused(&golden("pipeline_sd").join("unet"), "ControlNetModel");
    for (key, value, word) in [
        ("cross_attention_dim", json!(48), "context 48"),
        ("block_out_channels", json!([16, 64]), "64"),
        ("conditioning_channels", json!(2), "2 channels"),
        ("conditioning_embedding_out_channels", json!([4, 6, 8]), "4 pixels a cell"),
        ("global_pool_conditions", json!(true), "global_pool_conditions"),
    ] {
        let copy = scratch.pipeline("pipeline_sd_controlnet");
        let path = copy.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        refused(&copy, word);
        fs::remove_dir_all(&copy).unwrap();
    }
    for companion in ["outline", "pose=x", "outline=", "outline=x:2", "outline=x:0.5:-1"] {
        let arguments = ["convert", "source", "-o", "model", "--companion", companion];
        assert!(Command::try_parse_from(arguments).is_err(), "{companion}");
    }
    // A name that would leave the folder.
    assert!(convert(&source, &scratch.join("model"), &["--companion", "outline=../x"]).is_err());
}
