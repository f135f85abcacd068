//! `pangu-draw experiment ...`: the paper's claims, measured.

use crate::{
    Error, Result,
    nets::autoencoder_tiny::AutoencoderTinyConfig,
    train::{
        self,
        autoencoder::{self, LatentStatistics},
        data::scene::StyleId,
        experiments::{
            Bench, Captions, Pictures, Results, Scale, boundary, decoupling, low_resolution, report, texture_resolution,
        },
        text::TextEncoder,
    },
};
use burn::tensor::Device;
use clap::{Args, Subcommand};
use std::path::PathBuf;

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
