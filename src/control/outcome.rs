//! What came of a move, as far as the caller wanted to wait for it.
//!
//! Owns the two waits: for a pending move to end, and for proxies to apply a
//! committed one. Nothing is written here; whether anybody waits changes nothing
//! about what happens.

use std::time::Duration;

use tokio::time::Instant;

use crate::control::error::Error;
use crate::control::promotion::Next;
use crate::control::{Control, find};
use crate::fleet::propagation::Propagation;
use crate::model::id::{DeploymentId, PromotionId};
use crate::model::moves::{MoveState, PendingMove};
use crate::model::pool::{Pool, PoolKey};
use crate::model::promotion::Promotion;
use crate::model::revision::Revision;

/// What came of a request to move a pointer.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The pointer names the target.
    Moved(Box<Moved>),
    /// The move waits for its target still.
    Waits(PendingMove),
}

/// A committed move, and how far it has got.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Whether this request moved the pointer.
    pub changed: bool,
    /// The row that says so; where nothing moved, the one that had.
    pub promotion: Promotion,
    /// How far it is applied.
    pub propagation: Propagation,
    /// The pool that was served before.
    pub previous: Option<Pool>,
    /// Nearer rollback targets that no longer exist.
    pub skipped: Vec<DeploymentId>,
}

/// Errors of a pool that a failed move shows.
const ERRORS_SHOWN: u32 = 5;

impl Outcome {
    pub(super) fn having_skipped(self, skipped: Vec<DeploymentId>) -> Self {
        match self {
            Self::Moved(moved) => Self::Moved(Box::new(Moved { skipped, ..*moved })),
            waits @ Self::Waits(_) => waits,
        }
    }
}

impl Control {
    /// Waits for what comes of a request, at most `wait` in all.
    pub(super) async fn outcome(&self, next: Next, wait: Duration) -> Result<Outcome, Error> {
        let deadline = Instant::now() + wait;
        match next {
            Next::Stays(promotion) => self.moved(promotion, false, deadline).await,
            Next::Committed(promotion) => self.moved(promotion, true, deadline).await,
            Next::Waits(number) => {
                let ended = self.ended(number, deadline).await?;
                match ended.state {
                    MoveState::Waiting => Ok(Outcome::Waits(ended)),
                    MoveState::Committed => {
                        let promotion = self.row_of(&ended).await?;
                        // A terminated deployment that was current all along is started, not moved to.
                        let changed = promotion.committed_at >= ended.requested_at;
                        self.moved(promotion, changed, deadline).await
                    }
                    MoveState::Superseded | MoveState::TargetNotReady | MoveState::Refused => {
                        Err(self.failure(ended).await?)
                    }
                }
            }
        }
    }

    /// A move as it stands when it has ended, or after `wait`.
    ///
    /// # Errors
    ///
    /// When there is no such move.
    pub async fn followed_move(&self, number: u64, wait: Duration) -> Result<PendingMove, Error> {
        self.ended(number, Instant::now() + wait).await
    }

    /// How far a committed move is applied, when all have or after `wait`.
    ///
    /// # Errors
    ///
    /// When there is no such row.
    pub async fn followed_promotion(&self, id: PromotionId, wait: Duration) -> Result<Moved, Error> {
        let found = self.store.read().await?.promotion(id).await?;
        let promotion = found.ok_or_else(|| Error::not_found(crate::control::error::Noun::Promotion, id))?;
        match self.moved(promotion, true, Instant::now() + wait).await? {
            Outcome::Moved(moved) => Ok(*moved),
            Outcome::Waits(_) => Err(Error::Internal("a committed move waits")),
        }
    }

    /// Waits for the proxies, or until the control plane stops.
    pub(super) async fn propagated(&self, revision: Revision, deadline: Instant) -> Propagation {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut drain = self.drain.clone();
        tokio::select! {
            propagation = self.fleet.wait_applied(revision, left) => propagation,
            () = drain.asked() => self.fleet.propagation(revision),
        }
    }

    async fn moved(&self, promotion: Promotion, changed: bool, deadline: Instant) -> Result<Outcome, Error> {
        let propagation = self.propagated(promotion.revision, deadline).await;
        let previous = match promotion.from {
            Some(deployment) if changed => {
                let key = PoolKey { environment: promotion.environment, deployment };
                self.store.read().await?.pool(key).await?
            }
            _ => None,
        };
        Ok(Outcome::Moved(Box::new(Moved { changed, promotion, propagation, previous, skipped: Vec::new() })))
    }

    async fn ended(&self, number: u64, deadline: Instant) -> Result<PendingMove, Error> {
        let mut work = self.store.watch_work();
        let mut drain = self.drain.clone();
        loop {
            work.take();
            let pending = find::pending_move(&mut self.store.read().await?, number).await?;
            if pending.state != MoveState::Waiting || Instant::now() >= deadline {
                return Ok(pending);
            }
            tokio::select! {
                // The bell ends with the store, and so would this wait.
                rung = work.until(|work| work.has_move(number)) => if !rung { return Ok(pending) },
                () = tokio::time::sleep_until(deadline) => {}
                () = drain.asked() => return Ok(pending),
            }
        }
    }

    async fn row_of(&self, ended: &PendingMove) -> Result<Promotion, Error> {
        let id = ended.promotion.ok_or(Error::Internal("a committed move has no row"))?;
        let found = self.store.read().await?.promotion(id).await?;
        found.ok_or(Error::Internal("a committed move's row is gone"))
    }

    async fn failure(&self, ended: PendingMove) -> Result<Error, Error> {
        let mut tx = self.store.read().await?;
        let environment = find::environment(&mut tx, ended.environment).await?;
        let detail = ended.detail.unwrap_or_else(|| "the move ended without a word".to_owned());
        let number = ended.number;
        Ok(match ended.state {
            MoveState::TargetNotReady => {
                let key = PoolKey { environment: ended.environment, deployment: ended.deployment };
                let reference = find::deployment(&mut tx, ended.deployment).await?.reference;
                let mut errors = tx.pool_errors(key, ERRORS_SHOWN).await?;
                errors.retain(|error| error.at >= ended.requested_at);
                Error::TargetNotReady { number, reference, environment: environment.name, detail, errors }
            }
            MoveState::Refused => Error::MoveRefused { number, locked: environment.locked.is_some(), detail },
            MoveState::Superseded | MoveState::Waiting | MoveState::Committed => {
                Error::Superseded { number, environment: environment.name }
            }
        })
    }
}
