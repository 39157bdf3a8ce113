//! Rows that a request names, or the answer that they are not there.

use crate::control::error::{Error, Noun};
use crate::model::deployment::Deployment;
use crate::model::environment::Environment;
use crate::model::id::{DeploymentId, EnvironmentId, ProjectId};
use crate::model::moves::PendingMove;
use crate::model::project::Project;
use crate::store::Transaction;

pub(super) async fn project(tx: &mut Transaction, id: ProjectId) -> Result<Project, Error> {
    tx.project(id).await?.ok_or_else(|| Error::not_found(Noun::Project, id))
}

pub(super) async fn environment(tx: &mut Transaction, id: EnvironmentId) -> Result<Environment, Error> {
    tx.environment(id).await?.ok_or_else(|| Error::not_found(Noun::Environment, id))
}

/// An environment of this project. One of another project is not there: neither
/// deployments nor answers cross projects.
pub(super) async fn environment_of(
    tx: &mut Transaction,
    project: ProjectId,
    id: EnvironmentId,
) -> Result<Environment, Error> {
    let environment = environment(tx, id).await?;
    if environment.project == project { Ok(environment) } else { Err(Error::not_found(Noun::Environment, id)) }
}

pub(super) async fn deployment(tx: &mut Transaction, id: DeploymentId) -> Result<Deployment, Error> {
    tx.deployment(id).await?.ok_or_else(|| Error::not_found(Noun::Deployment, id))
}

pub(super) async fn pending_move(tx: &mut Transaction, number: u64) -> Result<PendingMove, Error> {
    tx.pending_move(number).await?.ok_or_else(|| Error::not_found(Noun::Move, number))
}
