//! The live table: the one atomic swap, and what is counted behind it.
//!
//! Owns the table in force. Writers (one control stream) go through a lock and
//! replace the table whole; readers never lock: each ingress thread has a
//! [`Reader`] that notices a swap by comparing one pointer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use tokio::sync::Notify;

use crate::model::change::Record;
use crate::model::id::{EndpointId, Lineage};
use crate::model::pool::PoolKey;
use crate::model::revision::{Digest, Position, Revision};
use crate::routing::address::Address;
use crate::routing::change::{Change, Draft, Known, Master, Refusal};
use crate::routing::claim::{Claim, Claims};
use crate::routing::route::{EnvironmentRoute, PoolRoute};
use crate::routing::table::{Table, Unresolved};

/// The table in force.
pub struct Live {
    table: Arc<ArcSwap<Table>>,
    writer: Mutex<Writer>,
    idle: Arc<Notify>,
}

struct Writer {
    master: Master,
    lineage: Option<Lineage>,
    closed: Closed,
}

/// Pools and endpoints that take no new claims but may have running ones:
/// closing or draining in the table, or gone from it.
#[derive(Default)]
struct Closed {
    pools: HashMap<PoolKey, Arc<PoolRoute>>,
    endpoints: HashMap<EndpointId, Arc<Claims>>,
}

/// A pool before and after a change.
type Changed = (Option<Arc<PoolRoute>>, Option<Arc<PoolRoute>>);

/// What still runs on closing pools and draining endpoints: exhaustive, so that
/// absence from it is proof.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Busy {
    /// Closing pools with running claims, and how many.
    pub pools: Vec<(PoolKey, u64)>,
    /// Draining endpoints with running claims, and how many.
    pub endpoints: Vec<(EndpointId, u64)>,
}

/// What a pool carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// The pool.
    pub key: PoolKey,
    /// Claims ever taken on it here.
    pub claimed_total: u64,
    /// Claims running now.
    pub in_flight: u64,
}

/// A request's way to a pool, held.
pub struct Claimed {
    /// The environment it addressed.
    pub environment: Arc<EnvironmentRoute>,
    /// The pool that serves it.
    pub pool: Arc<PoolRoute>,
    /// The hold on that pool, to be dropped with the last byte of the answer.
    pub claim: Claim,
    /// The revision of the one table that decided.
    pub revision: Revision,
}

impl Live {
    /// No table yet; counters will have a word for each of `cores` cores.
    pub fn new(cores: usize) -> Arc<Self> {
        let idle = Arc::new(Notify::new());
        let master = Master::new(cores, Arc::clone(&idle));
        Arc::new(Self {
            table: Arc::new(ArcSwap::from_pointee(Table::empty())),
            writer: Mutex::new(Writer { master, lineage: None, closed: Closed::default() }),
            idle,
        })
    }

    /// A reader for one thread.
    pub fn reader(&self) -> Reader {
        Reader { cache: Cache::new(Arc::clone(&self.table)) }
    }

    /// Where the table in force stands; `None` before the first.
    pub fn position(&self) -> Option<Position> {
        let writer = self.writer();
        let revision = writer.master.table.revision();
        writer.lineage.map(|lineage| Position { lineage, revision, digest: writer.master.digest })
    }

    /// Replaces everything by a snapshot, with one swap.
    ///
    /// # Errors
    ///
    /// Why it is refused; the table stays as it was.
    pub fn apply_snapshot(&self, position: Position, records: Vec<(Record, Digest)>) -> Result<(), Refusal> {
        let mut writer = self.writer();
        let have = writer.master.table.revision();
        // Invariant 3: within a lineage the revision never goes back.
        if writer.lineage == Some(position.lineage) && position.revision < have {
            return Err(Refusal::Gap { have, from: position.revision });
        }
        let changes = records.into_iter().map(|(record, digest)| Change::Upsert(record, digest)).collect();
        let mut master = writer.master.emptied();
        let older = &writer.master.pools;
        let draft = master.draft(position.revision, changes, &Outlived { pools: older, closed: &writer.closed })?;
        if draft.digest != position.digest {
            return Err(Refusal::DigestMismatch);
        }
        let gone: Vec<_> = older.values().filter(|pool| !draft.pools.contains_key(&pool.key)).cloned().collect();
        let changed = draft.pools.values().flatten().cloned().map(|new| (older.get(&new.key).cloned(), Some(new)));
        let changed = changed.chain(gone.into_iter().map(|pool| (Some(pool), None))).collect();
        master.adopt(draft);
        writer.master = master;
        writer.lineage = Some(position.lineage);
        self.publish(&mut writer, changed);
        Ok(())
    }

    /// Applies a change, all or nothing, with one swap.
    ///
    /// # Errors
    ///
    /// Why it is refused; the table stays as it was (invariant 6).
    pub fn apply_delta(&self, from: Position, to: Position, changes: Vec<Change>) -> Result<(), Refusal> {
        let mut writer = self.writer();
        if writer.lineage != Some(from.lineage) || from.lineage != to.lineage {
            return Err(Refusal::WrongLineage);
        }
        let have = writer.master.table.revision();
        // Invariant 3: within a lineage the revision only grows.
        if have != from.revision || to.revision < from.revision {
            return Err(Refusal::Gap { have, from: from.revision });
        }
        let outlived = Outlived { pools: &writer.master.pools, closed: &writer.closed };
        let draft = writer.master.draft(to.revision, changes, &outlived)?;
        if draft.digest != to.digest {
            return Err(Refusal::DigestMismatch);
        }
        let changed = changed_pools(&writer.master, &draft);
        writer.master.adopt(draft);
        self.publish(&mut writer, changed);
        Ok(())
    }

