//! Retries: what no replica can have seen is sent again, the rest is not.

use crate::support::*;

/// One exchange that leaves a kept connection behind.
async fn warm_up(stage: &Stage, replica: &Replica) -> (Wire, Wire) {
    let mut client = stage.send(&get("/warm-up", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("warm")).await;
    assert_eq!(client.message().await.body, "warm");
    (client, upstream)
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_for_any_method() {
    let alive = Replica::listen().await.always("alive");
    let mut stage = Stage::open();
    stage
        .environment("production", Some(1))
        .pool_at("production", 1, &[nobody().await, alive, nobody().await])
        .publish();
    for _ in 0..40 {
        let mut client = stage.send(&(post("/", &["Content-Length: 4"]) + "body")).await;
        assert_eq!(client.message().await.body, "alive");
    }
    let failures = stage.metric("repoint_ingress_upstream_connect_failures_total");
    // Two failures on each of two cores leave both of the dead out for a while.
    assert!((1.0..=8.0).contains(&failures), "{failures}");
}

#[tokio::test]
async fn the_last_one_is_never_left_out() {
    let replica = Replica::listen().await;
    let address = replica.address;
    drop(replica);
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    let mut client = stage.connect().await;
    for _ in 0..5 {
        client.say(&get("/", &[])).await;
        assert_eq!(client.message().await.code(), "connect_failed");
    }
    let back = tokio::net::TcpListener::bind(address).await.unwrap();
    client.say(&get("/", &[])).await;
    let mut upstream = Wire::new(soon(back.accept()).await.unwrap().0);
    upstream.message().await;
    upstream.say(&ok("back")).await;
    assert_eq!(client.message().await.body, "back");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_not_used_again() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let (mut client, upstream) = warm_up(&stage, &replica).await;
    drop(upstream);
    client.say(&(post("/", &["Content-Length: 4"]) + "body")).await;
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.body, "body");
    upstream.say(&ok("fresh")).await;
    assert_eq!(client.message().await.body, "fresh");
}

#[tokio::test]
async fn a_post_that_a_replica_may_have_seen_is_not_sent_again() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let (mut client, mut upstream) = warm_up(&stage, &replica).await;
    client.say(&(post("/", &["Content-Length: 4"]) + "body")).await;
    upstream.message().await;
    drop(upstream);
    assert_eq!(client.message().await.code(), "upstream_reset");
    assert!(replica.is_alone().await);
}

#[tokio::test]
async fn a_get_that_was_lost_is_sent_once_more_to_another_replica() {
    let (one, two) = (Replica::listen().await, Replica::listen().await);
    let stage = Stage::serving(&[&one, &two]);
    let mut client = stage.send(&get("/", &[])).await;
    let (mut first, other) = tokio::select! {
        wire = one.accept() => (wire, &two),
        wire = two.accept() => (wire, &one),
    };
    first.message().await;
    drop(first);
    let mut second = other.accept().await;
    assert_eq!(second.message().await.line, "GET / HTTP/1.1");
    drop(second);
    assert_eq!(client.message().await.code(), "upstream_reset", "once is enough");
    until(|| stage.metric("repoint_ingress_retries_total") == 1.0).await;
}

#[tokio::test]
async fn invariant_10_after_the_first_byte_nothing_is_sent_again() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart").await;
    client.head().await;
    drop(upstream);
    assert_eq!(client.rest().await, "part");
    assert!(replica.is_alone().await);
}

#[tokio::test]
async fn a_deployment_may_declare_that_lost_requests_are_sent_again() {
    let replica = Replica::listen().await;
    let mut stage = Stage::serving(&[&replica]);
    stage.change_pool(|pool| pool.retry_on_reused_close = true).publish();
    let (mut client, mut upstream) = warm_up(&stage, &replica).await;
    client.say(&(post("/", &["Content-Length: 4"]) + "body")).await;
    assert_eq!(upstream.message().await.body, "body");
    drop(upstream);
    let mut upstream = replica.accept().await;
    let request = upstream.message().await;
    assert_eq!((request.line.as_str(), request.body.as_str()), ("POST / HTTP/1.1", "body"));
    drop(upstream);
    assert_eq!(client.message().await.code(), "upstream_reset", "the second connection was not a kept one");
}

#[tokio::test]
async fn an_idempotency_key_says_a_request_may_be_sent_again() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&post("/", &["Idempotency-Key: k", "Transfer-Encoding: chunked"])).await;
    client.say("2\r\nbo\r\n").await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    assert_eq!(upstream.chunk().await.as_deref(), Some("bo"));
    drop(upstream);
    let mut upstream = replica.accept().await;
    client.say("2\r\ndy\r\n0\r\n\r\n").await;
    assert_eq!(upstream.message().await.body, "body");
    upstream.say(&ok("done")).await;
    assert_eq!(client.message().await.body, "done");
}

#[tokio::test]
async fn a_body_larger_than_what_is_kept_is_not_sent_again() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let body = "x".repeat(100_000);
    let request = post("/", &["Idempotency-Key: k", "Content-Length: 100000"]) + &body;
    let mut client = stage.connect().await;
    let replica_side = async {
        let mut upstream = replica.accept().await;
        upstream.message().await.body.len()
    };
    let ((), seen) = tokio::join!(client.say(&request), replica_side);
    assert_eq!(seen, body.len());
    assert_eq!(client.message().await.code(), "upstream_reset");
}

#[tokio::test]
async fn invariant_10_what_was_sent_nowhere_resolves_again_to_where_the_pointer_leads_now() {
    let full = Full::listen().await;
    let alive = Replica::listen().await.always("moved");
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.connect_timeout_ms = 500);
    stage.pool_at("production", 1, &[full.address]).pool_at("production", 2, &[alive]).publish();
    let mut client = stage.send(&post("/", &["Content-Length: 0"])).await;
    until(|| stage.in_flight("production", 1) == 1).await;

    stage.promote("production", 2);

    let answer = client.message().await;
    assert_eq!(answer.body, "moved");
    assert_eq!(answer.header("x-deployment-id"), Some(deployment(2).to_string().as_str()));
    assert_eq!(stage.in_flight("production", 1), 0);
}

#[tokio::test]
async fn a_replica_that_does_not_accept_in_time_is_given_up() {
    let full = Full::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.connect_timeout_ms = 50);
    stage.pool_at("production", 1, &[full.address]).publish();
    assert_eq!(stage.send(&get("/", &[])).await.message().await.code(), "connect_failed");
}

#[tokio::test]
async fn kept_connections_close_before_the_replica_does() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| {
        config.upstream_idle_timeout = repoint::model::manifest::Span::try_from("1ms".to_owned()).unwrap();
    });
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let (_client, mut upstream) = warm_up(&stage, &replica).await;
    upstream.ends().await;

    // A replica that keeps connections for a second gets none kept at all.
    let mut stage = Stage::serving(&[&replica]);
    stage.publish();
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n").await;
    client.message().await;
    upstream.ends().await;
}
