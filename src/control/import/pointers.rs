//! The pointers of a file: which move, by the rules that every move keeps.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::control::error::Error;
use crate::control::import::lines::{File, Numbered};
use crate::control::import::names::NoEndpoint;
use crate::control::import::plan::{Deployments, Draft, Projects, Sketch};
use crate::control::pool::{BoundsAsked, created};
use crate::model::deployment::{Deployment, Source};
use crate::model::environment::{Ask, Decision};
use crate::model::id::EnvironmentId;
use crate::model::pool::{Pool, PoolKey, PoolState};
use crate::model::promotion::{Kind, Promotion, Refused};
use crate::model::revision::Revision;
use crate::rest::error::ErrorCode;
use crate::rest::transfer::PointerLine;
use crate::store::Transaction;

/// Why a pointer moved, for the history.
const REASON: &str = "import";

/// The moves of a file.
#[derive(Default)]
pub(super) struct Moved {
    pub pools: Vec<Pool>,
    pub moves: Vec<Promotion>,
    pub unresolved: BTreeMap<String, u64>,
}

/// What the store has of the pools and histories that a file is about.
struct There {
    pools: HashMap<PoolKey, Pool>,
    sequences: HashMap<EnvironmentId, u64>,
}

/// Points the drafts where the file says.
pub(super) async fn plan(
    tx: &mut Transaction,
    file: &File,
    projects: &Projects,
    deployments: &Deployments,
    sketch: &mut Sketch<'_>,
) -> Result<Moved, Error> {
    let there = there(tx, file, projects, deployments, sketch).await?;
    let (mut moved, mut lines) = (Moved::default(), HashMap::new());
    for Numbered { line, said } in &file.pointers {
        let Some(project) = sketch.project(*line, projects, &said.project) else { continue };
        if let Some(first) = lines.insert((project, &said.environment), *line) {
            sketch.repeats(*line, first, "pointer");
            continue;
        }
        let Some(found) = deployments.get(&(project, said.reference.clone())) else {
            let told =
                format!("there is no deployment {} in {}, neither here nor in the file", said.reference, said.project);
            sketch.faults.say(*line, ErrorCode::DeploymentNotFound, told);
            continue;
        };
        let Some(draft) = sketch.drafts.named(project, &said.environment) else {
            let told = format!(
                "there is no environment {} in {}, neither here nor in the file",
                said.environment, said.project
            );
            sketch.faults.say(*line, ErrorCode::EnvironmentNotFound, told);
            continue;
        };
        if draft.after.pointer == Some(found.deployment.id) {
            sketch.tallies.pointers.unchanged += 1;
            continue;
        }
        let key = PoolKey { environment: draft.after.id, deployment: found.deployment.id };
        let pool = there.pools.get(&key);
        match judge(draft, &found.deployment, pool, said) {
            Ok(()) => {}
            Err(error) => {
                sketch.faults.add(*line, &error);
                continue;
            }
        }
        if pool.is_none() {
            match trusted(draft, &found.deployment, sketch.asked) {
                Ok(pool) => moved.pools.push(pool),
                Err(NoEndpoint::Unresolved(name)) => drop(moved.unresolved.entry(name).or_insert(*line)),
                Err(NoEndpoint::Refused(told)) => {
                    sketch.faults.say(
                        *line,
                        ErrorCode::TargetNotReady,
                        format!("deployment {}: {told}", said.reference),
                    );
                    continue;
                }
            }
        }
        match draft.after.pointer {
            None => sketch.tallies.pointers.created += 1,
            Some(_) => sketch.tallies.pointers.changed += 1,
        }
        let latest = there.sequences.get(&draft.after.id).copied().unwrap_or(0);
        moved.moves.push(promotion(draft, &found.deployment, latest, sketch.asked.caller));
        draft.after.pointer = Some(found.deployment.id);
        if draft.line == 0 {
            draft.line = *line;
        }
    }
    Ok(moved)
}

