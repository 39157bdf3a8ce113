//! Changes: from one table and a set of records to the next table.
//!
//! All or nothing: everything is checked against a copy that shares what it
//! does not touch, and the copy is thrown away when anything is wrong. Knows
//! nothing of streams or swaps; [`live`](crate::routing::live) publishes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::model::change::{EnvironmentRecord, PoolRecord, Record, RecordKey, SettingsRecord};
use crate::model::id::{EndpointId, EnvironmentId};
use crate::model::pool::PoolKey;
use crate::model::revision::{Digest, Revision};
use crate::routing::claim::Claims;
use crate::routing::index::Slot;
use crate::routing::route::{EnvironmentRoute, PoolRoute};
use crate::routing::table::Table;

/// One step of a change.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new or replaced record, with its digest.
    Upsert(Record, Digest),
    /// A record that is no more.
    Delete(RecordKey),
}

/// Why a change is refused. The table stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another store's history.
    #[error("apply a change of another lineage")]
    WrongLineage,
    /// It does not begin where this table stands.
    #[error("apply a change that begins at revision {from}: this table is at {have}")]
    Gap {
        /// Where the table stands.
        have: Revision,
        /// Where the change begins.
        from: Revision,
    },
    /// What it adds up to is not what the sender says.
    #[error("apply a change whose digest does not hold")]
    DigestMismatch,
    /// A record contradicts the others.
    #[error("apply {key}: {why}")]
    Invalid {
        /// Which record.
        key: RecordKey,
        /// What is wrong with it.
        why: String,
    },
}

/// Endpoints of one pool at most; more would make choosing costly.
const ENDPOINTS_MAX: usize = 1_000;
/// Hosts of one environment at most.
const HOSTS_MAX: usize = 1_000;

/// A table and what is needed to make the next one. Cloning the maps is never
/// needed: [`Draft`] holds the differences until they are known to be good.
pub(super) struct Master {
    pub(super) table: Table,
    pub(super) digest: Digest,
    digests: HashMap<RecordKey, Digest>,
    slots: HashMap<EnvironmentId, Slot>,
    free: FreeSlots,
    pub(super) pools: HashMap<PoolKey, Arc<PoolRoute>>,
    cores: usize,
    idle: Arc<Notify>,
}

/// Where counters are found that outlived their place in the table.
pub(super) trait Known {
    /// The pool of this key, as it was last routed to.
    fn pool(&self, key: PoolKey) -> Option<Arc<PoolRoute>>;
    /// The counters of this endpoint.
    fn endpoint(&self, id: EndpointId) -> Option<Arc<Claims>>;
}

/// A change that has been checked: the next table, and what differs.
pub(super) struct Draft {
    pub(super) table: Table,
    pub(super) digest: Digest,
    digests: HashMap<RecordKey, Option<Digest>>,
    slots: HashMap<EnvironmentId, Option<Slot>>,
    free: FreeSlots,
    pub(super) pools: HashMap<PoolKey, Option<Arc<PoolRoute>>>,
}

/// Slots are handed out densely: those given back first.
#[derive(Clone, Default)]
struct FreeSlots {
    returned: Vec<Slot>,
    next: Slot,
}

impl FreeSlots {
    fn take(&mut self) -> Slot {
        self.returned.pop().unwrap_or_else(|| {
            let slot = self.next;
            self.next = slot.checked_add(1).expect("fewer than 2^32 environments fit in memory");
            slot
        })
    }
}

/// The last word of a change on every record it touches.
#[derive(Default)]
struct Touched {
    digests: HashMap<RecordKey, Option<Digest>>,
    settings: Option<SettingsRecord>,
    environments: HashMap<EnvironmentId, Option<EnvironmentRecord>>,
    pools: HashMap<PoolKey, Option<PoolRecord>>,
}

impl Master {
    pub(super) fn new(cores: usize, idle: Arc<Notify>) -> Self {
        Self {
            table: Table::empty(),
            digest: Digest::default(),
            digests: HashMap::new(),
            slots: HashMap::new(),
            free: FreeSlots::default(),
            pools: HashMap::new(),
            cores,
            idle,
        }
    }

    /// An empty master that counts where this one does, for a snapshot.
    pub(super) fn emptied(&self) -> Self {
        Self::new(self.cores, Arc::clone(&self.idle))
    }

