//! What is drawn: things with their names in English and Chinese.

use super::data::scene::Tone;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// One thing that pictures show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Concept {
    /// An emoji's code points as [`hex_key`] writes them, or `icon:` and the name of a glyph.
    pub key: String,
    /// What kind of thing it is.
    pub group: Group,
    /// Whether it is one of the common things that the default model is meant to draw best, see [`core_list`].
    pub core: bool,
    /// Names and keywords in English.
    pub en: Words,
    /// Names and keywords in Chinese.
    pub zh: Words,
    /// Code points of its skin tones, for the people and hands that have them.
    pub tones: [Option<String>; Tone::ALL.len()],
}

/// emojibase's groups, and where other things come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the names are the documentation
pub enum Group {
    Smileys,
    People,
    Animals,
    Food,
    Travel,
    Activities,
    Objects,
    Symbols,
    Flags,
    Icons,
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
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Entry {
    label: String,
    hexcode: String,
    #[serde(default)]
    tags: Vec<String>,
    group: Option<usize>,
    #[serde(default)]
    skins: Vec<Skin>,
}

#[derive(Debug, Clone, Deserialize)]
struct Skin {
    hexcode: String,
    tone: SkinTone,
}

/// One tone, or one for each of several people.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum SkinTone {
    One(usize),
    Several(#[allow(dead_code)] Vec<usize>),
}

impl Group {
    /// The group of emojibase's number; its components (2) are no pictures of anything.
    fn of(number: usize) -> Option<Self> {
        use Group::{Activities, Animals, Flags, Food, Objects, People, Smileys, Symbols, Travel};
        let groups = [Smileys, People, People, Animals, Food, Travel, Activities, Objects, Symbols, Flags];
        groups.get(number).copied().filter(|_| number != 2)
    }
}

/// Joins both languages by code point, with the core list's names put before the package's.
pub(crate) fn read_names(en: Vec<Entry>, zh: Vec<Entry>) -> Vec<Concept> {
    let mut chinese: HashMap<String, Entry> = zh.into_iter().map(|entry| (hex_key(&entry.hexcode), entry)).collect();
    let core: HashMap<&str, [&str; 2]> = core_list().map(|[key, en, zh]| (key, [en, zh])).collect();
    let join = |entry: Entry| {
        let (group, key) = (Group::of(entry.group?)?, hex_key(&entry.hexcode));
        let listed = core.get(key.as_str());
        let words = |entry: &Entry, listed: &str, names: Vec<String>| {
            let mut all: Vec<String> = listed.split(';').map(|name| name.trim().to_owned()).collect();
            all.extend(names);
            let mut words = Words::default();
            for name in all.into_iter().filter(|name| !name.is_empty()) {
                if !words.names.contains(&name) {
                    words.names.push(name);
                }
            }
            words.keywords = entry.tags.iter().filter(|tag| !words.names.contains(tag)).cloned().collect();
            words
        };
        let [listed_en, listed_zh] = listed.copied().unwrap_or_default();
        let zh = chinese.remove(&key)?;
        let mut tones = [const { None }; Tone::ALL.len()];
        for skin in &entry.skins {
            if let SkinTone::One(tone @ 1..=5) = skin.tone {
                tones[tone - 1] = Some(hex_key(&skin.hexcode));
            }
        }
        Some(Concept {
            en: words(&entry, listed_en, english_names(&entry.label)),
            zh: words(&zh, listed_zh, chinese_names(&zh.label)),
            core: listed.is_some(),
            group,
            key,
            tones,
        })
    };
    en.into_iter().filter_map(join).collect()
}

/// The label as people would write it: `flag: France` is the flag of France.
fn english_names(label: &str) -> Vec<String> {
    let label = label.to_lowercase();
    match label.strip_prefix("flag: ") {
        Some(place) => vec![format!("flag of {place}"), format!("{place} flag")],
        None => vec![label.replace(": ", " with ")],
    }
}

/// The same for `旗: 法国`, the flag of France.
fn chinese_names(label: &str) -> Vec<String> {
    match label.strip_prefix("旗: ") {
        Some(place) => vec![format!("{place}国旗"), format!("{place}的旗帜")],
        None => vec![label.replace(": ", "，")],
    }
}

/// The core concepts: common, distinct things; one line each,
/// `code point | English names | Chinese names`, names separated by `;`.
const CORE: &str = include_str!("concepts.txt");

/// The fields of every line of the core list: what people ask for most, and what the default model is trained on most.
pub fn core_list() -> impl Iterator<Item = [&'static str; 3]> {
    CORE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut fields = line.splitn(3, '|').map(str::trim);
        std::array::from_fn(|_| fields.next().expect("three fields a line"))
    })
}
