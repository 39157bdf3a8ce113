//! The live table: the one atomic swap, and what is counted behind it.
//!
//! Owns the table in force. Writers (one control stream) go through a lock and
//! replace the table whole; readers never lock: each ingress thread has a
//! [`Reader`] that notices a swap by comparing one pointer.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use tokio::sync::Notify;

use crate::model::change::Record;
use crate::model::id::Lineage;
use crate::model::pool::PoolKey;
use crate::model::revision::{Digest, Position, Revision};
use crate::routing::address::Address;
use crate::routing::change::{Change, Refusal};
use crate::routing::claim::{Claim, Claims};
use crate::routing::closed::Closed;
use crate::routing::counters::Counting;
use crate::routing::draft::{Changed, Master};
use crate::routing::pool::PoolRoute;
use crate::routing::route::EnvironmentRoute;
use crate::routing::table::{Resolved, Table, Unresolved};

pub use crate::routing::closed::Busy;

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
    /// Every pool that was ever claimed, while it is in the table or closed; those
    /// that were not looked at for longest come first.
    claimed: VecDeque<Watched>,
    /// Tables that some reader may still have. Kept so that the last of them is
    /// dropped here: taking a million environments apart takes a while.
    retired: Vec<Arc<Table>>,
}

/// A pool whose load is reported.
struct Watched {
    key: PoolKey,
    claims: Arc<Claims>,
    /// Claims ever taken when it was looked at last.
    total: u64,
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
    /// It has left the table; what still runs on it is counted as busy, not here.
    pub has_left: bool,
}

/// A request's way to a pool, held.
pub struct Claimed {
    /// The pool that serves it.
    pub pool: HeldPool,
    /// The hold on that pool, to be dropped with the last byte of the answer.
    pub claim: Claim,
    /// The revision of the one table that decided.
    pub revision: Revision,
}

/// A pool, kept together with the environment it is part of.
#[derive(Clone)]
pub struct HeldPool {
    environment: Arc<EnvironmentRoute>,
    position: usize,
}

/// Claims between two looks at a pool's load, usually a second, from which on
/// cores count apart. Below it they seldom meet at the shared word, and a line
/// for each core and pool would be most of what a million pools cost.
const SPREAD_CLAIMS: u64 = 1_000;

/// Pools looked at in one go. It takes some 5 ms, a two-hundredth of the usual
/// second between two looks; of a million pools each has its turn within two minutes.
const LOOKS_MAX: usize = 10_000;

