//! A pool as a table holds it: where the requests of one deployment in one
//! environment go, and the way to its counters.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::model::change::{EndpointRecord, PoolRecord, PoolRecordState};
use crate::model::deployment::HostHeader;
use crate::model::id::EndpointId;
use crate::model::manifest::Protocol;
use crate::model::pool::PoolKey;
use crate::model::revision::Digest;
use crate::routing::claim::{Claim, Claims};
use crate::routing::counters::{Counters, Counting};

/// A pool: where the requests of one deployment in one environment go.
// In this order: what a request reads first comes first.
#[repr(C)]
pub struct PoolRoute {
    state: State,
    /// Whether its environment's pointer leads here, as of its table.
    pub(super) is_current: bool,
    /// What its replicas speak.
    pub protocol: Protocol,
    /// Which `Host` they see.
    pub host: HostHeader,
    /// Whether a request may be sent again when a reused connection closed
    /// before it answered.
    pub retry_on_reused_close: bool,
    /// What it is known by.
    pub key: PoolKey,
    /// Made by the first claim, or for the next route to this pool.
    counters: OnceLock<Arc<Counters>>,
    /// Where requests go.
    pub endpoints: Endpoints,
    counting: Arc<Counting>,
    reference: [u8; 8],
    digest: [u8; 16],
}

/// As wide as it is so that an absent pool is told by this field: by another's
/// spare values, in a later cache line, every resolve would wait for that too.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum State {
    Open,
    Closing,
}

impl From<PoolRecordState> for State {
    fn from(state: PoolRecordState) -> Self {
        match state {
            PoolRecordState::Open => Self::Open,
            PoolRecordState::Closing => Self::Closing,
        }
    }
}

impl PoolRoute {
    /// A route from a record; with the counters of the last route to this pool,
    /// where there was one.
    pub(super) fn new(
        record: PoolRecord,
        digest: Digest,
        counting: Arc<Counting>,
        counters: Option<Arc<Counters>>,
    ) -> Self {
        let mut reference = [0; 8];
        reference.iter_mut().zip(record.reference.as_str().bytes()).for_each(|(to, byte)| *to = byte);
        Self {
            key: record.key,
            endpoints: Endpoints::new(record.endpoints),
            protocol: record.protocol,
            host: record.host,
            retry_on_reused_close: record.retry_on_reused_close,
            state: record.state.into(),
            is_current: false,
            reference,
            digest: digest.0.to_ne_bytes(),
            counting,
            counters: counters.map(OnceLock::from).unwrap_or_default(),
        }
    }

    /// The same for the next route to its environment, counting with the same
    /// counters.
    pub(super) fn again(&self) -> Self {
        Self {
            key: self.key,
            endpoints: self.endpoints.clone(),
            protocol: self.protocol,
            host: self.host,
            retry_on_reused_close: self.retry_on_reused_close,
            state: self.state,
            is_current: self.is_current,
            reference: self.reference,
            digest: self.digest,
            counting: Arc::clone(&self.counting),
            counters: OnceLock::from(Arc::clone(self.counters())),
        }
    }

    /// Takes a claim for a request on `core`; `None` when the pool is closing.
    pub fn claim(&self, core: usize) -> Option<Claim> {
        let claims = &self.counters().pool;
        let claim = claims.claim(core)?;
        if claim.is_first() {
            self.counting.first_claimed(self.key, claims);
        }
        Some(claim)
    }

    /// Takes a claim on the endpoint at this place for a request on `core`;
    /// `None` when it is draining.
    pub fn claim_endpoint(&self, at: usize, core: usize) -> Option<Claim> {
        self.counters().endpoints.get(at)?.claim(core)
    }

    /// Running claims, as far as `core` sees them without asking the others.
    pub fn in_flight_of(&self, core: usize) -> u64 {
        self.counters.get().map_or(0, |counters| counters.pool.in_flight_of(core))
    }

    /// Running claims of this core on the endpoint at this place.
    pub fn endpoint_in_flight(&self, at: usize, core: usize) -> u64 {
        let counters = self.counters.get().and_then(|counters| counters.endpoints.get(at));
        counters.map_or(0, |claims| claims.in_flight_of(core))
    }

