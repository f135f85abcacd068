//! Trains the variation model: a UNet that draws, of a picture, the same thing as somebody else would draw it, together
//! with the encoder it reads the picture by.
//!
//! Of a training picture the condition is, in seven of ten samples, the same concept and scene in another style, else the
//! picture itself; scaled, moved, lighter or darker, and on white, on a pale colour or on nothing, so that all of this
//! comes to mean nothing. In one of ten there is no condition: zeros. Latents are the sketch model's.

use super::{
    Draw,
    autoencoder::{LatentStatistics, tensor},
    data::{Dataset, picture::Picture, scene::Scene},
    expert::{self, Batch, Material},
    session::{self, Budget},
    sheet,
    sketch::{SIDE, denoiser},
};
use crate::{
    Result,
    nets::{
        autoencoder_tiny::AutoencoderTiny,
        picture_encoder::{PictureEmbedding, PictureEncoder, PictureEncoderConfig},
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

/// What `pangu-draw train variation` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the UNet is trained with; the share of dropped captions is that of dropped pictures.
    pub denoiser: expert::Options,
    /// The encoder.
    pub encoder: PictureEncoderConfig,
    /// Share of the samples whose condition is the picture itself.
    pub same_share: f32,
}

impl Options {
    /// What trained the variation model.
    pub fn new(dir: PathBuf, budget: Budget) -> Self {
        Self {
            denoiser: denoiser(dir, budget, UNetConfig::sketch()),
            encoder: PictureEncoderConfig::default(),
            same_share: 0.3,
        }
    }
}

/// Both networks; their optimizer is one.
#[derive(Module, Debug)]
pub struct Variation {
    /// Draws.
    pub unet: UNet,
    /// Reads the picture.
    pub encoder: PictureEncoder,
}

/// The pictures that stand for those of a [`Material`], 64 px.
pub struct Conditions {
    pictures: Vec<Picture>,
    /// For each place of the material: itself, and the same in other styles, as indices of `pictures`.
    of: Vec<Vec<usize>>,
}

/// For each place of `material` the pictures of the data set that it may be drawn after: itself, and what shows the same
/// concept and scene in other styles and may be trained on.
pub fn conditions(material: &Material) -> Vec<Vec<usize>> {
    let Dataset { items, .. } = material.dataset;
    let mut alike: HashMap<(usize, Scene), Vec<usize>> = HashMap::new();
    for item in material.dataset.training() {
        alike.entry((items[item].concept, items[item].scene)).or_default().push(item);
    }
    let of = material.items().iter().map(|&item| {
        let others = alike[&(items[item].concept, items[item].scene)].iter().copied();
        std::iter::once(item).chain(others.filter(|&other| items[other].style != items[item].style)).collect()
    });
    of.collect()
}

impl Conditions {
    /// Reads the pictures of [`conditions`].
    ///
    /// # Errors
    /// If a picture is damaged.
    pub fn of(material: &Material) -> Result<Self> {
        let (mut used, mut places) = (Vec::new(), HashMap::new());
        let mut place = |item: usize| {
            *places.entry(item).or_insert_with(|| {
                used.push(item);
                used.len() - 1
            })
        };
        let of = conditions(material).into_iter().map(|items| items.into_iter().map(&mut place).collect()).collect();
        let pictures = used.par_iter().map(|&item| Ok(material.dataset.picture(item)?.resized(SIDE)));
        Ok(Self { pictures: pictures.collect::<Result<_>>()?, of })
    }

    /// What the picture at `place` is drawn after.
    fn draw(&self, place: usize, same_share: f32, draw: &mut Draw) -> Picture {
        let all = &self.of[place];
        let same = draw.uniform() < same_share || all.len() == 1;
        disguised(&self.pictures[all[if same { 0 } else { 1 + draw.below(all.len() - 1) }]], draw)
    }
}

/// The picture a little smaller, elsewhere, lighter or darker, and on something.
fn disguised(picture: &Picture, draw: &mut Draw) -> Picture {
    let side = SIDE - draw.below(SIDE / 4 + 1);
    let corner = [0, 1].map(|_| draw.below(SIDE - side + 1));
    let light = 0.9 + 0.2 * draw.uniform();
    let mut picture = picture.resized(side);
    picture.rgba.chunks_exact_mut(4).for_each(|pixel| {
        let alpha = pixel[3];
        pixel[..3].iter_mut().for_each(|c| *c = ((f32::from(*c) * light) as u8).min(alpha));
    });
    let mut paper = match draw.uniform() {
        nothing if nothing < 0.5 => Picture::empty(SIDE),
        white if white < 0.85 => Picture::filled(SIDE, [255; 3]),
        _ => Picture::filled(SIDE, [0; 3].map(|_: u8| 200 + draw.below(56) as u8)),
    };
    paper.draw(&picture, corner);
    paper
}

/// Trains until the budget is spent. Continues a run that was interrupted.
///
/// `decoder` draws the sheets: a row of pictures, and one of drawings after them.
///
/// # Errors
/// As [`expert::train`].
pub fn train(
    material: &Material,
    decoder: (&AutoencoderTiny, &LatentStatistics),
    options: &Options,
    device: &Device,
) -> Result<f32> {
    let conditions = Conditions::of(material)?;
    let pictures = |places: &[usize], same_share: f32, draw: &mut Draw| -> Vec<Picture> {
        places.iter().map(|&place| conditions.draw(place, same_share, draw)).collect()
    };
    let init = |device: &Device| {
        Ok(Variation {
            unet: options.denoiser.network.init_for_training(device)?,
            encoder: options.encoder.init_for_training(device)?,
        })
    };
    let loss = |model: &Variation, batch: &Batch, draw: &mut Draw, device: &Device| {
        let pictures = pictures(&batch.places, options.same_share, draw);
        let kept =
            batch.places.iter().map(|_| f32::from(u8::from(draw.uniform() >= options.denoiser.caption_drop))).collect();
        let kept = Tensor::<2>::from_data(TensorData::new(kept, [pictures.len(), 1]), device);
        let PictureEmbedding { tokens, pooled } = model.encoder.encode_now(tensor(&pictures, device))?;
        let (tokens, pooled) = (tokens * kept.clone().unsqueeze_dim(2), pooled * kept);
        batch.loss(|x, timesteps| model.unet.forward_now(x, timesteps, tokens, Some(pooled)), device)
    };
    let report = |model: &Variation, shown: &expert::Sheet| {
        let device = &model.unet.devices()[0];
        let images = tensor(&pictures(&shown.places, 0.0, &mut Draw::new(options.denoiser.seed, 0)), device);
        let embedding = model.encoder.encode_now(images.clone())?;
        let none = embedding.none();
        let tokens = Tensor::cat(vec![embedding.tokens, none.tokens], 0);
        let pooled = Tensor::cat(vec![embedding.pooled, none.pooled], 0);
        let latents = shown.draw(material, &options.denoiser, device, |x, timesteps| {
            model.unet.forward_now(x, timesteps, tokens.clone(), Some(pooled.clone()))
        })?;
        let ranks = expert::ranks(&expert::to_vec(latents.clone()), material, &shown.places);
        let (images, drawn) = (sheet::pictures(images), expert::decode(decoder, latents)?);
        let rows = images.chunks(expert::SHEET_COLUMNS).zip(drawn.chunks(expert::SHEET_COLUMNS));
        let rows: Vec<_> = rows.flat_map(|(images, drawn)| [images, drawn].concat()).collect();
        sheet::write(&rows, expert::SHEET_COLUMNS, &shown.path)?;
        let found = ranks.into_iter().filter(|&rank| rank == 1).count();
        Ok(format!("the true picture is nearest for {found} of {} drawings", shown.places.len()))
    };
    expert::fit(material, &options.denoiser, device, init, loss, report)
}

/// The averaged networks of the run in `dir`.
///
/// # Errors
/// If there is no checkpoint of these networks.
pub fn load(dir: &Path, device: &Device) -> Result<Variation> {
    let unet = UNetConfig::sketch().init(device)?;
    let model = Variation { unet, encoder: PictureEncoderConfig::default().init(device)? };
    session::averaged(dir, &model)
}
