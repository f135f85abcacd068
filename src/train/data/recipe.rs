//! Which pictures are made of the drawings, part by part.

use super::{
    super::{
        Draw,
        concepts::{Concept, Group},
        write_error,
    },
    CONCEPTS, Dataset, Item, SPLITS,
    drawings::{self, Drawing},
    names,
    picture::{LOW_SIDE, Picture, SIDE},
    read_part,
    scene::{Colour, Relation, Scene, StyleId, Tone},
    splits::{Splits, hash},
    write_json, write_part,
};
use crate::Result;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

/// What `pangu-draw train data` is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where package archives lie, or are put.
    pub cache: PathBuf,
    /// The folder to write.
    pub out: PathBuf,
    /// The emoji styles to render.
    pub styles: Vec<StyleId>,
    /// Share of the (concept, style) pairs that exist only at low resolution, in `[0, 1]`.
    pub low_resolution_share: f32,
    /// Number of composites: backgrounds, pairs and counts together.
    pub composites: usize,
    /// Whether to add flags, sprites, recoloured glyphs and clip art.
    pub extras: bool,
}

/// Changes when the same request makes other pictures.
const VERSION: u32 = 1;

/// Builds the data set in its folder; parts that are there already are kept.
///
/// # Errors
/// If a package cannot be fetched or is damaged, or the folder cannot be written.
pub fn build(request: &Request) -> Result<Dataset> {
    std::fs::create_dir_all(&request.out).map_err(|error| write_error(&request.out, error))?;
    let mut concepts = names(&request.cache)?;
    let glyphs = if request.extras { drawings::glyphs(&request.cache)? } else { Vec::new() };
    let first_glyph = concepts.len();
    let core: HashSet<String> =
        concepts.iter().filter(|concept| concept.core).flat_map(|concept| concept.en.names.clone()).collect();
    concepts.extend(glyphs.iter().map(|(concept, _)| {
        // A glyph of a common thing is a common glyph.
        Concept { core: core.contains(&concept.en.names[0]), ..concept.clone() }
    }));
    let builder = Builder { request, concepts: &concepts };

    let mut items = Vec::new();
    for &style in &request.styles {
        items.extend(builder.part(style.id(), || builder.emoji(style))?);
    }
    if request.extras {
        items.extend(builder.part("sprites", || builder.sprites())?);
        items.extend(builder.part("icons", || {
            let painted = glyphs.iter().enumerate().flat_map(|(index, (concept, glyph))| {
                Colour::ALL.map(|colour| {
                    let style = StyleId::ICONS[hash(&["theme", &concept.key, colour.names().0]) as usize % 3];
                    let scene = Scene::Coloured { colour };
                    let item = Item { concept: first_glyph + index, style, scene, low_resolution: false };
                    Some((item, glyph.paint(style, colour)?))
                })
            });
            builder.render("icons", painted.flatten().collect())
        })?);
        items.extend(builder.part("clip-art", || {
            let found = drawings::clip_art(&request.cache, &concepts)?.into_iter().map(|(concept, drawing)| {
                let item = Item { concept, style: StyleId::ClipArt, scene: Scene::Plain, low_resolution: false };
                (item, drawing)
            });
            builder.render("clip art", found.collect())
        })?);
    }
    if request.composites > 0 {
        items.extend(builder.part("composites", || builder.composites())?);
    }
    write_json(&request.out.join(CONCEPTS), &concepts)?;
    write_json(&request.out.join(SPLITS), &Splits::decide(&concepts, &items))?;
    Dataset::load(&request.out)
}

type Pictures = Vec<(Item, Picture)>;

struct Builder<'a> {
    request: &'a Request,
    concepts: &'a [Concept],
}

