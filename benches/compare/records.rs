//! The records that the control plane of this run sends: environments, and their pools.
//!
//! Each environment may have a pool of several deployments, so that a move is what it is in life: one record, to a
//! pool that is there. They are encoded once, as a store keeps them.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use repoint::model::change::{
    EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, RecordKey, SettingsRecord,
};
use repoint::model::deployment::HostHeader;
use repoint::model::id::{DeploymentId, EnvironmentId};
use repoint::model::manifest::Protocol;
use repoint::model::name::DeploymentRef;
use repoint::model::policy::Policy;
use repoint::model::pool::PoolKey;
use repoint::model::revision::Digest;
use repoint::wire::encode_record;
use uuid::Uuid;

use crate::peers::host;

/// All of them, in the order of their keys.
pub struct Records {
    environments: usize,
    encoded: Vec<Bytes>,
    digest: Digest,
}

impl Records {
    /// So many environments at these replicas, each with pools of so many deployments: the one it points at, and those
    /// after it.
    pub fn new(environments: usize, pools: usize, replicas: &[u16]) -> Self {
        let settings = SettingsRecord { base_domain: parsed("agents.example.com"), shared_hosts: Vec::new() };
        let environment = |n| Record::Environment(environment(n, n % replicas.len()));
        let pool = |n: usize, at: usize| {
            let deployment = (n + at) % replicas.len();
            Record::Pool(pool(n, deployment, replicas[deployment]))
        };
        let all = std::iter::once(Record::Settings(settings))
            .chain((0..environments).map(environment))
            .chain((0..environments).flat_map(|n| (0..pools).map(move |at| pool(n, at))));
        let mut digest = Digest::default();
        let encoded = all
            .map(|record| {
                let bytes = encode_record(&record);
                digest = digest.with(digest_of(record.key(), &bytes));
                bytes
            })
            .collect();
        Self { environments, encoded, digest }
    }

    pub fn environments(&self) -> usize {
        self.environments
    }

    /// What they add up to.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn all(&self) -> Vec<Bytes> {
        self.encoded.clone()
    }

    /// Replaces an environment by one that points elsewhere: its bytes, and the digests of old and new.
    pub fn moved(&mut self, n: usize, deployment: usize) -> (Bytes, Digest, Digest) {
        let record = Record::Environment(environment(n, deployment));
        let new = encode_record(&record);
        // The settings come first.
        let old = std::mem::replace(&mut self.encoded[1 + n], new.clone());
        let (old, added) = (digest_of(record.key(), &old), digest_of(record.key(), &new));
        self.digest = self.digest.without(old).with(added);
        (new, old, added)
    }
}

fn digest_of(key: RecordKey, bytes: &[u8]) -> Digest {
    Digest::of_record(&key.to_string(), bytes)
}

fn environment_id(n: usize) -> EnvironmentId {
    Uuid::from_u128(1 << 64 | n as u128).into()
}

fn deployment_id(k: usize) -> DeploymentId {
    Uuid::from_u128(2 << 64 | k as u128).into()
}

fn environment(n: usize, deployment: usize) -> EnvironmentRecord {
    EnvironmentRecord {
        id: environment_id(n),
        project: parsed("compare"),
        name: parsed(&format!("e{n}")),
        hosts: vec![parsed(&host(n))],
        pointer: Some(deployment_id(deployment)),
        policy: Policy::default(),
    }
}

fn pool(n: usize, deployment: usize, port: u16) -> PoolRecord {
    let id = (n as u128) << 8 | deployment as u128;
    PoolRecord {
        key: PoolKey { environment: environment_id(n), deployment: deployment_id(deployment) },
        reference: DeploymentRef::from_bytes((deployment as u64).to_ne_bytes()),
        state: PoolRecordState::Open,
        protocol: Protocol::Http1,
        host: HostHeader::Client,
        retry_on_reused_close: false,
        endpoints: vec![EndpointRecord {
            id: Uuid::from_u128(3 << 64 | id).into(),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            authority: None,
            secure: false,
            draining: false,
        }],
    }
}

fn parsed<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: fmt::Debug,
{
    text.parse().expect("made to be valid")
}
