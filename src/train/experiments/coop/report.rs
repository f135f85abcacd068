//! Tables, curves and sheets. What is written for people stays: as [`super::super::report`] does, only what is between
//! marker lines is replaced.

use super::{
    Arm, Bench, Both, Ceiling, Cost, DRAFTS, Drawn, Large, Measured, Pair, Repertoire, Results, Row, score,
    score::Score,
};
use crate::{
    Image, Result,
    control::{Reading, outline},
    pipeline::{Passage, Request, config::ControlKind},
    train::{
        experiments::report::replaced,
        plot::{self, Curve},
        read_error,
        session::write_atomically,
        sheet, write_error,
    },
};
use image::{RgbImage, imageops};
use std::{fmt::Write, path::Path};

/// Pictures in a row of a sheet, and in a row of large ones.
const COLUMNS: [usize; 2] = [10, 5];
/// Files of the sheets, and what they show.
const SHEETS: &str = "sheets";

/// Writes `results`, which [`super::run`] left in `out`, into the document at `path`; sheets and curves go beside it into a
/// folder of the same name.
///
/// # Errors
/// [`crate::Error::Read`] or [`crate::Error::Write`].
pub fn write(out: &Path, path: &Path) -> Result<()> {
    let results = Results::load(out)?;
    let mut text = std::fs::read_to_string(path).unwrap_or_else(|_| "# Coop-Diffusion, measured\n".into());
    let folder = path.with_extension("");
    std::fs::create_dir_all(&folder).map_err(|error| write_error(&folder, error))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut put = |section: &str, measured: &str| -> Result<()> {
        text = replaced(std::mem::take(&mut text), section, measured)
            .ok_or_else(|| read_error(path, "a marker line has no end"))?;
        Ok(())
    };
    for measured in &results.measured {
        let mut table = adherence(measured);
        let file = format!("{}.svg", measured.name());
        if let Some(picture) = curves(measured) {
            write_atomically(&folder.join(&file), picture.as_bytes())?;
            let _ = writeln!(table, "\n![Scores over d]({name}/{file})");
        }
        put(&measured.name(), &table)?;
    }
    put("both", &at_once(&results.both))?;
    put("costs", &costs(&results.costs))?;
    put("resolutions", &large(&results))?;
    let sheets = out.join(SHEETS);
    let mut entries: Vec<_> =
        std::fs::read_dir(&sheets).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    for path in entries.iter().filter(|path| path.extension().is_some_and(|extension| extension == "png")) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let to = folder.join(format!("{stem}.png"));
        std::fs::copy(path, &to).map_err(|error| write_error(&to, error))?;
        let words = path.with_extension("md");
        let words = std::fs::read_to_string(&words).map_err(|error| read_error(&words, error))?;
        put(&format!("sheet {stem}"), &format!("![{stem}]({name}/{stem}.png)\n\n{words}"))?;
    }
    write_atomically(path, text.as_bytes())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Mean paired difference of the joint score to another row, and its standard error over pairs.
fn difference(row: &Row, other: &Row) -> (f64, f64) {
    let each: Vec<f64> = row.scores.iter().zip(&other.scores).map(|(a, b)| a.joint() - b.joint()).collect();
    let (centre, count) = (mean(&each), each.len() as f64);
    let squares: f64 = each.iter().map(|value| (value - centre).powi(2)).sum();
    (centre, (squares / (count - 1.0).max(1.0) / count.max(1.0)).sqrt())
}

/// The better of the two models alone, by the joint score.
pub fn single(rows: &[Row]) -> Option<&Row> {
    let singles = rows.iter().filter(|row| matches!(row.arm, Arm::Home | Arm::Foreign));
    singles.max_by(|a, b| a.mean(Score::joint).total_cmp(&b.mean(Score::joint)))
}

fn table(rows: &[Row], pairs: usize, ceiling: &Ceiling, chosen: Option<Arm>) -> String {
    let mut out = format!(
        "| {pairs} pairs | adherence | R@1 | R@5 | cosine | share of the ceiling | joint | to the better single model |\n|---|---|---|---|---|---|---|---|\n"
    );
    let best = single(rows);
    for row in rows {
        let bold = if Some(row.arm) == chosen { "**" } else { "" };
        let to_best = match best {
            Some(best) if best.arm != row.arm => {
                let (centre, error) = difference(row, best);
                format!("{centre:+.3} ± {error:.3}")
            }
            _ => "-".into(),
        };
        let _ = writeln!(
            out,
            "| {bold}{}{bold} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {bold}{:.3}{bold} | {to_best} |",
            row.arm.name(),
            row.mean(|score| score.adherence),
            row.mean(|score| score.recall(1)),
            row.mean(|score| score.recall(5)),
            row.mean(|score| score.cosine),
            row.mean(|score| score.text),
            row.mean(Score::joint),
        );
    }
    let Ceiling { cosine, recall_at_1, recall_at_5, adherence } = ceiling;
    let _ = writeln!(
        out,
        "| real pictures of the texts | {adherence:.3} | {recall_at_1:.3} | {recall_at_5:.3} | {cosine:.3} | 1 | - | - |"
    );
    out
}

