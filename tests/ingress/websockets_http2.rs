//! WebSockets to replicas that speak HTTP/2 (RFC 8441), and streams that are reset.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use repoint::model::manifest::Protocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::http2_upstream::{Asked, Peer, accept, serving};
use crate::support::*;
use crate::upgrades::connect;

const LINES: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// Serves the next connection as a replica that echoes over WebSockets.
async fn echoes(replica: &Replica) {
    let io = TokioIo::new(replica.accept().await.stream);
    let service = service_fn(|request: Request<Incoming>| async { Ok::<_, Infallible>(echo(request)) });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    tokio::spawn(builder.enable_connect_protocol().serve_connection(io, service));
}

fn echo(mut request: Request<Incoming>) -> Response<Empty<Bytes>> {
    let protocol = request.extensions().get::<hyper::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
    assert_eq!((request.method(), protocol.as_deref()), (&Method::CONNECT, Some("websocket")));
    assert_eq!(request.headers()["sec-websocket-version"], "13");
    assert!(!request.headers().contains_key("sec-websocket-key") && !request.headers().contains_key("upgrade"));
    assert!(request.uri().path() == "/chat" && request.headers().contains_key("x-deployment-id"));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgrade.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(frame)) = socket.next().await {
            if frame.is_text() {
                socket.send(frame).await.unwrap();
            }
        }
    });
    Response::new(Empty::new())
}

/// Says something, hears it and closes.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stage: &Stage, mut socket: WebSocketStream<S>) {
    for text in ["hello", "again", &"long ".repeat(100_000)] {
        soon(socket.send(Frame::text(text))).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Frame::text(text));
    }
    assert_eq!((stage.in_flight("production", 1), stage.metric("repoint_ingress_tunnels")), (1, 1.0));
    socket.close(None).await.unwrap();
    soon(async { while socket.next().await.is_some() {} }).await;
    drop(socket);
    until(|| stage.in_flight("production", 1) == 0).await;
    assert_eq!(stage.metric("repoint_ingress_tunnels"), 0.0);
}

#[tokio::test]
async fn a_websocket_over_http_1_speaks_to_a_replica_of_http_2() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let stream = stage.connect().await.stream;
    let url = "ws://support-production.localhost/chat";
    // The client checks the proof that its key was read.
    let ((), opened) = soon(async { tokio::join!(echoes(&replica), client_async(url, stream)) }).await;
    let (socket, answer) = opened.unwrap();
    assert_eq!(answer.headers()["x-environment"], "production");
    converse(&stage, socket).await;
}

#[tokio::test]
async fn a_websocket_over_http_2_speaks_to_a_replica_of_http_2() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let ((), (answer, _sender)) = soon(async { tokio::join!(echoes(&replica), connect_to_chat(&stage)) }).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("sec-websocket-accept") && !answer.headers().contains_key("upgrade"));
    let stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    converse(&stage, WebSocketStream::from_raw_socket(stream, Role::Client, None).await).await;
}

async fn connect_to_chat(stage: &Stage) -> (Response<Incoming>, hyper::client::conn::http2::SendRequest<Empty<Bytes>>) {
    connect(stage, "websocket").await
}

#[tokio::test]
async fn a_replica_that_does_not_announce_websockets_is_asked_for_none() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let mut client = stage.send(&get("/chat", &LINES)).await;
    let mut connection = soon(h2::server::handshake(replica.accept().await.stream)).await.unwrap();
    let asked = tokio::spawn(async move { connection.accept().await.is_some() });
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_invalid"));
    until(|| stage.in_flight("production", 1) == 0).await;
    drop(stage);
    assert!(!soon(asked).await.unwrap());
}

/// A client's WebSocket, and the replica's side of it.
struct Talk {
    client: Wire,
    saying: h2::SendStream<Bytes>,
    asked: Asked,
    _peer: Peer,
}

async fn opened(stage: &Stage, replica: &Replica) -> Talk {
    let mut client = stage.send(&get("/chat", &LINES)).await;
    let mut peer = accept(replica).await;
    let mut asked = peer.next().await;
    assert_eq!(asked.head.method(), Method::CONNECT);
    let mut saying = asked.begin();
    saying.send_data("hello".into(), false).unwrap();
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.exactly(5).await, "hello");
    Talk { client, saying, asked, _peer: peer }
}

