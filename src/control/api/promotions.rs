//! `POST /api/v1/deployments/promote` and `/rollback`, `POST /api/v1/promotions`, an environment's history,
//! and how far a committed move has got.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::control::api::auth::Actor;
use crate::control::api::extract::{Body, Id, Query, caller, check_length, page, wait};
use crate::control::api::show::Refs;
use crate::control::api::show_move::{self, MoveAnswer};
use crate::control::environment::REASON_MAX;
use crate::control::{Control, Error, find};
use crate::model::id::{EnvironmentId, PromotionId};
use crate::rest::history::Promotion;
use crate::rest::moves::{Moved, MovedAll, PROMOTIONS_MAX, Promote, PromoteAll, Rollback, WaitQuery};
use crate::rest::page::{Page, PageQuery};

pub(super) async fn promote(
    State(control): State<Control>,
    actor: Actor,
    Body(ask): Body<Promote>,
) -> Result<Response, Error> {
    let caller = caller(actor, ask.wait_ms)?;
    check_length("reason", ask.reason.as_ref(), REASON_MAX)?;
    let outcome = control.promote(ask, &caller).await?;
    Ok(answer(show_move::outcome(&control, outcome).await?))
}

pub(super) async fn promote_all(
    State(control): State<Control>,
    actor: Actor,
    Body(ask): Body<PromoteAll>,
) -> Result<Json<MovedAll>, Error> {
    let caller = caller(actor, ask.wait_ms)?;
    check_length("reason", ask.reason.as_ref(), REASON_MAX)?;
    if !(1..=PROMOTIONS_MAX).contains(&ask.promotions.len()) {
        return Err(Error::Invalid(format!("promotions: give 1 to {PROMOTIONS_MAX} moves")));
    }
    let moved = control.promote_all(ask.promotions, ask.reason, &caller).await?;
    Ok(Json(show_move::moved_all(&control, moved).await?))
}

pub(super) async fn rollback(
    State(control): State<Control>,
    actor: Actor,
    Body(ask): Body<Rollback>,
) -> Result<Response, Error> {
    let caller = caller(actor, ask.wait_ms)?;
    check_length("reason", ask.reason.as_ref(), REASON_MAX)?;
    if ask.immediate {
        return Err(Error::NotYetSupported(
            "immediate: true is not supported yet; without it the pointer moves when the target is ready",
        ));
    }
    let outcome = control.rollback(ask, &caller).await?;
    Ok(answer(show_move::outcome(&control, outcome).await?))
}

fn answer(answer: MoveAnswer) -> Response {
    match answer {
        MoveAnswer::Moved(moved) => Json(moved).into_response(),
        MoveAnswer::Pending(pending) => (StatusCode::ACCEPTED, Json(pending)).into_response(),
    }
}

pub(super) async fn history(
    State(control): State<Control>,
    Id(id): Id<EnvironmentId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Promotion>>, Error> {
    let page = page(query.limit, query.cursor)?;
    let mut tx = control.store.read().await?;
    find::environment(&mut tx, id).await?;
    let listed = tx.promotions(id, &page).await?;
    let (mut refs, mut items) = (Refs::default(), Vec::new());
    for promotion in listed.items {
        items.push(show_move::promotion(&mut tx, &mut refs, promotion).await?);
    }
    Ok(Json(Page { items, next_cursor: listed.next }))
}

pub(super) async fn propagation(
    State(control): State<Control>,
    Id(id): Id<PromotionId>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<Moved>, Error> {
    let moved = control.followed_promotion(id, wait(query.wait_ms)?).await?;
    Ok(Json(show_move::moved(&control, moved).await?))
}
