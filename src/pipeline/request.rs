//! What a caller asks for, and what it comes to for a given model.

use super::config::{PipelineConfig, Style};
use crate::{
    Error, Result,
    diffusion::{samplers::Sampler, schedule::Spacing},
};
use serde::{Deserialize, Serialize};

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
    /// Decode a preview every so many steps, 0 = never.
    pub preview_every: usize,
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

impl Request {
    /// Fills in the model's defaults and checks every value.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the parameter and what is allowed.
    pub fn resolve(&self, model: &str, config: &PipelineConfig) -> Result<Settings> {
        let invalid = |parameter, why: String| Err(Error::Invalid { parameter, why });
        if self.prompt.trim().is_empty() {
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
            width: side("width", self.width, config.image.width)?,
            height: side("height", self.height, config.image.height)?,
            background: self.background.as_deref().map_or(Ok(Background::default()), Background::parse)?,
        })
    }
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
