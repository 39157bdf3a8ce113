//! Moves that wait for their target.

use std::time::Instant;

use serde_json::{Value, json};

use crate::plane::{LONG, Plane, endpoints, merged, until};

async fn ended(plane: &Plane, number: &Value) -> Value {
    let path = format!("moves/{number}?wait_ms=30000");
    let shown = plane.get(&path).await.ok().body["move"].clone();
    assert_ne!(shown["state"], "waiting", "{shown}");
    shown
}

#[tokio::test]
async fn a_deploy_moves_the_pointer_when_it_is_ready() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let body =
        merged(endpoints(&project), json!({ "environment_id": project.preview, "message": "first", "wait_ms": 0 }));
    let made = plane.post("deployments", body).await.ok();
    assert_eq!((made.status, &made.body["move"]["state"]), (201, &json!("waiting")));
    assert_eq!(plane.current(&project.preview).await, None, "nothing is served before it is ready");
    plane.ready(&project.preview, &made.id()).await;
    assert_eq!(ended(&plane, &made.body["move"]["id"]).await["state"], "committed");
    let history = plane.history(&project.preview).await;
    assert_eq!((&history[0]["kind"], &history[0]["to_deployment_id"]), (&json!("deploy"), &json!(made.id())));
}

#[tokio::test]
async fn a_deploy_that_is_waited_for_answers_with_its_row() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let body = merged(endpoints(&project), json!({ "environment_id": project.preview, "wait_ms": 30000 }));
    let (made, ()) = tokio::join!(plane.post("deployments", body), async {
        let pool =
            until("the pool", || async { plane.store.read().await.unwrap().pools().await.unwrap().into_iter().next() })
                .await;
        plane.ready(&project.preview, &pool.key.deployment.to_string()).await;
    });
    let made = made.ok();
    assert_eq!((&made.body["promotion"]["kind"], &made.body["move"]["state"]), (&json!("deploy"), &json!("committed")));
    assert_eq!(made.body["promotion"]["to_deployment_id"], json!(made.id()));
}

#[tokio::test]
async fn a_target_that_never_gets_ready_moves_nothing() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let current = plane.serve_fresh(&project, &project.staging).await;
    let bad = plane.bundle_deployment(&project, "1s").await;
    let ask = json!({ "wait_ms": 30000, "scale_previous_to_zero": true });
    let (refused, ()) = tokio::join!(plane.promote(&bad, &project.staging, ask), async {
        until("the pool", || plane.pool(&project.staging, &bad)).await;
        plane.failing(&project.staging, &bad, "the worker exited with status 1 three times").await;
    });
    let refused = refused.refused(409, "target_not_ready");
    assert!(refused.message().contains("exited with status 1"), "{refused:?}");
    assert!(refused.message().contains("repoint deployment errors"), "{refused:?}");
    assert_eq!(refused.body["error"]["details"]["errors"][0]["kind"], "CrashLoop");
    assert_eq!(plane.current(&project.staging).await, Some(current.clone()));
    assert_eq!(plane.history(&project.staging).await.len(), 1);
    assert!(plane.pool(&project.staging, &current).await.unwrap().is_ready(), "the old one keeps serving");
    let number = &refused.body["error"]["details"]["move_id"];
    assert_eq!(ended(&plane, number).await["state"], "target_not_ready");
}

#[tokio::test]
async fn a_deploy_that_fails_while_it_is_waited_for_still_tells_its_id() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    plane.bundle_deployment(&project, "1s").await;
    let digest = format!("sha256:{}", "02".repeat(32));
    let body = json!({ "project_id": project.id, "environment_id": project.preview, "wait_ms": 30000,
                       "source": { "kind": "bundle", "digest": digest } });
    let made = plane.post("deployments", body).await.ok();
    assert_eq!((made.status, &made.body["move"]["state"]), (201, &json!("target_not_ready")));
    assert!(made.body["move"]["detail"].as_str().unwrap().contains("no replica became ready"), "{made:?}");
    assert!(made.body["promotion"].is_null());
}

