//! Draining: ask, finish, insist.

use std::time::Duration;

use crate::support::*;

#[tokio::test]
async fn running_requests_finish_and_idle_connections_close() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut running = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let mut idle = stage.send(&head("GET", "/", "nowhere.localhost", &[])).await;
    idle.message().await;
    let mut fresh = stage.connect().await;
    until(|| stage.metric("repoint_ingress_connections") == 3.0).await;

    let story = async {
        idle.ends().await;
        fresh.ends().await;
        upstream.say(&ok("finished")).await;
        let answer = running.message().await;
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("finished", Some("close")));
        running.ends().await;
    };
    let (cut, ()) = tokio::join!(stage.running.drain(LIMIT), story);
    assert_eq!(cut, 0);
    assert!(tokio::net::TcpStream::connect(stage.address()).await.is_err(), "nobody listens any more");
    assert_eq!(stage.metric("repoint_ingress_connections"), 0.0);
}

#[tokio::test]
async fn a_connection_that_was_accepted_in_time_gets_one_answer() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut held = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let mut fresh = stage.connect().await;
    until(|| stage.metric("repoint_ingress_connections") == 2.0).await;
    let story = async {
        until(|| std::net::TcpStream::connect(stage.address()).is_err()).await;
        fresh.say(&head("GET", "/", "nowhere.localhost", &[])).await;
        let answer = fresh.message().await;
        assert_eq!((answer.status(), answer.header("connection")), (404, Some("close")));
        upstream.say(&ok("done")).await;
        held.message().await;
    };
    let (cut, ()) = tokio::join!(stage.running.drain(LIMIT), story);
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_cut_and_counted() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut stream = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata").await;
    stream.head().await;
    let mut tunnel = stage.send(&get("/", &["Connection: upgrade", "Upgrade: custom"])).await;
    let mut other = replica.accept().await;
    other.head().await;
    other.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: custom\r\n\r\n").await;
    tunnel.head().await;

    assert_eq!(stage.running.drain(Duration::from_millis(50)).await, 2);
    stream.rest().await;
    tunnel.rest().await;
    upstream.rest().await;
    other.rest().await;
    assert_eq!(stage.in_flight("production", 1), 0);
}

#[tokio::test]
async fn insisting_ends_a_drain_at_once() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let _client = stage.send(&get("/", &[])).await;
    let _upstream = replica.accept().await;
    let insist = async {
        until(|| std::net::TcpStream::connect(stage.address()).is_err()).await;
        stage.running.insist();
    };
    let (cut, ()) = soon(async { tokio::join!(stage.running.drain(Duration::from_secs(3600)), insist) }).await;
    assert_eq!(cut, 1);
}
