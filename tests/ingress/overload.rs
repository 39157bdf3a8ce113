//! Overload: what runs is bounded, in total and for each environment, and one
//! that has too much does not take from the others.

use crate::support::*;

#[tokio::test]
async fn an_environment_at_its_limit_is_answered_503_at_once_and_no_other_is() {
    let (first, second) = (Replica::listen().await, Replica::listen().await);
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.in_flight_max = 1);
    stage.pool("production", 1, &[&first]);
    stage.environment("staging", Some(2)).pool("staging", 2, &[&second]).publish();

    let mut running = stage.send(&get("/long", &[])).await;
    let mut upstream = first.accept().await;
    upstream.message().await;
    let answer = stage.send(&get("/more", &[])).await.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("1"), None));
    assert!(first.is_alone().await, "no replica hears of it");
    assert_eq!(stage.in_flight("production", 1), 1, "what was refused holds nothing");

    let mut other = stage.send(&get("/", &[]).replace("production", "staging")).await;
    let mut elsewhere = second.accept().await;
    elsewhere.message().await;
    elsewhere.say(&ok("served")).await;
    assert_eq!(other.message().await.body, "served");
    assert!(stage.metrics.text().unwrap().contains("code=\"overloaded\"} 1"));

    upstream.say(&ok("done")).await;
    assert_eq!(running.message().await.body, "done");
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn an_environment_without_a_limit_has_half_of_what_the_proxy_takes() {
    let (first, second) = (Replica::listen().await, Replica::listen().await);
    let mut stage = Stage::with(|config| config.in_flight_max = 2);
    stage.environment("production", Some(1)).pool("production", 1, &[&first]);
    stage.environment("staging", Some(2)).pool("staging", 2, &[&second]).publish();

    let _running = stage.send(&get("/long", &[])).await;
    let mut upstream = first.accept().await;
    upstream.message().await;
    assert_eq!(stage.send(&get("/more", &[])).await.message().await.status(), 503);
    let _other = stage.send(&get("/long", &[]).replace("production", "staging")).await;
    let mut elsewhere = second.accept().await;
    elsewhere.message().await;
    let refused = stage.send(&get("/", &[]).replace("production", "staging")).await.message().await;
    assert_eq!((refused.status(), refused.code().as_str()), (503, "overloaded"), "now the proxy is full");
}

#[tokio::test]
async fn a_limit_that_is_raised_holds_for_the_next_request() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.in_flight_max = 1);
    stage.pool("production", 1, &[&replica]).publish();
    let _running = stage.send(&get("/long", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let mut client = stage.send(&get("/more", &[])).await;
    assert_eq!(client.message().await.status(), 503);
    stage.policy(|policy| policy.in_flight_max = 2).publish();
    client.say(&get("/more", &[])).await;
    let mut second = replica.accept().await;
    second.message().await;
    second.say(&ok("more")).await;
    assert_eq!(client.message().await.body, "more");
}

#[tokio::test]
async fn while_connections_are_scarce_who_is_refused_is_let_go() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.connections_max = 2);
    stage.environment("production", Some(1)).policy(|policy| policy.in_flight_max = 1);
    stage.pool("production", 1, &[&replica]).publish();
    let _running = stage.send(&get("/long", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let mut client = stage.send(&get("/more", &[])).await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.header("connection")), (503, Some("close")));
    client.ends().await;
}

#[tokio::test]
async fn streams_pause_for_as_long_as_their_class_may() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| {
        policy.response_idle_timeout_ms = 60_000;
        policy.sse_idle_timeout_ms = 1;
        policy.grpc_idle_timeout_ms = 60_000;
    });
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&get("/events", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    client.ends().await;
    upstream.ends().await;
    until(|| stage.metrics.text().unwrap().contains("code=\"response_timeout\"} 1")).await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_is_said_ends_where_a_limit_says_so() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.websocket_idle_timeout_ms = 50);
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&get("/", &["Connection: Upgrade", "Upgrade: websocket"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 101);
    client.ends().await;
    upstream.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}
