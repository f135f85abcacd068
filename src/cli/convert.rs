//! `pangu-draw convert`: a pipeline folder as diffusers saves it becomes a model folder.

use super::picture::trailing_numbers;
use crate::{
    Error, Result,
    coop::latent::Falloff,
    diffusion::{samplers::Sampler, schedule::ScheduleConfig},
    nets::{
        autoencoder_kl::AutoencoderKlConfig, controlnet::ControlNetConfig, text::clip::ClipTextConfig, unet::UNetConfig,
    },
    pipeline::{
        config::{
            ClipLayer, Companion, ControlConfig, ControlKind, DEFAULT_T_LOW, Defaults, Expert, ExpertsConfig,
            ImageConfig, LatentConfig, PipelineConfig, PixelRange, TextConfig, VectorConfig,
        },
        projection,
        text::{MERGES_TXT, TOKENIZER_JSON, VOCAB_JSON},
    },
    weights::{
        gguf::{self, GgufWriter, Metadata, TensorPlan, Value},
        manifest::{self, Component, Manifest, Title},
        quant::GgmlType,
    },
};
use burn::tensor::Device;
use clap::Args;
use indicatif::ProgressBar;
use safetensors::Dtype;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::{self, File},
    io::{BufWriter, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    rc::Rc,
};

/// A tokenizer's files, today's layout and then the older one, and their metadata keys.
const TOKENIZER_FILES: [(&str, &str); 3] =
    [("tokenizer.json", TOKENIZER_JSON), ("vocab.json", VOCAB_JSON), ("merges.txt", MERGES_TXT)];

/// Arguments of `pangu-draw convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Folder of a StableDiffusionPipeline or StableDiffusionXLPipeline, as diffusers saves it.
    source: PathBuf,
    /// Model folder to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Folder of a ControlNetModel that follows outlines, as diffusers saves it.
    #[arg(long)]
    controlnet: Option<PathBuf>,
    /// A model folder beside the one written that draws along, KIND=FOLDER[:STRENGTH[:UNTIL]]: for the control `outline` or
    /// `variation`, with a weight (0.5) and a share of the schedule (0.5). May be repeated.
    #[arg(long, value_name = "KIND=FOLDER[:STRENGTH[:UNTIL]]", value_parser = parse_companion)]
    companion: Vec<(ControlKind, Companion)>,
    /// How weights are stored: f32, f16, q8_0 or q4_0.
    #[arg(long, default_value = "f16")]
    quantize: GgmlType,
    /// The model's name [default: the source folder's].
    #[arg(long)]
    name: Option<String>,
    /// The model's licence, an SPDX expression.
    #[arg(long, default_value = "NOASSERTION")]
    licence: String,
    /// Whom to name, and for what; may be repeated.
    #[arg(long)]
    attribution: Vec<String>,
    /// Replace the model folder if it exists.
    #[arg(long)]
    force: bool,
}

/// Weight and end of a companion that nothing was measured for.
const COMPANION: [f64; 2] = [0.5, 0.5];

fn parse_companion(text: &str) -> Result<(ControlKind, Companion)> {
    let why = || format!("`{text}` is not KIND=FOLDER[:STRENGTH[:UNTIL]]");
    let invalid = || Error::Invalid { parameter: "companion", why: why() };
    let (kind, rest) = text.split_once('=').ok_or_else(invalid)?;
    let (folder, [strength, until]) = trailing_numbers(rest);
    let [strength, until] = [strength.unwrap_or(COMPANION[0]), until.unwrap_or(COMPANION[1])];
    if folder.is_empty() || ![strength, until].iter().all(|share| (0.0..=1.0).contains(share)) {
        return Err(Error::Invalid { parameter: "companion", why: why() + ", with numbers from 0 to 1" });
    }
    let folder = folder.into();
    Ok((kind.parse()?, Companion { folder, strength, until, falloff: Falloff::Constant, guidance_scale: None }))
}

