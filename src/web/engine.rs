//! A model, as the worker holds it.

use super::{
    error_to_js,
    fetch::Fetch,
    from_js, journal,
    pictures::{control_view, from_pixels, get, set, to_pixels},
    storage, to_js, turn,
};
use crate::{
    Error, Image, Result,
    coop::latent::Exchange,
    device::{self, DeviceChoice, OpenDevice, PrecisionChoice},
    diffusion::samplers::Sampler,
    nets::{Pace, Progress},
    pipeline::{
        Checkpoint, Drawing, Event, Generator, LoadProgress, MEMORY, Request, StepEvent,
        config::{ControlKind, ExpertsConfig, PixelRange},
    },
    pixels::Upsampler,
    weights::{
        Depot,
        http::{Http, Patience},
        store::{delete_model, stored_models},
    },
};
use js_sys::{Array, Function, Uint8Array};
use serde_json::json;
use std::{cell::Cell, rc::Rc};
use wasm_bindgen::{JsCast, JsValue, prelude::*};
use web_sys::AbortSignal;

/// A model. Its weights come when they are needed or asked for.
#[wasm_bindgen]
pub struct Engine {
    url: String,
    generator: Generator,
}

#[wasm_bindgen]
impl Engine {
    /// Opens the model folder at `url` on `device` (`auto`, `webgpu` or `cpu`). Only its manifest is read.
    ///
    /// Weights that nothing needs leave the device when there are more than `memory` bytes of them. `store`: whether what
    /// arrives is kept in the browser.
    pub async fn open(
        url: String,
        device: String,
        memory: Option<f64>,
        store: bool,
        signal: AbortSignal,
    ) -> Result<Engine, JsValue> {
        Self::open_model(url, device, memory, store, signal).await.map_err(error_to_js)
    }

    /// Loads what the first step of drawing from words needs; `all`: what the steps after it and the picture need, too.
    /// `on_progress` gets `LoadProgress` objects.
    pub async fn load(&self, all: bool, on_progress: Function, signal: AbortSignal) -> Result<(), JsValue> {
        self.load_weights(all, &on_progress, &signal).await.map_err(error_to_js)
    }

    /// What drawing `request` with its `pictures` takes, as a `Plan` object.
    pub async fn plan(&self, request: JsValue, pictures: JsValue) -> Result<JsValue, JsValue> {
        let plan = async {
            let mut request: Request = from_js(&request)?;
            add(&mut request, &pictures)?;
            self.generator.plan(&request).await
        };
        plan.await.map(|plan| to_js(&plan)).map_err(error_to_js)
    }

    /// Bytes of weights on the device, and the most there ever were; bytes that the device has reserved.
    pub fn memory(&self) -> JsValue {
        let (weights, peak) = self.generator.resident_bytes();
        let pool = self.generator.device().device.memory_pool_usage();
        to_js(&json!({
            "weightBytes": weights,
            "peakWeightBytes": peak,
            "usedBytes": pool.as_ref().map(|pool| pool.bytes_in_use),
            "reservedBytes": pool.map(|pool| pool.bytes_reserved),
        }))
    }

