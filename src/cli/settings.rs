//! Settings of an environment as arguments, for `repoint env create` and `set`.

use clap::{Args, ValueEnum};

use crate::cli::text;
use crate::model::host::{HostPattern, InvalidHost};
use crate::model::policy::Door;
use crate::rest::environments::{PolicyUpdate, UpdateEnvironment};

/// Settings of an environment.
#[derive(Debug, Clone, Default, Args)]
pub struct Settings {
    /// Hosts besides the one made from its names, separated by commas; "" for none
    #[arg(long, value_name = "HOSTS", value_parser = hosts)]
    hosts: Option<Hosts>,
    /// Replicas that its pools keep running
    #[arg(long, value_name = "N")]
    pub min_replicas: Option<u32>,
    /// Replicas that its pools have at most
    #[arg(long, value_name = "N")]
    pub max_replicas: Option<u32>,
    /// Whether X-Deployment-ID on a request may choose another deployment
    #[arg(long, value_name = "open|off")]
    pins: Option<DoorArg>,
    /// Whether hosts of deployments reach it; default: everywhere but in production
    #[arg(long, value_name = "open|off|default")]
    deployment_hosts: Option<DoorOrDefault>,
    /// Largest request body, such as 100MiB; 0 for no limit
    #[arg(long, value_name = "SIZE", value_parser = text::parse_bytes)]
    request_body_max: Option<u64>,
    /// Longest wait for a connection to a replica, such as 5s
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    connect_timeout: Option<u64>,
    /// Longest wait for an answer to begin; 0 for no limit
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    response_start_timeout: Option<u64>,
    /// Longest pause inside an answer that is no stream; 0 for no limit
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    response_idle_timeout: Option<u64>,
    /// Longest pause inside a stream of server-sent events; 0 for no limit
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    sse_idle_timeout: Option<u64>,
    /// Longest pause inside a gRPC answer; 0 for no limit
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    grpc_idle_timeout: Option<u64>,
    /// Longest silence of both ends of a WebSocket; 0 for no limit
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    websocket_idle_timeout: Option<u64>,
    /// Requests that run at once on one proxy; 0 for half of what it takes
    #[arg(long, value_name = "N")]
    in_flight_max: Option<u64>,
    /// Requests that one replica is given at once by one proxy; 0 for no limit
    #[arg(long, value_name = "N")]
    endpoint_concurrency_max: Option<u64>,
    /// Requests that may wait for a replica of one pool on one proxy
    #[arg(long, value_name = "N")]
    queue_max: Option<u64>,
    /// Longest wait for a replica
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    queue_timeout: Option<u64>,
    /// How long a replica that comes to others is given less; 0 for not at all
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    slow_start: Option<u64>,
    /// Longest wait for running requests when a pool is to be stopped
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    max_drain: Option<u64>,
    /// How long a pool that nothing needs any more keeps its replicas
    #[arg(long, value_name = "TIME", value_parser = text::parse_milliseconds)]
    keep_previous_warm: Option<u64>,
}

/// A list of hosts as one argument. Its own type, because clap reads a plain
/// `Vec` as an option that may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hosts(Vec<HostPattern>);

fn hosts(text: &str) -> Result<Hosts, InvalidHost> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::parse).collect::<Result<_, _>>().map(Hosts)
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DoorArg {
    Open,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DoorOrDefault {
    Open,
    Off,
    Default,
}

impl Settings {
    /// Hosts besides the one made from its names, where they are named.
    pub fn hosts(&self) -> Option<Vec<HostPattern>> {
        self.hosts.clone().map(|hosts| hosts.0)
    }

    /// What is named of the policy.
    pub fn policy(&self) -> PolicyUpdate {
        PolicyUpdate {
            pins: self.pins.map(|door| match door {
                DoorArg::Open => Door::Open,
                DoorArg::Off => Door::Off,
            }),
            deployment_hosts: self.deployment_hosts.map(|door| match door {
                DoorOrDefault::Open => Some(Door::Open),
                DoorOrDefault::Off => Some(Door::Off),
                DoorOrDefault::Default => None,
            }),
            request_body_max: self.request_body_max,
            connect_timeout_ms: self.connect_timeout,
            response_start_timeout_ms: self.response_start_timeout,
            response_idle_timeout_ms: self.response_idle_timeout,
            sse_idle_timeout_ms: self.sse_idle_timeout,
            grpc_idle_timeout_ms: self.grpc_idle_timeout,
            websocket_idle_timeout_ms: self.websocket_idle_timeout,
            in_flight_max: self.in_flight_max,
            endpoint_concurrency_max: self.endpoint_concurrency_max,
            queue_max: self.queue_max,
            queue_timeout_ms: self.queue_timeout,
            slow_start_ms: self.slow_start,
            max_drain_ms: self.max_drain,
            keep_previous_warm_ms: self.keep_previous_warm,
        }
    }

    /// What is named, as a partial update.
    pub fn update(&self) -> UpdateEnvironment {
        UpdateEnvironment {
            hosts: self.hosts(),
            policy: Some(self.policy()).filter(|policy| *policy != PolicyUpdate::default()),
            min_replicas: self.min_replicas.map(Some),
            max_replicas: self.max_replicas.map(Some),
            ..UpdateEnvironment::default()
        }
    }
}