impl ConvertArgs {
    /// Converts. The model folder appears when it is complete, or not at all.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Corrupt`] or [`Error::Unsupported`] for a source that is not such a pipeline;
    /// [`Error::Write`].
    pub fn run(self) -> Result<()> {
        let output = Output::new(&self.output, self.force)?;
        let mut pipeline = Pipeline::read(&self.source)?;
        if let Some(folder) = &self.controlnet {
            pipeline.add_controlnet(&self.source, folder)?;
        }
        pipeline.config.companions = self.companion.iter().cloned().collect();
        let json = pipeline.json()?;
        let name = self.name.clone().unwrap_or_else(|| plain_name(&self.source));
        let components = self.write_components(&pipeline, &name, &output.partial)?;
        let manifest = Manifest {
            format: manifest::FORMAT,
            title: Title { en: name.clone(), zh: name.clone() },
            name,
            licence: self.licence,
            attribution: self.attribution,
            chunk_bytes: manifest::CHUNK_BYTES,
            components,
            vocabulary: None,
            pipeline: json,
        };
        let path = output.partial.join(manifest::FILE);
        fs::write(&path, manifest.to_json()?).map_err(|error| write_error(&path, error))?;
        projection::add(&output.partial, &[])?;
        output.publish()
    }

    fn write_components(&self, pipeline: &Pipeline, name: &str, folder: &Path) -> Result<Vec<Component>> {
        let bar = ProgressBar::new(pipeline.parts.iter().map(|part| part.tensors.len() as u64).sum());
        let mut components = Vec::new();
        for part in &pipeline.parts {
            let mut metadata = part.metadata.clone();
            metadata.insert("general.architecture".into(), part.network.as_str().into());
            metadata.insert("general.name".into(), format!("{name} {}", part.role).into());
            let file = format!("{}.gguf", part.role);
            part.write(&folder.join(&file), self.quantize, &metadata, &bar)?;
            components.push(Component::of_file(folder, part.role, &part.network, file, manifest::CHUNK_BYTES)?);
        }
        bar.finish_and_clear();
        Ok(components)
    }
}

/// A pipeline folder that was understood.
struct Pipeline {
    config: PipelineConfig,
    /// In the order in which drawing needs them.
    parts: Vec<Part>,
}

/// What becomes one file.
struct Part {
    role: &'static str,
    network: String,
    metadata: Metadata,
    checkpoint: Rc<Checkpoint>,
    tensors: Vec<PartTensor>,
}

/// One tensor on its way: where it comes from, and what it will be called.
struct PartTensor {
    from: String,
    name: String,
    shape: Vec<usize>,
}

