//! The loss log as a picture.

use super::{read_error, session::write_atomically};
use crate::Result;
use std::{fmt::Write, path::Path};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 48.0;

/// Draws the `loss` column of a log over its `samples` column into an SVG, the loss on a logarithmic axis.
///
/// # Errors
/// [`crate::Error::Read`] or [`crate::Error::Write`]; a log of fewer than two lines draws nothing.
pub fn losses(log: &Path, svg: &Path) -> Result<()> {
    let text = std::fs::read_to_string(log).map_err(|error| read_error(log, error))?;
    let points: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| {
            let fields: Vec<f64> = line.split(',').map_while(|field| field.parse().ok()).collect();
            fields.get(3).filter(|loss| **loss > 0.0).map(|loss| (fields[1], loss.ln()))
        })
        .collect();
    if points.len() < 2 {
        return Ok(());
    }
    let last = points[points.len() - 1].0;
    let (low, high) = points.iter().fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p.1), high.max(p.1)));
    let x = |samples: f64| MARGIN + samples / last * (WIDTH - 2.0 * MARGIN);
    let y = |loss: f64| HEIGHT - MARGIN - (loss - low) / (high - low).max(1e-6) * (HEIGHT - 2.0 * MARGIN);

    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
"##
    );
    for i in 0..=4 {
        let (loss, samples) = (low + (high - low) * f64::from(i) / 4.0, last * f64::from(i) / 4.0);
        let _ = writeln!(
            out,
            r##"<path d="M{MARGIN} {y:.1}H{right}" stroke="#ddd"/><text x="4" y="{y:.1}">{:.3}</text><text x="{:.1}" y="{}" text-anchor="middle">{samples:.0}</text>"##,
            loss.exp(),
            x(samples),
            HEIGHT - MARGIN / 2.0,
            y = y(loss),
            right = WIDTH - MARGIN,
        );
    }
    let line: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
    let _ = writeln!(out, r##"<polyline points="{}" fill="none" stroke="#36c" stroke-width="1.5"/>"##, line.join(" "));
    let _ = writeln!(out, r#"<text x="{}" y="{}" text-anchor="middle">loss over samples</text>"#, WIDTH / 2.0, 24.0);
    out.push_str("</svg>\n");
    write_atomically(svg, out.as_bytes())
}