async fn there(
    tx: &mut Transaction,
    file: &File,
    projects: &Projects,
    deployments: &Deployments,
    sketch: &mut Sketch<'_>,
) -> Result<There, Error> {
    let (mut keys, mut environments) = (Vec::new(), Vec::new());
    for Numbered { said, .. } in &file.pointers {
        let Some(project) = projects.get(&said.project).map(|project| project.id) else { continue };
        let Some(draft) = sketch.drafts.named(project, &said.environment).filter(|draft| draft.before.is_some()) else {
            continue;
        };
        let Some(found) = deployments.get(&(project, said.reference.clone())) else { continue };
        if draft.after.pointer != Some(found.deployment.id) {
            environments.push(draft.after.id);
            if !found.is_new {
                keys.push(PoolKey { environment: draft.after.id, deployment: found.deployment.id });
            }
        }
    }
    Ok(There { pools: tx.pools_of_keys(&keys).await?, sequences: tx.last_sequences(&environments).await? })
}

/// The rule of every promote. The lock that stood before the file counts, unless
/// the file takes it away: one that the file sets comes after its pointer.
fn judge(draft: &mut Draft, deployment: &Deployment, pool: Option<&Pool>, said: &PointerLine) -> Result<(), Error> {
    let standing = draft.before.as_ref().and_then(|before| before.locked.clone());
    let standing = standing.filter(|_| draft.after.locked.is_some());
    let later = std::mem::replace(&mut draft.after.locked, standing);
    let decision = draft.after.promote(deployment, pool, Ask::default());
    draft.after.locked = later;
    match decision? {
        Decision::AlreadyCurrent | Decision::Now => Ok(()),
        Decision::WhenReady if pool.is_none() && !deployment.is_managed() => Ok(()),
        // Invariant 8: what probes have found not to be ready is not trusted.
        Decision::WhenReady => {
            Err(Error::NotReady { reference: said.reference.clone(), environment: said.environment.clone() })
        }
    }
}

/// A pool that is ready because the import says so.
fn trusted(
    draft: &Draft,
    deployment: &Deployment,
    asked: &crate::control::import::Asked<'_>,
) -> Result<Pool, NoEndpoint> {
    let Source::Endpoints { endpoints: urls, .. } = &deployment.source else {
        return Err(NoEndpoint::Refused(Refused::Terminated.to_string()));
    };
    let mut endpoints: Vec<crate::model::pool::Endpoint> = Vec::new();
    for url in urls {
        for endpoint in asked.names.endpoints(url, asked.config, asked.caller.at)? {
            // The same URL twice is one endpoint.
            let is_same = |other: &crate::model::pool::Endpoint| {
                (other.address, &other.authority, other.secure)
                    == (endpoint.address, &endpoint.authority, endpoint.secure)
            };
            if !endpoints.iter().any(is_same) {
                endpoints.push(endpoint);
            }
        }
    }
    let pool = created(&draft.after, deployment, BoundsAsked::default());
    let pool = pool.map_err(|error| NoEndpoint::Refused(error.to_string()))?;
    Ok(Pool { state: PoolState::Running, endpoints, ..pool })
}

fn promotion(
    draft: &Draft,
    deployment: &Deployment,
    latest: u64,
    caller: &crate::control::promotion::Caller,
) -> Promotion {
    Promotion {
        id: Uuid::now_v7().into(),
        sequence: latest + 1,
        // The latest row is the top of the stack, whatever kind it is.
        below: (latest > 0).then_some(latest),
        environment: draft.after.id,
        kind: Kind::Promote,
        from: draft.after.pointer,
        to: deployment.id,
        source_environment: None,
        actor: caller.actor.clone(),
        reason: Some(REASON.to_owned()),
        revision: Revision::default(),
        requested_at: caller.at,
        committed_at: caller.at,
        applied_at: None,
        previous_drained_at: None,
        streams_cut: None,
    }
}
