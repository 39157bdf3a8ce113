//! Members that outlive the control plane, and how they stop being members.

use super::*;

fn stored(proxy: &str, instance: u128, last_heard: i64) -> StoredMember {
    StoredMember {
        key: MemberKey { proxy_id: proxy.into(), instance_id: Uuid::from_u128(instance).into() },
        build: "repoint/test".into(),
        zone: String::new(),
        address: "127.0.0.1:1".parse().unwrap(),
        keeps_table: true,
        embedded: false,
        last_heard: wall(last_heard),
        durable: Some(Revision(9)),
    }
}

fn wall(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

impl Table {
    /// A control plane that begins anew, a day later, with what it had stored.
    fn restarted(members: Vec<StoredMember>) -> Self {
        let mut table = Self::new();
        let now = table.at(0);
        table.members.restore(members, wall(100_000), now);
        table
    }

    fn forgets(&mut self, proxy: &str, instance: Option<u128>, seconds: u64) -> Result<usize, StillLive> {
        let now = self.at(seconds);
        let instance = instance.map(|n| Uuid::from_u128(n).into());
        self.members.forget(proxy, instance, now).map(|forgotten| forgotten.len())
    }
}

#[test]
fn stored_members_are_suspect_for_a_minute_after_a_restart() {
    let mut table = Table::restarted(vec![stored("a", 1, 0), stored("b", 1, 0)]);
    let propagation = table.propagation(9, 0);
    assert_eq!((propagation.required, propagation.applied, propagation.complete), (2, 0, false));
    assert_eq!(table.members.proxies(table.at(0))[0].state, State::Suspect, "nobody has heard it");
    let gone_at = table.awaited_until(9, 0).unwrap();
    assert!(gone_at > table.at(60) && gone_at < table.at(61));
    let a = table.joins("a", Some(9), 1);
    assert_eq!(table.members.proxies(table.at(1))[0].state, State::Live);
    table.acks(&a, 9, 60);
    assert!(!table.propagation(9, 60).complete, "b may be serving");
    let propagation = table.propagation(9, 61);
    assert_eq!((propagation.required, propagation.unconfirmed, propagation.complete), (1, 1, true));
    // Neither is anything stopped before its grace is over.
    for (seconds, drained) in [(60, false), (61, false), (359, false), (361, true)] {
        table.says(&a, 9, &[], seconds);
        assert_eq!((table.drained(1, 9, seconds), table.known(9, seconds)), (drained, drained), "after {seconds} s");
    }
}

#[test]
fn a_day_without_a_control_plane_forgets_nobody() {
    const DAY: i64 = 24 * 3_600;
    // The store was written last when c was heard; a had been silent for a day by then.
    let members = vec![stored("a", 1, 0), stored("b", 1, DAY - 10), stored("c", 1, DAY - 2)];
    let mut table = Table::restarted(members);
    let first = |table: &Table, seconds| table.members.proxies(table.at(seconds))[0].clone();
    assert_eq!(first(&table, 0).silent_for, Duration::from_secs(100_000), "as the clock on the wall has it");
    assert!(!table.members.sweep(table.at(1)));
    assert!(table.members.sweep(table.at(4)), "two seconds more make a day");
    assert_eq!(first(&table, 4).proxy_id, "b");
    let departed = table.members.take_departed();
    assert_eq!((departed.len(), departed[0].proxy_id.as_str()), (1, "a"));
    assert!(table.members.take_departed().is_empty(), "told once");
}

#[test]
fn what_is_stored_is_written_at_hello_and_then_now_and_then() {
    let mut table = Table::new();
    let session = table.joins("a", Some(9), 0);
    let key = table.members.unstored(&session).unwrap().clone();
    assert!(table.members.stored_late(9).is_empty(), "that is for its stream to do");
    table.members.note_stored(&key);
    assert_eq!(table.members.unstored(&session), None);
    table.acks(&session, 10, 300);
    assert!(table.members.stored_late(9).is_empty());
    table.acks(&session, 11, 301);
    assert_eq!(table.members.stored_late(9), std::slice::from_ref(&key));
    assert!(table.members.stored_late(0).is_empty());
    let form = table.members.stored_form(&key, wall(400), table.at(311)).unwrap();
    assert_eq!((form.last_heard, form.key.proxy_id.as_str()), (wall(390), "a"));
    table.members.note_stored(&key);
    assert!(table.members.stored_late(9).is_empty());
    table.acks(&session, 12, 302);
    table.members.lost(&session);
    assert_eq!(table.members.stored_late(9).len(), 1, "its last word is worth a row");
    // Another stream of the same run costs none.
    let again = table.joins("a", Some(12), 303);
    assert_eq!(table.members.unstored(&again), None);
}

#[test]
fn a_run_that_names_the_ended_one_takes_its_place() {
    let mut table = Table::restarted(vec![stored("a", 1, 0), stored("a", 2, 0), stored("b", 1, 0)]);
    let ended = [1, 3, 7].map(|n| Uuid::from_u128(n).into()).to_vec();
    let now = table.at(1);
    table.members.hello(Greeting { applied: Some(Revision(9)), ended, ..greeting("a", 3) }, now);
    let left: Vec<_> =
        table.members.proxies(now).into_iter().map(|proxy| (proxy.proxy_id, proxy.instance_id)).collect();
    let id = |n: u128| InstanceId::from(Uuid::from_u128(n));
    assert_eq!(left, [("a".into(), id(2)), ("a".into(), id(3)), ("b".into(), id(1))], "not the one that handed over");
    assert_eq!(table.members.take_departed().len(), 1);
}

#[test]
fn an_instance_that_hands_over_counts_until_it_says_goodbye() {
    let mut table = Table::new();
    let old = table.joins_as("a", 1, Some(9), 0);
    let new = table.joins_as("a", 2, Some(9), 1);
    table.says(&old, 9, &[1], 2);
    table.says(&new, 9, &[], 2);
    assert_eq!(table.lacks(1, 9, 2), [("a".into(), Why::Busy { in_flight: 2 })]);
    assert!(table.members.goodbye(&old));
    assert!(table.drained(1, 9, 3));
}

#[test]
fn only_who_is_not_live_is_forgotten() {
    let mut table = Table::new();
    let old = table.joins_as("a", 1, Some(8), 0);
    let new = table.joins_as("a", 2, Some(9), 60);
    table.says(&new, 9, &[], 60);
    assert!(!table.drained(1, 9, 60));
    assert_eq!(table.forgets("a", Some(2), 60).unwrap_err().instance_id, Uuid::from_u128(2).into());
    assert_eq!(table.forgets("nobody", None, 60), Ok(0));
    assert_eq!(table.members.proxies(table.at(60)).len(), 2, "a refusal changes nothing");
    assert_eq!(table.forgets("a", None, 60), Ok(1), "the run that is live stays");
    assert!(table.drained(1, 9, 60) && !table.members.is_current(&old));
    assert!(table.forgets("a", None, 60).is_err());
    // Who was forgotten and is there after all is a member again.
    table.joins_as("a", 1, Some(8), 61);
    assert!(!table.drained(1, 9, 61));
}

#[test]
fn proxies_that_are_ahead_of_the_store_are_never_applied() {
    let mut table = Table::new();
    assert!(!table.members.are_all_ahead(), "nobody is");
    let now = table.at(0);
    let session = table.members.hello(Greeting { ahead: true, ..greeting("a", 1) }, now);
    assert!(table.members.are_all_ahead() && table.members.proxies(now)[0].ahead);
    assert!(!table.propagation(9, 0).complete);
    table.joins("b", Some(9), 0);
    assert!(!table.members.are_all_ahead(), "then it is that proxy which is wrong");
    table.acks(&session, 9, 1);
    assert!(!table.members.proxies(now)[0].ahead, "it has taken what the store has");
}
