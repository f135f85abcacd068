//! The generator: a model that draws, and the models that draw along with it.

use super::{
    Checkpoint, Drawing, Event, Request, Settings,
    checkpoint::{fingerprint, invalid},
    config::{ControlKind, PipelineConfig},
    model::Model,
    plan::{self, Plan},
    residency::{Part, Residency},
    studio::{Estimate, Stage, Start, Studio},
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
    weights::{Depot, LoadProgress, manifest::Manifest, watched},
};
use burn::tensor::{Tensor, TensorData};
use std::{cell::RefCell, collections::BTreeMap, pin::pin, rc::Rc, task::Poll};
use web_time::Instant;

/// Bytes of weights that stay in memory between pictures, unless somebody says otherwise: those of every model that was made for
/// the browser, though not of Stable Diffusion, whose parts then come and go.
pub const MEMORY: u64 = 1 << 30;

/// A model that draws.
pub struct Generator {
    home: Rc<Model>,
    depot: Depot,
    /// Those that were needed so far.
    companions: RefCell<BTreeMap<ControlKind, Rc<Model>>>,
    residency: Rc<Residency>,
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

/// What a drawing begins with.
enum Beginning {
    /// The seed's noise.
    Seed,
    /// Given noise.
    Noise(TensorData),
    /// What was drawn of it before.
    Checkpoint(Checkpoint),
}

impl Generator {
    /// Opens the model in `depot`: only its manifest is read. Weights come onto `device` when they are needed or asked for, and
    /// those that nothing needs leave it when there are more than `memory` bytes of them, if the depot keeps them.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Refused`], [`Error::Corrupt`], [`Error::Unsupported`].
    pub async fn open(depot: Depot, device: OpenDevice, memory: u64) -> Result<Self> {
        let residency = Residency::new(device.device.clone(), memory);
        let home = Rc::new(Model::open(&depot, &residency, &[]).await?);
        Ok(Self { home, depot, companions: RefCell::default(), residency, device })
    }

    /// What drawing `request` takes: what must be fetched for it, and the memory that it needs. No weights are fetched to know
    /// that.
    ///
    /// # Errors
    /// Those of [`Request::resolve`] and [`Generator::open`].
    pub async fn plan(&self, request: &Request) -> Result<Plan> {
        let stages = self.stages(&self.resolve(request)?).await?;
        plan::plan(&self.residency, &stages, &self.device).await
    }

    /// Loads what the first step of `request` needs. The rest comes while it draws.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Refused`], [`Error::Checksum`], [`Error::Corrupt`], a tensor error, or [`Error::Cancelled`];
    /// those of [`Request::resolve`].
    pub async fn load(&self, request: &Request, pace: &Pace, on_progress: &mut dyn FnMut(LoadProgress)) -> Result<()> {
        let [encoders, first, ..] = self.stages(&self.resolve(request)?).await?;
        self.arrive(&[encoders, first].concat(), pace, on_progress).await
    }

