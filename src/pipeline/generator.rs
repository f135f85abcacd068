//! The generator: a loaded model that draws.

use super::{
    Drawing, Event, Image, Request, Settings, StepEvent,
    components::Components,
    config::{Expert, ExpertsConfig, PipelineConfig},
    decoder::Decoder,
    request::Background,
    text::TextEncoders,
};
use crate::{
    Error, Result,
    decoupled::TimeDecoupled,
    device::OpenDevice,
    diffusion::{
        Denoiser, NetworkDenoiser,
        guidance::Guided,
        noise::{Noise, Stream},
        samplers::{Listener, Run, Step},
        schedule::{Schedule, initial_scale},
    },
    nets::{
        Pace,
        unet::{UNet, UNetConfig},
    },
    weights::{self, manifest::Manifest, source::Source},
};
use burn::tensor::{Tensor, TensorData};
use std::{future::Future, pin::Pin};
use web_time::Instant;

/// A loaded model that draws.
pub struct Generator {
    manifest: Manifest,
    config: PipelineConfig,
    device: OpenDevice,
    schedule: Schedule,
    text: TextEncoders,
    experts: Experts,
    decoder: Decoder,
}

/// One UNet, or PanGu-Draw's two.
enum Experts {
    Single(Box<NetworkDenoiser<UNet>>),
    TimeDecoupled { structure: Box<NetworkDenoiser<UNet>>, texture: Box<NetworkDenoiser<UNet>> },
}

/// How far a load has come, in bytes of weights that are here and verified.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadProgress {
    /// Role of the component that is arriving.
    pub component: String,
    /// Bytes here.
    pub loaded_bytes: u64,
    /// Bytes of the whole model.
    pub total_bytes: u64,
}

impl Generator {
    /// Loads every component that drawing needs, in the manifest's order, onto `device`.
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
        let components = Components::load(source, &manifest, &config, pace, on_progress).await?;

        let schedule = Schedule::new(&config.schedule)?;
        let expert = |expert: &Expert| {
            let (file, _) = components.find(&expert.component, &["UNet2DConditionModel"])?;
            let unet: UNetConfig = file.config()?;
            if unet.in_channels != config.latent.channels || unet.out_channels != config.latent.channels {
                return Err(Error::Unsupported(format!(
                    "a UNet of {} to {} channels on latents of {}",
                    unet.in_channels, unet.out_channels, config.latent.channels
                )));
            }
            let unet = weights::load(unet.init(&device.device)?, file, "")?;
            Ok(Box::new(NetworkDenoiser::new(unet, schedule.clone(), expert.prediction)))
        };
        let experts = match &config.experts {
            ExpertsConfig::Single { unet } => Experts::Single(expert(unet)?),
            ExpertsConfig::TimeDecoupled { structure, texture, .. } => {
                Experts::TimeDecoupled { structure: expert(structure)?, texture: expert(texture)? }
            }
        };
        let (decoder, network) = components.find(&config.latent.decoder, &["AutoencoderTiny", "AutoencoderKL"])?;
        let decoder = Decoder::load(decoder, network, &config.latent, &device.device)?;
        let text = TextEncoders::load(&config, &components, &device.device)?;
        Ok(Self { schedule, text, experts, decoder, manifest, config, device })
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How the model's components draw together: sizes, styles, defaults.
    pub fn config(&self) -> &PipelineConfig {
        &self.config
    }

    /// The device it draws on.
    pub fn device(&self) -> &OpenDevice {
        &self.device
    }

    /// Draws a picture.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a request the model cannot fulfil, [`Error::Cancelled`], [`Error::Device`].
    pub async fn generate(&self, request: &Request, pace: &Pace, on_event: &mut dyn FnMut(Event)) -> Result<Drawing> {
        let settings = request.resolve(&self.manifest.name, &self.config)?;
        let noise = Noise::new(settings.seed).normal(Stream::Latent, self.latent_shape(&settings), &self.device.device);
        self.draw(settings, noise, request.preview_every, pace, on_event).await
    }

