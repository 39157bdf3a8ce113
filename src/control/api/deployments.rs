//! `/api/v1/deployments`, and what is done to a deployment's pools.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::control::api::auth::Actor;
use crate::control::api::extract::{Body, Id, Query, caller, check_length, page};
use crate::control::api::show::{self, Refs};
use crate::control::api::show_move;
use crate::control::pool::Scale;
use crate::control::replicas::{Touched, pools_of};
use crate::control::{Control, Error, find, now};
use crate::model::id::DeploymentId;
use crate::rest::deployments::{
    CreateDeployment, CreatedDeployment, Deployment, ListDeployments, ScaleDeployment, StartDeployment,
    TerminateDeployment,
};
use crate::rest::page::Page;
use crate::rest::status::{DeploymentError, DeploymentStatus, ErrorsQuery};

/// Longest message, in bytes: a commit message with its body.
const MESSAGE_MAX: usize = 4096;

/// Longest commit id, in bytes: a SHA-256 in hex, with room for a suffix.
const COMMIT_MAX: usize = 128;

/// Errors shown of each pool: all that are kept.
const ERRORS_MAX: u32 = 100;

pub(super) async fn create(
    State(control): State<Control>,
    actor: Actor,
    Body(ask): Body<CreateDeployment>,
) -> Result<(StatusCode, Json<CreatedDeployment>), Error> {
    let caller = caller(actor, ask.wait_ms)?;
    check_texts(ask.message.as_ref(), ask.git_commit.as_ref())?;
    let deployed = control.deploy(ask, &caller).await?;

    let mut tx = control.store.read().await?;
    let project = find::project(&mut tx, deployed.deployment.project).await?;
    let promotion = match deployed.promotion {
        Some(promotion) => Some(show_move::promotion(&mut tx, &mut Refs::default(), promotion).await?),
        None => None,
    };
    let pending = match deployed.pending {
        Some(pending) => Some(show_move::pending_move(&mut tx, pending).await?),
        None => None,
    };
    let answer = CreatedDeployment {
        deployment: show::deployment(&control, deployed.deployment, &project)?,
        pending,
        promotion,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Refuses what an author says at more length than is kept.
pub(in crate::control) fn check_texts(message: Option<&String>, git_commit: Option<&String>) -> Result<(), Error> {
    check_length("message", message, MESSAGE_MAX)?;
    check_length("git_commit", git_commit, COMMIT_MAX)
}

pub(super) async fn list(
    State(control): State<Control>,
    Query(query): Query<ListDeployments>,
) -> Result<Json<Page<Deployment>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let id = query.project_id.ok_or_else(|| {
        Error::Invalid("project_id: name the project whose deployments to list, as GET /api/v1/projects does".into())
    })?;
    let mut tx = control.store.read().await?;
    let project = find::project(&mut tx, id).await?;
    let (found, next_cursor) = match query.reference {
        Some(reference) => (tx.deployment_by_ref(id, &reference).await?.into_iter().collect(), None),
        None => {
            let listed = tx.deployments(id, &page).await?;
            (listed.items, listed.next)
        }
    };
    let items = found.into_iter().map(|deployment| show::deployment(&control, deployment, &project));
    Ok(Json(Page { items: items.collect::<Result<_, _>>()?, next_cursor }))
}

pub(super) async fn one(State(control): State<Control>, Id(id): Id<DeploymentId>) -> Result<Json<Deployment>, Error> {
    let mut tx = control.store.read().await?;
    let deployment = find::deployment(&mut tx, id).await?;
    let project = find::project(&mut tx, deployment.project).await?;
    Ok(Json(show::deployment(&control, deployment, &project)?))
}

pub(super) async fn start(
    State(control): State<Control>,
    Id(id): Id<DeploymentId>,
    Body(ask): Body<StartDeployment>,
) -> Result<Json<DeploymentStatus>, Error> {
    Ok(touched(&control, &control.start_deployment(id, ask).await?))
}

pub(super) async fn terminate(
    State(control): State<Control>,
    actor: Actor,
    Id(id): Id<DeploymentId>,
    Body(ask): Body<TerminateDeployment>,
) -> Result<Json<DeploymentStatus>, Error> {
    let caller = caller(actor, None)?;
    Ok(touched(&control, &control.terminate_deployment(id, ask, &caller).await?))
}

pub(super) async fn scale_up(
    State(control): State<Control>,
    Id(id): Id<DeploymentId>,
    Body(ask): Body<ScaleDeployment>,
) -> Result<Json<DeploymentStatus>, Error> {
    Ok(touched(&control, &control.scale_deployment(id, Scale::Up, ask).await?))
}

pub(super) async fn scale_down(
    State(control): State<Control>,
    Id(id): Id<DeploymentId>,
    Body(ask): Body<ScaleDeployment>,
) -> Result<Json<DeploymentStatus>, Error> {
    Ok(touched(&control, &control.scale_deployment(id, Scale::Down, ask).await?))
}

pub(super) async fn status(
    State(control): State<Control>,
    Id(id): Id<DeploymentId>,
) -> Result<Json<DeploymentStatus>, Error> {
    let mut tx = control.store.read().await?;
    let deployment = find::deployment(&mut tx, id).await?;
    let pools = pools_of(&mut tx, &deployment, None).await?;
    Ok(touched(&control, &Touched { deployment, pools }))
}

fn touched(control: &Control, touched: &Touched) -> Json<DeploymentStatus> {
    let now = now();
    let pools = touched.pools.iter();
    Json(DeploymentStatus {
        deployment_id: touched.deployment.id,
        reference: touched.deployment.reference.clone(),
        pools: pools.map(|(environment, pool)| show::pool_status(control, environment, pool, now)).collect(),
    })
}

pub(super) async fn errors(
    State(control): State<Control>,
    Id(id): Id<DeploymentId>,
    Query(query): Query<ErrorsQuery>,
) -> Result<Json<Page<DeploymentError>>, Error> {
    let mut tx = control.store.read().await?;
    let deployment = find::deployment(&mut tx, id).await?;
    let mut items = Vec::new();
    for (environment, pool) in pools_of(&mut tx, &deployment, query.environment_id).await? {
        for error in tx.pool_errors(pool.key, ERRORS_MAX).await? {
            let environment = &environment;
            items.push(DeploymentError {
                environment_id: environment.id,
                environment: environment.name.clone(),
                error,
            });
        }
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.error.at));
    Ok(Json(Page { items, next_cursor: None }))
}
