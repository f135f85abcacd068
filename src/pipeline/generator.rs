//! The generator: a loaded model that draws, and the models that draw along with it.

use super::{
    Drawing, Event, Request, Settings,
    components::{Components, Tally, bytes},
    config::{ControlKind, PipelineConfig},
    model::{Model, Plan},
    studio::{Estimate, Stage, Studio},
};
use crate::{
    Error, Result,
    coop::{
        Opening, Space,
        resolution::{bridge, divide, scale_noisy},
    },
    device::OpenDevice,
    diffusion::noise::Stream,
    nets::Pace,
    pixels,
    weights::{manifest::Manifest, source::Source},
};
use burn::tensor::{Tensor, TensorData};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};
use web_time::Instant;

/// A loaded model that draws.
pub struct Generator {
    home: Model,
    /// Those that were needed so far.
    companions: RefCell<BTreeMap<ControlKind, Rc<Model>>>,
    device: OpenDevice,
}

/// How a draft passes to the picture's own size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Its estimate of the clean picture is scaled in pixels, and fresh noise is added.
    Bridge,
    /// Its noisy latent itself is scaled: the mistake of the paper's figure 3a, to be looked at.
    ScaledNoise,
}

/// How far a load has come, in bytes of weights that are here and verified.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadProgress {
    /// Role of the component that is arriving.
    pub component: String,
    /// Bytes here.
    pub loaded_bytes: u64,
    /// Bytes of the whole load.
    pub total_bytes: u64,
}

impl Generator {
    /// Loads every component that drawing from a prompt needs, in the manifest's order, onto `device`.
    ///
    /// `pace` cancels the load between chunks.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Checksum`], [`Error::Corrupt`], a tensor error, or [`Error::Cancelled`].
    pub async fn load(
        source: &dyn Source,
        device: OpenDevice,
        pace: &Pace,
        on_progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let manifest = Manifest::load(source).await?;
        let config = PipelineConfig::from_json(&manifest.pipeline)?;
        let roles = config.components();
        let total_bytes = bytes(&manifest, &roles);
        let mut tally = Tally { loaded_bytes: 0, total_bytes, on_progress };
        let components = Components::load(source, &manifest, &roles, pace, &mut tally).await?;
        let home = Model::load(manifest.clone(), config.clone(), &components, &[], &device.device)?;
        Ok(Self { home, companions: RefCell::default(), device })
    }

