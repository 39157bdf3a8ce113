//! What is watched outside the supervisor, and what that comes to: probes,
//! names, and the proofs of the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use jiff::Timestamp;

use crate::model::id::EndpointId;
use crate::model::pool::{EndpointState, PoolKey};

use super::endpoints::{Asking, names, target, trouble};
use super::fault;
use super::health::Health;
use super::observed::{Phase, Proof};
use super::probe::Target;
use super::supervisor::Supervisor;

impl Supervisor {
    /// Probes and resolves exactly what these pools want.
    pub(super) fn watch_outside(&mut self, keys: &BTreeSet<PoolKey>) {
        for key in keys {
            let pool = self.desired.get(key).filter(|pool| pool.row.state.is_wanted());
            let asking = pool.map(|pool| Asking::of(&pool.deployment)).unwrap_or_default();
            let endpoints = pool.into_iter().flat_map(|pool| &pool.row.endpoints);
            // In no hurry where it was ready when it was seen last.
            let wanted: BTreeMap<Target, bool> =
                endpoints.map(|endpoint| (target(endpoint, asking), endpoint.state == EndpointState::Ready)).collect();
            let names = pool.and_then(|pool| pool.urls()).into_iter().flat_map(names).collect();
            let probed = self.targets.set(*key, wanted.keys().cloned().collect());
            for target in probed.begun {
                let settled = wanted.get(&target).copied().unwrap_or(false);
                self.probing.start(target, |target| self.prober.watch(target, settled));
            }
            // Knowledge that nobody keeps fresh is none: a pool that starts again is probed anew.
            for target in probed.ended {
                self.probing.stop(&target);
                self.outside.health.remove(&target);
            }
            let resolved = self.names.set(*key, names);
            for name in resolved.begun {
                let (every, told) = (self.config.resolve_every, self.told.clone());
                self.resolving.start(name, |name| super::resolve::watch(name, every, told));
            }
            for name in resolved.ended {
                self.resolving.stop(&name);
                self.outside.forget_name(&name);
            }
        }
    }

    /// What is known about a target, for the replica it is about. Answers that one if it was ready and no longer is.
    pub(super) fn probed(&mut self, target: &Target, health: &Health) -> Option<(PoolKey, EndpointId)> {
        let now = Instant::now();
        for (key, seen) in &mut self.observed.pools {
            let found = seen.replicas.iter().find(|(_, replica)| replica.address == target.address);
            if let Some(id) = found.map(|(id, _)| *id) {
                return seen.probed(id, health, now).then_some((*key, id));
            }
        }
        None
    }

    /// What the fleet shows about everything that is to be stopped.
    pub(super) fn look_at_proofs(&mut self) {
        let fleet = &self.fleet;
        for (key, seen) in &mut self.observed.pools {
            if let Some(closing) = &mut seen.closing
                && let Some(revision) = closing.revision
            {
                closing.proof =
                    Proof { drained: fleet.drained_pool(*key, revision), applied: fleet.closing_known(revision) };
            }
            for (id, replica) in &mut seen.replicas {
                if let Phase::Draining { revision: Some(revision), proof, .. } = &mut replica.phase {
                    *proof = Proof {
                        drained: fleet.drained_endpoint(*id, *revision),
                        applied: fleet.closing_known(*revision),
                    };
                }
            }
        }
    }

    /// Endpoint pools that nothing can be sent to: told once, and again when the reason is another one.
    pub(super) fn note_troubles(&mut self, keys: &BTreeSet<PoolKey>) {
        for key in keys {
            let reasons = self.desired.get(key).filter(|pool| pool.row.state.is_wanted()).and_then(|pool| {
                let (asking, own) = (Asking::of(&pool.deployment), self.config.own_listeners.as_slice());
                let urls = pool.urls()?;
                // As they will be written in this turn, so that the reason is there when the state is.
                trouble(&self.row_of(pool, None).endpoints, urls, asking, &self.outside, own)
            });
            let Some(reasons) = reasons else {
                self.troubles.remove(key);
                continue;
            };
            if self.troubles.get(key) != Some(&reasons) {
                self.faults.push((*key, fault::of_trouble(&reasons, Timestamp::now())));
                self.troubles.insert(*key, reasons);
            }
        }
    }
}