    /// Checks a change and builds the table after it. `known` finds counters to
    /// go on with, for what this master does not have.
    pub(super) fn draft(&self, revision: Revision, changes: Vec<Change>, known: &impl Known) -> Result<Draft, Refusal> {
        let touched = Touched::of(changes);
        let mut draft = Draft {
            table: Table { revision, ..self.table.clone() },
            digest: self.digest_after(&touched),
            digests: HashMap::new(),
            slots: HashMap::new(),
            free: self.free.clone(),
            pools: HashMap::new(),
        };
        self.draft_settings(&mut draft, &touched)?;
        for (key, record) in &touched.pools {
            let older = self.pools.get(key).cloned().or_else(|| known.pool(*key));
            let route = record.as_ref().map(|record| self.pool_route(record, older.as_deref(), known)).transpose()?;
            draft.pools.insert(*key, route);
        }
        self.draft_environments(&mut draft, &touched)?;
        draft.digests = touched.digests;
        Ok(draft)
    }

    /// Takes a draft over. The caller publishes its table.
    pub(super) fn adopt(&mut self, draft: Draft) {
        self.table = draft.table;
        self.digest = draft.digest;
        self.free = draft.free;
        merge(&mut self.digests, draft.digests);
        merge(&mut self.slots, draft.slots);
        merge(&mut self.pools, draft.pools);
    }

    fn digest_after(&self, touched: &Touched) -> Digest {
        touched.digests.iter().fold(self.digest, |digest, (key, next)| {
            let digest = self.digests.get(key).map_or(digest, |old| digest.without(*old));
            next.map_or(digest, |new| digest.with(new))
        })
    }

    fn draft_settings(&self, draft: &mut Draft, touched: &Touched) -> Result<(), Refusal> {
        if touched.digests.get(&RecordKey::Settings) == Some(&None) {
            return Err(invalid(RecordKey::Settings, "settings cannot be deleted"));
        }
        if let Some(settings) = &touched.settings {
            let hosts = std::iter::once(&settings.base_domain).chain(&settings.shared_hosts);
            draft.table.shared_hosts = Arc::new(hosts.map(|host| host.as_str().as_bytes().into()).collect());
            draft.table.settings = Some(Arc::new(settings.clone()));
        }
        match draft.table.settings {
            Some(_) => Ok(()),
            None => Err(invalid(RecordKey::Settings, "the first table must bring settings")),
        }
    }

    fn pool_route(
        &self,
        record: &PoolRecord,
        older: Option<&PoolRoute>,
        known: &impl Known,
    ) -> Result<Arc<PoolRoute>, Refusal> {
        if record.endpoints.len() > ENDPOINTS_MAX {
            let why = format!("{} endpoints are more than {ENDPOINTS_MAX}", record.endpoints.len());
            return Err(invalid(RecordKey::Pool(record.key), why));
        }
        let fresh = || Claims::new(self.cores, Arc::clone(&self.idle));
        let claims = older.map_or_else(fresh, |pool| Arc::clone(pool.claims()));
        let endpoint_claims = |id: EndpointId| {
            let older = older.and_then(|pool| pool.endpoints.iter().find(|endpoint| endpoint.id == id));
            // One that fell ill was left out of the record and may still hold requests.
            let older = older.map(|endpoint| Arc::clone(endpoint.claims())).or_else(|| known.endpoint(id));
            older.unwrap_or_else(fresh)
        };
        Ok(Arc::new(PoolRoute::new(record, claims, endpoint_claims)))
    }

    /// Builds every environment that a record of its own or of one of its pools
    /// touches. Old keys go first, so that a host may change hands in a change.
    fn draft_environments(&self, draft: &mut Draft, touched: &Touched) -> Result<(), Refusal> {
        let by_pool = touched.pools.keys().map(|key| key.environment);
        let ids: HashSet<_> = touched.environments.keys().copied().chain(by_pool).collect();
        for id in touched.environments.keys() {
            for key in self.route(*id).map(|route| keys(route.record())).unwrap_or_default() {
                draft.table.index.remove(&key);
            }
        }
        let mut added: HashMap<EnvironmentId, Vec<Arc<PoolRoute>>> = HashMap::new();
        for (key, pool) in &draft.pools {
            added.entry(key.environment).or_default().extend(pool.clone());
        }
        for id in ids {
            let record = match touched.environments.get(&id) {
                Some(record) => record.clone().map(Arc::new),
                None => self.route(id).map(|route| Arc::clone(route.record())),
            };
            let mut pools = added.remove(&id).unwrap_or_default();
            let kept = self.route(id).map(|route| route.pools()).unwrap_or_default();
            pools.extend(kept.iter().filter(|pool| !touched.pools.contains_key(&pool.key)).cloned());
            self.draft_environment(draft, id, record, pools, touched.environments.contains_key(&id))?;
        }
        Ok(())
    }

