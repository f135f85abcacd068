//! The `pipeline` section of a model's manifest: how its components draw together.

use crate::{
    Error, Result,
    coop::latent::Falloff,
    decoupled::BoundaryRule,
    diffusion::schedule::{Prediction, ScheduleConfig},
    weights::manifest::plain_name,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// How the components of a model draw together. Component names refer to [`crate::weights::manifest::Manifest`] roles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// Text encoders; their token features are concatenated along the feature axis. None in a model that draws after a
    /// picture.
    #[serde(default)]
    pub text: Vec<TextConfig>,
    /// The encoder of the picture that a model draws after, instead of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<PictureConfig>,
    /// What the vector condition of the UNet is made of.
    pub vector: VectorConfig,
    /// Whether an empty negative prompt is encoded as zeros (SDXL's `force_zeros_for_empty_prompt`).
    #[serde(default)]
    pub zero_empty_negative: bool,
    /// The noise schedule that the experts were trained on.
    pub schedule: ScheduleConfig,
    /// One network, or PanGu-Draw's two.
    pub experts: ExpertsConfig,
    /// A ControlNet beside an undivided network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlConfig>,
    /// Models that serve the controls which this model does not serve itself: they draw along through [`crate::coop`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub companions: BTreeMap<ControlKind, Companion>,
    /// The latent space.
    pub latent: LatentConfig,
    /// The picture sizes the model was trained for.
    pub image: ImageConfig,
    /// Styles a user may choose from.
    #[serde(default)]
    pub styles: Vec<Style>,
    /// Settings a request falls back to.
    pub defaults: Defaults,
}

/// What a picture beside the prompt steers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlKind {
    /// Where lines are: a sketch, or the outline of any picture.
    Outline,
    /// What is shown: another picture of the same thing.
    Variation,
}

impl ControlKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Outline, Self::Variation];

    /// The name in requests and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outline => "outline",
            Self::Variation => "variation",
        }
    }
}

impl fmt::Display for ControlKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ControlKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| Error::Invalid {
            parameter: "control",
            why: format!("`{name}` is none of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// The encoder of the picture that a model draws after ([`crate::nets::picture_encoder`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureConfig {
    /// Role of the component.
    pub component: String,
}

/// A model that draws along with this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Companion {
    /// The model folder beside this one.
    pub folder: String,
    /// Weight `d` of its estimate, unless a request says otherwise.
    pub strength: f64,
    /// Share of the schedule, from noise on, through which it draws along.
    pub until: f64,
    /// How the weight falls until there.
    #[serde(default)]
    pub falloff: Falloff,
    /// Its guidance by words, or by its picture, while it draws along; its own default, if this is not said. Words are mostly the
    /// home model's part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
}

/// A ControlNet ([`crate::nets::controlnet`]) that sees an outline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Role of the component.
    pub component: String,
    /// Guidance by the outline ([`crate::diffusion::guidance::ControlGuided`]), 1 = off; above 1 the UNet is evaluated without the
    /// outline, too.
    #[serde(default = "one")]
    pub guidance_scale: f64,
}

/// One text encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TextConfig {
    /// The bilingual sentence encoder ([`crate::nets::text::sentence`]).
    Sentence {
        /// Role of the component.
        component: String,
    },
    /// CLIP's text tower ([`crate::nets::text::clip`]).
    Clip {
        /// Role of the component.
        component: String,
        /// Which layer feeds cross-attention.
        layer: ClipLayer,
        /// Whether this tower's projected pooled vector is the model's pooled vector.
        #[serde(default)]
        pooled: bool,
        /// Id that fills a prompt up to 77 tokens.
        pad: u32,
    },
}

impl TextConfig {
    /// Role of the component.
    pub fn component(&self) -> &str {
        match self {
            Self::Sentence { component } | Self::Clip { component, .. } => component,
        }
    }
}

/// Which hidden state of a CLIP tower a UNet attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipLayer {
    /// The last layer, after the final norm (SD 1.x).
    Last,
    /// The last but one, before the final norm (SDXL, PanGu-Draw).
    Penultimate,
}

/// What the UNet's vector condition is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum VectorConfig {
    /// None (SD 1.x).
    None,
    /// The pooled text vector alone.
    Pooled,
    /// SDXL's: pooled text and sinusoids of (original size, crop, target size).
    TextTime {
        /// Width of one sinusoid, 256.
        dim: usize,
    },
    /// PanGu-Draw's: pooled text and a sinusoid of the size bucket's index.
    SizeBucket {
        /// Width of the sinusoid, 256.
        dim: usize,
        /// Buckets as `[height, width]`.
        buckets: Vec<[usize; 2]>,
    },
}

