//! Promises broken on purpose, to see that the simulation's checker notices.
//!
//! A test says which one is broken on its own thread, where a whole simulation
//! runs; hooks in test builds of the client, of its report and of the disk's
//! worker ask here. The store and the requests of the simulation are its own,
//! and break theirs themselves.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::model::revision::Position;
use crate::routing::live::{Busy, Live};
use crate::stream::client::outbox::Outbox;
use crate::stream::client::session::Work;
use crate::stream::last_known_good::writer::Item;
use crate::wire::request::Ack;

/// A promise that is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// `applied` is acknowledged, and published a moment later.
    AckBeforePublish,
    /// A request is on its way before it holds a claim.
    ClaimAfterAwait,
    /// `durable` is said, and written afterwards.
    DurableBeforeJournal,
    /// The counters of a status are older than its revision.
    CountersBeforeApplied,
    /// Revisions are numbered when a change begins, not when it is committed.
    RevisionFromSequence,
    /// The busy list leaves out pools with one request.
    BusyListCut,
    /// While the control plane is stopped, the silence is taken for the proxies'.
    OwnSilenceCounts,
}

thread_local! {
    static BROKEN: Cell<Option<Sabotage>> = const { Cell::new(None) };
}

/// Long enough for an ack to arrive and to be believed.
const LATE: Duration = Duration::from_millis(300);

/// Runs something with a promise broken, or with none.
pub fn with<T>(broken: Option<Sabotage>, run: impl FnOnce() -> T) -> T {
    BROKEN.set(broken);
    let done = run();
    BROKEN.set(None);
    done
}

/// Whether this promise is broken here.
pub fn is(promise: Sabotage) -> bool {
    BROKEN.get() == Some(promise)
}

/// Gives the work back, unless it has been acknowledged already.
pub fn acked_before_publish(live: &Arc<Live>, outbox: &Outbox, work: Work) -> Option<Work> {
    if !is(Sabotage::AckBeforePublish) {
        return Some(work);
    }
    let (Work::Snapshot { position: to, .. } | Work::Delta { to, .. }) = &work;
    outbox.ack(Ack { applied: Some(*to), durable: None });
    let (live, at) = (Arc::clone(live), Instant::now() + LATE);
    tokio::spawn(async move {
        sleep_until(at).await;
        // What is refused now has been acknowledged all the same.
        let _ = match work {
            Work::Snapshot { position, records, .. } => live.apply_snapshot(position, records),
            Work::Delta { from, to, changes } => live.apply_delta(from, to, changes),
        };
    });
    None
}

/// What a status says is busy.
pub fn busy(early: &mut Busy, mut busy: Busy) -> Busy {
    if is(Sabotage::BusyListCut) {
        busy.pools.retain(|(_, requests)| *requests > 1);
    }
    if is(Sabotage::CountersBeforeApplied) {
        return std::mem::replace(early, busy);
    }
    busy
}

/// Says that what waits is durable, the first time it is seen; answers whether
/// that has just been done instead of writing.
pub fn is_durable_first(waiting: &VecDeque<Item>, durable: &watch::Sender<Option<Position>>) -> bool {
    let to = match waiting.back() {
        Some(Item::Delta(delta)) if is(Sabotage::DurableBeforeJournal) => delta.to,
        _ => return false,
    };
    durable.send_replace(Some(to)) != Some(to)
}
