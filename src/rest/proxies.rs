//! `GET /api/v1/proxies`: every proxy the control plane remembers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::id::InstanceId;
use crate::model::revision::Revision;

/// Answer to the GET.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proxies {
    /// The newest committed revision.
    pub head_revision: Revision,
    /// The proxies.
    pub items: Vec<Proxy>,
}

/// One run of one proxy process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proxy {
    /// The proxy; it keeps its id over restarts.
    pub proxy_id: String,
    /// This run of it.
    pub instance_id: InstanceId,
    /// Whether it is waited for.
    pub state: ProxyState,
    /// What it serves.
    pub applied_revision: Revision,
    /// What it would serve after a restart.
    pub durable_revision: Revision,
    /// Revisions it is behind.
    pub lag: u64,
    /// Its build.
    pub version: String,
    /// Requests it carries, as last reported.
    pub in_flight: u64,
    /// When it was heard last.
    #[serde(default)]
    pub last_seen_at: Option<Timestamp>,
}

/// Whether a proxy is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyState {
    /// Heard within the last moments.
    Live,
    /// Silent for a while; moves still wait for it.
    Suspect,
    /// Silent for long; moves count it as unconfirmed.
    Gone,
}
