//! `GET /api/v1/proxies`: every proxy the control plane remembers. `DELETE
//! /api/v1/proxies/{proxy_id}`: one that it shall remember no more.

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
    /// Whether it has a stream now.
    #[serde(default)]
    pub connected: bool,
    /// What it serves.
    pub applied_revision: Revision,
    /// What it would serve after a restart.
    pub durable_revision: Revision,
    /// Whether it begins with what its disk has after a restart. One that does
    /// not serves nothing then before it has heard the control plane.
    #[serde(default)]
    pub keeps_table: bool,
    /// Revisions it is behind.
    pub lag: u64,
    /// Its build.
    pub version: String,
    /// Requests it carries, as last reported.
    pub in_flight: u64,
    /// When it was heard last.
    #[serde(default)]
    pub last_seen_at: Option<Timestamp>,
    /// How long ago that is.
    #[serde(default)]
    pub silent_for_ms: u64,
    /// The change it refuses, while it does.
    #[serde(default)]
    pub refused: Option<RefusedChange>,
    /// Whether it serves changes that the store does not have: an older copy of
    /// the store was put back.
    #[serde(default)]
    pub ahead: bool,
}

/// A change that a proxy refuses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedChange {
    /// The revision it did not move to.
    pub revision: Revision,
    /// Why, as a word.
    pub reason: String,
    /// What is wrong, for people.
    pub detail: String,
}

/// Query of the DELETE.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetProxy {
    /// One run of it; without, all that are not live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
}

/// Answer to the DELETE.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForgottenProxy {
    /// The proxy.
    pub proxy_id: String,
    /// The runs of it that are remembered no more.
    pub forgotten: Vec<InstanceId>,
}

/// Answer to `POST /api/v1/proxies/allow-mass-change`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MassChangeAllowed {
    /// The change that says so: proxies take the state as it stands there.
    pub revision: Revision,
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
