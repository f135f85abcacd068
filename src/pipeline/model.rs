//! A loaded model: its networks, and the denoiser that they make for one request.

use super::{
    components::Components,
    config::{Expert, ExpertsConfig, PipelineConfig},
    latent::LatentSpace,
    text::{TextEncoders, Texts},
};
use crate::{
    Error, Image, Result,
    control::{self, Reading},
    coop::Participant,
    decoupled::TimeDecoupled,
    diffusion::{
        Cond, Denoiser, Denoising, Network, NetworkDenoiser,
        guidance::Guided,
        schedule::{Prediction, Schedule},
    },
    nets::{
        Pace,
        controlnet::{ControlNet, ControlNetConfig},
        picture_encoder::{PictureEncoder, PictureEncoderConfig},
        unet::{UNet, UNetConfig},
    },
    pixels,
    weights::{self, manifest::Manifest},
};
use burn::tensor::{Device, Tensor, TensorData};
use std::rc::Rc;

/// A loaded model.
pub struct Model {
    pub manifest: Manifest,
    pub config: PipelineConfig,
    pub schedule: Schedule,
    pub space: Rc<LatentSpace>,
    pub condition: Condition,
    experts: Experts,
    control: Option<Box<ControlNet>>,
    device: Device,
}

/// What a model draws after.
#[derive(Clone)]
pub enum Condition {
    Text(Rc<TextEncoders>),
    Picture(Rc<PictureEncoder>),
}