    /// What was loaded and where it runs, as an `Info` object.
    pub fn info(&self) -> JsValue {
        let (manifest, config, device) = (self.generator.manifest(), self.generator.config(), self.generator.device());
        let boundary = match &config.experts {
            ExpertsConfig::Single { .. } => None,
            ExpertsConfig::TimeDecoupled { t_struct, .. } => {
                Some(1.0 - t_struct / config.schedule.num_train_timesteps as f64)
            }
        };
        let styles: Vec<_> = config.styles.iter().map(|style| json!({ "id": style.id, "name": style.name })).collect();
        // A model weighs its own control wholly, unless a request says otherwise.
        let controls = ControlKind::ALL.into_iter().filter_map(|kind| match config.companions.get(&kind) {
            _ if config.serves(kind) => Some(json!({ "kind": kind, "strength": 1.0, "until": 1.0 })),
            Some(own) => Some(json!({ "kind": kind, "strength": own.strength, "until": own.until })),
            None => None,
        });
        let controls: Vec<_> = controls.collect();
        to_js(&json!({
            "model": manifest.name,
            "url": self.url,
            "device": if device.backend == "wgpu" { "webgpu" } else { "cpu" },
            "deviceDetail": device.notice.as_ref().unwrap_or(&device.name),
            "fallback": device.notice.is_some(),
            "precision": device.precision(PrecisionChoice::Auto).expect("every device has some numbers"),
            "bytes": manifest.components.iter().map(|component| component.bytes).sum::<u64>(),
            "styles": styles,
            "samplers": Sampler::ALL,
            "controls": controls,
            "exchanges": Exchange::ALL,
            "upsamplers": Upsampler::ALL,
            "defaults": {
                "steps": config.defaults.steps,
                "guidanceScale": config.defaults.guidance_scale,
                "sampler": config.defaults.sampler,
                "style": config.defaults.style,
                "styleScale": config.defaults.style_scale,
                "spacing": config.defaults.spacing,
                "tLow": config.defaults.t_low,
                "exchange": Exchange::default(),
                "upsampler": Upsampler::default(),
            },
            "image": config.image,
            "encodes": config.latent.encoder.is_some(),
            "projects": config.latent.projection.is_some(),
            "vocabulary": manifest.vocabulary,
            "transparency": config.latent.pixels == PixelRange::InkAndCover,
            "boundary": boundary,
        }))
    }

    /// Draws what `request` (see `DrawRequest`) and its `pictures` (see `Pictures`) ask for, from the last `checkpoint` on if
    /// there is one; `on_event` gets `StepProgress` objects, `LoadProgress` objects of what arrives meanwhile, and after every
    /// step a `CheckpointMessage`. Answers a `PictureMessage`.
    pub async fn generate(
        &self,
        request: JsValue,
        pictures: JsValue,
        checkpoint: Option<Uint8Array>,
        on_event: Function,
        signal: AbortSignal,
    ) -> Result<JsValue, JsValue> {
        self.draw(&request, &pictures, checkpoint, on_event, signal).await.map_err(error_to_js)
    }

    /// What the model that serves the control `kind` sees of the `Pixels` in `image` where a picture of `width` and `height` is
    /// drawn, as `Pixels`. It need not be loaded for that.
    pub async fn view(&self, kind: String, image: JsValue, width: usize, height: usize) -> Result<JsValue, JsValue> {
        let view = async {
            let (kind, image) = (kind.parse()?, from_pixels(&image)?);
            let size = self.generator.control_size(kind, [height, width]).await?;
            control_view(kind, &image, size).await
        };
        view.await.map(|image| to_pixels(&image)).map_err(error_to_js)
    }
}

impl Engine {
    async fn open_model(
        url: String,
        device: String,
        memory: Option<f64>,
        store: bool,
        signal: AbortSignal,
    ) -> Result<Self> {
        let choice: DeviceChoice = device.parse()?;
        let pace = Pace::cancellable();
        let _aborting = Aborting::new(&signal, &pace)?;
        let open = async {
            let store = if store { storage::open().await } else { None };
            let source = Http::new(&url, Fetch { stored: store.is_some() }, Patience::default());
            let depot = Depot::new(Rc::new(source), store);
            Generator::open(depot, device::open(choice).await?, memory.map_or(MEMORY, |bytes| bytes as u64)).await
        };
        Ok(Self { generator: pace.race(open).await?, url })
    }

    async fn load_weights(&self, all: bool, on_progress: &Function, signal: &AbortSignal) -> Result<()> {
        let pace = Pace::cancellable();
        let _aborting = Aborting::new(signal, &pace)?;
        // Any prompt needs the same.
        let request = Request { prompt: "x".into(), ..Request::default() };
        let mut report = |progress| call_with(on_progress, &progress);
        match all {
            true => self.generator.prepare(&request, &pace, &mut report).await?,
            false => self.generator.load(&request, &pace, &mut report).await?,
        }
        journal::check()
    }

