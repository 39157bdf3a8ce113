//! The admin listener: `/healthz`, `/readyz`, `/metrics` and what else a process
//! has to show, without a key.
//!
//! On a socket of its own, so that probes and scrapes answer while the ingress
//! and the API are busy, and so that it can stay on loopback.

use std::sync::Arc;

use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::telemetry::metrics::Metrics;

/// What has to be true before this process takes traffic: a name for people,
/// and how to look.
pub type Condition = (&'static str, Box<dyn Fn() -> bool + Send + Sync>);

/// A further page: its path, and what it answers to the pairs of a query.
pub type Page = (&'static str, Box<dyn Fn(&[(String, String)]) -> (StatusCode, Value) + Send + Sync>);

/// What the admin listener answers from.
pub struct Admin {
    /// The metrics to show.
    pub metrics: Metrics,
    /// All of them true: ready.
    pub ready_when: Vec<Condition>,
    /// What else there is to see.
    pub pages: Vec<Page>,
}

impl Admin {
    /// Serves until `stop` ends.
    ///
    /// # Errors
    ///
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        axum::serve(listener, self.router()).with_graceful_shutdown(stop).await
    }

    fn router(mut self) -> Router {
        let pages = std::mem::take(&mut self.pages);
        let shared = Arc::new(self);
        let ready = Arc::clone(&shared);
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(move || async move { ready.readiness() }))
            .route("/metrics", get(move || async move { shared.scrape() }));
        pages.into_iter().fold(router, |router, (path, show)| {
            let show = Arc::new(show);
            router.route(
                path,
                get(move |Query(query): Query<Vec<(String, String)>>| async move {
                    let (status, facts) = show(&query);
                    (status, Json(facts))
                }),
            )
        })
    }

    fn readiness(&self) -> Response {
        let missing: Vec<_> = self.ready_when.iter().filter(|(_, holds)| !holds()).map(|(name, _)| *name).collect();
        if missing.is_empty() {
            "ready\n".into_response()
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))).into_response()
        }
    }

    fn scrape(&self) -> Response {
        let form = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        match self.metrics.text() {
            Ok(text) => (form, text).into_response(),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "a collector failed to write its metrics\n").into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use prometheus_client::metrics::counter::Counter;

    use super::*;

    async fn body(response: Response) -> (StatusCode, String) {
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let loaded = Arc::new(AtomicBool::new(false));
        let condition = Arc::clone(&loaded);
        let ready_when: Vec<Condition> = vec![("routing table", Box::new(move || condition.load(Ordering::SeqCst)))];
        let admin = Admin { metrics: Metrics::default(), ready_when, pages: vec![] };
        let (status, text) = body(admin.readiness()).await;
        assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not ready: routing table\n"));
        loaded.store(true, Ordering::SeqCst);
        assert_eq!(body(admin.readiness()).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_scrape_shows_what_modules_registered() {
        let metrics = Metrics::default();
        let moves = Counter::<u64>::default();
        metrics.register(|registry| registry.register("moves", "Pointer moves", moves.clone()));
        moves.inc();
        let (status, text) = body(Admin { metrics, ready_when: vec![], pages: vec![] }.scrape()).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("repoint_moves_total 1"), "{text}");
    }
}
