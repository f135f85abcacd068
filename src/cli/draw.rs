//! `pangu-draw draw`.

use super::{
    cache::depot,
    files::{check_writable, write_atomically},
    picture::{self, ControlArg, parse_size},
};
use crate::{
    Error, Result,
    coop::latent::Exchange,
    device::{self, DeviceChoice, PrecisionChoice},
    nets::Pace,
    pipeline::{Drawing, Event, Generator, LoadProgress, MEMORY, Preview, Request, config::ControlKind},
    pixels::Upsampler,
    weights::{TensorSource, safetensors::SafeTensors},
};
use burn::tensor::TensorData;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pollster::block_on;
use safetensors::{Dtype, tensor::TensorView};
use std::{
    collections::BTreeMap,
    fs,
    future::ready,
    io::IsTerminal,
    path::{Path, PathBuf},
};

/// Name of the tensor in `--latents` and `--save-latents` files.
const LATENTS: &str = "latents";

/// Arguments of `pangu-draw draw`.
#[derive(Debug, Args)]
pub struct DrawArgs {
    /// What to draw, in English or Chinese (default model).
    prompt: String,
    /// What to steer away from.
    #[arg(long, default_value = "")]
    negative: String,
    /// One of the model's styles.
    #[arg(long)]
    style: Option<String>,
    /// Seed: the same seed draws the same picture.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Denoising steps.
    #[arg(long, allow_negative_numbers = true)]
    steps: Option<usize>,
    /// Classifier-free guidance, 1 = off.
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// PanGu's style guidance, 0 = off.
    #[arg(long, allow_negative_numbers = true)]
    style_guidance: Option<f64>,
    /// euler, euler_ancestral, heun, dpmpp_2m, ddim or lcm.
    #[arg(long)]
    sampler: Option<String>,
    /// Where the steps lie: leading, linspace, trailing, karras or exponential.
    #[arg(long)]
    spacing: Option<String>,
    /// Picture size, WIDTHxHEIGHT in pixels.
    #[arg(long, value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// What is behind the picture: transparent, or a colour like #ffcc00.
    #[arg(long)]
    background: Option<String>,
    /// A picture that steers the drawing, KIND=PATH[:STRENGTH]: `outline` for where lines are, `variation` for what is
    /// shown. May be repeated.
    #[arg(long, value_name = "KIND=PATH[:STRENGTH]", value_parser = ControlArg::parse)]
    control: Vec<ControlArg>,
    /// Share of the schedule, from noise on, through which all controls act, 0 to 1.
    #[arg(long, requires = "control", allow_negative_numbers = true)]
    coop_until: Option<f64>,
    /// What models that draw along hear of each other: two-way, renoised or one-way.
    #[arg(long)]
    exchange: Option<Exchange>,
    /// The timestep at which a larger picture passes from a draft of the trained size to its own.
    #[arg(long, allow_negative_numbers = true)]
    t_low: Option<f64>,
    /// How pictures are scaled between resolutions: nearest, bicubic or lanczos.
    #[arg(long)]
    upsampler: Option<Upsampler>,
    /// The companion that draws the draft, outline or variation.
    #[arg(long)]
    draft: Option<ControlKind>,
    /// A picture to begin with instead of noise.
    #[arg(long)]
    init: Option<PathBuf>,
    /// How much of the way from noise is drawn over that picture, above 0 up to 1.
    #[arg(long, requires = "init", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Where it is drawn over: where this picture is light.
    #[arg(long)]
    mask: Option<PathBuf>,
    /// Where to compute: auto, wgpu or cpu.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Numbers that networks compute in: auto (f16 on a GPU that has it), f16 or f32.
    #[arg(long, default_value = "auto")]
    precision: PrecisionChoice,
    /// Model folder or URL (a folder that holds model.json).
    #[arg(long, default_value = "www/models/default")]
    model: String,
    /// PNG to write.
    #[arg(short, long, default_value = "drawing.png")]
    output: PathBuf,
    /// Start from the noise in this safetensors file (tensor `latents`, standard normal).
    #[arg(long)]
    latents: Option<PathBuf>,
    /// Write the final latents to this safetensors file (tensor `latents`).
    #[arg(long)]
    save_latents: Option<PathBuf>,
    /// Print settings and timings by stage as JSON.
    #[arg(long)]
    json: bool,
    /// Print timings by stage.
    #[arg(long)]
    timings: bool,
}

