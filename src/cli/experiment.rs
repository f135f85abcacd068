//! `pangu-draw experiment ...`: the paper's claims, measured.

use super::cache::depot;
use crate::{
    Error, Result,
    nets::autoencoder_tiny::AutoencoderTinyConfig,
    train::{
        self,
        autoencoder::{self, LatentStatistics},
        data::{Dataset, mix::Mix, scene::StyleId},
        eval::dual,
        experiments::{
            Bench, Captions, Pictures, Results, Scale, boundary, coop, decoupling, low_resolution, report,
            texture_resolution,
        },
        text::TextEncoder,
    },
};
use burn::tensor::Device;
use clap::{Args, Subcommand};
use std::{path::PathBuf, time::Duration};

/// Arguments of `pangu-draw experiment`.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    #[command(subcommand)]
    command: ExperimentCommand,
}

#[derive(Debug, Subcommand)]
enum ExperimentCommand {
    /// Two experts against one model of double size and against a cascade.
    Decoupling(BenchArgs),
    /// Structure expert with and without scaled-up pictures.
    LowResolution(BenchArgs),
    /// Texture expert trained at half against full resolution.
    TextureResolution(BenchArgs),
    /// The experts' boundary at 200, 350, 500, 650 and 800.
    Boundary(BenchArgs),
    /// Coop-Diffusion: what drawings owe to companions, costs, resolutions; writes its own document.
    Coop(CoopArgs),
    /// Write tables and plots of what was measured into a document.
    Report(ReportArgs),
}

impl ExperimentArgs {
    /// Runs the experiment.
    ///
    /// # Errors
    /// Whatever it fails with.
    pub fn run(self) -> Result<()> {
        match self.command {
            ExperimentCommand::Decoupling(args) => args.run(decoupling::run),
            ExperimentCommand::LowResolution(args) => args.run(low_resolution::run),
            ExperimentCommand::TextureResolution(args) => args.run(texture_resolution::run),
            ExperimentCommand::Boundary(args) => args.run(boundary::run),
            ExperimentCommand::Coop(args) => args.run(),
            ExperimentCommand::Report(args) => report::write(&args.results, &args.document),
        }
    }
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// Folder of the package archives; what is missing is fetched with npm.
    #[arg(long)]
    cache: PathBuf,
    /// Folder of the finished autoencoder run.
    #[arg(long)]
    autoencoder: PathBuf,
    /// The text encoder, from `train text`.
    #[arg(long)]
    text: PathBuf,
    /// Folder of the pictures, the runs and the results; all experiments should have the same one: they share arms, and
    /// what is finished there is not done again.
    #[arg(long)]
    out: PathBuf,
    /// Emoji styles.
    #[arg(long, value_delimiter = ',', default_value = "flat,3d")]
    styles: Vec<String>,
    /// Share of the pictures that are known at low resolution only.
    #[arg(long, default_value_t = 0.5)]
    low_resolution_share: f32,
    /// Things, each in every style.
    #[arg(long, default_value_t = 56)]
    concepts: usize,
    /// Training samples of one expert.
    #[arg(long, default_value_t = 2800)]
    samples: u64,
    /// Seeds, one run each.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    seeds: Vec<u64>,
    /// cpu, wgpu or cuda.
    #[arg(long, default_value = "cpu")]
    device: String,
}

