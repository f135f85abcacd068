//! What is drawn: emoji concepts with their names in English and Chinese.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// One thing that pictures show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Concept {
    /// Its code points as [`hex_key`] writes them.
    pub hexcode: String,
    /// Names and keywords in English.
    pub en: Words,
    /// Names and keywords in Chinese.
    pub zh: Words,
}

/// How one language speaks of a concept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Words {
    /// Names that each identify the concept, the best first.
    pub names: Vec<String>,
    /// Words that go with it.
    pub keywords: Vec<String>,
}

/// Code points in lower-case hex joined by `-`, without the presentation selector `fe0f`, on which packages differ.
pub fn hex_key(hexcode: &str) -> String {
    hexcode.to_lowercase().split(['-', '_']).filter(|point| *point != "fe0f").collect::<Vec<_>>().join("-")
}

/// An entry of emojibase's `data.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    label: String,
    hexcode: String,
    #[serde(default)]
    tags: Vec<String>,
    group: Option<u32>,
}

/// emojibase's group of people and body parts, which come in tones and roles.
const PEOPLE: u32 = 1;
/// Its group of skin tones and hair.
const COMPONENTS: u32 = 2;
/// Its group of flags.
const FLAGS: u32 = 9;

/// Joins both languages by code point; people, components and flags are left out.
pub(crate) fn read_names(en: Vec<Entry>, zh: Vec<Entry>) -> Vec<Concept> {
    let mut chinese: HashMap<String, Entry> = zh.into_iter().map(|entry| (hex_key(&entry.hexcode), entry)).collect();
    let wanted = |entry: &Entry| entry.group.is_some_and(|group| ![PEOPLE, COMPONENTS, FLAGS].contains(&group));
    let words = |entry: Entry| {
        let name = entry.label.to_lowercase();
        let keywords = entry.tags.into_iter().filter(|tag| *tag != name).collect();
        Words { names: vec![name], keywords }
    };
    en.into_iter()
        .filter(wanted)
        .filter_map(|entry| {
            let hexcode = hex_key(&entry.hexcode);
            let zh = words(chinese.remove(&hexcode)?);
            Some(Concept { hexcode, en: words(entry), zh })
        })
        .collect()
}

/// The concepts of the first model: common, distinct things; one line each,
/// `code point | English names | Chinese names`, names separated by `;`.
const CURATED: &str = include_str!("concepts.txt");

/// The curated concepts out of `all`, with the list's names put before the package's.
///
/// # Panics
/// Never for the list that is compiled in (a test reads it).
pub fn curated(all: &[Concept]) -> Vec<Concept> {
    let by_key: HashMap<&str, &Concept> = all.iter().map(|concept| (concept.hexcode.as_str(), concept)).collect();
    lines()
        .filter_map(|[hexcode, en, zh]| {
            let mut concept = (*by_key.get(hexcode)?).clone();
            for (words, names) in [(&mut concept.en, en), (&mut concept.zh, zh)] {
                let names = names.split(';').map(str::trim).filter(|name| !name.is_empty());
                let mut names: Vec<String> = names.map(str::to_owned).collect();
                names.extend(words.names.drain(..).filter(|name| !names.contains(name)).collect::<Vec<_>>());
                words.names = names;
                words.keywords.retain(|keyword| !words.names.contains(keyword));
            }
            Some(concept)
        })
        .collect()
}

/// The fields of every line of the list.
pub fn lines() -> impl Iterator<Item = [&'static str; 3]> {
    CURATED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut fields = line.splitn(3, '|').map(str::trim);
        std::array::from_fn(|_| fields.next().expect("three fields a line"))
    })
}
