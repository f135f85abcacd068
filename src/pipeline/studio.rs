//! Where one request is drawn: the stages of the drawing, and who draws in each.

use super::{
    Checkpoint, Event, ExpertName, Insight, ModelEstimate, Request, Settings, StepEvent,
    config::ControlKind,
    model::{Ask, Asked, Model, Outline},
    request::{Background, Preview},
    text::Texts,
};
use crate::{
    Error, Image, Result,
    coop::{
        Opening,
        latent::{Aside, CoopLatent, Foreign, Strength},
    },
    diffusion::{
        Denoiser,
        mask::Masked,
        noise::{Noise, Stream},
        samplers::{self, Listener, Run, Step},
    },
    nets::Pace,
    pixels::{self, resample},
};
use burn::tensor::{Tensor, TensorData};
use std::{collections::BTreeMap, future::Future, pin::Pin, rc::Rc};

/// What all stages of one drawing share.
pub struct Studio<'a> {
    home: &'a Model,
    companions: &'a BTreeMap<ControlKind, Rc<Model>>,
    request: &'a Request,
    settings: &'a Settings,
    seeded: Noise,
    pace: &'a Pace,
    /// What checkpoints belong to.
    drawing: &'a str,
}

/// One model drawing at one size through some noise levels, companions along.
pub struct Stage<'a> {
    pub home: Asked<'a>,
    along: Vec<(Asked<'a>, Strength)>,
    sigmas: &'a [f64],
    /// What the home model's noise is for.
    stream: Stream,
}

/// Where a stage is entered.
pub enum Start {
    /// At its first noise level.
    Opening(Box<Opening>),
    /// Where a drawing stood that was disturbed in it.
    Checkpoint(Checkpoint),
}

/// Where a draft ends.
pub struct Estimate {
    /// The noisy latent.
    pub x: Tensor<4>,
    /// What it is thought to be without the noise.
    pub x0: Tensor<4>,
}

/// A picture that is drawn over.
pub struct Canvas {
    /// Its clean latent.
    pub x0: Tensor<4>,
    /// The picture, `[1, 4, height, width]`.
    pixels: Tensor<4>,
    /// Where it is drawn over, `[1, 1, height, width]` in `[0, 1]`; everywhere, if there is none.
    mask: Option<Tensor<4>>,
}

impl Canvas {
    /// What was drawn, inside the mask; the picture itself around it.
    pub fn around(self, drawn: Tensor<4>) -> Tensor<4> {
        match self.mask {
            Some(mask) => self.pixels.clone() + (drawn - self.pixels) * mask,
            None => drawn,
        }
    }
}

impl<'a> Studio<'a> {
    pub fn new(
        home: &'a Model,
        companions: &'a BTreeMap<ControlKind, Rc<Model>>,
        request: &'a Request,
        settings: &'a Settings,
        pace: &'a Pace,
        drawing: &'a str,
    ) -> Self {
        Self { home, companions, request, settings, seeded: Noise::new(settings.seed), pace, drawing }
    }

    /// The noise levels between the steps of the drawing.
    pub fn sigmas(&self) -> Result<Vec<f64>> {
        let Settings { spacing, steps, .. } = self.settings;
        let mut sigmas = self.home.schedule.sigmas(*spacing, *steps)?;
        sigmas.drain(..steps - self.settings.taken());
        Ok(sigmas)
    }

