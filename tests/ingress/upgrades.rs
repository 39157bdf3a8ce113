//! Upgrades: WebSocket and others, tunnelled after the replica's 101 only.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::support::*;

const UPGRADE: [&str; 2] = ["Connection: Upgrade", "Upgrade: custom/1"];
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: custom/1\r\n\r\n";

#[tokio::test]
async fn a_websocket_speaks_through() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let echo = async {
        let mut socket = accept_async(replica.accept().await.stream).await.unwrap();
        while let Some(Ok(frame)) = socket.next().await {
            if frame.is_text() {
                socket.send(frame).await.unwrap();
            }
        }
    };
    let talk = async {
        let stream = stage.connect().await.stream;
        let (mut socket, answer) = client_async("ws://support-production.localhost/chat", stream).await.unwrap();
        assert_eq!(answer.headers()["x-environment"], "production");
        assert_eq!(answer.headers()["x-deployment-id"], deployment(1).to_string().as_str());
        for text in ["hello", "again", &"long ".repeat(50_000)] {
            socket.send(Frame::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text(text));
        }
        assert_eq!(stage.in_flight("production", 1), 1);
        assert_eq!(stage.metric("repoint_ingress_tunnels"), 1.0);
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
    };
    soon(async { tokio::join!(echo, talk) }).await;
    until(|| stage.in_flight("production", 1) == 0).await;
    assert_eq!(stage.metric("repoint_ingress_tunnels"), 0.0);
    assert!(stage.metric("repoint_ingress_sent_bytes_total") > 250_000.0);
}

#[tokio::test]
async fn a_tunnel_loses_nothing_said_early_and_ends_with_both_sides() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&(get("/", &UPGRADE) + "early from client")).await;
    let mut upstream = replica.accept().await;
    let request = upstream.head().await;
    assert_eq!((request.header("upgrade"), request.header("connection")), (Some("custom/1"), Some("upgrade")));
    upstream.say(&format!("{SWITCHED}early from replica")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.header("upgrade")), (101, Some("custom/1")));
    assert_eq!(client.exactly("early from replica".len()).await, "early from replica");
    assert_eq!(upstream.exactly("early from client".len()).await, "early from client");

    // One side says that it has finished; the other still speaks.
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    upstream.ends().await;
    upstream.say("last words").await;
    assert_eq!(client.exactly(10).await, "last words");
    assert_eq!(stage.in_flight("production", 1), 1);
    drop(upstream);
    client.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &UPGRADE)).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say("HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.body.as_str(), answer.header("upgrade")), (426, "no", None));
    client.say(&get("/", &[])).await;
    let request = upstream.message().await;
    assert_eq!(request.header("upgrade"), None, "the connection goes on as HTTP");
}

#[tokio::test]
async fn a_client_that_leaves_a_tunnel_ends_it() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &UPGRADE)).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say(SWITCHED).await;
    client.head().await;
    let started = std::time::Instant::now();
    drop(client);
    upstream.ends().await;
    assert!(started.elapsed().as_secs() < 1);
    drop(upstream);
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn other_versions_of_http_are_not_upgraded_to() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let lines = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];
    let mut client = stage.send(&get("/", &lines)).await;
    let mut upstream = replica.accept().await;
    let request = upstream.message().await;
    assert_eq!((request.header("upgrade"), request.header("connection")), (None, None));
    upstream.say(&ok("plain")).await;
    assert_eq!(client.message().await.body, "plain");
}

#[tokio::test]
async fn an_unasked_101_is_no_answer() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&post("/", &["Content-Length: 0"])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(SWITCHED).await;
    assert_eq!(client.message().await.status(), 502);
}

/// A WebSocket's stream over HTTP/2, asked for by an extended CONNECT (RFC 8441).
pub async fn connect(stage: &Stage, protocol: &'static str) -> (Response<Incoming>, SendRequest<Empty<Bytes>>) {
    let io = TokioIo::new(stage.connect().await.stream);
    let (mut sender, connection) = handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let ask = |method: &str| {
        let request = Request::builder().method(method).uri("http://support-production.localhost/chat?a=b");
        request.header("sec-websocket-version", "13").body(Empty::new()).unwrap()
    };
    let mut request = ask("CONNECT");
    request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
    // The server's settings must have come, or the client may not ask.
    let answer = soon(async {
        loop {
            if let Ok(answer) = sender.send_request(request.clone()).await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    });
    (answer.await, sender)
}

#[tokio::test]
async fn a_websocket_over_http_2_speaks_to_a_replica_of_http_1() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let echo = async {
        let mut socket = accept_async(replica.accept().await.stream).await.unwrap();
        while let Some(Ok(frame)) = socket.next().await {
            if frame.is_text() {
                socket.send(frame).await.unwrap();
            }
        }
    };
    let talk = async {
        let (answer, _sender) = connect(&stage, "websocket").await;
        assert_eq!(
            (answer.status(), &answer.headers()["x-environment"]),
            (StatusCode::OK, &"production".parse().unwrap())
        );
        assert!(!answer.headers().contains_key("sec-websocket-accept") && !answer.headers().contains_key("upgrade"));
        let stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        for text in ["hello", "again", &"long ".repeat(50_000)] {
            socket.send(Frame::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text(text));
        }
        assert_eq!((stage.in_flight("production", 1), stage.metric("repoint_ingress_tunnels")), (1, 1.0));
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
    };
    soon(async { tokio::join!(echo, talk) }).await;
    until(|| stage.in_flight("production", 1) == 0).await;
    assert_eq!(stage.metric("repoint_ingress_tunnels"), 0.0);
}

#[tokio::test]
async fn an_extended_connect_is_an_upgrade_at_the_replica() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let refused = async {
        let mut upstream = replica.accept().await;
        let request = upstream.message().await;
        assert_eq!(request.line, "GET /chat?a=b HTTP/1.1");
        assert_eq!((request.header("upgrade"), request.header("connection")), (Some("websocket"), Some("upgrade")));
        assert_eq!(request.header("sec-websocket-key").map(str::len), Some(24));
        upstream.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    };
    let ((answer, _sender), ()) = soon(async { tokio::join!(connect(&stage, "websocket"), refused) }).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no");
}

#[tokio::test]
async fn an_answer_that_is_no_agreement_is_not_taken_for_a_tunnel() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let ignores = async {
        let mut upstream = replica.accept().await;
        upstream.message().await;
        upstream.say(&ok("a page")).await;
    };
    let ((answer, _sender), ()) = soon(async { tokio::join!(connect(&stage, "websocket"), ignores) }).await;
    assert_eq!(answer.status(), 502);
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_its_websocket_ends_it_at_the_replica() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let agrees = async {
        let mut upstream = replica.accept().await;
        upstream.message().await;
        upstream.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        upstream
    };
    let ((answer, sender), mut upstream) = soon(async { tokio::join!(connect(&stage, "websocket"), agrees) }).await;
    assert_eq!(answer.status(), 200);
    drop((answer, sender));
    upstream.ends().await;
    drop(upstream);
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_connect_to_anywhere_is_refused_over_http_2_too() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let (answer, _sender) = connect(&stage, "h2c").await;
    assert_eq!(answer.status(), 400);
    assert!(replica.is_alone().await);
}