fn adherence(measured: &Measured) -> String {
    let Measured { pairs, ceiling, rows, chosen, confirmed, confirmed_ceiling, confirmed_pairs, .. } = measured;
    let mut out = table(rows, pairs.len(), ceiling, *chosen);
    if !confirmed.is_empty() {
        out.push_str("\nOn other pairs, which nothing was chosen on:\n\n");
        out.push_str(&table(confirmed, confirmed_pairs.len(), confirmed_ceiling, *chosen));
    }
    out
}

/// Scores over `d` in percent, from home alone to Algorithm 1 with all the weight.
fn curves(measured: &Measured) -> Option<String> {
    let at = |row: &Row| match row.arm {
        Arm::Home => Some(0.0),
        Arm::Fused { strength, .. } if row.arm == Arm::plain(strength) => Some(100.0 * strength),
        _ => None,
    };
    let curve = |name: &str, value: &dyn Fn(&Score) -> f64| {
        let mut points: Vec<(f64, f64)> =
            measured.rows.iter().filter_map(|row| Some((at(row)?, row.mean(value)))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { name: name.into(), points }
    };
    let curves = [
        curve("adherence", &|score| score.adherence),
        curve("text, share of the ceiling", &|score| score.text),
        curve("R@5", &|score| score.recall(5)),
        curve("joint", &Score::joint),
    ];
    plot::curves(&format!("{}: scores over d in percent, until 1, constant, two_way", measured.name()), &curves, false)
}

fn at_once(rows: &[Both]) -> String {
    let Some(first) = rows.first() else { return "Not measured.\n".into() };
    let mut out = format!(
        "| {} pairs | adherence to the outline | to the picture | text | harmonic mean |\n|---|---|---|---|---|\n",
        first.scores.len()
    );
    for Both { what, scores } in rows {
        let column = |at: usize| mean(&scores.iter().map(|score| score[at]).collect::<Vec<_>>());
        let harmonic = |score: &[f64; 3]| 3.0 / score.iter().map(|value| 1.0 / value.max(1e-9)).sum::<f64>();
        let joint = mean(&scores.iter().map(harmonic).collect::<Vec<_>>());
        let _ = writeln!(out, "| {what} | {:.3} | {:.3} | {:.3} | {joint:.3} |", column(0), column(1), column(2));
    }
    out
}

fn costs(costs: &[Cost]) -> String {
    let Some(first) = costs.first() else { return "Not measured.\n".into() };
    let mut out = format!(
        "| {} drawings each, in turn | autoencoder passes | seconds, as a ratio | in this run | peak memory |\n|---|---|---|---|---|\n",
        first.seconds.len()
    );
    for Cost { what, passes, seconds, peak_bytes } in costs {
        let memory =
            if *peak_bytes > 0 { format!("{:.0} MiB", *peak_bytes as f64 / f64::from(1 << 20)) } else { "-".into() };
        let _ = writeln!(
            out,
            "| {what} | {passes} | {:.2} | {:.2} s | {memory} |",
            mean(seconds) / mean(&first.seconds),
            mean(seconds)
        );
    }
    out
}

fn large(results: &Results) -> String {
    let Some(first) = results.large.first() else { return "Not measured.\n".into() };
    let mut out = format!(
        "| {} prompts | T_low | R@1 | R@5 | cosine | roughness | seconds, as a ratio | noise correlation at 1, 2, 3 cells |\n|---|---|---|---|---|---|---|---|\n",
        results.large_pairs.len()
    );
    for Large { what, t_low, scores, roughness, seconds, autocorrelation } in &results.large {
        let row = Row { arm: Arm::Home, scores: scores.clone() };
        let correlation = autocorrelation.map_or("-".into(), |[a, b, c]| format!("{a:.3}, {b:.3}, {c:.3}"));
        let _ = writeln!(
            out,
            "| {what} | {} | {:.3} | {:.3} | {:.3} | {:.4} | {:.2} | {correlation} |",
            t_low.map_or("-".into(), |t_low| format!("{t_low}")),
            row.mean(|score| score.recall(1)),
            row.mean(|score| score.recall(5)),
            row.mean(|score| score.cosine),
            mean(roughness),
            mean(seconds) / mean(&first.seconds),
        );
    }
    let Ceiling { cosine, recall_at_1, recall_at_5, .. } = results.large_ceiling;
    let _ = writeln!(
        out,
        "| real pictures, scaled up | - | {recall_at_1:.3} | {recall_at_5:.3} | {cosine:.3} | {:.4} | - | - |",
        results.large_roughness
    );
    out
}

// ---------------------------------------------------------------------------------------------------------------------
// Sheets

/// A sheet on its way: pictures of one side, row by row.
struct Sheet<'b> {
    bench: &'b Bench<'b>,
    side: u32,
    columns: usize,
    pictures: Vec<RgbImage>,
    rows: Vec<String>,
}

