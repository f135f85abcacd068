//! What a model knows by name, as a file beside it: pages suggest prompts from it.

use super::{
    concepts::{Concept, Group, Words},
    data::{
        Dataset,
        scene::{Colour, Language},
    },
    export::NAMES,
    read_error,
    session::write_atomically,
};
use crate::{Result, weights::manifest};
use serde::Serialize;
use std::path::Path;

/// Name of the file in a model folder.
pub const FILE: &str = "vocabulary.json";
/// The file's format.
pub const FORMAT: u32 = 1;

/// Whom the names come from.
const ATTRIBUTION: [&str; 2] = [NAMES, "Names of glyphs: IconPark. Copyright (c) ByteDance Ltd. Apache-2.0."];

/// The file's content.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Vocabulary {
    format: u32,
    licence: &'static str,
    attribution: [&'static str; 2],
    /// Things that are drawn in the model's styles.
    pub things: Vec<Names>,
    /// Glyphs, which are drawn in one colour.
    pub glyphs: Vec<Names>,
    /// Those colours.
    pub colours: Vec<Names>,
}

/// What one thing is called: names that each identify it, the best first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Names {
    /// In English.
    pub en: Vec<String>,
    /// In Chinese.
    pub zh: Vec<String>,
}

impl Vocabulary {
    /// The common concepts of a data set by those of their names that training has used.
    pub fn of(dataset: &Dataset) -> Self {
        let splits = &dataset.splits;
        let known = |concept: &&Concept| concept.core && !splits.concepts.contains(&concept.key);
        let names = |concept: &Concept| {
            let said = |language, words: &Words| match splits.speaks(&concept.key, language) {
                // Some glyphs are numbered among those of the same name.
                true => {
                    words.names.iter().map(|name| name.trim_end_matches(|c: char| c.is_ascii_digit()).into()).collect()
                }
                false => Vec::new(),
            };
            Names { en: said(Language::En, &concept.en), zh: said(Language::Zh, &concept.zh) }
        };
        let (glyphs, things): (Vec<_>, Vec<_>) =
            dataset.concepts.iter().filter(known).partition(|concept| concept.group == Group::Icons);
        let colours = Colour::ALL.map(|colour| {
            let (en, zh, _) = colour.names();
            Names { en: vec![en.into()], zh: vec![zh.into()] }
        });
        Self {
            format: FORMAT,
            licence: "MIT AND Apache-2.0",
            attribution: ATTRIBUTION,
            things: things.into_iter().map(names).collect(),
            glyphs: glyphs.into_iter().map(names).collect(),
            colours: colours.into(),
        }
    }

    /// Writes the file into a model folder, whose manifest lists it from then on.
    ///
    /// # Errors
    /// If there is no such model, or the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(manifest::FILE);
        let json = std::fs::read(&path).map_err(|error| read_error(&path, error))?;
        let mut manifest = manifest::Manifest::from_json(&json)?;
        manifest.vocabulary = Some(FILE.into());
        // A line a thing: short, and yet to be read.
        let lines = |names: &[Names]| {
            let lines = names.iter().map(|names| serde_json::to_string(names).expect("plain data"));
            format!("[\n    {}\n  ]", lines.collect::<Vec<_>>().join(",\n    "))
        };
        let head = serde_json::json!({ "licence": self.licence, "attribution": self.attribution });
        let text = format!(
            "{{\n  \"format\": {},\n  \"licence\": {},\n  \"attribution\": {},\n  \"things\": {},\n  \"glyphs\": {},\n  \"colours\": {}\n}}\n",
            self.format,
            head["licence"],
            head["attribution"],
            lines(&self.things),
            lines(&self.glyphs),
            lines(&self.colours)
        );
        write_atomically(&folder.join(FILE), text.as_bytes())?;
        write_atomically(&path, &manifest.to_json()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::splits::Splits;

    fn concept(key: &str, group: Group, core: bool, en: &[&str], zh: &[&str]) -> Concept {
        let words = |names: &[&str]| Words { names: names.iter().map(|&name| name.into()).collect(), keywords: vec![] };
        Concept { key: key.into(), group, core, en: words(en), zh: words(zh), tones: Default::default() }
    }

    #[test]
    fn lists_what_training_has_used() {
        let concepts = vec![
            concept("1f34e", Group::Food, true, &["red apple", "apple"], &["苹果"]),
            concept("1f431", Group::Animals, true, &["cat"], &["猫"]),
            concept("1f432", Group::Animals, true, &["dragon"], &["龙"]),
            concept("1f433", Group::Animals, false, &["rare whale"], &["鲸"]),
            concept("icon:robot", Group::Icons, true, &["robot"], &["机器人2"]),
        ];
        let mut dataset = Dataset::new(concepts, Vec::new()).unwrap();
        dataset.splits = Splits {
            concepts: ["1f432".to_string()].into(),
            languages: [("1f431".to_string(), Language::Zh)].into(),
            ..Splits::default()
        };
        let vocabulary = Vocabulary::of(&dataset);
        let names = |en: &[&str], zh: &[&str]| Names {
            en: en.iter().map(|&name| name.into()).collect(),
            zh: zh.iter().map(|&name| name.into()).collect(),
        };
        assert_eq!(vocabulary.things, [names(&["red apple", "apple"], &["苹果"]), names(&["cat"], &[])]);
        assert_eq!(vocabulary.glyphs, [names(&["robot"], &["机器人"])]);
        assert_eq!(vocabulary.colours[0], names(&["red"], &["红色"]));

        let folder = std::env::temp_dir().join(format!("pangu-draw-vocabulary-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = r#"{"format":1,"name":"m","title":{"en":"M","zh":"M"},"licence":"MIT","attribution":[],
            "chunk_bytes":4,"components":[],"pipeline":{"kept":1}}"#;
        std::fs::write(folder.join(manifest::FILE), manifest).unwrap();
        vocabulary.write(&folder).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join(FILE)).unwrap()).unwrap();
        assert_eq!(written, serde_json::to_value(&vocabulary).unwrap());
        let listed = std::fs::read(folder.join(manifest::FILE)).unwrap();
        let listed = manifest::Manifest::from_json(&listed).unwrap();
        assert_eq!((listed.vocabulary.as_deref(), &listed.pipeline["kept"]), (Some(FILE), &1.into()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
