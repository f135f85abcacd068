//! What a picture is called while training: names, keywords, colours, tones, relations, counts and style words in English
//! and Chinese.
//!
//! A picture has a list of weighted captions; a training step draws one. Half are English and half Chinese, a few mix
//! both; most name the style, so that style guidance (a prompt with its style against the prompt alone) has something to
//! push along. What [`Splits`](super::data::splits::Splits) withholds is in none of them.

use super::{
    Draw,
    concepts::{Concept, Words},
    data::{
        Dataset, Item,
        scene::{Language, Relation, Scene, StyleId},
        splits::Splits,
    },
};
use crate::pipeline::config::{Bilingual, Style};

/// One way to describe a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// The words.
    pub text: String,
    /// How often it is drawn, relative to the picture's other captions.
    pub weight: f32,
}

/// How a style is called in the page's list, and in captions.
fn style_words(id: StyleId) -> [&'static str; 4] {
    match id {
        StyleId::Flat => ["Flat", "扁平", "flat vector illustration", "扁平矢量插画"],
        StyleId::ThreeD => ["3D", "立体", "3D render", "3D立体渲染"],
        StyleId::Cartoon => ["Cartoon", "卡通", "cartoon emoji", "卡通表情"],
        StyleId::Sticker => ["Sticker", "贴纸", "simple sticker", "简约贴纸"],
        StyleId::Line => ["Line art", "线条", "black and white line icon", "黑白线条图标"],
        StyleId::Retro => ["Retro", "复古", "rounded retro emoji", "复古圆润表情"],
        StyleId::Classic => ["Classic", "经典", "classic glossy emoji", "经典表情"],
        StyleId::Soft => ["Soft", "柔和", "soft cartoon", "柔和卡通"],
        StyleId::OutlineIcon => ["Outline icon", "线性图标", "outline icon", "线性图标"],
        StyleId::FilledIcon => ["Filled icon", "面性图标", "filled icon", "面性图标"],
        StyleId::TwoToneIcon => ["Two-tone icon", "双色图标", "two-tone icon", "双色图标"],
        StyleId::ClipArt => ["Clip art", "剪贴画", "clip art", "剪贴画"],
    }
}

/// A style as a model's manifest has it: its names, and the template that requests use it by.
pub fn style(id: StyleId) -> Style {
    let [name_en, name_zh, en, zh] = style_words(id);
    Style {
        id: id.id().into(),
        name: Bilingual { en: name_en.into(), zh: name_zh.into() },
        template: Bilingual { en: format!("{{}}, {en}"), zh: format!("{{}}，{zh}") },
    }
}

/// Keywords of a concept that captions use.
const KEYWORDS: usize = 3;
const NUMBERS: [(&str, &str); 5] =
    [("no", "零个"), ("one", "一个"), ("two", "两个"), ("three", "三个"), ("four", "四个")];

/// What `item` shows, in `language`: every way to say it, the plainest first. Nothing if it has no name there.
pub fn subjects(concepts: &[Concept], item: &Item, language: Language) -> Vec<String> {
    let words = |index: usize| -> &Words {
        match language {
            Language::En => &concepts[index].en,
            Language::Zh => &concepts[index].zh,
        }
    };
    let (names, first) = (&words(item.concept).names, words(item.concept).names.first());
    let Some(first) = first else { return Vec::new() };
    let say = |en: &dyn Fn(&str) -> String, zh: &dyn Fn(&str) -> String| -> Vec<String> {
        names.iter().map(|name| if language == Language::En { en(name) } else { zh(name) }).collect()
    };
    match item.scene {
        Scene::Plain => names.clone(),
        Scene::Tone { tone } => {
            let (en, zh) = tone.names();
            say(&|name| format!("{name} with {en}"), &|name| format!("{zh}的{name}"))
        }
        Scene::Coloured { colour } => {
            let (en, zh, _) = colour.names();
            say(&|name| format!("{en} {name}"), &|name| format!("{zh}的{name}"))
        }
        Scene::Backdrop { colour } => {
            let (en, zh, _) = colour.names();
            say(&|name| format!("{name} on {} {en} background", article(en)), &|name| format!("{zh}背景上的{name}"))
        }
        Scene::Count { count } => {
            let (en, zh) = NUMBERS[count.min(NUMBERS.len() - 1)];
            say(&|name| format!("{en} {}", plural(name)), &|name| format!("{zh}{name}"))
        }
        Scene::Pair { relation, other } => {
            let Some(second) = words(other).names.first() else { return Vec::new() };
            match (relation, language) {
                (Relation::LeftOf, Language::En) => vec![
                    format!("{first} to the left of {second}"),
                    format!("{second} to the right of {first}"),
                    format!("{first} next to {second}"),
                ],
                (Relation::LeftOf, Language::Zh) => vec![
                    format!("{first}在{second}左边"),
                    format!("{second}在{first}右边"),
                    format!("{first}和{second}在一起"),
                ],
                (Relation::Above, Language::En) => {
                    vec![format!("{first} above {second}"), format!("{second} below {first}")]
                }
                (Relation::Above, Language::Zh) => {
                    vec![format!("{first}在{second}上面"), format!("{second}在{first}下面")]
                }
            }
        }
    }
}

