//! What runs, as far as the supervisor has seen, and how events change that.
//!
//! Pure: `now` is an argument. [`plan`](super::plan) reads it, the supervisor
//! tells it what happened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::model::id::EndpointId;
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;

use super::Restart;
use super::health::{Health, Verdict};

/// Everything seen.
#[derive(Default, Debug)]
pub(super) struct Observed {
    pub pools: BTreeMap<PoolKey, SeenPool>,
}

/// One pool's replicas and their past.
#[derive(Default, Debug)]
pub(super) struct SeenPool {
    pub replicas: BTreeMap<EndpointId, Replica>,
    /// Ends and failed starts in a row.
    pub failures: u32,
    /// No start before this.
    pub start_after: Option<Instant>,
    /// Its bundle is being unpacked.
    pub preparing: bool,
    /// A replica was not ready in time, and none was ready since.
    pub timed_out: bool,
    pub closing: Option<Closing>,
}

/// A pool that takes no new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    /// The change that closed it; a pool closed again has another one.
    pub revision: Option<Revision>,
    pub since: Instant,
    pub proof: Proof,
    /// Somebody was told that a proxy holds the stop up.
    pub alarmed: bool,
}

/// What the fleet has shown about something that is to be stopped.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// No proxy holds a request on it.
    pub drained: bool,
    /// Every proxy that is waited for knows that it takes nothing new.
    pub applied: bool,
}

/// A process that was started and has not ended.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub address: SocketAddr,
    pub pid: u32,
    /// Its user's number, where it has one of its own.
    pub user: Option<u32>,
    pub phase: Phase,
    pub started: Instant,
    pub since: Timestamp,
    /// Its probe succeeds.
    pub ready: bool,
    /// When it was ready first. Requests may have reached it since.
    pub ready_since: Option<Instant>,
    /// Its readiness timeout was reported.
    pub timeout_told: bool,
    /// What its probe said last, while it fails.
    pub probe_error: Option<String>,
    /// From SIGTERM to SIGKILL.
    pub stop_grace: Duration,
}

/// How far a replica is from its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// It is to run.
    Up,
    /// It is to go when its requests have ended. `revision` is the change that said so, once it is committed.
    ///
    /// `alarmed`: somebody was told that a proxy holds its stop up.
    Draining { since: Instant, revision: Option<Revision>, proof: Proof, alarmed: bool },
    /// It was asked to end.
    Stopping { kill_after: Instant, killed: bool },
}

impl Replica {
    /// Whether it counts as one that serves or will.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    pub fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. })
    }

    /// It was asked to end, unless it was before.
    pub fn stopping(&mut self, now: Instant) {
        if !self.is_stopping() {
            self.phase = Phase::Stopping { kill_after: now + self.stop_grace, killed: false };
        }
    }

    /// What its probes have found. As long as that says nothing, it stays what it is.
    fn probed(&mut self, health: &Health, now: Instant) {
        self.probe_error.clone_from(&health.error);
        match health.verdict {
            Verdict::Unknown => {}
            Verdict::Unhealthy => self.ready = false,
            Verdict::Healthy => {
                self.ready = true;
                self.ready_since.get_or_insert(now);
            }
        }
    }
}

/// Exits in a row that make a pool failing: a first one may be an accident, a third one is none.
pub(super) const FAILURES_MAX: u32 = 3;

impl SeenPool {
    /// Whether its replicas keep failing.
    pub fn is_failing(&self) -> bool {
        let unhealthy = |replica: &Replica| replica.is_up() && replica.ready_since.is_some() && !replica.ready;
        self.failures >= FAILURES_MAX || self.timed_out || self.replicas.values().any(unhealthy)
    }

    /// A replica is gone. Answers whether that was a failure: it should have run on.
    pub fn ended(&mut self, id: EndpointId, restart: &Restart, now: Instant) -> bool {
        let Some(replica) = self.replicas.remove(&id) else { return false };
        if !replica.is_up() {
            return false;
        }
        let healthy = |since: Instant| now.saturating_duration_since(since) >= restart.healthy_after;
        if replica.ready_since.is_some_and(healthy) {
            self.failures = 0;
        }
        self.failed(restart, now);
        true
    }

    /// A start failed, or a replica did: the next one waits longer.
    pub fn failed(&mut self, restart: &Restart, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.start_after = Some(now + delay(self.failures, restart));
    }

    /// A replica did not become ready in time and is stopped for it.
    pub fn gave_up(&mut self, id: EndpointId, restart: &Restart, now: Instant) {
        self.timed_out = true;
        self.failed(restart, now);
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.stopping(now);
        }
    }

    /// What probes have found of one replica. Answers whether it was ready and no longer is.
    pub fn probed(&mut self, id: EndpointId, health: &Health, now: Instant) -> bool {
        let Some(replica) = self.replicas.get_mut(&id) else { return false };
        let was_ready = replica.ready;
        replica.probed(health, now);
        if replica.ready {
            self.timed_out = false;
        }
        was_ready && !replica.ready
    }

    /// Takes note of whether the pool is closing, and since when, by this process's clock.
    pub fn see_closing(&mut self, revision: Option<Revision>, since: Option<Timestamp>, now: (Instant, Timestamp)) {
        let known = self.closing.filter(|closing| closing.revision == revision);
        self.closing = Some(known.unwrap_or_else(|| {
            let passed =
                since.map_or(Duration::ZERO, |since| now.1.duration_since(since).try_into().unwrap_or_default());
            let since = now.0.checked_sub(passed).unwrap_or(now.0);
            Closing { revision, since, proof: Proof::default(), alarmed: false }
        }));
    }
}

