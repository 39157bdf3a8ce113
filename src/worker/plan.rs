//! The rules of running replicas: desired × observed → actions.
//!
//! Pure: `now` is an argument, facts of the fleet are in what was observed. The
//! supervisor carries the actions out and comes back, at the latest at
//! [`next_look`].

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::id::EndpointId;
use crate::model::pool::{PoolKey, PoolState};

use super::desired::DesiredPool;
use super::observed::{Closing, Observed, Phase, Proof, Replica, SeenPool};

/// Something to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Start one more replica.
    Start(PoolKey),
    /// Tell the proxies that a replica takes nothing new.
    Drain(PoolKey, EndpointId),
    /// Ask a replica to end.
    Stop(PoolKey, EndpointId),
    /// End a replica that was asked and has not.
    Kill(PoolKey, EndpointId),
    /// Report that a replica is not ready yet, shortly before its time is up.
    ReportUnready(PoolKey, EndpointId),
    /// Stop a replica that did not become ready in time; another one gets its chance.
    GiveUp(PoolKey, EndpointId),
    /// A closing pool is done with: stopped in the store, then its replicas are. `cut`: requests still run.
    Finish { pool: PoolKey, cut: bool },
    /// A proxy that does not know of the closing holds the stop up: somebody should look.
    Alarm(PoolKey),
    /// The same for one draining replica.
    AlarmReplica(PoolKey, EndpointId),
    /// The pool's row is gone and nothing of it runs.
    Forget(PoolKey),
}

/// What to do now.
pub(super) fn plan(wanted: &BTreeMap<PoolKey, DesiredPool>, observed: &Observed, now: Instant) -> Vec<Action> {
    let nothing = SeenPool::default();
    let mut actions = Vec::new();
    for (key, pool) in wanted {
        let seen = observed.pools.get(key).unwrap_or(&nothing);
        match pool.row.state {
            PoolState::Starting | PoolState::Running | PoolState::Failing => run(pool, seen, now, &mut actions),
            PoolState::Closing => close(pool, seen, now, &mut actions),
            PoolState::Stopped | PoolState::Idle => stop_all(*key, seen, &mut actions),
        }
    }
    for (key, seen) in &observed.pools {
        if !wanted.contains_key(key) {
            stop_all(*key, seen, &mut actions);
            if seen.replicas.is_empty() {
                actions.push(Action::Forget(*key));
            }
        }
        let overdue = |replica: &Replica| match replica.phase {
            Phase::Stopping { kill_after, killed } => !killed && kill_after <= now,
            Phase::Up | Phase::Draining { .. } => false,
        };
        let overdue = seen.replicas.iter().filter(|(_, replica)| overdue(replica));
        actions.extend(overdue.map(|(id, _)| Action::Kill(*key, *id)));
    }
    actions
}

/// When something falls due by the passing of time alone, after what was planned for `now`. That may have passed when it
/// is asked for: acting takes time.
pub(super) fn next_look(wanted: &BTreeMap<PoolKey, DesiredPool>, observed: &Observed, now: Instant) -> Option<Instant> {
    // Proofs may come to hold because a proxy stays silent, which rings no bell.
    let mut proofs_wanted = false;
    let mut times = Vec::new();
    for (key, pool) in wanted {
        let Some(seen) = observed.pools.get(key) else { continue };
        times.extend(seen.start_after);
        proofs_wanted |= seen.closing.is_some();
        for replica in seen.replicas.values().filter(|replica| replica.is_up() && replica.ready_since.is_none()) {
            times.extend([report_at(pool, replica), replica.started + pool.ready_timeout()]);
        }
    }
    for replica in observed.pools.values().flat_map(|seen| seen.replicas.values()) {
        match replica.phase {
            Phase::Stopping { kill_after, killed: false } => times.push(kill_after),
            Phase::Draining { .. } => proofs_wanted = true,
            Phase::Up | Phase::Stopping { killed: true, .. } => {}
        }
    }
    if proofs_wanted {
        times.push(now + PROOF_EVERY);
    }
    times.into_iter().filter(|time| *time > now).min()
}

/// Between two looks at what the fleet proves.
const PROOF_EVERY: Duration = Duration::from_secs(1);

fn run(pool: &DesiredPool, seen: &SeenPool, now: Instant, actions: &mut Vec<Action>) {
    let key = pool.row.key;
    let up: Vec<_> = seen.replicas.iter().filter(|(_, replica)| replica.is_up()).collect();
    let missing = pool.replicas().saturating_sub(up.len());
    if !seen.preparing && seen.start_after.is_none_or(|after| after <= now) {
        actions.extend(std::iter::repeat_n(Action::Start(key), missing));
    }
    let surplus = up.len().saturating_sub(pool.replicas());
    for (id, replica) in leaving(&up, surplus) {
        // One that never was ready has no requests, and proxies have never heard of it.
        actions.push(if replica.ready_since.is_some() { Action::Drain(key, id) } else { Action::Stop(key, id) });
    }
    for (id, replica) in up {
        let late = replica.ready_since.is_none();
        if late && now >= replica.started + pool.ready_timeout() {
            actions.push(Action::GiveUp(key, *id));
        } else if late && !replica.timeout_told && now >= report_at(pool, replica) {
            actions.push(Action::ReportUnready(key, *id));
        }
    }
    for (id, replica) in &seen.replicas {
        let Phase::Draining { since, revision: Some(_), proof, alarmed } = replica.phase else { continue };
        let overdue = now >= since + pool.max_drain;
        if proof.drained || proof.applied && overdue {
            actions.push(Action::Stop(key, *id));
        } else if overdue && !alarmed {
            actions.push(Action::AlarmReplica(key, *id));
        }
    }
}

/// Who goes when there are too many: those that serve nobody first, then the newest, whose caches are the coldest.
fn leaving<'a>(up: &[(&'a EndpointId, &'a Replica)], count: usize) -> Vec<(EndpointId, &'a Replica)> {
    let mut order: Vec<_> = up.iter().map(|(id, replica)| (**id, *replica)).collect();
    order.sort_by_key(|(id, replica)| (replica.ready, Reverse(replica.started), Reverse(*id)));
    order.truncate(count);
    order
}

/// Whoever waits for the pool waits for `ready_timeout` too, and should find the reason recorded when that ends.
fn report_at(pool: &DesiredPool, replica: &Replica) -> Instant {
    replica.started + pool.ready_timeout() * 9 / 10
}

/// Invariant 9: nothing is stopped before every proxy has shown it idle. `max_drain` cuts what runs too long, but only
/// where every proxy knows that the pool takes nothing new.
fn close(pool: &DesiredPool, seen: &SeenPool, now: Instant, actions: &mut Vec<Action>) {
    let key = pool.row.key;
    let runs = seen.replicas.values().any(|replica| !replica.is_stopping());
    if pool.deployment.is_managed() && !runs {
        return actions.push(Action::Finish { pool: key, cut: false });
    }
    let Some(Closing { since, proof: Proof { drained, applied }, alarmed, .. }) = seen.closing else { return };
    match now >= since + pool.max_drain {
        _ if drained => actions.push(Action::Finish { pool: key, cut: false }),
        true if applied => actions.push(Action::Finish { pool: key, cut: true }),
        true if !alarmed => actions.push(Action::Alarm(key)),
        _ => {}
    }
}

fn stop_all(key: PoolKey, seen: &SeenPool, actions: &mut Vec<Action>) {
    let running = seen.replicas.iter().filter(|(_, replica)| !replica.is_stopping());
    actions.extend(running.map(|(id, _)| Action::Stop(key, *id)));
}

#[cfg(test)]
mod tests;
