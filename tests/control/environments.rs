//! Environments.

use serde_json::json;

use crate::plane::{Plane, until};

#[tokio::test]
async fn an_environment_is_made_shown_and_changed() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let body = json!({ "project_id": project.id, "name": "canary", "hosts": ["Agents.Example.com", "*.example.org"],
                       "policy": { "pins": "off" }, "max_replicas": 4 });
    let made = plane.post("environments", body).await.ok();
    assert_eq!(made.status, 201);
    assert_eq!(made.body["hosts"], json!(["support-canary.localhost", "agents.example.com", "*.example.org"]));
    assert_eq!(made.body["url"], "http://support-canary.localhost:8080");
    assert_eq!((&made.body["policy"]["pins"], &made.body["max_replicas"]), (&json!("off"), &json!(4)));
    assert_eq!((&made.body["rollback_target"], &made.body["pools"]), (&json!(null), &json!([])));

    let path = format!("environments/{}", made.id());
    let changed = plane.put(&path, json!({ "policy": { "max_drain_ms": 5000 }, "hosts": [] })).await.ok();
    assert_eq!(changed.body["hosts"], json!(["support-canary.localhost"]));
    assert_eq!(changed.body["policy"]["max_drain_ms"], 5000);
    assert_eq!((&changed.body["policy"]["pins"], &changed.body["max_replicas"]), (&json!("off"), &json!(4)));
    assert_eq!(plane.get(&path).await.ok().body, changed.body);
    assert_eq!(plane.put(&path, json!({})).await.ok().body, changed.body, "an empty change is none");
}

#[tokio::test]
async fn names_and_hosts_are_claimed_once() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let canary = |hosts| json!({ "project_id": project.id, "name": "canary", "hosts": hosts });
    plane.post("environments", canary(json!(["agents.example.com"]))).await.ok();
    let before = plane.everything().await;

    plane.post("environments", canary(json!([]))).await.refused(409, "name_taken");
    let path = format!("environments/{}", project.staging);
    let taken = plane.put(&path, json!({ "hosts": ["agents.example.com"], "locked": true })).await;
    let taken = taken.refused(409, "host_taken");
    assert!(taken.message().contains("support/canary"), "{taken:?}");
    for host in ["localhost", "gate.example", "*.localhost", "support--abcdefgh.localhost"] {
        let refused = plane.put(&path, json!({ "hosts": [host] })).await.refused(400, "invalid_request");
        assert!(refused.message().contains(host), "{refused:?}");
    }
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn a_lock_is_shown_with_its_reason_and_taken_off() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let path = format!("environments/{}", project.production);
    let locked = plane.put(&path, json!({ "locked": true, "locked_reason": "freeze" })).await.ok();
    assert_eq!((&locked.body["locked"], &locked.body["locked_reason"]), (&json!(true), &json!("freeze")));
    let unlocked = plane.put(&path, json!({ "locked": false })).await.ok();
    assert_eq!((&unlocked.body["locked"], &unlocked.body["locked_reason"]), (&json!(false), &json!(null)));
    plane.put(&path, json!({ "locked_reason": "x" })).await.refused(400, "invalid_request");
}

#[tokio::test]
async fn environments_are_listed_by_project() {
    let plane = Plane::start().await;
    let (one, _) = (plane.project("one").await, plane.project("two").await);
    let listed = plane.get(&format!("environments?project_id={}", one.id)).await.ok().body;
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    assert!(listed["items"].as_array().unwrap().iter().all(|item| item["project"] == "one"));
    assert_eq!(plane.get("environments").await.ok().body["items"].as_array().unwrap().len(), 6);
    let unknown = "environments?project_id=01980000-0000-7000-8000-000000000001";
    plane.get(unknown).await.refused(404, "project_not_found");
}

