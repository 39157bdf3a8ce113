//! Hostile HTTP/2, frame by frame: what an attacker costs is the attacker's own
//! connection. Others are served meanwhile, and no claim is left over.

use std::time::Duration;

use repoint::model::manifest::Span;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::JoinHandle;

use crate::support::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Kinds of frames (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// ENHANCE_YOUR_CALM (RFC 9113 §7).
const CALM: u32 = 11;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field that is not indexed; `index` names it, or `name` does.
fn field(index: u8, name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![index];
    for text in [name, value].into_iter().skip(usize::from(index > 0)) {
        assert!(text.len() < 127);
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A request's header block: `method` is 0x82 for GET and 0x83 for POST.
pub fn block(method: u8) -> Vec<u8> {
    [vec![method, 0x86, 0x84], field(1, "", "support-production.localhost")].concat()
}

/// The `n`th stream of a client.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// What the ingress said until it ended the connection.
struct Said {
    goaway: Option<u32>,
    resets: usize,
}

/// Reads frames to the end of the connection.
async fn listen(mut from: OwnedReadHalf) -> Said {
    let mut bytes = Vec::new();
    // A reset ends it as much as a close does.
    while from.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {}
    let mut said = Said { goaway: None, resets: 0 };
    let mut rest = &bytes[..];
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let Some(payload) = rest.get(9..9 + length) else { break };
        match rest[3] {
            GOAWAY => said.goaway = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            RST_STREAM => said.resets += 1,
            _ => {}
        }
        rest = &rest[9 + length..];
    }
    said
}

/// Sends `pieces` until the ingress has had enough; what it said, and how many it took.
async fn attack(stage: &Stage, pieces: impl Iterator<Item = Vec<u8>>) -> (Said, usize) {
    let (from, mut to) = stage.connect().await.stream.into_split();
    let listening: JoinHandle<Said> = tokio::spawn(listen(from));
    let mut taken = 0;
    let mut batch = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    for piece in pieces {
        batch.extend(piece);
        taken += 1;
        // As many as fit into one read at the other end.
        if batch.len() > 8 * 1024 && soon(to.write_all(&std::mem::take(&mut batch))).await.is_err() {
            break;
        }
    }
    let _ = to.write_all(&batch).await;
    (soon(listening).await.unwrap(), taken)
}

/// The resident memory of this process, the ingress in it.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// What an attack may add at most: other tests run in this process at the same
/// time. Each attack would take gigabytes if nothing bounded it.
const GROWTH_MIB: u64 = 300;

/// An ingress whose replica always answers, and a client that asks it again and
/// again during an attack.
struct Besieged {
    stage: Stage,
    before_mib: u64,
}

impl Besieged {
    async fn open() -> Self {
        let address = Replica::listen().await.always("unharmed");
        let mut stage = Stage::open();
        stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
        Self { stage, before_mib: resident_mib() }
    }

    /// Asks again and again until `attack` is over, then looks at what it left.
    async fn during<T>(&self, attack: impl Future<Output = T>) -> T {
        let mut attack = std::pin::pin!(attack);
        let mut other = self.stage.connect().await;
        let ended = loop {
            other.say(&get("/", &[])).await;
            assert_eq!(other.message().await.body, "unharmed");
            if let Ok(ended) = tokio::time::timeout(Duration::from_millis(1), attack.as_mut()).await {
                break ended;
            }
        };
        until(|| self.stage.in_flight("production", 1) == 0).await;
        until(|| self.stage.metric("repoint_ingress_connections") == 1.0).await;
        let grown = resident_mib().saturating_sub(self.before_mib);
        assert!(grown < GROWTH_MIB, "grown by {grown} MiB");
        ended
    }
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let besieged = Besieged::open().await;
    let cancel = 8u32.to_be_bytes();
    let pieces = (0..50_000).map(|n| {
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &block(0x82));
        [open, frame(RST_STREAM, 0, stream(n), &cancel)].concat()
    });
    let (said, taken) = besieged.during(attack(&besieged.stage, pieces)).await;
    assert_eq!(said.goaway, Some(CALM), "after {taken}");
}

/// What provokes a reset of a stream.
type Provoke = fn(u32) -> Vec<u8>;

#[tokio::test]
async fn resets_that_the_server_is_provoked_to_end_the_connection() {
    let besieged = Besieged::open().await;
    let provocations: [(&str, Provoke); 4] = [
        ("a window update of nothing", |id| frame(WINDOW_UPDATE, 0, id, &[0; 4])),
        ("a window that overflows", |id| frame(WINDOW_UPDATE, 0, id, &0x7fff_ffffu32.to_be_bytes())),
        ("a header block without a method", |id| frame(HEADERS, END_STREAM | END_HEADERS, id, b"")),
        ("data of the wrong length", |id| frame(DATA, END_STREAM, id, b"x")),
    ];
    for (name, provoke) in provocations {
        let pieces = (0..50_000).map(|n| {
            let block = match name {
                "a header block without a method" => return provoke(stream(n)),
                "data of the wrong length" => [block(0x83), field(0, "content-length", "9")].concat(),
                _ => block(0x83),
            };
            [frame(HEADERS, END_HEADERS, stream(n), &block), provoke(stream(n))].concat()
        });
        let (said, taken) = besieged.during(attack(&besieged.stage, pieces)).await;
        assert!(said.goaway.is_some_and(|code| code != 0), "{name}: {:?} after {taken}", said.goaway);
        assert!(taken < 50_000, "{name}");
    }
}

#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() {
    let besieged = Besieged::open().await;
    for piece in [Vec::new(), field(0, "x", &"y".repeat(100))] {
        let open = frame(HEADERS, END_STREAM, 1, &block(0x82));
        let more = (0..1_000_000).map(|_| frame(CONTINUATION, 0, 1, &piece));
        let (said, taken) = besieged.during(attack(&besieged.stage, std::iter::once(open).chain(more))).await;
        assert_eq!(said.goaway, Some(CALM), "after {taken}");
        assert!(taken < 100_000, "{taken}");
    }
}

