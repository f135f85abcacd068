//! A web server that misbehaves on command, and remembers what it was asked.
//!
//! ```ignore
//! let server = Server::start(files);                                    // names as in `MemorySource`
//! server.queue([Fault::Cut(100), Fault::Status(503), Fault::Fine]);     // one a request, then all is well
//! server.misbehave(|request| if request.path == "a.gguf" { vec![Fault::Flip(7)] } else { vec![] });
//! let source = Http::new(&server.url(), Native::default(), Patience::default());
//! assert_eq!(server.requests()[0].range, Some(0..4096));
//! ```
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader, Result, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// What to do wrong. Several at once are applied in their order.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing.
    Fine,
    /// Answers 200 and the whole file where a range was asked for.
    IgnoreRange,
    /// Closes the connection after that many bytes of the body.
    Cut(usize),
    /// Falls silent after that many bytes of the body, and closes the connection after a while.
    Stall(usize, Duration),
    /// Does not answer for a while, then closes the connection.
    Silence(Duration),
    /// Answers with a status and a body that explains it.
    Status(u16),
    /// Answers with a status and `Retry-After` in whole seconds.
    RetryAfter(u16, u64),
    /// Answers 302 with this `Location`.
    Redirect(String),
    /// Compresses the body although nobody asked, and says so.
    Gzip,
    /// Answers only so many bytes of the range, and says so.
    Part(usize),
    /// Says this in `Content-Range`.
    ContentRange(String),
    /// The body is that many bytes shorter than `Content-Length` says.
    Short(usize),
    /// The body is that many bytes longer than `Content-Length` says.
    Long(usize),
    /// Says this in `ETag`.
    Tag(String),
    /// Flips the lowest bit of the byte at that offset of the file.
    Flip(usize),
}

/// A request, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The file's name; `../folder/name` outside of the server's own folder.
    pub path: String,
    /// The bytes asked for; where the request names no end, up to the end of the file.
    pub range: Option<Range<u64>>,
    /// Headers by name in small letters.
    pub headers: BTreeMap<String, String>,
    /// Status of the answer, 0 if there was none.
    pub status: u16,
    /// Bytes of the answer's body that were handed to the network.
    pub sent: usize,
}

type Decide = dyn FnMut(&Request) -> Vec<Fault> + Send;

/// A server at a port of its own, until the process ends.
#[derive(Clone)]
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Box<Decide>,
    requests: Vec<Request>,
}

const FOLDER: &str = "/models/home/";

impl Server {
    /// Serves files by name; those of a folder beside it are called `../folder/name`.
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State { files, faults: Box::new(|_| Vec::new()), requests: Vec::new() };
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(state)) };
        let answering = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = answering.clone();
                // A client that has what it wanted may hang up.
                std::thread::spawn(move || server.converse(&stream).and_then(|()| stream.shutdown(Shutdown::Both)));
            }
        });
        server
    }

    /// Address of the folder, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, FOLDER.trim_end_matches('/'))
    }

    /// Asks `faults` at every request from now on.
    pub fn misbehave(&self, faults: impl FnMut(&Request) -> Vec<Fault> + Send + 'static) {
        self.state().faults = Box::new(faults);
    }

    /// One fault for each of the next requests; after those all is well.
    pub fn queue(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut faults: VecDeque<_> = faults.into_iter().collect();
        self.misbehave(move |_| faults.pop_front().into_iter().collect());
    }

    /// Puts another file in a file's place; its `ETag` changes with its bytes.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.state().files.insert(name.into(), bytes);
    }

    /// All requests until now, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Forgets the requests until now.
    pub fn forget(&self) {
        self.state().requests.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Answers the requests of one connection.
    fn converse(&self, stream: &TcpStream) -> Result<()> {
        let mut lines = BufReader::new(stream).lines();
        while let Some(first) = lines.next().transpose()? {
            let mut headers = BTreeMap::new();
            while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
                let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
            }
            let path = first.split(' ').nth(1).unwrap_or_default();
            let path = match path.strip_prefix(FOLDER) {
                Some(name) => name.into(),
                None => format!("../{}", path.trim_start_matches("/models/")),
            };
            if !self.answer(stream, path, headers)? {
                break;
            }
        }
        Ok(())
    }

    /// Answers one request, and says whether the connection goes on.
    fn answer(&self, mut stream: &TcpStream, path: String, headers: BTreeMap<String, String>) -> Result<bool> {
        let (at, mut answer) = {
            let mut guard = self.state();
            let state = &mut *guard;
            let file = state.files.get(&path).cloned();
            let len = file.as_ref().map_or(0, Vec::len) as u64;
            let range = headers.get("range").and_then(|range| parse(range, len));
            let request = Request { path, range, headers, status: 0, sent: 0 };
            let faults = (state.faults)(&request);
            let answer = Answer::new(file, &request, &faults);
            state.requests.push(Request { status: answer.status, ..request });
            (state.requests.len() - 1, answer)
        };
        if answer.status == 0 {
            std::thread::sleep(answer.pause);
            return Ok(false);
        }
        stream.write_all(answer.head().as_bytes())?;
        let whole = answer.cut.is_none_or(|cut| cut >= answer.body.len());
        answer.body.truncate(answer.cut.unwrap_or(usize::MAX));
        for piece in answer.body.chunks(1 << 16) {
            // Before they go: whoever has received them finds them counted.
            if let Some(request) = self.state().requests.get_mut(at) {
                request.sent += piece.len();
            }
            stream.write_all(piece)?;
        }
        std::thread::sleep(answer.pause);
        Ok(whole && answer.body.len() == answer.length)
    }
}

