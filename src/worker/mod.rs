//! The replica supervisor: starts, probes, restarts and stops what serves a pool.
//!
//! Reads from the store which pools are wanted, looks at what runs, and lets
//! `plan` decide; everything else carries decisions out and reports what
//! became of them. Bundle deployments run as local processes, endpoint
//! deployments are probed where they are. Writes only endpoints and the states
//! that follow from them; where pointers are moves is `control`'s business.

pub mod guard;

mod carry;
mod desired;
mod endpoints;
mod event;
mod fault;
mod health;
mod interest;
mod launch;
mod lookout;
mod metrics;
mod observed;
mod plan;
mod ports;
mod probe;
mod process;
mod reach;
mod record;
mod resolve;
mod rows;
mod supervisor;
mod watching;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use supervisor::{Error, Running, Supervisor};

/// How replicas are run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds the uploaded bundles, what is unpacked of them, and the working folders of replicas.
    pub data_dir: PathBuf,
    /// The program whose `worker-guard` outlives this process. `None`: the one that runs now.
    pub executable: Option<PathBuf>,
    /// Ports given to replicas: outside the ephemeral range of Linux (32768–60999), where a connection of anybody might
    /// sit on one.
    pub ports: RangeInclusive<u16>,
    /// A port is not given again for so long after its replica ended, so that a stale routing table never reaches a
    /// stranger. 60 s: as long as a silent proxy counts as suspect.
    pub port_pause: Duration,
    /// Users that replicas run as, one each, where Repoint runs as root.
    pub users: RangeInclusive<u32>,
    /// The address under which proxies reach replicas.
    pub advertise: IpAddr,
    /// Where Repoint itself listens; endpoint URLs must not point there.
    pub own_listeners: Vec<SocketAddr>,
    /// How readiness and health are found out.
    pub probe: Probe,
    /// Files of the authorities that vouch for endpoints over TLS (PEM). None: those that the system trusts.
    pub replica_ca: Vec<PathBuf>,
    /// How soon a replica that ended is started again.
    pub restart: Restart,
    /// Names in endpoint URLs are resolved again after so long.
    pub resolve_every: Duration,
}

/// How readiness and health are found out.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Between two probes until the first success: a promotion waits for it.
    pub starting_every: Duration,
    /// Between two probes afterwards.
    pub every: Duration,
    /// Failures in a row that make a replica unready: one lost packet does not.
    pub failures_max: u32,
}

/// How soon a replica that ended is started again.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// After the first end; doubles with every further one.
    pub delay_min: Duration,
    /// Never longer than this.
    pub delay_max: Duration,
    /// A replica that was ready for so long counts as healthy: its end is a first one again.
    pub healthy_after: Duration,
}

impl Config {
    /// The defaults, in this data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            executable: None,
            ports: 20_000..=29_999,
            port_pause: Duration::from_secs(60),
            // Above what distributions give to people and services, and apart from 65534, nobody.
            users: 61_000..=61_999,
            advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
            own_listeners: Vec::new(),
            probe: Probe::default(),
            restart: Restart::default(),
            replica_ca: Vec::new(),
            resolve_every: Duration::from_secs(30),
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            starting_every: Duration::from_millis(250),
            every: Duration::from_secs(5),
            failures_max: 3,
        }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            delay_min: Duration::from_millis(250),
            delay_max: Duration::from_secs(30),
            healthy_after: Duration::from_secs(30),
        }
    }
}