#[tokio::test]
async fn a_refusal_of_a_replica_of_http_2_is_an_answer_like_any_other() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let mut client = stage.send(&get("/chat", &LINES)).await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    let refusal = Response::builder().status(403).header("content-length", "2").body(()).unwrap();
    asked.answer.send_response(refusal, false).unwrap().send_data("no".into(), true).unwrap();
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.body.as_str(), answer.header("upgrade")), (403, "no", None));
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_client_of_a_replica_of_http_2_may_end_its_side_first() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let Talk { mut client, mut saying, mut asked, _peer } = opened(&stage, &replica).await;
    client.say("over").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    assert_eq!(asked.data().await.unwrap().unwrap(), "over");
    assert!(asked.data().await.is_none_or(|data| data.unwrap().is_empty()) && asked.body.is_end_stream());
    saying.send_data("last words".into(), false).unwrap();
    assert_eq!(client.exactly(10).await, "last words");
    assert_eq!(stage.in_flight("production", 1), 1);
    saying.send_data(Bytes::new(), true).unwrap();
    client.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_replica_of_http_2_may_end_its_side_first() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let Talk { mut client, mut saying, mut asked, _peer } = opened(&stage, &replica).await;
    saying.send_data(Bytes::new(), true).unwrap();
    client.ends().await;
    client.say("still").await;
    assert_eq!(asked.data().await.unwrap().unwrap(), "still");
    drop(client);
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_replica_that_resets_its_tunnel_ends_it_for_the_client() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let Talk { mut client, mut saying, .. } = opened(&stage, &replica).await;
    saying.send_reset(Reason::INTERNAL_ERROR);
    client.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_tunnel_over_http_2_that_is_silent_for_too_long_is_reset() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.websocket_idle_timeout_ms = 100);
    stage.pool("production", 1, &[&replica]).change_pool(|pool| pool.protocol = Protocol::H2c).publish();
    let Talk { mut client, saying: _saying, mut asked, _peer } = opened(&stage, &replica).await;
    assert_eq!(asked.data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
    client.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

/// A WebSocket of a client of HTTP/2 that a replica of HTTP/1.1 has agreed to: the client's answer, its side, and the
/// replica's.
async fn agreed_over_http_2(stage: &Stage, replica: &Replica) -> (Response<RecvStream>, h2::SendStream<Bytes>, Wire) {
    let (sender, connection) = soon(h2::client::handshake(stage.connect().await.stream)).await.unwrap();
    tokio::spawn(connection);
    until(|| sender.is_extended_connect_protocol_enabled()).await;
    let mut sender = sender.ready().await.unwrap();
    let mut request = Request::connect("http://support-production.localhost/chat").body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (answer, out) = sender.send_request(request, false).unwrap();
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    (soon(answer).await.unwrap(), out, upstream)
}

#[tokio::test]
async fn a_client_that_resets_its_websocket_over_http_2_ends_it_whatever_the_replica_does() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let (answer, mut out, mut upstream) = agreed_over_http_2(&stage, &replica).await;
    assert_eq!((answer.status(), stage.in_flight("production", 1)), (StatusCode::OK, 1));
    out.send_reset(Reason::CANCEL);
    // The replica neither speaks nor closes.
    until(|| stage.in_flight("production", 1) == 0).await;
    upstream.ends().await;
}

#[tokio::test]
async fn a_client_over_http_2_that_ends_its_side_still_hears_the_replica() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let (answer, mut out, mut upstream) = agreed_over_http_2(&stage, &replica).await;
    let mut body = answer.into_body();
    out.send_data(Bytes::new(), true).unwrap();
    upstream.ends().await;
    // Longer than it takes to notice a reset.
    let over = until(|| stage.in_flight("production", 1) == 0);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), over).await.is_err());
    upstream.say("last words").await;
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "last words");
    drop(upstream);
    until(|| stage.in_flight("production", 1) == 0).await;
}
