//! `GET /api/v1/moves/{id}`: a pending move until it ends.

use axum::Json;
use axum::extract::State;

use crate::control::api::extract::{Id, Query, wait};
use crate::control::api::show_move::pending_move;
use crate::control::{Control, Error};
use crate::rest::moves::{Pending, WaitQuery};

pub(super) async fn one(
    State(control): State<Control>,
    Id(number): Id<u64>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<Pending>, Error> {
    let pending = control.followed_move(number, wait(query.wait_ms)?).await?;
    let mut tx = control.store.read().await?;
    Ok(Json(Pending { pending: pending_move(&mut tx, pending).await? }))
}
