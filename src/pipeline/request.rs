//! What a caller asks for, and what it comes to for a given model.

use super::config::{ControlKind, PipelineConfig, Style};
use crate::{
    Error, Image, Result,
    coop::latent::{Exchange, Falloff},
    device::PrecisionChoice,
    diffusion::{samplers::Sampler, schedule::Spacing},
    pixels::Upsampler,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest prompt, in characters. Encoders truncate much earlier; this only bounds the work on hostile input.
pub const MAX_PROMPT: usize = 2000;
/// Most denoising steps a request may ask for.
pub const MAX_STEPS: usize = 1000;

/// A picture to be drawn. What is `None` falls back to the model's defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Request {
    /// What to draw, in any language the model's text encoder knows.
    pub prompt: String,
    /// What to steer away from; the empty prompt if empty.
    pub negative_prompt: String,
    /// Id of one of the model's styles; empty for none, even where the model has a default.
    pub style: Option<String>,
    /// Seed of everything random: the same request and seed draw the same picture.
    pub seed: u64,
    /// Denoising steps, `1..=1000`.
    pub steps: Option<usize>,
    /// Classifier-free guidance `s`, 1 = off.
    pub guidance_scale: Option<f64>,
    /// PanGu's style guidance `s_style`, 0 = the style's words go into the prompt instead.
    pub style_scale: Option<f64>,
    /// Sampler name.
    pub sampler: Option<String>,
    /// Where the steps lie.
    pub spacing: Option<String>,
    /// Width in pixels.
    pub width: Option<usize>,
    /// Height in pixels.
    pub height: Option<usize>,
    /// What is behind a picture with transparency: `transparent`, or a colour as `#rrggbb`.
    pub background: Option<String>,
    /// How steps show what the picture looks like: by projection, unless the decoder shall show it.
    pub preview: Option<Preview>,
    /// Decode a preview every so many steps, 0 = never.
    pub preview_every: usize,
    /// Hand out a [`super::Checkpoint`] after every step.
    #[serde(skip)]
    pub checkpoints: bool,
    /// Whether steps tell what they were made of ([`super::Insight`]).
    pub insight: bool,
    /// Pictures that steer the drawing beside the prompt.
    pub controls: Vec<Control>,
    /// What models that draw along hear of each other: an [`Exchange`].
    pub exchange: Option<String>,
    /// A picture to begin with instead of noise.
    #[serde(skip)]
    pub init: Option<Image>,
    /// How much of the way from noise is drawn over [`Request::init`], in `(0, 1]`.
    pub strength: Option<f64>,
    /// Where [`Request::init`] is drawn over: where this picture, put on black, is light. Everywhere, if there is none.
    #[serde(skip)]
    pub mask: Option<Image>,
    /// The timestep `T_low` at which a picture larger than the model was trained on passes from a draft of the trained size to
    /// its own: 0 draws the draft to its end, `T` draws none.
    pub t_low: Option<f64>,
    /// How pictures are scaled between resolutions: an [`Upsampler`].
    pub upsampler: Option<String>,
    /// The companion that draws the draft, whatever the size, instead of the model itself.
    pub draft: Option<ControlKind>,
    /// The numbers that networks compute in.
    pub precision: PrecisionChoice,
}

/// How steps show what the picture looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preview {
    /// Every step shows its latent through the model's projection, if the model has one; and the decoder shows it as often as
    /// [`Request::preview_every`] says.
    Projection,
    /// Only the decoder shows it.
    Decoder,
    /// Nothing does, whatever [`Request::preview_every`] says.
    None,
}

/// A picture that steers the drawing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Control {
    /// What it steers.
    pub kind: ControlKind,
    /// The weight `d` of the model that knows it, in `[0, 1]`.
    #[serde(default)]
    pub strength: Option<f64>,
    /// The share of the schedule, from noise on, through which it acts, in `[0, 1]`.
    #[serde(default)]
    pub until: Option<f64>,
    /// How the weight falls until there.
    #[serde(default)]
    pub falloff: Option<Falloff>,
    /// The picture.
    #[serde(skip)]
    pub image: Option<Image>,
}

