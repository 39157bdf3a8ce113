//! Writing what a plan comes to: everything in the caller's transaction.

use std::collections::{HashMap, HashSet};

use crate::control::error::Error;
use crate::control::import::plan::{Draft, Plan};
use crate::control::now;
use crate::control::write::supersede_waiting;
use crate::model::environment::Environment;
use crate::model::id::EnvironmentId;
use crate::store::Transaction;

/// Objects written between two words about progress.
const STEP: usize = 5_000;

/// Writes a plan; `progress` hears how many objects of how many are written.
pub(super) async fn write(tx: &mut Transaction, plan: Plan, progress: impl Fn(usize, usize)) -> Result<(), Error> {
    let Plan { projects, deployments, environments, pools, mut moves, .. } = plan;
    let of = projects.len() + deployments.len() + environments.len() + pools.len() + moves.len();
    let mut done = 0;
    let mut wrote = |count: usize| {
        done += count;
        progress(done, of);
    };
    tx.insert_projects(&projects).await?;
    wrote(projects.len());
    for some in deployments.chunks(STEP) {
        tx.insert_deployments(some).await?;
        wrote(some.len());
    }
    let before: HashMap<_, _> = environments.iter().filter_map(pointer_before).collect();
    let (hosted, other): (Vec<Draft>, Vec<Draft>) = environments.into_iter().partition(has_other_hosts);
    let [hosted, other] =
        [hosted, other].map(|drafts| drafts.into_iter().map(|draft| draft.after).collect::<Vec<Environment>>());
    for some in hosted.chunks(STEP).chain(other.chunks(STEP)) {
        tx.put_environments(some, &before).await?;
        wrote(some.len());
    }
    // All at once: one may get a host that another gives up.
    tx.replace_all_hosts(&hosted).await?;
    for some in pools.chunks(STEP) {
        tx.insert_pools(some).await?;
        wrote(some.len());
    }
    let (revision, committed_at) = (tx.next_revision().await?, now());
    for promotion in &mut moves {
        promotion.revision = revision;
        promotion.committed_at = committed_at.max(promotion.requested_at);
    }
    for some in moves.chunks(STEP) {
        tx.insert_promotions(some).await?;
        wrote(some.len());
    }
    let moved: HashSet<EnvironmentId> = moves.iter().map(|promotion| promotion.environment).collect();
    supersede(tx, &moved).await
}

/// The latest request wins: what waited in an environment that moved is superseded.
async fn supersede(tx: &mut Transaction, moved: &HashSet<EnvironmentId>) -> Result<(), Error> {
    if moved.is_empty() {
        return Ok(());
    }
    let waiting = tx.waiting_moves().await?;
    let environments: HashSet<EnvironmentId> = waiting.iter().map(|waiting| waiting.environment).collect();
    for environment in environments.intersection(moved) {
        supersede_waiting(tx, *environment).await?;
    }
    Ok(())
}

fn pointer_before(draft: &Draft) -> Option<(EnvironmentId, crate::model::id::DeploymentId)> {
    Some((draft.after.id, draft.before.as_ref()?.pointer?))
}

fn has_other_hosts(draft: &Draft) -> bool {
    draft.before.as_ref().is_none_or(|before| before.hosts != draft.after.hosts)
}
