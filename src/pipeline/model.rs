//! A model: its networks, here or still to come, and the denoiser that they make for one request.

use super::{
    config::{Expert, ExpertsConfig, PipelineConfig},
    latent::LatentSpace,
    residency::{Part, Residency, Resident},
    text::{TextEncoders, Texts},
};
use crate::{
    Error, Image, Result,
    control::{self, Reading},
    coop::Participant,
    decoupled::TimeDecoupled,
    diffusion::{
        Cond, Denoiser, Denoising, Network, NetworkDenoiser,
        guidance::{ControlGuided, Guided},
        schedule::{Prediction, Schedule},
    },
    nets::{
        Pace,
        controlnet::{ControlNet, ControlNetConfig},
        picture_encoder::{PictureEncoder, PictureEncoderConfig},
        precision::Stage,
        unet::{UNet, UNetConfig},
    },
    pixels,
    weights::{Arrival, Depot, manifest::Manifest},
};
use burn::tensor::{Device, Tensor, TensorData};
use std::rc::Rc;

/// A model whose networks come when they are needed.
pub struct Model {
    pub manifest: Rc<Manifest>,
    pub config: PipelineConfig,
    pub schedule: Schedule,
    pub space: Rc<LatentSpace>,
    condition: Condition,
    experts: Experts,
    control: Option<Rc<Resident<ControlNet>>>,
    device: Device,
}

/// What a model draws after.
enum Condition {
    Text(TextEncoders),
    Picture(Rc<Resident<PictureEncoder>>),
}

/// A UNet on its schedule, once it is there.
type AwaitedExpert = NetworkDenoiser<Rc<Resident<UNet>>>;

/// One UNet, or PanGu-Draw's two, with what each predicts.
enum Experts {
    Single(Rc<Resident<UNet>>, Prediction),
    TimeDecoupled { structure: AwaitedExpert, texture: AwaitedExpert },
}

/// What is asked of a model.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// What to draw, and how large.
    pub texts: Texts<'a>,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// Style guidance.
    pub style_scale: f64,
    /// The noise levels of the run.
    pub sigmas: &'a [f64],
    /// The outline to follow.
    pub outline: Option<Outline<'a>>,
    /// The picture to draw after.
    pub picture: Option<&'a Image>,
}

/// An outline to follow.
#[derive(Clone, Copy)]
pub struct Outline<'a> {
    /// Any picture.
    pub image: &'a Image,
    /// Factor of what the ControlNet adds.
    pub scale: f64,
    /// Noise level below which it is not followed any more.
    pub until: f64,
}

/// A model that was asked for something.
pub struct Asked<'a> {
    pub model: &'a Model,
    pub size: [usize; 2],
    pub cond: Cond,
    pub denoiser: Box<dyn Denoiser + 'a>,
}

impl Model {
    /// The model in `depot`. No weights are loaded for it; latent spaces are shared with the models in `others`.
    ///
    /// # Errors
    /// As [`Depot::manifest`]; [`Error::Corrupt`] or [`Error::Unsupported`] for a manifest that does not add up.
    pub async fn open(depot: &Depot, residency: &Rc<Residency>, others: &[Rc<Self>]) -> Result<Self> {
        let manifest = Rc::new(depot.manifest().await?);
        let config = PipelineConfig::from_json(&manifest.pipeline)?;
        let schedule = Schedule::new(&config.schedule)?;
        let folder = (depot, &manifest);
        let unet = |expert: &Expert| {
            let channels = config.latent.channels;
            let load = move |arrival, device| load_unet(arrival, channels, device);
            residency.part(folder, &expert.component, &["UNet2DConditionModel"], load)
        };
        let awaited =
            |expert: &Expert| Ok::<_, Error>(NetworkDenoiser::new(unet(expert)?, schedule.clone(), expert.prediction));
        let experts = match &config.experts {
            ExpertsConfig::Single { unet: expert } => Experts::Single(unet(expert)?, expert.prediction),
            ExpertsConfig::TimeDecoupled { structure, texture, .. } => {
                Experts::TimeDecoupled { structure: awaited(structure)?, texture: awaited(texture)? }
            }
        };
        let control = config
            .control
            .as_ref()
            .map(|control| residency.part(folder, &control.component, &["ControlNetModel"], load_controlnet));
        let condition = match &config.picture {
            Some(picture) => {
                let networks = ["PictureEncoder"];
                Condition::Picture(residency.part(folder, &picture.component, &networks, load_picture_encoder)?)
            }
            None => Condition::Text(TextEncoders::new(&config.text, folder, residency)?),
        };
        let key = LatentSpace::key(&config.latent, &manifest)?;
        let space = match others.iter().find(|other| other.space.is(&key)) {
            Some(other) => other.space.clone(),
            None => Rc::new(LatentSpace::new(&config, folder, residency)?),
        };
        let (control, device) = (control.transpose()?, residency.device().clone());
        Ok(Self { schedule, space, condition, experts, control, device, manifest, config })
    }

