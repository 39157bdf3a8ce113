//! What follows from what proxies say, and from their silence.

use uuid::Uuid;

use super::*;
use crate::fleet::member::Reason;
use crate::fleet::wait::{Until, Wait};

mod histories;
mod stored;

/// Members, a clock and short names.
struct Table {
    members: Members,
    start: Instant,
}

impl Table {
    /// A control plane that has been up for long enough.
    fn new() -> Self {
        Self::started(Config { settle: Duration::ZERO, ..Config::default() })
    }

    fn started(config: Config) -> Self {
        let start = Instant::now();
        Self { members: Members::new(config, start), start }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn joins(&mut self, proxy: &str, applied: Option<u64>, seconds: u64) -> Session {
        self.joins_as(proxy, 1, applied, seconds)
    }

    fn joins_as(&mut self, proxy: &str, instance: u128, applied: Option<u64>, seconds: u64) -> Session {
        let greeting = Greeting { applied: applied.map(Revision), ..greeting(proxy, instance) };
        let now = self.at(seconds);
        self.members.hello(greeting, now)
    }

    fn acks(&mut self, session: &Session, applied: u64, seconds: u64) -> bool {
        let now = self.at(seconds);
        self.members.ack(session, Some(Revision(applied)), None, now)
    }

    fn refuses(&mut self, session: &Session, revision: u64, reason: Reason, seconds: u64) {
        let now = self.at(seconds);
        let refused = Refused { revision: Revision(revision), reason, detail: "host taken".into() };
        self.members.nack(session, refused, now);
    }

    /// A whole status: the pools and endpoints named are busy.
    fn says(&mut self, session: &Session, applied: u64, busy: &[u128], seconds: u64) {
        self.reports(session, report(Some(applied), busy), seconds);
    }

    fn reports(&mut self, session: &Session, report: Report, seconds: u64) {
        let now = self.at(seconds);
        let applied = report.applied;
        self.members.status(session, report, now);
        // As the stream does: what it has published it has applied.
        self.members.ack(session, applied, None, now);
    }

    fn propagation(&self, revision: u64, seconds: u64) -> Propagation {
        self.members.propagation(Revision(revision), self.at(seconds))
    }

    fn is_settled(&self, revision: u64, seconds: u64) -> bool {
        Wait::new(Revision(revision), Until::Settled).look(&self.members, self.at(seconds)).is_none()
    }

    /// When a wait for everybody would end by silence.
    fn awaited_until(&self, revision: u64, seconds: u64) -> Option<Instant> {
        Wait::new(Revision(revision), Until::Complete).look(&self.members, self.at(seconds))
    }

    fn drained(&self, n: u128, closing: u64, seconds: u64) -> bool {
        let now = self.at(seconds);
        let pools: Vec<_> = self.members.blocking_pool(pool(n), Revision(closing), now).collect();
        let endpoint = Uuid::from_u128(n).into();
        let endpoints: Vec<_> = self.members.blocking_endpoint(endpoint, Revision(closing), now).collect();
        assert_eq!(pools, endpoints, "pools and endpoints follow one rule");
        pools.is_empty()
    }

    fn known(&self, closing: u64, seconds: u64) -> bool {
        self.members.blocking_closing(Revision(closing), self.at(seconds)).next().is_none()
    }

    /// What each proxy lacks before a pool is stopped.
    fn lacks(&self, n: u128, closing: u64, seconds: u64) -> Vec<(String, Why)> {
        let blockers = self.members.blocking_pool(pool(n), Revision(closing), self.at(seconds));
        let lacking = blockers.filter_map(|blocker| match blocker {
            Blocker::Proxy { proxy_id, why, .. } => Some((proxy_id, why)),
            Blocker::Settling { .. } => None,
        });
        lacking.collect()
    }
}

fn greeting(proxy: &str, instance: u128) -> Greeting {
    Greeting::new(proxy, Uuid::from_u128(instance).into(), "127.0.0.1:1".parse().unwrap())
}

fn pool(n: u128) -> PoolKey {
    PoolKey { environment: Uuid::from_u128(n).into(), deployment: Uuid::from_u128(n).into() }
}

fn report(applied: Option<u64>, busy: &[u128]) -> Report {
    Report {
        applied: applied.map(Revision),
        busy_pools: busy.iter().map(|n| (pool(*n), 2)).collect(),
        busy_endpoints: busy.iter().map(|n| (Uuid::from_u128(*n).into(), 2)).collect(),
        truncated: false,
        in_flight: Vec::new(),
    }
}

#[test]
fn a_change_is_complete_when_every_live_and_suspect_proxy_has_applied_it() {
    let mut table = Table::new();
    let (a, b) = (table.joins("a", Some(6), 0), table.joins("b", Some(7), 0));
    let propagation = table.propagation(7, 0);
    assert_eq!((propagation.required, propagation.applied, propagation.complete), (2, 1, false));

    assert!(table.acks(&a, 7, 1));
    assert!(table.propagation(7, 1).complete);
    // b has been silent for 50 s: suspect, and still waited for.
    assert!(table.acks(&a, 8, 50));
    let propagation = table.propagation(8, 50);
    assert_eq!((propagation.required, propagation.applied, propagation.complete), (2, 1, false));
    assert!(table.acks(&b, 8, 51));
    assert!(table.propagation(8, 51).complete);
}

#[test]
fn proxies_that_are_gone_are_unconfirmed_and_not_waited_for() {
    let mut table = Table::new();
    let (a, b) = (table.joins("a", Some(7), 0), table.joins("b", Some(7), 0));
    table.acks(&a, 8, 61);
    let propagation = table.propagation(8, 61);
    assert_eq!((propagation.required, propagation.applied, propagation.unconfirmed), (1, 1, 1));
    assert!(propagation.complete);
    // What it applied before it fell silent, it has applied.
    assert_eq!(table.propagation(7, 61).unconfirmed, 0);
    // Its stream ended or not: silence is what counts.
    table.members.lost(&b);
    assert_eq!(table.propagation(8, 61).unconfirmed, 1);
}

#[test]
fn nobody_to_wait_for_is_complete() {
    assert!(Table::new().propagation(1, 0).complete);
}

#[test]
fn states_follow_silence() {
    let mut table = Table::new();
    let session = table.joins("a", None, 0);
    for (seconds, state) in [(0, State::Live), (10, State::Live), (11, State::Suspect), (60, State::Suspect)] {
        assert_eq!(table.members.proxies(table.at(seconds))[0].state, state, "after {seconds} s");
    }
    assert_eq!(table.members.proxies(table.at(61))[0].state, State::Gone);
    assert_eq!(table.awaited_until(1, 61), None);
    assert!(table.acks(&session, 0, 70), "coming back changes conclusions");
    assert_eq!(table.members.proxies(table.at(70))[0].state, State::Live);
    let gone_at = table.awaited_until(1, 70).unwrap();
    assert!(gone_at > table.at(130) && gone_at < table.at(131));
}

#[test]
fn a_refusal_shows_until_it_is_healed() {
    let mut table = Table::new();
    let session = table.joins("a", Some(6), 0);
    table.refuses(&session, 7, Reason::Invalid, 1);
    let propagation = table.propagation(7, 1);
    let [refusal] = propagation.refused.as_slice() else { panic!("{propagation:?}") };
    assert_eq!((refusal.proxy_id.as_str(), refusal.reason.as_str()), ("a", "invalid"));
    assert!(!propagation.complete);
    assert!(table.is_settled(7, 1), "waiting longer does not help");
    assert!(!table.is_settled(8, 1), "a later change may heal it");
    assert!(table.awaited_until(7, 1).is_some(), "so who waits for everybody goes on");

    table.acks(&session, 8, 2);
    assert!(table.propagation(8, 2).refused.is_empty());
    assert!(table.propagation(8, 2).complete);
}

#[test]
fn a_refusal_that_a_snapshot_heals_is_waited_out() {
    let mut table = Table::new();
    let session = table.joins("a", Some(6), 0);
    for reason in [Reason::Gap, Reason::DigestMismatch, Reason::WrongLineage] {
        table.refuses(&session, 7, reason, 1);
        assert!(!table.is_settled(7, 1), "{reason:?}");
    }
}

#[test]
fn how_a_change_spreads_is_told_in_time_and_by_name() {
    let mut table = Table::new();
    let quick = table.joins("quick", Some(6), 0);
    let slow = table.joins("slow", Some(6), 0);
    table.joins("late", Some(6), 0);
    table.joins("new", Some(7), 3);
    let spread = |table: &Table, seconds| table.members.spread(Revision(7), table.at(1), table.at(seconds));
    assert_eq!((spread(&table, 3).applied, spread(&table, 3).times), (1, None), "who began with it took no time");

    table.acks(&quick, 7, 3);
    // It went past the change in one step.
    table.acks(&slow, 9, 5);
    table.acks(&slow, 12, 9);
    let told = spread(&table, 9);
    let times = told.times.unwrap();
    assert_eq!((times.p50.as_secs(), times.p99.as_secs(), times.all.as_secs(), times.measured), (2, 4, 4, 2));
    let [laggard] = told.lagging.as_slice() else { panic!("{told:?}") };
    assert_eq!((laggard.proxy_id.as_str(), laggard.applied, told.lagging_count), ("late", Some(Revision(6)), 1));
    assert!(!told.is_complete());
    let gone = spread(&table, 62);
    assert_eq!((gone.unconfirmed, gone.is_complete()), (1, true));
}

#[test]
fn a_proxy_that_refuses_for_good_is_counted_as_refusing() {
    let mut table = Table::new();
    let session = table.joins("a", Some(6), 0);
    let told = |table: &Table| table.members.spread(Revision(7), table.at(0), table.at(1));
    table.refuses(&session, 7, Reason::Gap, 1);
    assert_eq!((told(&table).lagging_count, told(&table).refusing_count), (1, 0));
    table.refuses(&session, 7, Reason::Invalid, 1);
    assert_eq!(told(&table).refusing_count, 1);
    assert_eq!(told(&table).lagging[0].refused.as_ref().map(|refused| refused.reason), Some(Reason::Invalid));
}

#[test]
fn when_a_change_arrived_long_ago_is_not_made_up() {
    let mut table = Table::new();
    let session = table.joins("a", Some(1), 0);
    for revision in 2..40 {
        table.acks(&session, revision, revision);
    }
    let times = |table: &Table, revision| table.members.spread(Revision(revision), table.at(0), table.at(40)).times;
    assert_eq!(times(&table, 39).unwrap().all.as_secs(), 39);
    assert_eq!(times(&table, 5), None);
    // A stream that begins anew where the last one ended keeps what was seen.
    let session = table.joins("a", Some(39), 41);
    assert_eq!(times(&table, 39).unwrap().all.as_secs(), 39);
    table.acks(&session, 40, 42);
    // One that has got further unseen does not.
    table.joins("a", Some(45), 43);
    assert_eq!(table.members.spread(Revision(45), table.at(0), table.at(44)).times, None);
}

#[test]
fn invariant_3_watermarks_never_go_back() {
    let mut table = Table::new();
    let session = table.joins("a", Some(5), 0);
    table.acks(&session, 9, 1);
    assert!(!table.acks(&session, 7, 2), "an overtaken ack says nothing new");
    assert_eq!(table.members.proxies(table.at(2))[0].applied_revision, Some(Revision(9)));
}

#[test]
fn a_newer_stream_of_the_same_run_takes_over() {
    let mut table = Table::new();
    let older = table.joins("a", Some(5), 0);
    let newer = table.joins("a", Some(5), 1);
    assert!(!table.members.is_current(&older) && table.members.is_current(&newer));
    assert!(!table.acks(&older, 9, 2), "words of the older stream are dropped");
    assert!(!table.members.lost(&older) && !table.members.goodbye(&older));
    assert_eq!(table.members.proxies(table.at(2)).len(), 1);
    assert!(table.members.proxies(table.at(2))[0].connected);
}

#[test]
fn a_restarted_proxy_is_another_member() {
    let mut table = Table::new();
    table.joins_as("a", 1, Some(5), 0);
    let restarted = table.joins_as("a", 2, None, 1);
    table.acks(&restarted, 6, 2);
    let propagation = table.propagation(6, 2);
    assert_eq!((propagation.required, propagation.applied), (2, 1), "the older run may still hand over its requests");
}

#[test]
fn goodbye_and_a_day_of_silence_forget() {
    let mut table = Table::new();
    let session = table.joins("a", Some(5), 0);
    assert!(table.members.goodbye(&session));
    assert!(table.members.proxies(table.at(0)).is_empty());

    table.joins("b", Some(5), 0);
    table.joins("c", Some(5), 24 * 3_600 + 1);
    assert!(table.members.sweep(table.at(24 * 3_600 + 1)));
    assert_eq!(table.members.proxies(table.at(24 * 3_600 + 1)).len(), 1);
}

#[test]
fn drained_is_absence_from_a_status_at_or_past_the_closing_change() {
    let mut table = Table::new();
    let (a, b) = (table.joins("a", Some(9), 0), table.joins("b", Some(9), 0));
    assert!(!table.drained(1, 9, 0), "nobody has said anything yet");
    table.says(&a, 9, &[], 1);
    assert!(!table.drained(1, 9, 1), "b has not");
    table.says(&b, 8, &[], 1);
    assert!(!table.drained(1, 9, 1), "b's status is older than the change");
    table.says(&b, 9, &[1], 2);
    assert!(!table.drained(1, 9, 2), "b lists it");
    assert!(table.drained(2, 9, 2), "nobody lists the other one");
    table.says(&b, 10, &[], 3);
    assert!(table.drained(1, 9, 3));
    assert!(!table.drained(1, 11, 3), "closed again by a later change: the earlier proof is void");
}

#[test]
fn a_proxy_that_keeps_its_table_has_to_have_the_closing_on_disk() {
    let mut table = Table::new();
    let greeting = Greeting { applied: Some(Revision(8)), keeps_table: true, ..greeting("a", 1) };
    let session = table.members.hello(greeting, table.at(0));
    assert_eq!(table.lacks(1, 9, 0), [("a".into(), Why::NotApplied)]);
    table.says(&session, 9, &[], 1);
    table.acks(&session, 9, 1);
    assert_eq!(table.lacks(1, 9, 1), [("a".into(), Why::NotDurable)]);
    assert!(!table.known(9, 1), "its disk would send requests there again");
    assert!(table.propagation(9, 1).complete, "a slow disk delays no move");
    table.members.ack(&session, Some(Revision(9)), Some(Revision(9)), table.at(2));
    assert!(table.drained(1, 9, 2) && table.known(9, 2));

    // One that keeps nothing asks before it serves again.
    let mut table = Table::new();
    let session = table.joins("b", Some(8), 0);
    table.says(&session, 9, &[], 1);
    table.acks(&session, 9, 1);
    assert!(table.drained(1, 9, 1) && table.known(9, 1));
}

#[test]
fn who_blocks_a_stop_is_named_with_what_it_lacks() {
    let mut table = Table::new();
    let (a, b) = (table.joins("a", Some(9), 0), table.joins("b", Some(9), 0));
    table.joins("c", Some(8), 0);
    table.says(&a, 9, &[1], 1);
    let expected =
        [("a".into(), Why::Busy { in_flight: 2 }), ("b".into(), Why::Unreported), ("c".into(), Why::NotApplied)];
    assert_eq!(table.lacks(1, 9, 1), expected);
    table.says(&b, 9, &[], 1);
    let told = |seconds| {
        let blockers = table.members.blocking_pool(pool(1), Revision(9), table.at(seconds));
        blockers.map(|blocker| (blocker.to_string(), blocker.is_busy())).collect::<Vec<_>>()
    };
    assert!(told(2)[0].0.ends_with("carries 2 requests of it") && told(2)[0].1, "{:?}", told(2));
    let (silent, busy) = &told(100)[1];
    assert!(silent.starts_with("proxy c (run 0") && silent.contains("has not applied"), "{silent}");
    assert!(silent.ends_with("is silent for 100 s") && !busy, "{silent}");
    let table = Table::started(Config::default());
    assert!(matches!(
        *table.members.blocking_pool(pool(1), Revision(9), table.at(59)).collect::<Vec<_>>(),
        [Blocker::Settling { .. }]
    ));
}

#[test]
fn a_reopened_pool_needs_new_proofs() {
    let mut table = Table::new();
    let session = table.joins("a", Some(9), 0);
    table.says(&session, 9, &[], 1);
    assert!(table.drained(1, 9, 1));
    // 10 opens it, 11 closes it again: what was idle at 9 may have got requests at 10.
    table.acks(&session, 11, 2);
    assert_eq!(table.lacks(1, 11, 2), [("a".into(), Why::Unreported)]);
    table.says(&session, 10, &[], 3);
    assert_eq!(table.lacks(1, 11, 3), [("a".into(), Why::Unreported)], "read before the second closing");
    table.says(&session, 11, &[], 4);
    assert!(table.drained(1, 11, 4));
}

#[test]
fn a_truncated_status_proves_nothing() {
    let mut table = Table::new();
    let session = table.joins("a", Some(9), 0);
    table.reports(&session, Report { truncated: true, ..report(Some(9), &[]) }, 1);
    assert!(!table.drained(1, 9, 1));
    // Neither does one from another history, nor does it leave an older proof standing.
    table.says(&session, 9, &[], 2);
    assert!(table.drained(1, 9, 2));
    table.reports(&session, report(None, &[]), 3);
    assert!(!table.drained(1, 9, 3));
}

#[test]
fn a_silent_proxy_blocks_until_its_grace_is_over() {
    let mut table = Table::new();
    let a = table.joins("a", Some(9), 0);
    table.joins("b", Some(8), 0);
    for (seconds, drained) in [(59, false), (61, false), (359, false), (361, true)] {
        table.says(&a, 9, &[], seconds);
        assert_eq!(table.drained(1, 9, seconds), drained, "after {seconds} s");
    }
}

#[test]
fn what_a_proxy_proved_before_it_fell_silent_stays_proved() {
    let mut table = Table::new();
    let session = table.joins("a", Some(9), 0);
    table.says(&session, 9, &[], 1);
    assert!(table.drained(1, 9, 100));
    table.joins("a", Some(9), 101);
    assert!(table.drained(1, 9, 101), "a reconnect unlearns nothing");
    table.joins("a", None, 102);
    assert!(!table.drained(1, 9, 102), "but another history does");
}

#[test]
fn nothing_is_concluded_from_absence_after_a_start() {
    let mut table = Table::started(Config::default());
    let proofs = |table: &Table, seconds| (table.drained(1, 9, seconds), table.known(9, seconds));
    assert_eq!(proofs(&table, 59), (false, false));
    assert_eq!(proofs(&table, 60), (true, true));
    // Neither from the absence of others, where one is back already.
    let session = table.joins("a", Some(9), 1);
    table.says(&session, 9, &[], 2);
    assert_eq!(proofs(&table, 59), (false, false));
    assert_eq!(proofs(&table, 60), (true, true));
}

#[test]
fn a_closing_is_known_when_nobody_can_serve_without_knowing() {
    let mut table = Table::new();
    let (a, b) = (table.joins("a", Some(9), 0), table.joins("b", Some(8), 0));
    for (seconds, known) in [(59, false), (61, false), (359, false), (361, true)] {
        table.acks(&a, 9, seconds);
        assert_eq!(table.known(9, seconds), known, "after {seconds} s");
    }
    assert!(table.propagation(9, 61).complete, "a move does not wait for who is gone");
    table.acks(&b, 8, 362);
    assert!(!table.known(9, 362), "it is back, and as it was");
    table.acks(&b, 9, 363);
    assert!(table.known(9, 363), "however busy they are");
}

#[test]
fn load_is_summed_over_the_proxies_that_are_there() {
    let mut table = Table::new();
    let (a, b) = (table.joins("a", Some(9), 0), table.joins("b", Some(9), 0));
    let load = |count| Report { in_flight: vec![(pool(1), count)], ..report(Some(9), &[]) };
    table.reports(&a, load(3), 1);
    table.reports(&b, load(4), 1);
    table.says(&b, 9, &[2], 2);
    let in_flight = |table: &Table, n, seconds| table.members.in_flight(pool(n), table.at(seconds));
    assert_eq!((in_flight(&table, 1, 2), in_flight(&table, 2, 2)), (7, 2));
    table.says(&a, 9, &[1], 3);
    table.says(&a, 9, &[], 4);
    assert_eq!(in_flight(&table, 1, 4), 4, "what has left the busy list is idle");
    table.reports(&a, load(0), 61);
    assert_eq!(in_flight(&table, 1, 61), 4);
    assert_eq!(in_flight(&table, 1, 63), 0, "b is gone, a is idle");
    assert_eq!(table.members.proxies(table.at(61))[1].in_flight, 6);
    table.joins("b", Some(9), 64);
    assert_eq!(in_flight(&table, 2, 64), 0, "a new stream begins with every count that is not zero");
}
