//! The data set: emoji drawings of several styles from pinned packages, rendered on white and packed into one file.
//!
//! A picture belongs to a *concept* (a code point, with its names in two languages) and a *style* (the package it comes
//! from). To make PanGu-Draw's split real, a share of the (concept, style) pairs exists only as a small rendering
//! scaled up: the structure expert may see those, the texture expert never does.

use super::{
    concepts::{Concept, hex_key, read_names},
    read_error, write_error,
};
use crate::{Error, Result};
use flate2::read::GzDecoder;
use image::{RgbImage, imageops, imageops::FilterType};
use resvg::{tiny_skia, usvg};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

/// Side of a high-resolution picture in pixels.
pub const SIDE: usize = 128;
/// Side of what a low-resolution picture is scaled up from.
pub const LOW_SIDE: usize = 32;

/// A package of an npm registry, pinned.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Name, e.g. `@iconify-json/noto`.
    pub name: &'static str,
    /// Exact version.
    pub version: &'static str,
}

impl Package {
    /// Name of the archive that `npm pack` writes.
    pub fn archive(&self) -> String {
        format!("{}-{}.tgz", self.name.trim_start_matches('@').replace('/', "-"), self.version)
    }

    /// Path of the archive in `cache`, fetched with npm if it is not there yet.
    ///
    /// # Errors
    /// [`Error::Read`] if npm is missing or fails.
    fn fetch(&self, cache: &Path) -> Result<PathBuf> {
        let path = cache.join(self.archive());
        if !path.exists() {
            let spec = format!("{}@{}", self.name, self.version);
            let failed = |why: String| Error::Read { what: format!("package {spec} (with `npm pack`)"), why };
            // npm writes in place: an interrupted download must not look like a finished one.
            let partial = cache.join("partial");
            std::fs::create_dir_all(&partial).map_err(|error| write_error(&partial, error))?;
            let output = Command::new("npm")
                .args(["pack", "--silent", &spec, "--pack-destination"])
                .arg(&partial)
                .output()
                .map_err(|error| failed(error.to_string()))?;
            if !output.status.success() {
                return Err(failed(String::from_utf8_lossy(&output.stderr).trim().into()));
            }
            std::fs::rename(partial.join(self.archive()), &path).map_err(|error| failed(error.to_string()))?;
        }
        Ok(path)
    }

    /// The files of the archive that `keep` wants, by their paths inside `package/`.
    fn files(&self, cache: &Path, keep: impl Fn(&str) -> bool) -> Result<HashMap<String, Vec<u8>>> {
        let path = self.fetch(cache)?;
        let file = std::fs::File::open(&path).map_err(|error| read_error(&path, error))?;
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(GzDecoder::new(file));
        for entry in archive.entries().map_err(|error| read_error(&path, error))? {
            let mut entry = entry.map_err(|error| read_error(&path, error))?;
            let name = entry.path().map_err(|error| read_error(&path, error))?.to_string_lossy().into_owned();
            let name = name.strip_prefix("package/").unwrap_or(&name).to_owned();
            if keep(&name) {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(|error| read_error(&path, error))?;
                files.insert(name, bytes);
            }
        }
        Ok(files)
    }
}

/// Names and keywords of every emoji in English and Chinese (MIT).
pub const NAMES: Package = Package { name: "emojibase-data", version: "17.0.0" };

/// A drawing style: where its pictures come from and what captions call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StyleId {
    /// Fluent Emoji, flat (Microsoft, MIT).
    Flat,
    /// Fluent Emoji, 3D (Microsoft, MIT).
    ThreeD,
    /// Noto Emoji (Google, Apache-2.0).
    Cartoon,
    /// Twemoji (Twitter and contributors, CC BY 4.0).
    Sticker,
}

impl StyleId {
    /// Every style, in the order they are packed in.
    pub const ALL: [Self; 4] = [Self::Flat, Self::ThreeD, Self::Cartoon, Self::Sticker];

    /// The name requests and flags use.
    pub fn id(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::ThreeD => "3d",
            Self::Cartoon => "cartoon",
            Self::Sticker => "sticker",
        }
    }

    /// The style called `id`.
    ///
    /// # Errors
    /// [`Error::Invalid`] listing the styles.
    pub fn parse(id: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|style| style.id() == id).ok_or_else(|| Error::Invalid {
            parameter: "style",
            why: format!("`{id}` is not one of {}", Self::ALL.map(Self::id).join(", ")),
        })
    }

    /// The package its pictures come from.
    pub fn package(self) -> Package {
        match self {
            Self::Flat => Package { name: "@iconify-json/fluent-emoji-flat", version: "1.2.6" },
            Self::ThreeD => Package { name: "@lobehub/fluent-emoji-3d", version: "1.1.0" },
            Self::Cartoon => Package { name: "@iconify-json/noto", version: "1.2.9" },
            Self::Sticker => Package { name: "@iconify-json/twemoji", version: "1.2.5" },
        }
    }
}

