//! The invariants of `lib.rs` that the control plane keeps.

use repoint::model::change::Record;
use repoint::store::Changes;
use repoint::wire::decode_change_set;
use serde_json::json;

use crate::plane::Plane;

#[tokio::test]
async fn invariant_5_a_deployment_never_changes_only_its_pools_do() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.bundle_deployment(&project, "10s").await;
    let path = format!("deployments/{deployment}");
    let before = plane.get(&path).await.ok().body;
    plane.serve(&deployment, &project.staging).await;
    plane.post(&format!("{path}/scale-up"), json!({ "min_replicas": 3 })).await.ok();
    plane.post(&format!("{path}/terminate"), json!({ "force": true })).await.ok();
    plane.post(&format!("{path}/start"), json!({})).await.ok();
    for method in ["PUT", "PATCH", "DELETE"] {
        let headers = [("x-api-key", plane.key.as_str())];
        plane.send_with(method, &path, &headers, None).await.refused(405, "method_not_allowed");
    }
    assert_eq!(plane.restart().await.get(&path).await.ok().body, before);
}

#[tokio::test]
async fn invariant_8_endpoints_reach_a_proxy_with_the_pointer_or_before_it() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    let before = plane.store.head().revision;
    let waiting = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    plane.ready(&project.staging, &deployment).await;
    plane.get(&format!("moves/{}?wait_ms=30000", waiting["move"]["id"])).await.ok();

    let Changes::Log(changes) = plane.store.changes_after(before, usize::MAX).await.unwrap() else { panic!() };
    let (mut routed, mut pointed) = (None, None);
    for change in changes.iter().map(|change| decode_change_set(&change.bytes).unwrap()) {
        for (record, _) in change.upserts {
            match record {
                Record::Pool(pool) if !pool.endpoints.is_empty() => routed = routed.or(Some(change.revision)),
                Record::Environment(environment) if environment.pointer.is_some() => {
                    // A table built up to here finds the endpoints that the pointer leads to.
                    assert!(routed.is_some(), "pointed at {:?} before its endpoints", environment.pointer);
                    pointed = Some(change.revision);
                }
                _ => {}
            }
        }
    }
    assert_eq!(json!(pointed), plane.history(&project.staging).await[0]["revision"]);
}

#[tokio::test]
async fn invariant_12_a_wait_ends_at_its_limit_with_what_there_is() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    let waiting = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 50 })).await.ok();
    assert_eq!((waiting.status, &waiting.body["move"]["state"]), (202, &json!("waiting")));
    let number = &waiting.body["move"]["id"];
    let still = plane.get(&format!("moves/{number}?wait_ms=50")).await.ok();
    assert_eq!(still.body["move"]["state"], "waiting");
    plane.failing(&project.staging, &deployment, "connection refused").await;
    let told = plane.get(&format!("moves/{number}")).await.ok();
    assert_eq!(told.body["move"]["detail"], "connection refused", "a waiting move says what it waits for");
}
