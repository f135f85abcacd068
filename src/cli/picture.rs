//! Pictures from files, and `pangu-draw outline`: what a ControlNet sees of one.

use super::files::{check_writable, write_atomically};
use crate::{
    Error, Image, Result,
    control::{self, Reading},
    pipeline::{Control, config::ControlKind},
};
use clap::{Args, ValueEnum};
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Reads a PNG, JPEG, WebP, GIF (its first frame) or BMP file, whatever it is called: turned as its EXIF data say, with its
/// transparency. Its sides are checked before anything is decoded.
///
/// # Errors
/// [`Error::Read`]; [`Error::Corrupt`] for what is no such picture; [`Error::Invalid`] as [`Image::check_size`].
pub fn read(path: &Path) -> Result<Image> {
    let what = || path.display().to_string();
    let unreadable = |error: std::io::Error| Error::Read { what: what(), why: error.to_string() };
    let broken = |error: ImageError| match error {
        ImageError::IoError(error) if error.kind() != ErrorKind::UnexpectedEof => unreadable(error),
        ImageError::Unsupported(_) => {
            Error::Corrupt { what: what(), why: "it is no PNG, JPEG, WebP, GIF or BMP picture".into() }
        }
        error => Error::Corrupt { what: what(), why: error.to_string() },
    };
    let mut reader = ImageReader::open(path).map_err(unreadable)?;
    // What a file is called says nothing about what is in it.
    reader.clear_format();
    let mut reader = reader.with_guessed_format().map_err(unreadable)?;
    let mut limits = Limits::default();
    // Four channels of two bytes, and the decoder's own buffers.
    limits.max_alloc = Some(12 * Image::MAX_PIXELS as u64);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    Image::check_size(width as usize, height as usize).map_err(|error| match error {
        Error::Invalid { parameter, why } => Error::Invalid { parameter, why: format!("{} {why}", path.display()) },
        error => error,
    })?;
    let orientation = decoder.orientation().map_err(broken)?;
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(broken)?;
    decoded.apply_orientation(orientation);
    let decoded = decoded.into_rgba8();
    Image::new(decoded.width() as usize, decoded.height() as usize, decoded.into_raw())
}

/// `KIND=PATH[:STRENGTH]`. A path may hold colons: only a number after the last one is a strength.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlArg {
    kind: ControlKind,
    path: PathBuf,
    strength: Option<f64>,
}

impl ControlArg {
    /// Reads the argument.
    ///
    /// # Errors
    /// One line for a person.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || Error::Invalid { parameter: "control", why: format!("`{text}` is not KIND=PATH[:STRENGTH]") };
        let (kind, rest) = text.split_once('=').ok_or_else(invalid)?;
        let (path, [strength]) = trailing_numbers(rest);
        if path.is_empty() {
            return Err(invalid());
        }
        Ok(Self { kind: kind.parse()?, path: path.into(), strength })
    }

    /// The control, its picture read, which acts `until` that share of the schedule.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&self, until: Option<f64>) -> Result<Control> {
        Ok(Control { strength: self.strength, until, ..Control::new(self.kind, read(&self.path)?) })
    }
}

/// Takes up to `N` numbers, each after a colon, from the end of `text`; what is before them may hold colons itself.
pub fn trailing_numbers<const N: usize>(text: &str) -> (&str, [Option<f64>; N]) {
    let number = |text: &str| {
        // `inf` and `nan` are names of files.
        let digits = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        text.parse().ok().filter(|_| digits)
    };
    let (mut rest, mut found) = (text, Vec::new());
    while found.len() < N
        && let Some((before, last)) = rest.rsplit_once(':')
        && let Some(value) = number(last)
    {
        rest = before;
        found.insert(0, value);
    }
    let mut numbers = [None; N];
    numbers.iter_mut().zip(found).for_each(|(number, value)| *number = Some(value));
    (rest, numbers)
}

/// Reads `WIDTHxHEIGHT`.
///
/// # Errors
/// One line for a person.
pub fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.ok_or_else(|| format!("`{text}` is not WIDTHxHEIGHT"))
}

/// What a picture is taken for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ReadingArg {
    /// Whichever it looks like.
    Auto,
    /// A drawing of lines.
    Drawing,
    /// A picture of areas.
    Picture,
}

/// Arguments of `pangu-draw outline`.
#[derive(Debug, Args)]
pub struct OutlineArgs {
    /// Any picture, or a drawing of lines.
    picture: PathBuf,
    /// Size of the outline, WIDTHxHEIGHT in pixels.
    #[arg(long, default_value = "64x64", value_parser = parse_size)]
    size: (usize, usize),
    /// What the picture is taken for.
    #[arg(long, default_value = "auto")]
    reading: ReadingArg,
    /// PNG to write: dark lines on white.
    #[arg(short, long, default_value = "lines.png")]
    output: PathBuf,
}

impl OutlineArgs {
    /// Writes the outline.
    ///
    /// # Errors
    /// As [`read`] and [`control::outline`]; [`Error::Write`].
    pub fn run(self) -> Result<()> {
        check_writable(&self.output)?;
        let reading = match self.reading {
            ReadingArg::Auto => Reading::Auto,
            ReadingArg::Drawing => Reading::Drawing,
            ReadingArg::Picture => Reading::Picture,
        };
        let lines = control::outline(&read(&self.picture)?, reading, [self.size.1, self.size.0])?;
        write_atomically(&self.output, &lines.to_image().to_png(&[])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_after_the_last_colon_is_a_strength() {
        for (text, path, strength) in [
            ("outline=a.png", "a.png", None),
            ("outline=a.png:0.6", "a.png", Some(0.6)),
            ("outline=a.png:-1", "a.png", Some(-1.0)),
            ("outline=C:a=b.png", "C:a=b.png", None),
            ("outline=10:30:.5", "10:30", Some(0.5)),
            ("outline=a:nan", "a:nan", None),
            ("outline=a.png:", "a.png:", None),
        ] {
            let found = ControlArg::parse(text).unwrap();
            assert_eq!(found, ControlArg { kind: ControlKind::Outline, path: path.into(), strength }, "{text}");
        }
        for text in ["outline", "outline=", "outline=:0.5", "pose=a.png", "=a.png"] {
            assert!(matches!(ControlArg::parse(text), Err(Error::Invalid { .. })), "{text}");
        }
        assert_eq!(trailing_numbers("sketch:0.4:0.8"), ("sketch", [Some(0.4), Some(0.8)]));
        assert_eq!(trailing_numbers("sketch:0.4"), ("sketch", [Some(0.4), None]));
    }
}
