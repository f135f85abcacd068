//! The report as files: `eval.json` with every number, `report.html` with the numbers and the pictures in one page that
//! needs nothing else, `sheet.png` with the fifty prompts.

use super::{
    super::{
        data::{picture::Picture, scene::Language},
        session::write_atomically,
        sheet, write_error,
    },
    Alignment, CopyScores, Question, Report, Shown,
};
use crate::Result;
use image::{ImageEncoder, RgbImage, codecs::png};
use std::{fmt::Write, path::Path};

/// Pictures in one row of the sheet.
const COLUMNS: usize = 10;

/// Writes the report into a folder.
///
/// # Errors
/// [`crate::Error::Write`].
pub fn write(report: &Report, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| write_error(dir, error))?;
    let json = serde_json::to_string_pretty(report).expect("plain data");
    let pictures: Vec<RgbImage> = report.sheet.iter().map(|(_, picture)| on_white(picture)).collect();
    sheet::write(&pictures, COLUMNS, &dir.join("sheet.png"))?;
    write_atomically(&dir.join("report.html"), html(report).as_bytes())?;
    write_atomically(&dir.join("eval.json"), json.as_bytes())
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --good: #2a7d3f; --bad: #c0392b }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
.met { color: var(--good); font-weight: 600 } .missed { color: var(--bad); font-weight: 600 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem }
.sheet { grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)) }
figure { margin: 0 } figcaption { font-size: .85rem; overflow-wrap: anywhere }
img { width: 5rem; height: 5rem; background: #fff; border-radius: .4rem; border: 1px solid var(--line) }
small { opacity: .75 }
";

/// The report as one page.
pub fn html(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Evaluation</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n<body>\n<h1>Evaluation</h1>\n"
    );
    let guidance = report.guidance.map_or("the model's own guidance".into(), |scale| format!("guidance {scale}"));
    let _ = writeln!(
        page,
        "<p>Features of {}. Drawings in {} steps with {guidance}, seed {}.</p>",
        escape(&report.features),
        report.steps,
        report.seed
    );
    targets(&mut page, report);
    alignment(&mut page, report);
    distances(&mut page, report);
    copying(&mut page, report);
    few_steps(&mut page, report);
    pictures(&mut page, report);
    page.push_str("</body></html>\n");
    page
}

fn table(page: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let row = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: String = cells.map(|cell| format!("<{tag}>{cell}</{tag}>")).collect();
        format!("<tr>{cells}</tr>\n")
    };
    page.push_str("<table>\n");
    page.push_str(&row("th", &mut head.iter().copied()));
    for cells in rows {
        page.push_str(&row("td", &mut cells.iter().map(String::as_str)));
    }
    page.push_str("</table>\n");
}

fn targets(page: &mut String, report: &Report) {
    if report.targets.is_empty() {
        return;
    }
    page.push_str("<h2>Targets</h2>\n");
    let rows = report.targets.iter().map(|target| {
        let (class, word) = if target.met { ("met", "met") } else { ("missed", "missed") };
        let verdict = format!("<span class=\"{class}\">{word}</span>");
        vec![escape(&target.what), format!("{:.3}", target.value), format!("{:.2}", target.at_least), verdict]
    });
    table(page, &["target", "measured", "at least", ""], rows);
}

fn name(question: Question) -> &'static str {
    match question {
        Question::Seen => "seen",
        Question::SeenCore => "seen, core list",
        Question::Tone => "unseen tone of a person or hand",
        Question::Style => "unseen style of a concept",
        Question::Colour => "unseen colour of a glyph",
        Question::Composite => "unseen background or pair",
        Question::Language => "never named in this language",
        Question::Keyword => "unseen keyword",
        Question::Concept => "unseen concept",
    }
}

fn alignment(page: &mut String, report: &Report) {
    page.push_str("<h2>Text alignment</h2>\n<p>How often a picture's own caption, without its style, is the nearest of all captions of its kind (R@1), or one of the five nearest (R@5). The ceiling is what the real pictures of the same prompts score.</p>\n");
    let row = |a: &Alignment| {
        let share = |value: Option<f32>| value.map_or("-".into(), |value| format!("{value:.3}"));
        let drawn = |value: fn(&super::Scores) -> f32| share(a.drawn.as_ref().map(value));
        vec![
            format!("{}, {}", name(a.question), a.language.id()),
            a.real.pictures.to_string(),
            a.drawn.map_or("-".into(), |drawn| format!("{:.3} ± {:.3}", drawn.recall_at_1, drawn.error)),
            drawn(|scores| scores.recall_at_5),
            a.drawn.map_or("-".into(), |drawn| drawn.median_rank.to_string()),
            format!("{:.3}", a.real.recall_at_1),
            format!("{:.3}", a.real.recall_at_5),
            share(a.share_of_ceiling),
            format!("{:.4}", a.real.chance),
        ]
    };
    let head = [
        "split",
        "prompts",
        "R@1",
        "R@5",
        "median rank",
        "ceiling R@1",
        "ceiling R@5",
        "share of ceiling",
        "chance R@1",
    ];
    table(page, &head, report.alignment.iter().map(row));
}

