//! The clients: as many connections as a work has, each checking every answer.
//!
//! Owns a round: its end, its pace, what came of it. What is said on a connection is `http1`'s and `http2`'s business.
//! They run on one core together with the replicas, so what they spend themselves is kept small: heads are written
//! once and only the host's number changes, answers are read in place, and no answer costs a timer.

#[path = "load/http1.rs"]
pub mod http1;
#[path = "load/http2.rs"]
mod http2;
#[path = "load/pace.rs"]
mod pace;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use crate::peers::{Mode, Peer};
use crate::pointers::Expected;
use crate::replicas::COUNT;
use crate::works::{Kind, Work};
use pace::Pace;

/// What came of one round.
#[derive(Default)]
pub struct Tally {
    /// Answers; of event streams their chunks.
    pub done: u64,
    /// Wrong answers, and missing ones.
    pub errors: u64,
    /// Microseconds.
    pub latencies: Vec<u32>,
    pub seconds: f64,
}

/// Longest wait for answers after the end of a round: what takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// At a rate, the first answers tell how a proxy opens connections to its replicas again after a pause, and not how it
/// serves: their latencies do not count, their processor time does.
const LEAD: Duration = Duration::from_millis(200);

/// One round.
struct Plan {
    kind: Kind,
    /// Where connections go: a proxy, or the replicas themselves in turn.
    addresses: Vec<SocketAddr>,
    environments: usize,
    /// Whose turn it is, where environments are asked one after the other.
    turn: Option<Arc<AtomicUsize>>,
    expected: Expected,
    until: Instant,
    /// Latencies count from here on.
    settled: Instant,
    tls: Option<ClientConfig>,
    /// When requests are due, where there is a rate.
    pace: Option<Pace>,
    tally: RefCell<Tally>,
}

impl Plan {
    /// Counts an answer, which has come now.
    fn count(&self, done: u64, began: Instant) -> Instant {
        let now = Instant::now();
        let mut tally = self.tally.borrow_mut();
        tally.done += done;
        if began >= self.settled {
            tally.latencies.push(u32::try_from((now - began).as_micros()).unwrap_or(u32::MAX));
        }
        now
    }

    fn wrong(&self, error: &dyn std::fmt::Display) {
        let mut tally = self.tally.borrow_mut();
        tally.errors += 1;
        if tally.errors < 4 {
            eprintln!("wrong: {error}");
        }
    }

    /// Any environment; without a proxy one of those whose replica this connection goes to.
    fn draw(&self, connection: usize) -> usize {
        if let Some(turn) = &self.turn {
            return turn.fetch_add(1, Ordering::Relaxed) % self.environments;
        }
        match self.addresses.len() {
            1 => fastrand::usize(..self.environments),
            _ => fastrand::usize(..self.environments.div_ceil(COUNT)) * COUNT + connection % COUNT,
        }
    }
}

/// Runs a work against a proxy for so long; `rate` is in requests a second.
pub fn run(work: &Work, peer: &Peer, length: Duration, rate: Option<f64>) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("make a runtime: {error}"))?;
    let started = Instant::now();
    let plan = Rc::new(Plan {
        kind: work.kind,
        addresses: peer.addresses.clone(),
        environments: peer.environments,
        turn: peer.turn.clone(),
        expected: peer.expected.clone(),
        until: started + length,
        settled: if rate.is_some() { started + LEAD } else { started },
        tls: if work.mode == Mode::Tls { Some(tls(peer)?) } else { None },
        pace: rate.map(|rate| Pace::new(Duration::from_secs_f64(1.0 / rate), work.connections)),
        tally: RefCell::default(),
    });
    let local = LocalSet::new();
    let round = local.run_until(async {
        let clients: Vec<_> = (0..work.connections)
            .map(|connection| tokio::task::spawn_local(patient(Rc::clone(&plan), connection)))
            .collect();
        if let Some(pace) = &plan.pace {
            pace.keep(plan.until).await.map_err(|error| format!("keep a pace: {error}"))?;
        }
        for client in clients {
            client.await.map_err(|error| format!("go through with a client: {error}"))?;
        }
        Ok::<(), String>(())
    });
    runtime.block_on(round)?;
    let mut tally = plan.tally.take();
    tally.seconds = started.elapsed().as_secs_f64();
    Ok(tally)
}

fn tls(peer: &Peer) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let pem = peer.authority.as_deref().unwrap_or_default();
    let certificate =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("read a certificate: {error}"))?;
    roots.add(certificate).map_err(|error| format!("trust a certificate: {error}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config =
        config.map_err(|error| format!("speak TLS 1.3: {error}"))?.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A client that does not wait for ever: an answer that is missing then is lost.
async fn patient(plan: Rc<Plan>, connection: usize) {
    let end = plan.until + PATIENCE;
    if tokio::time::timeout_at(end.into(), client(&plan, connection)).await.is_err() {
        plan.wrong(&"no answer");
    }
}

/// One connection after the other, for as long as there is time.
async fn client(plan: &Rc<Plan>, connection: usize) {
    let resumes = plan.kind == (Kind::Closing { resumes: true });
    let connector = plan.tls.clone().map(|mut config| {
        if resumes {
            // Its own: a ticket is good for one connection, and others would take it.
            config.resumption = Resumption::in_memory_sessions(8);
        }
        TlsConnector::from(Arc::new(config))
    });
    let mut first = true;
    while Instant::now() < plan.until {
        let served = match plan.kind {
            Kind::Streams(streams) => http2::connection(plan, streams).await,
            _ => http1::connection(plan, connection, connector.as_ref(), resumes && !first).await,
        };
        if let Err(error) = served {
            plan.wrong(&error);
        }
        first = false;
    }
}
