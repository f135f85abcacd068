//! Where drawings come from: emoji fonts as SVG, IconPark's painted glyphs, clip art, sprites that have no vector original.

use super::{
    super::concepts::{Concept, Group, Words, hex_key},
    packages::{DebianPackage, Package},
    picture::{Picture, SIDE},
    scene::{Colour, StyleId},
};
use crate::{Error, Result};
use resvg::{tiny_skia, usvg};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Names and keywords of every emoji in English and Chinese (MIT).
pub const NAMES: Package = Package { name: "emojibase-data", version: "17.0.0" };
/// IconPark's glyphs with their Chinese titles (Apache-2.0).
pub const ICON_PARK: Package = Package { name: "@icon-park/svg", version: "1.4.2" };
/// Google's emoji as they were, 64 px (images: Apache-2.0).
pub const SPRITES: Package = Package { name: "emoji-datasource-google", version: "16.0.0" };
/// The Open Clip Art Library (public domain).
pub const CLIP_ART: DebianPackage = DebianPackage { name: "openclipart-svg", version: "1:0.18+dfsg-19" };

impl StyleId {
    /// The package that an emoji style's pictures come from.
    pub fn package(self) -> Option<Package> {
        let (name, version) = match self {
            Self::Flat => ("@iconify-json/fluent-emoji-flat", "1.2.6"),
            Self::ThreeD => ("@lobehub/fluent-emoji-3d", "1.1.0"),
            Self::Cartoon => ("@iconify-json/noto", "1.2.9"),
            Self::Sticker => ("@iconify-json/twemoji", "1.2.5"),
            Self::Line => ("@iconify-json/fluent-emoji-high-contrast", "1.2.6"),
            Self::Retro => ("@iconify-json/noto-v1", "1.2.5"),
            Self::Classic => ("@iconify-json/emojione", "1.2.3"),
            Self::Soft => ("@iconify-json/fxemoji", "1.2.2"),
            Self::OutlineIcon | Self::FilledIcon | Self::TwoToneIcon | Self::ClipArt => return None,
        };
        Some(Package { name, version })
    }
}

/// A drawing that can be rendered at any side.
pub enum Drawing {
    /// SVG source.
    Vector(String),
    /// An encoded raster image with transparency.
    Raster(Vec<u8>),
}

impl Drawing {
    /// The drawing within a square of `side` pixels, centred.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn render(&self, side: usize) -> Result<Picture> {
        let corrupt = |why: String| Error::Corrupt { what: "drawing".into(), why };
        match self {
            Self::Vector(svg) => {
                let tree = usvg::Tree::from_str(svg, &usvg::Options::default()).map_err(|e| corrupt(e.to_string()))?;
                let mut pixmap = tiny_skia::Pixmap::new(side as u32, side as u32).expect("a side above 0");
                let (width, height) = (tree.size().width(), tree.size().height());
                let scale = side as f32 / width.max(height);
                let [left, top] = [width, height].map(|length| (side as f32 - length * scale) / 2.0);
                let transform = tiny_skia::Transform::from_scale(scale, scale).post_translate(left, top);
                resvg::render(&tree, transform, &mut pixmap.as_mut());
                Ok(Picture::new(side, pixmap.take()))
            }
            Self::Raster(bytes) => {
                let image = image::load_from_memory(bytes).map_err(|e| corrupt(e.to_string()))?.to_rgba8();
                if image.width() != image.height() {
                    return Err(corrupt(format!("{} by {} pixels, not square", image.width(), image.height())));
                }
                Ok(Picture::from_straight(&image).resized(side))
            }
        }
    }
}

/// The subset of an `@iconify-json` package that is read.
#[derive(Deserialize)]
struct Icons {
    icons: HashMap<String, Icon>,
    #[serde(default)]
    aliases: HashMap<String, Alias>,
    width: Option<f32>,
    height: Option<f32>,
}

#[derive(Deserialize)]
struct Icon {
    body: String,
    width: Option<f32>,
    height: Option<f32>,
}

#[derive(Deserialize)]
struct Alias {
    parent: String,
}

