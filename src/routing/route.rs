//! Routes: an environment, its pools and their endpoints, as a table holds them.
//!
//! Built from records when a change is applied, immutable afterwards. Only the
//! counters behind claims move, and they outlive the table they were made for:
//! the next table's route to the same pool shares them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use crate::model::change::{EnvironmentRecord, PoolRecord, PoolRecordState};
use crate::model::deployment::HostHeader;
use crate::model::id::EndpointId;
use crate::model::manifest::Protocol;
use crate::model::name::DeploymentRef;
use crate::model::pool::PoolKey;
use crate::routing::claim::{Claim, Claims};

/// An environment and every pool that serves it.
pub struct EnvironmentRoute {
    record: Arc<EnvironmentRecord>,
    pools: Box<[Arc<PoolRoute>]>,
    /// Where in `pools` the pointer leads.
    current: Option<usize>,
}

impl Deref for EnvironmentRoute {
    type Target = EnvironmentRecord;

    fn deref(&self) -> &EnvironmentRecord {
        &self.record
    }
}

impl EnvironmentRoute {
    /// A route from a record and the pools of its environment.
    pub fn new(record: Arc<EnvironmentRecord>, pools: Vec<Arc<PoolRoute>>) -> Self {
        let current = pools.iter().position(|pool| Some(pool.key.deployment) == record.pointer);
        Self { record, pools: pools.into(), current }
    }

    /// The pool its pointer leads to.
    pub fn current(&self) -> Option<&Arc<PoolRoute>> {
        self.current.map(|at| &self.pools[at])
    }

    /// The pool of the deployment with this id or ref.
    pub fn pool_of(&self, id_or_ref: &[u8]) -> Option<&Arc<PoolRoute>> {
        self.pools.iter().find(|pool| pool.is_named(id_or_ref))
    }

    /// Every pool that serves it.
    pub fn pools(&self) -> &[Arc<PoolRoute>] {
        &self.pools
    }

    /// The record it was built from, to build the next route with.
    pub(super) fn record(&self) -> &Arc<EnvironmentRecord> {
        &self.record
    }
}

/// A pool: where the requests of one deployment in one environment go.
pub struct PoolRoute {
    /// What it is known by.
    pub key: PoolKey,
    /// The deployment's short name.
    pub reference: DeploymentRef,
    /// What its replicas speak.
    pub protocol: Protocol,
    /// Which `Host` they see.
    pub host: HostHeader,
    /// Whether a request may be sent again when a reused connection closed
    /// before it answered.
    pub retry_on_reused_close: bool,
    /// Where requests go.
    pub endpoints: Box<[EndpointRoute]>,
    state: PoolRecordState,
    deployment_text: Box<str>,
    claims: Arc<Claims>,
}

impl PoolRoute {
    /// A route from a record, counting with `claims`; endpoints count with what
    /// `endpoint_claims` answers for their id.
    pub fn new(record: &PoolRecord, claims: Arc<Claims>, endpoint_claims: impl Fn(EndpointId) -> Arc<Claims>) -> Self {
        let endpoints = record.endpoints.iter().map(|endpoint| EndpointRoute {
            id: endpoint.id,
            address: endpoint.address,
            authority: endpoint.authority.as_deref().map(Into::into),
            draining: endpoint.draining,
            claims: endpoint_claims(endpoint.id),
        });
        Self {
            key: record.key,
            reference: record.reference.clone(),
            protocol: record.protocol,
            host: record.host,
            retry_on_reused_close: record.retry_on_reused_close,
            endpoints: endpoints.collect(),
            state: record.state,
            deployment_text: record.key.deployment.to_string().into(),
            claims,
        }
    }

    /// Takes a claim for a request on `core`; `None` when the pool is closing.
    pub fn claim(&self, core: usize) -> Option<Claim> {
        self.claims.claim(core)
    }

    /// Whether it takes new requests, as of its table.
    pub fn is_open(&self) -> bool {
        self.state == PoolRecordState::Open
    }

    /// The deployment's id as text, for headers.
    pub fn deployment_text(&self) -> &str {
        &self.deployment_text
    }

    /// Its counters.
    pub fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }

    fn is_named(&self, id_or_ref: &[u8]) -> bool {
        self.reference.as_str().as_bytes() == id_or_ref
            || self.deployment_text.as_bytes().eq_ignore_ascii_case(id_or_ref)
    }
}

/// One address that serves a pool.
pub struct EndpointRoute {
    /// Its id.
    pub id: EndpointId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its own `host:port`, where it was given as a URL.
    pub authority: Option<Box<str>>,
    /// Whether it finishes what it has and takes nothing new, as of its table.
    pub draining: bool,
    claims: Arc<Claims>,
}

impl EndpointRoute {
    /// Takes a claim for a request on `core`; `None` when it is draining.
    pub fn claim(&self, core: usize) -> Option<Claim> {
        self.claims.claim(core)
    }

    /// Running claims of this core.
    pub fn in_flight(&self, core: usize) -> u64 {
        self.claims.in_flight_of(core)
    }

    /// Its counters.
    pub fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }
}
