//! Evaluation on what is known beforehand: Gaussians, exact copies, and eight shapes that anyone can tell apart.
#![cfg(feature = "train")]

use burn::tensor::Device;
use pangu_draw::{
    pipeline::Request,
    train::{
        Draw,
        concepts::{Concept, Group, Words},
        data::{
            Dataset, Item,
            mix::{Mix, Sampler},
            picture::{Picture, SIDE},
            scene::{Language, Scene, StyleId, Tone},
            splits::Split,
        },
        eval::{
            self, Alignment, Options, Painter, Question, Report,
            copying::{Gallery, looks},
            dual::{self, Batch, DualEncoder},
            frechet, report,
        },
        session::Budget,
    },
};
use std::{collections::HashMap, fs, path::PathBuf};

/// A folder that is removed at the end of its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("pangu-draw-eval-{name}-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const RED: [u8; 3] = [220, 30, 40];
const BLUE: [u8; 3] = [30, 60, 220];
const GREEN: [u8; 3] = [40, 160, 60];

/// Name, Chinese name, colour, and where `(x, y)` in `[-1, 1]` is inside.
type Shape = (&'static str, &'static str, [u8; 3], fn(f32, f32) -> bool);

const SHAPES: [Shape; 8] = [
    ("red circle", "红色圆形", RED, |x, y| x * x + y * y < 1.0),
    ("blue circle", "蓝色圆形", BLUE, |x, y| x * x + y * y < 1.0),
    ("green circle", "绿色圆形", GREEN, |x, y| x * x + y * y < 1.0),
    ("red square", "红色方块", RED, |x, y| x.abs().max(y.abs()) < 0.9),
    ("blue square", "蓝色方块", BLUE, |x, y| x.abs().max(y.abs()) < 0.9),
    ("red triangle", "红色三角", RED, |x, y| y < 0.9 && y > 2.0 * x.abs() - 0.9),
    ("blue ring", "蓝色圆环", BLUE, |x, y| (0.4..1.0).contains(&(x * x + y * y))),
    ("green cross", "绿色十字", GREEN, |x, y| x.abs().min(y.abs()) < 0.3 && x.abs().max(y.abs()) < 1.0),
];

/// A shape that fills `size` of the picture.
fn paint(colour: [u8; 3], size: f32, inside: fn(f32, f32) -> bool) -> Picture {
    let mut picture = Picture::empty(SIDE);
    for (at, pixel) in picture.rgba.chunks_exact_mut(4).enumerate() {
        let unit = |at: usize| (2.0 * (at as f32 + 0.5) / SIDE as f32 - 1.0) / size;
        if inside(unit(at % SIDE), unit(at / SIDE)) {
            pixel.copy_from_slice(&[colour[0], colour[1], colour[2], 255]);
        }
    }
    picture
}

/// Eight shapes in two styles, and a hand in five tones, one of them held out.
fn shapes() -> Dataset {
    let concept = |key: &str, en: &str, zh: &str, tones| Concept {
        key: key.into(),
        group: Group::Objects,
        core: true,
        en: Words { names: vec![en.into()], keywords: vec![] },
        zh: Words { names: vec![zh.into()], keywords: vec![] },
        tones,
    };
    let mut concepts: Vec<Concept> =
        SHAPES.iter().map(|(en, zh, ..)| concept(en, en, zh, Default::default())).collect();
    concepts.push(concept("hand", "hand", "手掌", Tone::ALL.map(|_| Some("hand".into()))));
    let mut pictures = Vec::new();
    for (style, size) in [(StyleId::Flat, 0.9), (StyleId::Sticker, 0.6)] {
        let item = |concept, scene| Item { concept, style, scene, low_resolution: false };
        for (index, (_, _, colour, inside)) in SHAPES.into_iter().enumerate() {
            pictures.push((item(index, Scene::Plain), paint(colour, size, inside)));
        }
        for (step, tone) in (0..).zip(Tone::ALL) {
            let skin = [240 - 40 * step, 200 - 40 * step, 170 - 36 * step];
            let fingers = |x: f32, y: f32| y.abs() < 0.9 && x.abs() < 0.9 && (y > 0.0 || (4.0 * x).fract().abs() < 0.6);
            pictures.push((item(SHAPES.len(), Scene::Tone { tone }), paint(skin, size, fingers)));
        }
    }
    Dataset::new(concepts, pictures).unwrap()
}

fn trained(dataset: &Dataset, name: &str, samples: u64) -> (Folder, DualEncoder) {
    let folder = Folder::new(name);
    let budget = Budget { samples: Some(samples), minutes: None, pause_after: None };
    let mut options = dual::Options::new(folder.0.clone(), budget);
    options.batch = 24;
    options.rate.warmup = 10;
    dual::train(dataset, &options, &Device::flex()).unwrap();
    let encoder = dual::load(&folder.0, &Device::flex()).unwrap();
    (folder, encoder)
}