/// A UNet and what it predicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expert {
    /// Role of the component.
    pub component: String,
    /// What it was trained to predict.
    pub prediction: Prediction,
}

/// One network for all timesteps, or two that share them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExpertsConfig {
    /// One network.
    Single {
        /// The network.
        unet: Expert,
    },
    /// PanGu-Draw: structure for `t >= t_struct`, texture below.
    TimeDecoupled {
        /// Draws composition and shape out of pure noise.
        structure: Expert,
        /// Refines from `t_struct` on.
        texture: Expert,
        /// The boundary in training timesteps.
        t_struct: f64,
        /// Which rule places a step at the boundary.
        #[serde(default)]
        rule: BoundaryRule,
    },
}

/// The latent space: `network latent = (autoencoder latent - shift) * scale`, per channel or one number for all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentConfig {
    /// Role of the encoder, if the model has one.
    #[serde(default)]
    pub encoder: Option<String>,
    /// Role of the decoder.
    pub decoder: String,
    /// Latent channels.
    pub channels: usize,
    /// Pixels per latent cell along one axis.
    pub factor: usize,
    /// Subtracted from the autoencoder's latent: one number, or one a channel.
    pub shift: Vec<f32>,
    /// Multiplied after that: one number, or one a channel.
    pub scale: Vec<f32>,
    /// Decoded value range.
    pub pixels: PixelRange,
    /// What latents look like without being decoded, for a preview at every step; without it only the decoder shows any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<Projection>,
}

/// Channels of a picture as ink and cover ([`crate::pixels`]).
pub(super) const PICTURE_CHANNELS: usize = 4;

/// A linear map from a latent, as the networks see it, to the mean ink and cover of the pixels in its cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// For each channel of the picture the weight of each latent channel.
    pub weights: Vec<Vec<f32>>,
    /// For each channel of the picture what is added.
    pub bias: Vec<f32>,
}

impl Projection {
    /// Largest weight: no picture needs one near it, and none overflows below it.
    const LIMIT: f32 = 1e3;

    /// Checks that it fits latents of so many channels.
    pub(super) fn check(&self, channels: usize) -> std::result::Result<(), &'static str> {
        let shaped = self.weights.len() == PICTURE_CHANNELS && self.bias.len() == PICTURE_CHANNELS;
        if !shaped || self.weights.iter().any(|weights| weights.len() != channels) {
            return Err("has another shape");
        }
        match self.weights.iter().flatten().chain(&self.bias).all(|value| value.abs() <= Self::LIMIT) {
            true => Ok(()),
            false => Err("is out of range"),
        }
    }
}

/// What a decoded value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelRange {
    /// `[-1, 1]` for black to white (Stable Diffusion).
    Symmetric,
    /// Four channels, premultiplied: ink `2 alpha (1 - rgb)` and cover `2 alpha`. Nothing is 0, so that zero padding
    /// continues the paper.
    InkAndCover,
}

impl PixelRange {
    /// Channels of a decoded picture.
    pub fn channels(self) -> usize {
        match self {
            Self::Symmetric => 3,
            Self::InkAndCover => 4,
        }
    }
}

/// Picture sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Default width in pixels.
    pub width: usize,
    /// Default height in pixels.
    pub height: usize,
    /// Width and height must be multiples of this.
    pub multiple: usize,
    /// Largest width or height a request may ask for.
    pub max: usize,
}

/// A style: words put before a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Style {
    /// What a request names it by.
    pub id: String,
    /// Shown to people.
    pub name: Bilingual,
    /// `{}` stands for the prompt, e.g. `"{}, 3D render"`.
    pub template: Bilingual,
}

/// A text in English and Chinese.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bilingual {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

/// Settings a request falls back to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance, 1 = off.
    pub guidance_scale: f64,
    /// PanGu's style guidance on top, 0 = off.
    #[serde(default)]
    pub style_scale: f64,
    /// Sampler name.
    pub sampler: String,
    /// Where the steps lie.
    pub spacing: String,
    /// Id of the style drawn when a request names none.
    #[serde(default)]
    pub style: Option<String>,
    /// The timestep `T_low` at which larger pictures pass from a draft to their own size.
    #[serde(default = "t_low")]
    pub t_low: f64,
}

/// `T_low` of models for which nothing was measured: a little before the middle, when shapes are laid out.
pub const DEFAULT_T_LOW: f64 = 600.0;

