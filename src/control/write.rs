//! Writes that several walks share, each with the event that tells of it.

use jiff::Timestamp;

use crate::control::error::Error;
use crate::control::{now, pool};
use crate::model::event::What;
use crate::model::id::EnvironmentId;
use crate::model::pool::{Pool, PoolKey, PoolState, Rest};
use crate::store::Transaction;

/// Lets a pool take no new requests from the next change on, and go to rest
/// when its last one has ended.
pub(super) async fn close_pool(tx: &mut Transaction, key: PoolKey, rest: Rest, now: Timestamp) -> Result<(), Error> {
    let Some(pool) = tx.pool(key).await? else { return Ok(()) };
    let (was, revision) = (pool.state, tx.next_revision().await?);
    let Some(closed) = pool::closed(pool, rest, revision, now) else { return Ok(()) };
    tx.put_pool(&closed).await?;
    let PoolKey { environment, deployment } = key;
    match closed.state {
        PoolState::Closing if was.is_wanted() => {
            tx.note(What::Draining { environment_id: environment, deployment_id: deployment });
        }
        state if state != was => {
            tx.note(What::PoolState { environment_id: environment, deployment_id: deployment, state, ready: 0 });
        }
        _ => {}
    }
    Ok(())
}

/// Writes a pool where it differs from what is stored.
pub(super) async fn put_changed(tx: &mut Transaction, before: Option<&Pool>, after: Pool) -> Result<(), Error> {
    if before == Some(&after) {
        return Ok(());
    }
    tx.put_pool(&after).await?;
    if before.map(|pool| pool.state) != Some(after.state) {
        let ready = after.ready_count();
        let PoolKey { environment, deployment } = after.key;
        tx.note(What::PoolState { environment_id: environment, deployment_id: deployment, state: after.state, ready });
    }
    Ok(())
}

/// Ends every waiting move of an environment: a newer request took its place.
pub(super) async fn supersede_waiting(tx: &mut Transaction, environment: EnvironmentId) -> Result<(), Error> {
    for number in tx.supersede_waiting(environment, now()).await? {
        tracing::info!(number, %environment, "move superseded");
    }
    Ok(())
}