fn of(report: &Report, question: Question, language: Language) -> &Alignment {
    let found = report.alignment.iter().find(|a| (a.question, a.language) == (question, language));
    found.expect("the question was asked")
}

#[test]
fn the_evaluator_learns_what_it_is_shown_and_judges_painters_by_it() {
    let dataset = shapes();
    let options = Options { per_split: 8, step_prompts: 4, ..Options::default() };
    let ignorant = eval::run(&dataset, &DualEncoder::new(&Device::flex()), None, &options).unwrap();
    let (folder, encoder) = trained(&dataset, "learns", 5000);
    let real = eval::run(&dataset, &encoder, None, &options).unwrap();
    for language in Language::ALL {
        let recall = |report| of(report, Question::SeenCore, language).real.recall_at_1;
        assert!(recall(&ignorant) < 0.6, "{} before training", recall(&ignorant));
        assert!(recall(&real) > 0.9, "{} after it", recall(&real));
    }
    assert!(real.targets.is_empty() && real.frechet.is_none(), "nobody drew");

    // One who copies the pictures scores as they do, and is found out.
    let mut known = HashMap::new();
    for (index, item) in dataset.items.iter().enumerate() {
        for language in Language::ALL {
            let subject = pangu_draw::train::captions::subjects(&dataset.concepts, item, language).swap_remove(0);
            known.insert((subject, item.style.id()), index);
        }
    }
    let copy = |request: &Request| {
        let key = (request.prompt.clone(), request.style.as_deref().unwrap_or_default());
        let found = known.iter().find(|((prompt, style), _)| (prompt, *style) == (&key.0, key.1));
        found.map_or(Ok(Picture::empty(SIDE)), |(_, &item)| dataset.picture(item))
    };
    let styles = vec![StyleId::Flat, StyleId::Sticker];
    let copied =
        eval::run(&dataset, &encoder, Some(&Painter { styles: styles.clone(), draw: &copy }), &options).unwrap();
    for alignment in &copied.alignment {
        assert_eq!(alignment.drawn, Some(alignment.real), "{alignment:?}");
    }
    let seen = || copied.targets.iter().filter(|target| target.what.starts_with("seen"));
    assert!(seen().count() == 3 && seen().all(|target| target.met), "{:?}", copied.targets);
    let copying = copied.copying.as_ref().unwrap();
    assert_eq!(copying.drawn.near_duplicates, 1.0);
    assert!(copied.few_steps.unwrap().between_steps[0] > 99.0, "the same picture in any number of steps");
    assert_eq!(copied.sheet.len(), 50);

    // One who always draws the same thing misses the targets.
    let lazy = |_: &Request| Ok(paint(GREEN, 0.3, |x, y| x > y));
    let lazy = eval::run(&dataset, &encoder, Some(&Painter { styles, draw: &lazy }), &options).unwrap();
    assert!(lazy.targets.iter().filter(|target| target.what.starts_with("seen")).any(|target| !target.met));
    assert_eq!(lazy.copying.as_ref().unwrap().drawn.near_duplicates, 0.0);
    let distance = |report: &Report| report.frechet.unwrap().drawn_to_training;
    assert!(distance(&lazy) > 2.0 * distance(&copied), "{} and {}", distance(&lazy), distance(&copied));

    report::write(&copied, &folder.0).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(folder.0.join("eval.json")).unwrap()).unwrap();
    assert_eq!(json["frechet"]["pictures"], copied.frechet.unwrap().pictures);
    let html = fs::read_to_string(folder.0.join("report.html")).unwrap();
    assert!(html.contains("data:image/png;base64,iVBOR") && html.contains("红色圆形") && !html.contains("<script"));
    assert!(!html.contains("src=\"http") && folder.0.join("sheet.png").exists());
}

#[test]
fn nothing_held_out_is_ever_trained_on() {
    let dataset = shapes();
    let held_out = (0..dataset.items.len()).filter(|&item| dataset.split(item) != Split::Seen).count();
    assert_eq!(held_out, 2, "one tone in two styles");
    let sampler = Sampler::new(&dataset, &dataset.training(), &Mix::default()).unwrap();
    let withheld = dataset.splits.tones["hand"].names();
    for step in 0..20 {
        let batch = Batch::draw(&dataset, &sampler, 32, &mut Draw::new(1, step)).unwrap();
        assert!(batch.items.iter().all(|&item| dataset.split(item) == Split::Seen));
        assert!(batch.captions.iter().all(|text| !text.contains(&format!("with {}", withheld.0))));
        assert!(batch.captions.iter().all(|text| !text.contains(&format!("{}的", withheld.1))));
    }
}

