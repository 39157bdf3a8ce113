//! `/api/v1/projects`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::control::api::extract::{Body, Id, Query, page};
use crate::control::api::show;
use crate::control::project::environments_of;
use crate::control::removal::{Doomed, Leave};
use crate::control::{Control, Error, find, now};
use crate::model::id::ProjectId;
use crate::rest::page::Page;
use crate::rest::projects::{CreateProject, ListProjects, Project};
use crate::rest::{DeleteQuery, Deleted};

pub(super) async fn create(
    State(control): State<Control>,
    Body(ask): Body<CreateProject>,
) -> Result<(StatusCode, Json<Project>), Error> {
    let (project, environments) = control.create_project(ask, now()).await?;
    Ok((StatusCode::CREATED, Json(show::project(&control, project, &environments))))
}

pub(super) async fn list(
    State(control): State<Control>,
    Query(query): Query<ListProjects>,
) -> Result<Json<Page<Project>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let mut tx = control.store.read().await?;
    let (found, next_cursor) = match query.name {
        Some(name) => (tx.project_by_name(&name).await?.into_iter().collect(), None),
        None => {
            let listed = tx.projects(&page).await?;
            (listed.items, listed.next)
        }
    };
    let mut items = Vec::new();
    for project in found {
        let environments = environments_of(&mut tx, project.id).await?;
        items.push(show::project(&control, project, &environments));
    }
    Ok(Json(Page { items, next_cursor }))
}

pub(super) async fn one(State(control): State<Control>, Id(id): Id<ProjectId>) -> Result<Json<Project>, Error> {
    let mut tx = control.store.read().await?;
    let project = find::project(&mut tx, id).await?;
    let environments = environments_of(&mut tx, id).await?;
    Ok(Json(show::project(&control, project, &environments)))
}

pub(super) async fn remove(
    State(control): State<Control>,
    Id(id): Id<ProjectId>,
    Query(query): Query<DeleteQuery>,
) -> Result<(StatusCode, Json<Deleted>), Error> {
    let deleted = control.remove(Doomed::Project(id), leave(&query)).await?;
    Ok(removed(id.to_string(), deleted))
}

/// What a DELETE allows.
pub(super) fn leave(query: &DeleteQuery) -> Leave {
    Leave { force: query.force, mass_change: query.allow_mass_change }
}

/// 200 when it is gone; 202 while requests still run on it.
pub(super) fn removed(id: String, deleted: bool) -> (StatusCode, Json<Deleted>) {
    let status = if deleted { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(Deleted { id, deleted }))
}
