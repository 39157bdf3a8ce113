//! Several pointers in one change: all of them move, or none does (invariant 1).
//!
//! Each goes through the walk of a single promote (`promotion.rs`) in the same
//! transaction. Nothing waits here: whoever moves several at once wants them at
//! once, so a target that is not ready refuses the whole list.

use std::collections::HashSet;

use tokio::time::Instant;

use crate::control::Control;
use crate::control::error::Error;
use crate::control::promotion::{Caller, Next, advance, judge, stay};
use crate::fleet::propagation::Propagation;
use crate::model::environment::Decision;
use crate::model::pool::{Pool, PoolKey};
use crate::model::promotion::Promotion;
use crate::model::revision::Revision;
use crate::rest::moves::{Promote, PromoteOne};
use crate::store::Transaction;

/// What came of a list of moves.
pub struct MovedAll {
    /// The change that carried all of them, or the head where nothing moved.
    pub revision: Revision,
    /// Each in the order it was asked for: whether it moved, its row, and the pool
    /// that was served before.
    pub moves: Vec<MovedOne>,
    /// How far the change is applied.
    pub propagation: Propagation,
}

/// One of them.
pub struct MovedOne {
    /// Whether this request moved the pointer.
    pub changed: bool,
    /// The row that says so; where nothing moved, the one that had.
    pub promotion: Promotion,
    /// The pool that was served before.
    pub previous: Option<Pool>,
}

impl Control {
    /// Points several environments at deployments that are ready there, in one
    /// change.
    ///
    /// # Errors
    ///
    /// [`Error::InList`] with the first that is refused; nothing moved then.
    pub async fn promote_all(
        &self,
        asked: Vec<PromoteOne>,
        reason: Option<String>,
        caller: &Caller,
    ) -> Result<MovedAll, Error> {
        let deadline = Instant::now() + caller.wait;
        let in_list = |at| move |source| Error::InList { at, source: Box::new(source) };
        let mut tx = self.store.write().await?;
        let (mut seen, mut nexts) = (HashSet::new(), Vec::new());
        for (at, ask) in asked.into_iter().enumerate() {
            if !seen.insert(ask.target_environment_id) {
                let told = "target_environment_id: an earlier one of the list moves this environment; give it once";
                return Err(in_list(at)(Error::Invalid(told.to_owned())));
            }
            nexts.push(one(&mut tx, ask, reason.clone(), caller).await.map_err(in_list(at))?);
        }
        let revision = nexts.iter().find_map(Next::committed).map(|promotion| promotion.revision);
        let moved = nexts.iter().filter_map(Next::committed).cloned().collect::<Vec<_>>();
        let head = self.applied.commit_all(tx, &moved).await?;
        let revision = revision.unwrap_or(head);
        let propagation = self.propagated(revision, deadline).await;
        let mut reading = self.store.read().await?;
        let mut moves = Vec::new();
        for next in nexts {
            moves.push(shown(&mut reading, next).await?);
        }
        Ok(MovedAll { revision, moves, propagation })
    }
}

async fn one(tx: &mut Transaction, ask: PromoteOne, reason: Option<String>, caller: &Caller) -> Result<Next, Error> {
    let ask = Promote {
        source_deployment_id: ask.source_deployment_id,
        target_environment_id: ask.target_environment_id,
        expected_current_deployment_id: ask.expected_current_deployment_id,
        scale_previous_to_zero: ask.scale_previous_to_zero,
        reason,
        min_replicas: None,
        max_replicas: None,
        start: false,
        wait_ms: None,
    };
    let (decision, allowed) = judge(tx, ask).await?;
    match decision {
        Decision::AlreadyCurrent => stay(tx, allowed).await,
        Decision::Now => advance(tx, allowed, caller).await,
        Decision::WhenReady => {
            Err(Error::NotReady { reference: allowed.deployment.reference, environment: allowed.environment.name })
        }
    }
}

async fn shown(reading: &mut Transaction, next: Next) -> Result<MovedOne, Error> {
    let (changed, promotion) = match next {
        Next::Committed(promotion) => (true, promotion),
        Next::Stays(promotion) => (false, promotion),
        Next::Waits(_) => return Err(Error::Internal("a move of a list waits")),
    };
    let previous = match promotion.from {
        Some(deployment) if changed => reading.pool(PoolKey { environment: promotion.environment, deployment }).await?,
        _ => None,
    };
    Ok(MovedOne { changed, promotion, previous })
}
