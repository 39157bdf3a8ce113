//! Draining: ask, finish, insist.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};

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
async fn the_last_piece_of_an_answer_that_its_client_is_slow_to_take_is_not_cut_off() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let absorbed = absorbed(stage.address()).await;
    // One of these ends within the last piece that the kernel does not take.
    let mut waiting = Vec::new();
    for more in (0..24).map(|step| step * 16 * 1024) {
        let bytes = absorbed + more - 64 * 1024;
        let mut client = narrow(stage.address()).await;
        client.say(&get("/", &[])).await;
        let mut upstream = replica.accept().await;
        upstream.message().await;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes));
        tokio::spawn(async move { upstream.say(&answer).await });
        assert_eq!(client.head().await.status(), 200);
        waiting.push((client, bytes));
    }
    until(|| stage.in_flight("production", 1) < waiting.len() as u64).await;
    let story = async {
        for (mut client, bytes) in waiting {
            assert_eq!(client.rest().await.len(), bytes);
        }
    };
    let (cut, ()) = tokio::join!(stage.running.drain(LIMIT), story);
    assert_eq!(cut, 0);
}

/// A connection on which little is on its way at any time.
async fn narrow(address: SocketAddr) -> Wire {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    Wire::new(soon(socket.connect(address)).await.unwrap())
}

/// Bytes that the kernel takes for a client that reads none.
async fn absorbed(like: SocketAddr) -> usize {
    let listener = TcpListener::bind((like.ip(), 0)).await.unwrap();
    let _client = narrow(listener.local_addr().unwrap()).await;
    let (server, _) = soon(listener.accept()).await.unwrap();
    let (mut taken, piece) = (0, vec![0; 64 * 1024]);
    while tokio::time::timeout(Duration::from_millis(200), server.writable()).await.is_ok() {
        taken += server.try_write(&piece).unwrap_or(0);
    }
    taken
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