impl Pipeline {
    fn read(source: &Path) -> Result<Self> {
        let index: Json = read_json(&source.join("model_index.json"))?;
        let xl = match index["_class_name"].as_str() {
            Some("StableDiffusionPipeline") => false,
            Some("StableDiffusionXLPipeline") => true,
            other => {
                let class = other.unwrap_or("nothing");
                let known = "StableDiffusionPipeline and StableDiffusionXLPipeline are known";
                return Err(Error::Unsupported(format!("model_index.json names {class} as its class; {known}")));
            }
        };
        let (sampler, schedule, spacing) = read_schedule(source)?;
        let mut parts = Vec::new();
        let mut text = Vec::new();
        let towers = [("text_encoder", "tokenizer", "text"), ("text_encoder_2", "tokenizer_2", "text_2")];
        for (encoder, tokenizer, role) in towers.into_iter().take(if xl { 2 } else { 1 }) {
            let pooled = encoder == "text_encoder_2";
            let class = if pooled { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
            expect_class(&index, encoder, class)?;
            expect_class(&index, tokenizer, "CLIPTokenizer")?;
            let layer = if xl { ClipLayer::Penultimate } else { ClipLayer::Last };
            let (pad, files) = read_tokenizer(&source.join(tokenizer))?;
            text.push(TextConfig::Clip { component: role.into(), layer, pooled, pad });
            parts.push(Part::clip(&source.join(encoder), role, class, files)?);
        }

        expect_class(&index, "unet", "UNet2DConditionModel")?;
        let folder = source.join("unet");
        let unet: UNetConfig = read_json(&folder.join("config.json"))?;
        unet.init(&Device::flex())?;
        parts.push(Part::new(&folder, "unet", "UNet2DConditionModel", Rc::new(Checkpoint::open(&folder)?), |name| {
            Some(name.into())
        })?);
        let vector = match (xl, unet.addition_time_embed_dim) {
            (false, _) => VectorConfig::None,
            (true, Some(dim)) => VectorConfig::TextTime { dim },
            (true, None) => return Err(Error::Unsupported("unet/config.json: no addition_time_embed_dim".into())),
        };

        expect_class(&index, "vae", "AutoencoderKL")?;
        let folder = source.join("vae");
        let vae: AutoencoderKlConfig = read_json(&folder.join("config.json"))?;
        vae.init_decoder(&Device::flex())?;
        vae.init_encoder(&Device::flex())?;
        let checkpoint = Rc::new(Checkpoint::open(&folder)?);
        for (role, prefixes) in
            [("decoder", ["decoder.", "post_quant_conv."]), ("encoder", ["encoder.", "quant_conv."])]
        {
            parts.push(Part::new(&folder, role, "AutoencoderKL", checkpoint.clone(), |name| {
                prefixes.iter().any(|prefix| name.starts_with(prefix)).then(|| vae_name(name))
            })?);
        }

        let factor = vae.downscale();
        let side = unet.sample_size.unwrap_or(64).saturating_mul(factor);
        let config = PipelineConfig {
            text,
            vector,
            zero_empty_negative: xl && index["force_zeros_for_empty_prompt"].as_bool().unwrap_or(true),
            experts: ExpertsConfig::Single {
                unet: Expert { component: "unet".into(), prediction: schedule.prediction_type },
            },
            schedule,
            latent: read_latent(&read_json(&folder.join("config.json"))?, &vae),
            image: ImageConfig { width: side, height: side, multiple: factor, max: side.saturating_mul(2).min(4096) },
            styles: Vec::new(),
            control: None,
            picture: None,
            companions: BTreeMap::new(),
            // What the two pipelines default to.
            defaults: Defaults {
                steps: 50,
                guidance_scale: if xl { 5.0 } else { 7.5 },
                style_scale: 0.0,
                sampler: sampler.name().into(),
                spacing,
                style: None,
                t_low: DEFAULT_T_LOW,
            },
        };
        Ok(Self { config, parts })
    }

    /// The `pipeline` section, checked.
    fn json(&self) -> Result<Json> {
        let json = serde_json::to_value(&self.config).expect("a configuration is plain data");
        PipelineConfig::from_json(&json).map(|_| json)
    }

    /// Puts the ControlNet in `folder` beside the UNet, which must fit it.
    fn add_controlnet(&mut self, source: &Path, folder: &Path) -> Result<()> {
        let class = "ControlNetModel";
        let path = folder.join("config.json");
        let json: Json = read_json(&path)?;
        match json["_class_name"].as_str() {
            Some(found) if found == class => {}
            found => {
                let found = found.unwrap_or("nothing");
                return Err(Error::Unsupported(format!(
                    "{} names {found} as its class; {class} is known",
                    path.display()
                )));
            }
        }
        let net: ControlNetConfig = parse_json(&path, json)?;
        net.init(&Device::flex())?;
        let unet: UNetConfig = read_json(&source.join("unet/config.json"))?;
        let shape = |net: &UNetConfig| {
            let UNetConfig { in_channels, cross_attention_dim, block_out_channels, layers_per_block, .. } = net;
            format!(
                "{in_channels} channels, context {cross_attention_dim}, {block_out_channels:?} x {layers_per_block:?}"
            )
        };
        if shape(&net.unet) != shape(&unet) {
            return Err(Error::Unsupported(format!(
                "a ControlNet of {} beside a UNet of {}",
                shape(&net.unet),
                shape(&unet)
            )));
        }
        let (downscale, channels) = (net.downscale(), net.conditioning_channels);
        if downscale != self.config.latent.factor || ![1, 3].contains(&channels) {
            return Err(Error::Unsupported(format!(
                "a ControlNet of pictures of {channels} channels, {downscale} pixels a cell, on latents of {}",
                self.config.latent.factor
            )));
        }
        // Drawing needs it as soon as the UNet.
        let at = self.parts.iter().position(|part| part.role == "decoder").unwrap_or(self.parts.len());
        let checkpoint = Rc::new(Checkpoint::open(folder)?);
        self.parts.insert(at, Part::new(folder, "controlnet", class, checkpoint, |name| Some(name.into()))?);
        self.config.control = Some(ControlConfig { component: "controlnet".into(), guidance_scale: 1.0 });
        Ok(())
    }
}

impl Part {
    /// The tensors of `checkpoint` that `rename` keeps, with the configuration in `folder`.
    fn new(
        folder: &Path,
        role: &'static str,
        network: &str,
        checkpoint: Rc<Checkpoint>,
        rename: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let config: Json = read_json(&folder.join("config.json"))?;
        let tensors = checkpoint.tensors.iter().filter_map(|(from, stored)| {
            let name = rename(from)?;
            // Attention layers of old autoencoders were 1x1 convolutions.
            let shape = match stored.shape[..] {
                [out, input, 1, 1] if name.contains(".attentions.") && name.contains(".to_") => vec![out, input],
                _ => stored.shape.clone(),
            };
            Some(PartTensor { from: from.clone(), name, shape })
        });
        Ok(Self {
            role,
            network: network.into(),
            metadata: Metadata::from([(gguf::CONFIG.into(), config.to_string().into())]),
            tensors: tensors.collect(),
            checkpoint,
        })
    }

