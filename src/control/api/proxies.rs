//! `GET /api/v1/proxies`: the fleet, against the newest revision; and `DELETE` of
//! one that is gone for good.

use axum::Json;
use axum::extract::State;

use crate::control::api::auth::Admin;
use crate::control::api::extract::{Query, Text};
use crate::control::{Control, Error, now};
use crate::fleet::member::State as Heard;
use crate::model::revision::Revision;
use crate::rest::proxies::{ForgetProxy, ForgottenProxy, MassChangeAllowed, Proxies, Proxy, ProxyState, RefusedChange};

pub(super) async fn list(State(control): State<Control>) -> Json<Proxies> {
    let head_revision = control.store.head().revision;
    let now = now();
    let items = control.fleet.proxies().into_iter().map(|proxy| {
        let applied = proxy.applied_revision.unwrap_or_default();
        let silent = i64::try_from(proxy.silent_for.as_millis()).unwrap_or(i64::MAX);
        Proxy {
            proxy_id: proxy.proxy_id,
            instance_id: proxy.instance_id,
            state: state(proxy.state),
            connected: proxy.connected,
            applied_revision: applied,
            durable_revision: proxy.durable_revision.unwrap_or_default(),
            keeps_table: proxy.keeps_table,
            lag: lag(head_revision, applied),
            version: proxy.version,
            in_flight: proxy.in_flight,
            last_seen_at: now.checked_sub(jiff::SignedDuration::from_millis(silent)).ok(),
            silent_for_ms: silent.unsigned_abs(),
            refused: proxy.refused.map(|refused| RefusedChange {
                revision: refused.revision,
                reason: refused.reason.as_str().to_owned(),
                detail: refused.detail,
            }),
            ahead: proxy.ahead,
        }
    });
    Json(Proxies { head_revision, items: items.collect() })
}

pub(super) async fn forget(
    State(control): State<Control>,
    Text(proxy_id): Text,
    Query(query): Query<ForgetProxy>,
) -> Result<Json<ForgottenProxy>, Error> {
    let forgotten = control.forget_proxy(&proxy_id, query.instance_id).await?;
    Ok(Json(ForgottenProxy { proxy_id, forgotten }))
}

pub(super) fn state(heard: Heard) -> ProxyState {
    match heard {
        Heard::Live => ProxyState::Live,
        Heard::Suspect => ProxyState::Suspect,
        Heard::Gone => ProxyState::Gone,
    }
}

pub(super) async fn allow_mass_change(
    State(control): State<Control>,
    Admin(actor): Admin,
) -> Result<Json<MassChangeAllowed>, Error> {
    Ok(Json(MassChangeAllowed { revision: control.allow_mass_change(&actor.0).await? }))
}

/// A proxy may be ahead of the head that was read a moment before it.
fn lag(head: Revision, applied: Revision) -> u64 {
    head.0.saturating_sub(applied.0)
}
