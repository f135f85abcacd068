//! HTTP through the browser's `fetch`.

use super::describe;
use crate::weights::{
    http::{Answer, Body, Broken, Get, Transport},
    source::Pending,
};
use futures_util::future::{Either, select};
use js_sys::{Function, Object, Promise, Reflect, Uint8Array};
use std::{pin::pin, time::Duration};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, ReadableStream, Request, RequestCache, RequestInit, Response, WorkerGlobalScope};

/// Bytes that are taken from the browser at once, at most: what it hands over unasked is up to 2 MiB, and would be in memory beside
/// the chunk.
const PIECE: u32 = 256 << 10;

#[wasm_bindgen]
extern "C" {
    type AbortController;
    #[wasm_bindgen(constructor)]
    fn new() -> AbortController;
    #[wasm_bindgen(method, getter)]
    fn signal(this: &AbortController) -> AbortSignal;
    #[wasm_bindgen(method)]
    fn abort(this: &AbortController);

    type Streaming;
    #[wasm_bindgen(method, catch, js_name = getReader)]
    fn get_reader(this: &Streaming, options: &JsValue) -> Result<Reader, JsValue>;
    type Reader;
    #[wasm_bindgen(method)]
    fn read(this: &Reader, into: &JsValue) -> Promise;

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
    reader: Reader,
    /// What is read into, where the browser lets its caller say so. Others have their own idea of how much they hand over at once.
    buffer: JsValue,
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

impl Stream {
    fn new(body: ReadableStream, stall: Duration, transfer: Transfer) -> Result<Self, JsValue> {
        let (body, options): (Streaming, _) = (body.unchecked_into(), Object::new());
        Reflect::set(&options, &"mode".into(), &"byob".into())?;
        let (reader, buffer) = match body.get_reader(&options) {
            Ok(reader) => (reader, Uint8Array::new_with_length(PIECE).into()),
            Err(_) => (body.get_reader(&JsValue::UNDEFINED)?, JsValue::UNDEFINED),
        };
        Ok(Self { reader, buffer, stall, _transfer: transfer })
    }
}

impl Body for Stream {
    fn piece(&mut self) -> Pending<'_, Result<Option<Vec<u8>>, Broken>> {
        Box::pin(async move {
            let piece = within(self.stall, self.reader.read(&self.buffer)).await?;
            let field = |name: &str| Reflect::get(&piece, &name.into()).unwrap_or_default();
            if field("done").is_truthy() {
                return Ok(None);
            }
            let bytes: Uint8Array = field("value").unchecked_into();
            if !self.buffer.is_undefined() {
                // The same memory, which has come back under another name.
                self.buffer = Uint8Array::new(&bytes.buffer()).into();
            }
            Ok(Some(bytes.to_vec()))
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
                Some(body) => Box::new(Stream::new(body, get.stall, transfer).map_err(broken)?),
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