/// A drawing that can be rendered at any side.
enum Drawing {
    /// SVG source.
    Vector(String),
    /// An encoded raster image with transparency.
    Raster(Vec<u8>),
}

impl Drawing {
    /// RGB pixels at `side`, on white.
    fn render(&self, side: usize) -> Result<RgbImage> {
        let corrupt = |why: String| Error::Corrupt { what: "drawing".into(), why };
        match self {
            Self::Vector(svg) => {
                let tree = usvg::Tree::from_str(svg, &usvg::Options::default()).map_err(|e| corrupt(e.to_string()))?;
                let mut pixmap = tiny_skia::Pixmap::new(side as u32, side as u32).expect("a side above 0");
                pixmap.fill(tiny_skia::Color::WHITE);
                let scale = side as f32 / tree.size().width().max(tree.size().height());
                resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixmap.as_mut());
                let rgb = pixmap.data().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
                Ok(RgbImage::from_raw(side as u32, side as u32, rgb).expect("side * side pixels"))
            }
            Self::Raster(bytes) => {
                let rgba = image::load_from_memory(bytes).map_err(|e| corrupt(e.to_string()))?.to_rgba8();
                let mut rgb = RgbImage::new(rgba.width(), rgba.height());
                for (out, p) in rgb.pixels_mut().zip(rgba.pixels()) {
                    let alpha = u32::from(p[3]);
                    out.0 =
                        [p[0], p[1], p[2]].map(|c| ((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
                }
                // A box filter: the native side is a multiple of every side asked for.
                Ok(imageops::thumbnail(&rgb, side as u32, side as u32))
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

/// Every drawing of a style by its concept's key.
fn drawings(style: StyleId, cache: &Path) -> Result<HashMap<String, Drawing>> {
    let package = style.package();
    if style == StyleId::ThreeD {
        let files = package.files(cache, |name| name.starts_with("assets/") && name.ends_with(".webp"))?;
        let key = |name: &str| hex_key(name.trim_start_matches("assets/").trim_end_matches(".webp"));
        return Ok(files.into_iter().map(|(name, bytes)| (key(&name), Drawing::Raster(bytes))).collect());
    }
    let files = package.files(cache, |name| matches!(name, "icons.json" | "chars.json"))?;
    let icons: Icons = parse(&package, &files, "icons.json")?;
    let chars: HashMap<String, String> = parse(&package, &files, "chars.json")?;
    let mut drawings = HashMap::new();
    for (hex, name) in chars {
        let name = icons.aliases.get(&name).map_or(&name, |alias| &alias.parent);
        if let Some(icon) = icons.icons.get(name) {
            let width = icon.width.or(icons.width).unwrap_or(16.0);
            let height = icon.height.or(icons.height).unwrap_or(16.0);
            let svg = format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{}</svg>"#,
                icon.body
            );
            drawings.insert(hex_key(&hex), Drawing::Vector(svg));
        }
    }
    Ok(drawings)
}

fn parse<T: for<'de> Deserialize<'de>>(package: &Package, files: &HashMap<String, Vec<u8>>, name: &str) -> Result<T> {
    let what = || format!("{name} of {}@{}", package.name, package.version);
    let bytes = files.get(name).ok_or_else(|| Error::Read { what: what(), why: "not in the package".into() })?;
    serde_json::from_slice(bytes).map_err(|error| Error::Corrupt { what: what(), why: error.to_string() })
}

/// One picture's place in the data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Index into [`Dataset::concepts`].
    pub concept: usize,
    /// Its style.
    pub style: StyleId,
    /// Whether it is a small rendering scaled up.
    pub low_resolution: bool,
}

/// What `pangu-draw train data` is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where package archives lie, or are put.
    pub cache: PathBuf,
    /// The styles to render.
    pub styles: Vec<StyleId>,
    /// The concepts, from [`concepts::curated`](super::concepts::curated) or [`concepts::all`](super::concepts::all).
    pub concepts: Vec<Concept>,
    /// Share of the (concept, style) pairs that exist only at low resolution, in `[0, 1]`.
    pub low_resolution_share: f32,
}

/// Pictures and what they show.
///
/// On disk it is a safetensors file: `images`, u8 `[item, height, width, rgb]`, and JSON under `concepts` and `items` in
/// its metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What the pictures show.
    pub concepts: Vec<Concept>,
    /// One entry a picture.
    pub items: Vec<Item>,
    /// RGB bytes `[item, SIDE, SIDE, 3]`.
    pub images: Vec<u8>,
}

impl Dataset {
    /// Renders what `request` asks for; `report` hears of each style as it is done.
    ///
    /// # Errors
    /// If a package cannot be fetched or is damaged.
    pub fn build(request: &Request, mut report: impl FnMut(StyleId, usize)) -> Result<Self> {
        let mut dataset = Self { concepts: request.concepts.clone(), items: Vec::new(), images: Vec::new() };
        for &style in &request.styles {
            let drawings = drawings(style, &request.cache)?;
            let before = dataset.items.len();
            for (index, concept) in request.concepts.iter().enumerate() {
                let Some(drawing) = drawings.get(&concept.hexcode) else { continue };
                let low_resolution = is_low_resolution(&concept.hexcode, style, request.low_resolution_share);
                let picture = if low_resolution {
                    imageops::resize(&drawing.render(LOW_SIDE)?, SIDE as u32, SIDE as u32, FilterType::CatmullRom)
                } else {
                    drawing.render(SIDE)?
                };
                dataset.images.extend_from_slice(picture.as_raw());
                dataset.items.push(Item { concept: index, style, low_resolution });
            }
            report(style, dataset.items.len() - before);
        }
        Ok(dataset)
    }

    /// Writes the data set, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let metadata = HashMap::from([
            ("concepts".to_owned(), serde_json::to_string(&self.concepts).expect("plain data")),
            ("items".to_owned(), serde_json::to_string(&self.items).expect("plain data")),
        ]);
        let shape = vec![self.items.len(), SIDE, SIDE, 3];
        let view = TensorView::new(Dtype::U8, shape, &self.images).map_err(|error| write_error(path, error))?;
        let bytes = safetensors::serialize([("images", view)], Some(metadata)).map_err(|e| write_error(path, e))?;
        super::session::write_atomically(path, &bytes)
    }

    /// Reads what [`Dataset::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Corrupt`].
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| read_error(path, error))?;
        let corrupt = |why: String| Error::Corrupt { what: path.display().to_string(), why };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field = |name: &str| metadata.get(name).ok_or_else(|| corrupt(format!("no {name}")));
        let concepts: Vec<Concept> = serde_json::from_str(field("concepts")?).map_err(|e| corrupt(e.to_string()))?;
        let items: Vec<Item> = serde_json::from_str(field("items")?).map_err(|e| corrupt(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let images = tensors.tensor("images").map_err(|error| corrupt(error.to_string()))?;
        if images.dtype() != Dtype::U8 || images.shape() != [items.len(), SIDE, SIDE, 3] {
            return Err(corrupt("`images` does not fit the items".into()));
        }
        if items.iter().any(|item| item.concept >= concepts.len()) {
            return Err(corrupt("an item names a concept that is not there".into()));
        }
        Ok(Self { concepts, items, images: images.data().to_vec() })
    }

    /// RGB bytes of one picture, `[SIDE, SIDE, 3]`.
    pub fn image(&self, item: usize) -> &[u8] {
        let size = SIDE * SIDE * 3;
        &self.images[item * size..(item + 1) * size]
    }

    /// A square window of one picture, appended channel by channel: `x = 2 (1 - rgb / 255)`, so white is 0.
    pub fn window(&self, item: usize, [top, left]: [usize; 2], side: usize, flip: bool, out: &mut Vec<f32>) {
        let image = self.image(item);
        for channel in 0..3 {
            for y in top..top + side {
                let at = |x: usize| 2.0 - f32::from(image[(y * SIDE + x) * 3 + channel]) / 127.5;
                if flip {
                    out.extend((left..left + side).rev().map(at));
                } else {
                    out.extend((left..left + side).map(at));
                }
            }
        }
    }

    /// Items by style, for reports.
    pub fn counts(&self) -> BTreeMap<StyleId, [usize; 2]> {
        let mut counts = BTreeMap::new();
        for item in &self.items {
            counts.entry(item.style).or_insert([0; 2])[usize::from(item.low_resolution)] += 1;
        }
        counts
    }
}

/// Whether the pair belongs to the low-resolution share: decided by its hash, so that it never changes.
pub fn is_low_resolution(hexcode: &str, style: StyleId, share: f32) -> bool {
    let digest = Sha256::digest(format!("{hexcode} {}", style.id()));
    f32::from(u16::from_le_bytes([digest[0], digest[1]])) < share * 65536.0
}

/// Every named emoji, from the pinned names package.
///
/// # Errors
/// If the package cannot be fetched or is damaged.
pub fn names(cache: &Path) -> Result<Vec<Concept>> {
    let files = NAMES.files(cache, |name| matches!(name, "en/data.json" | "zh/data.json"))?;
    Ok(read_names(parse(&NAMES, &files, "en/data.json")?, parse(&NAMES, &files, "zh/data.json")?))
}
