//! A loaded model, as the worker holds it.

use super::{
    error_to_js,
    fetch::Fetch,
    from_js, journal,
    pictures::{control_view, from_pixels, get, set, to_pixels},
    to_js, turn,
};
use crate::{
    Error, Result,
    coop::latent::Exchange,
    device::{self, DeviceChoice, OpenDevice},
    diffusion::samplers::Sampler,
    nets::{Pace, Progress, wait_for},
    pipeline::{
        Drawing, Event, Generator, LoadProgress, Request,
        config::{ControlKind, ExpertsConfig, PixelRange},
    },
    pixels::Upsampler,
    weights::source::Source,
};
use js_sys::{Array, Function, Uint8Array};
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};
use wasm_bindgen::{JsCast, JsValue, prelude::*};
use web_sys::{AbortSignal, RequestCache};

/// On a GPU a block of the network takes about as long as asking whether it is done: ask after every fourth.
const GPU_BLOCKS_IN_FLIGHT: usize = 4;

/// A loaded model.
#[wasm_bindgen]
pub struct Engine {
    url: String,
    generator: Generator,
}

#[wasm_bindgen]
impl Engine {
    /// Loads the model folder at `url` onto `device` (`auto`, `webgpu` or `cpu`); `on_progress` gets `LoadProgress` objects.
    pub async fn load(
        url: String,
        device: String,
        on_progress: Function,
        signal: AbortSignal,
    ) -> Result<Engine, JsValue> {
        Self::open(url, device, on_progress, signal).await.map_err(error_to_js)
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
                "tLow": config.defaults.t_low,
                "exchange": Exchange::default(),
                "upsampler": Upsampler::default(),
            },
            "image": config.image,
            "encodes": config.latent.encoder.is_some(),
            "transparency": config.latent.pixels == PixelRange::InkAndCover,
            "boundary": boundary,
        }))
    }

    /// Draws what `request` (see `DrawRequest`) and its `pictures` (see `Pictures`) ask for; `on_load` gets `LoadProgress`
    /// objects as long as something else must be loaded first, then `on_event` `StepProgress` objects. Answers a
    /// `PictureMessage`.
    pub async fn generate(
        &self,
        request: JsValue,
        pictures: JsValue,
        on_load: Function,
        on_event: Function,
        signal: AbortSignal,
    ) -> Result<JsValue, JsValue> {
        self.draw(&request, &pictures, on_load, on_event, signal).await.map_err(error_to_js)
    }

    /// What the model that serves the control `kind` sees of the `Pixels` in `image` where a picture of `width` and `height` is
    /// drawn, as `Pixels`. It need not be loaded for that.
    pub async fn view(
        &self,
        kind: String,
        image: JsValue,
        width: usize,
        height: usize,
        signal: AbortSignal,
    ) -> Result<JsValue, JsValue> {
        let view = async || {
            let (kind, image) = (kind.parse()?, from_pixels(&image)?);
            let source = Fetch::new(&self.url, RequestCache::Default, &signal, &|_| {});
            let size = self.generator.control_size(kind, [height, width], &source).await?;
            control_view(kind, &image, size).await
        };
        view().await.map(|image| to_pixels(&image)).map_err(error_to_js)
    }
}

impl Engine {
    async fn open(url: String, device: String, on_progress: Function, signal: AbortSignal) -> Result<Self> {
        let choice: DeviceChoice = device.parse()?;
        let pace = Pace::cancellable();
        let _aborting = Aborting::new(&signal, &pace)?;
        let device = device::open(choice).await?;

        let load = async |source: &dyn Source, on_progress: &mut dyn FnMut(LoadProgress)| {
            Generator::load(source, device.clone(), &pace, on_progress).await
        };
        let generator = arrive(&url, &on_progress, &signal, load).await?;
        journal::check()?;
        Ok(Self { url, generator })
    }

    async fn draw(
        &self,
        request: &JsValue,
        pictures: &JsValue,
        on_load: Function,
        on_event: Function,
        signal: AbortSignal,
    ) -> Result<JsValue> {
        let mut request: Request = from_js(request)?;
        add(&mut request, pictures)?;
        let pace = pace(self.generator.device());
        let _aborting = Aborting::new(&signal, &pace)?;
        let prepare = async |source: &dyn Source, on_progress: &mut dyn FnMut(LoadProgress)| {
            self.generator.prepare(&request, source, &pace, on_progress).await
        };
        arrive(&self.url, &on_load, &signal, prepare).await?;

        // The pace tells of blocks, the generator of steps: together they say how far the drawing is.
        let at = Rc::new(Cell::new((0, self.generator.resolve(&request)?.taken())));
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
            Event::Step(step) => {
                at.set((step.index + 1, step.of));
                report(stage(at.get()), 0.0);
            }
            Event::Preview(image) => {
                let (step, steps) = at.get();
                let event = to_js(&json!({ "stage": "denoise", "step": step, "steps": steps, "within": 0 }));
                set(&event, "preview", &to_pixels(&image));
                let _ = on_preview.call1(&JsValue::NULL, &event);
            }
        };
        let drawing = self.generator.generate(&request, &pace, &mut on_event).await?;
        journal::check()?;
        picture(&drawing)
    }
}

/// Calls back with plain data. A listener that throws has only itself to blame.
fn call(listener: &Function, event: serde_json::Value) {
    let _ = listener.call1(&JsValue::NULL, &to_js(&event));
}

/// Loads from the folder at `url`; once more, past the browser's cache, if that holds damaged bytes. `on_progress` gets
/// `LoadProgress` objects.
async fn arrive<T>(
    url: &str,
    on_progress: &Function,
    signal: &AbortSignal,
    load: impl AsyncFn(&dyn Source, &mut dyn FnMut(LoadProgress)) -> Result<T>,
) -> Result<T> {
    // What is here and verified; the bytes of the running read come on top.
    let here = RefCell::new(LoadProgress { component: String::new(), loaded_bytes: 0, total_bytes: 0 });
    let report = |arriving: u64| {
        let LoadProgress { component, loaded_bytes, total_bytes } = here.borrow().clone();
        if total_bytes == 0 {
            return; // A manifest is being read.
        }
        let stage = if loaded_bytes < total_bytes { "fetch" } else { "build" };
        let loaded = (loaded_bytes + arriving).min(total_bytes);
        call(on_progress, json!({ "stage": stage, "component": component, "loaded": loaded, "total": total_bytes }));
    };
    let load = async |cache| {
        let mut on_progress = |progress| {
            here.replace(progress);
            report(0);
        };
        load(&Fetch::new(url, cache, signal, &report), &mut on_progress).await
    };
    match load(RequestCache::Default).await {
        // The server itself is asked before giving up.
        Err(Error::Checksum { .. }) => load(RequestCache::Reload).await,
        loaded => loaded,
    }
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
    Ok(object)
}

/// A pace that lets the worker hear of a cancel between two blocks, and bounds the work that a GPU has queued.
fn pace(device: &OpenDevice) -> Pace {
    match device.backend {
        "cpu" => Pace::new(
            1,
            Some(Box::new(|_| {
                Box::pin(async {
                    turn().await;
                    Ok(())
                })
            })),
        ),
        _ => Pace::new(
            GPU_BLOCKS_IN_FLIGHT,
            Some(Box::new(|activation| {
                Box::pin(async {
                    wait_for(activation).await?;
                    turn().await;
                    journal::check()
                })
            })),
        ),
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
