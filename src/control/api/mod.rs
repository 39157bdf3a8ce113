//! The REST API: one file per noun, each a thin layer over `control`.
//!
//! Owns transport: paths, keys, bodies, waits and the error shape. Knows no
//! rules; a handler parses, asks the control plane and shows the answer. The
//! shapes are `rest`'s.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, delete, get, post};
use tokio::net::TcpListener;

use crate::control::Control;
use crate::control::api::listener::Bounded;
use crate::drain::Watch;

mod accept;
mod auth;
mod bundles;
mod deployments;
mod environments;
mod error;
mod events;
mod extract;
mod listener;
mod logs;
mod move_events;
mod moves;
mod projects;
mod promotions;
mod proxies;
mod show;
mod show_move;
mod transfer;
mod unread;

pub(super) use deployments::check_texts as check_deployment_texts;
pub(super) use show_move::propagation as shown_propagation;

/// Serves the API on these sockets until the drain asks, then lets requests end.
/// What is left when it insists is cut with the task.
///
/// # Errors
///
/// When a listener fails.
pub async fn serve(listeners: Vec<TcpListener>, control: Control, drain: Watch) -> std::io::Result<()> {
    let connections = Bounded::connections();
    let mut serving = Vec::new();
    for listener in listeners {
        serving.push(accept::run(Bounded::new(listener, &connections), router(control.clone()), drain.clone()));
    }
    futures_util::future::join_all(serving).await;
    Ok(())
}

/// The API as a service, without a socket.
pub fn router(control: Control) -> Router {
    Router::new()
        .nest("/api/v1", nouns())
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn_with_state(control.clone(), auth::require_key))
        .layer(from_fn_with_state(control.clone(), error::count))
        .layer(from_fn(unread::read_rest))
        .layer(from_fn(error::catch_panics))
        .with_state(control)
}

fn nouns() -> Router<Control> {
    Router::new()
        .route("/projects", get(projects::list).post(projects::create))
        .route("/projects/{id}", get(projects::one).delete(projects::remove))
        .route("/environments", get(environments::list).post(environments::create))
        .route("/environments/{id}", get(environments::one).put(environments::update).delete(environments::remove))
        .route("/environments/{id}/promotion-history", get(promotions::history))
        .route("/bundles/{digest}", get(bundles::one).put(bundles::put))
        .route("/deployments", get(deployments::list).post(deployments::create))
        .route("/deployments/promote", post(promotions::promote))
        .route("/deployments/rollback", post(promotions::rollback))
        .route("/deployments/{id}", get(deployments::one))
        .route("/deployments/{id}/start", post(deployments::start))
        .route("/deployments/{id}/terminate", post(deployments::terminate))
        .route("/deployments/{id}/scale-up", post(deployments::scale_up))
        .route("/deployments/{id}/scale-down", post(deployments::scale_down))
        .route("/deployments/{id}/status", get(deployments::status))
        .route("/deployments/{id}/errors", get(deployments::errors))
        .route("/deployments/{id}/logs", get(logs::stream))
        .route("/moves/{id}", get(moves::one))
        .route("/moves/{id}/events", get(move_events::of_move))
        .route("/promotions/{id}/propagation", get(promotions::propagation))
        .route("/promotions/{id}/events", get(move_events::of_promotion))
        .route("/promotions", post(promotions::promote_all))
        .route("/import", post(transfer::import))
        .route("/export", get(transfer::export))
        .route("/proxies", get(proxies::list))
        .route("/proxies/allow-mass-change", post(proxies::allow_mass_change))
        .route("/proxies/{id}", delete(proxies::forget))
        .route("/events", get(events::stream))
        .route("/secrets", any(error::secrets))
        .route("/secrets/{*rest}", any(error::secrets))
        .route("/keys", any(error::keys))
        .route("/keys/{*rest}", any(error::keys))
        .route("/openapi.json", get(error::openapi))
}
