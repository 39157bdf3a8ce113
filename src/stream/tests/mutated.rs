//! Frames of the control stream that are flipped, cut, filled or put together
//! anew on their way: the proxy's end never panics, and its table is one that the
//! store has had, whole.

use std::sync::Arc;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;

use super::log::{Log, deployment_id, host, moved, pool};
use crate::model::change::PoolRecordState;
use crate::model::revision::Digest;
use crate::routing::address::Address;
use crate::routing::live::Live;
use crate::store::Changes;
use crate::stream::client::session::{Action, Session, Work};
use crate::stream::server::snapshots::chunks;
use crate::wire::proto::SyncResponse;
use crate::wire::response::{Delta, Response};

/// What the three environments lead to, and the digest of that.
type Served = ([Option<u8>; 3], Option<Digest>);

fn served(live: &Live) -> Served {
    let mut reader = live.reader();
    let pointers = [0, 1, 2].map(|n| {
        let host = host(n);
        let address = Address { host: host.as_bytes(), ..Address::default() };
        let resolved = reader.current().resolve(&address).ok()?;
        (0..9).find(|deployment| deployment_id(*deployment) == resolved.pool.key.deployment)
    });
    (pointers, live.position().map(|at| at.digest))
}

/// Hears one message and does what it says, as the client does.
fn hear(live: &Live, session: &mut Session, bytes: &[u8]) {
    let Ok(message) = SyncResponse::decode(bytes) else { return };
    let Ok(response) = Response::try_from(message) else { return };
    let Ok(Action::Apply(work)) = session.receive(response, live.position(), Instant::now()) else { return };
    // A refusal is as good an answer as any.
    let _ = match work {
        Work::Snapshot { position, records, .. } => live.apply_snapshot(position, records),
        Work::Delta { from, to, changes } => live.apply_delta(from, to, changes),
    };
}

fn encoded(response: Response) -> Vec<u8> {
    SyncResponse::from(response).encode_to_vec()
}

/// A proxy with a table, a delta that moves two environments and closes a pool,
/// and a snapshot of the same; and what both states look like.
fn frames() -> (Arc<Live>, Vec<Vec<u8>>, [Served; 2]) {
    let (log, live) = (Log::new(1), Live::new(1));
    for n in 0..3 {
        log.commit(moved(n, 1), &[]);
    }
    let whole = |log: &Log| encoded(chunks(&log.whole(), false).map(Response::SnapshotChunk).next().unwrap());
    hear(&live, &mut Session::replay(Instant::now()), &whole(&log));
    let (from, before) = (log.head(), served(&live));
    log.commit([moved(0, 2), moved(1, 2), vec![pool(0, 1, PoolRecordState::Closing)]].concat(), &[]);
    let Changes::Log(changes) = log.changes(from.revision, usize::MAX) else { panic!("the log reaches back") };
    let change_sets = changes.into_iter().map(|change| change.bytes).collect();
    let delta = encoded(Response::Delta(Delta { from, to: log.head(), change_sets }));
    let snapshot = whole(&log);
    let after = {
        let live = Live::new(1);
        hear(&live, &mut Session::replay(Instant::now()), &snapshot);
        served(&live)
    };
    (live, vec![delta, snapshot], [before, after])
}

/// What happens to a frame.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Fill(Index, Vec<u8>),
    /// A piece of it is there twice.
    Twice(Index, Index),
    /// A piece of it is gone.
    Gone(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    prop_oneof![
        6 => (index(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => index().prop_map(Damage::Cut),
        1 => (index(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Damage::Fill(at, bytes)),
        1 => (index(), index()).prop_map(|(from, to)| Damage::Twice(from, to)),
        1 => (index(), index()).prop_map(|(from, to)| Damage::Gone(from, to)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let length = bytes.len() + 1;
        let piece = |from: &Index, to: &Index| {
            let (from, to) = (from.index(length), to.index(length));
            from.min(to)..from.max(to)
        };
        match damage {
            Damage::Flip(..) if bytes.is_empty() => {}
            Damage::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Fill(at, filling) => {
                let at = at.index(length);
                bytes.splice(at..at, filling.iter().copied());
            }
            Damage::Twice(from, to) => {
                let piece = piece(from, to);
                let copy = bytes[piece.clone()].to_vec();
                bytes.splice(piece.end..piece.end, copy);
            }
            Damage::Gone(from, to) => drop(bytes.drain(piece(from, to))),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn invariant_6_a_damaged_frame_is_applied_whole_or_not_at_all(
        which in 0..2_usize,
        damages in vec(damage(), 0..4),
    ) {
        let (live, frames, [before, after]) = frames();
        let bytes = damaged(frames[which].clone(), &damages);
        hear(&live, &mut Session::replay(Instant::now()), &bytes);
        let now = served(&live);
        prop_assert!(now == before || now == after, "{now:?} is neither {before:?} nor {after:?}");
        prop_assert!(!damages.is_empty() || now == after, "what is whole is applied");
        // What is whole heals it, whatever came before.
        hear(&live, &mut Session::replay(Instant::now()), &frames[1]);
        let healed = served(&live);
        let is_ahead = now != before;
        prop_assert!(healed == after || is_ahead, "{healed:?} is not {after:?}");
    }
}

#[test]
fn a_frame_cut_anywhere_leaves_the_table_as_it_was() {
    let (live, frames, [before, _]) = frames();
    for frame in &frames {
        for length in 0..frame.len() {
            hear(&live, &mut Session::replay(Instant::now()), &frame[..length]);
            assert_eq!(served(&live), before, "{length} of {} bytes", frame.len());
        }
    }
}
