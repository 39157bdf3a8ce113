//! What takes no new claims but may have running ones.
//!
//! Exhaustive, so that absence from it is proof: what is closing or draining in
//! the table, and what is gone from it, for as long as requests run there.
//! Called by [`live`](crate::routing::live) around each swap.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::id::EndpointId;
use crate::model::pool::PoolKey;
use crate::routing::claim::Claims;
use crate::routing::environments::Environments;
use crate::routing::pool::{EndpointRoute, PoolRoute};
use crate::routing::route::EnvironmentRoute;

/// Pools and endpoints that take no new claims.
#[derive(Default)]
pub(super) struct Closed {
    pools: HashMap<PoolKey, Arc<Claims>>,
    /// With the pool each belongs to.
    endpoints: HashMap<EndpointId, (PoolKey, Arc<Claims>)>,
}

/// What still runs on closing pools and draining endpoints: exhaustive, so that
/// absence from it is proof.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Busy {
    /// Closing pools with running claims, and how many.
    pub pools: Vec<(PoolKey, u64)>,
    /// Draining endpoints with running claims, and how many.
    pub endpoints: Vec<(EndpointId, u64)>,
}

impl Closed {
    /// The counters of a closed pool.
    pub(super) fn pool(&self, key: PoolKey) -> Option<Arc<Claims>> {
        self.pools.get(&key).cloned()
    }

    /// The counters of a draining endpoint.
    pub(super) fn endpoint(&self, id: EndpointId) -> Option<Arc<Claims>> {
        self.endpoints.get(&id).map(|(_, claims)| Arc::clone(claims))
    }

    /// Opens what a new route opens. Counters that nobody needed yet were never
    /// closed.
    pub(super) fn open(&mut self, new: &EnvironmentRoute) {
        for pool in new.pools() {
            let Some(counters) = pool.counters_made() else { continue };
            if pool.is_open() {
                counters.pool.open();
                self.pools.remove(&pool.key);
            }
            for (endpoint, claims) in pool.counted_endpoints(counters).filter(|(endpoint, _)| !endpoint.draining) {
                claims.open();
                self.endpoints.remove(&endpoint.id);
            }
        }
    }

    /// Closes what an environment no longer offers. Counters that nobody needed
    /// yet are made for it: a request may still hold the older route.
    pub(super) fn close(&mut self, old: Option<&EnvironmentRoute>, new: Option<&EnvironmentRoute>) {
        for pool in old.into_iter().chain(new).flat_map(EnvironmentRoute::pools) {
            let next = new.and_then(|new| new.pool_of(pool.key.deployment));
            if !next.is_some_and(PoolRoute::is_open) {
                let claims = &pool.counters().pool;
                claims.close();
                self.pools.insert(pool.key, Arc::clone(claims));
            }
            let stays = |id| next.is_some_and(|next| next.endpoints.iter().any(|e| e.id == id && !e.draining));
            if pool.endpoints.iter().all(|endpoint| stays(endpoint.id)) {
                continue;
            }
            for (EndpointRoute { id, .. }, claims) in pool.counted_endpoints(pool.counters()) {
                if !stays(*id) {
                    claims.close();
                    self.endpoints.insert(*id, (pool.key, Arc::clone(claims)));
                }
            }
        }
    }

    /// What still runs. What is gone from the table is forgotten once it is idle.
    pub(super) fn busy(&mut self, environments: &Environments) -> Busy {
        let listed = |key: PoolKey| environments.by_id(key.environment)?.pool_of(key.deployment);
        let lists = |key, id| listed(key).is_some_and(|pool| pool.endpoints.iter().any(|endpoint| endpoint.id == id));
        self.pools.retain(|key, claims| claims.in_flight() > 0 || listed(*key).is_some());
        self.endpoints.retain(|id, (pool, claims)| claims.in_flight() > 0 || lists(*pool, *id));
        let pools = self.pools.iter().map(|(key, claims)| (*key, claims.in_flight()));
        let endpoints = self.endpoints.iter().map(|(id, (_, claims))| (*id, claims.in_flight()));
        Busy {
            pools: pools.filter(|(_, in_flight)| *in_flight > 0).collect(),
            endpoints: endpoints.filter(|(_, in_flight)| *in_flight > 0).collect(),
        }
    }
}