    async fn draw(
        &self,
        request: &JsValue,
        pictures: &JsValue,
        checkpoint: Option<Uint8Array>,
        on_event: Function,
        signal: AbortSignal,
    ) -> Result<JsValue> {
        let mut request: Request = from_js(request)?;
        add(&mut request, pictures)?;
        request.checkpoints = true;
        let checkpoint = checkpoint.map(|bytes| Checkpoint::from_bytes(bytes.to_vec())).transpose()?;
        let made = checkpoint.as_ref().map_or(0, Checkpoint::step);
        let pace = pace(self.generator.device());
        let _aborting = Aborting::new(&signal, &pace)?;

        // The pace tells of blocks, the generator of steps: together they say how far the drawing is.
        let at = Rc::new(Cell::new((made, self.generator.resolve(&request)?.taken())));
        let on_preview = on_event.clone();
        let report = {
            let at = at.clone();
            move |stage: &str, within: f64| {
                let (step, steps) = at.get();
                call(&on_event, json!({ "stage": stage, "step": step, "steps": steps, "within": within }));
            }
        };
        report("text", 0.0);
        let stage = |(step, steps)| if step < steps { "denoise" } else { "decode" };
        pace.on_progress({
            let (at, report) = (at.clone(), report.clone());
            move |Progress { done, of }| report(stage(at.get()), done as f64 / of as f64)
        });
        let mut on_event = |event| match event {
            Event::Load(progress) => call_with(&on_preview, &progress),
            Event::Step(step) => {
                at.set((step.index + 1, step.of));
                let _ = on_preview.call1(&JsValue::NULL, &step_event(step, stage(at.get())));
            }
            Event::Preview(image) => {
                let (step, steps) = at.get();
                let event =
                    json!({ "stage": "denoise", "step": step, "steps": steps, "within": 0, "previewBy": "decoder" });
                let event = to_js(&event);
                set(&event, "preview", &to_pixels(&image));
                let _ = on_preview.call1(&JsValue::NULL, &event);
            }
            Event::Checkpoint(checkpoint) => {
                let event = to_js(&json!({ "step": checkpoint.step() }));
                set(&event, "checkpoint", &Uint8Array::from(&checkpoint.to_bytes()[..]));
                let _ = on_preview.call1(&JsValue::NULL, &event);
            }
        };
        let drawing = match checkpoint {
            Some(checkpoint) => self.generator.resume(&request, checkpoint, &pace, &mut on_event).await?,
            None => self.generator.generate(&request, &pace, &mut on_event).await?,
        };
        journal::check()?;
        picture(&drawing)
    }
}

/// A step that is done, as a `StepProgress` object.
fn step_event(step: StepEvent, stage: &str) -> JsValue {
    let event = to_js(&json!({
        "stage": stage,
        "step": step.index + 1,
        "steps": step.of,
        "within": 0,
        "sigma": step.sigma,
        "expert": step.expert,
    }));
    let picture = |image: &Option<Image>| image.as_ref().map_or(JsValue::NULL, to_pixels);
    if let Some(image) = &step.preview {
        set(&event, "preview", &to_pixels(image));
        set(&event, "previewBy", &"projection".into());
    }
    if let Some(insight) = &step.insight {
        let estimates = Array::new();
        for estimate in &insight.estimates {
            let object = to_js(&json!({ "model": estimate.model, "weight": estimate.weight }));
            set(&object, "picture", &picture(&estimate.image));
            estimates.push(&object);
        }
        let object = to_js(&json!({}));
        set(&object, "noisy", &picture(&insight.noisy));
        set(&object, "estimates", &estimates);
        set(&event, "insight", &object);
    }
    event
}

/// Calls back with plain data. A listener that throws has only itself to blame.
fn call(listener: &Function, event: serde_json::Value) {
    let _ = listener.call1(&JsValue::NULL, &to_js(&event));
}

