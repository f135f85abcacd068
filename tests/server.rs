//! The misbehaving web server of the other tests does what it says.

#[path = "common/server.rs"]
mod server;

use server::{Fault, Server};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// A response as it came, up to the end of the connection.
struct Response {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Response {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Asks for several files over one connection, and reads each answer up to its `Content-Length` but the last up to its end.
fn get(server: &Server, requests: &[(&str, &str)]) -> Vec<Response> {
    let url = server.url();
    let (host, folder) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut responses = Vec::new();
    for (name, headers) in requests {
        write!(stream, "GET /{folder}/{name} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").unwrap();
        if responses.len() + 1 == requests.len() {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            break;
        }
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let lines = reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty());
        let headers: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.into())).unwrap())
            .collect();
        let length = headers["content-length"].parse().unwrap();
        let mut body = Vec::new();
        let last = responses.len() + 1 == requests.len();
        reader.by_ref().take(if last { u64::MAX } else { length }).read_to_end(&mut body).unwrap();
        responses.push(Response { status, headers, body });
    }
    responses
}

fn one(server: &Server, name: &str, headers: &str) -> Response {
    get(server, &[(name, headers)]).pop().expect("an answer")
}

/// A server of one file, 0, 1, 2, ..., 99.
fn server() -> Server {
    Server::start(BTreeMap::from([("a".into(), (0..100).collect()), ("../beside/b".into(), vec![7; 3])]))
}

#[test]
fn serves_files_and_ranges_over_one_connection() {
    let server = server();
    let range = |range: &str| format!("Range: bytes={range}\r\n");
    let (middle, tail, end, beyond) = (range("10-19"), range("90-"), range("-5"), range("100-"));
    let asked = [("a", ""), ("a", &*middle), ("a", &tail), ("a", &end), ("a", &beyond), ("c", ""), ("../beside/b", "")];
    let answers = get(&server, &asked);
    let whole: Vec<u8> = (0..100).collect();
    for (answer, (status, body, range)) in answers.iter().zip([
        (200, &whole[..], ""),
        (206, &whole[10..20], "bytes 10-19/100"),
        (206, &whole[90..], "bytes 90-99/100"),
        (206, &whole[95..], "bytes 95-99/100"),
        (416, b"No such range", "bytes */100"),
        (404, b"Not found", ""),
        (200, &[7; 3], ""),
    ]) {
        assert_eq!((answer.status, &answer.body[..], answer.header("content-range")), (status, body, range));
        assert_eq!(answer.header("content-length"), body.len().to_string());
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 7);
    let ranges: Vec<_> = requests.iter().take(5).map(|request| request.range.clone()).collect();
    assert_eq!(ranges, [None, Some(10..20), Some(90..100), Some(95..100), Some(100..100)]);
    assert_eq!((requests[1].path.as_str(), requests[1].status, requests[1].sent), ("a", 206, 10));
    assert_eq!(requests[6].path, "../beside/b");
    server.forget();
    assert!(server.requests().is_empty());
}

#[test]
fn faults_come_one_a_request() {
    let server = server();
    let whole: Vec<u8> = (0..100).collect();
    let part = || one(&server, "a", "Range: bytes=10-29\r\n");
    let spoilt = |fault: Fault| {
        server.queue([fault]);
        part()
    };

    let answer = spoilt(Fault::IgnoreRange);
    assert_eq!((answer.status, answer.body, answer.headers.get("content-range")), (200, whole.clone(), None));
    let answer = spoilt(Fault::Cut(7));
    assert_eq!((answer.status, answer.header("content-length"), &answer.body[..]), (206, "20", &whole[10..17]));
    assert_eq!(server.requests().last().unwrap().sent, 7);
    let answer = spoilt(Fault::Short(3));
    assert_eq!((answer.header("content-length"), &answer.body[..]), ("20", &whole[10..27]));
    let answer = spoilt(Fault::Long(2));
    assert_eq!((answer.header("content-length"), answer.body.len()), ("20", 22));
    let answer = spoilt(Fault::Part(5));
    let said = (answer.header("content-length"), answer.header("content-range"));
    assert_eq!((said, &answer.body[..]), (("5", "bytes 10-14/100"), &whole[10..15]));
    assert_eq!(spoilt(Fault::ContentRange("bytes 9-28/99".into())).header("content-range"), "bytes 9-28/99");
    assert_eq!(spoilt(Fault::Tag("\"x\"".into())).header("etag"), "\"x\"");
    assert_eq!(spoilt(Fault::Status(503)).status, 503);
    let answer = spoilt(Fault::RetryAfter(429, 2));
    assert_eq!((answer.status, answer.header("retry-after")), (429, "2"));
    let answer = spoilt(Fault::Redirect("/models/beside/b".into()));
    assert_eq!((answer.status, answer.header("location")), (302, "/models/beside/b"));
    assert_eq!(spoilt(Fault::Flip(12)).body[..4], [10, 11, 12 ^ 1, 13]);
    assert_eq!(spoilt(Fault::Flip(5)).body, whole[10..30], "outside of the range");

    let answer = spoilt(Fault::Gzip);
    assert_eq!(answer.header("content-encoding"), "gzip");
    // Header, one stored block, CRC-32 (Python's `zlib.crc32(bytes(range(10, 30)))`) and length.
    assert_eq!(answer.body[..5], [0x1f, 0x8b, 8, 0, 0]);
    assert_eq!(answer.body[10..15], [1, 20, 0, 0xff - 20, 0xff]);
    assert_eq!(answer.body[15..35], whole[10..30]);
    assert_eq!(answer.body[35..], [0xa802_de80u32.to_le_bytes(), 20u32.to_le_bytes()].concat());

    server.queue([Fault::Fine, Fault::Status(500)]);
    assert_eq!([part().status, part().status, part().status], [206, 500, 206], "all is well again");
}

#[test]
fn silence_lasts_a_while() {
    let server = server();
    let pause = Duration::from_millis(200);
    let began = Instant::now();
    server.queue([Fault::Stall(5, pause)]);
    assert_eq!(one(&server, "a", "").body, [0, 1, 2, 3, 4]);
    server.queue([Fault::Silence(pause)]);
    assert!(get(&server, &[("a", "")]).is_empty());
    assert_eq!(server.requests()[1].status, 0);
    assert!(began.elapsed() >= 2 * pause);
}

#[test]
fn faults_may_depend_on_the_request() {
    let server = server();
    server.misbehave(|request| match request.range {
        Some(ref range) if range.start == 3 => vec![Fault::Part(4), Fault::Cut(2)],
        _ => Vec::new(),
    });
    assert_eq!(one(&server, "a", "Range: bytes=2-9\r\n").body, [2, 3, 4, 5, 6, 7, 8, 9]);
    let answer = one(&server, "a", "Range: bytes=3-9\r\n");
    assert_eq!((answer.header("content-length"), &answer.body[..]), ("4", &[3, 4][..]));
}

#[test]
fn a_replaced_file_has_another_tag() {
    let server = server();
    let before = one(&server, "a", "").headers["etag"].clone();
    assert_eq!(one(&server, "a", "").header("etag"), before);
    server.put("a", vec![1; 50]);
    let answer = one(&server, "a", &format!("Range: bytes=10-19\r\nIf-Range: {before}\r\n"));
    assert_eq!((answer.status, answer.body.len()), (200, 50), "not a part of another file");
    let after = answer.header("etag");
    assert_ne!(after, before);
    assert_eq!(one(&server, "a", &format!("Range: bytes=10-19\r\nIf-Range: {after}\r\n")).status, 206);
}