#[test]
fn captions_that_are_true_of_another_picture_are_no_negatives() {
    let dataset = shapes();
    let sampler = Sampler::new(&dataset, &dataset.training(), &Mix::default()).unwrap();
    let batch = Batch::draw(&dataset, &sampler, 64, &mut Draw::new(2, 0)).unwrap();
    let mut also = 0;
    for (at, true_too) in batch.also_true.iter().enumerate() {
        let (i, j) = (at / 64, at % 64);
        let [a, b] = [i, j].map(|place| &dataset.items[batch.items[place]]);
        assert!(!true_too || i != j, "a picture's own caption is what it must find");
        assert!(!true_too || (a.concept, a.scene) == (b.concept, b.scene));
        let plain = SHAPES.iter().any(|(en, zh, ..)| batch.captions[j] == *en || batch.captions[j] == *zh);
        if i != j && a.concept == b.concept && plain {
            assert!(true_too, "{} is true of every style", batch.captions[j]);
            also += 1;
        }
    }
    assert!(also > 0);
}

#[test]
fn a_copy_is_found_and_a_new_picture_is_not() {
    let dataset = shapes();
    let encoder = DualEncoder::new(&Device::flex());
    let gallery = Gallery::new(&dataset, dataset.training(), &encoder, &|_| ()).unwrap();
    let threshold = gallery.threshold(&dataset, 0).unwrap();
    assert_eq!(threshold.pairs, SHAPES.len());
    let new = paint([250, 210, 30], 0.8, |x, y| y > x * x);
    let looks = looks(&encoder, &[dataset.picture(3).unwrap(), new]).unwrap();
    let copy = gallery.nearest(&looks[0]).unwrap();
    assert_eq!((copy.by_pixel.0, copy.by_pixel.1, copy.by_feature.0), (3, 0.0, 3));
    assert!(copy.is_copy(&threshold));
    assert!(!gallery.nearest(&looks[1]).unwrap().is_copy(&threshold));
}

/// Vectors from N(mean, diag(deviation^2)).
fn gaussian(seed: u64, count: usize, mean: &[f32], deviation: &[f32]) -> Vec<Vec<f32>> {
    let mut draw = Draw::new(seed, 0);
    let mut vector = || {
        let normal = draw.normal(mean.len());
        mean.iter().zip(deviation).zip(normal).map(|((mean, deviation), n)| mean + deviation * n).collect()
    };
    (0..count).map(|_| vector()).collect()
}

#[test]
fn the_frechet_distance_of_gaussians_is_the_closed_form() {
    // |m1 - m2|^2 + sum (s1 - s2)^2 for covariances that commute.
    let a = gaussian(1, 50_000, &[0.0, 1.0, -2.0], &[1.0, 2.0, 0.5]);
    let b = gaussian(2, 50_000, &[1.0, 1.0, -1.5], &[1.5, 1.0, 0.5]);
    let expected = 1.0 + 0.25 + 0.25 + 1.0;
    let found = frechet::distance(&a, &b).unwrap();
    assert!((found - expected).abs() < 0.06, "{found}, not {expected}");
    assert!((found - frechet::distance(&b, &a).unwrap()).abs() < 1e-9, "it is symmetric");

    // Covariances [[2, 1], [1, 2]] and [[2, -1], [-1, 2]] do not commute with a diagonal one: three exact pairs of points
    // each, so the closed form holds to rounding. tr sqrt(A B) of these two is 2 sqrt(3).
    let corners = |s: f32| {
        let (wide, narrow) = (3f32.sqrt() * 1.5f32.sqrt(), 1.5f32.sqrt());
        let h = 0.5f32.sqrt();
        vec![
            vec![wide * h, s * wide * h],
            vec![-wide * h, -s * wide * h],
            vec![narrow * h, -s * narrow * h],
            vec![-narrow * h, s * narrow * h],
        ]
    };
    let found = frechet::distance(&corners(1.0), &corners(-1.0)).unwrap();
    assert!((found - (8.0 - 4.0 * 3f64.sqrt())).abs() < 1e-5, "{found}");
}

#[test]
fn a_set_is_at_no_distance_from_itself() {
    // Fewer vectors than dimensions, so that the covariance is singular.
    let few = gaussian(3, 20, &[0.5; 64], &[1.0; 64]);
    assert!(frechet::distance(&few, &few).unwrap() < 1e-6);
    assert!(frechet::distance(&few, &gaussian(4, 20, &[0.5; 64], &[1.0; 64])).unwrap() > 1.0);
    assert!(frechet::distance(&few[..1], &few).is_err());
    assert!(frechet::distance(&few, &gaussian(5, 20, &[0.0; 3], &[1.0; 3])).is_err());
}
