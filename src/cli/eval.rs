//! `pangu-draw eval`: what a model's drawings are worth.

use super::cache::depot;
use crate::{
    Error, Result,
    device::{self, DeviceChoice},
    nets::Pace,
    pipeline::{Generator, MEMORY, Request},
    train::{
        data::{
            Dataset,
            mix::Mix,
            picture::Picture,
            scene::{Scene, StyleId},
            splits::Split,
        },
        eval::{self, Options, Painter, Report, dual, report},
    },
};
use burn::tensor::Device;
use clap::Args;
use pollster::block_on;
use std::path::PathBuf;

/// Arguments of `pangu-draw eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Model folder; without one, only the evaluator itself is measured, on real pictures.
    #[arg(long)]
    model: Option<String>,
    /// The data set, from `train data`.
    #[arg(long)]
    data: PathBuf,
    /// The dual encoder's run folder, from `train evaluator`.
    #[arg(long)]
    evaluator: PathBuf,
    /// The folder to write: eval.json, report.html, sheet.png.
    #[arg(long)]
    out: PathBuf,
    /// Drawings of each split in each language.
    #[arg(long, default_value_t = 32)]
    per_split: usize,
    /// Denoising steps of those.
    #[arg(long, default_value_t = 12)]
    steps: usize,
    /// Classifier-free guidance; the model's own if not given.
    #[arg(long)]
    guidance: Option<f64>,
    /// Prompts drawn again in 8 and in 25 steps, at most.
    #[arg(long, default_value_t = 24)]
    step_prompts: usize,
    /// What the model was trained on, as for `train expert`.
    #[arg(long, value_parser = Mix::parse, default_value = "")]
    mix: Mix,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to draw: auto, wgpu or cpu.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Fail if a target is missed.
    #[arg(long)]
    check: bool,
}

impl EvalArgs {
    /// Evaluates and writes the report.
    ///
    /// # Errors
    /// If something cannot be read or written, if a drawing fails, and with `--check` if a target is missed.
    pub fn run(self) -> Result<()> {
        if self.per_split == 0 {
            return Err(Error::Invalid { parameter: "per-split", why: "is 0, must be 1 or more".into() });
        }
        let dataset = Dataset::load(&self.data)?;
        // The model's world: what it was trained on or might have been, and things that nobody showed it.
        let dataset = dataset.filtered(|item| {
            let unseen = item.scene == Scene::Plain && dataset.splits.of(&dataset.concepts, item) == Split::Concept;
            unseen || self.mix.draws(&dataset, item)
        });
        let encoder = dual::load(&self.evaluator, &Device::flex())?;
        let options = Options {
            per_split: self.per_split,
            steps: self.steps,
            guidance: self.guidance,
            mix: self.mix.clone(),
            step_prompts: self.step_prompts,
            seed: self.seed,
        };
        let report = match &self.model {
            None => eval::run(&dataset, &encoder, None, &options)?,
            Some(model) => {
                let generator = load(model, self.device)?;
                let styles = &generator.config().styles;
                let painter = Painter {
                    // A style that the data set does not know has no pictures to be compared with.
                    styles: styles.iter().filter_map(|style| StyleId::parse(&style.id).ok()).collect(),
                    draw: &|request| draw(&generator, request),
                };
                eval::run(&dataset, &encoder, Some(&painter), &options)?
            }
        };
        report::write(&report, &self.out)?;
        print(&report);
        println!("{}", self.out.join("report.html").display());
        let missed: Vec<&str> = report.targets.iter().filter(|t| !t.met).map(|t| t.what.as_str()).collect();
        if self.check && !missed.is_empty() {
            return Err(Error::Invalid { parameter: "targets", why: format!("missed: {}", missed.join("; ")) });
        }
        Ok(())
    }
}

fn load(model: &str, device: DeviceChoice) -> Result<Generator> {
    let device = block_on(device::open(device))?;
    block_on(Generator::open(depot(model), device, MEMORY))
}

fn draw(generator: &Generator, request: &Request) -> Result<Picture> {
    Ok(Picture::from_image(&block_on(generator.generate(request, &Pace::free(), &mut |_| ()))?.image))
}

fn print(report: &Report) {
    for a in &report.alignment {
        let question = serde_json::to_value(a.question).expect("a name");
        let question = question.as_str().expect("a name");
        let drawn = a.drawn.map_or("-".into(), |drawn| format!("{:.3} {:.3}", drawn.recall_at_1, drawn.recall_at_5));
        println!(
            "{question:10} {} R@1 R@5 {drawn:12} ceiling {:.3} {:.3} (chance {:.4}, {} prompts)",
            a.language.id(),
            a.real.recall_at_1,
            a.real.recall_at_5,
            a.real.chance,
            a.real.pictures
        );
    }
    if let Some(f) = report.frechet {
        println!(
            "Frechet distance in the features of {}, {} pictures: {:.4} to held-out, {:.4} to training, floor {:.4}",
            report.features, f.pictures, f.drawn_to_held_out, f.drawn_to_training, f.training_split_half
        );
    }
    if let Some(c) = &report.copying {
        println!(
            "near-duplicates: {:.3} of drawings, {:.3} of held-out",
            c.drawn.near_duplicates, c.held_out.near_duplicates
        );
    }
    for target in &report.targets {
        let verdict = if target.met { "met   " } else { "MISSED" };
        println!("{verdict} {}: {:.3}, at least {}", target.what, target.value, target.at_least);
    }
}
