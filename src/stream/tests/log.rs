//! A change log in memory that also holds changes no store would commit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use crate::model::change::{
    EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, RecordKey, SettingsRecord,
};
use crate::model::deployment::HostHeader;
use crate::model::id::{DeploymentId, EnvironmentId, Lineage};
use crate::model::manifest::Protocol;
use crate::model::member::{MemberKey, StoredMember};
use crate::model::name::DeploymentRef;
use crate::model::policy::Policy;
use crate::model::pool::PoolKey;
use crate::model::revision::{Digest, Position, Revision};
use crate::store::{Changes, Error, LoggedChange, MembersChange, Snapshot};
use crate::stream::source::Source;
use crate::wire::{assemble_change_set, encode_record};

/// The log. Cloning shares.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Mutex<Inner>>,
    head: Arc<watch::Sender<Position>>,
}

struct Inner {
    records: BTreeMap<RecordKey, Bytes>,
    changes: Vec<LoggedChange>,
    floor: Revision,
    /// Every position there was, and the records there.
    past: Vec<(Position, BTreeMap<RecordKey, Bytes>)>,
    members: BTreeMap<MemberKey, StoredMember>,
    /// Members cannot be written.
    is_full: bool,
    mass_change_at: Revision,
}

impl Log {
    /// A log whose first change brings the settings.
    pub fn new(lineage: u128) -> Self {
        let head = Position { lineage: lineage_of(lineage), revision: Revision(0), digest: Digest::default() };
        let inner = Inner {
            records: BTreeMap::new(),
            changes: Vec::new(),
            floor: Revision(0),
            past: Vec::new(),
            members: BTreeMap::new(),
            is_full: false,
            mass_change_at: Revision(0),
        };
        let log = Self { inner: Arc::new(Mutex::new(inner)), head: Arc::new(watch::Sender::new(head)) };
        log.commit(vec![settings()], &[]);
        log
    }

    pub fn head(&self) -> Position {
        *self.head.borrow()
    }

    pub fn commit(&self, upserts: Vec<Record>, deletes: &[RecordKey]) -> Position {
        self.commit_as(self.head().revision.next(), upserts, deletes)
    }

    /// The same under a number that was chosen before, as no store may.
    pub fn commit_as(&self, revision: Revision, upserts: Vec<Record>, deletes: &[RecordKey]) -> Position {
        let mut inner = self.inner();
        let mut head = self.head();
        head.revision = revision.max(head.revision);
        let mut encoded = Vec::new();
        for record in upserts {
            let bytes = encode_record(&record);
            head.digest = inner.put(head.digest, record.key(), Some(bytes.clone()));
            encoded.push(bytes);
        }
        for key in deletes {
            head.digest = inner.put(head.digest, *key, None);
        }
        let bytes = assemble_change_set(revision, encoded, deletes);
        inner.changes.push(LoggedChange { position: Position { revision, ..head }, bytes });
        inner.changes.sort_by_key(|change| change.position.revision);
        inner.remember(head);
        drop(inner);
        self.head.send_replace(head);
        head
    }

    /// The same records as another history, as after a restore.
    pub fn restore(&self, lineage: u128) {
        let mut inner = self.inner();
        let mut head = self.head();
        head.lineage = lineage_of(lineage);
        head.revision = Revision(1);
        inner.changes.clear();
        inner.floor = head.revision;
        inner.past.clear();
        inner.remember(head);
        drop(inner);
        self.head.send_replace(head);
    }

    /// An older copy of the store takes its place, under the same lineage.
    pub fn copy_back(&self, changes: usize) {
        let mut inner = self.inner();
        let kept = inner.past.len().saturating_sub(changes).max(1);
        inner.past.truncate(kept);
        let (head, records) = inner.past[kept - 1].clone();
        inner.records = records;
        inner.changes.retain(|change| change.position.revision <= head.revision);
        inner.floor = inner.floor.min(head.revision);
        drop(inner);
        self.head.send_replace(head);
    }

    /// Members that were written down.
    pub fn members(&self) -> Vec<MemberKey> {
        self.inner().members.keys().cloned().collect()
    }

    /// The same with what was written of them.
    pub fn stored_members(&self) -> Vec<StoredMember> {
        self.inner().members.values().cloned().collect()
    }

    /// A revision that the log has not got although it has a later one.
    pub fn gap(&self) -> Option<Revision> {
        let inner = self.inner();
        let mut last = inner.floor;
        for change in &inner.changes {
            if change.position.revision != last.next() {
                return Some(last.next());
            }
            last = last.next();
        }
        None
    }

    /// Whether members can be written from now on.
    pub fn set_full(&self, is_full: bool) {
        self.inner().is_full = is_full;
    }

    /// Somebody allows the state as it stands, with a change that says nothing else.
    pub fn stamp(&self) -> Position {
        let stamped = self.commit(Vec::new(), &[]);
        self.inner().mass_change_at = stamped.revision;
        stamped
    }

