//! `/api/v1/environments`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::control::api::extract::{Body, Id, Query, page};
use crate::control::api::projects::leave;
use crate::control::api::projects::removed;
use crate::control::api::show::{self, Refs};
use crate::control::removal::Doomed;
use crate::control::{Control, Error, find, now};
use crate::model::id::EnvironmentId;
use crate::rest::environments::{
    CreateEnvironment, Environment, EnvironmentDetail, ListEnvironments, UpdateEnvironment,
};
use crate::rest::page::Page;
use crate::rest::{DeleteQuery, Deleted};

pub(super) async fn create(
    State(control): State<Control>,
    Body(ask): Body<CreateEnvironment>,
) -> Result<(StatusCode, Json<EnvironmentDetail>), Error> {
    let environment = control.create_environment(ask, now()).await?;
    let mut tx = control.store.read().await?;
    Ok((StatusCode::CREATED, Json(show::environment_detail(&control, &mut tx, environment).await?)))
}

pub(super) async fn list(
    State(control): State<Control>,
    Query(query): Query<ListEnvironments>,
) -> Result<Json<Page<Environment>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let mut tx = control.store.read().await?;
    if let Some(id) = query.project_id {
        find::project(&mut tx, id).await?;
    }
    let listed = tx.environments(query.project_id, &page).await?;
    let (mut refs, mut items) = (Refs::default(), Vec::new());
    for environment in listed.items {
        items.push(show::environment(&control, &mut tx, &mut refs, environment).await?);
    }
    Ok(Json(Page { items, next_cursor: listed.next }))
}

pub(super) async fn one(
    State(control): State<Control>,
    Id(id): Id<EnvironmentId>,
) -> Result<Json<EnvironmentDetail>, Error> {
    let mut tx = control.store.read().await?;
    let environment = find::environment(&mut tx, id).await?;
    Ok(Json(show::environment_detail(&control, &mut tx, environment).await?))
}

pub(super) async fn update(
    State(control): State<Control>,
    Id(id): Id<EnvironmentId>,
    Body(ask): Body<UpdateEnvironment>,
) -> Result<Json<EnvironmentDetail>, Error> {
    let environment = control.update_environment(id, ask, now()).await?;
    let mut tx = control.store.read().await?;
    Ok(Json(show::environment_detail(&control, &mut tx, environment).await?))
}

pub(super) async fn remove(
    State(control): State<Control>,
    Id(id): Id<EnvironmentId>,
    Query(query): Query<DeleteQuery>,
) -> Result<(StatusCode, Json<Deleted>), Error> {
    let deleted = control.remove(Doomed::Environment(id), leave(&query)).await?;
    Ok(removed(id.to_string(), deleted))
}
