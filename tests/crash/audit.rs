//! What a data directory says after a crash, held against itself.
//!
//! Reads a copy, so that the real binary does its own recovery. The sums and the
//! rules are written down here once more, shorter: agreeing with the product's
//! own functions would prove nothing.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use repoint::model::change::{Record, RecordKey};
use repoint::model::environment::Environment;
use repoint::model::id::DeploymentId;
use repoint::model::moves::PendingMove;
use repoint::model::pool::{EndpointState, Pool};
use repoint::model::promotion::{Kind, Promotion};
use repoint::model::revision::{Position, Revision};
use repoint::store::{Changes, Config, Page, Store};
use repoint::wire;
use sha2::{Digest as _, Sha256};

/// What a data directory holds.
pub struct Facts {
    pub head: Revision,
    pub environments: Vec<(Environment, Vec<Promotion>)>,
    pub pools: Vec<Pool>,
    pub waiting: Vec<PendingMove>,
}

impl Facts {
    /// The environment of this id, and its history, oldest first.
    #[track_caller]
    pub fn environment(&self, id: &str) -> &(Environment, Vec<Promotion>) {
        let found = self.environments.iter().find(|(environment, _)| environment.id.to_string() == id);
        found.unwrap_or_else(|| panic!("environment {id} is gone"))
    }

    /// The one pool of a deployment.
    #[track_caller]
    pub fn pool(&self, deployment: &str) -> &Pool {
        let found = self.pools.iter().find(|pool| pool.key.deployment.to_string() == deployment);
        found.unwrap_or_else(|| panic!("the pool of {deployment} is gone"))
    }
}

/// Reads the data directory of a server that is dead, and checks it.
pub fn audit(data_dir: &Path) -> Facts {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for name in ["repoint.db", "repoint.db-wal"] {
        let (from, to) = (data_dir.join(name), copy.path().join(name));
        if from.exists() {
            std::fs::copy(from, to).expect("there is room for a copy");
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let config = Config {
            data_dir: copy.path().to_owned(),
            base_domain: "localhost".parse().expect("a domain"),
            shared_hosts: Vec::new(),
        };
        let store = Store::open(&config).await.expect("it opens after a crash");
        let (head, records) = records(&store).await;
        let facts = facts(&store, head).await;
        store.close().await;
        check_history(&facts);
        check_records(&facts, records);
        facts
    })
}

/// The stored records, after checking that digest and log say the same.
async fn records(store: &Store) -> (Position, BTreeMap<String, Bytes>) {
    let stored = store.snapshot().await.expect("it can be read");
    let key = |bytes: &Bytes| wire::decode_record(bytes).expect("a record").key().to_string();
    let records: BTreeMap<_, _> = stored.records.iter().map(|bytes| (key(bytes), bytes.clone())).collect();
    assert_eq!(stored.position.digest.0, sum(&records), "the digest is that of the records");

    let log = store.changes_after(Revision(0), usize::MAX).await.expect("it can be read");
    let Changes::Log(log) = log else { panic!("the log is short enough to reach back to the beginning") };
    let mut replayed = BTreeMap::new();
    for (at, change) in log.iter().enumerate() {
        let decoded = wire::decode_change_set(&change.bytes).expect("a change set");
        assert_eq!((decoded.revision.0, change.position.revision.0), (at as u64 + 1, at as u64 + 1), "no hole");
        replayed.extend(decoded.upserts.into_iter().map(|(record, bytes)| (record.key().to_string(), bytes)));
        for key in decoded.deletes {
            assert!(replayed.remove(&key.to_string()).is_some(), "what is deleted was there: {key}");
        }
        assert_eq!(change.position.digest.0, sum(&replayed), "the digest after revision {}", at + 1);
    }
    assert_eq!(stored.position.revision.0, log.len() as u64, "the head is the newest change");
    assert!(replayed == records, "the log leads to the records");
    (stored.position, records)
}

/// Sum modulo 2^128 of the first 16 bytes of SHA-256(key ‖ 0 ‖ bytes).
fn sum(records: &BTreeMap<String, Bytes>) -> u128 {
    records.iter().fold(0, |sum: u128, (key, bytes)| {
        let hash = Sha256::digest([key.as_bytes(), &[0], bytes].concat());
        sum.wrapping_add(u128::from_be_bytes(hash[..16].try_into().expect("sixteen of thirty-two")))
    })
}