impl<'b> Sheet<'b> {
    fn new(bench: &'b Bench<'b>, side: u32, columns: usize) -> Self {
        Self { bench, side, columns, pictures: Vec::new(), rows: Vec::new() }
    }

    /// Adds a row; nothing at all comes of a sheet of which a row is missing.
    fn row(&mut self, what: &str, pictures: Option<Vec<Image>>) {
        let Some(pictures) = pictures else { return };
        self.rows.push(what.into());
        let fitted: Vec<RgbImage> = pictures.into_iter().take(self.columns).map(|image| self.fitted(image)).collect();
        self.pictures.extend(fitted);
    }

    fn fitted(&self, image: Image) -> RgbImage {
        let (width, height) = (image.width as u32, image.height as u32);
        let image = image.on([255; 3]);
        let rgb = RgbImage::from_fn(width, height, |x, y| {
            let at = 4 * (y as usize * image.width + x as usize);
            image::Rgb([image.rgba[at], image.rgba[at + 1], image.rgba[at + 2]])
        });
        match (width, height) == (self.side, self.side) {
            true => rgb,
            false => imageops::resize(&rgb, self.side, self.side, imageops::FilterType::CatmullRom),
        }
    }

    fn write(self, name: &str, columns: &[String]) -> Result<()> {
        let folder = self.bench.options.out.join(SHEETS);
        std::fs::create_dir_all(&folder).map_err(|error| write_error(&folder, error))?;
        if self.rows.is_empty() {
            return Ok(());
        }
        sheet::write(&self.pictures, self.columns, &folder.join(format!("{name}.png")))?;
        let words = format!("Rows: {}.\n\nColumns: {}.\n", self.rows.join("; "), columns.join("; "));
        write_atomically(&folder.join(format!("{name}.md")), words.as_bytes())
    }
}

/// Draws the sheets into the folder of the results.
///
/// # Errors
/// As [`Bench::draw`].
pub fn sheets(bench: &Bench<'_>, results: &Results) -> Result<()> {
    for measured in &results.measured {
        companion(bench, measured)?;
        strengths(bench, measured)?;
    }
    let of = |control| {
        let mut shared = results.measured.iter().filter(|measured| measured.repertoire == Repertoire::Shared);
        shared.find(|measured| measured.control == control)
    };
    if let (Some(outline), Some(variation)) = (of(ControlKind::Outline), of(ControlKind::Variation)) {
        both(bench, outline, variation)?;
    }
    if let Some(outline) = of(ControlKind::Outline) {
        drafts(bench, outline)?;
    }
    larger(bench, results)
}

fn prompts(pairs: &[Pair]) -> Vec<String> {
    pairs.iter().map(|pair| pair.prompt.clone()).collect()
}

fn images(drawn: Option<Vec<Drawn>>) -> Option<Vec<Image>> {
    drawn.map(|drawn| drawn.into_iter().map(|drawn| drawn.image).collect())
}

/// Real pictures that the texts ask for.
fn targets(bench: &Bench<'_>, pairs: &[Pair]) -> Result<Vec<Image>> {
    pairs.iter().map(|pair| Ok(bench.dataset.picture(pair.target)?.to_straight())).collect()
}

fn pictures(bench: &Bench<'_>, pairs: &[Pair]) -> Result<Vec<Image>> {
    pairs.iter().map(|pair| pair.given(bench.dataset)).collect()
}

/// The outlines that are given.
fn lines(bench: &Bench<'_>, pairs: &[Pair]) -> Result<Vec<Image>> {
    let given = pictures(bench, pairs)?;
    given.iter().map(|image| Ok(outline(image, Reading::Auto, [score::SIDE; 2])?.to_image())).collect()
}

fn given(bench: &Bench<'_>, control: ControlKind, pairs: &[Pair]) -> Result<(&'static str, Vec<Image>)> {
    Ok(match control {
        ControlKind::Outline => ("the outline given", lines(bench, pairs)?),
        ControlKind::Variation => ("the picture given", pictures(bench, pairs)?),
    })
}

/// Pairs that nothing was chosen on, if there are any.
fn shown(measured: &Measured, columns: usize) -> &[Pair] {
    let pairs = if measured.confirmed_pairs.is_empty() { &measured.pairs } else { &measured.confirmed_pairs };
    &pairs[..columns.min(pairs.len())]
}

