//! Reading what is wanted, and writing down what became of it.
//!
//! The supervisor's part of the pools' rows. Every write reads the row again in
//! its transaction, because `control` changes other parts of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use crate::model::deployment::Deployment;
use crate::model::endpoint_url::EndpointUrl;
use crate::model::event::What;
use crate::model::id::DeploymentId;
use crate::model::pool::{Pool, PoolKey, PoolState};
use crate::model::revision::Revision;
use crate::store::{self, RunningPool, Scope, Work, WorkKey};

use super::desired::DesiredPool;
use super::endpoints::{Asking, endpoints, fresh, trouble};
use super::observed::{Phase, SeenPool};
use super::record;
use super::supervisor::Supervisor;

impl Supervisor {
    /// Reads what is wanted, as far as it may have changed.
    pub(super) async fn load(&mut self, work: &Work) -> Result<(), store::Error> {
        match work {
            Work::Keys(keys) if keys.is_empty() => Ok(()),
            Work::Keys(keys) => self.load_keys(keys).await,
            Work::Everything => self.load_all().await,
        }
    }

    async fn load_all(&mut self) -> Result<(), store::Error> {
        let found = self.store.read().await?.running_pools(Scope::Everything).await?;
        self.take_rows(self.desired.keys(), found);
        Ok(())
    }

    async fn load_keys(&mut self, keys: &BTreeSet<WorkKey>) -> Result<(), store::Error> {
        let mut reading = self.store.read().await?;
        // Environments sort before pools, and cover theirs.
        let mut environments = BTreeSet::new();
        for key in keys {
            let (scope, known) = match *key {
                WorkKey::Environment(id) => {
                    environments.insert(id);
                    (Scope::Environment(id), self.desired.of_environment(id))
                }
                WorkKey::Pool(key) if !environments.contains(&key.environment) => (Scope::Pool(key), [key].into()),
                WorkKey::Pool(_) | WorkKey::Move(..) => continue,
            };
            let found = reading.running_pools(scope).await?;
            self.take_rows(known, found);
        }
        Ok(())
    }

    /// Takes in the rows that were found. Those of `known` that were not are gone, or at rest.
    fn take_rows(&mut self, mut known: BTreeSet<PoolKey>, found: Vec<RunningPool>) {
        let now = (Instant::now(), Timestamp::now());
        // Deployments never change (invariant 5), and one may serve many environments.
        let mut deployments: HashMap<DeploymentId, Arc<Deployment>> = HashMap::new();
        for RunningPool { pool: row, deployment, project, environment, policy } in found {
            known.remove(&row.key);
            self.see_closing(&row, now);
            let before = self.desired.get(&row.key).map(|pool| Arc::clone(&pool.deployment));
            let shared = deployments.entry(deployment.id);
            let deployment = Arc::clone(shared.or_insert_with(|| before.unwrap_or_else(|| Arc::new(deployment))));
            let max_drain = Duration::from_millis(policy.max_drain_ms);
            self.desired.put(DesiredPool { row, deployment, project, environment, max_drain });
        }
        for gone in known {
            self.desired.remove(gone);
            if let Some(seen) = self.observed.pools.get_mut(&gone) {
                seen.closing = None;
            }
        }
    }

    fn see_closing(&mut self, row: &Pool, now: (Instant, Timestamp)) {
        if row.state == PoolState::Closing {
            let seen = self.observed.pools.entry(row.key).or_default();
            seen.see_closing(row.closing_revision, row.closing_since, now);
        } else if let Some(seen) = self.observed.pools.get_mut(&row.key) {
            seen.closing = None;
        }
    }

