//! What nothing needs any more is put to sleep; what is needed is not.

use repoint::model::pool::{PoolState, Rest};
use serde_json::json;

use crate::plane::{Plane, Project, until};

async fn keep_warm(plane: &Plane, environment: &str, milliseconds: u64) {
    let policy = json!({ "policy": { "keep_previous_warm_ms": milliseconds } });
    let shown = plane.put(&format!("environments/{environment}"), policy).await.ok();
    assert_eq!(shown.body["policy"]["keep_previous_warm_ms"], milliseconds);
}

/// Points staging at a fresh bundle deployment, ready at once.
async fn serve_bundle(plane: &Plane, project: &Project) -> String {
    let deployment = plane.bundle_deployment(project, "60s").await;
    plane.serve(&deployment, &project.staging).await;
    deployment
}

async fn state(plane: &Plane, project: &Project, deployment: &str) -> PoolState {
    plane.pool(&project.staging, deployment).await.unwrap().state
}

async fn until_closing(plane: &Plane, project: &Project, deployment: &str) {
    until("it to be put to sleep", || async {
        let pool = plane.pool(&project.staging, deployment).await.unwrap();
        (pool.state == PoolState::Closing).then(|| assert_eq!(pool.closing_to, Some(Rest::Idle)))
    })
    .await;
}

async fn is_left(plane: &Plane, project: &Project, deployment: &str) -> bool {
    plane.pool(&project.staging, deployment).await.unwrap().left_at.is_some()
}

#[tokio::test]
async fn twenty_deploys_do_not_leave_twenty_processes() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    keep_warm(&plane, &project.staging, 0).await;
    let mut deployments = Vec::new();
    for _ in 0..5 {
        deployments.push(serve_bundle(&plane, &project).await);
    }
    for old in &deployments[..3] {
        until_closing(&plane, &project, old).await;
    }
    for needed in &deployments[3..] {
        assert_eq!(state(&plane, &project, needed).await, PoolState::Running, "pointer and rollback target");
    }
}

#[tokio::test]
async fn the_time_of_a_pool_that_is_left_survives_a_restart_and_a_return_ends_it() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let (a, b) = (serve_bundle(&plane, &project).await, serve_bundle(&plane, &project).await);
    assert!(!is_left(&plane, &project, &a).await, "a rollback would come to it");
    let c = serve_bundle(&plane, &project).await;
    let left_at = plane.pool(&project.staging, &a).await.unwrap().left_at;
    assert!(left_at.is_some());
    let plane = plane.restart().await;
    assert_eq!(plane.pool(&project.staging, &a).await.unwrap().left_at, left_at);
    assert_eq!(state(&plane, &project, &a).await, PoolState::Running, "ten minutes are not over");

    // Back to b: a rollback would come to a again, and nothing needs c.
    plane.rollback(&project.staging, json!({})).await.ok();
    assert_eq!(plane.current(&project.staging).await, Some(b.clone()));
    for (deployment, left) in [(&a, false), (&b, false), (&c, true)] {
        assert_eq!(is_left(&plane, &project, deployment).await, left);
    }
    keep_warm(&plane, &project.staging, 0).await;
    until_closing(&plane, &project, &c).await;
    assert_eq!(state(&plane, &project, &a).await, PoolState::Running);
}

#[tokio::test]
async fn a_target_that_is_waited_for_is_needed_until_the_move_ends() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    keep_warm(&plane, &project.staging, 0).await;
    serve_bundle(&plane, &project).await;
    let late = plane.bundle_deployment(&project, "60s").await;
    plane.promote(&late, &project.staging, json!({ "wait_ms": 0 })).await.ok();
    assert!(!is_left(&plane, &project, &late).await);
    // Superseded: nobody waits for it any more.
    plane.rollback(&project.staging, json!({})).await.refused(409, "no_rollback_target");
    assert!(!is_left(&plane, &project, &late).await, "a refusal changes nothing");
    serve_bundle(&plane, &project).await;
    until_closing(&plane, &project, &late).await;
}

