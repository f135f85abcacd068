//! The data set: drawings from pinned packages, rendered with transparency, and what may be trained on.
//!
//! | what | module |
//! |---|---|
//! | archives of pinned packages | [`packages`] |
//! | drawings in them | [`drawings`] |
//! | one picture | [`picture`] |
//! | which pictures are made of the drawings | [`recipe`] |
//! | tones, colours, backgrounds, pairs, counts, styles | [`scene`] |
//! | what is held out | [`splits`] |
//! | how often what is seen | [`mix`] |
//!
//! A picture belongs to a *concept*, a *style* and a *scene*. To make PanGu-Draw's split real, some pictures exist only
//! small and scaled up: the structure expert may see those, the texture expert never does.
//!
//! On disk a data set is a folder: `concepts.json`, `splits.json`, and one `*.part` a source, a safetensors file with the
//! pictures as PNG files one after the other (`pictures`, u8), where each begins (`offsets`, i64), and `items` as JSON
//! in its metadata. A build that was interrupted goes on with the first part that is missing.

pub mod drawings;
pub mod mix;
pub mod packages;
pub mod picture;
pub mod recipe;
pub mod scene;
pub mod splits;

use super::{
    concepts::{Concept, read_names},
    read_error,
    session::write_atomically,
    write_error,
};
use crate::{Error, Result};
use picture::{Picture, SIDE};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use scene::{Scene, StyleId};
use serde::{Deserialize, Serialize};
use splits::{Split, Splits};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// What one picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Index into [`Dataset::concepts`].
    pub concept: usize,
    /// Its style.
    pub style: StyleId,
    /// What is made of the concept.
    pub scene: Scene,
    /// Whether it is a small picture scaled up.
    pub low_resolution: bool,
}

/// Pictures, what they show, and what is held out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dataset {
    /// What the pictures show.
    pub concepts: Vec<Concept>,
    /// One entry a picture.
    pub items: Vec<Item>,
    /// What is held out.
    pub splits: Splits,
    /// One PNG file a picture.
    files: Vec<Vec<u8>>,
}

const CONCEPTS: &str = "concepts.json";
const SPLITS: &str = "splits.json";

/// Every named emoji, from the pinned names package.
///
/// # Errors
/// If the package cannot be fetched or is damaged.
pub fn names(cache: &Path) -> Result<Vec<Concept>> {
    let [en, zh] = ["en/data.json", "zh/data.json"].map(|name| drawings::NAMES.json(cache, name));
    Ok(read_names(en?, zh?))
}

impl Dataset {
    /// A data set of pictures at hand; what is held out is decided here.
    ///
    /// # Errors
    /// [`Error::Write`] if a picture cannot be packed.
    pub fn new(concepts: Vec<Concept>, pictures: Vec<(Item, Picture)>) -> Result<Self> {
        let items: Vec<Item> = pictures.iter().map(|(item, _)| *item).collect();
        let files = pictures.iter().map(|(_, picture)| picture.pack()).collect::<Result<_>>()?;
        Ok(Self { splits: Splits::decide(&concepts, &items), concepts, items, files })
    }

    /// Reads the folder that [`recipe::build`] or [`Dataset::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Corrupt`].
    pub fn load(dir: &Path) -> Result<Self> {
        let mut dataset = Self {
            concepts: read_json(&dir.join(CONCEPTS))?,
            splits: read_json(&dir.join(SPLITS))?,
            ..Self::default()
        };
        let entries = std::fs::read_dir(dir).map_err(|error| read_error(dir, error))?;
        let mut parts: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        parts.retain(|path| path.extension().is_some_and(|extension| extension == "part"));
        parts.sort();
        for path in parts {
            let (_, items, files) = read_part(&path)?;
            let known = |concept| concept < dataset.concepts.len();
            let valid =
                |item: &Item| known(item.concept) && !matches!(item.scene, Scene::Pair { other, .. } if !known(other));
            if !items.iter().all(valid) {
                return Err(Error::Corrupt { what: path.display().to_string(), why: "unknown concept".into() });
            }
            dataset.items.extend(items);
            dataset.files.extend(files);
        }
        Ok(dataset)
    }

