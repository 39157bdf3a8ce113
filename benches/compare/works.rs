//! The works: what is asked of every proxy, or of Repoint beside itself.

use crate::peers::Mode;

/// One kind of load.
pub struct Work {
    pub name: &'static str,
    pub says: &'static str,
    pub mode: Mode,
    pub kind: Kind,
    pub connections: usize,
}

/// What the connections do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One request after the other; the answer has so many bytes.
    Kept { bytes: usize },
    /// The same at half of the rate that HAProxy reaches, and at that rate without a proxy.
    HalfLoad,
    /// A connection for each request; over TLS resumed or not.
    Closing { resumes: bool },
    /// Uploads of 1 MiB.
    Upload,
    /// Event streams of 200 chunks, one each 5 ms; figures are per chunk.
    Events,
    /// So many streams at a time on each connection.
    Streams(usize),
    /// One request on each connection; then they idle, and the figure is memory.
    Idle,
    /// Kept connections to Repoint while pointers move, beside pointers that stand still, at half of the rate that the
    /// latter reach.
    Moves,
    /// Kept connections to Repoint with a million environments, beside 100.
    Million,
}

const fn work(name: &'static str, says: &'static str, mode: Mode, kind: Kind, connections: usize) -> Work {
    Work { name, says, mode, kind, connections }
}

/// All of them.
pub const ALL: [Work; 14] = [
    work("ka1k", "kept connections, answers of 1 KiB", Mode::Http1, Kind::Kept { bytes: 1_024 }, 64),
    work("half", "the same, all at half of the rate that HAProxy reaches", Mode::Http1, Kind::HalfLoad, 64),
    work("ka64k", "answers of 64 KiB", Mode::Http1, Kind::Kept { bytes: 65_536 }, 64),
    work("close1k", "a new connection for each request", Mode::Http1, Kind::Closing { resumes: false }, 64),
    work("up1m", "uploads of 1 MiB", Mode::Http1, Kind::Upload, 16),
    work("sse", "event streams, for each chunk", Mode::Http1, Kind::Events, 100),
    work("tls-ka", "TLS 1.3, kept connections", Mode::Tls, Kind::Kept { bytes: 1_024 }, 64),
    work("tls-hs", "TLS 1.3, a full handshake for each request", Mode::Tls, Kind::Closing { resumes: false }, 16),
    work("tls-resume", "TLS 1.3, a resumed handshake for each request", Mode::Tls, Kind::Closing { resumes: true }, 16),
    work("h2-m10", "HTTP/2, 8 connections of 10 streams", Mode::H2c, Kind::Streams(10), 8),
    work("h2-m100", "HTTP/2, 8 connections of 100 streams", Mode::H2c, Kind::Streams(100), 8),
    work("idle", "10,000 idle connections after one request each", Mode::Http1, Kind::Idle, 10_000),
    work("moves", "kept connections at one rate, while 1,000 pointers move each second", Mode::Http1, Kind::Moves, 64),
    work("million", "kept connections, hosts of 1,000,000 environments", Mode::Http1, Kind::Million, 64),
];

impl Work {
    /// Whether all of its rounds go to the same processes, those that other works of its mode use too.
    pub fn shares_proxies(&self) -> bool {
        !matches!(self.kind, Kind::Idle | Kind::Moves | Kind::Million)
    }
}

/// The work of that name.
pub fn named(name: &str) -> Result<&'static Work, String> {
    let known = || ALL.each_ref().map(|work| work.name).join(", ");
    ALL.iter().find(|work| work.name == name).ok_or_else(|| format!("no work is called {name}; there are {}", known()))
}