    /// What must be here before the first step.
    pub fn encoders(&self) -> Vec<Rc<dyn Part>> {
        match &self.condition {
            Condition::Text(encoders) => encoders.parts().collect(),
            Condition::Picture(encoder) => vec![encoder.clone()],
        }
    }

    /// What the first step needs.
    pub fn first(&self) -> Vec<Rc<dyn Part>> {
        let unet: Rc<dyn Part> = match &self.experts {
            Experts::Single(unet, _) => unet.clone(),
            Experts::TimeDecoupled { structure, .. } => structure.network().clone(),
        };
        let control = self.control.clone().map(|control| control as Rc<dyn Part>);
        [unet].into_iter().chain(control).collect()
    }

    /// What takes the place of the first step's experts later.
    pub fn later(&self) -> Vec<Rc<dyn Part>> {
        match &self.experts {
            Experts::Single(..) => Vec::new(),
            Experts::TimeDecoupled { texture, .. } => vec![texture.network().clone()],
        }
    }

    /// Encodes what is asked for and makes the denoiser that draws it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text or a picture that cannot be read, [`Error::Cancelled`].
    pub async fn ask<'a>(&'a self, ask: Ask<'a>, pace: &Pace) -> Result<Asked<'a>> {
        let size = ask.texts.size;
        let (cond, uncond, style) = match &self.condition {
            Condition::Text(encoders) => {
                let prompts = encoders.encode(ask.texts, &self.config, pace).await?;
                (prompts.cond, prompts.uncond, prompts.style)
            }
            Condition::Picture(encoder) => {
                let image = ask.picture.ok_or_else(|| Error::Invalid {
                    parameter: "control",
                    why: "this model draws after a picture; give one as `variation`".into(),
                })?;
                let encoder = encoder.get(pace).await?;
                let side = encoder.config().sample_size;
                let picture = encoder.encode(pixels::fit(image, [side, side], &self.device), pace).await?;
                let (cond, uncond) = (Cond::from(picture), Cond::from(encoder.none()));
                (cond, uncond, None)
            }
        };
        let denoiser = Guided {
            inner: self.denoiser(&ask, pace).await?,
            uncond,
            style,
            scale: ask.guidance_scale,
            style_scale: ask.style_scale,
            sequential: false,
        };
        Ok(Asked { model: self, size, cond, denoiser: Box::new(denoiser) })
    }

    /// The lowest noise level of the structure expert in a run; none for an undivided model.
    pub fn boundary(&self, sigmas: &[f64]) -> Option<f64> {
        match &self.config.experts {
            ExpertsConfig::TimeDecoupled { t_struct, rule, .. } => {
                Some(rule.boundary(&self.schedule, *t_struct, sigmas))
            }
            ExpertsConfig::Single { .. } => None,
        }
    }

