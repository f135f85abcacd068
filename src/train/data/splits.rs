//! What is kept from training, so that evaluation can ask for things never seen: unseen combinations of seen parts,
//! captions withheld in one language, a keyword withheld, and whole concepts.
//!
//! Everything is decided by hashes of names, by *concept* and never by file: the same thing recurs in every style, tone
//! and colour. `splits.json` beside the pictures says what was decided; training reads it and evaluation uses it.

use super::{
    super::concepts::{Concept, Group},
    Item,
    scene::{Colour, Language, Relation, Scene, StyleId, Tone},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Why a picture is not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// It is trained on.
    Seen,
    /// A skin tone that this person or hand was never seen in.
    Tone,
    /// A style that this concept was never seen in.
    Style,
    /// A colour that this glyph was never seen in.
    Colour,
    /// A background, or a pair of things, never seen together.
    Composite,
    /// A concept never seen at all.
    Concept,
}

/// Everything held out, by concept key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Splits {
    /// Concepts that no training picture shows.
    pub concepts: BTreeSet<String>,
    /// The one tone a person or hand is never trained in.
    pub tones: BTreeMap<String, Tone>,
    /// The one style a concept is never trained in.
    pub styles: BTreeMap<String, StyleId>,
    /// Glyph and colour pairs never trained on.
    pub colours: BTreeSet<(String, Colour)>,
    /// Things and backgrounds never trained on together.
    pub backdrops: BTreeSet<(String, Colour)>,
    /// Pairs of things never trained on together.
    pub pairs: BTreeSet<(String, Relation, String)>,
    /// The language in which a concept is never named.
    pub languages: BTreeMap<String, Language>,
    /// The English and the Chinese keyword that no caption uses.
    pub keywords: BTreeMap<String, [Option<String>; 2]>,
}

/// A number that depends on `parts` alone.
pub fn hash(parts: &[&str]) -> u32 {
    let digest = Sha256::digest(parts.join("\u{1f}"));
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

fn one_in_ten(parts: &[&str]) -> bool {
    hash(parts).is_multiple_of(10)
}

/// Styles a concept must exist in before one of them is held out.
const STYLES_NEEDED: usize = 5;

impl Splits {
    /// Decides for `items` of `concepts`.
    ///
    /// | held out | rule |
    /// |---|---|
    /// | concepts | 1 in 50, none of the core list |
    /// | tones | one of five for everything that comes in tones |
    /// | styles | one, for 1 in 10 of the concepts drawn in five emoji styles or more |
    /// | colours, backdrops, pairs | 1 in 10 |
    /// | languages | English of 1 in 10 concepts, Chinese of another 1 in 10, none of the core list |
    /// | keywords | one in each language where there are two or more |
    pub fn decide(concepts: &[Concept], items: &[Item]) -> Self {
        let mut splits = Self::default();
        let mut styles: BTreeMap<usize, BTreeSet<StyleId>> = BTreeMap::new();
        for item in items.iter().filter(|item| item.scene == Scene::Plain && StyleId::EMOJI.contains(&item.style)) {
            styles.entry(item.concept).or_default().insert(item.style);
        }
        for (index, concept) in concepts.iter().enumerate() {
            let key = &concept.key;
            let chance = |what: &str, one_in: u32| hash(&[what, key]) % one_in;
            let emoji = !matches!(concept.group, Group::Icons | Group::Flags);
            if emoji && !concept.core && chance("concept", 50) == 0 {
                splits.concepts.insert(key.clone());
            }
            if concept.tones.iter().any(Option::is_some) {
                splits.tones.insert(key.clone(), Tone::ALL[chance("tone", 5) as usize]);
            }
            if let Some(styles) = styles.get(&index).filter(|styles| styles.len() >= STYLES_NEEDED)
                && chance("style", 10) == 0
            {
                let held_out = chance("which style", styles.len() as u32) as usize;
                splits.styles.extend(styles.iter().nth(held_out).map(|style| (key.clone(), *style)));
            }
            if !concept.core && !concept.en.names.is_empty() && !concept.zh.names.is_empty() {
                match chance("language", 10) {
                    0 => splits.languages.insert(key.clone(), Language::Zh),
                    1 => splits.languages.insert(key.clone(), Language::En),
                    _ => None,
                };
            }
            let keyword = |language: &str, keywords: &[String]| {
                let count = keywords.len() as u32;
                (count > 1).then(|| keywords[(hash(&["keyword", language, key]) % count) as usize].clone())
            };
            let withheld = [keyword("en", &concept.en.keywords), keyword("zh", &concept.zh.keywords)];
            if withheld.iter().any(Option::is_some) {
                splits.keywords.insert(key.clone(), withheld);
            }
        }
        for item in items {
            let key = &concepts[item.concept].key;
            match item.scene {
                Scene::Coloured { colour } if one_in_ten(&["colour", key, colour.names().0]) => {
                    splits.colours.insert((key.clone(), colour));
                }
                Scene::Backdrop { colour } if one_in_ten(&["backdrop", key, colour.names().0]) => {
                    splits.backdrops.insert((key.clone(), colour));
                }
                Scene::Pair { relation, other } if one_in_ten(&["pair", key, &concepts[other].key]) => {
                    splits.pairs.insert((key.clone(), relation, concepts[other].key.clone()));
                }
                _ => {}
            }
        }
        splits
    }

    /// Which split a picture belongs to.
    pub fn of(&self, concepts: &[Concept], item: &Item) -> Split {
        let key = &concepts[item.concept].key;
        let other = match item.scene {
            Scene::Pair { other, .. } => Some(&concepts[other].key),
            _ => None,
        };
        if self.concepts.contains(key) || other.is_some_and(|other| self.concepts.contains(other)) {
            return Split::Concept;
        }
        match item.scene {
            Scene::Tone { tone } if self.tones.get(key) == Some(&tone) => return Split::Tone,
            Scene::Coloured { colour } if self.colours.contains(&(key.clone(), colour)) => return Split::Colour,
            Scene::Backdrop { colour } if self.backdrops.contains(&(key.clone(), colour)) => return Split::Composite,
            Scene::Pair { relation, other }
                if self.pairs.contains(&(key.clone(), relation, concepts[other].key.clone())) =>
            {
                return Split::Composite;
            }
            _ => {}
        }
        let held_out = |key: &String| self.styles.get(key) == Some(&item.style);
        if held_out(key) || other.is_some_and(held_out) { Split::Style } else { Split::Seen }
    }

    /// Whether captions may name the concept `key` in `language`.
    pub fn speaks(&self, key: &str, language: Language) -> bool {
        self.languages.get(key) != Some(&language)
    }

    /// The keyword of `key` that no caption in `language` uses.
    pub fn keyword(&self, key: &str, language: Language) -> Option<&str> {
        self.keywords.get(key)?[language as usize].as_deref()
    }
}