    /// A CLIP text tower with its tokenizer's files.
    fn clip(folder: &Path, role: &'static str, network: &str, files: Metadata) -> Result<Self> {
        let config: ClipTextConfig = read_json(&folder.join("config.json"))?;
        config.init(&Device::flex())?;
        let checkpoint = Rc::new(Checkpoint::open(folder)?);
        let mut part = Self::new(folder, role, network, checkpoint, |name| match name {
            _ if name.ends_with("position_ids") => None,
            "text_projection.weight" => Some(name.into()),
            // transformers 5 leaves this prefix out for the tower without a projection.
            _ if name.starts_with("text_model.") => Some(name.into()),
            _ => Some(format!("text_model.{name}")),
        })?;
        part.metadata.extend(files);
        Ok(part)
    }

    fn write(&self, path: &Path, quantize: GgmlType, metadata: &Metadata, bar: &ProgressBar) -> Result<()> {
        let plan = |tensor: &PartTensor| TensorPlan::for_network(&tensor.name, tensor.shape.clone(), quantize);
        let plans: Vec<TensorPlan> = self.tensors.iter().map(plan).collect();
        let file = File::create_new(path).map_err(|error| write_error(path, error))?;
        let mut writer = GgufWriter::new(BufWriter::new(file), metadata, &plans)?;
        for (tensor, plan) in self.tensors.iter().zip(&plans) {
            let values = self.checkpoint.values(&tensor.from)?;
            let bytes = plan.dtype.quantize(&values).map_err(|error| Error::Corrupt {
                what: format!("{}: tensor `{}`", self.checkpoint.component, tensor.from),
                why: error.to_string(),
            })?;
            writer.tensor(&bytes)?;
            bar.inc(1);
        }
        writer.finish().map(drop)
    }
}

/// The safetensors files of one component, read one tensor at a time.
struct Checkpoint {
    component: String,
    tensors: BTreeMap<String, CheckpointTensor>,
}

/// Where a tensor lies.
struct CheckpointTensor {
    file: Rc<File>,
    start: u64,
    bytes: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Checkpoint {
    /// Opens `folder`'s single file, or the shards that its index lists.
    fn open(folder: &Path) -> Result<Self> {
        let component = folder.display().to_string();
        for base in ["diffusion_pytorch_model", "model"] {
            for variant in ["", ".fp16"] {
                let single = folder.join(format!("{base}{variant}.safetensors"));
                if single.is_file() {
                    return Ok(Self { component, tensors: read_header(&single)? });
                }
                let index = folder.join(format!("{base}.safetensors.index{variant}.json"));
                if index.is_file() {
                    return Ok(Self { tensors: Self::shards(folder, &index, &component)?, component });
                }
            }
        }
        Err(Error::Read { what: component, why: "it holds no weights as .safetensors".into() })
    }

    fn shards(folder: &Path, index: &Path, component: &str) -> Result<BTreeMap<String, CheckpointTensor>> {
        let json: Json = read_json(index)?;
        let map: BTreeMap<String, String> = parse_json(index, json["weight_map"].clone())?;
        let mut shards = BTreeMap::new();
        for file in map.values() {
            if Path::new(file).file_name().is_none_or(|name| name != file.as_str()) {
                return Err(corrupt(index, format!("{file:?} is not a file name")));
            }
            if !shards.contains_key(file) {
                shards.insert(file, read_header(&folder.join(file))?);
            }
        }
        let take = |(name, file): (&String, &String)| {
            let found = shards.get_mut(file).and_then(|shard| shard.remove(name));
            let missing = || Error::TensorMissing { component: component.into(), name: name.clone() };
            Ok((name.clone(), found.ok_or_else(missing)?))
        };
        map.iter().map(take).collect()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let CheckpointTensor { file, start, bytes, dtype, .. } = &self.tensors[name];
        let mut data = vec![0; *bytes];
        let mut file = &**file;
        let read = file.seek(SeekFrom::Start(*start)).and_then(|_| file.read_exact(&mut data));
        read.map_err(|error| Error::Read { what: self.component.clone(), why: error.to_string() })?;
        let count = |size: usize| data.len() / size;
        match dtype {
            Dtype::F32 => GgmlType::F32.dequantize(&data, count(4)),
            Dtype::F16 => GgmlType::F16.dequantize(&data, count(2)),
            Dtype::BF16 => Ok(data.chunks_exact(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect()),
            other => Err(Error::Unsupported(format!("{}: tensor `{name}` of type {other:?}", self.component))),
        }
    }
}

/// The table of a safetensors file's tensors.
fn read_header(path: &Path) -> Result<BTreeMap<String, CheckpointTensor>> {
    let failed = |error| read_error(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let mut header_len = [0; 8];
    file.read_exact(&mut header_len).map_err(failed)?;
    let header_len = u64::from_le_bytes(header_len);
    let Some(data_len) = (len - 8).checked_sub(header_len) else {
        return Err(corrupt(path, "its header is longer than the file"));
    };
    let mut header = Vec::new();
    file.by_ref().take(header_len).read_to_end(&mut header).map_err(failed)?;
    // Parsing checks that the tensors follow each other without gaps, and that their lengths fit their shapes.
    let table: safetensors::tensor::Metadata = serde_json::from_slice(&header).map_err(|error| corrupt(path, error))?;
    if table.data_len() as u64 != data_len {
        return Err(corrupt(path, "its length does not fit its header"));
    }
    let data_start = 8 + header_len;
    let file = Rc::new(file);
    let tensor = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (start, end) = info.data_offsets;
        let (file, start, bytes) = (file.clone(), data_start + start as u64, end - start);
        (name, CheckpointTensor { file, start, bytes, dtype: info.dtype, shape: info.shape.clone() })
    };
    Ok(table.tensors().into_iter().map(tensor).collect())
}

/// Today's name of an autoencoder's tensor.
fn vae_name(name: &str) -> String {
    let renamed = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    renamed.iter().fold(name.to_owned(), |name, (old, new)| match name.contains(".attentions.") {
        true => name.replace(&format!(".{old}."), &format!(".{new}.")),
        false => name,
    })
}

/// The sampler, the schedule and the spacing that a pipeline's scheduler stands for.
fn read_schedule(source: &Path) -> Result<(Sampler, ScheduleConfig, String)> {
    let path = source.join("scheduler/scheduler_config.json");
    let mut json: serde_json::Map<String, Json> = read_json(&path)?;
    json.retain(|_, value| !value.is_null());
    let class = json.get("_class_name").and_then(Json::as_str).unwrap_or_default().to_owned();
    let sampler = match class.as_str() {
        "EulerAncestralDiscreteScheduler" => Sampler::EulerAncestral,
        "HeunDiscreteScheduler" => Sampler::Heun,
        "DPMSolverMultistepScheduler" => Sampler::Dpmpp2m,
        "DDIMScheduler" => Sampler::Ddim,
        "LCMScheduler" => Sampler::Lcm,
        _ => Sampler::Euler,
    };
    // The default where diffusers leaves the field out differs from class to class.
    if ["PNDMScheduler", "DDIMScheduler", "LCMScheduler"].contains(&class.as_str()) {
        json.entry("timestep_spacing").or_insert("leading".into());
    }
    let flag = |name: &str| json.get(name).and_then(Json::as_bool).unwrap_or(false);
    let sigmas = match (flag("use_karras_sigmas"), flag("use_exponential_sigmas")) {
        (true, _) => Some("karras"),
        (_, true) => Some("exponential"),
        _ => None,
    };
    let unsupported = |error: serde_json::Error| Error::Unsupported(format!("{}: {error}", path.display()));
    let schedule: ScheduleConfig = serde_json::from_value(Json::Object(json)).map_err(unsupported)?;
    let spacing = sigmas.unwrap_or(schedule.timestep_spacing.name()).into();
    Ok((sampler, schedule, spacing))
}

/// How diffusers scales latents: `(z - mean) * scaling_factor / std`, or `(z - shift_factor) * scaling_factor`.
fn read_latent(json: &Json, vae: &AutoencoderKlConfig) -> LatentConfig {
    let list = |name: &str| -> Option<Vec<f32>> { serde_json::from_value(json[name].clone()).ok() };
    let factor = vae.scaling_factor as f32;
    LatentConfig {
        encoder: Some("encoder".into()),
        decoder: "decoder".into(),
        channels: vae.latent_channels,
        factor: vae.downscale(),
        shift: list("latents_mean").unwrap_or_else(|| vec![vae.shift_factor.unwrap_or(0.0) as f32]),
        scale: list("latents_std").map_or(vec![factor], |stds| stds.iter().map(|std| factor / std).collect()),
        pixels: PixelRange::Symmetric,
        projection: None,
    }
}

/// The id of a tokenizer's padding token, and its files as metadata.
fn read_tokenizer(folder: &Path) -> Result<(u32, Metadata)> {
    let layouts = [&TOKENIZER_FILES[..1], &TOKENIZER_FILES[1..]];
    let layout = layouts.into_iter().find(|files| files.iter().all(|(file, _)| folder.join(file).is_file()));
    let Some(layout) = layout else {
        let why = "it holds neither tokenizer.json nor vocab.json and merges.txt".into();
        return Err(Error::Read { what: folder.display().to_string(), why });
    };
    let text =
        |file: &str| fs::read_to_string(folder.join(file)).map_err(|error| read_error(&folder.join(file), error));
    let entry = |(file, key): &(&str, &str)| Ok((key.to_string(), Value::from(text(file)?)));
    let files: Metadata = layout.iter().map(entry).collect::<Result<_>>()?;

    let vocabulary = folder.join(layout[0].0);
    let json: Json = read_json(&vocabulary)?;
    let settings: Json = read_json(&folder.join("tokenizer_config.json"))?;
    let pad = match &settings["pad_token"] {
        Json::String(token) => token,
        Json::Object(token) => token.get("content").and_then(Json::as_str).unwrap_or_default(),
        _ => "<|endoftext|>",
    };
    let added = json["added_tokens"].as_array().into_iter().flatten().find(|token| token["content"] == pad);
    let id = [&json[pad], &json["model"]["vocab"][pad], added.map_or(&Json::Null, |token| &token["id"])];
    let id = id.iter().find_map(|id| id.as_u64()?.try_into().ok());
    Ok((id.ok_or_else(|| corrupt(&vocabulary, format!("it lacks the padding token `{pad}`")))?, files))
}

fn expect_class(index: &Json, part: &str, class: &str) -> Result<()> {
    // Today's transformers call the tokenizer's fast variant by the plain name, older ones do not.
    match index[part][1].as_str() {
        Some(found) if found.trim_end_matches("Fast") == class => Ok(()),
        found => Err(Error::Unsupported(format!(
            "model_index.json names {} as its {part}; {class} is known",
            found.unwrap_or("nothing")
        ))),
    }
}

/// The folder to write, first under a name of its own beside it.
struct Output {
    path: PathBuf,
    partial: PathBuf,
    force: bool,
}

impl Output {
    fn new(path: &Path, force: bool) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|error| write_error(path, error))?;
        let partial = beside(&path, "partial");
        let output = Self { path, partial, force };
        output.check()?;
        let parent = output.partial.parent().unwrap_or(&output.partial);
        let create = fs::create_dir_all(parent).and_then(|()| fs::create_dir(&output.partial));
        create.map_err(|error| write_error(&output.path, error))?;
        Ok(output)
    }

