//! Drafts: from one table and a change to the next table.
//!
//! All or nothing: everything is checked against a copy that shares what it
//! does not touch, and the copy is thrown away when anything is wrong. Knows
//! nothing of streams or swaps; [`live`](crate::routing::live) publishes.

use std::sync::Arc;

use crate::model::change::{EnvironmentRecord, PoolRecord, Record, RecordKey};
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::mass_change::MassChange;
use crate::model::policy::Policy;
use crate::model::revision::{Digest, Revision};
use crate::routing::change::{Change, Group, Ordered, Refusal};
use crate::routing::closed::Closed;
use crate::routing::counters::{Counters, Counting};
use crate::routing::environments::Environments;
use crate::routing::index::Slot;
use crate::routing::pool::PoolRoute;
use crate::routing::route::{EnvironmentRoute, Facts, Head};
use crate::routing::table::Table;

/// Endpoints of one pool at most; more would make choosing costly.
const ENDPOINTS_MAX: usize = 1_000;
/// Hosts of one environment at most; each is looked up again when a pointer moves.
const HOSTS_MAX: usize = 1_000;
/// Policies that are looked through for an equal one at most.
const POLICIES_MAX: usize = 64;

/// A table and what is needed to make the next one.
pub(super) struct Master {
    pub(super) table: Table,
    pub(super) digest: Digest,
    pub(super) counting: Arc<Counting>,
    settings: Option<Digest>,
    free: Vec<Slot>,
    slots: Slot,
    policies: Vec<Arc<Policy>>,
}

/// A change that has been checked: the next table, and what differs.
pub(super) struct Next {
    pub(super) digest: Digest,
    pub(super) changed: Vec<Changed>,
    table: Table,
    settings: Option<Digest>,
    /// Slots were handed out: so many that were free, so many that are new.
    free_taken: usize,
    free_added: Vec<Slot>,
    slots: Slot,
    policies: Vec<Arc<Policy>>,
}

/// An environment before and after a change.
pub(super) struct Changed {
    pub(super) old: Option<Arc<EnvironmentRoute>>,
    pub(super) new: Option<Arc<EnvironmentRoute>>,
}

impl Next {
    /// What of an older table is not in this one. Pools without endpoints are
    /// not counted: they go every day.
    pub(super) fn lacks(&self, older: &Table) -> MassChange {
        let mut lacks = MassChange::default();
        for old in older.environments.iter() {
            let new = self.table.environments.by_id(old.id);
            lacks.environments.of += 1;
            lacks.environments.gone += u64::from(new.is_none());
            for pool in old.pools() {
                let is_there = new.is_some_and(|new| new.pool_of(pool.key.deployment).is_some());
                lacks.pools.of += 1;
                lacks.pools.gone += u64::from(!is_there && !pool.endpoints.is_empty());
            }
        }
        lacks
    }
}

impl Master {
    pub(super) fn new(counting: Arc<Counting>) -> Self {
        Self {
            table: Table::empty(),
            digest: Digest::default(),
            counting,
            settings: None,
            free: Vec::new(),
            slots: 0,
            policies: Vec::new(),
        }
    }

    /// Checks a change and builds the table after it. `closed` has counters to
    /// go on with, for what is gone from this table.
    pub(super) fn draft(&self, revision: Revision, changes: Vec<Change>, closed: &Closed) -> Result<Next, Refusal> {
        Draft { base: self, older: self, closed, next: self.next(revision) }.carry_out(Ordered::new(changes))
    }

    /// The same for a snapshot, which says everything: what it does not name is
    /// gone. What it leaves as it was keeps its route and its counters.
    pub(super) fn redraft(
        &self,
        revision: Revision,
        records: Vec<(Record, Digest)>,
        closed: &Closed,
    ) -> Result<(Self, Next), Refusal> {
        let changes =
            Ordered::new(records.into_iter().map(|(record, digest)| Change::Upsert(record, digest)).collect());
        let is_environment = |step: &&Change| matches!(step.key(), RecordKey::Environment(_));
        let mut base = Self::new(Arc::clone(&self.counting));
        base.table.environments = Environments::with_capacity(changes.steps().filter(is_environment).count());
        base.policies.clone_from(&self.policies);
        let mut next = Draft { base: &base, older: self, closed, next: base.next(revision) }.carry_out(changes)?;
        let is_gone = |old: &&Arc<EnvironmentRoute>| next.table.environments.by_id(old.id).is_none();
        let gone: Vec<_> = self.table.environments.iter().filter(is_gone).cloned().collect();
        next.changed.extend(gone.into_iter().map(|old| Changed { old: Some(old), new: None }));
        Ok((base, next))
    }