impl Control {
    /// A control with the model's own strength.
    pub fn new(kind: ControlKind, image: Image) -> Self {
        Self { kind, strength: None, until: None, falloff: None, image: Some(image) }
    }
}

/// A request with everything decided: what the picture's metadata say.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Model name.
    pub model: String,
    /// The prompt as asked.
    pub prompt: String,
    /// The negative prompt.
    pub negative_prompt: String,
    /// Style id.
    pub style: Option<String>,
    /// Seed.
    pub seed: u64,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// Style guidance.
    pub style_scale: f64,
    /// Sampler.
    pub sampler: Sampler,
    /// Spacing of the steps.
    pub spacing: Spacing,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// What is behind the picture.
    pub background: Background,
    /// What steers it beside the prompt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<ControlSettings>,
    /// What models that draw along hear of each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
    /// The picture it begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<InitSettings>,
    /// The draft of another size it begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<DraftSettings>,
    /// `T_low`, where it was asked for and no draft came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t_low: Option<f64>,
    /// How pictures are scaled between resolutions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upsampler: Option<Upsampler>,
    /// The numbers that networks compute in, if they were asked for; [`Drawing::arithmetic`](super::Drawing) says which it were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<PrecisionChoice>,
}

/// A control with everything decided.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlSettings {
    /// What it steers.
    pub kind: ControlKind,
    /// The weight `d`.
    pub strength: f64,
    /// The share of the schedule through which it acts.
    pub until: f64,
    /// How the weight falls.
    pub falloff: Falloff,
    /// SHA-256 of the picture's pixels.
    pub sha256: String,
}

/// Where a drawing over a picture begins.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InitSettings {
    /// Share of the way from noise.
    pub strength: f64,
    /// SHA-256 of the picture's pixels.
    pub sha256: String,
    /// SHA-256 of the mask's pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

/// The draft that a drawing begins with.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DraftSettings {
    /// The companion that draws it; the model itself if none.
    pub model: Option<ControlKind>,
    /// `T_low`.
    pub t_low: f64,
    /// `[height, width]` in pixels; of a companion its own.
    pub size: Option<[usize; 2]>,
}

/// What is behind a picture with transparency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Background {
    /// Nothing: transparent pixels stay so.
    #[default]
    Transparent,
    /// One sRGB colour.
    Colour([u8; 3]),
}

impl Background {
    /// Reads `transparent` or `#rrggbb`.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(text: &str) -> Result<Self> {
        if text == "transparent" {
            return Ok(Self::Transparent);
        }
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6);
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let [_, r, g, b] = number
            .ok_or_else(|| Error::Invalid {
                parameter: "background",
                why: format!("is `{text}`, must be `transparent` or a colour like #ffcc00"),
            })?
            .to_be_bytes();
        Ok(Self::Colour([r, g, b]))
    }

    /// The picture with this behind it.
    pub fn behind(self, image: Image) -> Image {
        match self {
            Self::Transparent => image,
            Self::Colour(colour) => image.on(colour),
        }
    }
}

impl std::fmt::Display for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transparent => f.write_str("transparent"),
            Self::Colour([r, g, b]) => write!(f, "#{r:02x}{g:02x}{b:02x}"),
        }
    }
}

impl Serialize for Background {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Settings {
    /// Steps that are taken: over a picture, only the last of them (as diffusers' image-to-image pipelines).
    pub fn taken(&self) -> usize {
        self.init.as_ref().map_or(self.steps, |init| ((self.steps as f64 * init.strength) as usize).max(1))
    }
}

impl Request {
    /// How steps show what the picture looks like.
    pub(super) fn shown(&self) -> Preview {
        self.preview.unwrap_or(if self.preview_every > 0 { Preview::Decoder } else { Preview::Projection })
    }

