//! Deployments and their pools.

use serde_json::json;

use crate::plane::{Plane, endpoints, merged};

#[tokio::test]
async fn a_deployment_alone_is_only_a_row() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let body = merged(endpoints(&project), json!({ "message": "first", "git_commit": "abc123" }));
    let made = plane.post("deployments", body).await.ok();
    assert_eq!(made.status, 201);
    let reference = made.body["ref"].as_str().unwrap();
    assert_eq!(made.body["url"], json!(format!("http://support--{reference}.localhost:8080")));
    assert_eq!((&made.body["message"], &made.body["created_by"]), (&json!("first"), &json!("admin")));
    assert!(made.body.get("move").is_none() && made.body.get("promotion").is_none());
    assert_eq!(plane.get(&format!("deployments/{}", made.id())).await.ok().body, made.body);
    let by_ref = plane.get(&format!("deployments?project_id={}&ref={reference}", project.id)).await.ok().body;
    assert_eq!(by_ref["items"], json!([made.body]));
    assert_eq!(plane.get(&format!("deployments/{}/status", made.id())).await.ok().body["pools"], json!([]));
}

#[tokio::test]
async fn deployments_are_listed_newest_first() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let (old, new) = (plane.deployment(&project).await, plane.deployment(&project).await);
    let path = format!("deployments?project_id={}&limit=1", project.id);
    let first = plane.get(&path).await.ok().body;
    assert_eq!(first["items"][0]["id"], json!(new));
    let second = plane.get(&format!("{path}&cursor={}", first["next_cursor"].as_str().unwrap())).await.ok().body;
    assert_eq!(second["items"][0]["id"], json!(old));
    let refused = plane.get("deployments").await.refused(400, "invalid_request");
    assert!(refused.message().contains("project_id"), "{refused:?}");
}

#[tokio::test]
async fn a_source_that_cannot_work_leaves_no_deployment() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let before = plane.everything().await;
    let with = |source| json!({ "project_id": project.id, "source": source });
    let url = "http://127.0.0.1:9";
    let cases = [
        (json!({ "kind": "bundle", "digest": format!("sha256:{}", "0".repeat(64)) }), 404, "bundle_not_found"),
        (json!({ "kind": "image", "reference": "r" }), 400, "not_yet_supported"),
        (json!({ "kind": "endpoints", "endpoints": [url], "protocol": "h3" }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": [] }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": vec![url; 65] }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": [url], "health_path": "healthz" }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": [url], "helth_path": "/" }), 400, "invalid_request"),
        (json!({ "kind": "magic" }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": ["wss://127.0.0.1:9"] }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": ["https://169.254.169.254"] }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": [url, "127.0.0.1:9"] }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": ["http://169.254.169.254"] }), 400, "invalid_request"),
        (json!({ "kind": "endpoints", "endpoints": [format!("http://{}", plane.address)] }), 400, "invalid_request"),
    ];
    for (source, status, code) in cases {
        plane.post("deployments", with(source)).await.refused(status, code);
    }
    let bounds = merged(endpoints(&project), json!({ "min_replicas": 2 }));
    let refused = plane.post("deployments", bounds).await.refused(400, "invalid_request");
    assert!(refused.message().contains("environment_id"), "{refused:?}");
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn a_pool_cannot_be_asked_to_sleep_yet() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    let managed = plane.bundle_deployment(&project, "10s").await;
    plane.ready(&project.staging, &managed).await;
    let before = plane.everything().await;
    let zero = json!({ "min_replicas": 0 });
    plane.promote(&deployment, &project.staging, zero.clone()).await.refused(400, "not_yet_supported");
    plane.promote(&managed, &project.staging, zero.clone()).await.refused(400, "not_yet_supported");
    plane.post(&format!("deployments/{managed}/scale-down"), zero.clone()).await.refused(400, "not_yet_supported");
    plane.put(&format!("environments/{}", project.staging), zero.clone()).await.refused(400, "not_yet_supported");
    let deploy = merged(endpoints(&project), json!({ "min_replicas": 0, "environment_id": project.preview }));
    plane.post("deployments", deploy).await.refused(400, "not_yet_supported");
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn replicas_of_endpoints_are_nobodys_to_start_or_scale() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    let before = plane.everything().await;
    for (action, body) in
        [("start", json!({})), ("scale-up", json!({ "min_replicas": 2 })), ("scale-down", json!({ "max_replicas": 1 }))]
    {
        let path = format!("deployments/{deployment}/{action}");
        plane.post(&path, body).await.refused(409, "not_managed");
    }
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn what_serves_is_terminated_only_by_force() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    plane.ready(&project.preview, &deployment).await;
    let path = format!("deployments/{deployment}/terminate");
    let before = plane.everything().await;
    let refused = plane.post(&path, json!({})).await.refused(409, "deployment_serving");
    assert_eq!(refused.body["error"]["details"]["environments"], json!([{ "id": project.staging, "name": "staging" }]));
    assert_eq!(plane.everything().await, before, "nor is it stopped where it could be");

    let narrowed = plane.post(&path, json!({ "environment_id": project.preview })).await.ok().body;
    assert_eq!(
        (&narrowed["pools"][0]["environment"], &narrowed["pools"][0]["state"]),
        (&json!("preview"), &json!("closing"))
    );
    assert_eq!(narrowed["pools"].as_array().unwrap().len(), 1);
    assert!(plane.pool(&project.staging, &deployment).await.unwrap().is_ready());

    let forced = plane.post(&path, json!({ "force": true })).await.ok().body;
    assert!(forced["pools"].as_array().unwrap().iter().all(|pool| pool["state"] == "closing"));
    assert_eq!(plane.current(&project.staging).await, Some(deployment), "the pointer stays");
    let elsewhere = plane.post(&path, json!({ "environment_id": project.production })).await;
    assert!(elsewhere.refused(404, "deployment_not_found").message().contains("production"));
}

