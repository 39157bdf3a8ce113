//! Promote, and what it refuses (product.md, decided cases).

use serde_json::json;

use crate::plane::{Plane, endpoints, merged, until};

#[tokio::test]
async fn a_first_deploy_has_nothing_before_it() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    plane.ready(&project.preview, &deployment).await;
    let moved = plane.promote(&deployment, &project.preview, json!({ "reason": "first" })).await.ok();
    assert_eq!(moved.status, 200);
    assert_eq!((&moved.body["changed"], &moved.body["previous"]), (&json!(true), &json!(null)));
    let row = &moved.body["promotion"];
    assert_eq!(
        (&row["sequence"], &row["kind"], &row["from_deployment_id"]),
        (&json!(1), &json!("promote"), &json!(null))
    );
    assert_eq!(
        (&row["actor"], &row["reason"], &row["revision"]),
        (&json!("admin"), &json!("first"), &moved.body["revision"])
    );
    assert_eq!(moved.body["propagation"]["complete"], true, "no proxy is required");
    assert_eq!(plane.current(&project.preview).await, Some(deployment));
}

#[tokio::test]
async fn a_promote_names_what_was_before_and_where_it_came_from() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    let new = plane.serve_fresh(&project, &project.preview).await;
    plane.ready(&project.staging, &new).await;
    let moved = plane.promote(&new, &project.staging, json!({})).await.ok().body;
    assert_eq!(moved["previous"]["deployment_id"], json!(old));
    assert_eq!((&moved["previous"]["state"], &moved["previous"]["in_flight"]), (&json!("running"), &json!(0)));
    assert_eq!(moved["promotion"]["source_environment_id"], json!(project.preview));
    let history = plane.history(&project.staging).await;
    let targets: Vec<_> = history.iter().map(|row| (row["sequence"].as_u64(), &row["to_deployment_id"])).collect();
    assert_eq!(targets, [(Some(2), &json!(new)), (Some(1), &json!(old))]);
}

#[tokio::test]
async fn what_is_current_already_is_not_moved_again() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    let head = plane.store.head();
    let again =
        plane.promote(&deployment, &project.staging, json!({ "min_replicas": 2, "max_replicas": 3 })).await.ok();
    assert_eq!((again.status, &again.body["changed"], &again.body["previous"]), (200, &json!(false), &json!(null)));
    assert_eq!(again.body["revision"], json!(head.revision), "the change that had moved it");
    assert_eq!(again.body["propagation"]["complete"], true);
    assert_eq!(plane.store.head(), head, "no new revision");
    assert_eq!(plane.history(&project.staging).await.len(), 1);
    let bounds = plane.pool(&project.staging, &deployment).await.unwrap().bounds;
    assert_eq!((bounds.min, bounds.max), (2, 3), "bounds still apply");
}

#[tokio::test]
async fn a_promote_across_projects_finds_nothing() {
    let plane = Plane::start().await;
    let (one, two) = (plane.project("one").await, plane.project("two").await);
    let deployment = plane.deployment(&one).await;
    let before = plane.everything().await;
    plane.promote(&deployment, &two.preview, json!({})).await.refused(404, "deployment_not_found");
    let nobody = "01980000-0000-7000-8000-000000000001";
    plane.promote(nobody, &one.preview, json!({})).await.refused(404, "deployment_not_found");
    plane.promote(&deployment, nobody, json!({})).await.refused(404, "environment_not_found");
    let deploy = merged(endpoints(&one), json!({ "environment_id": two.preview }));
    plane.post("deployments", deploy).await.refused(404, "environment_not_found");
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn an_unexpected_current_deployment_refuses_with_the_actual_one() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let current = plane.serve_fresh(&project, &project.staging).await;
    let other = plane.deployment(&project).await;
    plane.ready(&project.staging, &other).await;
    let before = plane.everything().await;
    for expected in [json!(other), json!(null)] {
        let ask = json!({ "expected_current_deployment_id": expected });
        let refused = plane.promote(&other, &project.staging, ask.clone()).await.refused(409, "pointer_moved");
        assert_eq!(refused.body["error"]["details"]["current_deployment_id"], json!(current));
        plane.rollback(&project.staging, ask).await.refused(409, "pointer_moved");
    }
    assert_eq!(plane.everything().await, before);
    plane.promote(&other, &project.staging, json!({ "expected_current_deployment_id": current })).await.ok();
}

#[tokio::test]
async fn a_lock_refuses_deploys_and_promotes_and_leaves_nothing_behind() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let first = plane.serve_fresh(&project, &project.production).await;
    plane.serve_fresh(&project, &project.production).await;
    let other = plane.deployment(&project).await;
    plane.ready(&project.production, &other).await;
    let lock = json!({ "locked": true, "locked_reason": "freeze" });
    plane.put(&format!("environments/{}", project.production), lock).await.ok();
    let before = plane.everything().await;

    let refused = plane.promote(&other, &project.production, json!({})).await.refused(409, "environment_locked");
    assert!(refused.message().contains("freeze") && refused.message().contains("unlock"), "{refused:?}");
    let deploy = merged(endpoints(&project), json!({ "environment_id": project.production }));
    plane.post("deployments", deploy).await.refused(409, "environment_locked");
    assert_eq!(plane.everything().await, before, "no deployment remains of a refused deploy");

    plane.rollback(&project.production, json!({})).await.ok();
    assert_eq!(plane.current(&project.production).await, Some(first), "a lock never stops a rollback");
}

