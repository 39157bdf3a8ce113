//! Reading what is wanted, and writing down what became of it.
//!
//! The supervisor's part of the pools' rows. Every write reads the row again in
//! its transaction, because `control` changes other parts of it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use crate::model::event::What;
use crate::model::pool::{Pool, PoolKey, PoolState};
use crate::model::revision::Revision;
use crate::store;

use super::desired::DesiredPool;
use super::endpoints::{endpoints, fresh, trouble};
use super::observed::{Phase, SeenPool};
use super::record;
use super::supervisor::Supervisor;

impl Supervisor {
    /// Reads what is wanted. Pools that are at rest cost nothing beyond their row.
    pub(super) async fn load(&mut self) -> Result<(), store::Error> {
        let mut reading = self.store.read().await?;
        let mut environments = HashMap::new();
        let mut desired = Vec::new();
        for row in reading.pools().await? {
            let key = row.key;
            let rests = row.state == PoolState::Stopped && row.endpoints.is_empty();
            if rests && !self.observed.pools.contains_key(&key) {
                continue;
            }
            if let Entry::Vacant(unread) = environments.entry(key.environment) {
                unread.insert(reading.environment(key.environment).await?);
            }
            // Deployments never change (invariant 5), so they are read once.
            if !self.deployments.contains_key(&key.deployment)
                && let Some(deployment) = reading.deployment(key.deployment).await?
            {
                self.deployments.insert(key.deployment, Arc::new(deployment));
            }
            // Both are there as long as the pool is; the transaction reads at one instant.
            let (Some(Some(environment)), Some(deployment)) =
                (environments.get(&key.environment), self.deployments.get(&key.deployment))
            else {
                continue;
            };
            desired.push(DesiredPool {
                row,
                deployment: Arc::clone(deployment),
                project: environment.project_name.clone(),
                environment: environment.name.clone(),
                max_drain: Duration::from_millis(environment.policy.max_drain_ms),
            });
        }
        self.desired = desired;
        let used: HashSet<_> = self.desired.iter().map(|pool| pool.row.key.deployment).collect();
        self.deployments.retain(|id, _| used.contains(id));
        self.see_closing();
        Ok(())
    }

    fn see_closing(&mut self) {
        let now = (Instant::now(), Timestamp::now());
        for DesiredPool { row, .. } in &self.desired {
            if row.state == PoolState::Closing {
                let seen = self.observed.pools.entry(row.key).or_default();
                seen.see_closing(row.closing_revision, row.closing_since, now);
            } else if let Some(seen) = self.observed.pools.get_mut(&row.key) {
                seen.closing = None;
            }
        }
    }

    /// Takes over what an earlier run left: its replicas are gone, so their endpoints leave the rows in one transaction,
    /// and their ports rest. Output of pools that are no more is removed.
    pub(super) async fn take_over(&mut self) -> Result<(), store::Error> {
        self.load().await?;
        let now = Instant::now();
        for pool in self.desired.iter().filter(|pool| pool.deployment.is_managed()) {
            pool.row.endpoints.iter().for_each(|endpoint| self.launcher.rest(endpoint.address.port(), now));
        }
        self.write_down().await?;
        let pools = self.store.read().await?.pools().await?;
        let pools: BTreeSet<PoolKey> = pools.into_iter().map(|pool| pool.key).collect();
        for gone in self.logs.pools().unwrap_or_default().into_iter().filter(|key| !pools.contains(key)) {
            self.forget_output(gone);
        }
        Ok(())
    }

    /// Removes what the replicas of a pool that is no more have printed.
    pub(super) fn forget_output(&self, pool: PoolKey) {
        if let Err(error) = self.logs.remove(pool) {
            tracing::warn!(%error, %pool, "the output of a pool that is gone could not be removed");
        }
    }

    /// Writes endpoints, states and errors that differ from what is stored, in one transaction.
    pub(super) async fn write_down(&mut self) -> Result<(), store::Error> {
        let differing: Vec<usize> = (0..self.desired.len())
            .filter(|at| self.row_of(&self.desired[*at], None) != self.desired[*at].row)
            .collect();
        if differing.is_empty() && self.faults.is_empty() {
            return Ok(());
        }
        let mut writing = self.store.write().await?;
        let mut written = Vec::new();
        for at in differing {
            let Some(before) = writing.pool(self.desired[at].row.key).await? else { continue };
            let after = self.row_of(&self.desired[at], Some(&before));
            if after != before {
                writing.put_pool(&after).await?;
                record::told(&before, &after).into_iter().for_each(|what| writing.note(what));
            }
            written.push((at, after));
        }
        for (pool, fault) in &self.faults {
            writing.record_pool_error(*pool, fault).await?;
        }
        let revision = writing.commit().await?;
        self.faults.clear();
        for (at, row) in written {
            self.wrote(at, row, revision);
        }
        Ok(())
    }

    fn wrote(&mut self, at: usize, row: Pool, revision: Revision) {
        let before = std::mem::replace(&mut self.desired[at].row, row);
        let row = &self.desired[at].row;
        if (before.state, before.ready_count()) != (row.state, row.ready_count()) {
            tracing::info!(pool = %row.key, state = row.state.as_str(), ready = row.ready_count(), "pool changed");
        }
        let Some(seen) = self.observed.pools.get_mut(&row.key) else { return };
        for replica in seen.replicas.values_mut() {
            // From here on proxies can prove that it is idle.
            if let Phase::Draining { revision: pending @ None, .. } = &mut replica.phase {
                *pending = Some(revision);
            }
        }
        if row.state == PoolState::Stopped && seen.replicas.is_empty() {
            self.observed.pools.remove(&row.key);
        }
    }

    /// A closing pool is done with: stopped in the store, unless somebody opened it meanwhile, which voids every proof.
    /// Answers whether it was stopped.
    pub(super) async fn finish(&mut self, key: PoolKey) -> Result<bool, store::Error> {
        let Some(at) = self.desired.iter().position(|pool| pool.row.key == key) else { return Ok(false) };
        let mut writing = self.store.write().await?;
        let Some(before) = writing.pool(key).await? else { return Ok(false) };
        let proved = self.desired[at].row.closing_revision;
        if before.state != PoolState::Closing || before.closing_revision != proved {
            // The store has rung already: what is wanted is read again.
            self.desired[at].row = before;
            self.see_closing();
            return Ok(false);
        }
        let after = record::finished(&before);
        writing.put_pool(&after).await?;
        record::told(&before, &after).into_iter().for_each(|what| writing.note(what));
        writing.note(What::Drained { environment_id: key.environment, deployment_id: key.deployment });
        writing.commit().await?;
        self.desired[at].row = after;
        Ok(true)
    }

    /// What the row of a pool should be, given the row as it is.
    fn row_of(&self, pool: &DesiredPool, row: Option<&Pool>) -> Pool {
        let row = row.unwrap_or(&pool.row);
        match pool.urls() {
            None => record::managed(row, self.observed.pools.get(&row.key).unwrap_or(&SeenPool::default())),
            Some(urls) => {
                let (path, own) = (pool.deployment.health_path(), self.config.own_listeners.as_slice());
                let new = |address, authority| fresh(Uuid::now_v7().into(), address, authority, Timestamp::now());
                let endpoints = endpoints(&row.endpoints, urls, path, &self.outside, new, own);
                let in_trouble = trouble(&endpoints, urls, path, &self.outside, own).is_some();
                record::external(row, endpoints, in_trouble)
            }
        }
    }
}
