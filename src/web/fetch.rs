//! A model folder on a web server, read through the browser's `fetch`.

use super::describe;
use crate::{
    Error, Result,
    weights::source::{Reading, Source, sibling_url},
};
use js_sys::{Reflect, Uint8Array};
use std::{cell::RefCell, ops::Range};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortSignal, ReadableStreamDefaultReader, Request, RequestCache, RequestInit, Response, WorkerGlobalScope,
};

/// A folder on a web server. Consecutive ranges are read out of one response as it streams in, so that the server need
/// not know ranges and no more than a chunk waits in memory.
pub struct Fetch<'a> {
    base: String,
    cache: RequestCache,
    signal: &'a AbortSignal,
    on_bytes: &'a dyn Fn(u64),
    body: RefCell<Option<Body>>,
}

impl<'a> Fetch<'a> {
    /// The folder at `base`, with or without a slash at its end. Aborting `signal` ends a read with
    /// [`Error::Cancelled`]; `on_bytes` hears, as they arrive, how many bytes of the running read are here.
    pub fn new(base: &str, cache: RequestCache, signal: &'a AbortSignal, on_bytes: &'a dyn Fn(u64)) -> Self {
        Self { base: base.trim_end_matches('/').into(), cache, signal, on_bytes, body: RefCell::new(None) }
    }

    async fn read_part(&self, url: &str, range: Range<u64>) -> Result<Vec<u8>, JsValue> {
        let open = self.body.take().filter(|body| body.url == url && body.position == range.start);
        let mut body = match open {
            Some(body) => body,
            None => self.request(url, range.start).await?,
        };
        let bytes = body.take(range.end - range.start, self.on_bytes).await?;
        self.body.replace(Some(body));
        Ok(bytes)
    }

    /// The file's bytes from `start` on.
    async fn request(&self, url: &str, start: u64) -> Result<Body, JsValue> {
        let init = RequestInit::new();
        init.set_signal(Some(self.signal));
        init.set_cache(self.cache);
        let request = Request::new_with_str_and_init(url, &init)?;
        if start > 0 {
            request.headers().set("Range", &format!("bytes={start}-"))?;
        }
        let scope: WorkerGlobalScope = js_sys::global().unchecked_into();
        let response: Response = JsFuture::from(scope.fetch_with_request(&request)).await?.unchecked_into();
        if !response.ok() {
            let why = format!("the server answered {} {}", response.status(), response.status_text());
            return Err(js_sys::Error::new(&why).into());
        }
        let stream = response.body().ok_or_else(|| js_sys::Error::new("the server's answer is empty"))?;
        let partial = response.status() == 206;
        let mut body = Body {
            url: url.into(),
            position: if partial { start } else { 0 },
            reader: stream.get_reader().unchecked_into(),
            rest: Vec::new(),
        };
        if !partial {
            body.take(start, &|_| {}).await?;
        }
        Ok(body)
    }
}

impl Source for Fetch<'_> {
    fn read<'a>(&'a self, name: &'a str, range: Range<u64>) -> Reading<'a> {
        Box::pin(async move {
            let url = format!("{}/{name}", self.base);
            let read = self.read_part(&url, range).await;
            read.map_err(|error| match self.signal.aborted() {
                true => Error::Cancelled,
                false => Error::Read { what: url, why: describe(&error) },
            })
        })
    }

    fn sibling<'b>(&'b self, folder: &str) -> Box<dyn Source + 'b> {
        Box::new(Fetch::new(&sibling_url(&self.base, folder), self.cache, self.signal, self.on_bytes))
    }
}

/// A response that is being read.
struct Body {
    url: String,
    /// Offset in the file of what is read next.
    position: u64,
    reader: ReadableStreamDefaultReader,
    /// Bytes that arrived with the last piece and were not asked for yet.
    rest: Vec<u8>,
}

impl Body {
    /// The next `count` bytes; less only where the file ends.
    async fn take(&mut self, count: u64, on_bytes: &dyn Fn(u64)) -> Result<Vec<u8>, JsValue> {
        let mut bytes = Vec::new();
        loop {
            let missing = count - bytes.len() as u64;
            let part = usize::try_from(missing).unwrap_or(usize::MAX).min(self.rest.len());
            bytes.extend(self.rest.drain(..part));
            on_bytes(bytes.len() as u64);
            if bytes.len() as u64 == count {
                break;
            }
            let piece = JsFuture::from(self.reader.read()).await?;
            if Reflect::get(&piece, &"done".into())?.is_truthy() {
                break;
            }
            self.rest = Reflect::get(&piece, &"value".into())?.unchecked_into::<Uint8Array>().to_vec();
        }
        self.position += bytes.len() as u64;
        Ok(bytes)
    }
}
