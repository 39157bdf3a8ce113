//! From moves to the shapes of their answers.

use crate::control::api::show::Refs;
use crate::control::batch::MovedAll;
use crate::control::outcome::{Moved, Outcome};
use crate::control::{Control, Error};
use crate::fleet::propagation::Propagation;
use crate::model::moves::{MoveState, PendingMove};
use crate::model::pool::{Pool, PoolKey};
use crate::model::promotion::Promotion;
use crate::rest;
use crate::store::Transaction;

pub(super) async fn promotion(
    tx: &mut Transaction,
    refs: &mut Refs,
    promotion: Promotion,
) -> Result<rest::history::Promotion, Error> {
    Ok(rest::history::Promotion {
        from_ref: refs.of(tx, promotion.from).await?,
        to_ref: refs.of(tx, Some(promotion.to)).await?,
        id: promotion.id,
        sequence: promotion.sequence,
        kind: promotion.kind,
        environment_id: promotion.environment,
        from_deployment_id: promotion.from,
        to_deployment_id: promotion.to,
        source_environment_id: promotion.source_environment,
        actor: promotion.actor,
        reason: promotion.reason,
        revision: promotion.revision,
        requested_at: promotion.requested_at,
        committed_at: promotion.committed_at,
        applied_at: promotion.applied_at,
        previous_drained_at: promotion.previous_drained_at,
        streams_cut: promotion.streams_cut,
    })
}

/// What came of a move: committed, or waiting.
pub(super) enum MoveAnswer {
    Moved(Box<rest::moves::Moved>),
    Pending(rest::moves::Pending),
}

pub(super) async fn outcome(control: &Control, outcome: Outcome) -> Result<MoveAnswer, Error> {
    Ok(match outcome {
        Outcome::Moved(moved) => MoveAnswer::Moved(Box::new(self::moved(control, *moved).await?)),
        Outcome::Waits(pending) => {
            let mut tx = control.store.read().await?;
            MoveAnswer::Pending(rest::moves::Pending { pending: pending_move(&mut tx, pending).await? })
        }
    })
}

pub(super) async fn moved_all(control: &Control, moved: MovedAll) -> Result<rest::moves::MovedAll, Error> {
    let mut tx = control.store.read().await?;
    let (mut refs, mut promotions) = (Refs::default(), Vec::new());
    for one in moved.moves {
        promotions.push(rest::moves::MovedOne {
            changed: one.changed,
            promotion: promotion(&mut tx, &mut refs, one.promotion).await?,
            previous: previous(control, &mut tx, &mut refs, one.previous).await?,
        });
    }
    let changed = promotions.iter().any(|one| one.changed);
    let propagation = propagation(moved.propagation);
    Ok(rest::moves::MovedAll { changed, revision: moved.revision, promotions, propagation })
}

async fn previous(
    control: &Control,
    tx: &mut Transaction,
    refs: &mut Refs,
    pool: Option<Pool>,
) -> Result<Option<rest::moves::Previous>, Error> {
    let Some(pool) = pool else { return Ok(None) };
    Ok(Some(rest::moves::Previous {
        deployment_id: pool.key.deployment,
        reference: refs.of(tx, Some(pool.key.deployment)).await?,
        state: pool.state,
        in_flight: control.fleet.in_flight(pool.key),
    }))
}

pub(super) async fn moved(control: &Control, moved: Moved) -> Result<rest::moves::Moved, Error> {
    let mut tx = control.store.read().await?;
    let mut refs = Refs::default();
    let previous = previous(control, &mut tx, &mut refs, moved.previous).await?;
    Ok(rest::moves::Moved {
        changed: moved.changed,
        revision: moved.promotion.revision,
        promotion: promotion(&mut tx, &mut refs, moved.promotion).await?,
        propagation: propagation(moved.propagation),
        previous,
        skipped: moved.skipped,
    })
}

pub(in crate::control) fn propagation(propagation: Propagation) -> rest::moves::Propagation {
    let refused = propagation.refused.into_iter();
    rest::moves::Propagation {
        required: propagation.required,
        applied: propagation.applied,
        refused: refused
            .map(|refusal| rest::moves::RefusedBy {
                proxy_id: refusal.proxy_id,
                reason: refusal.reason.as_str().to_owned(),
            })
            .collect(),
        unconfirmed: propagation.unconfirmed,
        elapsed_ms: propagation.elapsed_ms,
        complete: propagation.complete,
    }
}

/// A move; while it waits, with what went wrong with its target last.
pub(super) async fn pending_move(tx: &mut Transaction, pending: PendingMove) -> Result<rest::moves::Move, Error> {
    let detail = match (pending.state, pending.detail) {
        (MoveState::Waiting, None) => {
            let key = PoolKey { environment: pending.environment, deployment: pending.deployment };
            // Of this attempt only: a pool remembers errors of earlier ones.
            let last = tx.pool_errors(key, 1).await?.into_iter().find(|error| error.at >= pending.requested_at);
            last.map(|error| error.message)
        }
        (_, detail) => detail,
    };
    Ok(rest::moves::Move {
        id: pending.number,
        environment_id: pending.environment,
        deployment_id: pending.deployment,
        kind: pending.kind,
        state: pending.state,
        detail,
        actor: pending.actor,
        reason: pending.reason,
        requested_at: pending.requested_at,
        deadline: pending.deadline,
        ended_at: pending.ended_at,
        promotion_id: pending.promotion,
    })
}