async fn facts(store: &Store, head: Position) -> Facts {
    let mut tx = store.read().await.expect("it can be read");
    let all = Page { limit: 10_000, after: None };
    let mut environments = Vec::new();
    for environment in tx.environments(None, &all).await.expect("it can be read").items {
        let mut history = tx.promotions(environment.id, &all).await.expect("it can be read").items;
        history.reverse();
        environments.push((environment, history));
    }
    let pools = tx.pools().await.expect("it can be read");
    let waiting = tx.waiting_moves().await.expect("it can be read");
    Facts { head: head.revision, environments, pools, waiting }
}

fn check_history(facts: &Facts) {
    for (environment, history) in &facts.environments {
        let of = &environment.name;
        assert_eq!(environment.pointer, history.last().map(|row| row.to), "{of}: the pointer is the newest row's");
        let (mut before, mut revision) = (None, Revision(0));
        for (at, row) in history.iter().enumerate() {
            assert_eq!(row.sequence, at as u64 + 1, "{of}: no hole");
            assert_eq!(row.from, before, "{of}: each row begins where the one before ended");
            assert!(revision < row.revision && row.revision <= facts.head, "{of}: revisions grow up to the head");
            assert!(row.requested_at <= row.committed_at, "{of}: asked for before it was done");
            (before, revision) = (Some(row.to), row.revision);
        }
        let waiting = facts.waiting.iter().filter(|waiting| waiting.environment == environment.id).count();
        assert!(waiting <= 1, "{of}: at most one move waits");
    }
}

/// What a rollback goes back to: a promotion goes on top, a rollback takes off.
pub fn rollback_target(history: &[Promotion]) -> Option<DeploymentId> {
    let mut stack = Vec::new();
    for row in history {
        match row.kind {
            Kind::Deploy | Kind::Promote => stack.push(row.to),
            Kind::Rollback => {
                stack.pop();
                while stack.last().is_some_and(|top| *top != row.to) {
                    stack.pop();
                }
            }
        }
    }
    let top = stack.pop()?;
    stack.into_iter().rev().find(|below| *below != top)
}

/// Each environment and each pool has the record that its row asks for.
fn check_records(facts: &Facts, mut records: BTreeMap<String, Bytes>) {
    let mut take = |key: RecordKey| {
        let bytes = records.remove(&key.to_string());
        bytes.map(|bytes| wire::decode_record(&bytes).expect("a record"))
    };
    assert!(take(RecordKey::Settings).is_some(), "settings have a record");
    for (environment, _) in &facts.environments {
        let Some(Record::Environment(record)) = take(RecordKey::Environment(environment.id)) else {
            panic!("{} has a record", environment.name)
        };
        assert_eq!((record.pointer, &record.hosts), (environment.pointer, &environment.hosts), "{}", environment.name);
    }
    for pool in &facts.pools {
        let pointed = facts.environments.iter().any(|(environment, _)| {
            environment.id == pool.key.environment && environment.pointer == Some(pool.key.deployment)
        });
        let record = take(RecordKey::Pool(pool.key));
        let Some(Record::Pool(record)) = record else {
            assert!(!pool.state.is_wanted() && !pointed, "{} has a record: {:?}", pool.key, pool.state);
            continue;
        };
        let open = record.state == repoint::model::change::PoolRecordState::Open;
        assert_eq!(open, pool.state.is_wanted(), "{}: {:?}", pool.key, pool.state);
        let mut expected: Vec<_> = pool
            .endpoints
            .iter()
            .filter(|endpoint| open && endpoint.state != EndpointState::Unready)
            .map(|endpoint| (endpoint.id, endpoint.address, endpoint.state == EndpointState::Draining))
            .collect();
        expected.sort();
        let found: Vec<_> = record.endpoints.iter().map(|at| (at.id, at.address, at.draining)).collect();
        assert!(!open || found == expected, "{}: {found:?}, not {expected:?}", pool.key);
    }
    assert!(records.is_empty(), "records of nothing: {:?}", records.keys());
}
