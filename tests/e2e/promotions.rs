//! Deploying, promoting and rolling back, as a developer does it.

use serde_json::json;

use super::support::http;
use super::support::replica::Replica;
use super::{Story, text};

#[test]
fn a_deployment_walks_from_preview_to_production() {
    let story = Story::begin();
    let replica = Replica::start("v1");
    assert_eq!(story.get("preview").status, 503, "nothing is there yet");

    let deployment = story.deploy(&replica);
    assert_eq!(story.served("preview"), "v1");
    assert_eq!(story.get("staging").status, 503);

    for environment in ["staging", "production"] {
        story.promote(&deployment, environment);
        let response = story.get(environment);
        assert_eq!((response.body.as_str(), response.deployment()), ("v1", deployment.as_str()));
        assert_eq!(response.header("x-environment"), Some(environment));
    }
}

#[test]
fn two_rollbacks_walk_back_two_steps() {
    let story = Story::begin();
    let replicas = ["v1", "v2", "v3"].map(Replica::start);
    for replica in &replicas {
        story.deploy_to(replica, "production");
    }
    assert_eq!(story.served("production"), "v3");
    story.rollback("production");
    assert_eq!(story.served("production"), "v2");
    story.rollback("production");
    assert_eq!(story.served("production"), "v1");

    let refused = story.api.rollback(story.environment("production")).refused();
    assert_eq!(refused, (409, "no_rollback_target".into()));
    assert_eq!(story.served("production"), "v1", "a refusal changes nothing");
    let kinds: Vec<_> =
        story.api.history(story.environment("production")).iter().map(|row| text(&row["kind"])).collect();
    assert_eq!(kinds, ["rollback", "rollback", "deploy", "deploy", "deploy"]);
}

#[test]
fn promoting_what_is_current_moves_nothing() {
    let story = Story::begin();
    let replica = Replica::start("v1");
    let deployment = story.deploy(&replica);
    let head = || story.api.get("/api/v1/proxies").ok()["head_revision"].clone();
    let before = head();
    let body = story.api.promote(&deployment, story.environment("preview")).ok();
    assert_eq!((&body["changed"], &body["propagation"]["complete"]), (&json!(false), &json!(true)));
    assert_eq!(head(), before, "no new revision");
    assert_eq!(story.api.history(story.environment("preview")).len(), 1);
}

#[test]
fn a_slow_deploy_does_not_overwrite_a_newer_one() {
    let story = Story::begin();
    let (slow, quick) = (Replica::not_ready("slow"), Replica::start("quick"));
    let body = json!({
        "project_id": story.project.id,
        "environment_id": story.environment("preview"),
        "source": { "kind": "endpoints", "endpoints": [format!("http://{}", slow.address())], "health_path": "/healthz" },
        "wait_ms": 0,
    });
    let pending = story.api.post("/api/v1/deployments", &body);
    assert_eq!((pending.status, &pending.body["move"]["state"]), (201, &json!("waiting")), "{}", pending.body);
    let number = pending.body["move"]["id"].clone();

    let newer = story.deploy(&quick);
    let path = format!("/api/v1/moves/{number}");
    assert_eq!(story.api.get(&path).ok()["move"]["state"], "superseded");

    slow.make_ready();
    let pools = format!("/api/v1/environments/{}", story.environment("preview"));
    super::support::until("the slow deployment to be ready", || {
        let body = story.api.get(&pools).ok();
        let pools = body["pools"].as_array()?.clone();
        pools.iter().all(|pool| pool["ready"] == 1).then_some(())
    });
    assert_eq!(story.api.current(story.environment("preview")), Some(newer));
    assert_eq!(story.served("preview"), "quick");
}

#[test]
fn a_promotion_to_a_worker_that_never_gets_ready_changes_nothing() {
    let story = Story::begin();
    let (good, never) = (Replica::start("good"), Replica::not_ready("never"));
    let current = story.deploy(&good);
    let target = story.api.deploy_endpoints(&story.project, &[never.address()], None).ok();
    let body = json!({
        "source_deployment_id": target["id"],
        "target_environment_id": story.environment("preview"),
        "wait_ms": 500,
    });
    let pending = story.api.post("/api/v1/deployments/promote", &body);
    assert_eq!(pending.status, 202, "{}", pending.body);
    assert_eq!(story.served("preview"), "good");
    assert_eq!(story.api.current(story.environment("preview")), Some(current));
    assert_eq!(story.api.history(story.environment("preview")).len(), 1);
}

#[test]
fn every_door_reaches_the_deployment_it_names() {
    let story = Story::begin();
    let (old, new) = (Replica::start("old"), Replica::start("new"));
    let (first, second) = (story.deploy(&old), story.deploy(&new));
    let by_id = story.api.get(&format!("/api/v1/deployments/{first}")).ok();
    let host = format!("support--{}.localhost", text(&by_id["ref"]));
    let ingress = story.server.ingress();
    assert_eq!(http::get(ingress, &host, "/").body, "old");

    let mut client = http::Client::connect(ingress);
    let preview = story.host("preview");
    let pin = |client: &mut http::Client, id: &str| {
        client.request("GET", &preview, "/", &[("X-Deployment-ID", id)], b"").expect("an answer")
    };
    assert_eq!((pin(&mut client, &first).body, pin(&mut client, &second).body), ("old".into(), "new".into()));
    assert_eq!(pin(&mut client, "01980000-0000-7000-8000-000000000000").status, 404);

    let shared = [("X-Project", "support"), ("X-Environment", "preview")];
    let response = client.request("GET", "localhost", "/", &shared, b"").expect("an answer");
    assert_eq!((response.body.as_str(), response.deployment()), ("new", second.as_str()));
    assert_eq!(http::get(ingress, "nobody.localhost", "/").status, 404);
}