#[tokio::test]
async fn workers_that_somebody_else_runs_are_left_alone() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    keep_warm(&plane, &project.staging, 0).await;
    let first = plane.serve_fresh(&project, &project.staging).await;
    let bundle = serve_bundle(&plane, &project).await;
    for _ in 0..2 {
        plane.serve_fresh(&project, &project.staging).await;
    }
    until_closing(&plane, &project, &bundle).await;
    assert_eq!(state(&plane, &project, &first).await, PoolState::Running);
}

#[tokio::test]
async fn a_move_to_what_sleeps_starts_it_and_needs_no_start() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let old = serve_bundle(&plane, &project).await;
    let new = plane.bundle_deployment(&project, "60s").await;
    plane.ready(&project.staging, &new).await;
    let moved = plane.promote(&new, &project.staging, json!({ "scale_previous_to_zero": true })).await.ok();
    assert_eq!(moved.body["previous"]["state"], "closing");
    assert_eq!(plane.pool(&project.staging, &old).await.unwrap().closing_to, Some(Rest::Idle));
    // As the supervisor does when it is drained.
    plane
        .change_pool(&project.staging, &old, |pool| {
            pool.state = PoolState::Idle;
            pool.endpoints.clear();
            (pool.closing_revision, pool.closing_since, pool.closing_to) = (None, None, None);
        })
        .await;
    let waits = plane.promote(&old, &project.staging, json!({ "wait_ms": 0 })).await.ok();
    assert_eq!((waits.status, &waits.body["move"]["state"]), (202, &json!("waiting")));
    assert_eq!(state(&plane, &project, &old).await, PoolState::Starting);
    plane.ready(&project.staging, &old).await;
    until("the move", || async { (plane.current(&project.staging).await.as_ref() == Some(&old)).then_some(()) }).await;
}

#[tokio::test]
async fn terminating_outdoes_sleep() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let (old, new) = (serve_bundle(&plane, &project).await, plane.bundle_deployment(&project, "60s").await);
    plane.ready(&project.staging, &new).await;
    plane.promote(&new, &project.staging, json!({ "scale_previous_to_zero": true })).await.ok();
    let status = plane.get(&format!("deployments/{old}/status")).await.ok();
    assert!(status.body["pools"][0]["closing"]["since"].is_string(), "{status:?}");
    plane.post(&format!("deployments/{old}/terminate"), json!({})).await.ok();
    assert_eq!(plane.pool(&project.staging, &old).await.unwrap().closing_to, Some(Rest::Stopped));
    plane.promote(&old, &project.staging, json!({})).await.refused(409, "deployment_terminated");
}

#[tokio::test]
async fn a_deadline_that_passed_while_the_control_plane_was_down_ends_the_move() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.bundle_deployment(&project, "1s").await;
    let waiting = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    let number = waiting["move"]["id"].clone();
    let deadline: jiff::Timestamp = waiting["move"]["deadline"].as_str().unwrap().parse().unwrap();
    let plane = plane.restart_when(|| jiff::Timestamp::now() > deadline).await;
    let ended = until("the move to end", || async {
        let shown = plane.get(&format!("moves/{number}")).await.ok().body["move"].clone();
        (shown["state"] != "waiting").then_some(shown)
    })
    .await;
    assert_eq!((&ended["state"], &ended["promotion_id"]), (&json!("target_not_ready"), &json!(null)), "{ended}");
    assert!(ended["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    assert_eq!(plane.current(&project.staging).await, None);
}

#[tokio::test]
async fn what_serves_is_never_put_to_sleep_whatever_its_row_says() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    keep_warm(&plane, &project.staging, 0).await;
    let current = serve_bundle(&plane, &project).await;
    // As after an import, which keeps no notes of what is left.
    plane.change_pool(&project.staging, &current, |pool| pool.left_at = Some(jiff::Timestamp::UNIX_EPOCH)).await;
    until("the note to be put right", || async { (!is_left(&plane, &project, &current).await).then_some(()) }).await;
    assert_eq!(state(&plane, &project, &current).await, PoolState::Running);
}