/// Every drawing of an emoji style by its code points; `names` finds the code points of a package that has only names.
///
/// # Errors
/// If the package cannot be fetched or is damaged.
pub fn emoji(style: StyleId, cache: &Path, names: &dyn Fn() -> Result<Slugs>) -> Result<HashMap<String, Drawing>> {
    let package = style.package().expect("an emoji style");
    if style == StyleId::ThreeD {
        let files = package.files(cache, |name| name.starts_with("assets/") && name.ends_with(".webp"))?;
        let key = |name: &str| hex_key(name.trim_start_matches("assets/").trim_end_matches(".webp"));
        return Ok(files.into_iter().map(|(name, bytes)| (key(&name), Drawing::Raster(bytes))).collect());
    }
    let icons: Icons = package.json(cache, "icons.json")?;
    let chars: HashMap<String, String> = package.json(cache, "chars.json")?;
    let svg = |icon: &Icon| {
        let width = icon.width.or(icons.width).unwrap_or(16.0);
        let height = icon.height.or(icons.height).unwrap_or(16.0);
        Drawing::Vector(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{}</svg>"#,
            icon.body
        ))
    };
    let mut drawings = HashMap::new();
    if chars.is_empty() {
        let names = names()?;
        let all = icons.icons.keys().map(|name| (name, name));
        for (name, icon) in all.chain(icons.aliases.iter().map(|(name, alias)| (name, &alias.parent))) {
            if let (Some(key), Some(icon)) = (names.get(&slug(name)), icons.icons.get(icon)) {
                drawings.insert(key.clone(), svg(icon));
            }
        }
    }
    for (hex, name) in chars {
        let name = icons.aliases.get(&name).map_or(&name, |alias| &alias.parent);
        if let Some(icon) = icons.icons.get(name) {
            drawings.insert(hex_key(&hex), svg(icon));
        }
    }
    Ok(drawings)
}

/// Code points by name, see [`slugs`].
pub type Slugs = HashMap<String, String>;