#[tokio::test]
async fn a_slow_deploy_that_becomes_ready_late_does_not_overwrite() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let (slow, quick) = (plane.deployment(&project).await, plane.deployment(&project).await);
    let waiting = plane.promote(&slow, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    plane.serve(&quick, &project.staging).await;
    assert_eq!(ended(&plane, &waiting["move"]["id"]).await["state"], "superseded");

    plane.ready(&project.staging, &slow).await;
    // A move that is asked for later and done shows that the mover has looked since.
    let witness = plane.promote(&slow, &project.preview, json!({ "wait_ms": 0 })).await.ok().body;
    plane.ready(&project.preview, &slow).await;
    assert_eq!(ended(&plane, &witness["move"]["id"]).await["state"], "committed");
    assert_eq!(plane.current(&project.staging).await, Some(quick));
    assert_eq!(plane.history(&project.staging).await.len(), 1);
}

#[tokio::test]
async fn the_later_of_two_waiting_moves_wins_whichever_is_ready_first() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let (first, second) = (plane.deployment(&project).await, plane.deployment(&project).await);
    let ask = json!({ "wait_ms": 30000 });
    let (earlier, later) = tokio::join!(plane.promote(&first, &project.staging, ask.clone()), async {
        until("the first to wait", || plane.pool(&project.staging, &first)).await;
        let later = plane.promote(&second, &project.staging, json!({ "wait_ms": 0 })).await.ok();
        plane.ready(&project.staging, &first).await;
        plane.ready(&project.staging, &second).await;
        later
    });
    let superseded = earlier.refused(409, "superseded");
    assert!(superseded.message().contains("staging"), "{superseded:?}");
    assert!(superseded.body["error"]["details"]["move_id"].as_u64() < later.body["move"]["id"].as_u64());
    assert_eq!(ended(&plane, &later.body["move"]["id"]).await["state"], "committed");
    assert_eq!(plane.current(&project.staging).await, Some(second));
}

#[tokio::test]
async fn a_rollback_does_not_wait_behind_a_promote() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let good = plane.serve_fresh(&project, &project.staging).await;
    plane.serve_fresh(&project, &project.staging).await;
    let never = plane.deployment(&project).await;
    let waiting = plane.promote(&never, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    let started = Instant::now();
    let back = plane.rollback(&project.staging, json!({})).await.ok();
    assert_eq!((back.status, &back.body["changed"]), (200, &json!(true)));
    assert!(started.elapsed() < LONG);
    assert_eq!(ended(&plane, &waiting["move"]["id"]).await["state"], "superseded");
    assert_eq!(plane.current(&project.staging).await, Some(good));
}

#[tokio::test]
async fn asking_for_what_is_current_takes_back_what_waits() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let current = plane.serve_fresh(&project, &project.staging).await;
    let other = plane.deployment(&project).await;
    let waiting = plane.promote(&other, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    let stays = plane.promote(&current, &project.staging, json!({})).await.ok().body;
    assert_eq!(stays["changed"], false);
    assert_eq!(ended(&plane, &waiting["move"]["id"]).await["state"], "superseded");
}

#[tokio::test]
async fn a_lock_or_a_termination_meanwhile_refuses_a_waiting_move() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    let waiting = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    plane
        .put(&format!("environments/{}", project.staging), json!({ "locked": true, "locked_reason": "fire" }))
        .await
        .ok();
    plane.ready(&project.staging, &deployment).await;
    let refused = ended(&plane, &waiting["move"]["id"]).await;
    assert_eq!(refused["state"], "refused");
    assert!(refused["detail"].as_str().unwrap().contains("fire"), "{refused}");

    let waiting = plane.promote(&deployment, &project.preview, json!({ "wait_ms": 0 })).await.ok().body;
    plane.post(&format!("deployments/{deployment}/terminate"), json!({})).await.ok();
    let refused = ended(&plane, &waiting["move"]["id"]).await;
    assert_eq!(refused["state"], "refused");
    assert!(refused["detail"].as_str().unwrap().contains("terminated"), "{refused}");
    assert_eq!((plane.current(&project.staging).await, plane.current(&project.preview).await), (None, None));
}

