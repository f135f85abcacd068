//! Tables and plots from the experiments' results.
//!
//! What is written for people stays: a document holds, for each experiment, a pair of marker lines, and only what is
//! between them is replaced.
//!
//! ```text
//! <!-- boundary: measured -->
//! <!-- boundary: end -->
//! ```

use super::{Outcome, Results, boundary, decoupling, low_resolution, texture_resolution};
use crate::{
    Result,
    train::{
        plot::{self, Curve},
        read_error,
        session::write_atomically,
        write_error,
    },
};
use std::{fmt::Write, path::Path};

/// The experiments, in the order of the issue that asked for them.
pub const EXPERIMENTS: [&str; 4] = [decoupling::NAME, low_resolution::NAME, texture_resolution::NAME, boundary::NAME];

/// Writes what `results` holds into the document at `path`, plots beside it in a folder of the same name.
///
/// # Errors
/// [`crate::Error::Read`] or [`crate::Error::Write`].
pub fn write(results: &Path, path: &Path) -> Result<()> {
    let mut text = std::fs::read_to_string(path).unwrap_or_else(|_| "# The paper's experiments\n".into());
    let plots = path.with_extension("");
    std::fs::create_dir_all(&plots).map_err(|error| write_error(&plots, error))?;
    for experiment in EXPERIMENTS {
        let Some(found) = Results::load(results, experiment)? else { continue };
        let mut measured = table(&found);
        for (name, picture) in pictures(&found) {
            let file = format!("{experiment}-{name}.svg");
            write_atomically(&plots.join(&file), picture.as_bytes())?;
            let folder = plots.file_name().unwrap_or_default().to_string_lossy();
            let _ = writeln!(measured, "\n![{name}]({folder}/{file})");
        }
        text = replaced(text, experiment, &measured).ok_or_else(|| read_error(path, "a marker line has no end"))?;
    }
    write_atomically(path, text.as_bytes())
}

/// `text` with `measured` between the markers of `experiment`, which are added at the end if there are none.
pub(super) fn replaced(mut text: String, experiment: &str, measured: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {experiment}: measured -->\n"), format!("<!-- {experiment}: end -->\n"));
    if !text.contains(&begin) {
        let _ = write!(text, "\n## {experiment}\n{begin}{end}");
    }
    let from = text.find(&begin)? + begin.len();
    let to = from + text[from..].find(&end)?;
    text.replace_range(from..to, measured);
    Some(text)
}

/// The outcomes of one arm, seed by seed.
type Rows<'r> = Vec<(&'r str, Vec<&'r Outcome>)>;

fn rows(results: &Results) -> Rows<'_> {
    let mut rows: Rows = Vec::new();
    for outcome in &results.outcomes {
        match rows.iter_mut().find(|row| row.0 == outcome.arm) {
            Some(row) => row.1.push(outcome),
            None => rows.push((&outcome.arm, vec![outcome])),
        }
    }
    if rows.iter().all(|row| row.1[0].at.is_some()) {
        rows.sort_by(|a, b| a.1[0].at.partial_cmp(&b.1[0].at).expect("finite numbers"));
    }
    rows
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A mean over seeds, and each seed's number.
fn seeds(row: &[&Outcome], digits: usize, value: impl Fn(&Outcome) -> f64) -> String {
    let values: Vec<f64> = row.iter().map(|outcome| value(outcome)).collect();
    if values.iter().any(|value| !value.is_finite()) {
        return "-".into();
    }
    let each: Vec<String> = values.iter().map(|value| format!("{value:.digits$}")).collect();
    if values.len() == 1 { each[0].clone() } else { format!("**{:.digits$}** ({})", mean(&values), each.join(", ")) }
}

