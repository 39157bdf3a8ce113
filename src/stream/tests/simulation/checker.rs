//! The checker: after every step it compares what is believed with what is true.

use std::time::Duration;

use crate::fleet::Fleet;
use crate::fleet::member::State as MemberState;
use crate::fleet::members::ProxyView;
use crate::model::revision::Position;
use crate::routing::address::Address;
use crate::routing::live::Live;
use crate::stream::last_known_good::recovery::recover;
use crate::stream::tests::log::{deployment_id, host};
use crate::stream::tests::simulation::control::FLEET;
use crate::stream::tests::simulation::state::{State, endpoint_id};
use crate::stream::tests::simulation::world::{Promise, Run, TICK, World, text};

impl World {
    /// What holds whoever is up.
    pub fn check(&mut self) {
        if let Some(gap) = self.log.gap() {
            let head = self.log.head().revision;
            self.breaks(Promise::RevisionOrder, format!("the head is {head}, and {gap} is not there"));
        }
        for run in 0..self.runs.len() {
            if self.proxies[self.runs[run].proxy].run == Some(run) {
                self.check_table(run);
            }
        }
        self.check_requests();
    }

    /// Invariants 1, 3, 6, 7 and 8: a table is one state of the store, whole, and
    /// never an older one.
    fn check_table(&mut self, run: usize) {
        let (before, now) = (self.runs[run].position, self.runs[run].live.position());
        if before == now {
            return;
        }
        self.runs[run].position = now;
        self.note(format!("run {run} serves {}", text(now)));
        self.seen.tables += 1;
        let Some(now) = now else {
            return self.breaks(Promise::Invariant(7), format!("run {run} serves nothing any more"));
        };
        if before.is_some_and(|before| before.lineage == now.lineage && before.revision > now.revision) {
            self.breaks(Promise::Invariant(3), format!("run {run} goes from {} to {}", text(before), text(Some(now))));
        }
        let Some(state) = self.state_at(now).cloned() else {
            let what = format!("run {run} serves {} with a digest the store has not had", text(Some(now)));
            return self.breaks(Promise::Invariant(6), what);
        };
        if state.is_spoiled {
            self.breaks(Promise::Invariant(6), format!("run {run} serves {}, which is to be refused", text(Some(now))));
        }
        if let Some(difference) = self.difference(run, now, &state) {
            self.breaks(Promise::Invariant(1), format!("run {run} at {}: {difference}", text(Some(now))));
        }
    }

    /// What a table serves that is not what the store had at its revision.
    fn difference(&mut self, run: usize, now: Position, state: &State) -> Option<String> {
        let table = self.runs[run].reader.current();
        if table.revision() != now.revision {
            return Some(format!("readers see {}", table.revision()));
        }
        for (n, deployment) in &state.pointers {
            let host = host(*n);
            let resolved = table.resolve(&Address { host: host.as_bytes(), ..Address::default() });
            let Ok(resolved) = resolved else { return Some(format!("environment {n} resolves to nothing")) };
            if resolved.pool.key.deployment != deployment_id(*deployment) {
                return Some(format!("environment {n} does not lead to {deployment}"));
            }
            // Invariant 8: the pointer's endpoints are there with it.
            if resolved.pool.endpoints.iter().all(|endpoint| endpoint.draining) {
                return Some(format!("environment {n} leads to no endpoint"));
            }
            for (key, pool) in state.pools.range((*n, 0)..=(*n, u8::MAX)) {
                let route = resolved.environment.pool_of(deployment_id(key.1));
                let is_same = route.is_some_and(|route| {
                    let mut has: Vec<_> = route.endpoints.iter().map(|e| (e.id, e.draining)).collect();
                    has.sort_unstable();
                    let wants = pool.endpoints.iter().map(|(replica, draining)| (endpoint_id(*replica), *draining));
                    route.is_open() == pool.is_open && wants.eq(has)
                });
                if !is_same {
                    return Some(format!("pool {key:?} is another"));
                }
            }
        }
        None
    }

    /// Invariants 2 and 9: where a request is, there is a replica.
    fn check_requests(&mut self) {
        let lost = self
            .requests
            .values()
            .find(|request| !self.replicas.contains(&request.replica) && !self.is_forgotten(request.run));
        if let Some(lost) = lost.cloned() {
            self.breaks(Promise::Invariant(9), format!("the replica of {lost:?} was stopped"));
        }
    }

    /// Whether the control plane may think that a run is over: it was silent for
    /// longer than anybody waits, or was never heard at all.
    pub fn is_forgotten(&self, run: usize) -> bool {
        let patience = FLEET.suspect + FLEET.gone_grace - Duration::from_secs(1);
        self.runs[run].heard.is_none_or(|heard| self.now - heard > patience)
    }

    /// What the control plane believes, compared while it is up.
    pub fn check_fleet(&mut self, fleet: &Fleet) {
        let views = fleet.proxies();
        for view in &views {
            self.check_member(view);
        }
        self.check_applied(fleet, &views);
    }

    /// Invariant 6: nobody has acknowledged what it does not serve, or does not have.
    fn check_member(&mut self, view: &ProxyView) {
        let known = self.runs.iter().position(|run| run.instance == view.instance_id);
        let run = known.expect("only runs of the simulation say hello");
        if view.silent_for <= TICK * 2 && view.connected {
            self.runs[run].heard = Some(self.now);
        }
        self.seen.nacks += u64::from(view.refused.is_some());
        let lineage = self.log.head().lineage;
        let serves = self.runs[run].live.position().filter(|at| at.lineage == lineage).map(|at| at.revision);
        if view.applied_revision > serves {
            let what = format!("run {run} has acknowledged {:?} and serves {serves:?}", view.applied_revision);
            self.breaks(Promise::Invariant(6), what);
        }
        if view.durable_revision > self.runs[run].durable {
            self.runs[run].durable = view.durable_revision;
            self.check_disk(run);
        }
    }

    /// A power cut now leaves what is said to be durable.
    fn check_disk(&mut self, run: usize) {
        let Run { proxy, durable, .. } = self.runs[run];
        let Some(disk) = self.proxies[proxy].disk.as_ref().map(|disk| disk.after_worst_crash()) else { return };
        let live = Live::new(1);
        recover(&disk, &live);
        let lineage = self.log.head().lineage;
        let kept = live.position().filter(|at| at.lineage == lineage);
        self.seen.disks += 1;
        if kept.map(|at| at.revision) < durable {
            let what = format!("run {run} says that {durable:?} is durable, and has {} on disk", text(live.position()));
            self.breaks(Promise::Invariant(6), what);
        }
        if let Some(at) = kept {
            let durable = Position { revision: durable.unwrap_or_default(), ..at };
            self.proxies[proxy].durable = Some(durable);
        }
    }

    /// A move that is said to be applied is served by all who are waited for.
    fn check_applied(&mut self, fleet: &Fleet, views: &[ProxyView]) {
        let lineage = self.log.head().lineage;
        let complete: Vec<_> =
            self.moves.iter().copied().filter(|revision| fleet.propagation(*revision).complete).collect();
        for revision in complete {
            self.moves.retain(|waiting| *waiting != revision);
            self.seen.applied_moves += 1;
            for view in views.iter().filter(|view| view.state != MemberState::Gone) {
                let run = self.runs.iter().find(|run| run.instance == view.instance_id);
                let position = run.and_then(|run| run.live.position());
                if !position.is_some_and(|at| at.lineage == lineage && at.revision >= revision) {
                    let what = format!("{revision} is applied, and {} serves {}", view.proxy_id, text(position));
                    self.breaks(Promise::Applied, what);
                }
            }
        }
    }
}