/// A name without what packages differ in.
fn slug(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Code points by the names of packages that have both, and by the concepts' English names.
///
/// # Errors
/// If a package cannot be fetched or is damaged.
pub fn slugs(cache: &Path, concepts: &[Concept]) -> Result<Slugs> {
    let names = concepts.iter().filter_map(|concept| Some((slug(concept.en.names.last()?), concept.key.clone())));
    let mut slugs: Slugs = names.collect();
    for style in [StyleId::Sticker, StyleId::Cartoon] {
        let package = style.package().expect("an emoji style");
        let chars: BTreeMap<String, String> = package.json(cache, "chars.json")?;
        slugs.extend(chars.into_iter().map(|(hex, name)| (slug(&name), hex_key(&hex))));
    }
    Ok(slugs)
}

/// An entry of IconPark's `icons.json`.
#[derive(Deserialize)]
struct Glyph {
    title: String,
    name: String,
    category: String,
    #[serde(default)]
    tag: Vec<String>,
}

/// Categories of IconPark that show things one can point at; the others are signs of user interfaces, and brands.
const GLYPH_CATEGORIES: [&str; 18] = [
    "Foods", "Travel", "Sports", "Clothes", "Health", "Build", "Hands", "Music", "Baby", "Makeups", "Emoji", "Game",
    "Animals", "Energy", "Life", "Weather", "Industry", "Hardware",
];

/// IconPark's glyphs: concepts, and templates to paint.
///
/// # Errors
/// If the package cannot be fetched or is damaged.
pub fn glyphs(cache: &Path) -> Result<Vec<(Concept, GlyphDrawing)>> {
    let glyphs: Vec<Glyph> = ICON_PARK.json(cache, "icons.json")?;
    let sources = ICON_PARK.files(cache, |name| name.starts_with("lib/icons/") && name.ends_with(".js"))?;
    let mut sources: HashMap<String, String> = sources
        .into_iter()
        .map(|(name, bytes)| {
            let name = name.trim_start_matches("lib/icons/").trim_end_matches(".js");
            (slug(name), String::from_utf8_lossy(&bytes).into_owned())
        })
        .collect();
    let wanted = glyphs.into_iter().filter(|glyph| GLYPH_CATEGORIES.contains(&glyph.category.as_str()));
    let drawn = wanted.filter_map(|glyph| {
        let drawing = GlyphDrawing(sources.remove(&slug(&glyph.name))?);
        let name = glyph.name.replace('-', " ");
        let keywords = glyph.tag.into_iter().filter(|tag| *tag != glyph.title).collect();
        let concept = Concept {
            key: format!("icon:{}", glyph.name),
            group: Group::Icons,
            core: false,
            en: Words { names: vec![name], keywords: Vec::new() },
            zh: Words { names: vec![glyph.title], keywords },
            tones: Default::default(),
        };
        drawing.paint(StyleId::FilledIcon, Colour::Red).map(|_| (concept, drawing))
    });
    Ok(drawn.collect())
}

/// The JavaScript of one of IconPark's glyphs: a concatenation of string literals and of `props.NAME`.
pub struct GlyphDrawing(String);

impl GlyphDrawing {
    /// The glyph's SVG, painted as IconPark's runtime would; `None` if the source reads otherwise.
    pub fn paint(&self, style: StyleId, colour: Colour) -> Option<Drawing> {
        let hex = |[r, g, b]: [u8; 3]| format!("#{r:02x}{g:02x}{b:02x}");
        let colour = colour.names().2;
        let ink = hex(colour);
        let tint = hex(colour.map(|c| (u16::from(c) / 3 + 170) as u8));
        let colours: [&str; 4] = match style {
            StyleId::FilledIcon => [&ink, &ink, "#fff", "#fff"],
            StyleId::TwoToneIcon => [&ink, &tint, &ink, &tint],
            _ => [&ink, "none", &ink, "none"],
        };
        let start = self.0.find("return '")? + "return ".len();
        let end = self.0[start..].find("';")? + start + 1;
        let mut svg = String::new();
        for part in split_concatenation(&self.0[start..end]) {
            if let Some(text) = part.strip_prefix('\'') {
                svg.push_str(text.strip_suffix('\'')?);
            } else {
                svg.push_str(match part.trim() {
                    "props.size" => "48",
                    "props.strokeWidth" => "4",
                    "props.strokeLinecap" | "props.strokeLinejoin" => "round",
                    "props.id" => "glyph",
                    "props.colors[0]" => colours[0],
                    "props.colors[1]" => colours[1],
                    "props.colors[2]" => colours[2],
                    "props.colors[3]" => colours[3],
                    _ => return None,
                });
            }
        }
        Some(Drawing::Vector(svg))
    }
}

/// The operands of `'a' + b + 'c'`; literals keep their quotes.
fn split_concatenation(source: &str) -> Vec<&str> {
    let (mut parts, mut quoted, mut from) = (Vec::new(), false, 0);
    for (at, c) in source.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '+' if !quoted => {
                parts.push(source[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(source[from..].trim());
    parts
}

/// Folders of the clip art library that hold drawings of single things.
const CLIP_ART_FOLDERS: [&str; 16] = [
    "animals/",
    "food/",
    "transportation/vehicles",
    "transportation/boating",
    "plants/",
    "buildings/",
    "tools/",
    "office/",
    "electronics/",
    "geography/astronomy",
    "recreation/music",
    "recreation/sports",
    "recreation/toys",
    "recreation/party",
    "people/clothing",
    "unsorted/",
];

/// Drawings of the public domain whose titles name one of `concepts` (by index), so that it has a Chinese name too.
///
/// # Errors
/// If the package cannot be fetched or is damaged.
pub fn clip_art(cache: &Path, concepts: &[Concept]) -> Result<Vec<(usize, Drawing)>> {
    const ROOT: &str = "usr/share/openclipart/svg/";
    let files = CLIP_ART.files(cache, |name| {
        name.strip_prefix(ROOT).is_some_and(|name| {
            name.ends_with(".svg") && CLIP_ART_FOLDERS.iter().any(|folder| name.starts_with(folder))
        })
    })?;
    let things = [Group::Animals, Group::Food, Group::Travel, Group::Activities, Group::Objects];
    let mut names: HashMap<Vec<String>, usize> = HashMap::new();
    for (index, concept) in concepts.iter().enumerate().filter(|(_, concept)| things.contains(&concept.group)) {
        for name in &concept.en.names {
            names.entry(words(name)).or_insert(index);
        }
    }
    let mut found = BTreeMap::new();
    for (path, bytes) in files {
        let svg = String::from_utf8_lossy(&bytes);
        let licence = svg.find("<cc:license").or_else(|| svg.find("<license")).map(|at| &svg[at..]);
        let public = licence.is_some_and(|text| {
            let end = text.find('>').unwrap_or(text.len());
            text[..end].to_lowercase().contains("publicdomain")
        });
        let title = svg.find("<dc:title>").and_then(|at| svg[at + 10..].split('<').next());
        if let (true, Some(title)) = (public, title)
            && let Some(concept) = named(&words(title), &names)
        {
            found.insert(path, (concept, Drawing::Vector(svg.into_owned())));
        }
    }
    Ok(found.into_values().collect())
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// The concept with the longest name within `title`.
fn named(title: &[String], names: &HashMap<Vec<String>, usize>) -> Option<usize> {
    (1..=title.len().min(3)).rev().find_map(|length| title.windows(length).find_map(|run| names.get(run).copied()))
}

/// Mean difference (of 255) from which a sprite counts as another drawing than the current vector one; below, it is the
/// same picture rendered by somebody else.
const OTHER_DESIGN: f32 = 15.0;

/// Sprites of 64 px that have no vector original: flags, and designs that were replaced since. By code points.
///
/// # Errors
/// If the package cannot be fetched or is damaged.
pub fn sprites(cache: &Path, current: &HashMap<String, Drawing>) -> Result<BTreeMap<String, Picture>> {
    const ROOT: &str = "img/google/64/";
    let files = SPRITES.files(cache, |name| name.starts_with(ROOT) && name.ends_with(".png"))?;
    let mut sprites = BTreeMap::new();
    for (name, bytes) in files {
        let key = hex_key(name.trim_start_matches(ROOT).trim_end_matches(".png"));
        let Ok(sprite) = Drawing::Raster(bytes).render(64) else { continue };
        let same = match current.get(&key) {
            Some(drawing) => drawing.render(64)?.difference(&sprite) <= OTHER_DESIGN,
            None => false,
        };
        if !same {
            sprites.insert(key, sprite.resized(SIDE));
        }
    }
    Ok(sprites)
}