    /// The denoiser of the networks, without guidance.
    async fn denoiser<'a>(&'a self, ask: &Ask<'_>, pace: &Pace) -> Result<Box<dyn Denoiser + 'a>> {
        Ok(match (&self.experts, self.boundary(ask.sigmas)) {
            (Experts::TimeDecoupled { structure, texture }, Some(boundary)) => {
                Box::new(TimeDecoupled { structure, texture, boundary })
            }
            (Experts::Single(unet, prediction), _) => {
                let plain = NetworkDenoiser::new(unet.clone(), self.schedule.clone(), *prediction);
                match (&self.control, ask.outline) {
                    (Some(net), Some(outline)) => {
                        let lines = control::outline(outline.image, Reading::Auto, ask.texts.size)?;
                        let [height, width] = ask.texts.size;
                        let lines = TensorData::new(lines.values, [1, 1, height, width]);
                        // Networks for pictures see the same lines in every channel, light on dark as Canny draws them.
                        let channels = net.get(pace).await?.config().conditioning_channels;
                        let lines = Tensor::<4>::from_data(lines, &self.device).expand([1, channels, height, width]);
                        let controlled = Controlled { unet, net, lines, scale: outline.scale };
                        let controlled = ControlGuided {
                            controlled: NetworkDenoiser::new(controlled, self.schedule.clone(), *prediction),
                            free: plain.clone(),
                            scale: self.config.control.as_ref().map_or(1.0, |control| control.guidance_scale),
                        };
                        // What follows the outline down to a noise level and does not below is decoupled in time, too.
                        Box::new(TimeDecoupled { structure: controlled, texture: plain, boundary: outline.until })
                    }
                    _ => Box::new(plain),
                }
            }
            _ => unreachable!("experts are loaded as the configuration says"),
        })
    }
}

impl Asked<'_> {
    /// Where the model lives.
    pub fn device(&self) -> &Device {
        &self.model.device
    }

    /// This model among those that draw a picture.
    pub fn participant(&self) -> Participant<'_> {
        let latent = &self.model.config.latent;
        let [height, width] = self.size.map(|side| side / latent.factor);
        Participant {
            denoiser: &*self.denoiser,
            space: &*self.model.space,
            latent: [1, latent.channels, height, width],
            size: self.size,
        }
    }
}

/// A UNet with a ControlNet beside it.
struct Controlled<'a> {
    unet: &'a Resident<UNet>,
    net: &'a Resident<ControlNet>,
    /// `[1, conditioning_channels, height, width]` in pixels.
    lines: Tensor<4>,
    scale: f64,
}

impl Network for Controlled<'_> {
    fn predict<'a>(&'a self, x: Tensor<4>, timesteps: Tensor<1>, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(async move {
            let [batch, _, _, _] = x.dims();
            let [_, channels, height, width] = self.lines.dims();
            let lines = self.lines.clone().expand([batch, channels, height, width]);
            let Cond { tokens, vector } = cond;
            let predict = async |dtype| {
                let (x, lines) = (x.clone().cast(dtype), lines.clone().cast(dtype));
                let net = self.net.get(pace).await?;
                let (x0, t) = (x.clone(), timesteps.clone());
                let added = net.forward(x0, t, tokens.clone(), vector.clone(), lines, pace).await?.scaled(self.scale);
                let (unet, t) = (self.unet.get(pace).await?, timesteps.clone());
                unet.forward_controlled(x, t, tokens.clone(), vector.clone(), Some(added), pace).await
            };
            pace.evaluate(Stage::Denoise, predict).await
        })
    }
}

async fn load_unet(arrival: Arrival, channels: usize, device: Device) -> Result<UNet> {
    let config: UNetConfig = arrival.config()?;
    let (input, output) = (config.in_channels, config.out_channels);
    if input != channels || output != channels {
        return Err(Error::Unsupported(format!("a UNet of {input} to {output} channels on latents of {channels}")));
    }
    arrival.load(config.init(&device)?, "").await
}

async fn load_controlnet(arrival: Arrival, device: Device) -> Result<ControlNet> {
    let config: ControlNetConfig = arrival.config()?;
    if ![1, 3].contains(&config.conditioning_channels) {
        let found = config.conditioning_channels;
        return Err(Error::Unsupported(format!("a ControlNet on pictures of {found} channels, not of lines")));
    }
    arrival.load(config.init(&device)?, "").await
}

async fn load_picture_encoder(arrival: Arrival, device: Device) -> Result<PictureEncoder> {
    let config: PictureEncoderConfig = arrival.config()?;
    arrival.load(config.init(&device)?, "").await
}
