//! What the supervisor writes into a pool's row, given the row as it is now.
//!
//! Pure. `control` changes state and bounds of the same row; the supervisor owns
//! the endpoints and the steps Starting ⇄ Running ⇄ Failing that follow from
//! them. It reads the row again in the transaction that writes it.

use crate::model::event::What;
use crate::model::pool::{Endpoint, EndpointState, Pool, PoolState, Rest};

use super::observed::{Phase, SeenPool};

/// The row of a pool whose replicas Repoint runs.
pub(super) fn managed(row: &Pool, seen: &SeenPool) -> Pool {
    let endpoints = match row.state {
        PoolState::Stopped | PoolState::Idle => Vec::new(),
        _ => endpoints(seen),
    };
    with(row, endpoints, seen.is_failing())
}

/// The row of a pool whose replicas somebody else runs, with what its URLs come to.
pub(super) fn external(row: &Pool, endpoints: Vec<Endpoint>, in_trouble: bool) -> Pool {
    match row.state {
        // Started again one day, it is probed anew before anything is routed to it.
        PoolState::Stopped | PoolState::Idle => with(row, Vec::new(), false),
        PoolState::Closing => row.clone(),
        PoolState::Starting | PoolState::Running | PoolState::Failing => with(row, endpoints, in_trouble),
    }
}

/// The row of a closing pool that is done with.
pub(super) fn finished(row: &Pool) -> Pool {
    Pool {
        state: row.closing_to.unwrap_or(Rest::Stopped).state(),
        closing_revision: None,
        closing_since: None,
        closing_to: None,
        endpoints: Vec::new(),
        ..row.clone()
    }
}

/// What is told about the step from one row to the next, if anybody cares.
pub(super) fn told(before: &Pool, after: &Pool) -> Option<What> {
    let changed = before.state != after.state || before.ready_count() != after.ready_count();
    changed.then(|| What::PoolState {
        environment_id: after.key.environment,
        deployment_id: after.key.deployment,
        state: after.state,
        ready: after.ready_count(),
    })
}

fn with(row: &Pool, endpoints: Vec<Endpoint>, failing: bool) -> Pool {
    let mut after = Pool { endpoints, ..row.clone() };
    if row.state.is_wanted() {
        after.state = match after.ready_count() {
            0 if failing => PoolState::Failing,
            0 => PoolState::Starting,
            _ => PoolState::Running,
        };
    }
    after
}