    /// Writes the data set into a folder as one part.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|error| write_error(dir, error))?;
        write_part(&dir.join("all.part"), "", &self.items, &self.files)?;
        write_json(&dir.join(CONCEPTS), &self.concepts)?;
        write_json(&dir.join(SPLITS), &self.splits)
    }

    /// One picture.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is no picture of side [`SIDE`].
    pub fn picture(&self, item: usize) -> Result<Picture> {
        let picture = Picture::unpack(&self.files[item])?;
        if picture.side != SIDE {
            return Err(Error::Corrupt { what: format!("picture {item}"), why: format!("{} pixels", picture.side) });
        }
        Ok(picture)
    }

    /// The split of one picture.
    pub fn split(&self, item: usize) -> Split {
        self.splits.of(&self.concepts, &self.items[item])
    }

    /// The pictures that may be trained on.
    pub fn training(&self) -> Vec<usize> {
        (0..self.items.len()).filter(|&item| self.split(item) == Split::Seen).collect()
    }

    /// The data set with only the items that `keep` wants, and the same splits.
    pub fn filtered(&self, keep: impl Fn(&Item) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.items.len()).filter(|&item| keep(&self.items[item])).collect();
        Self {
            concepts: self.concepts.clone(),
            splits: self.splits.clone(),
            items: kept.iter().map(|&item| self.items[item]).collect(),
            files: kept.iter().map(|&item| self.files[item].clone()).collect(),
        }
    }

    /// Pictures at high resolution, only at low, and held out, by style.
    pub fn counts(&self) -> BTreeMap<StyleId, [usize; 3]> {
        let mut counts = BTreeMap::new();
        for (index, item) in self.items.iter().enumerate() {
            let [high, low, held_out] = counts.entry(item.style).or_insert([0; 3]);
            *if self.split(index) != Split::Seen {
                held_out
            } else if item.low_resolution {
                low
            } else {
                high
            } += 1;
        }
        counts
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|error| read_error(path, error))?;
    serde_json::from_str(&text).map_err(|e| Error::Corrupt { what: path.display().to_string(), why: e.to_string() })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string(value).expect("plain data");
    write_atomically(path, text.as_bytes())
}

/// Items and their files; `recipe` says what made them, so that another recipe's part is not taken for this one's.
fn write_part(path: &Path, recipe: &str, items: &[Item], files: &[Vec<u8>]) -> Result<()> {
    let metadata = HashMap::from([
        ("recipe".to_owned(), recipe.to_owned()),
        ("items".to_owned(), serde_json::to_string(items).expect("plain data")),
    ]);
    let mut offsets = vec![0i64];
    offsets.extend(files.iter().scan(0, |end, file| {
        *end += file.len() as i64;
        Some(*end)
    }));
    let offsets: Vec<u8> = offsets.into_iter().flat_map(i64::to_le_bytes).collect();
    let bytes = files.concat();
    let tensors = || -> std::result::Result<Vec<u8>, safetensors::SafeTensorError> {
        let pictures = TensorView::new(Dtype::U8, vec![bytes.len()], &bytes)?;
        let offsets = TensorView::new(Dtype::I64, vec![files.len() + 1], &offsets)?;
        safetensors::serialize([("pictures", pictures), ("offsets", offsets)], Some(metadata))
    };
    write_atomically(path, &tensors().map_err(|error| write_error(path, error))?)
}

fn read_part(path: &Path) -> Result<(String, Vec<Item>, Vec<Vec<u8>>)> {
    let bytes = std::fs::read(path).map_err(|error| read_error(path, error))?;
    let corrupt = |why: String| Error::Corrupt { what: path.display().to_string(), why };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let field = |name: &str| metadata.get(name).ok_or_else(|| corrupt(format!("no {name}")));
    let items: Vec<Item> = serde_json::from_str(field("items")?).map_err(|error| corrupt(error.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let [pictures, offsets] = ["pictures", "offsets"].map(|name| tensors.tensor(name));
    let (pictures, offsets) =
        (pictures.map_err(|error| corrupt(error.to_string()))?, offsets.map_err(|error| corrupt(error.to_string()))?);
    if offsets.dtype() != Dtype::I64 || offsets.shape() != [items.len() + 1] || pictures.dtype() != Dtype::U8 {
        return Err(corrupt("the pictures do not fit the items".into()));
    }
    let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("chunks of 8")) as usize;
    let offsets: Vec<usize> = offsets.data().chunks_exact(8).map(number).collect();
    let files = offsets.windows(2).map(|range| pictures.data().get(range[0]..range[1]).map(<[u8]>::to_vec));
    let files: Option<Vec<_>> = files.collect();
    Ok((field("recipe")?.clone(), items, files.ok_or_else(|| corrupt("a picture lies outside".into()))?))
}
