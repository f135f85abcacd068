//! What every training loop shares: a budget, the learning rate that follows it, checkpoints, the loss log, the bar.

use super::{
    optimizer::{Optimizer, OptimizerConfig},
    plot, read_error, write_error,
};
use crate::{Error, Result};
use burn::module::Module;
use indicatif::{ProgressBar, ProgressStyle};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// When a run ends: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Training samples.
    pub samples: Option<u64>,
    /// Time, pauses between resumed runs not counted.
    pub minutes: Option<f64>,
    /// Updates after which this process stops although the run is not over; the next one continues.
    pub pause_after: Option<u64>,
}

/// How often what happens.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// Updates between two lines of the log.
    pub log: u64,
    /// Time between two checkpoints.
    pub checkpoint: Duration,
    /// Time between two sample sheets; `Duration::MAX` for none, not even at the end.
    pub sheet: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { log: 50, checkpoint: Duration::from_secs(240), sheet: Duration::from_secs(600) }
    }
}

/// A training run's learning rate: a linear warm-up, then a cosine that ends with the budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// Highest rate.
    pub peak: f64,
    /// Updates until it is reached.
    pub warmup: u64,
    /// Share of `peak` that is left at the end.
    pub floor: f64,
}

impl LearningRate {
    /// The rate at update `step` (from 0) when `done` in `[0, 1]` of the budget is spent.
    pub fn at(&self, step: u64, done: f64) -> f64 {
        let warm = ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done.clamp(0.0, 1.0)).cos());
        self.peak * warm * (self.floor + (1.0 - self.floor) * cosine)
    }
}

/// What a checkpoint knows besides the optimizer's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Updates made.
    pub step: u64,
    /// Samples seen.
    pub samples: u64,
    /// Time spent.
    pub seconds: f64,
}

/// One training run in a folder: `checkpoint.safetensors`, `loss.csv`, `loss.svg`, and the sheets.
pub struct Session {
    dir: PathBuf,
    budget: Budget,
    intervals: Intervals,
    position: Position,
    /// Seconds spent before this process.
    earlier: f64,
    started: Instant,
    saved: Instant,
    /// The update of the last checkpoint.
    checkpoint: Option<u64>,
    drawn: Instant,
    losses: Vec<f32>,
    log: File,
    bar: ProgressBar,
}

const CHECKPOINT: &str = "checkpoint.safetensors";
const LOG: &str = "loss.csv";

impl Session {
    /// Opens `dir`, and continues from its checkpoint if it holds one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a budget without an end; if the folder cannot be written, or its checkpoint belongs to
    /// another network.
    pub fn open(dir: &Path, budget: Budget, intervals: Intervals, optimizer: &mut Optimizer) -> Result<Self> {
        if budget.samples.is_none() && budget.minutes.is_none() {
            return Err(Error::Invalid { parameter: "budget", why: "give samples, minutes, or both".into() });
        }
        std::fs::create_dir_all(dir).map_err(|error| write_error(dir, error))?;
        let restored = restore(&dir.join(CHECKPOINT), optimizer)?;
        let position = restored.unwrap_or_default();
        let log = open_log(&dir.join(LOG), position.step)?;
        let bar = ProgressBar::new(1000).with_style(
            ProgressStyle::with_template("{wide_bar} {percent} % {msg} {elapsed} (about {eta} left)")
                .expect("a valid template"),
        );
        let now = Instant::now();
        Ok(Self {
            dir: dir.into(),
            budget,
            intervals,
            position,
            earlier: position.seconds,
            started: now,
            saved: now,
            checkpoint: restored.map(|position| position.step),
            drawn: now,
            losses: Vec::new(),
            log,
            bar,
        })
    }

    /// Updates made so far.
    pub fn step(&self) -> u64 {
        self.position.step
    }

    /// Samples seen so far.
    pub fn samples(&self) -> u64 {
        self.position.samples
    }

    /// Share of the budget that is spent, 1 or more when the run is over.
    pub fn done(&self) -> f64 {
        let samples = self.budget.samples.map_or(0.0, |planned| self.position.samples as f64 / planned.max(1) as f64);
        let minutes = self.budget.minutes.map_or(0.0, |planned| self.seconds() / 60.0 / planned.max(1e-9));
        samples.max(minutes)
    }

    /// Whether there is more to do in this process.
    pub fn running(&self) -> bool {
        self.done() < 1.0 && !self.paused()
    }

    /// Whether this process stops before the run is over.
    pub fn paused(&self) -> bool {
        self.done() < 1.0 && self.budget.pause_after.is_some_and(|updates| self.position.step >= updates)
    }

    fn seconds(&self) -> f64 {
        self.earlier + self.started.elapsed().as_secs_f64()
    }

    /// Counts one update, logs, and writes a checkpoint when one is due.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Device`] if the loss is not a number: there is nothing to continue from.
    pub fn record(&mut self, optimizer: &Optimizer, batch: usize, loss: f32, rate: f64) -> Result<()> {
        if !loss.is_finite() {
            return Err(Error::Device(format!("the loss became {loss} at update {}", self.position.step)));
        }
        self.position.step += 1;
        self.position.samples += batch as u64;
        self.losses.push(loss);
        if self.position.step.is_multiple_of(self.intervals.log) {
            let mean = self.losses.iter().sum::<f32>() / self.losses.len() as f32;
            self.losses.clear();
            let Position { step, samples, .. } = self.position;
            let seconds = self.seconds();
            writeln!(self.log, "{step},{samples},{seconds:.1},{mean:.5},{rate:.3e}")
                .map_err(|e| write_error(&self.dir, e))?;
            let speed = samples as f64 / seconds;
            self.bar.set_message(format!("update {step}, loss {mean:.4}, {speed:.1} samples/s"));
        }
        self.bar.set_position((self.done() * 1000.0) as u64);
        if self.saved.elapsed() >= self.intervals.checkpoint {
            self.save(optimizer)?;
        }
        Ok(())
    }