#[tokio::test]
async fn start_brings_back_what_was_terminated() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.bundle_deployment(&project, "10s").await;
    let path = format!("deployments/{deployment}/start");
    let started = plane.post(&path, json!({})).await.ok().body;
    assert_eq!(
        (&started["pools"][0]["environment"], &started["pools"][0]["state"]),
        (&json!("preview"), &json!("starting"))
    );
    plane.post(&path, json!({ "environment_id": project.staging })).await.ok();
    plane.ready(&project.preview, &deployment).await;
    plane.stopped(&project.staging, &deployment).await;
    let started = plane.post(&path, json!({})).await.ok().body;
    let states: Vec<_> =
        started["pools"].as_array().unwrap().iter().map(|pool| pool["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["running", "starting"]);
    assert_eq!(plane.current(&project.preview).await, None, "starting points nothing anywhere");
}

#[tokio::test]
async fn scaling_goes_the_way_it_says_or_nowhere() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.bundle_deployment(&project, "10s").await;
    for environment in [&project.preview, &project.staging] {
        plane.ready(environment, &deployment).await;
    }
    let path = |way: &str| format!("deployments/{deployment}/scale-{way}");
    let up = plane.post(&path("up"), json!({ "min_replicas": 3, "environment_id": project.staging })).await.ok().body;
    assert_eq!((&up["pools"][0]["min_replicas"], &up["pools"][0]["max_replicas"]), (&json!(3), &json!(3)));
    let before = plane.everything().await;
    // Up in preview, which has 1..2, but down in staging, which has 3..3.
    plane.post(&path("up"), json!({ "min_replicas": 2 })).await.refused(400, "invalid_request");
    plane.post(&path("down"), json!({ "max_replicas": 9 })).await.refused(400, "invalid_request");
    plane.post(&path("down"), json!({ "min_replicas": 2, "max_replicas": 1 })).await.refused(400, "invalid_request");
    plane.post(&path("up"), json!({})).await.refused(400, "invalid_request");
    assert_eq!(plane.everything().await, before, "all pools or none");
    let down = plane.post(&path("down"), json!({ "max_replicas": 1 })).await.ok().body;
    assert!(down["pools"].as_array().unwrap().iter().all(|pool| pool["max_replicas"] == 1));
}

#[tokio::test]
async fn status_and_errors_tell_how_the_pools_are() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.bundle_deployment(&project, "10s").await;
    plane.serve(&deployment, &project.staging).await;
    plane.failing(&project.preview, &deployment, "exited with status 1").await;
    let status = plane.get(&format!("deployments/{deployment}/status")).await.ok().body;
    let staging = status["pools"].as_array().unwrap().iter().find(|pool| pool["environment"] == "staging").unwrap();
    assert_eq!(
        (&staging["current"], &staging["state"], &staging["ready"]),
        (&json!(true), &json!("running"), &json!(1))
    );
    assert_eq!(staging["endpoints"][0]["address"], "127.0.0.1:9");
    assert!(staging["endpoints"][0]["uptime_seconds"].is_u64());

    let errors = plane.get(&format!("deployments/{deployment}/errors")).await.ok().body;
    assert_eq!(
        (&errors["items"][0]["environment"], &errors["items"][0]["kind"]),
        (&json!("preview"), &json!("CrashLoop"))
    );
    assert_eq!(errors["items"][0]["output"], json!(["Traceback"]));
    let none = format!("deployments/{deployment}/errors?environment_id={}", project.staging);
    assert_eq!(plane.get(&none).await.ok().body["items"], json!([]));
}
