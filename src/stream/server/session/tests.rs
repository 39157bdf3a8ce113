//! What is sent next, by table.

use uuid::Uuid;

use super::*;
use crate::model::revision::Digest;

fn at(revision: u64) -> Position {
    position(1, revision, revision)
}

fn position(lineage: u128, revision: u64, digest: u64) -> Position {
    let lineage = Uuid::from_u128(lineage).into();
    Position { lineage, revision: Revision(revision), digest: Digest(digest.into()) }
}

fn nack(stuck: Option<Position>, refused: u64, reason: NackReason) -> Nack {
    Nack { stuck, refused: Revision(refused), reason, keys: Vec::new(), detail: String::new() }
}

/// A session whose proxy stands at 5, as the log confirms.
fn resumed() -> Session {
    let mut session = Session::new(Some(at(5)));
    session.compared(Some(at(5)));
    session
}

#[test]
fn a_position_that_the_log_confirms_resumes() {
    let now = Instant::now();
    let session = Session::new(Some(at(5)));
    assert_eq!(session.next(at(7), now), Step::Compare(at(5)));
    assert_eq!(session.recognised(at(5)), None, "not before the log was asked");
    let session = resumed();
    assert_eq!(session.mode(at(7)), SyncMode::Resume);
    assert_eq!(session.next(at(5), now), Step::Wait);
    assert_eq!(session.next(at(7), now), Step::Delta { from: at(5), net: false });
    assert_eq!(session.recognised(at(5)), Some(Revision(5)));
}

#[test]
fn anything_else_takes_a_snapshot() {
    let now = Instant::now();
    assert_eq!(Session::new(None).next(at(7), now), Step::Snapshot);
    let other = Session::new(Some(position(2, 5, 5)));
    assert_eq!((other.next(at(7), now), other.mode(at(7))), (Step::Snapshot, SyncMode::Snapshot));
    for logged in [None, Some(position(1, 5, 99))] {
        let mut session = Session::new(Some(at(5)));
        session.compared(logged);
        assert_eq!(session.next(at(7), now), Step::Snapshot);
        assert_eq!(session.recognised(at(5)), None);
    }
}

#[test]
fn a_proxy_that_is_ahead_gets_nothing_until_the_log_is_past_it() {
    let now = Instant::now();
    let session = Session::new(Some(at(9)));
    assert!(session.is_ahead(at(7)));
    assert_eq!((session.next(at(7), now), session.mode(at(7))), (Step::Wait, SyncMode::Resume));
    assert_eq!(session.recognised(at(9)), None, "what it has is not this history's revision 9");
    assert_eq!(session.next(at(9), now), Step::Compare(at(9)));
}

#[test]
fn one_frame_at_a_time_while_later_changes_coalesce() {
    let now = Instant::now();
    let mut session = resumed();
    session.sends_delta(at(5), at(6));
    assert_eq!(session.next(at(9), now), Step::Wait);
    assert!(session.ack(at(5), now), "an older ack says nothing");
    assert_eq!(session.next(at(9), now), Step::Wait);
    assert!(session.ack(at(6), now));
    assert_eq!(session.next(at(9), now), Step::Delta { from: at(6), net: false });
    session.sends_delta(at(6), at(9));
    session.seen(at(9));
    assert_eq!(session.next(at(9), now), Step::Wait, "a status stands in for a lost ack");
    assert_eq!(session.recognised(at(9)), Some(Revision(9)));
}

#[test]
fn a_refused_change_is_held_until_the_head_moves_and_then_sent_as_its_net() {
    let now = Instant::now();
    let mut session = resumed();
    session.sends_delta(at(5), at(6));
    session.nack(&nack(Some(at(5)), 6, NackReason::Invalid), now);
    assert_eq!(session.next(at(7), now), Step::WaitUntil(now + HOLD_MIN));
    let later = now + HOLD_MIN;
    assert_eq!(session.next(at(6), later), Step::Wait, "the same would be refused again");
    assert_eq!(session.next(at(7), later), Step::Delta { from: at(5), net: true });
    assert_eq!(session.recognised(at(5)), Some(Revision(5)));
}

#[test]
fn what_a_snapshot_heals_is_sent_as_one() {
    let now = Instant::now();
    for reason in [NackReason::Gap, NackReason::WrongLineage, NackReason::DigestMismatch] {
        let mut session = resumed();
        session.sends_delta(at(5), at(6));
        session.nack(&nack(Some(at(5)), 6, reason), now);
        assert_eq!(session.next(at(6), now + HOLD_MIN), Step::Snapshot, "{reason:?}");
        assert_eq!(session.recognised(at(5)).is_some(), reason != NackReason::DigestMismatch);
    }
    // It stays elsewhere than the frame began: only a snapshot is sure.
    let mut session = resumed();
    session.sends_delta(at(5), at(6));
    session.nack(&nack(Some(at(4)), 6, NackReason::Invalid), now);
    assert_eq!(session.next(at(7), now + HOLD_MIN), Step::Snapshot);
}