/// Costs and scores.
fn table(results: &Results) -> String {
    let Results { scale, pictures: [pictures, low, held_out], timesteps: [from, to], .. } = results;
    let rows = rows(results);
    let range = *from..*to;
    let mut out = format!(
        "{pictures} training pictures of {} things, {low} of them known at low resolution only; {held_out} held out. Batch {}, \
         seeds {:?}; drawings in {} steps with guidance {}.\n\n",
        scale.concepts, scale.batch, scale.seeds, scale.steps, scale.guidance
    );
    out.push_str(
        "| trained | parameters | samples | training, TFLOP | training, s | a drawing, GFLOP | a drawing, s |\n",
    );
    out.push_str("|---|---|---|---|---|---|---|\n");
    for (arm, row) in &rows {
        let Outcome { cost, scores, .. } = row[0];
        let _ = writeln!(
            out,
            "| {arm} | {:.2} M | {} | {:.1} | {} | {:.1} | {} |",
            cost.parameters as f64 / 1e6,
            cost.samples,
            cost.flops as f64 / 1e12,
            seeds(row, 0, |outcome| outcome.cost.seconds),
            scores.drawing_flops as f64 / 1e9,
            seeds(row, 2, |outcome| outcome.scores.drawing_seconds),
        );
    }
    let _ = write!(
        out,
        "\n| scored ({} drawings a seed) | R@1 | R@5 | R@1, pictures of high resolution | R@1, of low resolution only | Frechet | sharpness | v error, t in [{from}, {to}) | difference to the first |\n",
        rows.first().map_or(0, |row| row.1[0].scores.drawings)
    );
    out.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for (arm, row) in &rows {
        let _ = writeln!(
            out,
            "| {arm} | {} | {} | {} | {} | {} | {} | {} | {} |",
            seeds(row, 3, |outcome| outcome.scores.recall_at_1),
            seeds(row, 3, |outcome| outcome.scores.recall_at_5),
            seeds(row, 3, |outcome| outcome.scores.recall_at_1_high),
            seeds(row, 3, |outcome| outcome.scores.recall_at_1_low),
            seeds(row, 2, |outcome| outcome.scores.frechet),
            seeds(row, 2, |outcome| outcome.scores.sharpness),
            match covered(row, &range) {
                true => seeds(row, 4, |outcome| outcome.scores.v_error(range.clone())),
                false => "-".into(),
            },
            difference(&rows[0].1, row, &range),
        );
    }
    out
}

/// Whether an arm was asked at all the timesteps of `range` that any is measured at.
fn covered(row: &[&Outcome], range: &std::ops::Range<usize>) -> bool {
    let measured = |t: usize| row[0].scores.errors.iter().any(|error| error.timestep.abs_diff(t) <= 63);
    measured(range.start) && measured(range.end - 1)
}

/// Mean paired difference of the v error over held-out pictures and seeds, and its standard error over pictures.
fn difference(first: &[&Outcome], row: &[&Outcome], range: &std::ops::Range<usize>) -> String {
    if std::ptr::eq(first[0], row[0]) || !covered(row, range) || !covered(first, range) {
        return "-".into();
    }
    let paired: Vec<Vec<f64>> = first
        .iter()
        .zip(row)
        .map(|(a, b)| {
            let (a, b) = (a.scores.pictures(range.clone()), b.scores.pictures(range.clone()));
            b.iter().zip(&a).map(|(b, a)| b - a).collect()
        })
        .collect();
    let pictures: Vec<f64> =
        (0..paired[0].len()).map(|at| mean(&paired.iter().map(|seed| seed[at]).collect::<Vec<_>>())).collect();
    let centre = mean(&pictures);
    let squares: f64 = pictures.iter().map(|value| (value - centre).powi(2)).sum();
    let count = pictures.len() as f64;
    format!("{centre:+.4} ± {:.4}", (squares / (count - 1.0).max(1.0) / count).sqrt())
}

/// The errors of all arms over t; and, where arms stand on a scale, scores over it.
fn pictures(results: &Results) -> Vec<(&'static str, String)> {
    let rows = rows(results);
    let errors = rows.iter().map(|(arm, row)| {
        let at = |index: usize| {
            let error = |outcome: &&Outcome| {
                let error = &outcome.scores.errors[index];
                error.v.iter().map(|v| f64::from(*v)).sum::<f64>() / error.v.len() as f64
            };
            mean(&row.iter().map(error).collect::<Vec<_>>())
        };
        let timesteps = row[0].scores.errors.iter().enumerate();
        Curve { name: arm.to_string(), points: timesteps.map(|(i, error)| (error.timestep as f64, at(i))).collect() }
    });
    let title = "v error on held-out pictures, by timestep, mean over seeds";
    let mut pictures = vec![("errors", plot::curves(title, &errors.collect::<Vec<_>>(), false))];
    if rows.iter().all(|row| row.1[0].at.is_some()) {
        let over = |value: &dyn Fn(&Outcome) -> f64| -> Vec<Curve> {
            let seeds = results.scale.seeds.iter().map(|&seed| {
                let points = rows.iter().filter_map(|row| row.1.iter().find(|outcome| outcome.seed == seed));
                let points = points.filter_map(|outcome| Some((outcome.at?, value(outcome))));
                Curve { name: format!("seed {seed}"), points: points.collect() }
            });
            seeds.collect()
        };
        let all = 0..1000;
        pictures.extend([
            ("recall", plot::curves("R@1, by boundary", &over(&|outcome| outcome.scores.recall_at_1), false)),
            (
                "error",
                plot::curves(
                    "v error over all t, by boundary",
                    &over(&|outcome| outcome.scores.v_error(all.clone())),
                    false,
                ),
            ),
            ("frechet", plot::curves("Frechet distance, by boundary", &over(&|outcome| outcome.scores.frechet), false)),
        ]);
    }
    pictures.into_iter().filter_map(|(name, picture)| Some((name, picture?))).collect()
}
