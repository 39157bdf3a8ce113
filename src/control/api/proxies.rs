//! `GET /api/v1/proxies`: the fleet, against the newest revision.

use axum::Json;
use axum::extract::State;

use crate::control::{Control, now};

use crate::fleet::member::State as Heard;
use crate::model::revision::Revision;
use crate::rest::proxies::{Proxies, Proxy, ProxyState};

pub(super) async fn list(State(control): State<Control>) -> Json<Proxies> {
    let head_revision = control.store.head().revision;
    let now = now();
    let items = control.fleet.proxies().into_iter().map(|proxy| {
        let applied = proxy.applied_revision.unwrap_or_default();
        let silent = i64::try_from(proxy.silent_for.as_millis()).unwrap_or(i64::MAX);
        Proxy {
            proxy_id: proxy.proxy_id,
            instance_id: proxy.instance_id,
            state: match proxy.state {
                Heard::Live => ProxyState::Live,
                Heard::Suspect => ProxyState::Suspect,
                Heard::Gone => ProxyState::Gone,
            },
            applied_revision: applied,
            durable_revision: proxy.durable_revision.unwrap_or_default(),
            lag: lag(head_revision, applied),
            version: proxy.version,
            in_flight: proxy.in_flight,
            last_seen_at: now.checked_sub(jiff::SignedDuration::from_millis(silent)).ok(),
        }
    });
    Json(Proxies { head_revision, items: items.collect() })
}

/// A proxy may be ahead of the head that was read a moment before it.
fn lag(head: Revision, applied: Revision) -> u64 {
    head.0.saturating_sub(applied.0)
}