/// What is given, each model alone, both, and the real picture.
fn companion(bench: &Bench<'_>, measured: &Measured) -> Result<()> {
    let Measured { control, chosen: Some(chosen), .. } = measured else { return Ok(()) };
    let pairs = shown(measured, COLUMNS[0]);
    let mut sheet = Sheet::new(bench, side(bench), pairs.len());
    let (what, pictures) = given(bench, *control, pairs)?;
    sheet.row(what, Some(pictures));
    for arm in [Arm::Home, Arm::Foreign, *chosen] {
        sheet.row(&arm.name(), images(bench.arm(pairs, *control, arm)?));
    }
    sheet.row("a real picture of the text", Some(targets(bench, pairs)?));
    sheet.write(&measured.name(), &prompts(pairs))
}

/// One pair a row, weights from left to right.
fn strengths(bench: &Bench<'_>, measured: &Measured) -> Result<()> {
    let control = measured.control;
    let pairs = shown(measured, 8);
    let arms: Vec<Arm> =
        [Arm::Home].into_iter().chain([0.2, 0.4, 0.6, 0.8, 1.0].map(Arm::plain)).chain([Arm::Foreign]).collect();
    let mut sheet = Sheet::new(bench, side(bench), arms.len() + 1);
    for pair in pairs {
        let pair = std::slice::from_ref(pair);
        let mut row = given(bench, control, pair)?.1;
        for arm in &arms {
            row.extend(images(bench.arm(pair, control, *arm)?).unwrap_or_default());
        }
        if row.len() == arms.len() + 1 {
            sheet.row(&pair[0].prompt, Some(row));
        }
    }
    let (what, _) = given(bench, control, &[])?;
    let columns: Vec<String> = [what.to_owned()].into_iter().chain(arms.iter().map(Arm::name)).collect();
    sheet.write(&format!("{}-strengths", measured.name()), &columns)
}

/// Both controls at once: the outline of one design, the picture of another.
fn both(bench: &Bench<'_>, outline: &Measured, variation: &Measured) -> Result<()> {
    let pairs = shown(outline, COLUMNS[0]);
    let ways = bench.ways(pairs, outline.chosen, variation.chosen)?;
    if ways.is_empty() {
        return Ok(());
    }
    let mut sheet = Sheet::new(bench, side(bench), pairs.len());
    sheet.row("the outline given", Some(lines(bench, pairs)?));
    sheet.row("the picture given", Some(targets(bench, pairs)?));
    for (what, images) in ways {
        sheet.row(&what, Some(images));
    }
    sheet.write("both", &prompts(pairs))
}

/// The companion drafts at its own size, the home model goes on.
fn drafts(bench: &Bench<'_>, measured: &Measured) -> Result<()> {
    let (control, pairs) = (measured.control, shown(measured, COLUMNS[0]));
    let mut sheet = Sheet::new(bench, side(bench), pairs.len());
    let (what, pictures) = given(bench, control, pairs)?;
    sheet.row(what, Some(pictures));
    for arm in [Arm::Foreign].into_iter().chain(DRAFTS.map(|t_low| Arm::Draft { t_low })) {
        sheet.row(&arm.name(), images(bench.arm(pairs, control, arm)?));
    }
    sheet.row("home alone", images(bench.arm(pairs, control, Arm::Home)?));
    sheet.write("drafts", &prompts(pairs))
}

/// Twice the side: the paper's figure 3a.
fn larger(bench: &Bench<'_>, results: &Results) -> Result<()> {
    let [height, width] = bench.large_size();
    let pairs = &results.large_pairs[..COLUMNS[1].min(results.large_pairs.len())];
    let mut sheet = Sheet::new(bench, width as u32, pairs.len());
    let whole = bench.home.config().schedule.num_train_timesteps as f64;
    for (what, t_low, passage) in [
        ("directly", whole, Passage::Bridge),
        ("draft, bridge at t = 600", 600.0, Passage::Bridge),
        ("draft, noisy latent scaled at t = 600", 600.0, Passage::ScaledNoise),
        ("draft, bridge at t = 400", 400.0, Passage::Bridge),
        ("draft, noisy latent scaled at t = 400", 400.0, Passage::ScaledNoise),
    ] {
        let mut drawn = Vec::new();
        for pair in pairs {
            let request = bench.request(pair, ControlKind::Outline, Arm::Home)?;
            let upsampler = Some("bicubic".into());
            let request =
                Request { width: Some(width), height: Some(height), t_low: Some(t_low), upsampler, ..request };
            let Some((one, _)) = bench.draw(&bench.home, &request, passage)? else { return Ok(()) };
            drawn.push(one.image);
        }
        sheet.row(what, Some(drawn));
    }
    sheet.write("resolutions", &prompts(pairs))
}

fn side(bench: &Bench<'_>) -> u32 {
    bench.home.config().image.width as u32
}
