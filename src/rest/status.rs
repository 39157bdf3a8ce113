//! `GET /api/v1/deployments/{id}/status` and `/errors`: how a deployment's pools are doing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::{DeploymentId, EndpointId, EnvironmentId};
use crate::model::name::{DeploymentRef, EnvironmentName};
use crate::model::pool::{EndpointState, PoolError, PoolState};

/// A pool, as its environment shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolSummary {
    /// The deployment its replicas run.
    pub deployment_id: DeploymentId,
    /// That deployment's ref.
    #[serde(rename = "ref", default)]
    pub reference: Option<DeploymentRef>,
    /// Where it stands.
    pub state: PoolState,
    /// How many endpoints take new requests.
    pub ready: u32,
    /// Replicas kept running.
    pub min_replicas: u32,
    /// Replicas at most.
    pub max_replicas: u32,
    /// Requests that run on it, summed over the proxies' last reports.
    pub in_flight: u64,
}

/// Answer to `status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its ref.
    #[serde(rename = "ref")]
    pub reference: DeploymentRef,
    /// Its pools, one for each environment it was brought to.
    pub pools: Vec<PoolStatus>,
}

/// A pool, as its deployment shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolStatus {
    /// The environment it serves.
    pub environment_id: EnvironmentId,
    /// That environment's name.
    pub environment: EnvironmentName,
    /// Whether the environment's pointer names this deployment.
    pub current: bool,
    /// Where it stands.
    pub state: PoolState,
    /// How many endpoints take new requests.
    pub ready: u32,
    /// Replicas kept running.
    pub min_replicas: u32,
    /// Replicas at most.
    pub max_replicas: u32,
    /// Requests that run on it, summed over the proxies' last reports.
    pub in_flight: u64,
    /// When it was marked closing, while it drains.
    #[serde(default)]
    pub closing_since: Option<Timestamp>,
    /// What is waited for, while it drains.
    #[serde(default)]
    pub closing: Option<ClosingStatus>,
    /// Its endpoints, ready or not.
    pub endpoints: Vec<EndpointStatus>,
}

/// A pool that takes no new requests and is not at rest yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClosingStatus {
    /// Since when.
    pub since: Option<Timestamp>,
    /// Requests that still run on it, as last reported.
    pub in_flight: u64,
    /// Who keeps it from being stopped and why, as sentences: proxies with
    /// running requests, and those that may not know of the closing. The first
    /// 20 of them.
    pub blocked_by: Vec<String>,
    /// How many keep it.
    #[serde(default)]
    pub blocked_by_count: usize,
}

/// One address that serves a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Its id; a restarted replica is a new endpoint.
    pub id: EndpointId,
    /// `host:port`.
    pub address: String,
    /// Whether it takes new requests.
    pub state: EndpointState,
    /// The process, where Repoint started it.
    #[serde(default)]
    pub pid: Option<u32>,
    /// When the replica was started, or the endpoint configured.
    pub since: Timestamp,
    /// So long ago.
    pub uptime_seconds: u64,
}

/// Query of `errors`: what went wrong last comes first, and everything known is answered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorsQuery {
    /// Only here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<EnvironmentId>,
}

/// Something that went wrong with a deployment's replicas: an item of the answer to `errors`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeploymentError {
    /// The environment it happened in.
    pub environment_id: EnvironmentId,
    /// That environment's name.
    pub environment: EnvironmentName,
    /// What went wrong.
    #[serde(flatten)]
    pub error: PoolError,
}
