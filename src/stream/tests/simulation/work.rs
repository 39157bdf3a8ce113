//! What people do meanwhile: pointers move, pools close and open again, replicas
//! come and go. The rules are those of the control plane and its supervisor, in
//! short; what is drained is for the real `fleet` to say.

use std::time::Duration;

use crate::fleet::Fleet;
use crate::stream::tests::log::pool_key;
use crate::stream::tests::simulation::state::{DEPLOYMENTS, ENVIRONMENTS, Key, Pool, endpoint_id};
use crate::stream::tests::simulation::world::{Promise, World};

/// Requests on a closed pool have this long.
const MAX_DRAIN: Duration = Duration::from_secs(15);

impl World {
    /// One thing that somebody does, or nothing.
    pub fn work(&mut self) {
        let (n, deployment) = (self.rng.u8(0..ENVIRONMENTS), self.rng.u8(0..DEPLOYMENTS));
        match self.rng.u16(0..1_000) {
            0..15 => self.move_to(n, deployment),
            15..20 => self.move_two(n, deployment),
            20..45 => self.close_any(),
            45..50 => self.open_any(),
            50..60 => self.grow_any(),
            60..70 => self.shrink_any(),
            70 => self.spoil(true),
            71..80 => self.spoil(false),
            _ => {}
        }
    }

    /// Points an environment at a deployment, with replicas that are ready.
    pub fn move_to(&mut self, n: u8, deployment: u8) {
        let pool = self.ready((n, deployment));
        self.commit(|state| {
            state.pools.insert((n, deployment), pool);
            state.pointers.insert(n, deployment);
        });
    }

    /// Two environments with one change.
    fn move_two(&mut self, n: u8, deployment: u8) {
        let other = (n + 1) % ENVIRONMENTS;
        let (pool, other_pool) = (self.ready((n, deployment)), self.ready((other, deployment)));
        self.commit(|state| {
            state.pools.insert((n, deployment), pool);
            state.pools.insert((other, deployment), other_pool);
            state.pointers.extend([(n, deployment), (other, deployment)]);
        });
    }

    /// An open pool: the one there is, opened again where it was closing, or one
    /// with new replicas (invariant 8: those run before the change is there).
    fn ready(&mut self, key: Key) -> Pool {
        if self.closing.remove(&key).is_some() {
            self.seen.reopened += 1;
        }
        let mut pool = match self.state.pools.get(&key) {
            Some(pool) => Pool { is_open: true, ..pool.clone() },
            None => Pool { is_open: true, endpoints: Default::default() },
        };
        if pool.endpoints.values().all(|draining| *draining) {
            pool.endpoints.insert(self.start_replica(), false);
        }
        pool
    }

    fn start_replica(&mut self) -> u64 {
        let replica = self.id();
        self.replicas.insert(replica);
        replica
    }

    /// A pool that nothing points at takes no more requests.
    fn close_any(&mut self) {
        let open: Vec<Key> = self.state.pools.iter().filter(|(_, pool)| pool.is_open).map(|(key, _)| *key).collect();
        let free: Vec<Key> = open.into_iter().filter(|key| self.state.is_free(*key)).collect();
        let Some(key) = self.any(&free) else { return };
        let revision = self.commit(|state| state.pools.get_mut(&key).unwrap().is_open = false);
        self.closing.insert(key, (revision, self.now));
        self.note(format!("pool {key:?} closes at {revision}"));
    }

    /// A pool that was closing is opened again: earlier proofs are void.
    fn open_any(&mut self) {
        let closing: Vec<Key> = self.closing.keys().copied().collect();
        let Some(key) = self.any(&closing) else { return };
        let pool = self.ready(key);
        self.commit(|state| _ = state.pools.insert(key, pool));
        self.note(format!("pool {key:?} opens again"));
    }

