//! Rollback: history as a stack (product.md, decided cases).

use serde_json::json;

use crate::plane::{Plane, Project};

async fn serving(plane: &Plane, count: usize) -> (Project, Vec<String>) {
    let project = plane.project("support").await;
    let mut served = Vec::new();
    for _ in 0..count {
        served.push(plane.serve_fresh(&project, &project.production).await);
    }
    (project, served)
}

#[tokio::test]
async fn two_rollbacks_walk_back_two_steps_and_then_there_is_nothing() {
    let plane = Plane::start().await;
    let (project, served) = serving(&plane, 3).await;
    for expected in [&served[1], &served[0]] {
        let target =
            plane.get(&format!("environments/{}", project.production)).await.ok().body["rollback_target"].clone();
        assert_eq!(target, json!(expected), "the environment shows the target in advance");
        let back = plane.rollback(&project.production, json!({ "reason": "bad" })).await.ok().body;
        assert_eq!(
            (&back["promotion"]["kind"], &back["promotion"]["to_deployment_id"]),
            (&json!("rollback"), &json!(expected))
        );
    }
    let before = plane.everything().await;
    plane.rollback(&project.production, json!({})).await.refused(409, "no_rollback_target");
    assert_eq!(plane.everything().await, before);
    assert_eq!(plane.history(&project.production).await.len(), 5, "a rollback writes its row too");
}

#[tokio::test]
async fn a_bad_deployment_is_never_gone_back_to() {
    let plane = Plane::start().await;
    let (project, served) = serving(&plane, 2).await;
    plane.rollback(&project.production, json!({})).await.ok();
    plane.serve_fresh(&project, &project.production).await;
    plane.rollback(&project.production, json!({})).await.ok();
    assert_eq!(plane.current(&project.production).await.as_ref(), Some(&served[0]));
}

#[tokio::test]
async fn an_asked_target_is_on_the_stack_or_refused() {
    let plane = Plane::start().await;
    let (project, served) = serving(&plane, 3).await;
    let never = plane.deployment(&project).await;
    let before = plane.everything().await;
    let to = |deployment: &String| json!({ "target_deployment_id": deployment });
    let refused = plane.rollback(&project.production, to(&never)).await.refused(409, "not_in_history");
    assert!(refused.message().contains("promote"), "{refused:?}");
    assert_eq!(plane.everything().await, before);

    let stays = plane.rollback(&project.production, to(&served[2])).await.ok().body;
    assert_eq!(stays["changed"], false);
    plane.rollback(&project.production, to(&served[0])).await.ok();
    assert_eq!(plane.current(&project.production).await.as_ref(), Some(&served[0]));
    plane.rollback(&project.production, to(&served[1])).await.refused(409, "not_in_history");
}

#[tokio::test]
async fn a_rollback_target_that_was_stopped_is_started_first() {
    let plane = Plane::start().await;
    let (project, served) = serving(&plane, 2).await;
    plane.post(&format!("deployments/{}/terminate", served[0]), json!({})).await.ok();
    plane.stopped(&project.production, &served[0]).await;
    let waiting = plane.rollback(&project.production, json!({ "wait_ms": 0 })).await.ok();
    assert_eq!((waiting.status, &waiting.body["move"]["kind"]), (202, &json!("rollback")));
    assert_eq!(plane.current(&project.production).await.as_ref(), Some(&served[1]), "the bad one serves until then");

    plane.ready(&project.production, &served[0]).await;
    let number = waiting.body["move"]["id"].as_u64().unwrap();
    let ended = plane.get(&format!("moves/{number}?wait_ms=30000")).await.ok().body;
    assert_eq!(ended["move"]["state"], "committed");
    let history = plane.history(&project.production).await;
    assert_eq!((&history[0]["id"], &history[0]["kind"]), (&ended["move"]["promotion_id"], &json!("rollback")));
    plane.rollback(&project.production, json!({})).await.refused(409, "no_rollback_target");
}

#[tokio::test]
async fn an_immediate_rollback_is_not_promised_yet() {
    let plane = Plane::start().await;
    let (project, _) = serving(&plane, 2).await;
    let before = plane.everything().await;
    plane.rollback(&project.production, json!({ "immediate": true })).await.refused(400, "not_yet_supported");
    assert_eq!(plane.everything().await, before);
    plane.rollback(&project.production, json!({ "immediate": false })).await.ok();
}

#[tokio::test]
async fn a_rollback_to_what_is_current_opens_its_pool_again_without_a_row() {
    let plane = Plane::start().await;
    let (project, served) = serving(&plane, 2).await;
    let (current, terminate) = (&served[1], format!("deployments/{}/terminate", served[1]));
    let ask = json!({ "target_deployment_id": current, "wait_ms": 0 });

    plane.post(&terminate, json!({ "force": true })).await.ok();
    let back = plane.rollback(&project.production, ask.clone()).await.ok();
    assert_eq!((back.status, &back.body["changed"]), (200, &json!(false)));
    let opened = plane.pool(&project.production, current).await.unwrap();
    assert!(opened.is_ready() && opened.closing_revision.is_none(), "its replicas still run: {opened:?}");

    plane.post(&terminate, json!({ "force": true })).await.ok();
    plane.stopped(&project.production, current).await;
    let waiting = plane.rollback(&project.production, ask).await.ok();
    assert_eq!((waiting.status, &waiting.body["move"]["kind"]), (202, &json!("rollback")));
    plane.ready(&project.production, current).await;
    let number = waiting.body["move"]["id"].as_u64().unwrap();
    let ended = plane.get(&format!("moves/{number}?wait_ms=30000")).await.ok().body;
    assert_eq!(ended["move"]["state"], "committed");
    assert_eq!(plane.history(&project.production).await.len(), 2, "the pointer named it all along");
}