fn distances(page: &mut String, report: &Report) {
    let Some(scores) = report.frechet else { return };
    let _ = writeln!(
        page,
        "<h2>Frechet distance in the features of {}</h2>\n<p>Squared distances between Gaussians of {} pictures each. Small sets are biased upward, so only sets of this size compare.</p>",
        escape(&report.features),
        scores.pictures
    );
    let rows = [
        ("drawings of what was seen - held-out real pictures", scores.drawn_to_held_out),
        ("drawings of what was seen - training pictures", scores.drawn_to_training),
        ("held-out real pictures - training pictures", scores.held_out_to_training),
        ("floor: training pictures - other training pictures", scores.training_split_half),
    ];
    table(page, &["sets", "distance"], rows.map(|(sets, distance)| vec![sets.into(), format!("{distance:.4}")]));
}

fn copying(page: &mut String, report: &Report) {
    let Some(copying) = &report.copying else { return };
    let _ = writeln!(
        page,
        "<h2>Copying</h2>\n<p>The nearest of {} training pictures. Of {} pairs of one thing in two styles, one in twenty has a cosine above {:.3}, and one in twenty a pixel difference (root mean square on white, 32 px) below {:.3}: what is nearer than that in both is called a near-duplicate.</p>",
        copying.gallery, copying.threshold.pairs, copying.threshold.cosine, copying.threshold.difference
    );
    let row = |what: &str, scores: &CopyScores| {
        let shares =
            [scores.near_by_feature, scores.near_by_pixel, scores.near_duplicates, scores.nearest_shows_concept];
        let mut cells = vec![what.to_owned(), scores.pictures.to_string()];
        cells.extend(shares.map(|share| format!("{share:.3}")));
        cells.push(format!("{:.3}", scores.mean_difference));
        cells
    };
    let head = [
        "",
        "pictures",
        "near by feature",
        "near by pixel",
        "near-duplicates",
        "nearest shows the concept",
        "mean difference",
    ];
    let rows = [row("drawings of what was seen", &copying.drawn), row("held-out real pictures", &copying.held_out)];
    table(page, &head, rows);
}

fn few_steps(page: &mut String, report: &Report) {
    let Some(scores) = report.few_steps else { return };
    let [few, many] = scores.steps;
    let _ = writeln!(
        page,
        "<h2>{few} steps against {many}</h2>\n<p>{} prompts of what was seen, dpmpp_2m. R@1: {:.3} in {few} steps, {:.3} in {many}.</p>",
        scores.prompts, scores.recall_at_1[0], scores.recall_at_1[1]
    );
    let row = |what: String, [psnr, cosine]: [f32; 2]| vec![what, format!("{psnr:.2} dB"), format!("{cosine:.3}")];
    let rows = [
        row(format!("{few} and {many} steps of one seed"), scores.between_steps),
        row(format!("{many} steps of two seeds"), scores.between_seeds),
    ];
    table(page, &["between", "mean PSNR", "mean cosine"], rows);
}

fn pictures(page: &mut String, report: &Report) {
    if !report.sheet.is_empty() {
        page.push_str("<h2>Fifty prompts</h2>\n<div class=\"grid sheet\">\n");
        for (prompt, picture) in &report.sheet {
            let _ = writeln!(page, "<figure>{}<figcaption>{}</figcaption></figure>", img(picture), escape(prompt));
        }
        page.push_str("</div>\n");
    }
    for question in Question::ALL {
        for language in Language::ALL {
            let mut shown = report.shown.iter().filter(|s| (s.question, s.language) == (question, language)).peekable();
            if shown.peek().is_none() {
                continue;
            }
            let _ = writeln!(
                page,
                "<h2>{}, {}</h2>\n<p>Each drawing, and beside it the training picture that is nearest by pixel.</p>\n<div class=\"grid\">",
                name(question),
                language.id()
            );
            shown.for_each(|shown| page.push_str(&figure(shown)));
            page.push_str("</div>\n");
        }
    }
}

fn figure(shown: &Shown) -> String {
    let copy = if shown.copy { ", <span class=\"missed\">near-duplicate</span>" } else { "" };
    format!(
        "<figure>{} {}<figcaption>{} <small>{}<br>rank {} of {}, difference {:.3}, cosine {:.2}{copy}</small></figcaption></figure>\n",
        img(&shown.drawing),
        img(&shown.nearest),
        escape(&shown.prompt),
        shown.style.id(),
        shown.rank.rank,
        shown.rank.of,
        shown.nearness.by_pixel.1,
        shown.nearness.cosine,
    )
}

fn on_white(picture: &Picture) -> RgbImage {
    let side = picture.side as u32;
    RgbImage::from_raw(side, side, picture.on_grey(255)).expect("three bytes a pixel")
}

fn img(picture: &Picture) -> String {
    let mut bytes = Vec::new();
    let side = picture.side as u32;
    let encoder = png::PngEncoder::new_with_quality(&mut bytes, png::CompressionType::Best, png::FilterType::Adaptive);
    encoder
        .write_image(&picture.on_grey(255), side, side, image::ExtendedColorType::Rgb8)
        .expect("memory can always be written");
    format!("<img alt=\"\" src=\"data:image/png;base64,{}\">", base64(&bytes))
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= chunk.len() { char::from(ALPHABET[value as usize]) } else { '=' });
        }
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn prompts_cannot_become_markup() {
        assert_eq!(escape("<b> & \"c\""), "&lt;b&gt; &amp; &quot;c&quot;");
    }
}
