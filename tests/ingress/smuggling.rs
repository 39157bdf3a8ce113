//! The corpus of smuggling: each case through the real ingress to a replica that
//! writes down what arrived, byte for byte.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// What the replica has read.
#[derive(Default)]
struct Record {
    /// Bytes of every connection, in the order of their first byte.
    connections: Vec<Vec<u8>>,
    /// Connections that are read to their end.
    ended: usize,
}

/// One request as it arrived, or why the bytes are none.
struct Arrived {
    line: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

enum Parsed {
    Whole(Arrived, usize),
    Part(Option<Arrived>),
}

#[tokio::test]
async fn one_request_in_is_one_request_out_or_an_error_and_the_end() {
    let cases = cases(include_str!("corpus/smuggling.txt"));
    assert!(cases.len() > 80, "{} cases", cases.len());
    let mut wrong = String::new();
    for (name, bytes, expected) in cases {
        let found = outcome(&bytes).await;
        if found != expected {
            let _ = write!(wrong, "{name}\n  {}\n  expected {expected}\n  found    {found}\n", bytes.escape_ascii());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Sends a case and says what became of it, in the words of the corpus.
async fn outcome(bytes: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let record = Arc::<Mutex<Record>>::default();
    tokio::spawn(replica(listener, Arc::clone(&record)));
    // Nothing is kept, so that every connection ends and all that was sent has been read.
    let mut stage = Stage::with(|config| config.upstream_idle_max = 0);
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();

    let (said, first) = talk(&stage, bytes).await;
    // Nothing is under way any more when the connection is closed and nothing is claimed.
    until(|| stage.in_flight("production", 1) == 0).await;
    let is_open = said.windows(12).any(|part| part == b"the end here");
    until(|| record.lock().unwrap().ended == stage.metric("repoint_ingress_upstream_connects_total") as usize).await;
    let arrived = arrivals(&record.lock().unwrap().connections);
    assert!(!said.windows(8).any(|part| part == b"smuggled"), "{}", said.escape_ascii());
    let mut words: Vec<String> = arrived.into_iter().filter(|line| !line.starts_with("GET /end ")).collect();
    if words.is_empty() {
        return format!("nothing {first} {}", if is_open { "/end" } else { "close" });
    }
    words.push(if is_open { "/end" } else { "close" }.to_owned());
    words.join(" | ")
}

/// The bytes that came back, and the first status among them.
async fn talk(stage: &Stage, bytes: &[u8]) -> (Vec<u8>, u16) {
    let mut client = stage.connect().await;
    soon(client.stream.write_all(bytes)).await.unwrap();
    let mut said = Vec::new();
    // One answer first: what comes behind must not be taken for part of the case.
    while !said.windows(4).any(|part| part == b"\r\n\r\n") {
        if soon(client.stream.read_buf(&mut said)).await.unwrap_or(0) == 0 {
            break;
        }
    }
    // Where it was closed already, writing fails, and that is as good.
    let _ = client.stream.write_all(get("/end", &["Connection: close"]).as_bytes()).await;
    while soon(client.stream.read_buf(&mut said)).await.unwrap_or(0) > 0 {}
    let text = String::from_utf8_lossy(&said);
    let first = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (said, first)
}

/// Writes down everything, and answers what is a whole request.
async fn replica(listener: TcpListener, record: Arc<Mutex<Record>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&record)));
    }
}

async fn serve(mut stream: TcpStream, record: Arc<Mutex<Record>>) {
    let (mut bytes, mut at, mut place) = (Vec::new(), 0, None);
    while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
        {
            let mut all = record.lock().unwrap();
            let place = *place.get_or_insert_with(|| {
                all.connections.push(Vec::new());
                all.connections.len() - 1
            });
            all.connections[place].clone_from(&bytes);
        }
        while let Parsed::Whole(request, length) = parse(&bytes[at..]) {
            at += length;
            let body = if request.line.starts_with("GET /end ") { "the end here" } else { "" };
            // Where nobody listens any more, that shows at the next read.
            let _ = stream.write_all(ok(body).as_bytes()).await;
        }
    }
    record.lock().unwrap().ended += 1;
}

