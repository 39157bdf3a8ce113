//! The data plane: from an accepted connection to a replica and back.
//!
//! One thread per core, each with its own runtime, listening sockets, upstream
//! connections and counters; shared are the routing table, read, and the claims,
//! a word per core. `proxy` is one request, top to bottom. Knows nothing of
//! who moves pointers: it reads `routing::live`. Called by `app`.

pub mod check;
pub mod config;
pub mod routes;
pub mod steps;
pub mod tls;
pub mod trust;
pub mod watched;

mod listener;
mod socket;
mod core;
mod downstream;
mod proxy;
mod identify;
mod headers;
mod trace;
mod span;
mod exchange;
mod request_body;
mod source;
mod outbound;
mod expect;
mod upstream;
mod body;
mod upgrade;
mod error;
mod limits;
mod memory;
mod alarm;
mod streams;
#[cfg(test)]
mod fuzz;
mod access_log;
mod added;
mod buffers;
mod metrics;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::drain::Drain;
use crate::ingress::access_log::{Dropped, Guard, Writer};
use crate::ingress::config::Config;
use crate::ingress::core::Shared;
use crate::ingress::limits::Limit;
use crate::ingress::listener::Start;
use crate::ingress::metrics::Counters;
use crate::ingress::metrics::environments::{PerEnvironment, Watched};
use crate::ingress::metrics::summed::Summed;
use crate::ingress::metrics::table::TableMetrics;
use crate::ingress::socket::Bound;
pub use crate::ingress::socket::Given;
use crate::ingress::span::Spans;
use crate::ingress::tls::watch::{Loaded, Watching};
use crate::ingress::upstream::queue::Queues;
use crate::ingress::watched::WATCHED_MAX;
use crate::replica_tls::{self, ReplicaTls};
use crate::routing::live::Live;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp::{self, Exporting};

