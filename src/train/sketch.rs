//! Trains the sketch model: a small text-to-image UNet and the ControlNet that an outline steers it by, together and from
//! scratch.
//!
//! A batch in three of five has outlines; in the others the ControlNet is not run, so that the UNet draws from words alone
//! too. Both learn `v` on all timesteps, on pictures of 64 px.
//!
//! The outline of a picture is one of
//!
//! | outline | of |
//! |---|---|
//! | edges of the picture itself | every picture |
//! | Fluent's drawing in black lines of the same concept | Fluent's flat and 3D pictures |
//! | IconPark's outline icon of the same glyph | IconPark's filled icons |
//!
//! as [`crate::control::outline`] makes it of what a person gives, moved by up to a pixel and of any strength from 0.6.

use super::{
    Draw,
    autoencoder::LatentStatistics,
    data::{
        Dataset, Item,
        scene::{Scene, StyleId},
        splits::Split,
    },
    expert::{self, Batch, Material, Role, View},
    session::{self, Budget},
    sheet,
};
use crate::{
    Result,
    control::{Reading, outline},
    nets::{
        Pace,
        autoencoder_tiny::AutoencoderTiny,
        controlnet::{ControlNet, ControlNetConfig},
        now,
        unet::{UNet, UNetConfig},
    },
};
use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use rayon::prelude::*;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Side of the pictures in pixels.
pub const SIDE: usize = 64;

/// What `pangu-draw train sketch` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the UNet is trained with.
    pub denoiser: expert::Options,
    /// The ControlNet.
    pub control: ControlNetConfig,
    /// Share of the batches that have outlines.
    pub outline_share: f32,
}

impl Options {
    /// What trained the sketch model.
    pub fn new(dir: PathBuf, budget: Budget) -> Self {
        Self {
            denoiser: denoiser(dir, budget, UNetConfig::sketch()),
            control: ControlNetConfig::sketch(),
            outline_share: 0.6,
        }
    }
}

/// Options of a denoiser of all timesteps, of whole pictures.
pub(super) fn denoiser(dir: PathBuf, budget: Budget, network: UNetConfig) -> expert::Options {
    let options = expert::Options::new(dir, Role::Structure, budget);
    expert::Options { timesteps: 0..1000, low_resolution: true, view: View::Whole, network, ..options }
}

/// Both networks; their optimizer is one.
#[derive(Module, Debug)]
pub struct Sketch {
    /// Draws.
    pub unet: UNet,
    /// Steers it.
    pub controlnet: ControlNet,
}

impl Sketch {
    /// Predicts v, steered where there are `outlines` `[batch, 1, 64, 64]`.
    fn predict(
        &self,
        x: Tensor<4>,
        timesteps: Tensor<1>,
        (tokens, pooled): (Tensor<3>, Tensor<2>),
        outlines: Option<Tensor<4>>,
    ) -> Result<Tensor<4>> {
        let pace = &Pace::free();
        let residuals = outlines.map(|outlines| {
            let (x, t) = (x.clone(), timesteps.clone());
            now(self.controlnet.forward(x, t, tokens.clone(), Some(pooled.clone()), outlines, pace))
        });
        let residuals = residuals.transpose()?;
        now(self.unet.forward_controlled(x, timesteps, tokens, Some(pooled), residuals, pace))
    }
}

/// The outlines of every picture of a [`Material`], `SIDE * SIDE` bytes each, 255 a full line.
pub struct Outlines {
    /// By place, at least one each; the picture's own edges first.
    of: Vec<Vec<Vec<u8>>>,
}

impl Outlines {
    /// Draws the outlines of all pictures of `material`.
    ///
    /// # Errors
    /// If a picture is damaged.
    pub fn of(material: &Material) -> Result<Self> {
        let drawings = drawings(material.dataset);
        let lines = |item: usize, reading: Reading| -> Result<Vec<u8>> {
            let picture = material.dataset.picture(item)?.to_straight();
            let lines = outline(&picture, reading, [SIDE; 2])?;
            Ok(lines.values.into_iter().map(|value| (value * 255.0).round() as u8).collect())
        };
        let of = material.items().par_iter().map(|&item| {
            let mut outlines = vec![lines(item, Reading::Picture)?];
            for &drawing in drawings.get(&item).into_iter().flatten() {
                outlines.push(lines(drawing, Reading::Drawing)?);
            }
            Ok(outlines)
        });
        Ok(Self { of: of.collect::<Result<_>>()? })
    }

    /// One of the outlines of the picture at `place`, moved and weakened a little, appended to `out`; every other time the
    /// picture's own edges, if there are others.
    fn draw(&self, place: usize, draw: &mut Draw, out: &mut Vec<f32>) {
        let outlines = &self.of[place];
        let own = draw.uniform() < 0.5 || outlines.len() == 1;
        let lines = &outlines[if own { 0 } else { 1 + draw.below(outlines.len() - 1) }];
        let strength = (0.6 + 0.4 * draw.uniform()) / 255.0;
        let [down, right] = [0, 1].map(|_| draw.below(3) as isize - 1);
        let at = |y: usize, x: usize| {
            let moved = [(y as isize - down) as usize, (x as isize - right) as usize];
            if moved.iter().all(|&at| at < SIDE) {
                f32::from(lines[moved[0] * SIDE + moved[1]]) * strength
            } else {
                0.0
            }
        };
        out.extend((0..SIDE * SIDE).map(|i| at(i / SIDE, i % SIDE)));
    }
}