fn endpoints(seen: &SeenPool) -> Vec<Endpoint> {
    let state = |phase, ready| match phase {
        Phase::Up if ready => Some(EndpointState::Ready),
        Phase::Up => Some(EndpointState::Unready),
        Phase::Draining { .. } => Some(EndpointState::Draining),
        // About to be gone: nothing is to find its way there any more.
        Phase::Stopping { .. } => None,
    };
    let endpoints = seen.replicas.iter().filter_map(|(id, replica)| {
        Some(Endpoint {
            id: *id,
            address: replica.address,
            authority: None,
            secure: false,
            state: state(replica.phase, replica.ready)?,
            pid: Some(replica.pid),
            since: replica.since,
        })
    });
    endpoints.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::super::observed::Replica;
    use super::super::observed::tests::{id, ready, replica};
    use super::*;
    use crate::model::bounds::Bounds;
    use crate::model::pool::PoolKey;
    use crate::model::revision::Revision;

    fn row(state: PoolState) -> Pool {
        let key = PoolKey { environment: Uuid::from_u128(1).into(), deployment: Uuid::from_u128(2).into() };
        let revision = (state == PoolState::Closing).then_some(Revision(9));
        Pool { state, closing_revision: revision, ..Pool::starting(key, Bounds { min: 1, max: 5 }) }
    }

    fn seen(replicas: &[Replica], failures: u32) -> SeenPool {
        let replicas = replicas.iter().enumerate().map(|(i, replica)| (id(i as u128), replica.clone())).collect();
        SeenPool { replicas, failures, ..SeenPool::default() }
    }

    #[test]
    fn states_follow_from_replicas_and_never_leave_what_control_decided() {
        use PoolState::{Closing, Failing, Idle, Running, Starting, Stopped};
        let now = Instant::now();
        let (up, starting) = (ready(now), replica(now));
        let cases = [
            (Starting, vec![], 0, Starting),
            (Starting, vec![starting.clone()], 2, Starting),
            (Starting, vec![starting.clone()], 3, Failing),
            (Starting, vec![up.clone()], 0, Running),
            (Running, vec![starting], 0, Starting),
            (Running, vec![], 3, Failing),
            (Failing, vec![up.clone()], 3, Running),
            (Closing, vec![up.clone()], 3, Closing),
            (Closing, vec![], 0, Closing),
            (Stopped, vec![up.clone()], 0, Stopped),
            (Idle, vec![up], 0, Idle),
        ];
        for (state, replicas, failures, expected) in cases {
            let after = managed(&row(state), &seen(&replicas, failures));
            assert_eq!(after.state, expected, "{state:?} with {} replicas, {failures} failures", replicas.len());
            assert_eq!(after.bounds, row(state).bounds);
            assert_eq!(after.closing_revision, row(state).closing_revision);
        }
    }

    #[test]
    fn endpoints_are_the_replicas_that_are_not_on_their_way_out() {
        let now = Instant::now();
        let mut stopping = ready(now);
        stopping.stopping(now);
        let draining = Phase::Draining { since: now, revision: None, proof: Default::default(), alarmed: false };
        let replicas = [ready(now), replica(now), Replica { phase: draining, ..ready(now) }, stopping];
        let states = |state| -> Vec<EndpointState> {
            managed(&row(state), &seen(&replicas, 0)).endpoints.iter().map(|endpoint| endpoint.state).collect()
        };
        let expected = [EndpointState::Ready, EndpointState::Unready, EndpointState::Draining];
        assert_eq!(states(PoolState::Running), expected);
        assert_eq!(states(PoolState::Closing), expected, "running requests still go there");
        assert_eq!(states(PoolState::Stopped), []);
    }

    #[test]
    fn after_a_restart_nothing_is_left_of_earlier_replicas() {
        let before = managed(&row(PoolState::Running), &seen(&[ready(Instant::now())], 0));
        let after = managed(&before, &SeenPool::default());
        assert_eq!((after.state, after.endpoints.len()), (PoolState::Starting, 0));
    }

    #[test]
    fn outside_workers_follow_their_probes_while_the_pool_is_wanted() {
        let mut endpoint = managed(&row(PoolState::Running), &seen(&[ready(Instant::now())], 0)).endpoints.remove(0);
        endpoint.since = Timestamp::UNIX_EPOCH;
        let ready = vec![endpoint.clone()];
        endpoint.state = EndpointState::Unready;
        let unready = vec![endpoint];
        let state = |state, endpoints: &[Endpoint], trouble| {
            let after = external(&Pool { endpoints: ready.clone(), ..row(state) }, endpoints.to_vec(), trouble);
            (after.state, after.ready_count())
        };
        assert_eq!(state(PoolState::Starting, &ready, false), (PoolState::Running, 1));
        assert_eq!(state(PoolState::Running, &unready, false), (PoolState::Starting, 0));
        assert_eq!(state(PoolState::Running, &unready, true), (PoolState::Failing, 0));
        assert_eq!(state(PoolState::Closing, &unready, true), (PoolState::Closing, 1), "its requests still run there");
        assert_eq!(state(PoolState::Stopped, &ready, false), (PoolState::Stopped, 0));
    }

    #[test]
    fn a_step_is_told_when_it_matters() {
        let now = Instant::now();
        let one = managed(&row(PoolState::Starting), &seen(&[ready(now)], 0));
        let two = managed(&one, &seen(&[ready(now), ready(now)], 0));
        assert!(matches!(told(&one, &two), Some(What::PoolState { ready: 2, .. })));
        assert_eq!(told(&two, &two.clone()), None);
        let finished = finished(&Pool { state: PoolState::Closing, ..one });
        assert_eq!((finished.state, finished.closing_revision, finished.endpoints), (PoolState::Stopped, None, vec![]));
    }

    #[test]
    fn a_closing_pool_ends_where_it_was_sent() {
        for (closing_to, state) in
            [(Some(Rest::Idle), PoolState::Idle), (Some(Rest::Stopped), PoolState::Stopped), (None, PoolState::Stopped)]
        {
            let after = finished(&Pool { closing_to, ..row(PoolState::Closing) });
            assert_eq!((after.state, after.closing_to), (state, None), "{closing_to:?}");
        }
    }
}