#[test]
fn holds_grow_to_a_minute_and_an_ack_ends_them() {
    let now = Instant::now();
    let mut session = resumed();
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        session.sends_delta(at(5), at(6));
        session.nack(&nack(Some(at(5)), 6, NackReason::Invalid), now);
        assert_eq!(session.next(at(7), now), Step::WaitUntil(now + Duration::from_secs(pause)));
    }
    session.sends_delta(at(5), at(7));
    session.ack(at(7), now);
    session.sends_delta(at(7), at(8));
    session.nack(&nack(Some(at(7)), 8, NackReason::Invalid), now);
    assert_eq!(session.next(at(9), now), Step::WaitUntil(now + HOLD_MIN));
}

#[test]
fn a_table_that_does_not_add_up_is_replaced_and_not_counted() {
    let now = Instant::now();
    let mut session = resumed();
    session.sends_delta(at(5), at(6));
    assert!(!session.ack(position(1, 6, 99), now));
    assert_eq!(session.recognised(at(5)), None);
    assert_eq!(session.next(at(6), now + HOLD_MIN), Step::Snapshot);
    session.sends_snapshot(at(6));
    assert_eq!(session.recognised(position(1, 6, 99)), None, "still the wrong table");
    assert!(session.ack(at(6), now));
    assert_eq!(session.recognised(at(6)), Some(Revision(6)));

    // Found by the proxy itself, in a heartbeat.
    let mut session = resumed();
    session.nack(&nack(Some(position(1, 5, 99)), 5, NackReason::DigestMismatch), now);
    assert_eq!(session.next(at(5), now + HOLD_MIN), Step::Snapshot);
}

#[test]
fn a_refusal_of_something_else_changes_nothing() {
    let now = Instant::now();
    let mut session = resumed();
    session.sends_delta(at(5), at(6));
    session.nack(&nack(Some(at(5)), 4, NackReason::Invalid), now);
    assert!(session.ack(at(6), now));
    session.nack(&nack(Some(at(5)), 6, NackReason::Invalid), now);
    assert_eq!(session.next(at(7), now), Step::Delta { from: at(6), net: false }, "it was acknowledged since");
}

#[test]
fn a_log_that_does_not_reach_back_gives_way_to_a_snapshot() {
    let mut session = resumed();
    session.out_of_reach();
    assert_eq!(session.next(at(7), Instant::now()), Step::Snapshot);
    session.sends_snapshot(at(7));
    assert_eq!(session.recognised(at(5)), Some(Revision(5)), "what it serves is still of this history");
}

/// Its heartbeats say so every second until the snapshot is there.
fn diverged(seen: u64) -> Nack {
    nack(Some(position(1, seen, 99)), seen, NackReason::DigestMismatch)
}

#[test]
fn a_proxy_that_says_again_that_it_diverged_does_not_put_its_snapshot_off() {
    let start = Instant::now();
    let mut session = resumed();
    session.nack(&diverged(5), start);
    for millis in [200, 400, 600, 800] {
        let now = start + Duration::from_millis(millis);
        session.nack(&diverged(5), now);
        assert_eq!(session.next(at(5), now), Step::WaitUntil(start + HOLD_MIN));
    }
    assert_eq!(session.next(at(5), start + HOLD_MIN), Step::Snapshot);
    // Also where it is held for something else: from then on only a snapshot is sure.
    let mut session = resumed();
    session.sends_delta(at(5), at(6));
    session.nack(&nack(Some(at(5)), 6, NackReason::Gap), start);
    session.nack(&diverged(5), start);
    assert_eq!(session.recognised(at(5)), None);
    assert_eq!(session.next(at(6), start + HOLD_MIN), Step::Snapshot);
}

#[test]
fn a_refusal_that_crosses_the_snapshot_does_not_outweigh_its_ack() {
    let now = Instant::now();
    type Said = fn(&mut Session, Position, Instant);
    let acked: Said = |session, applied, now| assert!(session.ack(applied, now));
    let seen: Said = |session, applied, _| session.seen(applied);
    for said in [acked, seen] {
        let mut session = resumed();
        session.nack(&diverged(5), now);
        session.sends_snapshot(at(5));
        session.nack(&diverged(5), now);
        said(&mut session, position(1, 5, 99), now);
        assert_eq!(session.recognised(position(1, 5, 99)), None, "not what was sent");
        said(&mut session, at(5), now);
        assert_eq!(session.recognised(at(5)), Some(Revision(5)));
        assert_eq!(session.next(at(6), now), Step::Delta { from: at(5), net: false }, "nothing is held any more");
        session.sends_delta(at(5), at(6));
        session.nack(&nack(Some(at(5)), 6, NackReason::Invalid), now);
        assert_eq!(session.next(at(7), now), Step::WaitUntil(now + HOLD_MIN), "pauses begin anew");
    }
}