    fn draft_environment(
        &self,
        draft: &mut Draft,
        id: EnvironmentId,
        record: Option<Arc<EnvironmentRecord>>,
        pools: Vec<Arc<PoolRoute>>,
        rekeyed: bool,
    ) -> Result<(), Refusal> {
        let Some(record) = record else {
            if let Some(pool) = pools.first() {
                return Err(invalid(RecordKey::Pool(pool.key), "its environment is not in the table"));
            }
            if let Some(slot) = self.slots.get(&id) {
                draft.table.environments.set(*slot, None);
                draft.free.returned.push(*slot);
                draft.slots.insert(id, None);
            }
            return Ok(());
        };
        check_environment(&record, &pools)?;
        let slot = self.slots.get(&id).copied().unwrap_or_else(|| draft.free.take());
        draft.slots.insert(id, Some(slot));
        if rekeyed {
            for key in keys(&record) {
                if draft.table.index.insert(&key, slot).is_some_and(|other| other != slot) {
                    return Err(invalid(RecordKey::Environment(id), format!("{key} belongs to another environment")));
                }
            }
        }
        draft.table.environments.set(slot, Some(Arc::new(EnvironmentRoute::new(record, pools))));
        Ok(())
    }

    fn route(&self, id: EnvironmentId) -> Option<&Arc<EnvironmentRoute>> {
        self.table.environments.get(*self.slots.get(&id)?)
    }
}

impl Touched {
    fn of(changes: Vec<Change>) -> Self {
        let mut touched = Self::default();
        for change in changes {
            match change {
                Change::Upsert(record, digest) => {
                    touched.digests.insert(record.key(), Some(digest));
                    match record {
                        Record::Settings(settings) => touched.settings = Some(settings),
                        Record::Environment(record) => drop(touched.environments.insert(record.id, Some(record))),
                        Record::Pool(record) => drop(touched.pools.insert(record.key, Some(record))),
                    }
                }
                Change::Delete(key) => {
                    touched.digests.insert(key, None);
                    match key {
                        RecordKey::Settings => {}
                        RecordKey::Environment(id) => drop(touched.environments.insert(id, None)),
                        RecordKey::Pool(key) => drop(touched.pools.insert(key, None)),
                    }
                }
            }
        }
        touched
    }
}

/// What holds between an environment and its pools (rule 5 of the stream).
fn check_environment(record: &EnvironmentRecord, pools: &[Arc<PoolRoute>]) -> Result<(), Refusal> {
    let key = RecordKey::Environment(record.id);
    if record.hosts.len() > HOSTS_MAX {
        return Err(invalid(key, format!("{} hosts are more than {HOSTS_MAX}", record.hosts.len())));
    }
    match record.pointer {
        Some(pointer) if !pools.iter().any(|pool| pool.key.deployment == pointer) => {
            Err(invalid(key, format!("its pointer names {pointer}, which has no pool here")))
        }
        _ => Ok(()),
    }
}

/// Every key that leads to an environment.
fn keys(record: &EnvironmentRecord) -> Vec<String> {
    let names = format!("{}/{}", record.project, record.name);
    record.hosts.iter().map(|host| host.as_str().to_owned()).chain([names]).collect()
}

fn merge<K: std::hash::Hash + Eq, V>(into: &mut HashMap<K, V>, from: HashMap<K, Option<V>>) {
    for (key, value) in from {
        match value {
            Some(value) => drop(into.insert(key, value)),
            None => drop(into.remove(&key)),
        }
    }
}

fn invalid(key: RecordKey, why: impl Into<String>) -> Refusal {
    Refusal::Invalid { key, why: why.into() }
}