/// What arrived on all connections, as the corpus says it.
fn arrivals(connections: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    for bytes in connections {
        let mut at = 0;
        while at < bytes.len() {
            match parse(&bytes[at..]) {
                Parsed::Whole(request, length) => {
                    at += length;
                    check(&request);
                    let body = request.body.escape_ascii().to_string();
                    found.push(format!("{} {body}", request.line).trim_end().to_owned());
                }
                Parsed::Part(request) => {
                    found.push(format!("{} cut", request.map_or_else(String::new, |request| request.line)));
                    break;
                }
            }
        }
    }
    found
}

/// What must be true of every request that arrives.
fn check(request: &Arrived) {
    let mut counts = HashMap::new();
    for (name, value) in &request.fields {
        *counts.entry(name.as_str()).or_insert(0) += 1;
        assert!(!value.bytes().any(|byte| byte < b' ' && byte != b'\t'), "{name}: {value:?}");
    }
    let count = |name| counts.get(name).copied().unwrap_or(0);
    assert_eq!(count("host"), 1, "{}", request.line);
    assert!(count("content-length") + count("transfer-encoding") <= 1, "framed twice: {}", request.line);
    for hop in ["keep-alive", "proxy-connection", "upgrade", "http2-settings", "connection"] {
        assert_eq!(count(hop), 0, "{hop}: {}", request.line);
    }
}

/// Reads one request by the letter of RFC 9112, and panics at what is not one.
fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { return Parsed::Part(None) };
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    assert!(line.split(' ').count() == 3 && line.ends_with(" HTTP/1.1"), "{line:?}");
    assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{head:?}");
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
        (name.to_ascii_lowercase(), value.to_owned())
    });
    let mut arrived = Arrived { line, fields: fields.collect(), body: Vec::new() };
    let said = |name: &str| arrived.fields.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str());
    let mut at = end + 4;
    if said("transfer-encoding") == Some("chunked") {
        loop {
            let Some(size_end) = bytes[at..].windows(2).position(|part| part == b"\r\n") else {
                return Parsed::Part(Some(arrived));
            };
            let size = std::str::from_utf8(&bytes[at..at + size_end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{size:?}"));
            at += size_end + 2;
            if size == 0 {
                break;
            }
            if bytes.len() < at + size + 2 {
                return Parsed::Part(Some(arrived));
            }
            arrived.body.extend_from_slice(&bytes[at..at + size]);
            assert_eq!(&bytes[at + size..at + size + 2], b"\r\n");
            at += size + 2;
        }
        while let Some(end) = bytes[at..].windows(2).position(|part| part == b"\r\n") {
            let trailer = std::str::from_utf8(&bytes[at..at + end]).unwrap().to_ascii_lowercase();
            assert!(!["content-length", "transfer-encoding", "host"].iter().any(|name| trailer.starts_with(name)));
            at += end + 2;
            if end == 0 {
                return Parsed::Whole(arrived, at);
            }
        }
        return Parsed::Part(Some(arrived));
    }
    let length = said("content-length").map_or(0, |length| length.parse().unwrap());
    if bytes.len() < at + length {
        return Parsed::Part(Some(arrived));
    }
    arrived.body = bytes[at..at + length].to_vec();
    Parsed::Whole(arrived, at + length)
}

/// Name, bytes and outcome of each case.
fn cases(corpus: &str) -> Vec<(String, Vec<u8>, String)> {
    let mut cases = Vec::new();
    for case in corpus.split("\n== ").skip(1) {
        let mut lines = case.lines();
        let name = lines.next().unwrap().to_owned();
        let (mut text, mut outcome) = (String::new(), String::new());
        for line in lines {
            match line.strip_prefix("=> ") {
                Some(expected) => outcome = expected.replace("\\\\", "\\"),
                None if outcome.is_empty() => text.push_str(line),
                None => assert_eq!(line, "", "{name}"),
            }
        }
        let text = text.replace("HOST", "Host: support-production.localhost\\r\\n");
        cases.push((name, unescape(&text), outcome));
    }
    cases
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().unwrap() {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("\\{} is no escape", char::from(other)),
        });
    }
    bytes
}
