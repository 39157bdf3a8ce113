//! A pool: the replicas of one deployment serving one environment.
//!
//! Keyed by both, because secrets differ by environment: replicas started for
//! staging never serve production (invariant 11).

use std::fmt;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::bounds::Bounds;
use crate::model::id::{DeploymentId, EndpointId, EnvironmentId};
use crate::model::revision::Revision;

/// What a pool is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PoolKey {
    /// The environment it serves.
    pub environment: EnvironmentId,
    /// The deployment its replicas run.
    pub deployment: DeploymentId,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.deployment)
    }
}

/// Where a pool stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    /// Terminated: no replicas, and none will start until somebody says so.
    Stopped,
    /// No replicas: a move to it, or `start`, starts them again.
    Idle,
    /// Wanted, no replica ready yet.
    Starting,
    /// At least one replica is ready.
    Running,
    /// Wanted, but its replicas keep failing; they are still being restarted.
    Failing,
    /// No new requests; running ones finish, then it is idle or stopped.
    Closing,
}

/// Where a closing pool goes when its last request has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rest {
    /// To sleep: a move to it starts it again.
    Idle,
    /// Terminated.
    Stopped,
}

impl Rest {
    /// The state it is in there.
    pub fn state(self) -> PoolState {
        match self {
            Self::Idle => PoolState::Idle,
            Self::Stopped => PoolState::Stopped,
        }
    }

    /// The word used in the store.
    pub fn as_str(self) -> &'static str {
        self.state().as_str()
    }
}

impl PoolState {
    /// Every state, for tests and metric labels.
    pub const ALL: [Self; 6] = [Self::Stopped, Self::Idle, Self::Starting, Self::Running, Self::Failing, Self::Closing];

    /// The word used in the API, the store and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Failing => "failing",
            Self::Closing => "closing",
        }
    }

    /// Whether replicas should be kept running.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Failing)
    }

    /// Whether it has no replicas and wants none.
    pub fn is_at_rest(self) -> bool {
        matches!(self, Self::Stopped | Self::Idle)
    }
}

/// A pool as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// What it is known by.
    pub key: PoolKey,
    /// Where it stands.
    pub state: PoolState,
    /// How many replicas it may have.
    pub bounds: Bounds,
    /// The change that marked it closing, while it is.
    pub closing_revision: Option<Revision>,
    /// When it was marked closing, while it is.
    pub closing_since: Option<Timestamp>,
    /// Where it goes from there, while it is closing.
    pub closing_to: Option<Rest>,
    /// Since when nothing needs it: neither the pointer nor a rollback nor a
    /// waiting move would come to it. `None` while something does, or where
    /// somebody started it by hand.
    pub left_at: Option<Timestamp>,
    /// Its endpoints, ready or not.
    pub endpoints: Vec<Endpoint>,
}

impl Pool {
    /// A wanted pool without replicas.
    pub fn starting(key: PoolKey, bounds: Bounds) -> Self {
        Self {
            key,
            state: PoolState::Starting,
            bounds,
            closing_revision: None,
            closing_since: None,
            closing_to: None,
            left_at: None,
            endpoints: Vec::new(),
        }
    }

    /// Whether it was terminated, or will be when its last request has ended:
    /// only who asks for that starts it again.
    pub fn is_terminated(&self) -> bool {
        match self.state {
            PoolState::Stopped => true,
            PoolState::Closing => self.closing_to != Some(Rest::Idle),
            PoolState::Idle | PoolState::Starting | PoolState::Running | PoolState::Failing => false,
        }
    }

    /// Whether a pointer may move to it now (invariant 8).
    pub fn is_ready(&self) -> bool {
        self.state.is_wanted() && self.ready_count() > 0
    }

    /// How many endpoints take new requests.
    pub fn ready_count(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Ready).count()
    }
}

/// One address that serves a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id; a restarted replica is a new endpoint.
    pub id: EndpointId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its own `host:port`, where it was given as a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Whether it is reached over TLS; then it has an authority, whose name it has to prove.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
    /// Whether it takes new requests.
    pub state: EndpointState,
    /// The process, where Repoint started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When the replica was started, or the endpoint configured.
    pub since: Timestamp,
}

/// Whether an endpoint takes new requests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Its probe has not succeeded yet, or fails now: not routed to.
    Unready,
    /// It takes new requests.
    Ready,
    /// It finishes what it has and is stopped.
    Draining,
}

/// Something that went wrong with a pool's replicas, for `deployment errors`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolError {
    /// When it happened last.
    pub at: Timestamp,
    /// What kind of failure.
    pub kind: PoolErrorKind,
    /// What happened and what to do, for people.
    pub message: String,
    /// The replica's last output lines, oldest first.
    #[serde(default)]
    pub output: Vec<String>,
    /// How often in a row.
    pub count: u32,
}

/// Kinds of replica failure.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum PoolErrorKind {
    /// The bundle cannot be unpacked, or its command cannot be run.
    ImageInvalid,
    /// The bundle is not on this machine.
    ImageMissing,
    /// No port, user or memory for another replica.
    SchedulingFailed,
    /// The replica did not listen on the port it was given.
    PortTaken,
    /// The replica exits soon after it starts, again and again.
    CrashLoop,
    /// The replica runs but its probe never succeeded in time.
    ReadinessTimeout,
    /// A probe that had succeeded fails now.
    Unhealthy,
    /// The replica was ended by a signal that Repoint did not send.
    Killed,
}

impl PoolErrorKind {
    /// The word used in the API and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ImageInvalid => "ImageInvalid",
            Self::ImageMissing => "ImageMissing",
            Self::SchedulingFailed => "SchedulingFailed",
            Self::PortTaken => "PortTaken",
            Self::CrashLoop => "CrashLoop",
            Self::ReadinessTimeout => "ReadinessTimeout",
            Self::Unhealthy => "Unhealthy",
            Self::Killed => "Killed",
        }
    }
}