    /// Takes over what an earlier run left: its replicas are gone, so their endpoints leave the rows in one transaction,
    /// and their ports rest. Output of pools that are no more is removed.
    pub(super) async fn take_over(&mut self) -> Result<(), store::Error> {
        self.load_all().await?;
        let now = Instant::now();
        for pool in self.desired.planned.values().filter(|pool| pool.deployment.is_managed()) {
            pool.row.endpoints.iter().for_each(|endpoint| self.launcher.rest(endpoint.address.port(), now));
        }
        // What somebody else runs is looked at in the first turns: nothing of it has ended with the earlier run.
        self.write_down(&self.desired.planned.keys().copied().collect()).await?;
        let mut reading = self.store.read().await?;
        for key in self.logs.pools().unwrap_or_default() {
            if reading.pool(key).await?.is_none() {
                self.forget_output(key);
            }
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
    pub(super) async fn write_down(&mut self, keys: &BTreeSet<PoolKey>) -> Result<(), store::Error> {
        let known = keys.iter().filter_map(|key| self.desired.get(key));
        let differing = known.filter(|pool| self.row_of(pool, None) != pool.row);
        let differing: Vec<PoolKey> = differing.map(|pool| pool.row.key).collect();
        if differing.is_empty() && self.faults.is_empty() {
            return Ok(());
        }
        let mut writing = self.store.write().await?;
        let mut written = Vec::new();
        for key in differing {
            let (Some(before), Some(pool)) = (writing.pool(key).await?, self.desired.get(&key)) else { continue };
            let after = self.row_of(pool, Some(&before));
            if after != before {
                writing.put_pool(&after).await?;
                record::told(&before, &after).into_iter().for_each(|what| writing.note(what));
            }
            written.push(after);
        }
        for (pool, fault) in &self.faults {
            writing.record_pool_error(*pool, fault).await?;
        }
        let revision = writing.commit().await?;
        self.faults.clear();
        for row in written {
            self.wrote(&row, revision);
        }
        Ok(())
    }

    fn wrote(&mut self, row: &Pool, revision: Revision) {
        let Some(before) = self.desired.put_row(row.clone()) else { return };
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
        if row.state.is_at_rest() && seen.replicas.is_empty() {
            self.observed.pools.remove(&row.key);
        }
    }

    /// A closing pool is done with, with `cut` requests still running: at rest in the store, unless somebody opened it meanwhile, which voids every proof.
    /// Answers whether it was stopped.
    pub(super) async fn finish(&mut self, key: PoolKey, cut: u64) -> Result<bool, store::Error> {
        let Some(pool) = self.desired.get(&key) else { return Ok(false) };
        let proved = pool.row.closing_revision;
        let mut writing = self.store.write().await?;
        let Some(before) = writing.pool(key).await? else { return Ok(false) };
        if before.state != PoolState::Closing || before.closing_revision != proved {
            // The store has rung already: what is wanted is read again.
            self.see_closing(&before, (Instant::now(), Timestamp::now()));
            self.desired.put_row(before);
            return Ok(false);
        }
        let after = record::finished(&before);
        writing.put_pool(&after).await?;
        record::told(&before, &after).into_iter().for_each(|what| writing.note(what));
        writing.set_drained(key, Timestamp::now(), cut).await?;
        writing.note(What::Drained { environment_id: key.environment, deployment_id: key.deployment });
        writing.commit().await?;
        self.desired.put_row(after);
        Ok(true)
    }

    /// What the row of a pool should be, given the row as it is.
    pub(super) fn row_of(&self, pool: &DesiredPool, row: Option<&Pool>) -> Pool {
        let row = row.unwrap_or(&pool.row);
        match pool.urls() {
            None => record::managed(row, self.observed.pools.get(&row.key).unwrap_or(&SeenPool::default())),
            Some(urls) => {
                let (asking, own) = (Asking::of(&pool.deployment), self.config.own_listeners.as_slice());
                let new = |address, url: &EndpointUrl| fresh(Uuid::now_v7().into(), address, url, Timestamp::now());
                let endpoints = endpoints(&row.endpoints, urls, asking, &self.outside, new, own);
                let in_trouble = trouble(&endpoints, urls, asking, &self.outside, own).is_some();
                record::external(row, endpoints, in_trouble)
            }
        }
    }
}