    /// A companion that was loaded.
    fn companion(&self, kind: ControlKind) -> Result<&'a Model> {
        let found = self.companions.get(&kind).map(|model| &**model);
        found.ok_or_else(|| {
            Error::Unsupported(format!("the companion for `{kind}` was not loaded; call Generator::prepare"))
        })
    }

    /// Asks the home model, or the companion `model` in its place, to draw at `size` (none: at its own), and the companions
    /// that the request's controls need to draw along.
    pub async fn stage(
        &self,
        model: Option<ControlKind>,
        size: Option<[usize; 2]>,
        sigmas: &'a [f64],
        stream: Stream,
    ) -> Result<Stage<'a>> {
        let home = model.map_or(Ok(self.home), |kind| self.companion(kind))?;
        let whole = [self.settings.height, self.settings.width];
        let size = size.unwrap_or_else(|| home.config.own_size(whole));
        let controls = self.settings.controls.iter().zip(&self.request.controls);
        let mut ask = self.ask(home, size, sigmas);
        let mut along = Vec::new();
        for (control, asked) in controls {
            let image = asked.image.as_ref();
            let until =
                self.home.schedule.sigma((1.0 - control.until) * self.home.schedule.num_train_timesteps() as f64);
            let outline = |scale| image.map(|image| Outline { image, scale, until });
            if home.config.serves(control.kind) {
                match control.kind {
                    ControlKind::Outline => ask.outline = outline(control.strength),
                    ControlKind::Variation => ask.picture = image,
                }
                continue;
            }
            // As long as a companion draws along, it follows its own control wholly: the fusion weighs it.
            let companion = self.companion(control.kind)?;
            let mut ask = self.ask(companion, companion.config.own_size(size), sigmas);
            let own = self.home.config.companions.get(&control.kind).and_then(|companion| companion.guidance_scale);
            ask.guidance_scale = own.unwrap_or(ask.guidance_scale);
            (ask.outline, ask.picture) = match control.kind {
                ControlKind::Outline => (image.map(|image| Outline { image, scale: 1.0, until: 0.0 }), None),
                ControlKind::Variation => (None, image),
            };
            let strength = Strength { weight: control.strength, until, falloff: control.falloff };
            along.push((companion.ask(ask, self.pace).await?, strength));
        }
        Ok(Stage { home: home.ask(ask, self.pace).await?, along, sigmas, stream })
    }

    /// The request as one model hears it: guidance is the request's for the home model, and a companion's own.
    fn ask(&self, model: &'a Model, size: [usize; 2], sigmas: &'a [f64]) -> Ask<'a> {
        let (settings, defaults) = (self.settings, &model.config.defaults);
        let own = std::ptr::eq(model, self.home);
        let style = settings.style.as_deref().and_then(|id| model.config.style(id).ok());
        let style_scale = if own { settings.style_scale } else { defaults.style_scale };
        Ask {
            texts: Texts {
                prompt: &settings.prompt,
                negative: &settings.negative_prompt,
                style,
                style_guides: style_scale > 0.0,
                size,
            },
            guidance_scale: if own { settings.guidance_scale } else { defaults.guidance_scale },
            style_scale,
            sigmas,
            outline: None,
            picture: None,
        }
    }

    /// The noise that a stage's home model begins with.
    pub fn noise(&self, stage: &Stage<'_>) -> Tensor<4> {
        self.seeded.normal(stage.stream, stage.home.participant().latent, stage.home.device())
    }

    /// Noise that the caller brought.
    pub fn given(&self, stage: &Stage<'_>, noise: TensorData) -> Result<Tensor<4>> {
        let expected = stage.home.participant().latent;
        if noise.shape().to_vec() != expected {
            let why = format!("has shape {:?}, this picture needs {expected:?}", noise.shape().to_vec());
            return Err(Error::Invalid { parameter: "latents", why });
        }
        Ok(Tensor::from_data(noise, stage.home.device()))
    }

    /// Takes a picture in, to be drawn over by `stage`.
    pub async fn canvas(&self, image: &Image, stage: &Stage<'_>) -> Result<Canvas> {
        let (home, device) = (stage.home.participant(), stage.home.device());
        let pixels = pixels::fit(image, home.size, device);
        let mask = self.request.mask.as_ref().map(|mask| pixels::lightness(pixels::fit(mask, home.size, device)));
        Ok(Canvas { x0: home.space.encode(pixels.clone(), self.pace).await?, pixels, mask })
    }

    /// Hears the steps of a stage that begins when `before` of the steps between `sigmas` are done.
    pub fn steps<'s>(&'s self, sigmas: &[f64], before: usize, on_event: &'s mut dyn FnMut(Event)) -> Steps<'s> {
        Steps {
            before,
            of: sigmas.len() - 1,
            projects: self.request.shown() == Preview::Projection,
            preview_every: if self.request.shown() == Preview::None { 0 } else { self.request.preview_every },
            insight: self.request.insight,
            background: self.settings.background,
            pace: self.pace,
            checkpoints: self.request.checkpoints.then_some(self.drawing),
            on_event,
        }
    }

    /// Draws a stage to its end; answers the home model's latent there, and the clean one, estimated where noise is left.
    pub async fn estimate(&self, stage: &Stage<'_>, start: Start, steps: &mut Steps<'_>) -> Result<Estimate> {
        let coop = self.coop(stage);
        let x = self.walk(stage, &coop, &coop, start, steps).await?;
        let sigma = stage.sigmas[stage.sigmas.len() - 1];
        let x0 =
            if sigma > 0.0 { coop.denoise(x.clone(), sigma, &stage.home.cond, self.pace).await? } else { x.clone() };
        Ok(Estimate { x: coop.home(x), x0: coop.home(x0) })
    }

    /// Draws a stage to its end, outside a canvas' mask only what is there already.
    pub async fn finish(
        &self,
        stage: &Stage<'_>,
        start: Start,
        canvas: Option<&Canvas>,
        steps: &mut Steps<'_>,
    ) -> Result<Tensor<4>> {
        let coop = self.coop(stage);
        let x = match canvas {
            Some(Canvas { x0, mask: Some(mask), .. }) => {
                let [_, _, height, width] = x0.dims();
                let mask = resample(mask.clone(), [height, width], Default::default()).clamp(0.0, 1.0);
                // The companions draw everywhere: what they know nothing of is fused first and masked then.
                let known = coop.beside(x0.clone(), 0.0);
                let mask = coop.beside(mask.expand(x0.dims()), 1.0);
                let masked = Masked { inner: &coop, known, mask };
                self.walk(stage, &coop, &masked, start, steps).await?
            }
            _ => self.walk(stage, &coop, &coop, start, steps).await?,
        };
        Ok(coop.home(x))
    }

    fn coop<'s>(&self, stage: &'s Stage<'_>) -> CoopLatent<'s> {
        let home = stage.home.participant();
        let foreign = stage.along.iter().enumerate().map(|(index, (asked, strength))| {
            let model = asked.participant();
            // Two streams a companion: a second stage's noise is not the first one's.
            let stream = Stream::Foreign(2 * index + usize::from(stage.stream == Stream::Bridge));
            let stream = if model.latent == home.latent { stage.stream } else { stream };
            let noise = self.seeded.normal(stream, model.latent, stage.home.device());
            Foreign { model, cond: asked.cond.clone(), strength: *strength, noise }
        });
        let (exchange, upsampler) = (self.settings.exchange, self.settings.upsampler);
        let coop =
            CoopLatent::new(home, foreign.collect(), exchange.unwrap_or_default(), upsampler.unwrap_or_default());
        if self.request.insight { coop.observed() } else { coop }
    }

    /// Samples from `start` down the stage's noise levels; answers all latents.
    async fn walk(
        &self,
        stage: &Stage<'_>,
        coop: &CoopLatent<'_>,
        denoiser: &dyn Denoiser,
        start: Start,
        steps: &mut Steps<'_>,
    ) -> Result<Tensor<4>> {
        let (before, sampler) = (steps.before, self.settings.sampler);
        let from = match start {
            Start::Opening(opening) => coop.start(*opening, stage.sigmas[0], self.pace).await?.into(),
            Start::Checkpoint(checkpoint) => {
                let made = checkpoint.step() - before;
                checkpoint.restore(made, sampler, coop, stage.home.device())?
            }
        };
        if stage.sigmas.len() < 2 {
            return Ok(from.x);
        }
        let mut run = Run {
            denoiser,
            cond: &stage.home.cond,
            sigmas: stage.sigmas,
            before,
            noise: &self.seeded,
            pace: self.pace,
            on_step: &mut Shown { steps, coop, stage },
        };
        sampler.sample(&mut run, from).await
    }
}