/// For each picture of a data set the drawings in lines that show the same and may be trained on.
pub fn drawings(dataset: &Dataset) -> HashMap<usize, Vec<usize>> {
    // What of its concept a picture shares with a drawing: Fluent draws tones alike, IconPark colours.
    let drawn = |item: &Item| match (item.style, item.scene) {
        (StyleId::Flat | StyleId::ThreeD, Scene::Plain | Scene::Tone { .. }) => Some((StyleId::Line, item.concept)),
        (StyleId::FilledIcon, Scene::Coloured { .. }) => Some((StyleId::OutlineIcon, item.concept)),
        _ => None,
    };
    let mut found: HashMap<(StyleId, usize), Vec<usize>> = HashMap::new();
    for (index, item) in dataset.items.iter().enumerate() {
        let lines = matches!(item.style, StyleId::Line | StyleId::OutlineIcon);
        // One outline icon a glyph: they differ in colour only.
        let first = !found.contains_key(&(item.style, item.concept));
        if lines && first && !matches!(item.scene, Scene::Tone { .. }) && dataset.split(index) == Split::Seen {
            found.insert((item.style, item.concept), vec![index]);
        }
    }
    let items = dataset.items.iter().enumerate();
    items.filter_map(|(index, item)| Some((index, found.get(&drawn(item)?)?.clone()))).collect()
}

/// Trains until the budget is spent. Continues a run that was interrupted.
///
/// `decoder` draws the sheets: a row of outlines, one drawn after them, and one of the same words and noise without them.
///
/// # Errors
/// As [`expert::train`].
pub fn train(
    material: &Material,
    decoder: (&AutoencoderTiny, &LatentStatistics),
    options: &Options,
    device: &Device,
) -> Result<f32> {
    let outlines = Outlines::of(material)?;
    let tensor = |places: &[usize], draw: &mut Draw, device: &Device| {
        let mut values = Vec::with_capacity(places.len() * SIDE * SIDE);
        places.iter().for_each(|&place| outlines.draw(place, draw, &mut values));
        Tensor::<4>::from_data(TensorData::new(values, [places.len(), 1, SIDE, SIDE]), device)
    };
    let init = |device: &Device| {
        Ok(Sketch {
            unet: options.denoiser.network.init_for_training(device)?,
            controlnet: options.control.init_for_training(device)?,
        })
    };
    let loss = |model: &Sketch, batch: &Batch, draw: &mut Draw, device: &Device| {
        let condition = material.condition(&batch.captions, device)?;
        let lines = (draw.uniform() < options.outline_share).then(|| tensor(&batch.places, draw, device));
        batch.loss(|x, timesteps| model.predict(x, timesteps, condition, lines), device)
    };
    let report = |model: &Sketch, shown: &expert::Sheet| {
        let device = &model.unet.devices()[0];
        let condition = material.guided(&shown.prompts(material), device)?;
        let lines = tensor(&shown.places, &mut Draw::new(options.denoiser.seed, 0), device);
        let both = Tensor::cat(vec![lines.clone(), lines.clone()], 0);
        let draw = |lines: Option<&Tensor<4>>| {
            let latents = shown.draw(material, &options.denoiser, device, |x, timesteps| {
                model.predict(x, timesteps, condition.clone(), lines.cloned())
            })?;
            let ranks = expert::ranks(&expert::to_vec(latents.clone()), material, &shown.places);
            let found = ranks.into_iter().filter(|&rank| rank == 1).count();
            Ok::<_, crate::Error>((expert::decode(decoder, latents)?, found))
        };
        let ((steered, found), (free, without)) = (draw(Some(&both))?, draw(None)?);
        let lines = sheet::pictures(lines.expand([shown.places.len() as i64, 3, SIDE as i64, SIDE as i64]) * 2.0);
        let rows = [&lines, &steered, &free].map(|pictures| pictures.chunks(expert::SHEET_COLUMNS));
        let [lines, steered, free] = rows;
        let pictures: Vec<_> = lines.zip(steered).zip(free).flat_map(|((a, b), c)| [a, b, c].concat()).collect();
        sheet::write(&pictures, expert::SHEET_COLUMNS, &shown.path)?;
        let of = shown.places.len();
        Ok(format!("the true picture is nearest for {found} of {of} drawings after outlines, {without} without"))
    };
    expert::fit(material, &options.denoiser, device, init, loss, report)
}

/// The averaged networks of the run in `dir`.
///
/// # Errors
/// If there is no checkpoint of these networks.
pub fn load(dir: &Path, device: &Device) -> Result<Sketch> {
    let unet = UNetConfig::sketch().init(device)?;
    let model = Sketch { unet, controlnet: ControlNetConfig::sketch().init(device)? };
    session::averaged(dir, &model)
}