    /// Fills in the model's defaults and checks every value.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the parameter and what is allowed.
    pub fn resolve(&self, model: &str, config: &PipelineConfig) -> Result<Settings> {
        let invalid = |parameter, why: String| Err(Error::Invalid { parameter, why });
        if self.prompt.trim().is_empty() && !config.text.is_empty() {
            return invalid("prompt", "is empty; say what to draw".into());
        }
        for (name, text) in [("prompt", &self.prompt), ("negative prompt", &self.negative_prompt)] {
            let length = text.chars().count();
            if length > MAX_PROMPT {
                return invalid(name, format!("has {length} characters, at most {MAX_PROMPT} are read"));
            }
        }
        let style = self.style.clone().or_else(|| config.defaults.style.clone()).filter(|id| !id.is_empty());
        if let Some(id) = &style {
            config.style(id)?;
        }
        let steps = self.steps.unwrap_or(config.defaults.steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return invalid("steps", format!("is {steps}, must be 1 to {MAX_STEPS}"));
        }
        let scale = |parameter, value: Option<f64>, default: f64| match value.unwrap_or(default) {
            value if (0.0..=50.0).contains(&value) => Ok(value),
            value => Err(Error::Invalid { parameter, why: format!("is {value}, must be 0 to 50") }),
        };
        let side = |parameter, value: Option<usize>, default: usize| {
            let (value, multiple, max) = (value.unwrap_or(default), config.image.multiple, config.image.max);
            if value == 0 || value > max || !value.is_multiple_of(multiple) {
                let why = format!("is {value}, must be a multiple of {multiple} up to {max}");
                return Err(Error::Invalid { parameter, why });
            }
            Ok(value)
        };
        let unit = |parameter, value: Option<f64>, default: f64| match value.unwrap_or(default) {
            value if (0.0..=1.0).contains(&value) => Ok(value),
            value => Err(Error::Invalid { parameter, why: format!("is {value}, must be 0 to 1") }),
        };
        let (width, height) =
            (side("width", self.width, config.image.width)?, side("height", self.height, config.image.height)?);
        let init = match (&self.init, &self.mask) {
            (None, None) => None,
            (None, Some(_)) => return invalid("mask", "there is no picture to draw over; give one".into()),
            (Some(init), mask) => {
                let strength = unit("strength", self.strength, if mask.is_some() { 1.0 } else { INIT_STRENGTH })?;
                if strength == 0.0 {
                    return invalid("strength", "is 0, must be more: nothing would be drawn".into());
                }
                Some(InitSettings { strength, sha256: digest(init), mask: mask.as_ref().map(digest) })
            }
        };
        let controls = self.controls.iter().map(|control| self.resolve_control(control, config));
        let controls = controls.collect::<Result<Vec<_>>>()?;
        if config.picture.is_some() && !controls.iter().any(|control| control.kind == ControlKind::Variation) {
            return invalid("control", "this model draws after a picture; give one as `variation`".into());
        }
        let draft = self.resolve_draft(config, [height, width], init.is_some())?;
        let between = draft.is_some() || controls.iter().any(|control| !config.serves(control.kind));
        let upsampler = self.upsampler.as_deref().map_or(Ok(Upsampler::default()), str::parse)?;
        let exchange = self.exchange.as_deref().map_or(Ok(Exchange::default()), str::parse)?;
        Ok(Settings {
            model: model.into(),
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            style,
            seed: self.seed,
            steps,
            guidance_scale: scale("guidance scale", self.guidance_scale, config.defaults.guidance_scale)?,
            style_scale: scale("style scale", self.style_scale, config.defaults.style_scale)?,
            sampler: self.sampler.as_deref().unwrap_or(&config.defaults.sampler).parse()?,
            spacing: self.spacing.as_deref().unwrap_or(&config.defaults.spacing).parse()?,
            width,
            height,
            background: self.background.as_deref().map_or(Ok(Background::default()), Background::parse)?,
            exchange: controls.iter().any(|control| !config.serves(control.kind)).then_some(exchange),
            controls,
            init,
            t_low: self.t_low.filter(|_| draft.is_none()),
            draft,
            upsampler: between.then_some(upsampler),
            precision: Some(self.precision).filter(|choice| *choice != PrecisionChoice::Auto),
        })
    }