    /// Takes a draft over. The caller publishes its table.
    pub(super) fn adopt(&mut self, next: Next) -> Vec<Changed> {
        self.table = next.table;
        self.digest = next.digest;
        self.settings = next.settings;
        self.free.truncate(self.free.len() - next.free_taken);
        self.free.extend(next.free_added);
        self.slots = next.slots;
        self.policies = next.policies;
        next.changed
    }

    fn next(&self, revision: Revision) -> Next {
        Next {
            digest: self.digest,
            changed: Vec::new(),
            table: Table { revision, ..self.table.clone() },
            settings: self.settings,
            free_taken: 0,
            free_added: Vec::new(),
            slots: self.slots,
            policies: self.policies.clone(),
        }
    }
}

struct Draft<'a> {
    /// What the change is applied to.
    base: &'a Master,
    /// What is in force: the same, but for a snapshot.
    older: &'a Master,
    closed: &'a Closed,
    next: Next,
}

/// What a group asks for.
struct Asked {
    /// The environment's record, where the change has one; `None` inside: gone.
    environment: Option<Option<(EnvironmentRecord, Digest)>>,
    pools: Vec<(DeploymentId, Option<(PoolRecord, Digest)>)>,
}

impl Draft<'_> {
    fn carry_out(mut self, changes: Ordered) -> Result<Next, Refusal> {
        // Old keys go first, so that a host may change hands in a change.
        changes.steps().for_each(|step| self.remove_keys(step));
        let (settings, groups) = changes.into_parts();
        self.settings(settings)?;
        for group in groups {
            self.environment(group)?;
        }
        Ok(self.next)
    }

    /// Takes out the keys that lead to an environment now, unless they stay.
    fn remove_keys(&mut self, step: &Change) {
        let RecordKey::Environment(id) = step.key() else { return };
        let environments = &mut self.next.table.environments;
        let Some(slot) = environments.slot_of(id) else { return };
        let Some(route) = self.base.table.environments.by_id(id) else { return };
        let stays = match step {
            Change::Upsert(Record::Environment(record), _) => route.head().is_matched_by(record),
            Change::Upsert(..) | Change::Delete(_) => false,
        };
        if !stays {
            environments.remove_keys(slot, route);
        }
    }

    fn settings(&mut self, step: Option<Change>) -> Result<(), Refusal> {
        match step {
            Some(Change::Upsert(Record::Settings(settings), digest)) => {
                self.next.exchange_digest(self.base.settings, Some(digest));
                self.next.settings = Some(digest);
                self.next.table.set_settings(settings);
            }
            Some(_) => return Err(invalid(RecordKey::Settings, "settings cannot be deleted")),
            None => {}
        }
        match self.next.table.settings {
            Some(_) => Ok(()),
            None => Err(invalid(RecordKey::Settings, "the first table must bring settings")),
        }
    }

    /// Builds an environment that a record of its own or of one of its pools
    /// touches.
    fn environment(&mut self, group: Group) -> Result<(), Refusal> {
        let id = group.id;
        let asked = Asked::new(group.steps);
        let slot = self.base.table.environments.slot_of(id);
        let base = self.base.table.environments.by_id(id).cloned();
        self.exchange_digests(&asked, base.as_deref());
        let older = self.older.table.environments.by_id(id).cloned();
        if let Some(same) = older.as_ref().filter(|older| asked.is_all_of(older)) {
            return self.put(slot, same, base.as_deref());
        }
        let deployments = asked.pools.iter().map(|(deployment, _)| *deployment).collect::<Vec<_>>();
        let mut pools = Vec::new();
        for (record, digest) in asked.pools.into_iter().filter_map(|(_, pool)| pool) {
            pools.push(self.pool(record, digest, older.as_deref())?);
        }
        let kept = base.iter().flat_map(|base| base.pools());
        pools.extend(kept.filter(|pool| !deployments.contains(&pool.key.deployment)).map(PoolRoute::again));
        let facts = match asked.environment {
            Some(Some((record, digest))) => Some(self.read(record, digest)?),
            Some(None) => None,
            None => base.as_ref().map(|base| base.facts()),
        };
        let Some(facts) = facts else {
            return self.remove(id, slot, base, &pools);
        };
        if let Some(pointer) = facts.pointer.filter(|pointer| !pools.iter().any(|pool| pool.key.deployment == *pointer))
        {
            let why = format!("its pointer names {pointer}, which has no pool here");
            return Err(invalid(RecordKey::Environment(id), why));
        }
        let new = Arc::new(EnvironmentRoute::new(id, facts, pools));
        self.next.changed.push(Changed { old: older, new: Some(Arc::clone(&new)) });
        self.put(slot, &new, base.as_deref())
    }

    fn read(&mut self, record: EnvironmentRecord, digest: Digest) -> Result<Facts, Refusal> {
        if record.hosts.len() > HOSTS_MAX {
            let why = format!("{} hosts are more than {HOSTS_MAX}", record.hosts.len());
            return Err(invalid(RecordKey::Environment(record.id), why));
        }
        let head = Head::new(&record);
        Ok(Facts { head, digest, policy: self.next.policy(record.policy), pointer: record.pointer })
    }

    fn pool(&self, record: PoolRecord, digest: Digest, older: Option<&EnvironmentRoute>) -> Result<PoolRoute, Refusal> {
        if record.endpoints.len() > ENDPOINTS_MAX {
            let why = format!("{} endpoints are more than {ENDPOINTS_MAX}", record.endpoints.len());
            return Err(invalid(RecordKey::Pool(record.key), why));
        }
        let older = older.and_then(|older| older.pool_of(record.key.deployment));
        let counters = self.counters(&record, older);
        Ok(PoolRoute::new(record, digest, Arc::clone(&self.base.counting), counters))
    }

    /// Counters to go on with: those of the table before, then those of what is
    /// closed or gone. A second set for the same thing would show it idle while
    /// the first still counts requests.
    fn counters(&self, record: &PoolRecord, older: Option<&PoolRoute>) -> Option<Arc<Counters>> {
        let older = older.map(|pool| (pool, pool.counters()));
        let pool = older.map(|(_, counters)| Arc::clone(&counters.pool)).or_else(|| self.closed.pool(record.key));
        let endpoint = |id| {
            let mut known = older.iter().flat_map(|(pool, counters)| pool.counted_endpoints(counters));
            let known = known.find(|(endpoint, _)| endpoint.id == id).map(|(_, claims)| Arc::clone(claims));
            // One that fell ill was left out of the record and may still hold requests.
            known.or_else(|| self.closed.endpoint(id))
        };
        let endpoints: Vec<_> = record.endpoints.iter().map(|record| endpoint(record.id)).collect();
        if pool.is_none() && endpoints.iter().all(Option::is_none) {
            return None;
        }
        let fresh = || self.base.counting.claims();
        let endpoints = endpoints.into_iter().map(|known| known.unwrap_or_else(fresh)).collect();
        Some(Arc::new(Counters { pool: pool.unwrap_or_else(fresh), endpoints }))
    }

    fn put(
        &mut self,
        slot: Option<Slot>,
        route: &Arc<EnvironmentRoute>,
        base: Option<&EnvironmentRoute>,
    ) -> Result<(), Refusal> {
        let id = route.id;
        let has_its_keys = base.is_some_and(|base| base.head().is_matched_like(route.head()));
        let slot = match slot {
            Some(slot) => {
                self.next.table.environments.replace(slot, Arc::clone(route));
                slot
            }
            None => {
                let slot = self.free_slot();
                self.next.table.environments.add(slot, Arc::clone(route));
                slot
            }
        };
        if has_its_keys {
            return Ok(());
        }
        let keys = self.next.table.environments.add_keys(slot, route);
        keys.map_err(|key| invalid(RecordKey::Environment(id), format!("{key} belongs to another environment")))
    }

    fn remove(
        &mut self,
        id: EnvironmentId,
        slot: Option<Slot>,
        base: Option<Arc<EnvironmentRoute>>,
        left: &[PoolRoute],
    ) -> Result<(), Refusal> {
        if let Some(pool) = left.first() {
            return Err(invalid(RecordKey::Pool(pool.key), "its environment is not in the table"));
        }
        if let Some(slot) = slot {
            self.next.table.environments.remove(slot, id);
            self.next.free_added.push(slot);
            self.next.changed.push(Changed { old: base, new: None });
        }
        Ok(())
    }

    /// Slots are handed out densely: those given back first.
    fn free_slot(&mut self) -> Slot {
        let free = &self.base.free;
        if let Some(slot) = self.next.free_added.pop() {
            return slot;
        }
        if let Some(at) = free.len().checked_sub(self.next.free_taken + 1) {
            self.next.free_taken += 1;
            return free[at];
        }
        let slot = self.next.slots;
        self.next.slots = slot.checked_add(1).expect("fewer than 2^32 environments fit in memory");
        slot
    }

    fn exchange_digests(&mut self, asked: &Asked, base: Option<&EnvironmentRoute>) {
        if let Some(environment) = &asked.environment {
            let new = environment.as_ref().map(|(_, digest)| *digest);
            self.next.exchange_digest(base.map(|base| base.digest()), new);
        }
        for (deployment, pool) in &asked.pools {
            let old = base.and_then(|base| base.pool_of(*deployment)).map(PoolRoute::digest);
            self.next.exchange_digest(old, pool.as_ref().map(|(_, digest)| *digest));
        }
    }
}