#[tokio::test]
async fn empty_data_frames_end_the_connection() {
    let besieged = Besieged::open().await;
    let open = frame(HEADERS, END_HEADERS, 1, &block(0x83));
    let more = (0..1_000_000).map(|_| frame(DATA, 0, 1, b""));
    let (said, taken) = besieged.during(attack(&besieged.stage, std::iter::once(open).chain(more))).await;
    assert_eq!(said.goaway, Some(CALM), "after {taken}");
    assert!(taken < 500_000, "{taken}");
}

#[tokio::test]
async fn an_hpack_bomb_stays_small() {
    let besieged = Besieged::open().await;
    // One field of 4,000 bytes goes into the table; each further byte stands for it.
    let seed = [vec![0x40, 1, b'x', 0x7f], integer(4_000 - 127), vec![b'y'; 4_000]].concat();
    let first = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[block(0x82), seed].concat());
    // 16,000 of them are 64 MB a request.
    let bomb = [block(0x82), vec![0xbe; 16_000]].concat();
    let more = (1..1_000).map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &bomb));
    let (said, taken) = besieged.during(attack(&besieged.stage, std::iter::once(first).chain(more))).await;
    assert!(said.goaway.is_some_and(|code| code != 0), "{:?} after {taken}", said.goaway);
    assert!(taken < 1_000, "{taken}");
}

/// An integer's bytes behind its prefix (RFC 7541 §5.1).
fn integer(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}

#[tokio::test]
async fn floods_that_want_answers_are_not_read_faster_than_their_answers_are() {
    let besieged = Besieged::open().await;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0].repeat(10));
    for piece in [frame(PING, 0, 0, &[7; 8]), settings] {
        let flooding = async {
            let mut to = besieged.stage.connect().await.stream;
            to.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
            let batch = piece.repeat(1_000);
            let mut bytes = 0;
            // Nothing is read, so that no answer finds its way: at some point nothing more is taken.
            let patience = Duration::from_millis(500);
            while let Ok(Ok(written)) = tokio::time::timeout(patience, to.write(&batch[bytes % batch.len()..])).await {
                bytes += written;
                assert!(bytes < 200 << 20, "it is still taking more");
            }
        };
        besieged.during(flooding).await;
    }
}

/// A replica that answers `/big` without end and everything else at once.
fn endless(replica: Replica) -> std::net::SocketAddr {
    let address = replica.address;
    tokio::spawn(async move {
        loop {
            let mut wire = replica.accept().await;
            tokio::spawn(async move {
                while let Some(request) = wire.next_request().await {
                    if !request.line.starts_with("GET /big ") {
                        wire.say(&ok("unharmed")).await;
                        continue;
                    }
                    wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
                    while wire.stream.write_all(chunk.as_bytes()).await.is_ok() {}
                    return;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn windows_that_stay_shut_hold_little_and_not_for_long() {
    let address = endless(Replica::listen().await);
    let mut stage = Stage::with(|config| {
        config.stall_timeout = Span::try_from("500ms".to_owned()).unwrap();
        config.idle_timeout = Span::seconds(1);
    });
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    let besieged = Besieged { stage, before_mib: resident_mib() };
    let big = [vec![0x82, 0x86], field(4, "", "/big"), field(1, "", "support-production.localhost")].concat();
    for window in [0u32, 20_000] {
        // SETTINGS_INITIAL_WINDOW_SIZE, and as much for the connection as there is.
        let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
        let widen = frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes());
        let requests = (0..100).map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &big));
        let pieces = [settings, widen].into_iter().chain(requests);
        let (said, taken) = besieged.during(attack(&besieged.stage, pieces)).await;
        assert_eq!((said.resets, taken), (100, 102), "each is reset; others would go on");
    }
    assert_eq!(besieged.stage.metric("repoint_ingress_errors_total{code=\"client_stalled\"}"), 200.0);
}
