//! What is watched outside the supervisor, and what that comes to: probes,
//! names, and the proofs of the fleet.

use std::collections::HashMap;
use std::time::Instant;

use jiff::Timestamp;

use crate::model::id::EndpointId;
use crate::model::pool::{EndpointState, PoolKey};

use super::endpoints::{names, target, trouble};
use super::fault;
use super::health::Health;
use super::observed::{Phase, Proof};
use super::probe::Target;
use super::supervisor::Supervisor;

impl Supervisor {
    /// Probes and resolves exactly what is wanted.
    pub(super) fn watch_outside(&mut self) {
        let mut targets = HashMap::new();
        let mut wanted_names = HashMap::new();
        for pool in self.desired.iter().filter(|pool| pool.row.state.is_wanted()) {
            let path = pool.deployment.health_path();
            for endpoint in &pool.row.endpoints {
                // One target may serve many pools. It is in no hurry if it was ready for any of them.
                let settled = endpoint.state == EndpointState::Ready;
                *targets.entry(target(endpoint, path)).or_insert(settled) |= settled;
            }
            wanted_names.extend(pool.urls().into_iter().flat_map(names).map(|name| (name, ())));
        }
        let (prober, told, every) = (&self.prober, &self.told, self.config.resolve_every);
        self.probing.keep(&targets, |target, settled| prober.watch(target.clone(), *settled));
        self.resolving.keep(&wanted_names, |name, ()| super::resolve::watch(name.clone(), every, told.clone()));
        // Knowledge that nobody keeps fresh is none: a pool that starts again is probed anew.
        self.outside.keep(|target| targets.contains_key(target), |name| wanted_names.contains_key(name));
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
    pub(super) fn note_troubles(&mut self) {
        let mut troubles = HashMap::new();
        for pool in self.desired.iter().filter(|pool| pool.row.state.is_wanted()) {
            let Some(urls) = pool.urls() else { continue };
            let (path, own) = (pool.deployment.health_path(), self.config.own_listeners.as_slice());
            if let Some(reasons) = trouble(&pool.row.endpoints, urls, path, &self.outside, own) {
                troubles.insert(pool.row.key, reasons);
            }
        }
        for (pool, reasons) in &troubles {
            if self.troubles.get(pool) != Some(reasons) {
                self.faults.push((*pool, fault::of_trouble(reasons, Timestamp::now())));
            }
        }
        self.troubles = troubles;
    }
}
