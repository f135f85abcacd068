//! A model folder on a web server, whatever the server is like.
//!
//! A file that is read from front to back is one response: it is asked for as far as it will be needed, and each read takes up
//! where the one before it ended. Between two reads nobody waits for the network, which fills what buffers lie on the way.
//!
//! | the server | what is done |
//! |---|---|
//! | knows ranges (206) | a read that begins elsewhere than the one before it ended is a request of its own |
//! | ignores ranges (200) | what lies before such a read is read over |
//! | cuts a response, or stalls | the rest is asked for again, from the byte it had come to |
//! | answers 408, 425, 429, 5xx | asked again after a pause, as long as `Retry-After` says |
//! | answers 416 | the file ends before the range |
//! | answers anything else, another range, or compressed parts | a typed error at once |
//!
//! Pauses double from one failure in a row to the next, and are drawn at random below that, so that many clients do not
//! come back together.

use super::source::{Pending, Reading, Source, sibling_url};
use crate::{Error, Result};
use std::{cell::Cell, ops::Range, rc::Rc, time::Duration};

/// Bytes that are made room for before they come, at most: of what length a file is, only its manifest tells.
const MOST_RESERVED: u64 = 4 << 20;

/// How long a server is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without a byte for so long, a response is given up.
    pub stall: Duration,
    /// Failures in a row, none of which brought [`Patience::progress`] bytes, before a read fails.
    pub failures: u32,
    /// Bytes that count as progress.
    pub progress: usize,
    /// Longest pause before the second attempt.
    pub first_pause: Duration,
    /// Longest pause at all.
    pub longest_pause: Duration,
}

impl Default for Patience {
    /// 20 s without a byte; six failures, within half a minute.
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(20),
            failures: 6,
            progress: 64 << 10,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
        }
    }
}

/// What a server is asked for.
#[derive(Debug)]
pub struct Get<'a> {
    /// Address of the file.
    pub url: &'a str,
    /// Part of the file.
    pub range: Range<u64>,
    /// Whether stores on the way are to be passed by.
    pub fresh: bool,
    /// How long a piece may take.
    pub stall: Duration,
}

/// A connection that failed, in words.
#[derive(Debug)]
pub struct Broken(pub String);

/// The start of a server's response.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header `Content-Range`, if it may be read.
    pub content_range: Option<String>,
    /// Header `Content-Encoding`, unless it is undone already.
    pub content_encoding: Option<String>,
    /// Header `Retry-After`.
    pub retry_after: Option<String>,
    /// Length of the body, if it is known.
    pub length: Option<u64>,
    /// The body.
    pub body: Box<dyn Body>,
}

/// The body of a response. Dropping it ends the transfer. It may be long until somebody asks for the next piece.
pub trait Body {
    /// The next bytes, some of them at least; none where the body ends.
    fn piece(&mut self) -> Pending<'_, Result<Option<Vec<u8>>, Broken>>;
}

/// What speaks HTTP.
pub trait Transport: Clone + 'static {
    /// Sends a request.
    fn get<'a>(&'a self, get: Get<'a>) -> Pending<'a, Result<Answer, Broken>>;
    /// Lets time pass.
    fn sleep(&self, time: Duration) -> Pending<'_, ()>;
}

/// A folder on a web server.
pub struct Http<T> {
    base: String,
    transport: T,
    patience: Patience,
    fresh: Cell<bool>,
    random: Cell<u64>,
}

/// A response that is being read.
pub(super) struct Response {
    /// Whether the server ignored the range and sends the whole file.
    whole: bool,
    /// Offset in the file of what comes next.
    position: u64,
    /// Where the response ends, if it says so.
    end: Option<u64>,
    /// Where the file ends, if the response says so and does not reach so far.
    file_end: Option<u64>,
    /// What came and was not asked for yet.
    rest: Vec<u8>,
    body: Box<dyn Body>,
}

/// Why an attempt ended early.
enum Failure {
    Final(Error),
    /// It may go better after a pause.
    Passing {
        why: String,
        pause: Option<Duration>,
    },
}

impl From<Broken> for Failure {
    fn from(Broken(why): Broken) -> Self {
        Self::Passing { why, pause: None }
    }
}

