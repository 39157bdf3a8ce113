//! Limits: each has a name, a number and a behaviour when it is reached.

use crate::support::*;

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_at_once() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.request_body_max = 10);
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Content-Length: 11"])).await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (413, "request_too_large"));
    assert!(replica.is_alone().await, "no replica hears of it");

    let mut client = stage.send(&(post("/", &["Content-Length: 10"]) + "0123456789")).await;
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.body, "0123456789");
    upstream.say(&ok("fits")).await;
    assert_eq!(client.message().await.body, "fits");
}

#[tokio::test]
async fn a_body_that_streams_too_much_is_cut() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.request_body_max = 10);
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Transfer-Encoding: chunked"])).await;
    client.say("8\r\n01234567\r\n").await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    assert_eq!(upstream.chunk().await.as_deref(), Some("01234567"));
    client.say("8\r\n01234567\r\n").await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (413, "request_too_large"));
    upstream.ends().await;
    client.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn no_limit_is_no_limit() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.request_body_max = 0);
    stage.pool("production", 1, &[&replica]).publish();
    let body = "x".repeat(300_000);
    let mut client = stage.send(&post("/", &["Content-Length: 300000"])).await;
    let mut upstream = replica.accept().await;
    let (_, request) = tokio::join!(client.say(&body), upstream.message());
    assert_eq!(request.body.len(), body.len());
}

#[tokio::test]
async fn invariant_12_heads_are_bounded() {
    let stage = Stage::serving(&[]);
    let path = format!("/{}", "a".repeat(20_000));
    let answer = stage.send(&get(&path, &[])).await.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (414, "uri_too_long"));

    // These two are refused by the parser, before there is a request.
    let line = format!("X-Long: {}", "a".repeat(70_000));
    assert_eq!(stage.send(&get("/", &[&line])).await.head().await.status(), 431);
    let lines = vec!["X-Many: 1"; 110];
    assert_eq!(stage.send(&get("/", &lines)).await.head().await.status(), 431);
}

#[tokio::test]
async fn invariant_12_connections_over_the_limit_are_told_so() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.connections_max = 1);
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut first = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;

    let mut second = stage.send(&get("/", &[])).await;
    let answer = second.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    second.ends().await;
    assert_eq!(stage.metric("repoint_ingress_connections_refused_total"), 1.0);
    assert_eq!(stage.metric("repoint_ingress_connections"), 1.0);

    upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfirst").await;
    assert_eq!(first.message().await.body, "first");
    drop(first);
    until(|| stage.metric("repoint_ingress_connections") == 0.0).await;
    let _third = stage.send(&get("/", &[])).await;
    assert_eq!(replica.accept().await.message().await.line, "GET / HTTP/1.1");
}