impl Builder<'_> {
    /// The items of a part: what is there, or what `make` makes.
    fn part(&self, name: &str, make: impl FnOnce() -> Result<Pictures>) -> Result<Vec<Item>> {
        let Request { styles, low_resolution_share, composites, extras, .. } = self.request;
        let scope = if name == "composites" { format!("{styles:?} {composites} {extras}") } else { String::new() };
        let recipe = format!("{VERSION} {name} {low_resolution_share} {scope}");
        let path = self.request.out.join(format!("{name}.part"));
        if let Ok((of, items, _)) = read_part(&path)
            && of == recipe
        {
            return Ok(items);
        }
        let (items, pictures): (Vec<Item>, Vec<Picture>) = make()?.into_iter().unzip();
        let files = pictures.par_iter().map(Picture::pack).collect::<Result<Vec<_>>>()?;
        write_part(&path, &recipe, &items, &files)?;
        Ok(items)
    }

    /// Renders drawings side by side; those that cannot be read, or show nothing, are left out.
    fn render(&self, name: &str, drawings: Vec<(Item, Drawing)>) -> Result<Pictures> {
        let style = ProgressStyle::with_template("{msg:12} {wide_bar} {pos} of {len}").expect("a valid template");
        let bar = ProgressBar::new(drawings.len() as u64).with_style(style).with_message(name.to_owned());
        let rendered = drawings.into_par_iter().filter_map(|(item, drawing)| {
            bar.inc(1);
            let picture = if item.low_resolution {
                drawing.render(LOW_SIDE).ok()?.resized(SIDE)
            } else {
                drawing.render(SIDE).ok()?
            };
            (picture.coverage() > 0.01).then_some((item, picture))
        });
        let pictures = rendered.collect();
        bar.finish();
        Ok(pictures)
    }

    /// One emoji style: plain, and in skin tones.
    fn emoji(&self, style: StyleId) -> Result<Pictures> {
        let cache = &self.request.cache;
        let mut drawings = drawings::emoji(style, cache, &|| drawings::slugs(cache, self.concepts))?;
        let share = self.request.low_resolution_share;
        let mut wanted = Vec::new();
        for (index, concept) in self.concepts.iter().enumerate() {
            let item = |scene, key| Item {
                concept: index,
                style,
                scene,
                low_resolution: is_low_resolution(key, style, share),
            };
            if let Some(drawing) = drawings.remove(&concept.key) {
                wanted.push((item(Scene::Plain, &concept.key), drawing));
            }
            for (tone, key) in Tone::ALL.into_iter().zip(&concept.tones) {
                if let Some(key) = key
                    && let Some(drawing) = drawings.remove(key)
                {
                    wanted.push((item(Scene::Tone { tone }, key), drawing));
                }
            }
        }
        self.render(style.id(), wanted)
    }

    /// Small pictures that no vector drawing is known of.
    fn sprites(&self) -> Result<Pictures> {
        let cache = &self.request.cache;
        let current = drawings::emoji(StyleId::Cartoon, cache, &|| Ok(HashMap::new()))?;
        let sprites = drawings::sprites(cache, &current)?;
        let mut pictures = Vec::new();
        for (index, concept) in self.concepts.iter().enumerate() {
            let toned = Tone::ALL.into_iter().zip(&concept.tones);
            let toned = toned.filter_map(|(tone, key)| Some((Scene::Tone { tone }, key.as_ref()?)));
            for (scene, key) in [(Scene::Plain, &concept.key)].into_iter().chain(toned) {
                if let Some(sprite) = sprites.get(key) {
                    let item = Item { concept: index, style: StyleId::Cartoon, scene, low_resolution: true };
                    pictures.push((item, sprite.clone()));
                }
            }
        }
        Ok(pictures)
    }

    /// Backgrounds, pairs and counts, of things that can be cut out and counted.
    fn composites(&self) -> Result<Pictures> {
        let styles: Vec<StyleId> =
            [StyleId::Flat, StyleId::ThreeD].into_iter().filter(|style| self.request.styles.contains(style)).collect();
        let styles = if styles.is_empty() { self.request.styles.clone() } else { styles };
        let things = [Group::Animals, Group::Food, Group::Travel, Group::Activities, Group::Objects];
        let mut sources = Vec::new();
        for &style in &styles {
            let slugs = || drawings::slugs(&self.request.cache, self.concepts);
            let drawings = drawings::emoji(style, &self.request.cache, &slugs)?;
            let thing = |concept: &Concept| {
                let name = &concept.en.names[0];
                things.contains(&concept.group) && !name.ends_with('s') && name.split(' ').count() <= 2
            };
            let indices: Vec<usize> = (0..self.concepts.len())
                .filter(|&index| thing(&self.concepts[index]) && drawings.contains_key(&self.concepts[index].key))
                .collect();
            sources.push((style, drawings, indices));
        }
        let mut plans = Vec::new();
        for number in 0..self.request.composites {
            let mut draw = Draw::new(0, number as u64);
            let source = draw.below(sources.len());
            let (style, _, all) = &sources[source];
            let core: Vec<usize> = all.iter().copied().filter(|&index| self.concepts[index].core).collect();
            // Two of three are of the core list: the parts must be known well before they can be put together.
            let pick = |draw: &mut Draw| {
                let from = if !core.is_empty() && draw.uniform() < 0.67 { &core } else { all };
                (!from.is_empty()).then(|| from[draw.below(from.len())])
            };
            let (Some(concept), Some(other)) = (pick(&mut draw), pick(&mut draw)) else { continue };
            let scene = match number % 5 {
                0 | 1 => Scene::Backdrop { colour: Colour::ALL[draw.below(Colour::ALL.len())] },
                2 => Scene::Count { count: 2 + draw.below(3) },
                _ if concept == other => continue,
                3 => Scene::Pair { relation: Relation::LeftOf, other },
                _ => Scene::Pair { relation: Relation::Above, other },
            };
            plans.push((source, Item { concept, style: *style, scene, low_resolution: false }));
        }
        let picture = |(source, item): (usize, Item)| -> Option<(Item, Picture)> {
            let drawings = &sources[source].1;
            let render = |index: usize, side| drawings.get(&self.concepts[index].key)?.render(side).ok();
            Some((item, compose(&item, &render)?))
        };
        Ok(plans.into_par_iter().filter_map(picture).collect())
    }
}

