//! Curves as an SVG picture.

use super::{read_error, session::write_atomically};
use crate::Result;
use std::{fmt::Write, path::Path};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 48.0;
const COLOURS: [&str; 7] = ["#36c", "#d52", "#293", "#a3a", "#a70", "#099", "#555"];
/// Up to so many points are marked one by one.
const MARKED: usize = 32;

/// One curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What the legend calls it; a lone curve needs no name.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// Draws `curves` over one pair of axes, each spanning what the curves span; `logarithmic` is the vertical one. Nothing if
/// there are not two points.
pub fn curves(title: &str, curves: &[Curve], logarithmic: bool) -> Option<String> {
    let scale = |value: f64| if logarithmic { value.ln() } else { value };
    let points = || curves.iter().flat_map(|curve| &curve.points).map(|&(x, y)| (x, scale(y)));
    if points().count() < 2 {
        return None;
    }
    let span = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (left, right) = span(&mut points().map(|point| point.0));
    let (low, high) = span(&mut points().map(|point| point.1));
    let x = |value: f64| MARGIN + (value - left) / (right - left).max(1e-9) * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - (value - low) / (high - low).max(1e-9) * (HEIGHT - 2.0 * MARGIN);

    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
"##
    );
    for i in 0..=4 {
        let (across, up) = (left + (right - left) * f64::from(i) / 4.0, low + (high - low) * f64::from(i) / 4.0);
        let label = if logarithmic { up.exp() } else { up };
        let _ = writeln!(
            out,
            r##"<path d="M{MARGIN} {y:.1}H{end}" stroke="#ddd"/><text x="4" y="{y:.1}">{label:.3}</text><text x="{:.1}" y="{}" text-anchor="middle">{across:.0}</text>"##,
            x(across),
            HEIGHT - MARGIN / 2.0,
            y = y(up),
            end = WIDTH - MARGIN,
        );
    }
    for (index, Curve { name, points }) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let places: Vec<(f64, f64)> = points.iter().map(|&(across, up)| (x(across), y(scale(up)))).collect();
        let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#,
            line.join(" ")
        );
        for (x, y) in places.iter().filter(|_| places.len() <= MARKED) {
            let _ = writeln!(out, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#);
        }
        let (at, line) = (WIDTH - MARGIN - 8.0, MARGIN + 16.0 * index as f64);
        let _ = writeln!(out, r#"<text x="{at}" y="{line}" text-anchor="end" fill="{colour}">{name}</text>"#);
    }
    let _ = writeln!(out, r#"<text x="{}" y="{}" text-anchor="middle">{title}</text>"#, WIDTH / 2.0, 24.0);
    out.push_str("</svg>\n");
    Some(out)
}

/// Draws the `loss` column of a log over its `samples` column into an SVG, the loss on a logarithmic axis.
///
/// # Errors
/// [`crate::Error::Read`] or [`crate::Error::Write`]; a log of fewer than two lines draws nothing.
pub fn losses(log: &Path, svg: &Path) -> Result<()> {
    let text = std::fs::read_to_string(log).map_err(|error| read_error(log, error))?;
    let point = |line: &str| {
        let fields: Vec<f64> = line.split(',').map_while(|field| field.parse().ok()).collect();
        fields.get(3).filter(|loss| **loss > 0.0).map(|loss| (fields[1], *loss))
    };
    let curve = Curve { name: String::new(), points: text.lines().filter_map(point).collect() };
    match curves("loss over samples", &[curve], true) {
        Some(picture) => write_atomically(svg, picture.as_bytes()),
        None => Ok(()),
    }
}