    /// What still runs on closing pools and draining endpoints. Read the applied
    /// revision before this, never after: the proof is only as new as that.
    pub fn busy(&self) -> Busy {
        let mut writer = self.writer();
        let Writer { master, closed, .. } = &mut *writer;
        // What is gone from the table is forgotten once it is idle.
        closed.pools.retain(|key, pool| master.pools.contains_key(key) || pool.claims().in_flight() > 0);
        if !closed.endpoints.is_empty() {
            let listed: HashSet<_> = master.pools.values().flat_map(|pool| &pool.endpoints).map(|e| e.id).collect();
            closed.endpoints.retain(|id, claims| listed.contains(id) || claims.in_flight() > 0);
        }
        let pools = closed.pools.iter().map(|(key, pool)| (*key, pool.claims().in_flight()));
        let endpoints = closed.endpoints.iter().map(|(id, claims)| (*id, claims.in_flight()));
        Busy {
            pools: pools.filter(|(_, in_flight)| *in_flight > 0).collect(),
            endpoints: endpoints.filter(|(_, in_flight)| *in_flight > 0).collect(),
        }
    }

    /// What every pool of the table carries.
    pub fn load(&self) -> Vec<Load> {
        let pools: Vec<_> = self.writer().master.pools.values().cloned().collect();
        let load = |pool: &Arc<PoolRoute>| Load {
            key: pool.key,
            claimed_total: pool.claims().total(),
            in_flight: pool.claims().in_flight(),
        };
        pools.iter().map(load).collect()
    }

    /// Rung when a closing pool or a draining endpoint may have become idle.
    pub fn idle_notify(&self) -> &Notify {
        &self.idle
    }

    /// Swaps the table in, between opening what it opens and closing what it
    /// closes: a request that still reads the older table finds a pool closed
    /// only once the newer table is there to resolve against again.
    fn publish(&self, writer: &mut Writer, changed: Vec<Changed>) {
        for (_, new) in &changed {
            let Some(new) = new else { continue };
            if new.is_open() {
                new.claims().open();
                writer.closed.pools.remove(&new.key);
            }
            for endpoint in new.endpoints.iter().filter(|endpoint| !endpoint.draining) {
                endpoint.claims().open();
                writer.closed.endpoints.remove(&endpoint.id);
            }
        }
        self.table.store(Arc::new(writer.master.table.clone()));
        for (old, new) in changed {
            writer.closed.close(old.as_ref(), new.as_ref());
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while drafting leaves master and table as they were: both
        // change only after everything has been checked.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counters to go on with: those of the table before, then those of what is
/// closed or gone. A second set for the same thing would show it idle while the
/// first still counts requests.
struct Outlived<'a> {
    pools: &'a HashMap<PoolKey, Arc<PoolRoute>>,
    closed: &'a Closed,
}

impl Known for Outlived<'_> {
    fn pool(&self, key: PoolKey) -> Option<Arc<PoolRoute>> {
        self.pools.get(&key).or_else(|| self.closed.pools.get(&key)).cloned()
    }

    fn endpoint(&self, id: EndpointId) -> Option<Arc<Claims>> {
        self.closed.endpoints.get(&id).cloned()
    }
}

impl Closed {
    fn close(&mut self, old: Option<&Arc<PoolRoute>>, new: Option<&Arc<PoolRoute>>) {
        if let Some(closing) = new.or(old)
            && !new.is_some_and(|pool| pool.is_open())
        {
            closing.claims().close();
            self.pools.insert(closing.key, Arc::clone(closing));
        }
        let kept = |id| new.is_some_and(|pool| pool.endpoints.iter().any(|e| e.id == id && !e.draining));
        for pool in old.into_iter().chain(new) {
            for endpoint in pool.endpoints.iter().filter(|endpoint| !kept(endpoint.id)) {
                endpoint.claims().close();
                self.endpoints.insert(endpoint.id, Arc::clone(endpoint.claims()));
            }
        }
    }
}

fn changed_pools(master: &Master, draft: &Draft) -> Vec<Changed> {
    draft.pools.iter().map(|(key, new)| (master.pools.get(key).cloned(), new.clone())).collect()
}

/// One thread's view of the table in force.
pub struct Reader {
    cache: Cache<Arc<ArcSwap<Table>>, Arc<Table>>,
}

/// How often a claim is tried when pools close under it. Each further try needs
/// another swap between two instructions; eight in a row do not happen.
const CLAIM_TRIES: usize = 8;

impl Reader {
    /// The table in force: neither a lock nor a shared write.
    pub fn current(&mut self) -> &Arc<Table> {
        self.cache.load()
    }

    /// Resolves and claims. Each try is decided by one table (invariant 1); a
    /// pool that was closed since is not served from: the address resolves again
    /// (invariant 2).
    ///
    /// # Errors
    ///
    /// Why there is nothing to forward to.
    pub fn claim(&mut self, address: &Address<'_>, core: usize) -> Result<Claimed, Unresolved> {
        for _ in 0..CLAIM_TRIES {
            let table = self.cache.load();
            let resolved = table.resolve(address)?;
            if let Some(claim) = resolved.pool.claim(core) {
                let revision = table.revision();
                return Ok(Claimed { environment: resolved.environment, pool: resolved.pool, claim, revision });
            }
        }
        Err(Unresolved::DeploymentTerminated)
    }
}

#[cfg(test)]
mod tests;
