//! What a proxy makes of what it hears.

use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::model::change::SettingsRecord;
use crate::wire::response::{GoAwayReason, SyncMode};
use crate::wire::{encode_record, proto};

fn at(revision: u64) -> Position {
    let lineage = Uuid::from_u128(1).into();
    Position { lineage, revision: Revision(revision), digest: Digest(revision.into()) }
}

fn welcome() -> Response {
    Response::Welcome(Welcome {
        head: at(7),
        mode: SyncMode::Snapshot,
        heartbeat_interval: Duration::from_secs(2),
        status_interval: Duration::from_secs(1),
        reconnect_spread: Duration::ZERO,
        minor: 1,
        build: "test".into(),
    })
}

fn welcomed(now: Instant) -> Session {
    let mut session = Session::new(now);
    assert!(matches!(session.receive(welcome(), None, now), Ok(Action::Begin(_))));
    session
}

fn record() -> Bytes {
    let settings = SettingsRecord { base_domain: "localhost".parse().unwrap(), shared_hosts: Vec::new() };
    encode_record(&Record::Settings(settings))
}

fn chunk(revision: u64, index: u32, last: bool, records: Vec<Bytes>) -> Response {
    Response::SnapshotChunk(SnapshotChunk { position: at(revision), index, last, records, mass_change_allowed: false })
}

fn refused(action: Result<Action, Broken>) -> Nack {
    match action {
        Ok(Action::Refuse(nack)) => nack,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_begins_with_one_welcome() {
    let now = Instant::now();
    assert_eq!(Session::new(now).receive(Response::Heartbeat(at(1)), None, now).unwrap_err(), Broken::Welcome);
    assert_eq!(welcomed(now).receive(welcome(), None, now).unwrap_err(), Broken::Welcome);
    let away = GoAway { reason: GoAwayReason::Overloaded, delay: Duration::ZERO, spread: Duration::ZERO };
    assert!(matches!(Session::new(now).receive(Response::GoAway(away), None, now), Ok(Action::Leave(_))));
}

#[test]
fn a_table_that_takes_long_to_build_is_no_silence() {
    let now = Instant::now();
    let mut session = welcomed(now);
    let patience = session.deadline() - now;
    assert!(matches!(session.receive(chunk(7, 0, true, vec![record()]), None, now), Ok(Action::Apply(_))));
    let built = now + patience * 2;
    session.acted(built);
    assert_eq!(session.deadline(), built + patience);
}

#[test]
fn three_missed_heartbeats_are_the_end() {
    let now = Instant::now();
    let mut session = welcomed(now);
    assert_eq!(session.deadline(), now + Duration::from_secs(6));
    let later = now + Duration::from_secs(4);
    session.receive(Response::Heartbeat(at(7)), None, later).unwrap();
    assert_eq!(session.deadline(), later + Duration::from_secs(6));
}

#[test]
fn parts_of_a_snapshot_are_applied_when_the_last_has_come() {
    let now = Instant::now();
    let mut session = welcomed(now);
    assert!(matches!(session.receive(chunk(7, 0, false, vec![record()]), None, now), Ok(Action::None)));
    // Heartbeats may come between.
    assert!(matches!(session.receive(Response::Heartbeat(at(8)), None, now), Ok(Action::None)));
    let Ok(Action::Apply(Work::Snapshot { position, records, is_stamped: false })) =
        session.receive(chunk(7, 1, true, vec![record()]), None, now)
    else {
        panic!("not applied")
    };
    assert_eq!((position, records.len()), (at(7), 2));
    assert_eq!(records[0].1, Digest::of_record("settings", &record()));
}

#[test]
fn missing_repeated_and_foreign_parts_break_the_stream() {
    let now = Instant::now();
    for next in [(7, 2), (7, 0), (8, 1)] {
        let mut session = welcomed(now);
        session.receive(chunk(7, 0, false, Vec::new()), None, now).unwrap();
        let broken = session.receive(chunk(next.0, next.1, false, Vec::new()), None, now);
        assert_eq!(broken.unwrap_err(), Broken::Parts, "{next:?}");
    }
    assert_eq!(welcomed(now).receive(chunk(7, 1, true, Vec::new()), None, now).unwrap_err(), Broken::Parts);
}

#[test]
fn a_part_that_cannot_be_read_refuses_the_whole_snapshot_once() {
    let now = Instant::now();
    let mut session = welcomed(now);
    let bad = vec![Bytes::from_static(b"\xff\xff")];
    let nack = refused(session.receive(chunk(7, 0, false, bad), Some(at(3)), now));
    assert_eq!((nack.stuck, nack.refused, nack.reason), (Some(at(3)), Revision(7), NackReason::Invalid));
    assert!(matches!(session.receive(chunk(7, 1, true, vec![record()]), None, now), Ok(Action::None)));
    // The next one is another try.
    assert!(matches!(session.receive(chunk(8, 0, true, vec![record()]), None, now), Ok(Action::Apply(_))));
}

#[test]
fn what_this_build_does_not_know_is_unsupported() {
    use prost::Message;
    let now = Instant::now();
    let unknown = Bytes::from(proto::Record { value: None }.encode_to_vec());
    let nack = refused(welcomed(now).receive(chunk(7, 0, true, vec![unknown]), None, now));
    assert_eq!(nack.reason, NackReason::Unsupported);

    let newer = proto::ChangeSet { minor_min: wire::MINOR + 1, ..proto::ChangeSet::default() };
    let change_sets = vec![newer.encode_to_vec().into()];
    let delta = Response::Delta(Delta { from: at(6), to: at(7), change_sets });
    let nack = refused(welcomed(now).receive(delta, Some(at(6)), now));
    assert_eq!((nack.reason, nack.refused), (NackReason::Unsupported, Revision(7)));
}

#[test]
fn a_heartbeat_that_disagrees_at_the_same_revision_is_an_alarm() {
    let now = Instant::now();
    let other = Position { digest: Digest(99), ..at(7) };
    let nack = refused(welcomed(now).receive(Response::Heartbeat(at(7)), Some(other), now));
    assert_eq!(nack.reason, NackReason::DigestMismatch);
    for have in [None, Some(at(7)), Some(at(6))] {
        assert!(matches!(welcomed(now).receive(Response::Heartbeat(at(7)), have, now), Ok(Action::None)));
    }
}

#[test]
fn refusals_of_the_table_keep_their_reason_and_key() {
    let cases = [
        (Refusal::WrongLineage, NackReason::WrongLineage),
        (Refusal::Gap { have: Revision(1), from: Revision(2) }, NackReason::Gap),
        (Refusal::DigestMismatch, NackReason::DigestMismatch),
        (Refusal::MassChange(Default::default()), NackReason::MassChange),
    ];
    for (refused, reason) in cases {
        assert_eq!(refusal(Some(at(1)), Revision(3), &refused).reason, reason);
    }
    let key = crate::model::change::RecordKey::Settings;
    let nack = refusal(None, Revision(3), &Refusal::Invalid { key, why: "no".into() });
    assert_eq!((nack.reason, nack.keys.as_slice()), (NackReason::Invalid, ["settings".to_owned()].as_slice()));
    assert_eq!(nack.detail, "failed to apply settings: no");
}
