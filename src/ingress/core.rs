//! What one core has to itself: its view of the table, its connections, its counters.
//!
//! Made on the core's own thread and never leaves it. Shared with other cores
//! are the table (read), the claims (a word per core), and the counted limits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;

use crate::ingress::access_log::Writer;
use crate::ingress::alarm::Alarms;
use crate::ingress::buffers::Buffers;
use crate::ingress::config::Config;
use crate::ingress::error::Error;
use crate::ingress::limits::{Limit, is_over};
use crate::ingress::metrics::Counters;
use crate::ingress::metrics::environments::{Watched, Watcher};
use crate::ingress::span::Spans;
use crate::ingress::streams::Streams;
use crate::ingress::tls::Served;
use crate::ingress::upstream::Upstream;
use crate::ingress::upstream::queue::Queues;
use crate::replica_tls::ReplicaTls;
use crate::routing::address::Address;
use crate::routing::live::{Claimed, Live, Reader};
use crate::routing::table::Unresolved;

/// What every core is made from.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) live: Arc<Live>,
    /// `None` where nothing listens with TLS.
    pub(super) certificates: Option<Arc<Served>>,
    pub(super) connections: Arc<Limit>,
    pub(super) streams: Arc<Limit>,
    pub(super) queues: Queues,
    pub(super) replica_tls: ReplicaTls,
    /// Of every core, in their order.
    pub(super) counters: Vec<Arc<Counters>>,
    pub(super) access_log: Option<Writer>,
    /// `None` where no environment has metrics of its own.
    pub(super) watched: Option<Arc<Watched>>,
    /// `None` where no request becomes a span.
    pub(super) spans: Option<Spans>,
    /// A successor accepts from the same sockets: what is idle here is not
    /// hurried, because its client may be sending already.
    pub(super) is_succeeded: Arc<AtomicBool>,
}

/// Counted limits of the process.
pub(super) struct Limits {
    pub(super) connections: Arc<Limit>,
    pub(super) streams: Arc<Limit>,
}

/// One core's own.
pub(super) struct Core {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
    pub(super) counters: Arc<Counters>,
    pub(super) upstream: Upstream,
    pub(super) buffers: Rc<Buffers>,
    /// Of client connections.
    pub(super) alarms: Rc<Alarms>,
    pub(super) access_log: Option<RefCell<Writer>>,
    pub(super) watcher: Option<Watcher>,
    pub(super) spans: Option<Spans>,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Streams>,
    /// HTTP/2 requests that are being answered.
    pub(super) streams: Streams,
    /// Connections over the limit that are being told so.
    pub(super) refusing: Cell<usize>,
    /// TLS handshakes that run.
    pub(super) handshaking: Cell<usize>,
    /// The time as answers say it.
    date: Cell<[u8; DATE_BYTES]>,
    reader: RefCell<Reader>,
}

impl Core {
    /// The state of core `index`; call it on that core's thread.
    pub(super) fn new(index: usize, shared: &Arc<Shared>, counters: &Arc<Counters>) -> Rc<Self> {
        let config = &shared.config;
        let (streams, buffers) = (Streams::new(), Rc::<Buffers>::default());
        Rc::new(Self {
            index,
            limits: Limits { connections: Arc::clone(&shared.connections), streams: Arc::clone(&shared.streams) },
            counters: Arc::clone(counters),
            upstream: Upstream::new(config, shared.replica_tls.clone(), Rc::clone(&buffers), Arc::clone(counters)),
            buffers,
            alarms: Alarms::new(Instant::now()),
            access_log: shared.access_log.clone().map(RefCell::new),
            watcher: shared.watched.as_ref().map(|watched| watched.watcher(index)),
            spans: shared.spans.clone(),
            http1: http1(config),
            http2: http2(config, streams.clone()),
            streams,
            refusing: Cell::new(0),
            handshaking: Cell::new(0),
            date: Cell::new(date(SystemTime::now())),
            reader: RefCell::new(shared.live.reader()),
            shared: Arc::clone(shared),
        })
    }

    /// The time, as of the last tick: RFC 9110 §5.6.7.
    pub(super) fn date(&self) -> [u8; DATE_BYTES] {
        self.date.get()
    }

    /// Once a tick: tells the time.
    pub(super) fn tell_time(&self, now: SystemTime) {
        self.date.set(date(now));
    }

    /// The settings.
    pub(super) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Whether a successor takes what is new.
    pub(super) fn is_succeeded(&self) -> bool {
        self.shared.is_succeeded.load(Ordering::Relaxed)
    }

    /// Resolves against one table (invariant 1) and takes the claim (invariant 2).
    pub(super) fn claim(&self, address: &Address<'_>) -> Result<Claimed, Unresolved> {
        self.reader.borrow_mut().claim(address, self.index)
    }

    /// Whether what was claimed may run, beside all that does; its own claim counts.
    ///
    /// # Errors
    ///
    /// Which limit it would pass.
    pub(super) fn admit(&self, claimed: &Claimed) -> Result<(), Error> {
        let cores = &self.shared.counters;
        let total = || cores.iter().map(|core| core.in_flight.value()).fold(0, u64::wrapping_add);
        let max = self.config().in_flight_max as u64;
        if is_over(max, cores.len(), self.counters.in_flight.value(), total) {
            return Err(Error::Overloaded);
        }
        let environment = claimed.environment();
        let share = match environment.policy.in_flight_max {
            0 => max.div_ceil(2),
            own => own,
        };
        if is_over(share, cores.len(), claimed.pool.in_flight_of(self.index), || environment.in_flight()) {
            return Err(Error::EnvironmentOverloaded(share));
        }
        Ok(())
    }
}

/// Bytes of a date.
const DATE_BYTES: usize = 29;

fn date(now: SystemTime) -> [u8; DATE_BYTES] {
    let text = httpdate::fmt_http_date(now);
    text.as_bytes().try_into().unwrap_or(*b"Thu, 01 Jan 1970 00:00:00 GMT")
}

/// Streams of one connection that were reset because of what the client sent. A
/// client that has made this many mistakes is none.
const LOCAL_RESETS_MAX: usize = 128;

/// Bytes of an answer that wait for the client's window. 64 KiB: more than a
/// chunk of any replica's, and what RFC 9113 §6.9.2 lets a stream have at first.
const SEND_BUFFER: usize = 64 * 1024;

pub(super) fn http1(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // Our own alarms watch over heads: hyper's timer costs each request 5 %.
        .header_read_timeout(None)
        .max_header_size(config.head_bytes_max as usize)
        // Bounds a head that never ends, and what a slow client's answer may hold.
        .max_buf_size(2 * (config.head_bytes_max as usize).max(32 * 1024));
    builder
}

fn http2(config: &Config, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_per_connection_max)
        // Streams that a client resets before anybody has looked at them, and streams
        // that it makes us reset: many of them are an attack, and end the connection.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        // What waits for one stream's window. Small, as a connection has a hundred of them.
        .max_send_buf_size(SEND_BUFFER)
        // WebSockets over HTTP/2 (RFC 8441).
        .enable_connect_protocol()
        .max_header_list_size(config.head_bytes_max)
        // Half-open connections are found by PING as well as by the kernel.
        .keep_alive_interval(config.peer_timeout.duration() / 2)
        .keep_alive_timeout(config.peer_timeout.duration() / 2);
    builder
}