/// Passes the steps of a stage on as events, with previews.
pub struct Steps<'a> {
    before: usize,
    of: usize,
    projects: bool,
    preview_every: usize,
    insight: bool,
    background: Background,
    pace: &'a Pace,
    /// The drawing that they belong to, if checkpoints are asked for.
    checkpoints: Option<&'a str>,
    on_event: &'a mut dyn FnMut(Event),
}

/// Steps of models that draw together: what is shown is the home model's.
struct Shown<'a, 'b> {
    steps: &'a mut Steps<'b>,
    coop: &'a CoopLatent<'a>,
    stage: &'a Stage<'a>,
}

impl Shown<'_, '_> {
    /// What the step was made of.
    async fn insight(&self, step: Step<'_>) -> Result<Insight> {
        let home = self.stage.home.model;
        let scale = (step.sigma * step.sigma + 1.0).sqrt();
        let noisy = projected(home, self.coop.home(step.x.clone()) / scale).await?;
        let mut estimates = Vec::new();
        for Aside { foreign, weight, x0 } in self.coop.asides() {
            let model = foreign.map_or(home, |index| self.stage.along[index].0.model);
            let image = projected(model, x0).await?;
            estimates.push(ModelEstimate { model: model.manifest.name.clone(), weight, image });
        }
        Ok(Insight { noisy, estimates })
    }
}

