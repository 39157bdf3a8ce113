//! Tables of the plan, with invented time.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::model::bounds::Bounds;
use crate::model::deployment::{Deployment, HostHeader, Source};
use crate::model::manifest::Manifest;
use crate::model::pool::Pool;
use crate::model::revision::Revision;
use crate::worker::Restart;
use crate::worker::observed::tests::{id, ready, replica};

const MANIFEST: &str = "[worker]\ncommand = [\"./serve\"]\nready_timeout = \"100s\"\nstop_grace = \"7s\"";

fn key() -> PoolKey {
    PoolKey { environment: Uuid::from_u128(1).into(), deployment: Uuid::from_u128(2).into() }
}

fn desired(state: PoolState, min: u32) -> DesiredPool {
    let manifest = Manifest::parse(MANIFEST).unwrap();
    with_source(state, min, Source::Bundle { digest: "sha256:0".to_owned(), manifest })
}

fn external(state: PoolState) -> DesiredPool {
    let endpoints = vec!["http://127.0.0.1:9001".to_owned()];
    let host = HostHeader::default();
    let source = Source::Endpoints { endpoints, protocol: Default::default(), health_path: None, host };
    with_source(state, 1, source)
}

fn with_source(state: PoolState, min: u32, source: Source) -> DesiredPool {
    let deployment = Deployment {
        id: key().deployment,
        reference: "bcdf2345".parse().unwrap(),
        project: Uuid::from_u128(3).into(),
        source,
        message: None,
        git_commit: None,
        created_by: "test".to_owned(),
        created_at: Timestamp::UNIX_EPOCH,
    };
    DesiredPool {
        row: Pool { state, ..Pool::starting(key(), Bounds { min, max: 9 }) },
        deployment: Arc::new(deployment),
        project: "support".parse().unwrap(),
        environment: "preview".parse().unwrap(),
        max_drain: seconds(900),
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn seen(replicas: impl IntoIterator<Item = Replica>) -> SeenPool {
    let replicas = replicas.into_iter().enumerate().map(|(i, replica)| (id(i as u128), replica)).collect();
    SeenPool { replicas, ..SeenPool::default() }
}

fn of(desired: &DesiredPool) -> BTreeMap<PoolKey, DesiredPool> {
    [(desired.row.key, desired.clone())].into()
}

fn planned(desired: &DesiredPool, seen: SeenPool, now: Instant) -> Vec<Action> {
    let observed = Observed { pools: [(desired.row.key, seen)].into() };
    plan(&of(desired), &observed, now)
}

fn closing(start: Instant, drained: bool, applied: bool) -> Option<Closing> {
    Some(Closing { revision: Some(Revision(3)), since: start, proof: Proof { drained, applied }, alarmed: false })
}

fn draining(start: Instant, revision: Option<u64>, drained: bool, applied: bool) -> Replica {
    let proof = Proof { drained, applied };
    Replica {
        phase: Phase::Draining { since: start, revision: revision.map(Revision), proof, alarmed: false },
        ..ready(start)
    }
}

#[test]
fn what_is_missing_is_started_in_every_wanted_state() {
    let now = Instant::now();
    for state in PoolState::ALL {
        let expected = if state.is_wanted() { vec![Action::Start(key()); 3] } else { vec![] };
        let actions = planned(&desired(state, 3), seen([]), now);
        let starts: Vec<_> = actions.into_iter().filter(|action| matches!(action, Action::Start(_))).collect();
        assert_eq!(starts, expected, "{state:?}");
    }
    assert_eq!(planned(&desired(PoolState::Running, 3), seen([ready(now)]), now), [Action::Start(key()); 2]);
    assert_eq!(planned(&external(PoolState::Starting), seen([]), now), [], "somebody else runs these");
}

#[test]
fn nothing_is_started_before_its_delay_or_its_bundle_is_over() {
    let now = Instant::now();
    let waiting = || SeenPool { start_after: Some(now + seconds(1)), ..SeenPool::default() };
    let pool = desired(PoolState::Starting, 1);
    assert_eq!(planned(&pool, waiting(), now), []);
    assert_eq!(planned(&pool, waiting(), now + seconds(1)), [Action::Start(key())]);
    assert_eq!(planned(&pool, SeenPool { preparing: true, ..SeenPool::default() }, now), []);
}

#[test]
fn scaling_down_takes_the_unready_first_and_then_the_newest() {
    let start = Instant::now();
    let now = start + seconds(50);
    let replicas = [ready(start), ready(start + seconds(2)), replica(start + seconds(1)), ready(start + seconds(3))];
    let take = |min| planned(&desired(PoolState::Running, min), seen(replicas.clone()), now);
    assert_eq!(take(4), []);
    assert_eq!(take(3), [Action::Stop(key(), id(2))], "it has no requests");
    assert_eq!(take(2), [Action::Stop(key(), id(2)), Action::Drain(key(), id(3))]);
    assert_eq!(take(1), [Action::Stop(key(), id(2)), Action::Drain(key(), id(3)), Action::Drain(key(), id(1))]);
}

#[test]
fn a_replica_that_fell_ill_is_drained_because_it_may_hold_requests() {
    let now = Instant::now();
    let ill = Replica { ready: false, ..ready(now) };
    let actions = planned(&desired(PoolState::Running, 1), seen([ready(now), ill]), now);
    assert_eq!(actions, [Action::Drain(key(), id(1))]);
}

#[test]
fn a_draining_replica_is_stopped_when_every_proxy_has_shown_it_idle() {
    let start = Instant::now();
    let pool = desired(PoolState::Running, 1);
    let cases = [
        (None, true, true, 1000, false),
        (Some(7), false, false, 1000, false),
        (Some(7), false, true, 899, false),
        (Some(7), false, true, 900, true),
        (Some(7), true, true, 1, true),
    ];
    for (revision, drained, applied, after, stopped) in cases {
        let replicas = [ready(start), draining(start, revision, drained, applied)];
        let actions = planned(&pool, seen(replicas), start + seconds(after));
        assert_eq!(
            actions.contains(&Action::Stop(key(), id(1))),
            stopped,
            "{revision:?} drained {drained} applied {applied} after {after} s"
        );
    }
}

#[test]
fn a_draining_replica_that_a_proxy_may_still_use_is_never_stopped_and_alarms_once() {
    let start = Instant::now();
    let pool = desired(PoolState::Running, 1);
    let late = |replica: Replica| planned(&pool, seen([ready(start), replica]), start + seconds(900));
    let mut blocked = draining(start, Some(7), false, false);
    assert_eq!(late(blocked.clone()), [Action::AlarmReplica(key(), id(1))]);
    if let Phase::Draining { alarmed, .. } = &mut blocked.phase {
        *alarmed = true;
    }
    assert_eq!(late(blocked.clone()), []);
    let observed = Observed { pools: [(key(), seen([blocked, ready(start)]))].into() };
    assert_eq!(observed.blocked_count(), 1);
}

#[test]
fn a_draining_replica_is_replaced_when_more_are_wanted_again() {
    let now = Instant::now();
    let actions = planned(&desired(PoolState::Running, 1), seen([draining(now, Some(7), false, false)]), now);
    assert_eq!(actions, [Action::Start(key())]);
}

#[test]
fn a_replica_that_ignores_sigterm_is_killed_after_its_grace() {
    let start = Instant::now();
    let mut stopping = Replica { stop_grace: seconds(7), ..ready(start) };
    stopping.stopping(start);
    for state in [PoolState::Stopped, PoolState::Closing] {
        let pool = desired(state, 1);
        let kills = |after| {
            let actions = planned(&pool, seen([stopping.clone()]), start + seconds(after));
            actions.contains(&Action::Kill(key(), id(0)))
        };
        assert_eq!((kills(6), kills(7)), (false, true), "{state:?}");
    }
    let killed = Replica { phase: Phase::Stopping { kill_after: start, killed: true }, ..stopping };
    assert_eq!(planned(&desired(PoolState::Stopped, 1), seen([killed]), start + seconds(99)), [], "once is enough");
}

#[test]
fn readiness_is_reported_before_its_time_is_up_and_given_up_then() {
    let start = Instant::now();
    let pool = desired(PoolState::Starting, 1);
    let late = |after| planned(&pool, seen([replica(start)]), start + seconds(after));
    assert_eq!(late(89), []);
    assert_eq!(late(90), [Action::ReportUnready(key(), id(0))]);
    assert_eq!(late(100), [Action::GiveUp(key(), id(0))]);
    let told = Replica { timeout_told: true, ..replica(start) };
    assert_eq!(planned(&pool, seen([told]), start + seconds(95)), []);
    let ill = Replica { ready: false, ..ready(start) };
    assert_eq!(planned(&pool, seen([ill]), start + seconds(999)), [], "it was ready in time");
}

#[test]
fn invariant_9_a_closing_pool_is_stopped_only_on_proof_or_after_max_drain_where_all_know() {
    let start = Instant::now();
    let finish = |cut| vec![Action::Finish { pool: key(), cut }];
    let cases = [
        (false, false, 0, vec![]),
        (false, true, 899, vec![]),
        (true, true, 0, finish(false)),
        (false, true, 900, finish(true)),
        (false, false, 900, vec![Action::Alarm(key())]),
    ];
    for (drained, applied, after, expected) in cases {
        for pool in [desired(PoolState::Closing, 1), external(PoolState::Closing)] {
            let replicas = if pool.deployment.is_managed() { vec![ready(start)] } else { vec![] };
            let seen = SeenPool { closing: closing(start, drained, applied), ..seen(replicas) };
            let actions = planned(&pool, seen, start + seconds(after));
            assert_eq!(actions, expected, "drained {drained} applied {applied} after {after} s");
        }
    }
    let mut alarmed = SeenPool { closing: closing(start, false, false), ..seen([ready(start)]) };
    alarmed.closing.as_mut().unwrap().alarmed = true;
    assert_eq!(planned(&desired(PoolState::Closing, 1), alarmed, start + seconds(999)), []);
}

#[test]
fn a_closing_pool_without_replicas_is_stopped_at_once() {
    let now = Instant::now();
    let finish = [Action::Finish { pool: key(), cut: false }];
    assert_eq!(planned(&desired(PoolState::Closing, 1), SeenPool::default(), now), finish);
    assert_eq!(plan(&of(&desired(PoolState::Closing, 1)), &Observed::default(), now), finish);
    assert_eq!(planned(&external(PoolState::Closing), SeenPool::default(), now), [], "those still run");
}

#[test]
fn a_pool_whose_row_is_gone_is_stopped_and_then_forgotten() {
    let now = Instant::now();
    let gone = |seen| plan(&BTreeMap::new(), &Observed { pools: [(key(), seen)].into() }, now);
    assert_eq!(gone(seen([ready(now)])), [Action::Stop(key(), id(0))]);
    let mut stopping = ready(now);
    stopping.stopping(now);
    assert_eq!(gone(seen([stopping])), []);
    assert_eq!(gone(SeenPool::default()), [Action::Forget(key())]);
}

#[test]
fn a_reopened_pool_keeps_what_still_runs_and_replaces_what_was_stopped() {
    let now = Instant::now();
    let mut stopping = ready(now);
    stopping.stopping(now);
    let actions = planned(&desired(PoolState::Starting, 2), seen([ready(now), stopping]), now);
    assert_eq!(actions, [Action::Start(key())]);
}

#[test]
fn the_next_look_is_when_the_plan_changes() {
    let start = Instant::now();
    let mut stopping = Replica { stop_grace: seconds(7), ..ready(start) };
    stopping.stopping(start);
    let restarting = SeenPool { start_after: Some(start + seconds(3)), ..SeenPool::default() };
    let cases = [
        (desired(PoolState::Starting, 1), restarting, Some(3)),
        (desired(PoolState::Starting, 1), seen([replica(start)]), Some(90)),
        (desired(PoolState::Stopped, 1), seen([stopping]), Some(7)),
        (desired(PoolState::Running, 0), seen([draining(start, Some(1), false, false)]), Some(1)),
        (desired(PoolState::Running, 1), seen([ready(start)]), None),
    ];
    for (pool, seen, expected) in cases {
        let observed = Observed { pools: [(key(), seen)].into() };
        let at = next_look(&of(&pool), &observed, start);
        assert_eq!(at, expected.map(|after| start + seconds(after)), "{:?}", observed.pools);
    }
}

#[test]
fn a_crash_loop_is_restarted_ever_more_slowly() {
    let (restart, start) = (Restart::default(), Instant::now());
    let pool = desired(PoolState::Starting, 1);
    let mut observed = Observed { pools: [(key(), SeenPool::default())].into() };
    let (mut now, mut starts) = (start, Vec::new());
    // A replica that ends as soon as it is started, for two minutes.
    while now < start + seconds(120) {
        if plan(&of(&pool), &observed, now) == [Action::Start(key())] {
            starts.push((now - start).as_millis());
            let seen = observed.pools.get_mut(&key()).unwrap();
            seen.replicas.insert(id(1), replica(now));
            seen.ended(id(1), &restart, now);
        }
        now = next_look(&of(&pool), &observed, now).unwrap();
    }
    assert_eq!(starts, [0, 250, 750, 1_750, 3_750, 7_750, 15_750, 31_750, 61_750, 91_750]);
}
