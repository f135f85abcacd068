//! What a picture is called while training: names, keywords and style words in English and Chinese.
//!
//! A picture has a fixed list of weighted captions; a training step draws one. Half are English and half Chinese, a few
//! mix both; most name the style, so that style guidance (a prompt with its style against the prompt alone) has
//! something to push along.

use super::{
    Draw,
    concepts::{Concept, Words},
    data::{Dataset, StyleId},
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

/// How a style is called, and the template that requests use it by.
pub fn style(id: StyleId) -> Style {
    let (name_en, name_zh, en, zh) = match id {
        StyleId::Flat => ("Flat", "扁平", "flat vector illustration", "扁平矢量插画"),
        StyleId::ThreeD => ("3D", "立体", "3D render", "3D立体渲染"),
        StyleId::Cartoon => ("Cartoon", "卡通", "cartoon emoji", "卡通表情"),
        StyleId::Sticker => ("Sticker", "贴纸", "simple sticker", "简约贴纸"),
    };
    Style {
        id: id.id().into(),
        name: Bilingual { en: name_en.into(), zh: name_zh.into() },
        template: Bilingual { en: format!("{{}}, {en}"), zh: format!("{{}}，{zh}") },
    }
}

/// Keywords of a concept that captions use.
const KEYWORDS: usize = 3;

/// All captions of `concept` drawn in `id`, their weights summing to 1.
pub fn captions(concept: &Concept, id: StyleId) -> Vec<Caption> {
    let style = style(id);
    let [en, zh] = [&style.template.en, &style.template.zh];
    let styled = |template: &str, name: &str| template.replace("{}", name);
    let words_en = en.trim_start_matches("{}, ");
    let words_zh = zh.trim_start_matches("{}，");
    let mut captions = Vec::new();
    let mut add = |share: f32, texts: Vec<String>| {
        let weight = share / texts.len().max(1) as f32;
        captions.extend(texts.into_iter().map(|text| Caption { text, weight }));
    };
    let each = |words: &Words, caption: &dyn Fn(&str) -> String| words.names.iter().map(|name| caption(name)).collect();
    let keyed = |words: &Words, caption: &dyn Fn(&str, &str) -> String| {
        words.keywords.iter().take(KEYWORDS).map(|keyword| caption(&words.names[0], keyword)).collect()
    };
    add(0.28, each(&concept.en, &|name| styled(en, name)));
    add(0.28, each(&concept.zh, &|name| styled(zh, name)));
    add(0.10, each(&concept.en, &str::to_owned));
    add(0.10, each(&concept.zh, &str::to_owned));
    add(0.05, each(&concept.en, &|name| format!("a {words_en} of {} {name}", article(name))));
    add(0.05, each(&concept.zh, &|name| format!("一张{words_zh}风格的{name}")));
    add(0.04, keyed(&concept.en, &|name, keyword| styled(en, &format!("{name}, {keyword}"))));
    add(0.04, keyed(&concept.zh, &|name, keyword| styled(zh, &format!("{name}，{keyword}"))));
    add(0.03, each(&concept.zh, &|name| styled(en, name)));
    add(0.03, each(&concept.en, &|name| styled(zh, name)));
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

/// Every caption of a data set, for the vocabulary.
pub fn all(dataset: &Dataset) -> Vec<String> {
    let captions = dataset.items.iter().flat_map(|item| captions(&dataset.concepts[item.concept], item.style));
    let mut texts: Vec<String> = captions.map(|caption| caption.text).collect();
    texts.sort();
    texts.dedup();
    texts
}

/// English and Chinese names of the same concept.
pub fn pairs(concepts: &[Concept]) -> Vec<(String, String)> {
    concepts.iter().map(|concept| (concept.en.names[0].clone(), concept.zh.names[0].clone())).collect()
}

fn article(name: &str) -> &'static str {
    if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