    /// Only a model folder may be replaced, and only if that was asked for.
    fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::Write { what: self.path.display().to_string(), why: why.into() });
        match (self.path.symlink_metadata().is_ok(), self.force) {
            (true, false) => refuse("it exists; --force replaces it"),
            (true, true) if !self.path.join(manifest::FILE).is_file() => refuse("it exists and is not a model folder"),
            _ => Ok(()),
        }
    }

    fn publish(self) -> Result<()> {
        self.check()?;
        let failed = |error| write_error(&self.path, error);
        if self.path.exists() {
            let old = beside(&self.path, "old");
            fs::rename(&self.path, &old).map_err(failed)?;
            if let Err(error) = fs::rename(&self.partial, &self.path) {
                fs::rename(&old, &self.path).map_err(failed)?;
                return Err(failed(error));
            }
            return fs::remove_dir_all(&old).map_err(|error| write_error(&old, error));
        }
        fs::rename(&self.partial, &self.path).map_err(failed)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After `publish` there is nothing left to remove.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

fn beside(path: &Path, what: &str) -> PathBuf {
    path.with_file_name(format!(".{}.{what}-{}", plain_name(path), std::process::id()))
}

/// The last part of `path` with everything but letters, digits, `.`, `_` and `-` replaced.
fn plain_name(path: &Path) -> String {
    let absolute = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.trim_start_matches('.').chars().map(plain).take(64).collect();
    if name.is_empty() { "model".into() } else { name }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|error| read_error(path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| corrupt(path, error))
}

fn parse_json<T: DeserializeOwned>(path: &Path, json: Json) -> Result<T> {
    serde_json::from_value(json).map_err(|error| corrupt(path, error))
}

fn corrupt(path: &Path, why: impl Display) -> Error {
    Error::Corrupt { what: path.display().to_string(), why: why.to_string() }
}

fn read_error(path: &Path, error: std::io::Error) -> Error {
    Error::Read { what: path.display().to_string(), why: error.to_string() }
}

fn write_error(path: &Path, error: std::io::Error) -> Error {
    Error::Write { what: path.display().to_string(), why: error.to_string() }
}