    /// Draws a picture from given noise instead of the seed's: standard normal values, `[1, channels, height, width]` of
    /// the latent. Samplers that add noise still take theirs from the seed.
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
        let settings = request.resolve(&self.manifest.name, &self.config)?;
        let expected = self.latent_shape(&settings);
        if noise.shape().to_vec() != expected {
            let why = format!("has shape {:?}, this picture needs {expected:?}", noise.shape().to_vec());
            return Err(Error::Invalid { parameter: "latents", why });
        }
        let noise = Tensor::from_data(noise, &self.device.device);
        self.draw(settings, noise, request.preview_every, pace, on_event).await
    }

    fn latent_shape(&self, settings: &Settings) -> [usize; 4] {
        let factor = self.config.latent.factor;
        [1, self.config.latent.channels, settings.height / factor, settings.width / factor]
    }

    async fn draw(
        &self,
        settings: Settings,
        noise: Tensor<4>,
        preview_every: usize,
        pace: &Pace,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Drawing> {
        let mut clock = Clock::start();
        let prompts = self.text.encode(&settings, &self.config, pace).await?;
        clock.lap("text");

        let sigmas = self.schedule.sigmas(settings.spacing, settings.steps)?;
        let experts = self.experts(&sigmas);
        let guided = Guided {
            inner: &*experts,
            uncond: prompts.uncond,
            style: prompts.style,
            scale: settings.guidance_scale,
            style_scale: settings.style_scale,
            sequential: false,
        };
        let mut run = Run {
            denoiser: &guided,
            cond: &prompts.cond,
            sigmas: &sigmas,
            noise: &Noise::new(settings.seed),
            pace,
            on_step: &mut Steps { generator: self, preview_every, background: settings.background, pace, on_event },
        };
        let latents = settings.sampler.sample(&mut run, noise * initial_scale(sigmas[0])).await?;
        // Reading the latents back ends the stage: what is timed is work done, not work queued.
        let data = read(latents.clone()).await?;
        clock.lap("denoise");

        let image = self.decode(latents, settings.background, pace).await?;
        clock.lap("decode");
        Ok(Drawing { image, settings, latents: data, timings: clock.laps })
    }

    async fn decode(&self, latents: Tensor<4>, background: Background, pace: &Pace) -> Result<Image> {
        let decoded = self.decoder.decode(latents, pace).await?;
        let image = Image::from_decoded(decoded, self.config.latent.pixels).await?;
        Ok(match background {
            Background::Transparent => image,
            Background::Colour(colour) => image.on(colour),
        })
    }

    /// The denoiser of this model for a run over `sigmas`.
    fn experts(&self, sigmas: &[f64]) -> Box<dyn Denoiser + '_> {
        match (&self.experts, &self.config.experts) {
            (Experts::TimeDecoupled { structure, texture }, ExpertsConfig::TimeDecoupled { t_struct, rule, .. }) => {
                let boundary = rule.boundary(&self.schedule, *t_struct, sigmas);
                Box::new(TimeDecoupled { structure: &**structure, texture: &**texture, boundary })
            }
            (Experts::Single(unet), _) => Box::new(&**unet),
            _ => unreachable!("experts are loaded as the configuration says"),
        }
    }
}

/// Passes a run's steps on as events, with a preview now and then.
struct Steps<'a> {
    generator: &'a Generator,
    preview_every: usize,
    background: Background,
    pace: &'a Pace,
    on_event: &'a mut dyn FnMut(Event),
}

impl Listener for Steps<'_> {
    fn hear<'s>(&'s mut self, step: Step<'s>) -> Pin<Box<dyn Future<Output = Result<()>> + 's>> {
        let Step { index, of, sigma, denoised, .. } = step;
        (self.on_event)(Event::Step(StepEvent { index, of, sigma }));
        // The last step's estimate is the picture itself.
        let due = self.preview_every > 0 && (index + 1).is_multiple_of(self.preview_every) && index + 1 < of;
        Box::pin(async move {
            if due {
                (self.on_event)(Event::Preview(
                    self.generator.decode(denoised.clone(), self.background, self.pace).await?,
                ));
            }
            Ok(())
        })
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