    /// Whether the history has ever been there.
    pub fn has_been_at(&self, position: Position) -> bool {
        self.inner().past.iter().any(|(past, _)| *past == position)
    }

    /// Forgets how it came about.
    pub fn trim(&self) {
        let mut inner = self.inner();
        inner.floor = self.head().revision;
        inner.changes.clear();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn changes(&self, after: Revision, bytes_max: usize) -> Changes {
        let inner = self.inner();
        if after < inner.floor {
            return Changes::BehindFloor;
        }
        let mut bytes = 0;
        let mut found = Vec::new();
        for change in inner.changes.iter().filter(|change| change.position.revision > after) {
            bytes += change.bytes.len();
            found.push(change.clone());
            if bytes > bytes_max {
                break;
            }
        }
        Changes::Log(found)
    }

    pub fn position(&self, revision: Revision) -> Option<Position> {
        let inner = self.inner();
        let head = self.head();
        if revision == head.revision {
            return Some(head);
        }
        inner.changes.iter().map(|change| change.position).find(|position| position.revision == revision)
    }

    pub fn whole(&self) -> Snapshot {
        let inner = self.inner();
        let records = inner.records.values().cloned().collect();
        Snapshot { position: self.head(), records, mass_change_at: inner.mass_change_at }
    }
}

impl Inner {
    fn remember(&mut self, position: Position) {
        let records = self.records.clone();
        self.past.push((position, records));
    }

    fn put(&mut self, digest: Digest, key: RecordKey, bytes: Option<Bytes>) -> Digest {
        let of = |bytes: &Bytes| Digest::of_record(&key.to_string(), bytes);
        let with = bytes.as_ref().map_or(digest, |bytes| digest.with(of(bytes)));
        let old = match bytes {
            Some(bytes) => self.records.insert(key, bytes),
            None => self.records.remove(&key),
        };
        old.as_ref().map_or(with, |old| with.without(of(old)))
    }
}

impl Source for Log {
    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    async fn changes_after(&self, after: Revision, bytes_max: usize) -> Result<Changes, Error> {
        Ok(self.changes(after, bytes_max))
    }

    async fn position_at(&self, revision: Revision) -> Result<Option<Position>, Error> {
        Ok(self.position(revision))
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(self.whole())
    }

    async fn keep_members(&self, change: MembersChange) -> Result<(), Error> {
        let mut inner = self.inner();
        if inner.is_full {
            return Err(Error::Busy);
        }
        inner.members.retain(|key, _| !change.departed.contains(key));
        inner.members.extend(change.arrived.into_iter().map(|member| (member.key.clone(), member)));
        for member in change.heard {
            inner.members.entry(member.key.clone()).and_modify(|stored| *stored = member);
        }
        Ok(())
    }
}

// Records by number.

pub fn lineage_of(n: u128) -> Lineage {
    Uuid::from_u128(n).into()
}

fn settings() -> Record {
    let base_domain = "localhost".parse().unwrap();
    Record::Settings(SettingsRecord { base_domain, shared_hosts: Vec::new() })
}

pub fn environment_id(n: u8) -> EnvironmentId {
    Uuid::from_u128(100 + u128::from(n)).into()
}

pub fn deployment_id(n: u8) -> DeploymentId {
    Uuid::from_u128(1_000 + u128::from(n)).into()
}

pub fn pool_key(environment: u8, deployment: u8) -> PoolKey {
    PoolKey { environment: environment_id(environment), deployment: deployment_id(deployment) }
}

/// An environment that points at a deployment.
pub fn environment(n: u8, pointer: Option<u8>) -> Record {
    Record::Environment(EnvironmentRecord {
        id: environment_id(n),
        project: "support".parse().unwrap(),
        name: format!("e{n}").parse().unwrap(),
        hosts: vec![host(n).parse().unwrap()],
        pointer: pointer.map(deployment_id),
        policy: Policy::default(),
    })
}

/// The environment's host.
pub fn host(n: u8) -> String {
    format!("support-e{n}.localhost")
}

/// A pool with one endpoint.
pub fn pool(environment: u8, deployment: u8, state: PoolRecordState) -> Record {
    let id = 10_000 + 256 * u128::from(environment) + u128::from(deployment);
    Record::Pool(PoolRecord {
        key: pool_key(environment, deployment),
        reference: DeploymentRef::from_bytes([deployment; 8]),
        state,
        protocol: Protocol::Http1,
        host: HostHeader::Client,
        retry_on_reused_close: false,
        endpoints: vec![EndpointRecord {
            id: Uuid::from_u128(id).into(),
            address: "127.0.0.1:9001".parse().unwrap(),
            authority: None,
            secure: false,
            draining: false,
        }],
    })
}

/// A move: the pool and the pointer to it.
pub fn moved(n: u8, deployment: u8) -> Vec<Record> {
    vec![pool(n, deployment, PoolRecordState::Open), environment(n, Some(deployment))]
}
