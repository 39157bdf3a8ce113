//! From rows to the shapes of answers: what the store knows, with the refs and
//! names that people read.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::control::api::show_move::pending_move;
use crate::control::promotion::landing;
use crate::control::{Control, Error};
use crate::model::deployment::Deployment;
use crate::model::environment::{Ask, Environment, Landing};
use crate::model::host::HostPattern;
use crate::model::id::DeploymentId;
use crate::model::name::{DeploymentRef, EnvironmentName};
use crate::model::pool::{Endpoint, Pool, PoolState};
use crate::model::project::Project;
use crate::rest;
use crate::store::Transaction;

/// Refs by id, each read once.
#[derive(Default)]
pub(super) struct Refs(HashMap<DeploymentId, Option<DeploymentRef>>);

impl Refs {
    pub(super) async fn of(
        &mut self,
        tx: &mut Transaction,
        id: Option<DeploymentId>,
    ) -> Result<Option<DeploymentRef>, Error> {
        let Some(id) = id else { return Ok(None) };
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let reference = tx.deployment(id).await?.map(|deployment| deployment.reference);
        self.0.insert(id, reference.clone());
        Ok(reference)
    }
}

pub(super) fn project(control: &Control, project: Project, environments: &[Environment]) -> rest::projects::Project {
    let link = |environment: &Environment| rest::projects::EnvironmentLink {
        id: environment.id,
        name: environment.name.clone(),
        url: url(control, environment),
    };
    rest::projects::Project {
        id: project.id,
        name: project.name,
        created_at: project.created_at,
        environments: environments.iter().map(link).collect(),
    }
}

fn url(control: &Control, environment: &Environment) -> String {
    // The first host is the one made from its names; it is always there.
    environment.hosts.first().map(|host| control.config.url(host)).unwrap_or_default()
}

pub(super) async fn environment(
    control: &Control,
    tx: &mut Transaction,
    refs: &mut Refs,
    environment: Environment,
) -> Result<rest::environments::Environment, Error> {
    Ok(rest::environments::Environment {
        url: url(control, &environment),
        current_ref: refs.of(tx, environment.pointer).await?,
        id: environment.id,
        project_id: environment.project,
        project: environment.project_name,
        name: environment.name,
        hosts: environment.hosts,
        current_deployment_id: environment.pointer,
        locked: environment.locked.is_some(),
        locked_reason: environment.locked.filter(|reason| !reason.is_empty()),
        min_replicas: environment.bounds.map(|bounds| bounds.min),
        max_replicas: environment.bounds.map(|bounds| bounds.max),
        policy: environment.policy,
        created_at: environment.created_at,
        updated_at: environment.updated_at,
    })
}

pub(super) async fn environment_detail(
    control: &Control,
    tx: &mut Transaction,
    environment: Environment,
) -> Result<rest::environments::EnvironmentDetail, Error> {
    let mut refs = Refs::default();
    let stack = tx.stack(environment.id).await?;
    let rollback_target = match landing(tx, &environment, &stack, None, Ask::default()).await {
        Ok(Landing::At(target)) => Some(target.deployment),
        Ok(Landing::AlreadyCurrent) | Err(Error::Refused(_)) => None,
        Err(error) => return Err(error),
    };
    let mut pools = Vec::new();
    for pool in tx.pools_of_environment(environment.id).await? {
        pools.push(pool_summary(control, tx, &mut refs, &pool).await?);
    }
    pools.sort_by_key(|pool| Some(pool.deployment_id) != environment.pointer);
    let waiting = match tx.waiting_move_of(environment.id).await? {
        Some(waiting) => Some(pending_move(tx, waiting).await?),
        None => None,
    };
    Ok(rest::environments::EnvironmentDetail {
        rollback_target,
        rollback_target_ref: refs.of(tx, rollback_target).await?,
        pools,
        pending_move: waiting,
        environment: self::environment(control, tx, &mut refs, environment).await?,
    })
}

async fn pool_summary(
    control: &Control,
    tx: &mut Transaction,
    refs: &mut Refs,
    pool: &Pool,
) -> Result<rest::status::PoolSummary, Error> {
    Ok(rest::status::PoolSummary {
        deployment_id: pool.key.deployment,
        reference: refs.of(tx, Some(pool.key.deployment)).await?,
        state: pool.state,
        ready: ready(pool),
        min_replicas: pool.bounds.min,
        max_replicas: pool.bounds.max,
        in_flight: control.fleet.in_flight(pool.key),
    })
}

pub(super) fn pool_status(
    control: &Control,
    environment: &Environment,
    pool: &Pool,
    now: Timestamp,
) -> rest::status::PoolStatus {
    rest::status::PoolStatus {
        environment_id: environment.id,
        environment: environment.name.clone(),
        current: environment.pointer == Some(pool.key.deployment),
        state: pool.state,
        ready: ready(pool),
        min_replicas: pool.bounds.min,
        max_replicas: pool.bounds.max,
        in_flight: control.fleet.in_flight(pool.key),
        closing_since: pool.closing_since,
        closing: closing(control, pool),
        endpoints: pool.endpoints.iter().map(|endpoint| endpoint_status(endpoint, now)).collect(),
    }
}

fn closing(control: &Control, pool: &Pool) -> Option<rest::status::ClosingStatus> {
    let revision = pool.closing_revision.filter(|_| pool.state == PoolState::Closing)?;
    let blocked_by = control.fleet.blocking_pool(pool.key, revision);
    Some(rest::status::ClosingStatus {
        since: pool.closing_since,
        in_flight: control.fleet.in_flight(pool.key),
        blocked_by: blocked_by.sentences(),
        blocked_by_count: blocked_by.count,
    })
}

fn endpoint_status(endpoint: &Endpoint, now: Timestamp) -> rest::status::EndpointStatus {
    rest::status::EndpointStatus {
        id: endpoint.id,
        address: match &endpoint.authority {
            Some(authority) if endpoint.secure => format!("https://{authority}"),
            Some(authority) => authority.clone(),
            None => endpoint.address.to_string(),
        },
        state: endpoint.state,
        pid: endpoint.pid,
        since: endpoint.since,
        uptime_seconds: u64::try_from(now.duration_since(endpoint.since).as_secs()).unwrap_or(0),
    }
}

fn ready(pool: &Pool) -> u32 {
    u32::try_from(pool.ready_count()).unwrap_or(u32::MAX)
}

pub(super) fn deployment(
    control: &Control,
    deployment: Deployment,
    project: &Project,
) -> Result<rest::deployments::Deployment, Error> {
    let preview: EnvironmentName =
        EnvironmentName::DEFAULTS[0].parse().map_err(|_| Error::Internal("preview is no name"))?;
    let host = HostPattern::of_deployment(&project.name, &deployment.reference, &preview, &control.config.base_domain);
    Ok(rest::deployments::Deployment {
        url: control.config.url(&host),
        digest: deployment.digest().map(str::to_owned),
        id: deployment.id,
        reference: deployment.reference,
        project_id: deployment.project,
        source: deployment.source,
        message: deployment.message,
        git_commit: deployment.git_commit,
        created_by: deployment.created_by,
        created_at: deployment.created_at,
    })
}
