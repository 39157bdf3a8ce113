//! Moving a pointer: promote, roll back, and the one place where a move is committed.
//!
//! Each reads as a straight walk inside one write transaction: load the rows,
//! ask the pure rule (`model::environment`), then either commit the move or
//! leave a pending one behind. A refusal drops the transaction and so changes
//! nothing. `api/deployments.rs` calls it and `mover.rs` commits what waited;
//! waiting for outcomes is `outcome.rs`.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::control::error::Error;
use crate::control::outcome::Outcome;
use crate::control::pool::{self, BoundsAsked};
use crate::control::sleep::note_left;
use crate::control::write::{close_pool, put_changed, supersede_waiting};
use crate::control::{Control, find, now};
use crate::model::deployment::Deployment;
use crate::model::environment::{Ask, Decision, Environment, Landing};
use crate::model::event::What;
use crate::model::history::{Stack, Target};
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::moves::{MoveState, PendingMove};
use crate::model::pool::{Pool, PoolKey, Rest};
use crate::model::promotion::{Kind, Promotion, Refused};
use crate::rest::moves::{Promote, Rollback};
use crate::store::{Page, Transaction};

/// Who asks for something, when, and how long they wait to hear what came of it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Name of the key.
    pub actor: String,
    /// When the request arrived.
    pub at: Timestamp,
    /// The longest wait before the answer.
    pub wait: Duration,
}

/// A move that the rules allow, before anything is written.
pub(super) struct Allowed {
    pub environment: Environment,
    pub deployment: Deployment,
    pub pool: Option<Pool>,
    pub kind: Kind,
    pub bounds: BoundsAsked,
    pub scale_previous_to_zero: bool,
    pub reason: Option<String>,
}

/// What a transaction made of a request to move.
#[derive(Clone, Debug)]
pub(super) enum Next {
    /// The pointer named the target already; this row had made it so.
    Stays(Promotion),
    /// The pointer moved.
    Committed(Promotion),
    /// The move of this number waits for its target.
    Waits(u64),
}

impl Next {
    /// The row that this transaction adds.
    pub(super) fn committed(&self) -> Option<&Promotion> {
        match self {
            Self::Committed(promotion) => Some(promotion),
            Self::Stays(_) | Self::Waits(_) => None,
        }
    }
}

impl Control {
    /// Points an environment at a deployment, now or when it is ready.
    ///
    /// # Errors
    ///
    /// Refusals, which change nothing; and how a move ended that was waited for.
    pub async fn promote(&self, ask: Promote, caller: &Caller) -> Result<Outcome, Error> {
        let mut tx = self.store.write().await?;
        let (decision, allowed) = judge(&mut tx, ask).await?;
        let next = match decision {
            Decision::AlreadyCurrent => stay(&mut tx, allowed).await?,
            Decision::Now | Decision::WhenReady => advance(&mut tx, allowed, caller).await?,
        };
        self.applied.commit(tx, next.committed()).await?;
        self.outcome(next, caller.wait).await
    }

    /// Points an environment back at what it served before, now or when that is
    /// ready again. Neither a lock nor a waiting promote stands in its way.
    ///
    /// # Errors
    ///
    /// Refusals, which change nothing; and how a move ended that was waited for.
    pub async fn rollback(&self, ask: Rollback, caller: &Caller) -> Result<Outcome, Error> {
        let mut tx = self.store.write().await?;
        let environment = find::environment(&mut tx, ask.environment_id).await?;
        let stack = tx.stack(environment.id).await?;
        let rule = Ask { expected_current: ask.expected_current_deployment_id, start: true };
        let landing = landing(&mut tx, &environment, &stack, ask.target_deployment_id, rule).await?;

        let (target, skipped) = match &landing {
            Landing::AlreadyCurrent => (environment.pointer.ok_or(Refused::NoRollbackTarget)?, Vec::new()),
            Landing::At(target) => (target.deployment, target.skipped.clone()),
        };
        let allowed = Allowed {
            deployment: find::deployment(&mut tx, target).await?,
            pool: tx.pool(PoolKey { environment: environment.id, deployment: target }).await?,
            environment,
            kind: Kind::Rollback,
            bounds: BoundsAsked::default(),
            scale_previous_to_zero: false,
            reason: ask.reason,
        };
        let next = match landing.decision(allowed.pool.as_ref()) {
            Decision::AlreadyCurrent => stay(&mut tx, allowed).await?,
            Decision::Now | Decision::WhenReady => advance(&mut tx, allowed, caller).await?,
        };
        self.applied.commit(tx, next.committed()).await?;
        Ok(self.outcome(next, caller.wait).await?.having_skipped(skipped))
    }
}

/// Asks the rule about a promote. Writes nothing.
pub(super) async fn judge(tx: &mut Transaction, ask: Promote) -> Result<(Decision, Allowed), Error> {
    let environment = find::environment(tx, ask.target_environment_id).await?;
    let deployment = find::deployment(tx, ask.source_deployment_id).await?;
    let pool = tx.pool(PoolKey { environment: environment.id, deployment: deployment.id }).await?;
    let rule = Ask { expected_current: ask.expected_current_deployment_id, start: ask.start };
    let decision = environment.promote(&deployment, pool.as_ref(), rule)?;
    let allowed = Allowed {
        environment,
        deployment,
        pool,
        kind: Kind::Promote,
        bounds: BoundsAsked { min: ask.min_replicas, max: ask.max_replicas },
        scale_previous_to_zero: ask.scale_previous_to_zero,
        reason: ask.reason,
    };
    Ok((decision, allowed))
}

