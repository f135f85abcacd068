//! A loaded model, as the worker holds it.

use super::{error_to_js, fetch::Fetch, from_js, journal, to_js, turn};
use crate::{
    Error, Result,
    device::{self, DeviceChoice, OpenDevice},
    diffusion::samplers::Sampler,
    nets::{Pace, Progress, wait_for},
    pipeline::{
        Drawing, Event, Generator, Image, LoadProgress, Request,
        config::{ExpertsConfig, PixelRange},
    },
};
use js_sys::{Function, Object, Reflect, Uint8Array, Uint8ClampedArray};
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
        to_js(&json!({
            "model": manifest.name,
            "url": self.url,
            "device": if device.backend == "wgpu" { "webgpu" } else { "cpu" },
            "deviceDetail": device.notice.as_ref().unwrap_or(&device.name),
            "fallback": device.notice.is_some(),
            "bytes": manifest.components.iter().map(|component| component.bytes).sum::<u64>(),
            "styles": styles,
            "samplers": Sampler::ALL,
            "defaults": {
                "steps": config.defaults.steps,
                "guidanceScale": config.defaults.guidance_scale,
                "sampler": config.defaults.sampler,
                "style": config.defaults.style,
            },
            "image": config.image,
            "transparency": config.latent.pixels == PixelRange::InkAndCover,
            "boundary": boundary,
        }))
    }

    /// Draws what `request` asks for (see `DrawRequest`); `on_event` gets `StepProgress` objects. Answers a `PictureMessage`.
    pub async fn generate(
        &self,
        request: JsValue,
        on_event: Function,
        signal: AbortSignal,
    ) -> Result<JsValue, JsValue> {
        self.draw(&request, on_event, signal).await.map_err(error_to_js)
    }
}

impl Engine {
    async fn open(url: String, device: String, on_progress: Function, signal: AbortSignal) -> Result<Self> {
        let choice: DeviceChoice = device.parse()?;
        let pace = Pace::cancellable();
        let _aborting = Aborting::new(&signal, &pace)?;
        let device = device::open(choice).await?;

        // What is here and verified; the bytes of the running read come on top.
        let here = RefCell::new(LoadProgress { component: String::new(), loaded_bytes: 0, total_bytes: 0 });
        let report = |arriving: u64| {
            let LoadProgress { component, loaded_bytes, total_bytes } = here.borrow().clone();
            if total_bytes == 0 {
                return; // The manifest itself is being read.
            }
            let stage = if loaded_bytes < total_bytes { "fetch" } else { "build" };
            let loaded = (loaded_bytes + arriving).min(total_bytes);
            call(
                &on_progress,
                json!({ "stage": stage, "component": component, "loaded": loaded, "total": total_bytes }),
            );
        };
        let load = async |cache| {
            let source = Fetch::new(&url, cache, &signal, &report);
            let mut on_progress = |progress| {
                here.replace(progress);
                report(0);
            };
            Generator::load(&source, device.clone(), &pace, &mut on_progress).await
        };
        let generator = match load(RequestCache::Default).await {
            // The browser's cache may hold the damaged bytes: ask the server itself before giving up.
            Err(Error::Checksum { .. }) => load(RequestCache::Reload).await?,
            loaded => loaded?,
        };
        journal::check()?;
        Ok(Self { url, generator })
    }

    async fn draw(&self, request: &JsValue, on_event: Function, signal: AbortSignal) -> Result<JsValue> {
        let request: Request = from_js(request)?;
        let steps = request.resolve(&self.generator.manifest().name, self.generator.config())?.steps;
        let pace = pace(self.generator.device());
        let _aborting = Aborting::new(&signal, &pace)?;

        call(&on_event, json!({ "stage": "text", "step": 0, "steps": steps, "within": 0 }));
        // The pace tells of blocks, the generator of steps: together they say how far the drawing is.
        let done = Rc::new(Cell::new(0));
        let on_preview = on_event.clone();
        let report = {
            let done = done.clone();
            move |within: f64| {
                let stage = if done.get() < steps { "denoise" } else { "decode" };
                call(&on_event, json!({ "stage": stage, "step": done.get(), "steps": steps, "within": within }));
            }
        };
        pace.on_progress({
            let report = report.clone();
            move |Progress { done, of }| report(done as f64 / of as f64)
        });
        let mut on_event = |event| match event {
            Event::Step(step) => {
                done.set(step.index + 1);
                report(0.0);
            }
            Event::Preview(image) => {
                let event = to_js(&json!({ "stage": "denoise", "step": done.get(), "steps": steps, "within": 0 }));
                set(&event, "preview", &pixels(&image));
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

fn set(object: &JsValue, name: &str, value: &JsValue) {
    Reflect::set(object, &name.into(), value).expect("a plain object takes any property");
}

/// An image as a `Pixels` object.
fn pixels(image: &Image) -> JsValue {
    let object = Object::new().into();
    set(&object, "width", &image.width.into());
    set(&object, "height", &image.height.into());
    set(&object, "rgba", &Uint8ClampedArray::from(&image.rgba[..]));
    object
}

/// A drawing as a `PictureMessage` object.
fn picture(drawing: &Drawing) -> Result<JsValue> {
    let object = pixels(&drawing.image);
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