    /// Whether it takes new requests, as of its table.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The deployment's id as text, for headers.
    pub fn deployment_text(&self) -> DeploymentText {
        DeploymentText::of(self.key.deployment.uuid())
    }

    /// The deployment's ref.
    pub fn reference(&self) -> &str {
        // Refs are ASCII: nothing else can be built.
        std::str::from_utf8(&self.reference).unwrap_or_default()
    }

    /// Running claims of all cores on the endpoint at this place.
    pub fn endpoint_load(&self, at: usize) -> u64 {
        let counters = self.counters.get().and_then(|counters| counters.endpoints.get(at));
        counters.map_or(0, |claims| claims.in_flight())
    }

    /// Running claims of all cores.
    pub fn load(&self) -> u64 {
        self.counters.get().map_or(0, |counters| counters.pool.in_flight())
    }

    /// Its counters, made now if nobody needed them before.
    pub(super) fn counters(&self) -> &Arc<Counters> {
        self.counters.get_or_init(|| self.counting.counters(self.endpoints.len()))
    }

    /// Its counters, where there are any.
    pub(super) fn counters_made(&self) -> Option<&Arc<Counters>> {
        self.counters.get()
    }

    /// Its endpoints, each with its counters.
    pub(super) fn counted_endpoints<'a>(
        &'a self,
        counters: &'a Counters,
    ) -> impl Iterator<Item = (&'a EndpointRoute, &'a Arc<Claims>)> {
        self.endpoints.iter().zip(&counters.endpoints)
    }

    /// The digest of the record it was read from.
    pub(super) fn digest(&self) -> Digest {
        Digest(u128::from_ne_bytes(self.digest))
    }

    /// Whether this is its deployment's id, in any case, or its ref.
    pub(super) fn is_named(&self, id_or_ref: &[u8]) -> bool {
        self.reference == id_or_ref || self.deployment_text().as_bytes().eq_ignore_ascii_case(id_or_ref)
    }
}

/// One address that serves a pool.
#[derive(Clone, Debug)]
pub struct EndpointRoute {
    /// Its id.
    pub id: EndpointId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its own `host:port`, where it was given as a URL.
    pub authority: Option<Arc<String>>,
    /// Whether it is reached over TLS, as what its authority names.
    pub secure: bool,
    /// Whether it finishes what it has and takes nothing new, as of its table.
    pub draining: bool,
}

/// The endpoints of a pool: in place where there is one, as there mostly is.
#[derive(Clone, Debug)]
pub enum Endpoints {
    /// One.
    One(EndpointRoute),
    /// None or several; routes to the same pool share them.
    Several(Arc<[EndpointRoute]>),
}

impl Endpoints {
    fn new(records: Vec<EndpointRecord>) -> Self {
        let route = |record: EndpointRecord| EndpointRoute {
            id: record.id,
            address: record.address,
            authority: record.authority.map(Arc::new),
            secure: record.secure,
            draining: record.draining,
        };
        match <[EndpointRecord; 1]>::try_from(records) {
            Ok([record]) => Self::One(route(record)),
            Err(records) => Self::Several(records.into_iter().map(route).collect()),
        }
    }
}

impl Deref for Endpoints {
    type Target = [EndpointRoute];

    fn deref(&self) -> &[EndpointRoute] {
        match self {
            Self::One(endpoint) => std::slice::from_ref(endpoint),
            Self::Several(endpoints) => endpoints,
        }
    }
}

/// A deployment's id as text.
#[derive(Clone, Copy)]
pub struct DeploymentText([u8; Hyphenated::LENGTH]);

impl DeploymentText {
    /// Of this id.
    pub fn of(id: Uuid) -> Self {
        let mut text = [0; Hyphenated::LENGTH];
        id.as_hyphenated().encode_lower(&mut text);
        Self(text)
    }

    /// ASCII, without another look at it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for DeploymentText {
    type Target = str;

    fn deref(&self) -> &str {
        // Written as ASCII above.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}