impl Next {
    fn exchange_digest(&mut self, old: Option<Digest>, new: Option<Digest>) {
        self.digest = old.map_or(self.digest, |old| self.digest.without(old));
        self.digest = new.map_or(self.digest, |new| self.digest.with(new));
    }

    /// The policy, shared with others that ask the same.
    fn policy(&mut self, policy: Policy) -> Arc<Policy> {
        if let Some(known) = self.policies.iter().find(|known| ***known == policy) {
            return Arc::clone(known);
        }
        let policy = Arc::new(policy);
        if self.policies.len() == POLICIES_MAX {
            self.policies.remove(0);
        }
        self.policies.push(Arc::clone(&policy));
        policy
    }
}

impl Asked {
    fn new(steps: Vec<Change>) -> Self {
        let mut asked = Self { environment: None, pools: Vec::new() };
        for step in steps {
            match step {
                Change::Upsert(Record::Environment(record), digest) => asked.environment = Some(Some((record, digest))),
                Change::Upsert(Record::Pool(record), digest) => {
                    asked.pools.push((record.key.deployment, Some((record, digest))));
                }
                Change::Delete(RecordKey::Environment(_)) => asked.environment = Some(None),
                Change::Delete(RecordKey::Pool(key)) => asked.pools.push((key.deployment, None)),
                // They have no environment and come separately.
                Change::Upsert(Record::Settings(_), _) | Change::Delete(RecordKey::Settings) => {}
            }
        }
        asked
    }

    /// Whether a route is made of exactly these records.
    fn is_all_of(&self, route: &EnvironmentRoute) -> bool {
        let environment = self.environment.as_ref().and_then(Option::as_ref);
        let is_same = |(deployment, pool): &(DeploymentId, Option<(PoolRecord, Digest)>)| {
            let known = route.pool_of(*deployment).map(PoolRoute::digest);
            known.is_some() && known == pool.as_ref().map(|(_, digest)| *digest)
        };
        environment.is_some_and(|(_, digest)| *digest == route.digest())
            && self.pools.len() == route.pools().count()
            && self.pools.iter().all(is_same)
    }
}

fn invalid(key: RecordKey, why: impl Into<String>) -> Refusal {
    Refusal::Invalid { key, why: why.into() }
}