/// A latent of `model` as a small picture, if the model can show it.
async fn projected(model: &Model, latent: Tensor<4>) -> Result<Option<Image>> {
    match model.space.projection() {
        Some(projection) => projection.picture(latent).await.map(Some),
        None => Ok(None),
    }
}

impl Listener for Shown<'_, '_> {
    fn hear<'s>(&'s mut self, step: Step<'s>) -> Pin<Box<dyn Future<Output = Result<()>> + 's>> {
        Box::pin(async move {
            let Step { index, sigma, denoised, .. } = step;
            let Steps { of, projects, preview_every, background, pace, insight, .. } = *self.steps;
            let home = &self.stage.home;
            let expert = home.model.boundary(self.stage.sigmas).map(|boundary| match sigma >= boundary {
                true => ExpertName::Structure,
                false => ExpertName::Texture,
            });
            let estimate = self.coop.home(denoised.clone());
            let preview = if projects { projected(home.model, estimate.clone()).await? } else { None };
            let preview = preview.map(|image| background.behind(image));
            let insight = if insight { Some(self.insight(step).await?) } else { None };
            (self.steps.on_event)(Event::Step(StepEvent { index, of, sigma, expert, preview, insight }));
            // The last step's estimate is the picture itself.
            if preview_every > 0 && (index + 1).is_multiple_of(preview_every) && index + 1 < of {
                let decoded = self.coop.home.space.decode(estimate, pace).await?;
                let image = background.behind(pixels::to_image(decoded).await?);
                (self.steps.on_event)(Event::Preview(image));
            }
            Ok(())
        })
    }

    fn reach<'s>(&'s mut self, at: samplers::Checkpoint) -> Pin<Box<dyn Future<Output = Result<()>> + 's>> {
        let Steps { before, checkpoints, ref mut on_event, .. } = *self.steps;
        let coop = self.coop;
        Box::pin(async move {
            if let Some(drawing) = checkpoints {
                on_event(Event::Checkpoint(Checkpoint::of(drawing, before + at.made, at, coop).await?));
            }
            Ok(())
        })
    }
}