fn t_low() -> f64 {
    DEFAULT_T_LOW
}

fn one() -> f64 {
    1.0
}

impl PipelineConfig {
    /// Whether this model itself serves a control.
    pub fn serves(&self, kind: ControlKind) -> bool {
        match kind {
            ControlKind::Outline => self.control.is_some(),
            ControlKind::Variation => self.picture.is_some(),
        }
    }

    /// The size at which this model draws for a picture of `[height, width]`: as many pixels as it was trained on, in the
    /// same proportions.
    pub fn own_size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let image = &self.image;
        let shrink = ((image.width * image.height) as f64 / (width * height) as f64).sqrt();
        let multiples = |side: usize| (side as f64 * shrink / image.multiple as f64).round().max(1.0) as usize;
        [height, width].map(|side| multiples(side) * image.multiple)
    }

    /// Roles of the components that drawing needs, but for pictures that are taken in.
    pub fn components(&self) -> Vec<&str> {
        let text = self.text.iter().map(TextConfig::component);
        let experts = match &self.experts {
            ExpertsConfig::Single { unet } => vec![&unet.component],
            ExpertsConfig::TimeDecoupled { structure, texture, .. } => vec![&structure.component, &texture.component],
        };
        let picture = self.picture.iter().map(|picture| picture.component.as_str());
        let control = self.control.iter().map(|control| &control.component);
        let drawing = experts.into_iter().chain(control).chain([&self.latent.decoder]).map(String::as_str);
        text.chain(picture).chain(drawing).collect()
    }

    /// Reads and checks a manifest's `pipeline` section.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the field.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        let corrupt = |why: String| Error::Corrupt { what: "model.json, section `pipeline`".into(), why };
        let config: Self = serde_json::from_value(value.clone()).map_err(|error| corrupt(error.to_string()))?;
        let latent = &config.latent;
        let per_channel = |name: &str, values: &[f32]| match values.len() {
            n if n != 1 && n != latent.channels => {
                Err(corrupt(format!("{name} has {n} values for {} channels", latent.channels)))
            }
            _ if values.iter().all(|v| v.is_finite()) => Ok(()),
            _ => Err(corrupt(format!("{name} is not finite"))),
        };
        per_channel("latent.shift", &latent.shift)?;
        per_channel("latent.scale", &latent.scale)?;
        if latent.scale.contains(&0.0) {
            return Err(corrupt("latent.scale is zero".into()));
        }
        if let Some(Err(why)) = latent.projection.as_ref().map(|projection| projection.check(latent.channels)) {
            return Err(corrupt(format!("latent.projection {why}")));
        }
        let ImageConfig { width, height, multiple, max } = config.image;
        let fits = |side: usize| multiple > 0 && side > 0 && side <= max && side.is_multiple_of(multiple);
        if !(1..=64).contains(&latent.factor) || !(1..=256).contains(&latent.channels) || max > 4096 {
            return Err(corrupt("latent.factor, latent.channels or image.max is out of range".into()));
        }
        if !fits(width) || !fits(height) || !multiple.is_multiple_of(latent.factor) {
            return Err(corrupt("image sizes do not fit image.multiple, image.max and latent.factor".into()));
        }
        if config.text.is_empty() == config.picture.is_none() {
            return Err(corrupt("a model needs text encoders or the encoder of a picture, and not both".into()));
        }
        if config.control.is_some() && !matches!(config.experts, ExpertsConfig::Single { .. }) {
            return Err(corrupt("a ControlNet goes with an undivided network".into()));
        }
        if config.control.as_ref().is_some_and(|control| !(0.0..=50.0).contains(&control.guidance_scale)) {
            return Err(corrupt("control.guidance_scale is outside 0 to 50".into()));
        }
        for Companion { folder, strength, until, guidance_scale, .. } in config.companions.values() {
            if guidance_scale.is_some_and(|scale| !(0.0..=50.0).contains(&scale)) {
                return Err(corrupt(format!("companion `{folder}` has a guidance_scale outside 0 to 50")));
            }
            plain_name("companions", folder)?;
            if ![strength, until].into_iter().all(|share| (0.0..=1.0).contains(share)) {
                return Err(corrupt(format!("companion `{folder}` has a strength or an end outside 0 to 1")));
            }
        }
        if !(0.0..=config.schedule.num_train_timesteps as f64).contains(&config.defaults.t_low) {
            return Err(corrupt("defaults.t_low is no timestep of the schedule".into()));
        }
        Ok(config)
    }
}