impl Observed {
    /// How many pools and replicas cannot be stopped although their time is over.
    pub fn blocked_count(&self) -> usize {
        let replica = |replica: &&Replica| matches!(replica.phase, Phase::Draining { alarmed: true, .. });
        let of = |seen: &SeenPool| {
            usize::from(seen.closing.is_some_and(|closing| closing.alarmed))
                + seen.replicas.values().filter(replica).count()
        };
        self.pools.values().map(of).sum()
    }
}

/// After the `failures`-th failure in a row.
fn delay(failures: u32, restart: &Restart) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    restart.delay_min.saturating_mul(1 << doublings).min(restart.delay_max)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Probe;
    use super::*;
    use uuid::Uuid;

    pub fn id(number: u128) -> EndpointId {
        Uuid::from_u128(number).into()
    }

    pub fn replica(started: Instant) -> Replica {
        Replica {
            address: "127.0.0.1:20000".parse().unwrap(),
            pid: 4711,
            user: None,
            phase: Phase::Up,
            started,
            since: Timestamp::UNIX_EPOCH,
            ready: false,
            ready_since: None,
            timeout_told: false,
            probe_error: None,
            stop_grace: Duration::from_secs(30),
        }
    }

    pub fn ready(started: Instant) -> Replica {
        Replica { ready: true, ready_since: Some(started), ..replica(started) }
    }

    #[test]
    fn the_delay_doubles_from_250_ms_to_30_s() {
        let (restart, now) = (Restart::default(), Instant::now());
        let mut pool = SeenPool::default();
        let delays = (0..10).map(|_| {
            pool.failed(&restart, now);
            u64::try_from((pool.start_after.unwrap() - now).as_millis()).unwrap()
        });
        let expected = [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
        assert_eq!(delays.collect::<Vec<_>>(), expected);
        pool.failures = u32::MAX;
        pool.failed(&restart, now);
        assert_eq!(pool.start_after, Some(now + restart.delay_max));
    }

    #[test]
    fn a_replica_that_was_healthy_for_a_while_starts_the_count_anew() {
        let (restart, start) = (Restart::default(), Instant::now());
        for (ready_for, expected) in [(29, 8), (30, 1)] {
            let mut pool = SeenPool { failures: 7, ..SeenPool::default() };
            pool.replicas.insert(id(1), ready(start));
            assert!(pool.ended(id(1), &restart, start + Duration::from_secs(ready_for)));
            assert_eq!(pool.failures, expected, "ready for {ready_for} s");
        }
    }

    #[test]
    fn an_end_that_was_asked_for_is_no_failure() {
        let (restart, now) = (Restart::default(), Instant::now());
        let mut pool = SeenPool::default();
        pool.replicas.insert(id(1), ready(now));
        pool.replicas.get_mut(&id(1)).unwrap().stopping(now);
        assert!(!pool.ended(id(1), &restart, now));
        assert!(!pool.ended(id(2), &restart, now), "one that is not known");
        assert_eq!((pool.failures, pool.start_after), (0, None));
    }

    #[test]
    fn three_ends_in_a_row_are_failing_and_so_is_a_replica_that_fell_ill() {
        let (restart, now) = (Restart::default(), Instant::now());
        let mut pool = SeenPool::default();
        for expected in [false, false, true] {
            pool.replicas.insert(id(1), replica(now));
            pool.ended(id(1), &restart, now);
            assert_eq!(pool.is_failing(), expected);
        }
        let mut pool = SeenPool::default();
        pool.replicas.insert(id(1), replica(now));
        let health = |results: &[bool]| {
            let mut health = Health::new(false);
            for good in results {
                health.take(if *good { Ok(()) } else { Err("refused".to_owned()) }, &Probe::default());
            }
            health
        };
        assert!(!pool.probed(id(1), &health(&[false; 9]), now), "it was not ready before");
        assert!(!pool.is_failing(), "it may still be starting");
        pool.probed(id(1), &health(&[true]), now);
        assert!(!pool.probed(id(1), &health(&[false]), now), "one failure says nothing");
        assert!(pool.replicas[&id(1)].ready);
        assert!(pool.probed(id(1), &health(&[false; 3]), now));
        assert!(pool.is_failing());
    }

    #[test]
    fn closing_again_voids_what_was_proved() {
        let (now, wall) = (Instant::now(), "2026-11-23T12:00:00Z".parse::<Timestamp>().unwrap());
        let mut pool = SeenPool::default();
        pool.see_closing(Some(Revision(4)), Some(wall), (now, wall + Duration::from_secs(10)));
        let closing = pool.closing.as_mut().unwrap();
        assert!(closing.since <= now);
        closing.proof.drained = true;
        pool.see_closing(Some(Revision(4)), Some(wall), (now, wall));
        assert!(pool.closing.unwrap().proof.drained);
        pool.see_closing(Some(Revision(6)), Some(wall), (now, wall));
        assert!(!pool.closing.unwrap().proof.drained);
    }
}
