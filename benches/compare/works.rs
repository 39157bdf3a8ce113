//! The works: what is asked of every proxy.

use std::time::Duration;

use crate::load;
use crate::peers::{Mode, Peer};

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
    /// The same at half of the first peer's rate.
    HalfLoad,
    /// A connection for each request; over TLS resumed or not.
    Closing { resumes: bool },
    /// Uploads of 1 MiB.
    Upload,
    /// Event streams of 200 chunks, one each 5 ms; figures are per chunk.
    Events,
    /// So many streams at a time on each connection.
    Streams(usize),
}

const fn work(name: &'static str, says: &'static str, mode: Mode, kind: Kind, connections: usize) -> Work {
    Work { name, says, mode, kind, connections }
}

/// All of them.
pub const ALL: [Work; 11] = [
    work("ka1k", "kept connections, answers of 1 KiB", Mode::Http1, Kind::Kept { bytes: 1_024 }, 64),
    work("half", "the same at half of the first proxy's rate", Mode::Http1, Kind::HalfLoad, 64),
    work("ka64k", "answers of 64 KiB", Mode::Http1, Kind::Kept { bytes: 65_536 }, 64),
    work("close1k", "a new connection for each request", Mode::Http1, Kind::Closing { resumes: false }, 64),
    work("up1m", "uploads of 1 MiB", Mode::Http1, Kind::Upload, 16),
    work("sse", "event streams, for each chunk", Mode::Http1, Kind::Events, 100),
    work("tls-ka", "TLS 1.3, kept connections", Mode::Tls, Kind::Kept { bytes: 1_024 }, 64),
    work("tls-hs", "TLS 1.3, a full handshake for each request", Mode::Tls, Kind::Closing { resumes: false }, 16),
    work("tls-resume", "TLS 1.3, a resumed handshake for each request", Mode::Tls, Kind::Closing { resumes: true }, 16),
    work("h2-m10", "HTTP/2, 8 connections of 10 streams", Mode::H2c, Kind::Streams(10), 8),
    work("h2-m100", "HTTP/2, 8 connections of 100 streams", Mode::H2c, Kind::Streams(100), 8),
];

/// The work of that name.
pub fn named(name: &str) -> Result<&'static Work, String> {
    let known = || ALL.map(|work| work.name).join(", ");
    ALL.iter().find(|work| work.name == name).ok_or_else(|| format!("no work is called {name}; there are {}", known()))
}

/// Requests a second for works that do not go as fast as they can: half of what the first peer does.
pub fn rate_of(work: &Work, peers: &[Peer], environments: usize) -> Result<Option<f64>, String> {
    let (Kind::HalfLoad, Some(first)) = (work.kind, peers.first()) else { return Ok(None) };
    let tally = load::run(&ALL[0], first, environments, Duration::from_secs(2), None)?;
    let rate = tally.done as f64 / tally.seconds / 2.0;
    eprintln!("half of {}: {rate:.0} requests a second", first.name);
    Ok(Some(rate))
}