    /// Whether a sample sheet is due; says so once.
    pub fn sheet_due(&mut self) -> bool {
        let due = self.drawn.elapsed() >= self.intervals.sheet;
        if due {
            self.drawn = Instant::now();
        }
        due
    }

    /// Path of this update's sample sheet.
    pub fn sheet_path(&self) -> PathBuf {
        self.dir.join(format!("sheet-{:06}.png", self.position.step))
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: impl AsRef<str>) {
        if self.bar.is_hidden() {
            println!("{}", line.as_ref());
        } else {
            self.bar.println(line);
        }
    }

    /// Writes the checkpoint and the plot.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&mut self, optimizer: &Optimizer) -> Result<()> {
        self.saved = Instant::now();
        self.position.seconds = self.seconds();
        let path = self.dir.join(CHECKPOINT);
        let bytes: Vec<(String, &[usize], Vec<u8>)> = optimizer
            .state()
            .map(|(name, shape, values)| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views: std::result::Result<Vec<_>, _> = bytes
            .iter()
            .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
            .collect();
        let views = views.map_err(|error: safetensors::SafeTensorError| write_error(&path, error))?;
        let position = serde_json::to_string(&self.position).expect("plain numbers");
        let metadata = HashMap::from([("position".to_owned(), position)]);
        let file = safetensors::serialize(views, Some(metadata)).map_err(|error| write_error(&path, error))?;
        write_atomically(&path, &file)?;
        self.checkpoint = Some(self.position.step);
        plot::losses(&self.dir.join(LOG), &self.dir.join("loss.svg"))
    }

    /// The last checkpoint, unless it is written already, and the bar's end.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn finish(mut self, optimizer: &Optimizer) -> Result<()> {
        if self.checkpoint != Some(self.position.step) {
            self.save(optimizer)?;
        }
        self.bar.finish();
        Ok(())
    }
}

/// Loads a checkpoint into `optimizer`, if there is one.
fn restore(path: &Path, optimizer: &mut Optimizer) -> Result<Option<Position>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|error| read_error(path, error))?;
    let position = read_position(path, &bytes)?;
    let corrupt = |why: String| Error::Corrupt { what: path.display().to_string(), why };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let state: BTreeMap<String, Vec<f32>> = tensors
        .tensors()
        .into_iter()
        .filter(|(_, view)| view.dtype() == Dtype::F32)
        .map(|(name, view)| (name, view.data().chunks_exact(4).map(number).collect()))
        .collect();
    optimizer.restore(position.step, state)?;
    Ok(Some(position))
}

fn read_position(path: &Path, bytes: &[u8]) -> Result<Position> {
    let corrupt = |why: String| Error::Corrupt { what: path.display().to_string(), why };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| corrupt(error.to_string()))?;
    let position = header.metadata().as_ref().and_then(|metadata| metadata.get("position")).cloned();
    let position = position.ok_or_else(|| corrupt("no position".into()))?;
    serde_json::from_str(&position).map_err(|error| corrupt(error.to_string()))
}

/// How far the run in `dir` has come; nothing if it has no checkpoint.
///
/// # Errors
/// [`Error::Read`] or [`Error::Corrupt`].
pub fn position(dir: &Path) -> Result<Option<Position>> {
    let path = dir.join(CHECKPOINT);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(|error| read_error(&path, error))?;
    read_position(&path, &bytes).map(Some)
}

/// The averaged weights of the run in `dir`, in the network `model`, for evaluation or export.
///
/// # Errors
/// [`Error::Read`] if there is no checkpoint, [`Error::Corrupt`] if it belongs to another network.
pub fn averaged<M: Module>(dir: &Path, model: &M) -> Result<M> {
    let mut optimizer = Optimizer::new(model, OptimizerConfig::default());
    let path = dir.join(CHECKPOINT);
    restore(&path, &mut optimizer)?.ok_or_else(|| read_error(&path, "there is no checkpoint"))?;
    Ok(optimizer.averaged(model))
}

/// The log, without the lines after `step`, which a run that continues there writes anew.
fn open_log(path: &Path, step: u64) -> Result<File> {
    let earlier = std::fs::read_to_string(path).unwrap_or_default();
    let kept = earlier.lines().skip(1).filter(|line| {
        line.split(',').next().and_then(|field| field.parse::<u64>().ok()).is_some_and(|logged| logged <= step)
    });
    let text: String =
        std::iter::once("update,samples,seconds,loss,rate").chain(kept).flat_map(|l| [l, "\n"]).collect();
    write_atomically(path, text.as_bytes())?;
    OpenOptions::new().append(true).open(path).map_err(|error| write_error(path, error))
}

/// Writes a file whole or not at all: beside it first, then by renaming.
///
/// # Errors
/// [`Error::Write`].
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("partial");
    std::fs::write(&beside, bytes).map_err(|error| write_error(&beside, error))?;
    std::fs::rename(&beside, path).map_err(|error| write_error(path, error))
}
