//! HTTP through the browser's `fetch`.

use super::describe;
use crate::weights::{
    http::{Answer, Body, Broken, Get, Transport},
    source::Pending,
};
use futures_util::future::{Either, select};
use js_sys::{Function, Promise, Reflect, Uint8Array};
use std::{pin::pin, time::Duration};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortSignal, ReadableStreamDefaultReader, Request, RequestCache, RequestInit, Response, WorkerGlobalScope,
};

#[wasm_bindgen]
extern "C" {
    type AbortController;
    #[wasm_bindgen(constructor)]
    fn new() -> AbortController;
    #[wasm_bindgen(method, getter)]
    fn signal(this: &AbortController) -> AbortSignal;
    #[wasm_bindgen(method)]
    fn abort(this: &AbortController);

    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: f64) -> i32;
    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(id: i32);
}

/// The browser's `fetch`.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// Whether chunks are stored by the engine: then the browser need not keep them as well.
    pub stored: bool,
}

/// Ends a transfer when it is dropped.
struct Transfer(AbortController);

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response that streams in.
struct Stream {
    reader: ReadableStreamDefaultReader,
    stall: Duration,
    _transfer: Transfer,
}

/// Resolves after a time.
struct Timer(i32, JsFuture<JsValue>);

impl Timer {
    fn new(time: Duration) -> Self {
        let mut id = 0;
        let promise = Promise::new(&mut |resolve, _| id = set_timeout(&resolve, time.as_secs_f64() * 1000.0));
        Self(id, JsFuture::from(promise))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        clear_timeout(self.0);
    }
}

/// What `promise` comes to, unless it takes too long.
async fn within(time: Duration, promise: Promise) -> Result<JsValue, Broken> {
    let mut timer = Timer::new(time);
    let answer = JsFuture::from(promise);
    match select(pin!(answer), pin!(&mut timer.1)).await {
        Either::Left((answer, _)) => answer.map_err(|error| Broken(describe(&error))),
        Either::Right(_) => Err(Broken(format!("nothing came for {} s", time.as_secs()))),
    }
}

impl Body for Stream {
    fn piece(&mut self) -> Pending<'_, Result<Option<Vec<u8>>, Broken>> {
        Box::pin(async move {
            let piece = within(self.stall, self.reader.read()).await?;
            let field = |name: &str| Reflect::get(&piece, &name.into()).unwrap_or_default();
            if field("done").is_truthy() {
                return Ok(None);
            }
            Ok(Some(field("value").unchecked_into::<Uint8Array>().to_vec()))
        })
    }
}

impl Transport for Fetch {
    fn get<'a>(&'a self, get: Get<'a>) -> Pending<'a, Result<Answer, Broken>> {
        Box::pin(async move {
            let broken = |error: JsValue| Broken(describe(&error));
            let transfer = Transfer(AbortController::new());
            let init = RequestInit::new();
            init.set_signal(Some(&transfer.0.signal()));
            init.set_cache(match (get.fresh, self.stored) {
                (true, false) => RequestCache::Reload,
                (_, true) => RequestCache::NoStore,
                (false, false) => RequestCache::Default,
            });
            let request = Request::new_with_str_and_init(get.url, &init).map_err(broken)?;
            let range = format!("bytes={}-{}", get.range.start, get.range.end.saturating_sub(1));
            request.headers().set("Range", &range).map_err(broken)?;
            let scope: WorkerGlobalScope = js_sys::global().unchecked_into();
            let response: Response = within(get.stall, scope.fetch_with_request(&request)).await?.unchecked_into();
            let header = |name: &str| response.headers().get(name).ok().flatten();
            let encoding = header("Content-Encoding");
            // The browser has undone it where the whole file came; of a part it cannot.
            let undone = response.status() == 200 && encoding.is_some();
            let length = header("Content-Length").filter(|_| !undone).and_then(|length| length.parse().ok());
            let body: Box<dyn Body> = match response.body() {
                Some(body) => Box::new(Stream {
                    reader: body.get_reader().unchecked_into(),
                    stall: get.stall,
                    _transfer: transfer,
                }),
                None => Box::new(Empty),
            };
            Ok(Answer {
                status: response.status(),
                content_range: header("Content-Range"),
                content_encoding: encoding.filter(|_| !undone),
                retry_after: header("Retry-After"),
                length,
                body,
            })
        })
    }

    fn sleep(&self, time: Duration) -> Pending<'_, ()> {
        Box::pin(async move {
            let mut timer = Timer::new(time);
            let _ = (&mut timer.1).await;
        })
    }
}

/// A response without a body.
struct Empty;

impl Body for Empty {
    fn piece(&mut self) -> Pending<'_, Result<Option<Vec<u8>>, Broken>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}
