//! The control plane: what may happen to projects, environments and deployments.
//!
//! Owns the rules that need more than one row, the moves that wait for their
//! target, and the REST API over both. The pure rules are the model's, durable
//! truth is the store's, and what proxies have applied is the fleet's. Knows
//! nothing of requests, sockets of the ingress, or how replicas are started:
//! it writes what is wanted, the supervisor and the control stream read it.
//!
//! A promotion reads top to bottom in `promotion.rs`; what waits for a replica
//! is carried on by `mover.rs`, and `sleep.rs` puts to rest what nothing needs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::drain::Watch;
use crate::fleet::Fleet;
use crate::logs::LogFolder;
use crate::model::host::HostPattern;
use crate::store::Store;
use crate::telemetry::metrics::Metrics as Registry;

pub mod api;
mod applied;
mod batch;
mod bundle;
mod deployment;
mod environment;
mod error;
mod export;
mod find;
mod import;
pub mod keys;
mod metrics;
mod mover;
mod outcome;
mod pool;
mod project;
mod promotion;
mod proxy;
mod removal;
mod replicas;
mod sleep;
mod source;
mod timeline;
mod write;

pub use error::Error;

/// What the control plane has to be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory that holds everything; uploads go to `bundles/` in it.
    pub data_dir: PathBuf,
    /// Parent of every host made from names; `localhost` unless asked.
    pub base_domain: HostPattern,
    /// Further hosts on which `X-Project` and `X-Environment` choose.
    pub shared_hosts: Vec<HostPattern>,
    /// The ingress's port as clients see it, for the URLs in answers. `None`, and
    /// 80, leave it out.
    pub url_port: Option<u16>,
    /// Sockets of this Repoint, which no endpoint may point at.
    pub own_listeners: Vec<SocketAddr>,
}

impl Config {
    /// Where requests for `host` are sent.
    pub fn url(&self, host: &HostPattern) -> String {
        match self.url_port {
            None | Some(80) => format!("http://{host}"),
            Some(port) => format!("http://{host}:{port}"),
        }
    }
}

/// Event streams and followed logs open at once. Each costs a task and a share
/// of every event; a dashboard in every room stays far below.
const SUBSCRIBERS_MAX: usize = 256;

/// Bundles being received at once: each may hold 256 MiB of disk.
const UPLOADS_MAX: usize = 8;

/// The control plane. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Control {
    store: Store,
    fleet: Fleet,
    logs: LogFolder,
    config: Arc<Config>,
    applied: applied::Queue,
    metrics: metrics::Metrics,
    subscribers: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    imports: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    drain: Watch,
}

impl Control {
    /// Starts the control plane: from now on waiting moves are carried out, those
    /// that an earlier run left behind included, until `drain` asks to stop.
    pub fn start(
        store: Store,
        fleet: Fleet,
        logs: LogFolder,
        config: Config,
        registry: &Registry,
        drain: &Watch,
    ) -> Self {
        bundle::sweep(&config);
        let metrics = metrics::Metrics::register(registry);
        let applied = applied::Queue::start(store.clone(), fleet.clone(), metrics.clone(), drain.clone());
        let control = Self {
            store,
            fleet,
            logs,
            config: Arc::new(config),
            applied,
            metrics,
            subscribers: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            imports: Arc::new(Semaphore::new(import::IMPORTS_MAX)),
            exports: Arc::new(Semaphore::new(export::EXPORTS_MAX)),
            drain: drain.clone(),
        };
        tokio::spawn(mover::run(control.clone()));
        tokio::spawn(sleep::run(control.clone()));
        control
    }
}

/// The time, as precise as it is stored: what is answered now reads the same later.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}
