//! Counters of the ingress: plain ones per core, summed when scraped.
//!
//! Each core writes its own cache lines with a load and a store; nothing on the
//! request path is shared. Labels come from enums, and there is no series per
//! environment but for those that `environments` was told to watch; `summed` adds
//! up. Knows nothing of how numbers are served.

pub(super) mod durations;
pub(super) mod environments;
pub(super) mod summed;
pub(super) mod table;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ingress::error::Code;
use crate::ingress::metrics::durations::Durations;

/// A number that only one thread writes.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub(super) fn one(&self) {
        self.add(1);
    }

    /// Counts `more`. Not `fetch_add`: with a single writer a load and a store
    /// are enough, and cost a tenth.
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Takes one off, for gauges.
    pub(super) fn less(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// Says how many there are now, for gauges.
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one core counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    /// Answers by status class: 1xx to 5xx, then none (the client left).
    pub(super) requests: [Counter; CLASSES.len()],
    /// Requests that ended badly, by reason.
    pub(super) errors: [Counter; Code::ALL.len()],
    /// Requests that have no complete answer yet.
    pub(super) in_flight: Counter,
    /// Open client connections.
    pub(super) connections: Counter,
    /// Client connections ever accepted.
    pub(super) accepted: Counter,
    /// TLS handshakes that came to their end.
    pub(super) handshakes: Counter,
    /// TLS handshakes that did not, by reason.
    pub(super) handshake_failures: [Counter; HANDSHAKE_FAILURES.len()],
    /// Connections without the PROXY header they had to begin with, by reason.
    pub(super) proxy_header_failures: [Counter; PROXY_HEADER_FAILURES.len()],
    /// Client connections answered 503 at the limit.
    pub(super) refused: Counter,
    /// Requests that wait for a replica with room.
    pub(super) queued: Counter,
    /// Connections opened to replicas.
    pub(super) upstream_connects: Counter,
    /// Connections to replicas that could not be opened.
    pub(super) upstream_connect_failures: Counter,
    /// Requests sent on a kept connection.
    pub(super) upstream_reuses: Counter,
    /// Requests sent again.
    pub(super) retries: Counter,
    /// Requests not sent again, although it was safe, because too many were.
    pub(super) retries_refused: Counter,
    /// Times an address was left out because connections to it failed.
    pub(super) ejections: Counter,
    /// Addresses that are left out.
    pub(super) ejected: Counter,
    /// Bytes of request bodies and what tunnels carried to replicas.
    pub(super) received: Counter,
    /// Bytes of response bodies and what tunnels carried to clients.
    pub(super) sent: Counter,
    /// Open tunnels.
    pub(super) tunnels: Counter,
    /// From a request's head to the last byte of its answer, by status class.
    pub(super) durations: [Durations; CLASSES.len()],
    /// From a request's head to the head of its answer.
    pub(super) answer_starts: Durations,
}

/// Why a TLS handshake came to nothing; the label is at its place in
/// [`HANDSHAKE_FAILURES`].
#[derive(Clone, Copy, Debug)]
pub(super) enum HandshakeFailure {
    Timeout,
    Draining,
    Closed,
    PlainHttp,
    Protocol,
    Alert,
    UnrecognizedName,
    ClientCertificate,
    Overloaded,
}

const HANDSHAKE_FAILURES: [&str; 9] = [
    "timeout",
    "draining",
    "closed",
    "plain_http",
    "protocol",
    "alert",
    "unrecognized_name",
    "client_certificate",
    "overloaded",
];

/// Why a PROXY header came to nothing; the label is at its place in
/// [`PROXY_HEADER_FAILURES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ProxyHeaderFailure {
    /// The first bytes are none.
    Missing,
    /// It begins like one.
    Malformed,
    /// It would be longer than headers are.
    TooLong,
    /// The connection ended first.
    Closed,
    Timeout,
    Draining,
}

const PROXY_HEADER_FAILURES: [&str; 6] = ["missing", "malformed", "too_long", "closed", "timeout", "draining"];

impl ProxyHeaderFailure {
    /// The word used in logs and metric labels.
    pub(super) fn as_str(self) -> &'static str {
        PROXY_HEADER_FAILURES[self as usize]
    }
}

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// The place of an answer among [`CLASSES`]; `None`: the client left before there
/// was one.
pub(super) fn class(status: Option<u16>) -> usize {
    let none = CLASSES.len() - 1;
    status.map_or(none, |status| usize::from(status / 100).saturating_sub(1).min(none - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_go_down_again() {
        let counter = Counter::default();
        counter.one();
        counter.less();
        assert_eq!(counter.value(), 0);
    }

    #[test]
    fn every_status_has_a_class() {
        let classes = [None, Some(101), Some(200), Some(304), Some(404), Some(599), Some(999)];
        assert_eq!(classes.map(|status| CLASSES[class(status)]), ["none", "1xx", "2xx", "3xx", "4xx", "5xx", "5xx"]);
    }
}
