//! Putting to sleep what nothing needs any more.
//!
//! A pool is needed while the environment's pointer names it, while a rollback
//! would come to it, and while a move waits for it; `note_left` keeps in its row
//! since when none of that holds. `keep_previous_warm` later it is closed and,
//! when its last request has ended, idle: twenty deploys do not leave twenty
//! processes. The time is stored, so a restart forgets nothing. Endpoint
//! deployments are left alone: nothing of theirs runs here that could be stopped.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::control::error::Error;
use crate::control::write::close_pool;
use crate::control::{Control, now};
use crate::model::id::{DeploymentId, EnvironmentId};
use crate::model::policy::Policy;
use crate::model::pool::{Pool, Rest};
use crate::store::Transaction;

/// From one look to the next: what a pool may sleep later than it could, at
/// most, and a small share of any sensible `keep_previous_warm`.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Rows of the history passed over in search of the rollback target. More would
/// be that many rows of one deployment, or deployments that no longer exist.
const STEPS_MAX: usize = 100;

/// Runs until the drain asks to stop.
pub(super) async fn run(control: Control) {
    let _hold = control.drain.hold();
    let mut drain = control.drain.clone();
    loop {
        if let Err(error) = control.put_to_sleep(now()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "failed to put unneeded pools to sleep");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = drain.asked() => return,
        }
    }
}

impl Control {
    async fn put_to_sleep(&self, now: Timestamp) -> Result<(), Error> {
        let left = self.store.read().await?.left_pools().await?;
        let due: Vec<Pool> =
            left.into_iter().filter(|(pool, policy)| is_due(pool, policy, now)).map(|(pool, _)| pool).collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.write().await?;
        for seen in due {
            // Again, now that nobody else writes: a move may have come to it meanwhile, or an import, which keeps no
            // such notes.
            note_left(&mut tx, seen.key.environment, now).await?;
            let Some(pool) = tx.pool(seen.key).await? else { continue };
            if pool.left_at == seen.left_at && pool.state.is_wanted() {
                tracing::info!(pool = %pool.key, "nothing needs the pool any more: it goes to sleep");
                close_pool(&mut tx, pool.key, Rest::Idle, now).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }
}

fn is_due(pool: &Pool, policy: &Policy, now: Timestamp) -> bool {
    pool.left_at.is_some_and(|left_at| now >= left_at + Duration::from_millis(policy.keep_previous_warm_ms))
}

/// Keeps in the rows of an environment's pools since when nothing needs them.
/// Called in each transaction after which something else may be needed, but by
/// imports, which move a hundred thousand pointers at once: what they leave is
/// noted with the next move of its environment.
pub(super) async fn note_left(tx: &mut Transaction, id: EnvironmentId, now: Timestamp) -> Result<(), Error> {
    let Some(environment) = tx.environment(id).await? else { return Ok(()) };
    let waiting = tx.waiting_move_of(id).await?.map(|waiting| waiting.deployment);
    let needed: BTreeSet<DeploymentId> =
        environment.pointer.into_iter().chain(rollback_target(tx, id).await?).chain(waiting).collect();
    for pool in tx.pools_of_environment(id).await? {
        let left_at = match needed.contains(&pool.key.deployment) {
            true => None,
            false if pool.left_at.is_some() || !pool.state.is_wanted() => continue,
            false => Some(now),
        };
        if left_at == pool.left_at {
            continue;
        }
        let managed = tx.deployment(pool.key.deployment).await?.is_some_and(|deployment| deployment.is_managed());
        if managed {
            tx.put_pool(&Pool { left_at, ..pool }).await?;
        }
    }
    Ok(())
}

/// Where a rollback would land: the nearest earlier deployment on the stack that
/// is another one and exists. Row by row, because it is mostly the second one.
async fn rollback_target(tx: &mut Transaction, id: EnvironmentId) -> Result<Option<DeploymentId>, Error> {
    let latest = tx.last_sequence(id).await?;
    let Some(top) = tx.promotion_at(id, latest).await? else { return Ok(None) };
    let mut below = top.below;
    for _ in 0..STEPS_MAX {
        let Some(sequence) = below else { break };
        let Some(row) = tx.promotion_at(id, sequence).await? else { break };
        if row.to != top.to && tx.deployment(row.to).await?.is_some() {
            return Ok(Some(row.to));
        }
        below = row.below;
    }
    Ok(None)
}
