//! What a picture can say beside its concept and style: a skin tone, a colour, a background, a second thing, a count.

use serde::{Deserialize, Serialize};

/// A language of captions and prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    /// English.
    En,
    /// Chinese.
    Zh,
}

impl Language {
    /// Both.
    pub const ALL: [Self; 2] = [Self::En, Self::Zh];

    /// Its code.
    pub fn id(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Zh => "zh",
        }
    }
}

/// A colour that a caption may name, because the picture was painted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the names are the documentation
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    Black,
    Grey,
}

impl Colour {
    /// Every colour.
    pub const ALL: [Self; 10] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Blue,
        Self::Purple,
        Self::Pink,
        Self::Brown,
        Self::Black,
        Self::Grey,
    ];

    /// Its English name, its Chinese name, and its sRGB value.
    pub fn names(self) -> (&'static str, &'static str, [u8; 3]) {
        match self {
            Self::Red => ("red", "红色", [222, 36, 48]),
            Self::Orange => ("orange", "橙色", [247, 137, 28]),
            Self::Yellow => ("yellow", "黄色", [250, 208, 32]),
            Self::Green => ("green", "绿色", [42, 160, 70]),
            Self::Blue => ("blue", "蓝色", [40, 104, 220]),
            Self::Purple => ("purple", "紫色", [130, 62, 190]),
            Self::Pink => ("pink", "粉色", [246, 130, 182]),
            Self::Brown => ("brown", "棕色", [132, 84, 48]),
            Self::Black => ("black", "黑色", [28, 28, 32]),
            Self::Grey => ("grey", "灰色", [140, 144, 150]),
        }
    }
}

/// A skin tone, Fitzpatrick scale as Unicode has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the names are the documentation
pub enum Tone {
    Light,
    MediumLight,
    Medium,
    MediumDark,
    Dark,
}

impl Tone {
    /// Every tone, in Unicode's order.
    pub const ALL: [Self; 5] = [Self::Light, Self::MediumLight, Self::Medium, Self::MediumDark, Self::Dark];

    /// What captions call it, in English and in Chinese.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Light => ("light skin tone", "较浅肤色"),
            Self::MediumLight => ("medium-light skin tone", "中等偏浅肤色"),
            Self::Medium => ("medium skin tone", "中等肤色"),
            Self::MediumDark => ("medium-dark skin tone", "中等偏深肤色"),
            Self::Dark => ("dark skin tone", "较深肤色"),
        }
    }
}

/// How two things stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The first left of the second.
    LeftOf,
    /// The first above the second.
    Above,
}

/// What is made of a concept in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Scene {
    /// The thing itself.
    Plain,
    /// A person or hand of a skin tone.
    Tone {
        /// The tone.
        tone: Tone,
    },
    /// A glyph painted in one colour.
    Coloured {
        /// The colour.
        colour: Colour,
    },
    /// The thing on a background of one colour.
    Backdrop {
        /// The colour.
        colour: Colour,
    },
    /// Two things.
    Pair {
        /// Where the first is.
        relation: Relation,
        /// Index of the second concept.
        other: usize,
    },
    /// The same thing several times.
    Count {
        /// How often, 2 to 4.
        count: usize,
    },
}

/// A drawing style: where its pictures come from and what captions call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StyleId {
    /// Fluent Emoji, flat (Microsoft, MIT).
    Flat,
    /// Fluent Emoji, 3D (Microsoft, MIT).
    #[serde(rename = "3d")]
    ThreeD,
    /// Noto Emoji (Google, Apache-2.0).
    Cartoon,
    /// Twemoji (Twitter and contributors, CC BY 4.0).
    Sticker,
    /// Fluent Emoji, high contrast (Microsoft, MIT).
    Line,
    /// Noto Emoji's first design, the rounded blobs (Google, Apache-2.0).
    Retro,
    /// EmojiOne 2 (EmojiOne, CC BY 4.0).
    Classic,
    /// FxEmoji (Mozilla, Apache-2.0).
    Soft,
    /// IconPark in outlines (ByteDance, Apache-2.0).
    OutlineIcon,
    /// IconPark filled.
    FilledIcon,
    /// IconPark in two tones.
    TwoToneIcon,
    /// Open Clip Art Library (public domain).
    ClipArt,
}

impl StyleId {
    /// The eight emoji styles.
    pub const EMOJI: [Self; 8] =
        [Self::Flat, Self::ThreeD, Self::Cartoon, Self::Sticker, Self::Line, Self::Retro, Self::Classic, Self::Soft];
    /// The three ways IconPark's glyphs are painted.
    pub const ICONS: [Self; 3] = [Self::OutlineIcon, Self::FilledIcon, Self::TwoToneIcon];

    /// Every style.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::EMOJI.into_iter().chain(Self::ICONS).chain([Self::ClipArt])
    }

    /// The name requests and flags use.
    pub fn id(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::ThreeD => "3d",
            Self::Cartoon => "cartoon",
            Self::Sticker => "sticker",
            Self::Line => "line",
            Self::Retro => "retro",
            Self::Classic => "classic",
            Self::Soft => "soft",
            Self::OutlineIcon => "outline-icon",
            Self::FilledIcon => "filled-icon",
            Self::TwoToneIcon => "two-tone-icon",
            Self::ClipArt => "clip-art",
        }
    }

    /// The style called `id`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) listing the styles.
    pub fn parse(id: &str) -> crate::Result<Self> {
        Self::all().find(|style| style.id() == id).ok_or_else(|| crate::Error::Invalid {
            parameter: "style",
            why: format!("`{id}` is not one of {}", Self::all().map(Self::id).collect::<Vec<_>>().join(", ")),
        })
    }
}