/// `subject` in a style's words: what requests that choose the style ask for.
pub fn styled(subject: &str, id: StyleId, language: Language) -> String {
    let template = style(id).template;
    let template = if language == Language::En { template.en } else { template.zh };
    template.replacen("{}", subject, 1)
}

/// All captions of `item` that training may use, their weights summing to 1; empty if every language is withheld.
pub fn captions(concepts: &[Concept], item: &Item, splits: &Splits) -> Vec<Caption> {
    use Language::{En, Zh};
    let concept = &concepts[item.concept];
    let other = match item.scene {
        Scene::Pair { other, .. } => Some(&concepts[other].key),
        _ => None,
    };
    let speaks =
        |language| splits.speaks(&concept.key, language) && other.is_none_or(|other| splits.speaks(other, language));
    let subjects = |language| if speaks(language) { subjects(concepts, item, language) } else { Vec::new() };
    let (english, chinese) = (subjects(En), subjects(Zh));
    let keyed = |language: Language, subjects: &[String], words: &Words, comma: &str| -> Vec<String> {
        let withheld = splits.keyword(&concept.key, language);
        let keywords = words.keywords.iter().filter(|keyword| withheld != Some(keyword)).take(KEYWORDS);
        let subject = subjects.first();
        keywords.filter_map(|keyword| Some(format!("{}{comma}{keyword}", subject?))).collect()
    };
    let [_, _, words_en, words_zh] = style_words(item.style);
    let mut captions = Vec::new();
    let mut add = |share: f32, texts: Vec<String>| {
        let weight = share / texts.len().max(1) as f32;
        captions.extend(texts.into_iter().map(|text| Caption { text, weight }));
    };
    let each = |subjects: &[String], caption: &dyn Fn(&str) -> String| -> Vec<String> {
        subjects.iter().map(|subject| caption(subject)).collect()
    };
    add(0.28, each(&english, &|subject| styled(subject, item.style, En)));
    add(0.28, each(&chinese, &|subject| styled(subject, item.style, Zh)));
    add(0.10, english.clone());
    add(0.10, chinese.clone());
    add(0.05, each(&english, &|subject| format!("{} {words_en} of {} {subject}", article(words_en), article(subject))));
    add(0.05, each(&chinese, &|subject| format!("一张{words_zh}风格的{subject}")));
    let mut keywords = |language, subjects: &[String], words: &Words, comma| {
        let texts = keyed(language, subjects, words, comma);
        add(0.04, texts.iter().map(|text| styled(text, item.style, language)).collect());
    };
    keywords(En, &english, &concept.en, ", ");
    keywords(Zh, &chinese, &concept.zh, "，");
    add(0.03, each(&chinese, &|subject| styled(subject, item.style, En)));
    add(0.03, each(&english, &|subject| styled(subject, item.style, Zh)));
    let total: f32 = captions.iter().map(|caption| caption.weight).sum();
    captions.iter_mut().for_each(|caption| caption.weight /= total);
    captions
}

/// The caption of `captions` that a number in `[0, 1)` falls on.
pub fn draw(captions: &[Caption], draw: &mut Draw) -> usize {
    let mut left = draw.uniform();
    for (index, caption) in captions.iter().enumerate() {
        left -= caption.weight;
        if left < 0.0 {
            return index;
        }
    }
    captions.len() - 1
}

/// Every caption of the pictures that show one thing alone, and one of each other picture: the words that the text
/// encoder must know.
pub fn all(dataset: &Dataset) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for item in &dataset.items {
        let mut captions = captions(&dataset.concepts, item, &dataset.splits);
        captions.truncate(if item.scene == Scene::Plain { usize::MAX } else { 1 });
        texts.extend(captions.into_iter().map(|caption| caption.text));
    }
    for language in Language::ALL {
        texts.extend(dataset.items.iter().flat_map(|item| subjects(&dataset.concepts, item, language)));
    }
    texts.sort();
    texts.dedup();
    texts
}

/// English and Chinese names of the same concept.
pub fn pairs(concepts: &[Concept]) -> Vec<(String, String)> {
    let pair = |concept: &Concept| Some((concept.en.names.first()?.clone(), concept.zh.names.first()?.clone()));
    concepts.iter().filter_map(pair).collect()
}

fn article(name: &str) -> &'static str {
    if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn plural(name: &str) -> String {
    let stem = |cut: usize| &name[..name.len() - cut];
    if ["s", "x", "ch", "sh"].iter().any(|end| name.ends_with(end)) {
        format!("{name}es")
    } else if name.ends_with('y') && !["ay", "ey", "oy"].iter().any(|end| name.ends_with(end)) {
        format!("{}ies", stem(1))
    } else {
        format!("{name}s")
    }
}