/// Asking for what is current means staying: an older move that still waits is
/// not what anybody wants any more. Bounds apply; there is no row to write.
pub(super) async fn stay(tx: &mut Transaction, allowed: Allowed) -> Result<Next, Error> {
    let Allowed { environment, pool, bounds, .. } = allowed;
    supersede_waiting(tx, environment.id).await?;
    if let Some(pool) = pool {
        let bounds = pool.bounds.with(bounds.min, bounds.max)?;
        put_changed(tx, Some(&pool), Pool { bounds, ..pool.clone() }).await?;
    }
    note_left(tx, environment.id, now()).await?;
    stays(tx, environment.id).await
}

async fn stays(tx: &mut Transaction, environment: EnvironmentId) -> Result<Next, Error> {
    let row = newest_row(tx, environment).await?;
    Ok(Next::Stays(row.ok_or(Error::Internal("an environment has a pointer and no history"))?))
}

/// Commits an allowed move if its target is ready, else leaves it waiting. The
/// latest request wins: whatever waited in this environment is superseded.
pub(super) async fn advance(tx: &mut Transaction, allowed: Allowed, caller: &Caller) -> Result<Next, Error> {
    let Allowed { environment, deployment, pool, kind, bounds, scale_previous_to_zero, reason } = allowed;
    supersede_waiting(tx, environment.id).await?;
    // A pool that is closing opens again at once; it may be ready as it stands.
    let opened = match &pool {
        Some(pool) => pool::opened(pool.clone(), bounds)?,
        None => pool::created(&environment, &deployment, bounds)?,
    };
    let is_ready = opened.is_ready();
    put_changed(tx, pool.as_ref(), opened).await?;
    if is_ready && environment.pointer == Some(deployment.id) {
        // It was closing while current: opening it is all there is to do.
        return stays(tx, environment.id).await;
    }

    let source = tx.source_environment(deployment.id, environment.id).await?;
    let asked = PendingMove {
        number: 0,
        environment: environment.id,
        deployment: deployment.id,
        kind,
        source_environment: source,
        actor: caller.actor.clone(),
        reason,
        scale_previous_to_zero,
        state: MoveState::Waiting,
        detail: None,
        requested_at: caller.at,
        deadline: caller.at + deployment.ready_timeout().duration(),
        ended_at: None,
        promotion: None,
    };
    if is_ready {
        // Two clocks of one machine may step: a row is never older than its request.
        let now = now().max(caller.at);
        Ok(Next::Committed(commit_move(tx, environment, &asked, now).await?))
    } else {
        let number = tx.insert_move(&asked).await?;
        // Whatever waited until now is needed no longer.
        note_left(tx, asked.environment, now()).await?;
        Ok(Next::Waits(number))
    }
}

/// Moves the pointer: the environment, its history row and, where asked, the
/// closing of what was served before are one change (invariant 4). The target
/// is ready (invariant 8); the caller has seen to that in this transaction.
pub(super) async fn commit_move(
    tx: &mut Transaction,
    environment: Environment,
    asked: &PendingMove,
    now: Timestamp,
) -> Result<Promotion, Error> {
    let revision = tx.next_revision().await?;
    let latest = tx.last_sequence(environment.id).await?;
    let below = match asked.kind {
        // The latest row is the top of the stack, whatever kind it is.
        Kind::Deploy | Kind::Promote => (latest > 0).then_some(latest),
        Kind::Rollback => tx.stack(environment.id).await?.target(Some(asked.deployment), |_| true)?.below,
    };
    let promotion = Promotion {
        id: Uuid::now_v7().into(),
        sequence: latest + 1,
        below,
        environment: environment.id,
        kind: asked.kind,
        from: environment.pointer,
        to: asked.deployment,
        source_environment: asked.source_environment,
        actor: asked.actor.clone(),
        reason: asked.reason.clone(),
        revision,
        requested_at: asked.requested_at,
        committed_at: now,
        applied_at: None,
        previous_drained_at: None,
        streams_cut: None,
    };
    tx.update_environment(&Environment { pointer: Some(promotion.to), updated_at: now, ..environment }).await?;
    tx.insert_promotion(&promotion).await?;
    let previous = promotion.from.filter(|previous| *previous != promotion.to);
    if let (true, Some(previous)) = (asked.scale_previous_to_zero, previous) {
        close_pool(tx, PoolKey { environment: promotion.environment, deployment: previous }, Rest::Idle, now).await?;
    }
    note_left(tx, promotion.environment, now).await?;
    tx.note(What::PointerMoved {
        environment_id: promotion.environment,
        kind: promotion.kind,
        from: promotion.from,
        to: promotion.to,
        revision,
    });
    tracing::info!(
        environment = %promotion.environment, kind = promotion.kind.as_str(), from = ?promotion.from,
        to = %promotion.to, %revision, actor = promotion.actor, "pointer moved"
    );
    Ok(promotion)
}

/// The row that made the pointer name what it names.
pub(super) async fn newest_row(tx: &mut Transaction, environment: EnvironmentId) -> Result<Option<Promotion>, Error> {
    let page = Page { limit: 1, after: None };
    Ok(tx.promotions(environment, &page).await?.items.into_iter().next())
}

/// Where a rollback lands, passing over deployments that no longer exist. Asks
/// the store only about those that the rule would choose.
pub(super) async fn landing(
    tx: &mut Transaction,
    environment: &Environment,
    stack: &Stack,
    asked: Option<DeploymentId>,
    rule: Ask,
) -> Result<Landing, Error> {
    let mut gone: Vec<DeploymentId> = Vec::new();
    loop {
        let landing = environment.rollback(stack, asked, rule, |id| !gone.contains(&id))?;
        match &landing {
            Landing::At(Target { deployment, .. }) if tx.deployment(*deployment).await?.is_none() => {
                gone.push(*deployment);
            }
            Landing::At(_) | Landing::AlreadyCurrent => return Ok(landing),
        }
    }
}