/// Puts a scene together from renderings of concepts at any side.
fn compose(item: &Item, render: &dyn Fn(usize, usize) -> Option<Picture>) -> Option<Picture> {
    let mut picture = Picture::empty(SIDE);
    let mut lay = |concept: usize, side: usize, places: &[[usize; 2]]| {
        let part = render(concept, side)?;
        places.iter().for_each(|&place| picture.draw(&part, place));
        Some(())
    };
    let (half, far, middle) = (SIDE / 2 - 4, SIDE / 2 + 2, SIDE / 4 + 2);
    match item.scene {
        Scene::Backdrop { colour } => {
            let mut backdrop = Picture::filled(SIDE, colour.names().2);
            backdrop.draw(&render(item.concept, SIDE * 3 / 4)?, [SIDE / 8; 2]);
            return Some(backdrop);
        }
        Scene::Pair { relation: Relation::LeftOf, other } => {
            lay(item.concept, half, &[[2, middle]])?;
            lay(other, half, &[[far, middle]])?;
        }
        Scene::Pair { relation: Relation::Above, other } => {
            lay(item.concept, half, &[[middle, 2]])?;
            lay(other, half, &[[middle, far]])?;
        }
        Scene::Count { count: 2 } => lay(item.concept, half, &[[2, middle], [far, middle]])?,
        Scene::Count { count: 3 } => lay(item.concept, half, &[[middle, 2], [2, far], [far, far]])?,
        Scene::Count { .. } => lay(item.concept, half, &[[2, 2], [far, 2], [2, far], [far, far]])?,
        Scene::Plain | Scene::Tone { .. } | Scene::Coloured { .. } => return None,
    }
    Some(picture)
}

/// Whether the pair belongs to the low-resolution share: decided by its hash, so that it never changes.
pub fn is_low_resolution(key: &str, style: StyleId, share: f32) -> bool {
    (hash(&["low resolution", key, style.id()]) as f32) < share * u32::MAX as f32
}