    fn resolve_control(&self, control: &Control, config: &PipelineConfig) -> Result<ControlSettings> {
        let Some(image) = &control.image else {
            let why = format!("`{}` has no picture", control.kind);
            return Err(Error::Invalid { parameter: "control", why });
        };
        let companion = config.companions.get(&control.kind);
        if companion.is_none() && !config.serves(control.kind) {
            return Err(Error::Unsupported(format!(
                "this model has nothing that follows the control `{}`",
                control.kind
            )));
        }
        let share = |what: &str, value: Option<f64>, default: f64| match value.unwrap_or(default) {
            value if (0.0..=1.0).contains(&value) => Ok(value),
            value => {
                let why = format!("`{}` has {what} {value}, must be 0 to 1", control.kind);
                Err(Error::Invalid { parameter: "control", why })
            }
        };
        Ok(ControlSettings {
            kind: control.kind,
            strength: share("strength", control.strength, companion.map_or(1.0, |companion| companion.strength))?,
            until: share("until", control.until, companion.map_or(1.0, |companion| companion.until))?,
            falloff: control.falloff.or(companion.map(|companion| companion.falloff)).unwrap_or_default(),
            sha256: digest(image),
        })
    }

    /// Whether a picture of `size` begins with a draft. One that begins with a picture needs none, and one about as large as
    /// what the model was trained on is drawn as it is.
    fn resolve_draft(&self, config: &PipelineConfig, size: [usize; 2], init: bool) -> Result<Option<DraftSettings>> {
        let steps = config.schedule.num_train_timesteps as f64;
        let t_low = self.t_low.unwrap_or(config.defaults.t_low);
        if !(0.0..=steps).contains(&t_low) {
            return Err(Error::Invalid { parameter: "t low", why: format!("is {t_low}, must be 0 to {steps}") });
        }
        if let Some(kind) = self.draft
            && !config.companions.contains_key(&kind)
        {
            return Err(Error::Unsupported(format!(
                "this model has no companion for `{kind}` that could draw a draft"
            )));
        }
        let trained = config.image.width * config.image.height;
        let [height, width] = size;
        let large = (width * height) as f64 > DRAWN_DIRECTLY * trained as f64 && config.latent.encoder.is_some();
        if init || !(large || self.draft.is_some()) || t_low == steps {
            return Ok(None);
        }
        Ok(Some(DraftSettings { model: self.draft, t_low, size: self.draft.is_none().then(|| config.own_size(size)) }))
    }
}

/// Pictures of up to so many times the pixels that a model was trained on are drawn without a draft, unless one is asked for.
const DRAWN_DIRECTLY: f64 = 1.5;
/// How much is drawn over a picture, where a request does not say.
const INIT_STRENGTH: f64 = 0.7;

/// SHA-256 of a picture's sides and pixels.
fn digest(image: &Image) -> String {
    let sides = [image.width as u64, image.height as u64].map(u64::to_le_bytes).concat();
    hex::encode(Sha256::new().chain_update(sides).chain_update(&image.rgba).finalize())
}

impl PipelineConfig {
    /// The style of that id.
    ///
    /// # Errors
    /// [`Error::Invalid`] listing the styles there are.
    pub fn style(&self, id: &str) -> Result<&Style> {
        self.styles.iter().find(|style| style.id == id).ok_or_else(|| {
            let known: Vec<_> = self.styles.iter().map(|style| style.id.as_str()).collect();
            let known = if known.is_empty() { "this model has none".into() } else { known.join(", ") };
            Error::Invalid { parameter: "style", why: format!("`{id}` is unknown; known: {known}") }
        })
    }
}

impl Style {
    /// The prompt in this style, in the prompt's own language.
    pub fn apply(&self, prompt: &str) -> String {
        let template = if is_chinese(prompt) { &self.template.zh } else { &self.template.en };
        template.replacen("{}", prompt, 1)
    }
}

/// Whether a text holds a Han character.
fn is_chinese(text: &str) -> bool {
    text.chars().any(|c| matches!(c, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}'))
}
