//! A change set: what one committed change does to the routing tables.
//!
//! Upserts and deletes by key. The store derives it from the rows a transaction
//! touched, the stream carries it, `routing` applies it, all or nothing.

use std::net::SocketAddr;

use crate::model::deployment::HostHeader;
use crate::model::host::HostPattern;
use crate::model::id::{DeploymentId, EndpointId, EnvironmentId};
use crate::model::manifest::Protocol;
use crate::model::name::{DeploymentRef, EnvironmentName, ProjectName};
use crate::model::policy::Policy;
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;

/// What one committed change does.
#[derive(Clone, PartialEq, Debug)]
pub struct ChangeSet {
    /// The change's place in the log.
    pub revision: Revision,
    /// New or replaced records.
    pub upserts: Vec<Record>,
    /// Records that are no more.
    pub deletes: Vec<RecordKey>,
}

/// One record of the routing tables.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// What holds for every environment.
    Settings(SettingsRecord),
    /// An environment: how it is matched and what it points at.
    Environment(EnvironmentRecord),
    /// A pool: where its requests go.
    Pool(PoolRecord),
}

/// What a record is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RecordKey {
    /// The settings.
    Settings,
    /// An environment.
    Environment(EnvironmentId),
    /// A pool.
    Pool(PoolKey),
}

/// What holds for every environment.
#[derive(Clone, PartialEq, Debug)]
pub struct SettingsRecord {
    /// Parent of every host made from names.
    pub base_domain: HostPattern,
    /// Further hosts on which `X-Project` and `X-Environment` choose.
    pub shared_hosts: Vec<HostPattern>,
}

/// How an environment is matched and what it points at.
#[derive(Clone, PartialEq, Debug)]
pub struct EnvironmentRecord {
    /// Its id.
    pub id: EnvironmentId,
    /// Its project's name.
    pub project: ProjectName,
    /// Its name.
    pub name: EnvironmentName,
    /// Every host it answers to.
    pub hosts: Vec<HostPattern>,
    /// The deployment it serves.
    pub pointer: Option<DeploymentId>,
    /// What it asks of the ingress.
    pub policy: Policy,
}

/// Where a pool's requests go.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolRecord {
    /// What it is known by.
    pub key: PoolKey,
    /// The deployment's short name.
    pub reference: DeploymentRef,
    /// Whether it takes new requests.
    pub state: PoolRecordState,
    /// What its replicas speak.
    pub protocol: Protocol,
    /// Which `Host` they see.
    pub host: HostHeader,
    /// Whether a request may be sent again when a reused connection closed
    /// before it answered.
    pub retry_on_reused_close: bool,
    /// Where requests go.
    pub endpoints: Vec<EndpointRecord>,
}

/// Whether a pool takes new requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolRecordState {
    /// It does.
    Open,
    /// It finishes what it has.
    Closing,
}

/// One address that serves a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointRecord {
    /// Its id.
    pub id: EndpointId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its own `host:port`, where it was given as a URL.
    pub authority: Option<String>,
    /// Whether it is reached over TLS; then it has an authority, whose name it has to prove.
    pub secure: bool,
    /// Whether it finishes what it has and takes nothing new.
    pub draining: bool,
}

impl Record {
    /// What it is known by.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Settings(_) => RecordKey::Settings,
            Self::Environment(environment) => RecordKey::Environment(environment.id),
            Self::Pool(pool) => RecordKey::Pool(pool.key),
        }
    }
}

impl std::fmt::Display for RecordKey {
    /// The key as digests and the wire spell it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Settings => f.write_str("settings"),
            Self::Environment(id) => write!(f, "environment/{id}"),
            Self::Pool(key) => write!(f, "pool/{key}"),
        }
    }
}

impl std::str::FromStr for RecordKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let invalid = |_| InvalidKey(text.chars().take(128).collect());
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("settings"), None, ..) => Ok(Self::Settings),
            (Some("environment"), Some(id), None, _) => Ok(Self::Environment(id.parse().map_err(invalid)?)),
            (Some("pool"), Some(environment), Some(deployment), None) => Ok(Self::Pool(PoolKey {
                environment: environment.parse().map_err(invalid)?,
                deployment: deployment.parse().map_err(invalid)?,
            })),
            _ => Err(InvalidKey(text.chars().take(128).collect())),
        }
    }
}

/// Why a text is no record key. Reads as "failed to …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {0:?} as a record key")]
pub struct InvalidKey(String);

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn keys_survive_text() {
        let environment = Uuid::from_u128(1).into();
        let pool = PoolKey { environment, deployment: Uuid::from_u128(2).into() };
        for key in [RecordKey::Settings, RecordKey::Environment(environment), RecordKey::Pool(pool)] {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        for bad in ["", "settings/x", "environment", "environment/1", "pool/1/2/3", "secret/1"] {
            assert!(bad.parse::<RecordKey>().is_err(), "{bad}");
        }
    }
}