impl DrawArgs {
    /// Draws and writes the picture.
    ///
    /// # Errors
    /// One line for a person: a bad argument, a missing or damaged model, an unwritable output.
    pub fn run(self) -> Result<()> {
        for output in [Some(&self.output), self.save_latents.as_ref()].into_iter().flatten() {
            check_writable(output)?;
        }
        let size = self.size.unzip();
        let request = Request {
            prompt: self.prompt,
            negative_prompt: self.negative,
            style: self.style,
            seed: self.seed,
            steps: self.steps,
            guidance_scale: self.guidance,
            style_scale: self.style_guidance,
            sampler: self.sampler,
            spacing: self.spacing,
            width: size.0,
            height: size.1,
            background: self.background,
            controls: self.control.iter().map(|control| control.read(self.coop_until)).collect::<Result<_>>()?,
            exchange: self.exchange.map(|exchange| exchange.name().into()),
            init: self.init.as_deref().map(picture::read).transpose()?,
            strength: self.strength,
            mask: self.mask.as_deref().map(picture::read).transpose()?,
            t_low: self.t_low,
            upsampler: self.upsampler.map(|upsampler| upsampler.name().into()),
            draft: self.draft,
            precision: self.precision,
            preview: Some(Preview::None),
            preview_every: 0,
            checkpoints: false,
            insight: false,
        };
        let noise = self.latents.as_deref().map(read_latents).transpose()?;
        let quiet = self.json || !std::io::stderr().is_terminal();
        let device = block_on(device::open(self.device))?;
        if let (Some(notice), false) = (&device.notice, quiet) {
            eprintln!("drawing on the CPU: {notice}");
        }
        // On a GPU a short queue makes the bar tell the truth.
        let queueing = || Pace::queueing(|| Box::pin(ready(Ok(()))));
        let pace = if device.backend == "wgpu" { queueing() } else { Pace::free() };

        let bar = progress_bar("loading", "{msg:>8} {bar:40} {bytes}/{total_bytes}", quiet);
        let mut on_progress = |progress: LoadProgress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.loaded_bytes);
        };
        let generator = block_on(Generator::open(depot(&self.model), device, MEMORY))?;
        block_on(generator.prepare(&request, &pace, &mut on_progress))?;
        bar.finish_and_clear();

        let bar = progress_bar("drawing", "{msg:>8} {bar:40} {pos}/{len} steps, {eta} left", quiet);
        let mut on_event = |event| {
            if let Event::Step(step) = event {
                bar.set_length(step.of as u64);
                bar.set_position(step.index as u64 + 1);
            }
        };
        let drawing = match noise {
            Some(noise) => block_on(generator.generate_from(&request, noise, &pace, &mut on_event))?,
            None => block_on(generator.generate(&request, &pace, &mut on_event))?,
        };
        bar.finish_and_clear();

        write_atomically(&self.output, &drawing.to_png()?)?;
        if let Some(path) = &self.save_latents {
            write_atomically(path, &latents_file(&drawing)?)?;
        }
        if self.json {
            let report = serde_json::json!({
                "output": self.output,
                "device": { "backend": generator.device().backend, "name": generator.device().name },
                "settings": drawing.settings,
                "arithmetic": drawing.arithmetic,
                "seconds": drawing.timings.iter().copied().collect::<BTreeMap<_, _>>(),
            });
            println!("{report}");
        } else if self.timings {
            for (stage, seconds) in &drawing.timings {
                println!("{stage:<12}{seconds:>9.3} s");
            }
        }
        Ok(())
    }
}

/// A bar for a count that is not known yet; hidden where nobody watches.
fn progress_bar(what: &'static str, template: &str, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("a constant template");
    ProgressBar::new(0).with_style(style).with_message(what)
}

/// The tensor `latents` of a safetensors file.
fn read_latents(path: &Path) -> Result<TensorData> {
    let what = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| Error::Read { what: what.clone(), why: error.to_string() })?;
    let file = SafeTensors::new(&what, bytes)?;
    let missing = || Error::TensorMissing { component: what.clone(), name: LATENTS.into() };
    let stored = file.tensor(LATENTS)?.ok_or_else(missing)?;
    let values = stored.dtype.dequantize(&stored.bytes, stored.shape.iter().product())?;
    Ok(TensorData::new(values, stored.shape))
}

/// A safetensors file with the final latents as tensor `latents`.
fn latents_file(drawing: &Drawing) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| Error::Write { what: "latents".into(), why: error.to_string() };
    let shape = drawing.latents.shape().to_vec();
    let bytes: Vec<u8> = drawing.latents.iter::<f32>().flat_map(f32::to_le_bytes).collect();
    let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(|error| failed(&error))?;
    safetensors::serialize([(LATENTS, view)], None).map_err(|error| failed(&error))
}