#[tokio::test]
async fn a_terminated_deployment_is_promoted_only_with_start() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    plane.serve_fresh(&project, &project.staging).await;
    plane.post(&format!("deployments/{old}/terminate"), json!({})).await.ok();
    plane.stopped(&project.staging, &old).await;
    let before = plane.everything().await;
    let refused = plane.promote(&old, &project.staging, json!({})).await.refused(409, "deployment_terminated");
    assert!(refused.message().contains("start"), "{refused:?}");
    assert_eq!(plane.everything().await, before);

    let waiting = plane.promote(&old, &project.staging, json!({ "start": true, "wait_ms": 0 })).await.ok();
    assert_eq!(waiting.status, 202);
    plane.ready(&project.staging, &old).await;
    let number = waiting.body["move"]["id"].as_u64().unwrap();
    let ended = plane.get(&format!("moves/{number}?wait_ms=30000")).await.ok();
    assert_eq!(ended.body["move"]["state"], "committed");
    assert_eq!(plane.current(&project.staging).await, Some(old));
}

#[tokio::test]
async fn the_previous_pool_closes_in_the_same_change_where_asked() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    plane.serve(&old, &project.preview).await;
    let new = plane.deployment(&project).await;
    plane.ready(&project.staging, &new).await;
    let moved = plane.promote(&new, &project.staging, json!({ "scale_previous_to_zero": true })).await.ok().body;
    assert_eq!(moved["previous"]["state"], "closing");
    let closed = plane.pool(&project.staging, &old).await.unwrap();
    assert_eq!(json!(closed.closing_revision), moved["revision"]);
    assert!(closed.closing_since.is_some());
    let elsewhere = plane.pool(&project.preview, &old).await.unwrap();
    assert!(elsewhere.state.is_wanted(), "only the pool of the environment that moved is drained");
}

#[tokio::test]
async fn a_pool_that_is_closing_opens_again_at_once() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    let new = plane.deployment(&project).await;
    plane.ready(&project.staging, &new).await;
    plane.promote(&new, &project.staging, json!({ "scale_previous_to_zero": true })).await.ok();

    let back = plane.rollback(&project.staging, json!({ "wait_ms": 0 })).await.ok();
    assert_eq!((back.status, &back.body["changed"]), (200, &json!(true)), "no wait: its replicas still run");
    let opened = plane.pool(&project.staging, &old).await.unwrap();
    assert!(opened.is_ready() && opened.closing_revision.is_none());
}

#[tokio::test]
async fn a_current_deployment_that_was_terminated_starts_again_without_a_row() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    plane.post(&format!("deployments/{deployment}/terminate"), json!({ "force": true })).await.ok();
    plane.stopped(&project.staging, &deployment).await;
    let ask = json!({ "start": true, "wait_ms": 30000 });
    let (moved, ()) = tokio::join!(plane.promote(&deployment, &project.staging, ask), async {
        until("the pool to start", || async {
            plane.pool(&project.staging, &deployment).await.filter(|pool| pool.state.is_wanted())
        })
        .await;
        plane.ready(&project.staging, &deployment).await;
    });
    let moved = moved.ok();
    assert_eq!((moved.status, &moved.body["changed"]), (200, &json!(false)));
    assert_eq!(plane.history(&project.staging).await.len(), 1);
}

#[tokio::test]
async fn what_is_current_and_still_closing_opens_at_once_without_a_row() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    plane.post(&format!("deployments/{deployment}/terminate"), json!({ "force": true })).await.ok();
    // Once a row from the deployment to itself was written, and what it came from was closed: itself.
    let ask = json!({ "start": true, "scale_previous_to_zero": true, "min_replicas": 2, "wait_ms": 0 });
    let stays = plane.promote(&deployment, &project.staging, ask).await.ok();
    assert_eq!((stays.status, &stays.body["changed"]), (200, &json!(false)));
    let opened = plane.pool(&project.staging, &deployment).await.unwrap();
    assert!(opened.is_ready() && opened.closing_revision.is_none(), "{opened:?}");
    assert_eq!(opened.bounds.min, 2);
    assert_eq!(plane.history(&project.staging).await.len(), 1);
}

#[tokio::test]
async fn history_comes_in_pages_newest_first() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    for _ in 0..3 {
        plane.serve_fresh(&project, &project.staging).await;
    }
    let path = format!("environments/{}/promotion-history", project.staging);
    let first = plane.get(&format!("{path}?limit=2")).await.ok().body;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = plane.get(&format!("{path}?limit=2&cursor={cursor}")).await.ok().body;
    let sequences = |page: &serde_json::Value| -> Vec<u64> {
        page["items"].as_array().unwrap().iter().map(|row| row["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!((sequences(&first), sequences(&second)), (vec![3, 2], vec![1]));
    assert!(second["next_cursor"].is_null());
}