#[tokio::test]
async fn what_a_waiting_move_asked_for_holds_when_it_is_committed() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    let new = plane.deployment(&project).await;
    let ask = json!({ "wait_ms": 0, "scale_previous_to_zero": true, "min_replicas": 3, "reason": "why not" });
    let waiting = plane.promote(&new, &project.staging, ask).await.ok().body;
    assert_eq!(plane.pool(&project.staging, &new).await.unwrap().bounds.min, 3);
    assert!(plane.pool(&project.staging, &old).await.unwrap().is_ready(), "nothing closes before the move");
    plane.ready(&project.staging, &new).await;
    ended(&plane, &waiting["move"]["id"]).await;
    let row = &plane.history(&project.staging).await[0];
    assert_eq!((&row["reason"], &row["to_deployment_id"]), (&json!("why not"), &json!(new)));
    let closed = plane.pool(&project.staging, &old).await.unwrap();
    assert_eq!(json!(closed.closing_revision), row["revision"]);
}

#[tokio::test]
async fn a_restart_of_the_control_plane_forgets_no_waiting_move() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    let waiting = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    let plane = plane.restart().await;
    assert_eq!(plane.get(&format!("moves/{}", waiting["move"]["id"])).await.ok().body, waiting);
    plane.ready(&project.staging, &deployment).await;
    assert_eq!(ended(&plane, &waiting["move"]["id"]).await["state"], "committed");
    assert_eq!(plane.current(&project.staging).await, Some(deployment));
}

#[tokio::test]
async fn a_move_says_when_it_ended_however_it_ended() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let ask = || json!({ "wait_ms": 0 });
    let (first, second) = (plane.deployment(&project).await, plane.deployment(&project).await);
    let mut moves = Vec::new();
    // Superseded, then committed.
    for deployment in [&first, &second] {
        moves.push(plane.promote(deployment, &project.staging, ask()).await.ok().body["move"].clone());
    }
    plane.ready(&project.staging, &second).await;
    // Refused.
    moves.push(plane.promote(&first, &project.preview, ask()).await.ok().body["move"].clone());
    plane.post(&format!("deployments/{first}/terminate"), json!({ "environment_id": project.preview })).await.ok();
    // Never ready.
    let never = plane.bundle_deployment(&project, "1s").await;
    moves.push(plane.promote(&never, &project.production, ask()).await.ok().body["move"].clone());
    for (asked, state) in moves.iter().zip(["superseded", "committed", "refused", "target_not_ready"]) {
        assert_eq!(asked["ended_at"], Value::Null, "it waits: {asked}");
        let ended = ended(&plane, &asked["id"]).await;
        assert_eq!(ended["state"], state);
        let time = |field: &str| ended[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!(time("requested_at") <= time("ended_at") && time("ended_at") <= jiff::Timestamp::now(), "{ended}");
        if state == "target_not_ready" {
            assert!(time("ended_at") >= time("deadline"), "it was waited for: {ended}");
        }
    }
}

#[tokio::test]
async fn the_time_a_move_ended_survives_a_restart() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let (first, second) = (plane.deployment(&project).await, plane.deployment(&project).await);
    let waiting = plane.promote(&first, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    plane.promote(&second, &project.staging, json!({ "wait_ms": 0 })).await.ok();
    let before = ended(&plane, &waiting["move"]["id"]).await;
    assert!(before["ended_at"].is_string(), "{before}");
    let plane = plane.restart().await;
    assert_eq!(ended(&plane, &waiting["move"]["id"]).await, before);
}

#[tokio::test]
async fn a_target_that_got_ready_while_the_control_plane_was_down_is_served() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    let waiting = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    // The drain stops the mover; what is written after it is found at the next start.
    let plane = {
        let stopped = plane.restart().await;
        stopped.ready(&project.staging, &deployment).await;
        stopped.restart().await
    };
    assert_eq!(ended(&plane, &waiting["move"]["id"]).await["state"], "committed");
}

#[tokio::test]
async fn a_move_that_nobody_asked_for_is_not_found() {
    let plane = Plane::start().await;
    plane.get("moves/7").await.refused(404, "move_not_found");
    plane.get("moves/seven").await.refused(404, "move_not_found");
}

#[tokio::test]
async fn the_mover_reads_on_one_connection_at_a_time() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok();
    // All connections that read but one. Once the mover held one through its whole
    // round and asked for a second: a few of those at once waited for each other.
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(plane.store.read().await.unwrap());
    }
    plane.ready(&project.staging, &deployment).await;
    until("the move", || async {
        // On the connection that writes, so as to take none of the others.
        let mut tx = plane.store.write().await.unwrap();
        tx.environment(project.staging.parse().unwrap()).await.unwrap().unwrap().pointer
    })
    .await;
}