/// One UNet, or PanGu-Draw's two, with what each predicts.
enum Experts {
    Single(Box<UNet>, Prediction),
    TimeDecoupled { structure: Box<NetworkDenoiser<UNet>>, texture: Box<NetworkDenoiser<UNet>> },
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
    /// Builds the networks out of `components`. What `shared` models have already is not needed among them.
    ///
    /// # Errors
    /// As [`weights::load`]; [`Error::Unsupported`] for networks that do not fit together.
    pub fn load(
        manifest: Manifest,
        config: PipelineConfig,
        components: &Components<'_>,
        shared: &[&Self],
        device: &Device,
    ) -> Result<Self> {
        let schedule = Schedule::new(&config.schedule)?;
        let unet = |expert: &Expert| {
            let (file, _) = components.find(&expert.component, &["UNet2DConditionModel"])?;
            let unet: UNetConfig = file.config()?;
            let channels = config.latent.channels;
            if unet.in_channels != channels || unet.out_channels != channels {
                return Err(Error::Unsupported(format!(
                    "a UNet of {} to {} channels on latents of {channels}",
                    unet.in_channels, unet.out_channels
                )));
            }
            weights::load(unet.init(device)?, file, "")
        };
        let expert = |expert: &Expert| {
            Ok::<_, Error>(Box::new(NetworkDenoiser::new(unet(expert)?, schedule.clone(), expert.prediction)))
        };
        let experts = match &config.experts {
            ExpertsConfig::Single { unet: expert } => Experts::Single(Box::new(unet(expert)?), expert.prediction),
            ExpertsConfig::TimeDecoupled { structure, texture, .. } => {
                Experts::TimeDecoupled { structure: expert(structure)?, texture: expert(texture)? }
            }
        };
        let control = match &config.control {
            Some(control) => {
                let (file, _) = components.find(&control.component, &["ControlNetModel"])?;
                let net: ControlNetConfig = file.config()?;
                if ![1, 3].contains(&net.conditioning_channels) {
                    let found = net.conditioning_channels;
                    return Err(Error::Unsupported(format!(
                        "a ControlNet on pictures of {found} channels, not of lines"
                    )));
                }
                Some(Box::new(weights::load(net.init(device)?, file, "")?))
            }
            None => None,
        };
        let plan = Plan { manifest: &manifest, config: &config };
        let space = match shared.iter().find(|model| plan.same_space(model)) {
            Some(model) => model.space.clone(),
            None => Rc::new(LatentSpace::load(components, &config.latent, &config.image, device)?),
        };
        let condition = match (&config.picture, shared.iter().find(|model| plan.same_text(model))) {
            (_, Some(model)) => model.condition.clone(),
            (Some(picture), None) => {
                let (file, _) = components.find(&picture.component, &["PictureEncoder"])?;
                let config: PictureEncoderConfig = file.config()?;
                Condition::Picture(Rc::new(weights::load(config.init(device)?, file, "")?))
            }
            (None, None) => Condition::Text(Rc::new(TextEncoders::load(&config, components, device)?)),
        };
        Ok(Self { schedule, space, condition, experts, control, device: device.clone(), manifest, config })
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
                let side = encoder.config().sample_size;
                let picture = encoder.encode(pixels::fit(image, [side, side], &self.device), pace).await?;
                let (cond, uncond) = (Cond::from(picture), Cond::from(encoder.none()));
                (cond, uncond, None)
            }
        };
        let denoiser = Guided {
            inner: self.denoiser(&ask)?,
            uncond,
            style,
            scale: ask.guidance_scale,
            style_scale: ask.style_scale,
            sequential: false,
        };
        Ok(Asked { model: self, size, cond, denoiser: Box::new(denoiser) })
    }

    /// The denoiser of the networks, without guidance.
    fn denoiser<'a>(&'a self, ask: &Ask<'_>) -> Result<Box<dyn Denoiser + 'a>> {
        Ok(match (&self.experts, &self.config.experts) {
            (Experts::TimeDecoupled { structure, texture }, ExpertsConfig::TimeDecoupled { t_struct, rule, .. }) => {
                let boundary = rule.boundary(&self.schedule, *t_struct, ask.sigmas);
                Box::new(TimeDecoupled { structure: &**structure, texture: &**texture, boundary })
            }
            (Experts::Single(unet, prediction), _) => {
                let plain = NetworkDenoiser::new(&**unet, self.schedule.clone(), *prediction);
                match (&self.control, ask.outline) {
                    (Some(net), Some(outline)) => {
                        let lines = control::outline(outline.image, Reading::Auto, ask.texts.size)?;
                        let [height, width] = ask.texts.size;
                        let lines = TensorData::new(lines.values, [1, 1, height, width]);
                        // Networks for pictures see the same lines in every channel, light on dark as Canny draws them.
                        let lines = Tensor::<4>::from_data(lines, &self.device).expand([
                            1,
                            net.config().conditioning_channels,
                            height,
                            width,
                        ]);
                        let controlled = Controlled { unet, net, lines, scale: outline.scale };
                        let controlled = NetworkDenoiser::new(controlled, self.schedule.clone(), *prediction);
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
    unet: &'a UNet,
    net: &'a ControlNet,
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
            let (tokens, vector) = (&cond.tokens, &cond.vector);
            let (x0, t) = (x.clone(), timesteps.clone());
            let added = self.net.forward(x0, t, tokens.clone(), vector.clone(), lines, pace).await?;
            let added = added.scaled(self.scale);
            self.unet.forward_controlled(x, timesteps, tokens.clone(), vector.clone(), Some(added), pace).await
        })
    }
}

/// What a model will be made of, before it is.
pub struct Plan<'a> {
    pub manifest: &'a Manifest,
    pub config: &'a PipelineConfig,
}

impl Plan<'_> {
    /// Roles of the components that must be loaded, where `shared` models are here already.
    pub fn roles(&self, shared: &[&Model]) -> Vec<&str> {
        let mut roles = self.config.components();
        if shared.iter().any(|model| self.same_text(model)) {
            roles.retain(|role| !self.config.text.iter().any(|text| text.component() == *role));
        }
        let latent = &self.config.latent;
        if shared.iter().any(|model| self.same_space(model)) {
            roles.retain(|role| *role != latent.decoder);
        }
        if !shared.iter().any(|model| self.same_space(model) && model.space.encodes()) {
            roles.extend(latent.encoder.as_deref());
        }
        roles
    }

    /// Whether a component of `role` here and one of `other` there are the same bytes.
    fn same_file(&self, role: &str, model: &Model, other: &str) -> bool {
        match (self.manifest.component(role), model.manifest.component(other)) {
            (Ok(here), Ok(there)) => here.bytes == there.bytes && here.sha256 == there.sha256,
            _ => false,
        }
    }

    fn same_text(&self, model: &Model) -> bool {
        let (here, there) = (&self.config.text, &model.config.text);
        !here.is_empty()
            && here == there
            && here.iter().all(|text| self.same_file(text.component(), model, text.component()))
    }

    fn same_space(&self, model: &Model) -> bool {
        let (here, there) = (&self.config.latent, &model.config.latent);
        let mut halves = here.encoder.iter().chain([&here.decoder]);
        here == there && halves.all(|role| self.same_file(role, model, role))
    }
}
