//! Notes when committed moves have reached every proxy.
//!
//! Owns the commit of moves too: once it has begun it is carried through and the
//! move is followed, whether or not anybody waits for the answer any more, so
//! that history's `applied_at` is a fact about the move and not about its caller.
//! One task follows them, oldest first. Invariants do not lean on it: what is not
//! noted (the queue was full, the store failed, the control plane restarted) stays
//! empty in the history.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::Instrument as _;

use crate::control::error::Error;
use crate::control::metrics::Metrics;
use crate::control::now;
use crate::drain::Watch;
use crate::fleet::Fleet;
use crate::model::event::What;
use crate::model::id::{EnvironmentId, PromotionId};
use crate::model::promotion::Promotion;
use crate::model::revision::Revision;
use crate::store::{self, Store, Transaction};

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
    moves: Moves,
    revision: Revision,
    since: Instant,
}

/// What is followed.
#[derive(Clone, Copy, Debug)]
enum Moves {
    /// One move.
    One(PromotionId, EnvironmentId),
    /// Every move of its change, however many: an import.
    All,
}

impl Queue {
    pub(super) fn start(store: Store, fleet: Fleet, metrics: Metrics, drain: Watch) -> Self {
        let (sender, receiver) = mpsc::channel(FOLLOWED_MAX);
        tokio::spawn(run(receiver, store, fleet, metrics, drain));
        Self(sender)
    }

    /// Commits, and follows the move that this made, if it made one. Both happen
    /// even if the caller goes away in between.
    pub(super) async fn commit(&self, tx: Transaction, moved: Option<&Promotion>) -> Result<(), Error> {
        self.commit_all(tx, moved.map_or(&[], std::slice::from_ref)).await.map(drop)
    }

    /// The same with several moves of one change. Answers the head.
    pub(super) async fn commit_all(&self, tx: Transaction, moved: &[Promotion]) -> Result<Revision, Error> {
        let one = |moved: &Promotion| (Moves::One(moved.id, moved.environment), moved.revision);
        self.carry(tx, moved.iter().map(one).collect()).await
    }

    /// Commits a change with any number of moves and follows it as a whole, if it
    /// has some. Answers the head.
    pub(super) async fn commit_change(&self, tx: Transaction, moves: Option<Revision>) -> Result<Revision, Error> {
        self.carry(tx, moves.map(|revision| (Moves::All, revision)).into_iter().collect()).await
    }

    async fn carry(&self, tx: Transaction, followed: Vec<(Moves, Revision)>) -> Result<Revision, Error> {
        let queue = self.clone();
        let carried = async move {
            let head = tx.commit().await?;
            for (moves, revision) in followed {
                queue.follow(moves, revision);
            }
            Ok(head)
        };
        match tokio::spawn(carried.in_current_span()).await {
            Ok(result) => result,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(Error::Internal("the runtime stopped during a commit")),
        }
    }

    fn follow(&self, moves: Moves, revision: Revision) {
        // Closed: the control plane stops, and its history with it.
        if let Err(TrySendError::Full(_)) = self.0.try_send(Followed { moves, revision, since: Instant::now() }) {
            tracing::warn!(?moves, %revision, "too many moves on their way to follow this one");
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
            tracing::warn!(moves = ?oldest.moves, revision = %oldest.revision, "a move is not applied everywhere; no longer followed");
            batch.remove(0);
            continue;
        }
        let reached = batch.iter().take_while(|followed| fleet.propagation(followed.revision).complete).count().max(1);
        let now = now();
        let mut tx = store.write().await?;
        for followed in &batch[..reached] {
            match followed.moves {
                Moves::One(promotion, environment_id) => {
                    tx.set_applied(promotion, now).await?;
                    tx.note(What::Applied { environment_id, revision: followed.revision });
                }
                Moves::All => tx.set_change_applied(followed.revision, now).await?,
            }
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
    let left = FOLLOW_MAX.saturating_sub(followed.since.elapsed());
    fleet.wait_complete(followed.revision, left).await.complete
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Control;
    use crate::control::promotion::Caller;
    use crate::drain::Drain;
    use crate::logs::{self, LogFolder};
    use crate::model::pool::{Endpoint, EndpointState, Pool, PoolKey, PoolState};
    use crate::store::Page;
    use crate::telemetry::metrics::Metrics;
    use futures_util::FutureExt;
    use serde_json::{from_value, json};
    use std::path::Path;

    async fn control(dir: &Path, drain: &Watch) -> Control {
        let base_domain: crate::model::host::HostPattern = "localhost".parse().unwrap();
        let store =
            store::Config { data_dir: dir.to_owned(), base_domain: base_domain.clone(), shared_hosts: Vec::new() };
        let store = Store::open(&store).await.unwrap();
        let logs = LogFolder::open(dir.join("logs"), logs::Config::default()).unwrap();
        let config = crate::control::Config {
            data_dir: dir.to_owned(),
            base_domain,
            shared_hosts: Vec::new(),
            url_port: None,
            own_listeners: Vec::new(),
        };
        let fleet = Fleet::new(crate::fleet::Config::default());
        Control::start(store, fleet, logs, config, &Metrics::default(), drain)
    }

    /// Makes an environment and a deployment that is ready there.
    async fn ready(control: &Control, caller: &Caller) -> PoolKey {
        let ask = from_value(json!({ "name": "support" })).unwrap();
        let (project, environments) = control.create_project(ask, caller.at).await.unwrap();
        let source = json!({ "kind": "endpoints", "endpoints": ["http://127.0.0.1:9"] });
        let ask = from_value(json!({ "project_id": project.id, "source": source })).unwrap();
        let deployed = control.deploy(ask, caller).await.unwrap();
        let key = PoolKey { environment: environments[0].id, deployment: deployed.deployment.id };
        let endpoint = Endpoint {
            id: uuid::Uuid::now_v7().into(),
            address: "127.0.0.1:9".parse().unwrap(),
            authority: None,
            secure: false,
            state: EndpointState::Ready,
            pid: None,
            since: caller.at,
        };
        let pool = Pool::starting(key, crate::model::bounds::Bounds::default());
        let mut tx = control.store.write().await.unwrap();
        tx.put_pool(&Pool { state: PoolState::Running, endpoints: vec![endpoint], ..pool }).await.unwrap();
        tx.commit().await.unwrap();
        key
    }

    #[tokio::test]
    async fn a_move_is_noted_as_applied_although_its_caller_left_during_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let drain = Drain::new();
        let control = control(dir.path(), &drain.watch()).await;
        let caller = Caller { actor: "admin".into(), at: now(), wait: Duration::ZERO };
        let key = ready(&control, &caller).await;
        let ask = json!({ "source_deployment_id": key.deployment, "target_environment_id": key.environment });
        let before = control.store.head();
        let mut asking = Box::pin(control.promote(from_value(ask).unwrap(), &caller));
        while control.store.head() == before {
            assert!(asking.as_mut().now_or_never().is_none(), "the answer comes after the commit");
            tokio::task::yield_now().await;
        }
        // As when a connection breaks: the handler is dropped, not told.
        drop(asking);

        let noted = tokio::time::timeout(Duration::from_secs(30), async {
            let page = Page { limit: 1, after: None };
            loop {
                let mut tx = control.store.read().await.unwrap();
                if tx.promotions(key.environment, &page).await.unwrap().items[0].applied_at.is_some() {
                    return;
                }
                drop(tx);
                tokio::task::yield_now().await;
            }
        });
        noted.await.expect("applied_at is noted");
    }
}
