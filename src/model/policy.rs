//! What an environment asks of the ingress: doors, limits and times.
//!
//! Stored with the environment and carried to every proxy. Absent times mean
//! "never", because agent runs are long.

use serde::{Deserialize, Serialize};

/// An environment's policy. Times are milliseconds, sizes are bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether `X-Deployment-ID` on a request may choose another open pool.
    pub pins: Door,
    /// Whether deployment hosts reach this environment's pools. `None`: open
    /// everywhere but in `production`, where such a host would be a second door
    /// to its secrets.
    pub deployment_hosts: Option<Door>,
    /// Largest request body, in bytes; 0 means no limit.
    pub request_body_max: u64,
    /// Longest wait for a connection to a replica.
    pub connect_timeout_ms: u64,
    /// Longest wait for a replica to begin its answer; 0 means no limit.
    pub response_start_timeout_ms: u64,
    /// Longest pause inside a unary answer; 0 means no limit. Streams have
    /// limits of their own, below.
    pub response_idle_timeout_ms: u64,
    /// Longest pause inside a stream of server-sent events; 0 means no limit.
    pub sse_idle_timeout_ms: u64,
    /// Longest pause inside a gRPC answer; 0 means no limit.
    pub grpc_idle_timeout_ms: u64,
    /// Longest silence of both ends of a WebSocket or another tunnel; 0 means no
    /// limit. It ends between once and twice this time after the last byte.
    pub websocket_idle_timeout_ms: u64,
    /// Requests, streams and tunnels that run at once on one proxy; 0 means half
    /// of what that proxy takes in total. A further one is answered 503.
    pub in_flight_max: u64,
    /// Requests that one replica is given at once by one proxy; 0 means no limit.
    /// Further ones wait.
    pub endpoint_concurrency_max: u64,
    /// Requests that may wait for a replica of one pool on one proxy; a further
    /// one is answered 503.
    pub queue_max: u64,
    /// Longest wait for a replica.
    pub queue_timeout_ms: u64,
    /// How long a replica that comes to others is given less than they, from a
    /// tenth to its full share; 0 means not at all.
    pub slow_start_ms: u64,
    /// Longest wait for running requests when a pool is to be stopped.
    pub max_drain_ms: u64,
    /// How long a pool that nothing needs any more keeps its replicas. Of no
    /// interest to proxies, and not sent to them.
    pub keep_previous_warm_ms: u64,
}

/// Whether a way in is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// Requests may come this way.
    Open,
    /// They may not.
    Off,
}

impl Policy {
    /// Whether deployment hosts are open in the environment of this name.
    pub fn deployment_hosts_open(&self, environment: &str) -> bool {
        match self.deployment_hosts {
            Some(door) => door == Door::Open,
            None => environment != "production",
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            pins: Door::Open,
            deployment_hosts: None,
            // 100 MiB: larger than any prompt with attachments, small enough to bound a mistake.
            request_body_max: 100 * 1024 * 1024,
            connect_timeout_ms: 5_000,
            response_start_timeout_ms: 0,
            // 5 min: agents think for minutes between two writes of one answer.
            response_idle_timeout_ms: 300_000,
            sse_idle_timeout_ms: 0,
            grpc_idle_timeout_ms: 0,
            websocket_idle_timeout_ms: 0,
            in_flight_max: 0,
            endpoint_concurrency_max: 0,
            queue_max: 100,
            queue_timeout_ms: 10_000,
            slow_start_ms: 0,
            max_drain_ms: 900_000,
            // 10 min: whoever sees a bad deploy sees it by then, and twenty deploys do not leave twenty processes.
            keep_previous_warm_ms: 600_000,
        }
    }
}
