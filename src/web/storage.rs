//! Where the browser keeps chunks: in the origin's private file system (OPFS), or else in IndexedDB.

mod database;
mod files;

pub use database::DatabaseStore;
pub use files::FileStore;

use super::describe;
use crate::{
    Error,
    weights::{
        source::Pending,
        store::{Lock, Store},
    },
};
use js_sys::{Function, Promise};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};
use wasm_bindgen::{JsCast, JsValue, closure::Closure, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(catch, js_namespace = ["navigator", "locks"], js_name = request)]
    fn request_lock(name: &str, callback: &JsValue) -> Result<Promise, JsValue>;
}

/// Name of the folder, of the locks, and of what else the origin may see of us.
const NAME: &str = "pangu-draw";

/// The store, where the browser has one and may write to it: private windows and insecure pages may have none.
pub async fn open() -> Option<Rc<dyn Store>> {
    let no_files = match FileStore::open().await {
        Ok(store) => {
            // What was kept there before the browser learned to write files could be neither listed nor deleted any more.
            DatabaseStore::discard();
            return Some(Rc::new(store));
        }
        Err(error) => describe(&error),
    };
    match DatabaseStore::open().await {
        Ok(store) => Some(Rc::new(store)),
        Err(error) => {
            log::warn!("models are not stored: {no_files}; {}", describe(&error));
            None
        }
    }
}

/// A lock of the name `key`, held across all tabs of the origin. It is asked for at once.
fn lock(key: &str) -> Pending<'static, Lock> {
    let held = Rc::new(Held::default());
    let granted = Promise::new(&mut |granted, _| {
        let held = held.clone();
        let callback = Closure::once_into_js(move |_lock: JsValue| {
            let _ = granted.call0(&JsValue::NULL);
            // The lock is held until this promise resolves.
            Promise::new(&mut |release, _| held.release_by(release))
        });
        match request_lock(&format!("{NAME} {key}"), &callback) {
            // Rejected when the page goes; nobody waits any more then.
            Ok(request) => ignore(&request),
            // Without locks two tabs may fetch the same chunk, which harms nothing.
            Err(_) => {
                let _ = callback.unchecked_ref::<Function>().call0(&JsValue::NULL);
            }
        }
    });
    // Dropped here, or later with the lock: either way it is released.
    let guard = Guard(held);
    Box::pin(async move {
        let _ = JsFuture::from(granted).await;
        Box::new(guard) as Lock
    })
}

/// How a lock is released, once it is held.
#[derive(Default)]
struct Held {
    release: RefCell<Option<Function>>,
    over: Cell<bool>,
}

impl Held {
    fn release_by(&self, release: Function) {
        self.release.replace(Some(release));
        if self.over.get() {
            self.end();
        }
    }

    fn end(&self) {
        self.over.set(true);
        if let Some(release) = self.release.take() {
            let _ = release.call0(&JsValue::NULL);
        }
    }
}

struct Guard(Rc<Held>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn settled(call: Result<Promise, JsValue>) -> Result<JsValue, JsValue> {
    JsFuture::from(call?).await
}

fn ignore(promise: &Promise) {
    thread_local! {
        static NOTHING: Closure<dyn FnMut(JsValue)> = Closure::new(|_| ());
    }
    NOTHING.with(|nothing| drop(promise.catch(nothing)));
}

/// That the browser would not write what belongs under `key`.
fn refused(key: &str, error: &JsValue) -> Error {
    Error::Write { what: format!("{key} in the store"), why: describe(error) }
}