#[tokio::test]
async fn default_environments_are_never_deleted_alone() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    plane.serve_fresh(&project, &project.production).await;
    let before = plane.everything().await;
    for environment in [&project.preview, &project.production] {
        for query in ["", "?force=true"] {
            let path = format!("environments/{environment}{query}");
            plane.delete(&path).await.refused(409, "environment_protected");
        }
    }
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn an_environment_with_a_pointer_is_drained_before_it_goes() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let canary = plane.post("environments", json!({ "project_id": project.id, "name": "canary" })).await.ok().id();
    let deployment = plane.serve_fresh(&project, &canary).await;
    let before = plane.everything().await;
    let path = format!("environments/{canary}");
    plane.delete(&path).await.refused(409, "environment_in_use");
    assert_eq!(plane.everything().await, before);

    let forced = format!("{path}?force=true");
    let (deleted, ()) = tokio::join!(plane.delete(&forced), async {
        let closing = until("the pool to close", || async {
            plane.pool(&canary, &deployment).await.filter(|pool| !pool.state.is_wanted())
        })
        .await;
        assert!(closing.closing_revision.is_some());
        assert_eq!(plane.current(&canary).await, None, "the pointer goes with the same change");
        plane.stopped(&canary, &deployment).await;
    });
    assert_eq!(deleted.ok().body["deleted"], true);
    plane.get(&path).await.refused(404, "environment_not_found");
}

#[tokio::test]
async fn whoever_promotes_while_an_environment_drains_keeps_it() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let canary = plane.post("environments", json!({ "project_id": project.id, "name": "canary" })).await.ok().id();
    let deployment = plane.serve_fresh(&project, &canary).await;
    let forced = format!("environments/{canary}?force=true");
    let (deleted, ()) = tokio::join!(plane.delete(&forced), async {
        until("the pool to close", || async {
            plane.pool(&canary, &deployment).await.filter(|pool| !pool.state.is_wanted())
        })
        .await;
        plane.promote(&deployment, &canary, json!({ "start": true })).await.ok();
    });
    deleted.refused(409, "environment_in_use");
    assert_eq!(plane.current(&canary).await, Some(deployment));
}

#[tokio::test]
async fn a_move_asked_for_while_an_environment_drains_keeps_it() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let canary = plane.post("environments", json!({ "project_id": project.id, "name": "canary" })).await.ok().id();
    let old = plane.serve_fresh(&project, &canary).await;
    let new = plane.deployment(&project).await;
    let forced = format!("environments/{canary}?force=true");
    let (deleted, number) = tokio::join!(plane.delete(&forced), async {
        until("the pool to close", || async { plane.pool(&canary, &old).await.filter(|pool| !pool.state.is_wanted()) })
            .await;
        let waiting = plane.promote(&new, &canary, json!({ "wait_ms": 0 })).await.ok().body;
        waiting["move"]["id"].as_u64().unwrap()
    });
    deleted.refused(409, "environment_in_use");
    plane.ready(&canary, &new).await;
    let ended = plane.get(&format!("moves/{number}?wait_ms=30000")).await.ok().body;
    assert_eq!(ended["move"]["state"], "committed");
    assert_eq!(plane.current(&canary).await, Some(new));
}

#[tokio::test]
async fn the_detail_shows_what_stands_behind_it() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let first = plane.serve_fresh(&project, &project.staging).await;
    let second = plane.serve_fresh(&project, &project.staging).await;
    let third = plane.deployment(&project).await;
    let waiting = plane.promote(&third, &project.staging, json!({ "wait_ms": 0 })).await;
    assert_eq!(waiting.status, 202);

    let shown = plane.get(&format!("environments/{}", project.staging)).await.ok().body;
    assert_eq!(shown["rollback_target"], json!(first));
    assert_eq!(shown["pending_move"]["deployment_id"], json!(third));
    assert_eq!(shown["pools"][0]["deployment_id"], json!(second), "the current one comes first");
    assert_eq!((&shown["pools"][0]["state"], &shown["pools"][0]["ready"]), (&json!("running"), &json!(1)));
    assert_eq!(shown["pools"].as_array().unwrap().len(), 3);
    assert!(shown["current_ref"].as_str().unwrap().len() == 8);
}