impl<T: Transport> Http<T> {
    /// The folder at `base`, with or without a slash at its end.
    pub fn new(base: &str, transport: T, patience: Patience) -> Self {
        let seed = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH);
        Self {
            base: base.trim_end_matches('/').into(),
            transport,
            patience,
            fresh: Cell::new(false),
            random: Cell::new(seed.map_or(0, |time| time.as_nanos() as u64) | 1),
        }
    }

    async fn read_part(&self, file: &mut Reading, range: Range<u64>, on_bytes: &dyn Fn(u64)) -> Result<Vec<u8>> {
        let url = format!("{}/{}", self.base, file.name);
        // A chunk is held once, not in the halves of a vector that grows.
        let mut bytes = Vec::new();
        let _ = bytes.try_reserve_exact((range.end - range.start).min(MOST_RESERVED) as usize);
        let (mut failures, mut had) = (0, 0);
        loop {
            let (why, pause) = match self.attempt(&url, file, &range, &mut bytes, on_bytes).await {
                Ok(()) => return Ok(bytes),
                Err(Failure::Final(error)) => {
                    file.part = bytes;
                    return Err(error);
                }
                Err(Failure::Passing { why, pause }) => (why, pause),
            };
            failures = if bytes.len() >= had + self.patience.progress { 1 } else { failures + 1 };
            had = bytes.len();
            if failures >= self.patience.failures {
                file.part = bytes;
                return Err(Error::Read { what: url, why: format!("{why}; given up after {failures} attempts") });
            }
            self.transport.sleep(pause.unwrap_or_else(|| self.pause(failures))).await;
        }
    }

    /// Appends the rest of `range` to `bytes`, as far as it comes.
    async fn attempt(
        &self,
        url: &str,
        file: &mut Reading,
        range: &Range<u64>,
        bytes: &mut Vec<u8>,
        on_bytes: &dyn Fn(u64),
    ) -> Result<(), Failure> {
        let start = range.start + bytes.len() as u64;
        // It is put back only where all is well.
        let response = file.response.take().filter(|response| match response.whole {
            true => response.position <= start,
            false => response.position == start,
        });
        let response = match response {
            Some(response) => Some(response),
            None => self.request(url, start..range.end.max(file.until)).await?,
        };
        let Some(mut response) = response else {
            return Ok(());
        };
        while response.position < range.end {
            if response.rest.is_empty() {
                match response.body.piece().await? {
                    Some(piece) => response.rest = piece,
                    None if response.end.is_some_and(|end| response.position < end) => {
                        return Err(Broken("the response ended early".into()).into());
                    }
                    None if response.file_end.is_some_and(|end| response.position < end) => {
                        // A server may answer a part of what it was asked for.
                        return Err(Failure::Passing { why: "parts of it came".into(), pause: Some(Duration::ZERO) });
                    }
                    None => break,
                }
            }
            let until = if response.position < start { start } else { range.end };
            let taken = usize::try_from(until - response.position).unwrap_or(usize::MAX).min(response.rest.len());
            let piece = response.rest.drain(..taken);
            if response.position >= start {
                bytes.extend(piece);
                on_bytes(bytes.len() as u64);
            } else {
                drop(piece);
            }
            response.position += taken as u64;
        }
        if response.position < response.end.unwrap_or(if response.whole { u64::MAX } else { file.until }) {
            file.response = Some(response);
        }
        Ok(())
    }

    /// A response that starts with `range`, or with the file; none if the file ends before it.
    async fn request(&self, url: &str, range: Range<u64>) -> Result<Option<Response>, Failure> {
        let refused = |why: String| Failure::Final(Error::Read { what: url.into(), why });
        let get = Get { url, range: range.clone(), fresh: self.fresh.get(), stall: self.patience.stall };
        let answer = self.transport.get(get).await?;
        let encoding = answer.content_encoding.filter(|encoding| !encoding.eq_ignore_ascii_case("identity"));
        if let (200..=299, Some(encoding)) = (answer.status, encoding) {
            return Err(refused(format!("the server sends it compressed ({encoding}), which has no byte ranges")));
        }
        let response = |whole, position, end, file_end| {
            Ok(Some(Response { whole, position, end, file_end, rest: Vec::new(), body: answer.body }))
        };
        match answer.status {
            206 => {
                let sent = answer.content_range.as_deref().map(content_range);
                let (end, file_end) = match sent {
                    Some(Some((start, end, total))) if start == range.start && end <= range.end => (Some(end), total),
                    Some(_) => {
                        let sent = answer.content_range.unwrap_or_default();
                        return Err(refused(format!("the server answered with another range, `{sent}`")));
                    }
                    // Across origins the header is not always shown.
                    None => (answer.length.map(|length| range.start.saturating_add(length)), None),
                };
                response(false, range.start, end, file_end)
            }
            200 => response(true, 0, answer.length, None),
            416 => Ok(None),
            408 | 425 | 429 | 500..=599 => Err(Failure::Passing {
                why: format!("the server answered {}", answer.status),
                pause: answer
                    .retry_after
                    .and_then(|seconds| seconds.trim().parse().ok())
                    .map(|seconds| Duration::from_secs(seconds).min(self.patience.longest_pause)),
            }),
            status => Err(Failure::Final(Error::Refused { what: url.into(), status })),
        }
    }

    /// How long to wait after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        // Xorshift: nobody is to guess anything, only not to come back at the same moment.
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        let longest = self.patience.first_pause.saturating_mul(1 << (failures - 1).min(16));
        longest.min(self.patience.longest_pause).mul_f64((x >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// First byte, the one after the last, and the file's length if it is told, of `bytes first-last/total`.
fn content_range(header: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total.parse().ok()))
}

