//! What the simulated store holds: pointers, pools and their replicas, by number.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::model::change::{EndpointRecord, PoolRecord, PoolRecordState, Record, RecordKey};
use crate::model::deployment::HostHeader;
use crate::model::id::EndpointId;
use crate::model::manifest::Protocol;
use crate::model::name::DeploymentRef;
use crate::stream::tests::log::{environment, pool_key};

/// Everything at one revision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// The deployment each environment points at.
    pub pointers: BTreeMap<u8, u8>,
    /// Pools by environment and deployment.
    pub pools: BTreeMap<Key, Pool>,
    /// One more environment points at what does not exist, which every proxy
    /// refuses and no store would commit.
    pub is_spoiled: bool,
}

/// The environment that nobody asks for.
const SPOILED: u8 = 99;
/// Environments are numbered below this.
pub const ENVIRONMENTS: u8 = 3;
/// And deployments.
pub const DEPLOYMENTS: u8 = 6;

/// Environment and deployment.
pub type Key = (u8, u8);

/// A pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    pub is_open: bool,
    /// Whether each replica is draining.
    pub endpoints: BTreeMap<u64, bool>,
}

impl State {
    /// What has to be committed to get from here to `next`.
    pub fn changes_to(&self, next: &Self) -> (Vec<Record>, Vec<RecordKey>) {
        let mut upserts = Vec::new();
        for (key, pool) in next.pools.iter().filter(|(key, pool)| self.pools.get(key) != Some(pool)) {
            upserts.push(record(*key, pool));
        }
        for (n, deployment) in next.pointers.iter().filter(|(n, to)| self.pointers.get(n) != Some(to)) {
            upserts.push(environment(*n, Some(*deployment)));
        }
        if self.is_spoiled != next.is_spoiled {
            upserts.push(environment(SPOILED, next.is_spoiled.then_some(u8::MAX)));
        }
        let gone = self.pools.keys().filter(|key| !next.pools.contains_key(key));
        (upserts, gone.map(|(n, deployment)| RecordKey::Pool(pool_key(*n, *deployment))).collect())
    }

    /// Whether nothing points at a pool.
    pub fn is_free(&self, (n, deployment): Key) -> bool {
        self.pointers.get(&n) != Some(&deployment)
    }
}

/// A replica's endpoint.
pub fn endpoint_id(replica: u64) -> EndpointId {
    Uuid::from_u128(1_000_000 + u128::from(replica)).into()
}

fn record((n, deployment): Key, pool: &Pool) -> Record {
    let endpoint = |(replica, draining): (&u64, &bool)| EndpointRecord {
        id: endpoint_id(*replica),
        address: "127.0.0.1:9001".parse().unwrap(),
        authority: None,
        secure: false,
        draining: *draining,
    };
    Record::Pool(PoolRecord {
        key: pool_key(n, deployment),
        reference: DeploymentRef::from_bytes([deployment; 8]),
        state: if pool.is_open { PoolRecordState::Open } else { PoolRecordState::Closing },
        protocol: Protocol::Http1,
        host: HostHeader::Client,
        retry_on_reused_close: false,
        endpoints: pool.endpoints.iter().map(endpoint).collect(),
    })
}