impl Live {
    /// No table yet; pools may come to be claimed from each of `cores` cores.
    pub fn new(cores: usize) -> Arc<Self> {
        let counting = Counting::new(cores);
        let idle = Arc::clone(&counting.idle);
        let writer = Writer {
            master: Master::new(counting),
            lineage: None,
            closed: Closed::default(),
            claimed: VecDeque::new(),
            retired: Vec::new(),
        };
        Arc::new(Self { table: Arc::new(ArcSwap::from_pointee(Table::empty())), writer: Mutex::new(writer), idle })
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

    /// Environments in the table in force.
    pub fn environment_count(&self) -> usize {
        self.table.load().environments.count()
    }

    /// Replaces everything by a snapshot, with one swap.
    ///
    /// # Errors
    ///
    /// Why it is refused; the table stays as it was.
    pub fn apply_snapshot(&self, position: Position, records: Vec<(Record, Digest)>) -> Result<(), Refusal> {
        self.replace(position, records, false)
    }

    /// The same, where somebody allowed it to lack much of what is served.
    ///
    /// # Errors
    ///
    /// As above, but for that.
    pub fn apply_stamped_snapshot(&self, position: Position, records: Vec<(Record, Digest)>) -> Result<(), Refusal> {
        self.replace(position, records, true)
    }

    fn replace(&self, position: Position, records: Vec<(Record, Digest)>, is_stamped: bool) -> Result<(), Refusal> {
        let mut writer = self.writer();
        let have = writer.master.table.revision();
        // Invariant 3: within a lineage the revision never goes back.
        if writer.lineage == Some(position.lineage) && position.revision < have {
            return Err(Refusal::Gap { have, from: position.revision });
        }
        let (mut master, next) = writer.master.redraft(position.revision, records, &writer.closed)?;
        if next.digest != position.digest {
            return Err(Refusal::DigestMismatch);
        }
        let lacks = next.lacks(&writer.master.table);
        if lacks.exceeds() && !is_stamped {
            return Err(Refusal::MassChange(lacks));
        }
        let changed = master.adopt(next);
        writer.master = master;
        writer.lineage = Some(position.lineage);
        self.publish(&mut writer, &changed);
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
        let next = writer.master.draft(to.revision, changes, &writer.closed)?;
        if next.digest != to.digest {
            return Err(Refusal::DigestMismatch);
        }
        let changed = writer.master.adopt(next);
        self.publish(&mut writer, &changed);
        Ok(())
    }

    /// What still runs on closing pools and draining endpoints. Read the applied
    /// revision before this, never after: the proof is only as new as that.
    pub fn busy(&self) -> Busy {
        let mut writer = self.writer();
        writer.drop_retired();
        let Writer { master, closed, .. } = &mut *writer;
        closed.busy(&master.table.environments)
    }

    /// What pools carry that were ever claimed: ten thousand of them at a time, in
    /// turns. What it costs has a limit, however many there are.
    pub fn load(&self) -> Vec<Load> {
        self.writer().load()
    }

    /// Rung when a closing pool or a draining endpoint may have become idle.
    pub fn idle_notify(&self) -> &Notify {
        &self.idle
    }

    /// Swaps the table in, between opening what it opens and closing what it
    /// closes: a request that still reads the older table finds a pool closed
    /// only once the newer table is there to resolve against again.
    fn publish(&self, writer: &mut Writer, changed: &[Changed]) {
        changed.iter().filter_map(|changed| changed.new.as_deref()).for_each(|new| writer.closed.open(new));
        writer.retired.push(self.table.swap(Arc::new(writer.master.table.clone())));
        for Changed { old, new } in changed {
            writer.closed.close(old.as_deref(), new.as_deref());
        }
        writer.drop_retired();
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while drafting leaves master and table as they were: both
        // change only after everything has been checked.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn load(&mut self) -> Vec<Load> {
        let Self { master, closed, claimed, .. } = self;
        for (key, claims) in master.counting.take_claimed() {
            claimed.push_front(Watched { key, claims, total: 0 });
        }
        let looks = claimed.len().min(LOOKS_MAX);
        let mut loads = Vec::with_capacity(looks);
        for mut watched in claimed.drain(..looks).collect::<Vec<_>>() {
            let environment = master.table.environments.by_id(watched.key.environment);
            let pool = environment.and_then(|environment| environment.pool_of(watched.key.deployment));
            // One that left the table and was forgotten may have come back with other counters.
            let is_it = |pool: &&PoolRoute| {
                pool.counters_made().is_some_and(|counters| Arc::ptr_eq(&counters.pool, &watched.claims))
            };
            let is_kept = match pool.filter(is_it) {
                Some(pool) => {
                    loads.push(watched.look(pool, master.counting.cores));
                    true
                }
                None => {
                    if pool.is_none() {
                        loads.push(watched.farewell());
                    }
                    closed.pool(watched.key).is_some_and(|claims| Arc::ptr_eq(&claims, &watched.claims))
                }
            };
            if is_kept {
                claimed.push_back(watched);
            }
        }
        loads
    }

    /// Drops tables that no reader has any more.
    fn drop_retired(&mut self) {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
    }
}

impl Watched {
    /// Reads its load, and lets cores count apart where there is much of it.
    fn look(&mut self, pool: &PoolRoute, cores: usize) -> Load {
        let claimed_total = self.claims.total();
        let since = claimed_total - self.total;
        self.total = claimed_total;
        if since >= SPREAD_CLAIMS {
            self.claims.spread(cores);
        }
        if since >= SPREAD_CLAIMS * pool.endpoints.len() as u64 {
            pool.counters().endpoints.iter().for_each(|claims| claims.spread(cores));
        }
        Load { key: self.key, claimed_total, in_flight: self.claims.in_flight(), has_left: false }
    }

    /// The last word on it.
    fn farewell(&self) -> Load {
        Load { key: self.key, claimed_total: self.total, in_flight: 0, has_left: true }
    }
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
    #[inline]
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
                return Ok(Claimed { pool: resolved.into(), claim, revision: table.revision() });
            }
        }
        Err(Unresolved::DeploymentTerminated)
    }
}

impl Claimed {
    /// The environment it addressed.
    pub fn environment(&self) -> &EnvironmentRoute {
        &self.pool.environment
    }
}

impl From<Resolved<'_>> for HeldPool {
    fn from(resolved: Resolved<'_>) -> Self {
        Self { environment: Arc::clone(resolved.environment), position: resolved.position }
    }
}

impl Deref for HeldPool {
    type Target = PoolRoute;

    fn deref(&self) -> &PoolRoute {
        self.environment.pool(self.position).expect("a position found in this very environment")
    }
}

#[cfg(test)]
mod tests;