/// Why the ingress does not start. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("listen on {address} for requests: {}", advice(source, flag))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The flag it is set by.
        flag: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Nobody could vouch for a replica.
    #[error(transparent)]
    ReplicaCa(#[from] replica_tls::Error),
    /// More than a scrape should hold.
    #[error("watch {0} environments: metrics-environments takes {WATCHED_MAX} at most; name fewer")]
    Watched(usize),
    /// Spans cannot be sent.
    #[error(transparent)]
    Spans(#[from] otlp::Error),
    /// Not a part of a whole.
    #[error("record {0} of the traces that begin here: give otlp-sample-ratio a number from 0 to 1")]
    SpansRatio(f64),
    /// The access log cannot be opened.
    #[error("open the access log")]
    AccessLog(#[source] io::Error),
    /// A thread or its runtime cannot be made.
    #[error("start a thread for requests")]
    Thread(#[source] io::Error),
}

fn advice(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the address is in use; give another one with {flag}, or stop what uses it")
        }
        io::ErrorKind::PermissionDenied => format!("not allowed; give a port above 1023 with {flag}"),
        io::ErrorKind::AddrNotAvailable => format!("this machine has no such address; give one of its own with {flag}"),
        _ => format!("give another address with {flag}"),
    }
}

/// An ingress that could start: its addresses are bound, and its files read.
/// Connections wait in the kernel meanwhile.
pub struct Prepared {
    config: Config,
    certificates: Option<Loaded>,
    replica_tls: ReplicaTls,
    bound: Vec<Bound>,
    access_log: Option<(Writer, Guard, Dropped)>,
}

/// A running ingress. Dropping it cuts everything; [`Running::drain`] is the
/// polite way.
pub struct Running {
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    /// What it listens on, until it is drained.
    sockets: Mutex<Vec<Given>>,
    is_succeeded: Arc<AtomicBool>,
    drain: Drain,
    threads: Mutex<Vec<thread::JoinHandle<io::Result<usize>>>>,
    certificates: Option<Watching>,
    _access_log: Option<Guard>,
    _exporting: Option<Exporting>,
}

/// Starts the ingress: binds every address, starts a thread per core, registers
/// its metrics. `live` was made for [`Config::cores`] cores.
///
/// # Errors
///
/// Why it does not start; nothing is left running then.
pub fn start(config: Config, live: Arc<Live>, metrics: &Metrics) -> Result<Running, Error> {
    prepare(config, Vec::new())?.start(live, metrics)
}

/// Does what may fail because of a setting: reads certificates, binds every
/// address for which no socket is `given`, opens the access log.
///
/// # Errors
///
/// Why it could not start.
pub fn prepare(config: Config, mut given: Vec<Given>) -> Result<Prepared, Error> {
    if config.metrics_environments.len() > WATCHED_MAX {
        return Err(Error::Watched(config.metrics_environments.len()));
    }
    check::spans(&config.spans)?;
    let replica_tls = ReplicaTls::new(&config.replica_ca)?;
    let certificates = (!config.tls.listen.is_empty()).then(|| Loaded::new(&config.tls)).transpose()?;
    let mut bound = socket::bind_all(&config.listen, false, &mut given, &config)?;
    bound.extend(socket::bind_all(&config.tls.listen, true, &mut given, &config)?);
    let access_log = access_log::open(&config).map_err(Error::AccessLog)?;
    Ok(Prepared { config, certificates, replica_tls, bound, access_log })
}

impl Prepared {
    /// Starts a thread per core, registers the metrics. `live` was made for
    /// [`Config::cores`] cores.
    ///
    /// # Errors
    ///
    /// When there are no threads or descriptors left; nothing is left running then.
    pub fn start(self, live: Arc<Live>, metrics: &Metrics) -> Result<Running, Error> {
        let Self { config, certificates, replica_tls, bound, access_log } = self;
        let addresses = |encrypted| {
            let of_kind = |bound: &&Bound| bound.sockets.iter().any(|socket| socket.encrypted == encrypted);
            bound.iter().filter(of_kind).map(|bound| bound.address).collect()
        };
        let (writer, guard, dropped) = match access_log {
            Some((writer, guard, dropped)) => (Some(writer), Some(guard), dropped),
            None => (None, None, Dropped::default()),
        };
        let cores = config.cores();
        let sockets = socket::deal(&bound, cores).map_err(Error::Thread)?;
        let counters: Vec<_> = (0..cores).map(|_| Arc::new(Counters::default())).collect();
        let summed = Summed { cores: counters.clone(), dropped };
        let (drain, watched) = (Drain::new(), Watched::new(&config.metrics_environments, cores));
        let table = TableMetrics { live: Arc::clone(&live), drain: drain.watch() };
        metrics.register(|registry| {
            registry.register_collector(Box::new(summed));
            registry.register_collector(Box::new(table));
            if let Some(watched) = &watched {
                registry.register_collector(Box::new(PerEnvironment(Arc::clone(watched))));
            }
        });
        let exporter = config.spans.exporter().map(|exporter| otlp::start(exporter, metrics)).transpose()?;
        let (queue, exporting) = exporter.unzip();
        let is_succeeded = Arc::<AtomicBool>::default();
        let shared = Arc::new(Shared {
            is_succeeded: Arc::clone(&is_succeeded),
            connections: Limit::new(config.connections_max),
            streams: Limit::new(config.streams_max),
            queues: Queues::default(),
            replica_tls,
            counters: counters.clone(),
            access_log: writer,
            watched,
            spans: queue.map(|queue| Spans { queue, ratio: config.spans.ratio }),
            live,
            certificates: certificates.as_ref().map(Loaded::served),
            config,
        });
        let watching = certificates.map(|loaded| loaded.watch(metrics)).transpose().map_err(Error::Thread)?;
        let running = Running {
            addresses: addresses(false),
            tls_addresses: addresses(true),
            sockets: Mutex::new(bound.into_iter().flat_map(|bound| bound.sockets).collect()),
            is_succeeded,
            drain,
            threads: Mutex::default(),
            certificates: watching,
            _access_log: guard,
            _exporting: exporting,
        };
        for (index, (sockets, counters)) in sockets.into_iter().zip(counters).enumerate() {
            let watch = running.drain.watch();
            let core = Start { index, shared: Arc::clone(&shared), counters, sockets, watch };
            // On an error, dropping `running` ends the threads started so far.
            let thread = spawn(core).map_err(Error::Thread)?;
            running.threads().push(thread);
        }
        Ok(running)
    }
}

/// Starts a core's thread; answers once its runtime is there.
fn spawn(core: Start) -> io::Result<thread::JoinHandle<io::Result<usize>>> {
    let (ready, made) = mpsc::channel();
    let thread = thread::Builder::new().name(format!("ingress-{}", core.index)).spawn(move || {
        let runtime = listener::runtime();
        match runtime {
            Ok(runtime) => {
                // Nobody waits any more only if starting was given up.
                let _ = ready.send(Ok(()));
                core.run(runtime)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(0)
            }
        }
    })?;
    made.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(thread)
}

impl Running {
    /// The addresses it listens on, with the ports the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses it listens on with TLS.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Further descriptors of everything it listens on, for a successor.
    ///
    /// # Errors
    ///
    /// When there are none left.
    pub fn share_sockets(&self) -> io::Result<Vec<Given>> {
        self.sockets().iter().map(Given::share).collect()
    }

    /// The same as [`Running::drain`], once a successor accepts from the same
    /// sockets: connections that are idle are not closed at once, but with their
    /// next answer or when their idle time is over, so that no request meets a
    /// closed connection.
    pub async fn hand_over(&self, grace: Duration) -> usize {
        self.is_succeeded.store(true, Ordering::Relaxed);
        self.drain(grace).await
    }

    /// Reads certificates again now, whether their files have changed or not, for
    /// new handshakes; answers at once, and does nothing where there are none.
    /// What cannot be read is logged and counted, and the one from before kept.
    pub fn reload_certificates(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.again();
        }
    }

    /// Stops in two stages: takes nothing new and lets requests, streams and
    /// tunnels finish; after `grace` cuts what is left. Answers how many client
    /// connections were cut.
    pub async fn drain(&self, grace: Duration) -> usize {
        // Nobody listens any more when the threads do not.
        self.sockets().clear();
        self.drain.drain(grace).await;
        self.drain.idle().await;
        let threads = std::mem::take(&mut *self.threads());
        let cut = threads.into_iter().map(joined).sum();
        if cut > 0 {
            tracing::warn!(cut, "client connections cut at the end of the drain");
        }
        cut
    }

    /// Ends a running [`Running::drain`] at once. For a second Ctrl-C.
    pub fn insist(&self) {
        self.drain.insist();
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<Given>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<thread::JoinHandle<io::Result<usize>>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn joined(thread: thread::JoinHandle<io::Result<usize>>) -> usize {
    match thread.join() {
        Ok(Ok(cut)) => cut,
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "an ingress thread failed");
            0
        }
        // The panic was printed where it happened.
        Err(_) => 0,
    }
}
