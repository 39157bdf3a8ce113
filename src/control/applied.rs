//! Notes when committed moves have reached every proxy.
//!
//! One task follows them in order of commit, whether or not anybody waits for
//! the answer, so that history's `applied_at` is a fact about the move and not
//! about its caller. Invariants do not lean on it: what is not noted (the queue
//! was full, the control plane restarted) stays empty in the history.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::control::metrics::Metrics;
use crate::control::now;
use crate::drain::Watch;
use crate::fleet::Fleet;
use crate::model::event::What;
use crate::model::id::{EnvironmentId, PromotionId};
use crate::model::promotion::Promotion;
use crate::model::revision::Revision;
use crate::store::{self, Store};

/// Moves followed at once; more, and the newest are not followed. Only a fleet
/// that stands still for long gets there.
const FOLLOWED_MAX: usize = 4096;

/// Moves noted in one transaction.
const NOTED_MAX: usize = 64;

/// A move is followed for so long. Ten minutes: a proxy that is cut off is gone,
/// and no longer waited for, after one.
const FOLLOW_MAX: Duration = Duration::from_secs(600);

/// The way in.
#[derive(Clone)]
pub(super) struct Queue(mpsc::Sender<Followed>);

struct Followed {
    promotion: PromotionId,
    environment: EnvironmentId,
    revision: Revision,
    since: Instant,
}

impl Queue {
    pub(super) fn start(store: Store, fleet: Fleet, metrics: Metrics, drain: Watch) -> Self {
        let (sender, receiver) = mpsc::channel(FOLLOWED_MAX);
        tokio::spawn(run(receiver, store, fleet, metrics, drain));
        Self(sender)
    }

    /// Follows a move that was just committed.
    pub(super) fn follow(&self, promotion: &Promotion) {
        let followed = Followed {
            promotion: promotion.id,
            environment: promotion.environment,
            revision: promotion.revision,
            since: Instant::now(),
        };
        // Closed: the control plane stops, and its history with it.
        if let Err(TrySendError::Full(_)) = self.0.try_send(followed) {
            tracing::warn!(promotion = %promotion.id, "too many moves on their way to follow this one");
        }
    }
}

async fn run(mut queue: mpsc::Receiver<Followed>, store: Store, fleet: Fleet, metrics: Metrics, mut drain: Watch) {
    let _hold = drain.hold();
    let mut batch = Vec::with_capacity(NOTED_MAX);
    loop {
        tokio::select! {
            received = queue.recv_many(&mut batch, NOTED_MAX) => if received == 0 { return },
            () = drain.asked() => return,
        }
        tokio::select! {
            noted = note(&mut batch, &store, &fleet, &metrics) => if let Err(error) = noted {
                tracing::error!(error = &error as &dyn std::error::Error, "failed to note applied moves");
                batch.clear();
            },
            () = drain.asked() => return,
        }
    }
}

/// Notes every move of the batch as it gets there, oldest first. A proxy that has
/// applied a move has applied all before it, so the oldest is never waited for in vain.
async fn note(batch: &mut Vec<Followed>, store: &Store, fleet: &Fleet, metrics: &Metrics) -> Result<(), store::Error> {
    while let Some(oldest) = batch.first() {
        if !applied(fleet, oldest).await {
            tracing::warn!(promotion = %oldest.promotion, "a move is not applied everywhere; no longer followed");
            batch.remove(0);
            continue;
        }
        let reached = batch.iter().take_while(|followed| fleet.propagation(followed.revision).complete).count().max(1);
        let now = now();
        let mut tx = store.write().await?;
        for followed in &batch[..reached] {
            tx.set_applied(followed.promotion, now).await?;
            tx.note(What::Applied { environment_id: followed.environment, revision: followed.revision });
        }
        tx.commit().await?;
        for followed in batch.drain(..reached) {
            metrics.applied(followed.since.elapsed());
        }
    }
    Ok(())
}

/// Whether the move got everywhere before it was no longer worth following. A
/// proxy that refuses it may be healed by a later change, so a refusal is waited out.
async fn applied(fleet: &Fleet, followed: &Followed) -> bool {
    let mut changed = fleet.watch();
    loop {
        changed.borrow_and_update();
        let left = FOLLOW_MAX.saturating_sub(followed.since.elapsed());
        if fleet.wait_applied(followed.revision, left).await.complete {
            return true;
        }
        if left.is_zero() {
            return false;
        }
        // Refused for good, as things are. Either outcome leads to another look.
        let _ = tokio::time::timeout(left, changed.changed()).await;
    }
}
