//! Errors: each one with its status, its code and what to do.

use repoint::model::change::PoolRecordState;

use crate::support::*;

async fn refused(stage: &Stage, request: &str) -> (u16, String, Option<String>) {
    let answer = stage.send(request).await.message().await;
    assert_eq!(answer.header("x-deployment-id"), None, "only a replica's answer names a deployment");
    (answer.status(), answer.code(), answer.header("retry-after").map(str::to_owned))
}

#[tokio::test]
async fn invariant_7_before_the_first_table_nothing_is_called_unknown() {
    let stage = Stage::open();
    let (status, code, retry_after) = refused(&stage, &get("/", &[])).await;
    assert_eq!((status, code.as_str(), retry_after.as_deref()), (503, "table_not_loaded", Some("1")));
}

#[tokio::test]
async fn what_leads_nowhere_says_why() {
    let mut stage = Stage::open();
    stage.environment("empty", None).environment("production", Some(1)).pool_at("production", 1, &[]);
    stage.change_pool(|pool| pool.state = PoolRecordState::Closing);
    stage.environment("unready", Some(1)).pool_at("unready", 1, &[]).publish();
    let at = |host: &str, lines: &[&str]| head("GET", "/", host, lines);
    let pin = ["X-Deployment-ID: zzzzzzzz"];
    let cases = [
        (at("nowhere.localhost", &[]), 404, "environment_not_found", None),
        (at("support-empty.localhost", &[]), 503, "environment_empty", Some("5")),
        (at("support-unready.localhost", &pin), 404, "deployment_not_found", None),
        (at("support--zzzzzzzz.localhost", &[]), 404, "deployment_not_running", None),
        (at("support-production.localhost", &[]), 503, "deployment_terminated", Some("5")),
        (at("support-unready.localhost", &[]), 503, "no_ready_endpoint", Some("1")),
    ];
    for (request, status, code, retry_after) in cases {
        let expected = (status, code.to_owned(), retry_after.map(str::to_owned));
        assert_eq!(refused(&stage, &request).await, expected);
        until(|| stage.metric(&format!("repoint_ingress_errors_total{{code=\"{code}\"}}")) == 1.0).await;
    }
}

#[tokio::test]
async fn replicas_that_fail_are_told_apart() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("dead", Some(1)).pool_at("dead", 1, &[nobody().await]);
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let dead = head("GET", "/", "support-dead.localhost", &[]);
    assert_eq!(refused(&stage, &dead).await, (502, "connect_failed".to_owned(), Some("1".to_owned())));

    for (said, code) in [("", "upstream_reset"), ("nonsense\r\n\r\n", "upstream_invalid")] {
        let mut client = stage.send(&post("/", &["Content-Length: 0"])).await;
        let mut upstream = replica.accept().await;
        upstream.message().await;
        upstream.say(said).await;
        drop(upstream);
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.code().as_str()), (502, code));
    }
}

#[tokio::test]
async fn an_error_names_the_request_it_is_about() {
    let stage = Stage::serving(&[]);
    let mut client = stage.send(&get("/", &["X-Request-ID: mine-1"])).await;
    assert!(client.message().await.body.contains("\"request_id\":\"mine-1\""));
}

#[tokio::test]
async fn an_error_does_not_end_the_connection() {
    let stage = Stage::serving(&[]);
    let mut client = stage.send(&get("/", &[])).await;
    assert_eq!(client.message().await.status(), 503);
    client.say(&(post("/", &["Content-Length: 5"]) + "hello")).await;
    assert_eq!(client.message().await.status(), 503);
    client.say(&get("/", &[])).await;
    assert_eq!(client.message().await.status(), 503);
}

#[tokio::test]
async fn an_error_does_not_wait_for_a_body_that_is_not_here() {
    let stage = Stage::serving(&[]);
    let mut client = stage.send(&post("/", &["Content-Length: 1000000"])).await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.header("connection")), (503, Some("close")));
    client.ends().await;
}