    /// A change that proxies refuse, or the one that heals it.
    fn spoil(&mut self, is_spoiled: bool) {
        if self.state.is_spoiled != is_spoiled {
            self.commit(|state| state.is_spoiled = is_spoiled);
            self.note(if is_spoiled { "the state is spoiled" } else { "the state is healed" });
        }
    }

    fn grow_any(&mut self) {
        let open: Vec<Key> = self.state.pools.iter().filter(|(_, pool)| pool.is_open).map(|(key, _)| *key).collect();
        let Some(key) = self.any(&open) else { return };
        let replica = self.start_replica();
        self.commit(|state| _ = state.pools.get_mut(&key).unwrap().endpoints.insert(replica, false));
    }

    /// One of several replicas of a pool is to go.
    fn shrink_any(&mut self) {
        let ready = |pool: &Pool| pool.endpoints.values().filter(|draining| !**draining).count();
        let large: Vec<Key> =
            self.state.pools.iter().filter(|(_, pool)| pool.is_open && ready(pool) > 1).map(|(key, _)| *key).collect();
        let Some(key) = self.any(&large) else { return };
        let mut endpoints = self.state.pools[&key].endpoints.iter();
        let replica = *endpoints.find(|(_, draining)| !**draining).unwrap().0;
        let revision = self.commit(|state| {
            state.pools.get_mut(&key).unwrap().endpoints.insert(replica, true);
        });
        self.draining.insert(replica, revision);
    }

    fn any<T: Copy>(&mut self, among: &[T]) -> Option<T> {
        (!among.is_empty()).then(|| among[self.rng.usize(0..among.len())])
    }

    /// Stops what the fleet says nobody uses any more (invariant 9).
    pub fn stop_drained(&mut self, fleet: &Fleet) {
        for (key, (revision, since)) in self.closing.clone() {
            let pool = pool_key(key.0, key.1);
            if fleet.drained_pool(pool, revision) {
                self.seen.drained += 1;
                self.stop_pool(key);
            } else if self.now > since + MAX_DRAIN {
                let blockers = fleet.blocking_pool(pool, revision);
                if blockers.count == blockers.named.len() && blockers.named.iter().all(|blocker| blocker.is_busy()) {
                    self.cut(key);
                    self.stop_pool(key);
                }
            }
        }
        for (replica, revision) in self.draining.clone() {
            let holder = self.state.pools.iter().find(|(_, pool)| pool.endpoints.contains_key(&replica));
            let Some(key) = holder.map(|(key, _)| *key) else {
                self.draining.remove(&replica);
                continue;
            };
            if fleet.drained_endpoint(endpoint_id(replica), revision) {
                self.seen.drained += 1;
                self.draining.remove(&replica);
                self.replicas.remove(&replica);
                self.note(format!("replica {replica} stops"));
                self.commit(|state| _ = state.pools.get_mut(&key).unwrap().endpoints.remove(&replica));
            }
        }
    }

    fn stop_pool(&mut self, key: Key) {
        self.note(format!("pool {key:?} stops"));
        self.closing.remove(&key);
        for replica in self.state.pools[&key].endpoints.keys() {
            self.replicas.remove(replica);
        }
        self.commit(|state| _ = state.pools.remove(&key));
    }

    /// Time is up: requests end, but only at proxies that know of the closing.
    fn cut(&mut self, key: Key) {
        let (revision, _) = self.closing[&key];
        let lineage = self.log.head().lineage;
        let cut: Vec<(u64, usize)> = self
            .requests
            .iter()
            .filter(|(_, request)| request.key == key)
            .map(|(id, request)| (*id, request.run))
            .collect();
        for (id, run) in cut {
            let position = self.runs[run].live.position();
            if !position.is_some_and(|at| at.lineage == lineage && at.revision >= revision) && !self.is_forgotten(run) {
                self.breaks(Promise::Invariant(9), format!("a request of run {run} on {key:?} is cut unawares"));
            }
            self.requests.remove(&id);
            self.seen.cut += 1;
        }
    }
}