    /// Loads what `request` needs beyond that: the companions that it draws with, and the encoders that it takes pictures in
    /// with. What is here already is not loaded again; `source` is the one that the model came from.
    ///
    /// # Errors
    /// As [`Generator::load`]; those of [`Request::resolve`].
    pub async fn prepare(
        &self,
        request: &Request,
        source: &dyn Source,
        pace: &Pace,
        on_progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<()> {
        let settings = self.resolve(request)?;
        let needed = self.companions_of(&settings);
        let arriving = needed.iter().copied().filter(|kind| !self.companions.borrow().contains_key(kind));

        let mut plans = Vec::new();
        for kind in arriving {
            let source = self.beside(kind, source)?;
            let manifest = Manifest::load(&*source).await?;
            let config = PipelineConfig::from_json(&manifest.pipeline)?;
            if !config.serves(kind) {
                return Err(Error::Unsupported(format!("model `{}` as companion for `{kind}`", manifest.name)));
            }
            plans.push((kind, source, manifest, config));
        }
        let encoder = self.home.config.latent.encoder.as_deref();
        let encodes = settings.init.is_some() || settings.draft.is_some() || !needed.is_empty();
        let encoder = encoder.filter(|_| encodes && !self.home.space.encodes());
        if encodes && self.home.config.latent.encoder.is_none() {
            let why = "this model takes no pictures in: it has no encoder";
            return Err(Error::Unsupported(why.into()));
        }

        let here: Vec<Rc<Model>> = self.companions.borrow().values().cloned().collect();
        let here: Vec<&Model> = here.iter().map(|model| &**model).chain([&self.home]).collect();
        // Models may share files with one another: what arrives twice is loaded once.
        let encoder_file = encoder.map(|role| self.home.manifest.component(role)).transpose()?;
        let mut arriving: BTreeMap<_, _> = encoder_file.iter().map(|file| (&file.sha256, file.bytes)).collect();
        for (_, _, manifest, config) in &plans {
            let plan = Plan { manifest, config };
            let roles = plan.roles(&here);
            let files = manifest.components.iter().filter(|component| roles.contains(&component.role.as_str()));
            arriving.extend(files.map(|component| (&component.sha256, component.bytes)));
        }
        let total_bytes = arriving.into_values().sum();
        let mut tally = Tally { loaded_bytes: 0, total_bytes, on_progress };
        if let Some(role) = encoder {
            let components = Components::load(source, &self.home.manifest, &[role], pace, &mut tally).await?;
            self.home.space.load_encoder(&components, role, &self.device.device)?;
        }
        for (kind, source, manifest, config) in plans {
            let here: Vec<Rc<Model>> = self.companions.borrow().values().cloned().collect();
            let shared: Vec<&Model> = here.iter().map(|model| &**model).chain([&self.home]).collect();
            let plan = Plan { manifest: &manifest, config: &config };
            let roles = plan.roles(&shared);
            let components = Components::load(&*source, &manifest, &roles, pace, &mut tally).await?;
            let model = Model::load(manifest.clone(), config.clone(), &components, &shared, &self.device.device)?;
            if let Some(role) = &config.latent.encoder {
                model.space.load_encoder(&components, role, &self.device.device)?;
            }
            self.companions.borrow_mut().insert(kind, Rc::new(model));
        }
        Ok(())
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.home.manifest
    }

    /// How the model's components draw together: sizes, styles, defaults.
    pub fn config(&self) -> &PipelineConfig {
        &self.home.config
    }

    /// The device it draws on.
    pub fn device(&self) -> &OpenDevice {
        &self.device
    }

    /// `[height, width]` in which the picture of a control is seen where a picture of `size` is drawn. Of a companion that was
    /// not needed yet, only the manifest is read.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if nothing here follows that control; as [`Manifest::load`].
    pub async fn control_size(&self, kind: ControlKind, size: [usize; 2], source: &dyn Source) -> Result<[usize; 2]> {
        let seen = |config: &PipelineConfig, size| match kind {
            ControlKind::Outline => config.own_size(size),
            ControlKind::Variation => [config.image.height, config.image.width],
        };
        if self.home.config.serves(kind) {
            return Ok(if kind == ControlKind::Outline { size } else { seen(&self.home.config, size) });
        }
        let here = self.companions.borrow().get(&kind).cloned();
        if let Some(model) = here {
            return Ok(seen(&model.config, size));
        }
        let manifest = Manifest::load(&*self.beside(kind, source)?).await?;
        Ok(seen(&PipelineConfig::from_json(&manifest.pipeline)?, size))
    }

    /// The folder of the companion for `kind`, beside that of the model in `source`.
    fn beside<'s>(&self, kind: ControlKind, source: &'s dyn Source) -> Result<Box<dyn Source + 's>> {
        let companion = self.home.config.companions.get(&kind);
        let companion = companion.ok_or_else(|| Error::Unsupported(format!("the control `{kind}` in this model")))?;
        Ok(source.sibling(&companion.folder))
    }

    /// What a request comes to for this model.
    ///
    /// # Errors
    /// As [`Request::resolve`].
    pub fn resolve(&self, request: &Request) -> Result<Settings> {
        request.resolve(&self.home.manifest.name, &self.home.config)
    }

    /// Draws a picture.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a request the model cannot fulfil, [`Error::Unsupported`] if it needs what
    /// [`Generator::prepare`] has not loaded, [`Error::Cancelled`], [`Error::Device`].
    pub async fn generate(&self, request: &Request, pace: &Pace, on_event: &mut dyn FnMut(Event)) -> Result<Drawing> {
        self.draw(request, None, pace, on_event).await
    }

    /// Draws a picture from given noise instead of the seed's: standard normal values, `[1, channels, height, width]` of
    /// the latent that drawing begins with. Samplers that add noise still take theirs from the seed.
    ///
    /// # Errors
    /// As [`Generator::generate`]; [`Error::Invalid`] if the noise has another shape.
    pub async fn generate_from(
        &self,
        request: &Request,
        noise: TensorData,
        pace: &Pace,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Drawing> {
        self.draw(request, Some(noise), pace, on_event).await
    }

    /// Draws a picture whose draft passes to its own size as `passage` says; answers the noise, too, that the second stage
    /// began with, of variance 1, if there was a draft.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    #[cfg(feature = "train")]
    pub async fn generate_through(
        &self,
        request: &Request,
        passage: Passage,
        pace: &Pace,
    ) -> Result<(Drawing, Option<Tensor<4>>)> {
        self.draw_through(request, None, passage, pace, &mut |_| ()).await
    }

    /// Kinds of the companions that draw.
    fn companions_of(&self, settings: &Settings) -> Vec<ControlKind> {
        let draft = settings.draft.as_ref().and_then(|draft| draft.model);
        let along = settings.controls.iter().map(|control| control.kind);
        let mut kinds: Vec<_> = along.filter(|kind| !self.home.config.serves(*kind)).chain(draft).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    async fn draw(
        &self,
        request: &Request,
        noise: Option<TensorData>,
        pace: &Pace,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Drawing> {
        Ok(self.draw_through(request, noise, Passage::Bridge, pace, on_event).await?.0)
    }

    async fn draw_through(
        &self,
        request: &Request,
        noise: Option<TensorData>,
        passage: Passage,
        pace: &Pace,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<(Drawing, Option<Tensor<4>>)> {
        let settings = self.resolve(request)?;
        let mut clock = Clock::start();
        let companions = self.companions.borrow().clone();
        let studio = Studio::new(&self.home, &companions, request, &settings, pace);
        let sigmas = studio.sigmas()?;
        let low = settings.draft.as_ref().map_or(f64::INFINITY, |draft| self.home.schedule.sigma(draft.t_low));
        let (before, after) = divide(&sigmas, low);

        let draft = match &settings.draft {
            Some(draft) => Some(studio.stage(draft.model, draft.size, before, Stream::Latent).await?),
            None => None,
        };
        let stream = if draft.is_some() { Stream::Bridge } else { Stream::Latent };
        let stage = studio.stage(None, Some([settings.height, settings.width]), after, stream).await?;
        clock.lap("text");

        let canvas = match &request.init {
            Some(image) => Some(studio.canvas(image, &stage).await?),
            None => None,
        };
        let mut passed = None;
        let given = |stage: &Stage<'_>| noise.map_or(Ok(studio.noise(stage)), |noise| studio.given(stage, noise));
        let (opening, done) = match (&draft, &canvas) {
            (Some(draft), _) => {
                let opening = Opening::noise(given(draft)?, before[0]);
                let mut steps = studio.steps(&sigmas, 0, on_event);
                let Estimate { x, x0 } = studio.estimate(draft, opening, &mut steps).await?;
                let (low, high) = (draft.home.participant(), stage.home.participant());
                let by = settings.upsampler.unwrap_or_default();
                let mut opening = bridge(&low, &high, x0, after[0], studio.noise(&stage), by, pace).await?;
                if passage == Passage::ScaledNoise {
                    let [_, channels, height, width] = high.latent;
                    if low.latent[1] != channels {
                        return Err(Error::Unsupported("scaling the latent of another space".into()));
                    }
                    opening.x = scale_noisy(x, [height, width], by);
                }
                passed = opening.x0.clone().map(|x0| (opening.x.clone() - x0) / after[0].max(f64::MIN_POSITIVE));
                (opening, before.len() - 1)
            }
            (None, Some(canvas)) => (Opening::known(canvas.x0.clone(), given(&stage)?, after[0]), 0),
            (None, None) => (Opening::noise(given(&stage)?, after[0]), 0),
        };
        let mut steps = studio.steps(&sigmas, done, on_event);
        let latents = studio.finish(&stage, opening, canvas.as_ref(), &mut steps).await?;
        // Reading the latents back ends the stage: what is timed is work done, not work queued.
        let data = read(latents.clone()).await?;
        clock.lap("denoise");

        let drawn = self.home.space.decode(latents, pace).await?;
        let image = pixels::to_image(canvas.map_or(drawn.clone(), |canvas| canvas.around(drawn))).await?;
        clock.lap("decode");
        let image = settings.background.behind(image);
        Ok((Drawing { image, settings: settings.clone(), latents: data, timings: clock.laps }, passed))
    }
}

async fn read(latents: Tensor<4>) -> Result<TensorData> {
    let data = latents.into_data_async().await;
    let data = data.map_err(|error| Error::Device(format!("reading the latents back: {error:?}")))?.convert::<f32>();
    let finite = data.iter::<f32>().all(f32::is_finite);
    if finite { Ok(data) } else { Err(Error::Device("the latents hold values that are not finite".into())) }
}

/// Seconds by stage.
struct Clock {
    last: Instant,
    laps: super::Timings,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), laps: Vec::new() }
    }

    fn lap(&mut self, stage: &'static str) {
        let now = Instant::now();
        self.laps.push((stage, (now - self.last).as_secs_f64()));
        self.last = now;
    }
}