impl BenchArgs {
    fn run(self, experiment: fn(&Bench) -> Result<Results>) -> Result<()> {
        let device = train::device(&self.device)?;
        let styles = self.styles.iter().map(|id| StyleId::parse(id)).collect::<Result<Vec<_>>>()?;
        if self.seeds.is_empty() {
            return Err(Error::Invalid { parameter: "seeds", why: "name at least one".into() });
        }
        let pictures = Pictures::build(&self.cache, &self.out, &styles, self.low_resolution_share, self.concepts)?;
        let statistics = LatentStatistics::load(&self.autoencoder)?;
        let config = AutoencoderTinyConfig::emoji();
        let autoencoder = autoencoder::load(&self.autoencoder, &config, &device)?;
        let text = TextEncoder::open(&self.text, &Device::flex())?;
        let encode = |texts: &[&str]| text.network.encode(&text.tokenizer, texts);
        let captions = Captions::new(&encode);
        let remembered = |texts: &[&str]| captions.encode(texts);
        let scale = Scale::new(self.concepts, self.samples, self.seeds);
        let bench = Bench::new(scale, &pictures, (&autoencoder, config, &statistics), &remembered, &self.out, &device)?;
        let results = experiment(&bench)?;
        println!("{}", self.out.join(format!("{}.json", results.experiment)).display());
        Ok(())
    }
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// Folder with the experiments' JSON files.
    #[arg(long)]
    results: PathBuf,
    /// The document; only what is between its marker lines changes. Plots go to a folder beside it.
    #[arg(long, default_value = "docs/experiments.md")]
    document: PathBuf,
}

#[derive(Debug, Args)]
struct CoopArgs {
    /// Model folder; its companions lie beside it.
    #[arg(long)]
    model: String,
    /// The data set, from `train data`.
    #[arg(long)]
    data: PathBuf,
    /// The dual encoder's run folder, from `train evaluator`.
    #[arg(long)]
    evaluator: PathBuf,
    /// Folder of the drawings, the sheets and the results; what is finished there is not drawn again.
    #[arg(long)]
    out: PathBuf,
    /// The document; only what is between its marker lines changes. Sheets and curves go to a folder beside it.
    #[arg(long, default_value = "docs/coop.md")]
    document: PathBuf,
    /// Pairs of a prompt and a picture that each schedule is drawn on, for each companion.
    #[arg(long, default_value_t = 32)]
    pairs: usize,
    /// Other pairs, on which the best schedule is compared with the models alone.
    #[arg(long, default_value_t = 32)]
    confirm: usize,
    /// Prompts drawn at twice the side.
    #[arg(long, default_value_t = 16)]
    large: usize,
    /// Drawings timed in each way.
    #[arg(long, default_value_t = 4)]
    costs: usize,
    /// Draw nothing more after this time.
    #[arg(long, default_value_t = 25.0)]
    minutes: f64,
    /// Emoji styles asked for: those that all models know.
    #[arg(long, value_delimiter = ',', default_value = "flat,3d")]
    styles: Vec<String>,
    /// Emoji styles that only the default model was trained on: outlines are measured on them, too.
    #[arg(long, value_delimiter = ',', default_value = "sticker,cartoon,line")]
    home_styles: Vec<String>,
    /// What is asked for, as for `eval`.
    #[arg(long, value_parser = Mix::parse, default_value = "")]
    mix: Mix,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl CoopArgs {
    fn run(self) -> Result<()> {
        if self.pairs == 0 || !(0.0..=1e6).contains(&self.minutes) {
            return Err(Error::Invalid { parameter: "pairs", why: "there is nothing to draw, or no time".into() });
        }
        let dataset = Dataset::load(&self.data)?;
        let dataset = dataset.filtered(|item| self.mix.draws(&dataset, item));
        let encoder = dual::load(&self.evaluator, &Device::flex())?;
        let command = std::env::current_exe().ok().filter(|_| !self.model.contains("://"));
        let options = coop::Options {
            out: self.out.clone(),
            pairs: self.pairs,
            confirm: self.confirm,
            large: self.large,
            costs: self.costs,
            styles: self.styles.iter().map(|id| StyleId::parse(id)).collect::<Result<_>>()?,
            home_styles: self.home_styles.iter().map(|id| StyleId::parse(id)).collect::<Result<_>>()?,
            mix: self.mix,
            budget: Duration::from_secs_f64(60.0 * self.minutes),
            seed: self.seed,
            command: command.map(|command| (command, self.model.clone())),
        };
        let results = coop::run(&dataset, &encoder, depot(&self.model), &options)?;
        coop::report::write(&self.out, &self.document)?;
        println!("{} arms: {}", results.measured.iter().map(|m| m.rows.len()).sum::<usize>(), self.document.display());
        Ok(())
    }
}
