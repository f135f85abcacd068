//! The JavaScript face: what `www/worker.js` calls. Thin; everything it says is decided below it.
//!
//! A page does not meet this module but `www/pangu-draw.js`, which runs it in a worker. Errors cross as plain objects
//! `{ code, message, details }`; `www/pangu-draw.js` makes classes of them.

mod engine;
mod fetch;
pub mod journal;
#[cfg(feature = "bench")]
mod layer;
mod pictures;
pub mod storage;

pub use engine::{Engine, delete_stored_model, list_models};
#[cfg(feature = "bench")]
pub use layer::Layer;
pub use pictures::image_size;

use crate::{Error, Result};
use js_sys::{Function, JSON, Promise};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{cell::RefCell, panic};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::MessageChannel;

thread_local! {
    static ON_PANIC: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Prepares the module; to be called once, before anything else.
///
/// `on_panic(message)` hears of a panic. After one the module's memory is in no known state: end the worker.
#[wasm_bindgen]
pub fn start(on_panic: Function) {
    journal::install();
    ON_PANIC.set(Some(on_panic));
    panic::set_hook(Box::new(|info| {
        console_error_panic_hook::hook(info);
        if let Some(on_panic) = ON_PANIC.take() {
            // The module is lost either way.
            let _ = on_panic.call1(&JsValue::NULL, &info.to_string().into());
        }
    }));
}

/// An error as JavaScript sees it.
fn error_to_js(error: Error) -> JsValue {
    let details = match &error {
        Error::TensorMissing { component, name } | Error::TensorUnexpected { component, name } => {
            json!({ "component": component, "name": name })
        }
        Error::TensorShape { component, name, expected, found } => {
            json!({ "component": component, "name": name, "expected": expected, "found": found })
        }
        Error::Corrupt { what, .. } | Error::Read { what, .. } | Error::Write { what, .. } => json!({ "what": what }),
        Error::Refused { what, status } => json!({ "what": what, "status": status }),
        Error::Changed { what } => json!({ "what": what }),
        Error::Checksum { file, chunk } => json!({ "file": file, "chunk": chunk }),
        Error::Invalid { parameter, .. } => json!({ "parameter": parameter }),
        _ => json!({}),
    };
    to_js(&json!({ "code": error.code(), "message": error.to_string(), "details": details }))
}

/// Plain data as a JavaScript object.
fn to_js(value: &impl Serialize) -> JsValue {
    let json = serde_json::to_string(value).expect("plain data");
    JSON::parse(&json).expect("serde_json writes JSON")
}

/// A JavaScript object as plain data; unknown fields and wrong types are errors.
fn from_js<T: DeserializeOwned>(value: &JsValue) -> Result<T> {
    let invalid = |why: String| Error::Invalid { parameter: "request", why };
    let json = JSON::stringify(value).map_err(|error| invalid(describe(&error)))?;
    // A number that is none (NaN) becomes null in JSON and must not pass for "not given".
    let read: Value = serde_json::from_str(&String::from(json)).map_err(|error| invalid(error.to_string()))?;
    if let Some(name) = valueless(&read) {
        return Err(invalid(format!("`{name}` is not a value")));
    }
    serde_json::from_value(read).map_err(|error| invalid(error.to_string()))
}

/// Name of a field, at any depth, that holds null.
fn valueless(read: &Value) -> Option<&str> {
    match read {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| match value {
            Value::Null => Some(name.as_str()),
            value => valueless(value),
        }),
        Value::Array(values) => values.iter().find_map(valueless),
        _ => None,
    }
}

/// A JavaScript exception in words.
fn describe(error: &JsValue) -> String {
    js_sys::Error::from(error.clone()).to_string().into()
}

/// Lets the event loop turn once, so that a message that waits, such as a wish to cancel, is handled.
async fn turn() {
    let Ok(channel) = MessageChannel::new() else {
        return;
    };
    let turned = Promise::new(&mut |resolve, _| {
        channel.port1().set_onmessage(Some(&resolve));
        // Nothing was transferred, so that nothing can be refused.
        let _ = channel.port2().post_message(&JsValue::NULL);
    });
    let _ = JsFuture::from(turned).await;
    channel.port1().close();
}