impl<T: Transport> Source for Http<T> {
    fn read<'a>(&'a self, name: &'a str, range: Range<u64>, on_bytes: &'a dyn Fn(u64)) -> Pending<'a, Result<Vec<u8>>> {
        Box::pin(async move { self.read_part(&mut Reading::new(name), range, on_bytes).await })
    }

    fn read_on<'a>(
        &'a self,
        file: &'a mut Reading,
        range: Range<u64>,
        on_bytes: &'a dyn Fn(u64),
    ) -> Pending<'a, Result<Vec<u8>>> {
        Box::pin(self.read_part(file, range, on_bytes))
    }

    fn sibling(&self, folder: &str) -> Rc<dyn Source> {
        Rc::new(Self::new(&sibling_url(&self.base, folder), self.transport.clone(), self.patience))
    }

    fn address(&self) -> String {
        self.base.clone()
    }

    fn is_local(&self) -> bool {
        false
    }

    fn distrust(&self) {
        self.fresh.set(true);
    }
}

#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
pub use native::Native;

#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
mod native {
    use super::*;
    use futures_channel::mpsc::{Receiver, Sender, channel};
    use futures_util::StreamExt;
    use pollster::block_on;
    use std::{future::poll_fn, io::Read, thread};
    use ureq::http::{Response, response::Parts};

    /// Bytes of a piece, at most, and pieces that are held until somebody asks for them. The network's own buffers hold more.
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 16;

    /// HTTP for the command line. What blocks does so on a thread of its own, one for each request, so that others may compute
    /// meanwhile.
    #[derive(Debug, Clone)]
    pub struct Native(ureq::Agent);

    impl Default for Native {
        fn default() -> Self {
            Self(ureq::Agent::config_builder().http_status_as_error(false).build().into())
        }
    }

    /// Hands `message` over, as soon as there is room for it; false if nobody wants it any more.
    fn put<T>(outbox: &mut Sender<T>, message: T) -> bool {
        block_on(poll_fn(|context| outbox.poll_ready(context))).is_ok() && outbox.start_send(message).is_ok()
    }

    /// Runs `work` on a thread of its own; answers what it hands over.
    fn aside<T: Send + 'static>(work: impl FnOnce(Sender<T>) + Send + 'static) -> Result<Receiver<T>, Broken> {
        let (outbox, inbox) = channel(0);
        let thread = thread::Builder::new().name("http".into()).spawn(move || work(outbox));
        thread.map(|_| inbox).map_err(|error| Broken(error.to_string()))
    }

    type Pieces = Receiver<Result<Vec<u8>, Broken>>;

    impl Body for Pieces {
        fn piece(&mut self) -> Pending<'_, Result<Option<Vec<u8>>, Broken>> {
            Box::pin(async { self.next().await.transpose() })
        }
    }

    /// Reads a response until it ends or nobody wants it any more.
    fn receive(response: Response<ureq::Body>, answers: &mut Sender<Result<(Parts, Pieces), Broken>>) {
        let (head, body) = response.into_parts();
        let (mut outbox, pieces) = channel(PIECES);
        if !put(answers, Ok((head, pieces))) {
            return;
        }
        let mut reader = body.into_reader();
        loop {
            let mut piece = vec![0; PIECE];
            let wanted = match reader.read(&mut piece) {
                Ok(0) => false,
                Ok(len) => {
                    piece.truncate(len);
                    put(&mut outbox, Ok(piece))
                }
                Err(error) => {
                    put(&mut outbox, Err(Broken(error.to_string())));
                    false
                }
            };
            if !wanted {
                return;
            }
        }
    }

    impl Transport for Native {
        fn get<'a>(&'a self, get: Get<'a>) -> Pending<'a, Result<Answer, Broken>> {
            Box::pin(async move {
                let stall = Some(get.stall);
                let request = self.0.get(get.url).config();
                let request =
                    request.timeout_connect(stall).timeout_recv_response(stall).timeout_per_read(stall).build();
                let request = request
                    // Offsets count the file's own bytes, not those of a compressed transfer.
                    .header("Accept-Encoding", "identity")
                    .header("Range", format!("bytes={}-{}", get.range.start, get.range.end.saturating_sub(1)));
                let request = if get.fresh { request.header("Cache-Control", "no-cache") } else { request };
                let mut answers = aside(|mut answers| match request.call() {
                    Ok(response) => receive(response, &mut answers),
                    Err(error) => _ = put(&mut answers, Err(Broken(error.to_string()))),
                })?;
                let answer = answers.next().await.unwrap_or_else(|| Err(Broken("nobody answers".into())));
                let (head, pieces) = answer?;
                let header = |name: &str| head.headers.get(name)?.to_str().ok().map(String::from);
                Ok(Answer {
                    status: head.status.as_u16(),
                    content_range: header("Content-Range"),
                    content_encoding: header("Content-Encoding"),
                    retry_after: header("Retry-After"),
                    length: header("Content-Length").and_then(|length| length.parse().ok()),
                    body: Box::new(pieces),
                })
            })
        }

        fn sleep(&self, time: Duration) -> Pending<'_, ()> {
            Box::pin(async move {
                if let Ok(mut slept) = aside(move |_: Sender<()>| thread::sleep(time)) {
                    slept.next().await;
                }
            })
        }
    }
}