    /// Loads all that `request` needs, as far as memory and the store go.
    ///
    /// # Errors
    /// As [`Generator::load`].
    pub async fn prepare(
        &self,
        request: &Request,
        pace: &Pace,
        on_progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<()> {
        let parts = self.stages(&self.resolve(request)?).await?.concat();
        self.arrive(&parts, pace, on_progress).await
    }

    /// What a drawing needs, by the order of its need: before the first step, for the steps of the first experts, for those of the
    /// second, for the picture.
    async fn stages(&self, settings: &Settings) -> Result<[Vec<Rc<dyn Part>>; 4]> {
        let needed = self.companions_of(settings);
        for kind in &needed {
            if self.companions.borrow().contains_key(kind) {
                continue;
            }
            let mut others: Vec<_> = self.companions.borrow().values().cloned().collect();
            others.push(self.home.clone());
            let model = Model::open(&self.beside(*kind)?, &self.residency, &others).await?;
            if !model.config.serves(*kind) {
                let name = &model.manifest.name;
                return Err(Error::Unsupported(format!("model `{name}` as companion for `{kind}`")));
            }
            self.companions.borrow_mut().insert(*kind, Rc::new(model));
        }
        let companions = self.companions.borrow();
        let models = || [&self.home].into_iter().chain(needed.iter().map(|kind| &companions[kind]));
        let encoders = models().flat_map(|model| model.encoders()).collect();
        let mut first: Vec<_> = models().flat_map(|model| model.first()).collect();
        let later = models().flat_map(|model| model.later()).collect();
        // Models that draw together in other spaces or sizes meet in pixels at every step; a draft is handed on through them.
        let size = [settings.height, settings.width];
        let apart =
            |model: &&Rc<Model>| !Rc::ptr_eq(&model.space, &self.home.space) || model.config.own_size(size) != size;
        let crossing: Vec<_> =
            models().skip(1).filter(apart).chain(settings.draft.iter().map(|_| &self.home)).collect();
        if !crossing.is_empty() || settings.init.is_some() {
            let encoder = self.home.space.encoder().ok_or_else(|| {
                let why = "this model takes no pictures in: it has no encoder";
                Error::Unsupported(why.into())
            })?;
            first.push(encoder);
            first.extend(crossing.iter().filter_map(|model| model.space.encoder()));
            first.extend(crossing.iter().map(|model| model.space.decoder()));
            first.extend(crossing.first().map(|_| self.home.space.decoder()));
        }
        Ok([encoders, first, later, vec![self.home.space.decoder()]])
    }

    async fn arrive(
        &self,
        parts: &[Rc<dyn Part>],
        pace: &Pace,
        on_progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<()> {
        self.expect(parts);
        watched(self.depot.traffic(), on_progress, self.ahead(parts, pace)).await
    }

    /// Counts what is not here among what is to arrive.
    fn expect(&self, parts: &[Rc<dyn Part>]) {
        let traffic = self.depot.traffic();
        // A file that has come whole, but of which the network is not made yet, will not come again.
        traffic.settle(|sha256| self.residency.is_coming(sha256));
        let missing = parts.iter().filter(|part| !part.is_here());
        missing.for_each(|part| traffic.expect(&part.manifest().name, part.component()));
    }

    async fn ahead(&self, parts: &[Rc<dyn Part>], pace: &Pace) -> Result<()> {
        for part in parts {
            self.residency.ahead(&**part, pace).await?;
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

    /// Bytes of weights in memory, and the most there ever were.
    pub fn resident_bytes(&self) -> (u64, u64) {
        (self.residency.bytes(), self.residency.peak())
    }

    /// `[height, width]` in which the picture of a control is seen where a picture of `size` is drawn. Of a companion that was
    /// not needed yet, only the manifest is read.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if nothing here follows that control; as [`Manifest::load`].
    pub async fn control_size(&self, kind: ControlKind, size: [usize; 2]) -> Result<[usize; 2]> {
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
        let manifest = self.beside(kind)?.manifest().await?;
        Ok(seen(&PipelineConfig::from_json(&manifest.pipeline)?, size))
    }

    /// The folder of the companion for `kind`, beside the model's.
    fn beside(&self, kind: ControlKind) -> Result<Depot> {
        let companion = self.home.config.companions.get(&kind);
        let companion = companion.ok_or_else(|| Error::Unsupported(format!("the control `{kind}` in this model")))?;
        Ok(self.depot.sibling(&companion.folder))
    }

    /// What a request comes to for this model.
    ///
    /// # Errors
    /// As [`Request::resolve`]; [`Error::Invalid`] for numbers that the device does not have.
    pub fn resolve(&self, request: &Request) -> Result<Settings> {
        self.device.precision(request.precision)?;
        request.resolve(&self.home.manifest.name, &self.home.config)
    }

    /// Draws a picture. What it needs and is not here comes meanwhile.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a request the model cannot fulfil, [`Error::Unsupported`], [`Error::Cancelled`],
    /// [`Error::Device`]; as [`Generator::load`].
    pub async fn generate(&self, request: &Request, pace: &Pace, on_event: &mut dyn FnMut(Event)) -> Result<Drawing> {
        self.draw(request, Beginning::Seed, pace, on_event).await
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
        self.draw(request, Beginning::Noise(noise), pace, on_event).await
    }

    /// Finishes the drawing of `request` that came as far as `checkpoint`.
    ///
    /// # Errors
    /// As [`Generator::generate`]; [`Error::Invalid`] for the checkpoint of another drawing.
    pub async fn resume(
        &self,
        request: &Request,
        checkpoint: Checkpoint,
        pace: &Pace,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Drawing> {
        self.draw(request, Beginning::Checkpoint(checkpoint), pace, on_event).await
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
        self.draw_through(request, Beginning::Seed, passage, pace, &mut |_| ()).await
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

    /// The manifests of the models that draw.
    fn manifests<'a>(
        &'a self,
        settings: &Settings,
        companions: &'a BTreeMap<ControlKind, Rc<Model>>,
    ) -> impl Iterator<Item = &'a Manifest> {
        let needed = self.companions_of(settings).into_iter().filter_map(|kind| companions.get(&kind));
        [&self.home].into_iter().chain(needed).map(|model| &*model.manifest)
    }

    async fn draw(
        &self,
        request: &Request,
        begin: Beginning,
        pace: &Pace,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Drawing> {
        Ok(self.draw_through(request, begin, Passage::Bridge, pace, on_event).await?.0)
    }

    async fn draw_through(
        &self,
        request: &Request,
        begin: Beginning,
        passage: Passage,
        pace: &Pace,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<(Drawing, Option<Tensor<4>>)> {
        let settings = self.resolve(request)?;
        let pace = &pace.computing_in(self.device.precision(request.precision)?);
        let parts = self.stages(&settings).await?.concat();
        self.expect(&parts);
        let on_event = RefCell::new(on_event);
        let drawing = self.paint(request, &settings, begin, passage, pace, &on_event);
        let drawing = beside(drawing, self.ahead(&parts, pace));
        let mut on_progress = |progress| (on_event.borrow_mut())(Event::Load(progress));
        watched(self.depot.traffic(), &mut on_progress, drawing).await
    }

    async fn paint(
        &self,
        request: &Request,
        settings: &Settings,
        begin: Beginning,
        passage: Passage,
        pace: &Pace,
        on_event: &RefCell<&mut dyn FnMut(Event)>,
    ) -> Result<(Drawing, Option<Tensor<4>>)> {
        let on_event = &mut |event| (on_event.borrow_mut())(event);
        let mut clock = Clock::start();
        let companions = self.companions.borrow().clone();
        let drawing = fingerprint(settings, self.manifests(settings, &companions));
        let studio = Studio::new(&self.home, &companions, request, settings, pace, &drawing);
        let sigmas = studio.sigmas()?;
        let low = settings.draft.as_ref().map_or(f64::INFINITY, |draft| self.home.schedule.sigma(draft.t_low));
        let (before, after) = divide(&sigmas, low);
        let drafted = before.len() - 1;
        let (noise, checkpoint) = match begin {
            Beginning::Seed => (None, None),
            Beginning::Noise(noise) => (Some(noise), None),
            Beginning::Checkpoint(checkpoint) if checkpoint.drawing != drawing || checkpoint.step() >= sigmas.len() => {
                return Err(invalid("belongs to another drawing"));
            }
            Beginning::Checkpoint(checkpoint) => (None, Some(checkpoint)),
        };

        let draft = match &settings.draft {
            Some(_) if checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.step() > drafted) => None,
            Some(draft) => Some(studio.stage(draft.model, draft.size, before, Stream::Latent).await?),
            None => None,
        };
        let stream = if settings.draft.is_some() { Stream::Bridge } else { Stream::Latent };
        let stage = studio.stage(None, Some([settings.height, settings.width]), after, stream).await?;
        clock.lap("text");

        let canvas = match &request.init {
            Some(image) => Some(studio.canvas(image, &stage).await?),
            None => None,
        };
        let mut passed = None;
        let given = |stage: &Stage<'_>| noise.map_or(Ok(studio.noise(stage)), |noise| studio.given(stage, noise));
        let opened = |opening| Start::Opening(Box::new(opening));
        let start = match (&draft, &canvas, checkpoint) {
            (Some(draft), _, checkpoint) => {
                let start = match checkpoint {
                    Some(checkpoint) => Start::Checkpoint(checkpoint),
                    None => opened(Opening::noise(given(draft)?, before[0])),
                };
                let mut steps = studio.steps(&sigmas, 0, on_event);
                let Estimate { x, x0 } = studio.estimate(draft, start, &mut steps).await?;
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
                opened(opening)
            }
            (None, _, Some(checkpoint)) => Start::Checkpoint(checkpoint),
            (None, Some(canvas), None) => opened(Opening::known(canvas.x0.clone(), given(&stage)?, after[0])),
            (None, None, None) => opened(Opening::noise(given(&stage)?, after[0])),
        };
        let mut steps = studio.steps(&sigmas, drafted, on_event);
        let latents = studio.finish(&stage, start, canvas.as_ref(), &mut steps).await?;
        // Reading the latents back ends the stage: what is timed is work done, not work queued.
        let data = read(latents.clone()).await?;
        clock.lap("denoise");

        let drawn = self.home.space.decode(latents, pace).await?;
        let image = pixels::to_image(canvas.map_or(drawn.clone(), |canvas| canvas.around(drawn))).await?;
        clock.lap("decode");
        let image = settings.background.behind(image);
        let arithmetic = pace.arithmetic().expect("a drawing's pace keeps an account");
        Ok((Drawing { image, settings: settings.clone(), latents: data, timings: clock.laps, arithmetic }, passed))
    }
}

/// What `work` answers. `aside` goes on as long as that takes; if it fails, `work` will meet what it failed with.
async fn beside<T>(work: impl Future<Output = T>, aside: impl Future<Output = Result<()>>) -> T {
    let (mut work, mut aside) = (pin!(work), pin!(aside));
    let mut going = true;
    std::future::poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        going = going && aside.as_mut().poll(context).is_pending();
        Poll::Pending
    })
    .await
}

/// A latent's values, which are finite.
pub(super) async fn read(latents: Tensor<4>) -> Result<TensorData> {
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