/// What goes over the wire.
struct Answer {
    status: u16,
    headers: BTreeMap<&'static str, String>,
    /// What `Content-Length` says.
    length: usize,
    body: Vec<u8>,
    cut: Option<usize>,
    pause: Duration,
}

impl Answer {
    fn new(file: Option<Vec<u8>>, request: &Request, faults: &[Fault]) -> Self {
        let exists = file.is_some();
        let mut file = file.unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        file.hash(&mut hasher);
        let tag = format!("\"{:x}\"", hasher.finish());
        let mut range = request.range.clone();
        if request.headers.get("if-range").is_some_and(|wanted| *wanted != tag) {
            range = None;
        }
        for fault in faults {
            match fault {
                Fault::IgnoreRange => range = None,
                Fault::Flip(at) => file.iter_mut().skip(*at).take(1).for_each(|byte| *byte ^= 1),
                _ => {}
            }
        }
        let len = file.len();
        let mut answer = Self::plain(200, file);
        answer.headers.insert("ETag", tag);
        match range {
            _ if !exists => answer = Self::plain(404, b"Not found".into()),
            Some(range) if range.start >= len as u64 => {
                answer = Self::plain(416, b"No such range".into());
                answer.headers.insert("Content-Range", format!("bytes */{len}"));
            }
            Some(range) => {
                answer.status = 206;
                answer.body = answer.body[range.start as usize..len.min(range.end as usize)].to_vec();
                answer.part(range.start as usize, len);
            }
            None => {}
        }
        let start = request.range.as_ref().map_or(0, |range| range.start as usize);
        faults.iter().for_each(|fault| answer.spoil(fault, start, len));
        answer
    }

    fn plain(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: BTreeMap::new(), length: body.len(), body, cut: None, pause: Duration::ZERO }
    }

    /// Says which part of a file the body is.
    fn part(&mut self, start: usize, len: usize) {
        self.length = self.body.len();
        self.headers.insert("Content-Range", format!("bytes {start}-{}/{len}", start + self.length - 1));
    }

    fn spoil(&mut self, fault: &Fault, start: usize, len: usize) {
        match fault.clone() {
            Fault::Fine | Fault::IgnoreRange | Fault::Flip(_) => {}
            Fault::Cut(at) => self.cut = Some(at),
            Fault::Stall(at, pause) => (self.cut, self.pause) = (Some(at), pause),
            Fault::Silence(pause) => (self.status, self.pause) = (0, pause),
            Fault::Status(status) => *self = Self::plain(status, format!("This is error {status}").into()),
            Fault::RetryAfter(status, seconds) => {
                *self = Self::plain(status, b"Later".into());
                self.headers.insert("Retry-After", seconds.to_string());
            }
            Fault::Redirect(to) => {
                *self = Self::plain(302, Vec::new());
                self.headers.insert("Location", to);
            }
            Fault::Gzip => {
                self.body = gzip(&self.body);
                self.length = self.body.len();
                self.headers.insert("Content-Encoding", "gzip".into());
            }
            Fault::Part(bytes) if self.status == 206 => {
                self.body.truncate(bytes.max(1));
                self.part(start, len);
            }
            Fault::Part(_) => {}
            Fault::ContentRange(text) => drop(self.headers.insert("Content-Range", text)),
            Fault::Short(bytes) => self.body.truncate(self.length.saturating_sub(bytes)),
            Fault::Long(bytes) => self.body.extend(vec![0xaa; bytes]),
            Fault::Tag(tag) => drop(self.headers.insert("ETag", tag)),
        }
    }

    fn head(&self) -> String {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let Self { status, length, .. } = self;
        format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n{}\r\n", headers.collect::<String>())
    }
}

/// The range that `bytes=start-end` (end included), `bytes=start-` or `bytes=-count` names in a file of `len` bytes.
fn parse(range: &str, len: u64) -> Option<Range<u64>> {
    match range.strip_prefix("bytes=")?.split_once('-')? {
        ("", count) => Some(len.saturating_sub(count.parse().ok()?)..len),
        (start, "") => Some(start.parse().ok()?..len),
        (start, end) => Some(start.parse().ok()?..end.parse::<u64>().ok()?.checked_add(1)?),
    }
}

/// RFC 1952, in blocks that are stored as they are; `bytes` are not none.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let len = block.len() as u16;
        out.push(blocks.peek().is_none().into());
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(block);
    }
    let crc = bytes
        .iter()
        .fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0xedb8_8320)));
    out.extend((!crc).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}