/// Calls back with a `LoadProgress` object.
fn call_with(listener: &Function, progress: &LoadProgress) {
    let stage = if progress.loaded_bytes < progress.total_bytes { "fetch" } else { "build" };
    call(
        listener,
        json!({
            "stage": stage,
            "model": progress.model,
            "component": progress.component,
            "componentLoaded": progress.component_loaded,
            "componentTotal": progress.component_bytes,
            "loaded": progress.loaded_bytes,
            "total": progress.total_bytes,
            "stored": progress.stored_bytes,
            "bytesPerSecond": progress.bytes_per_second,
            "secondsLeft": progress.seconds_left,
        }),
    );
}

/// The models that the browser keeps something of, as an array of `StoredModel` objects.
#[wasm_bindgen]
pub async fn list_models() -> Result<JsValue, JsValue> {
    let list = async {
        match storage::open().await {
            Some(store) => stored_models(&*store).await,
            None => Ok(Vec::new()),
        }
    };
    list.await.map(|models| to_js(&models)).map_err(error_to_js)
}

/// Deletes what the browser keeps of the model at `address`; answers how many bytes that made free.
#[wasm_bindgen]
pub async fn delete_stored_model(address: String) -> Result<f64, JsValue> {
    let delete = async {
        let nothing = || Error::Invalid { parameter: "model", why: "this browser stores no models".into() };
        let store = storage::open().await.ok_or_else(nothing)?;
        delete_model(&*store, address.trim_end_matches('/')).await
    };
    delete.await.map(|bytes| bytes as f64).map_err(error_to_js)
}

/// Adds to a request the pictures of a `Pictures` object.
fn add(request: &mut Request, pictures: &JsValue) -> Result<()> {
    let image = |value: JsValue| if value.is_undefined() { Ok(None) } else { from_pixels(&value).map(Some) };
    request.init = image(get(pictures, "init"))?;
    request.mask = image(get(pictures, "mask"))?;
    let controls = Array::from(&get(pictures, "controls"));
    for (control, picture) in request.controls.iter_mut().zip(controls.iter()) {
        control.image = image(picture)?;
    }
    Ok(())
}

/// A drawing as a `PictureMessage` object.
fn picture(drawing: &Drawing) -> Result<JsValue> {
    let object = to_pixels(&drawing.image);
    set(&object, "png", &Uint8Array::from(&drawing.to_png()?[..]));
    let timings: serde_json::Map<_, _> =
        drawing.timings.iter().map(|(stage, seconds)| (stage.to_string(), json!(seconds))).collect();
    set(&object, "timings", &to_js(&timings));
    set(&object, "arithmetic", &to_js(&drawing.arithmetic));
    Ok(object)
}

/// A pace that lets the worker hear of a cancel between two blocks, and bounds the work that a GPU has queued.
fn pace(device: &OpenDevice) -> Pace {
    match device.backend {
        "cpu" => Pace::yielding(|| {
            Box::pin(async {
                turn().await;
                Ok(())
            })
        }),
        _ => Pace::queueing(|| {
            Box::pin(async {
                turn().await;
                journal::check()
            })
        }),
    }
}

/// Cancels a pace when a signal is aborted, for as long as it lives.
struct Aborting {
    signal: AbortSignal,
    listener: Closure<dyn FnMut()>,
}

impl Aborting {
    fn new(signal: &AbortSignal, pace: &Pace) -> Result<Self> {
        if signal.aborted() {
            return Err(Error::Cancelled);
        }
        let pace = pace.clone();
        let listener = Closure::new(move || pace.cancel());
        signal
            .add_event_listener_with_callback("abort", listener.as_ref().unchecked_ref())
            .expect("a signal can be listened to");
        Ok(Self { signal: signal.clone(), listener })
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        let _ = self.signal.remove_event_listener_with_callback("abort", self.listener.as_ref().unchecked_ref());
    }
}
