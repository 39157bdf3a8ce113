//! Clients that keep others waiting: with a body they have announced, with an
//! answer they do not take.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};
use repoint::model::manifest::Span;
use tokio::io::AsyncWriteExt;

use crate::support::*;

const URL: &str = "http://support-production.localhost/";

/// An ingress that waits for a client for 300 ms.
fn impatient(replica: &Replica) -> Stage {
    let mut stage = Stage::with(|config| config.stall_timeout = Span::try_from("300ms".to_owned()).unwrap());
    stage.environment("production", Some(1)).pool("production", 1, &[replica]).publish();
    stage
}

/// Answers without end, until nobody is there any more.
async fn pour(upstream: &mut Wire) {
    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    while soon(upstream.stream.write_all(chunk.as_bytes())).await.is_ok() {}
}

fn ended(stage: &Stage, code: &str) -> f64 {
    stage.metric(&format!("repoint_ingress_errors_total{{code=\"{code}\"}}"))
}

#[tokio::test]
async fn a_client_that_stops_reading_gives_its_claim_back() {
    let replica = Replica::listen().await;
    let stage = impatient(&replica);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    pour(&mut upstream).await;
    until(|| stage.in_flight("production", 1) == 0).await;
    until(|| ended(&stage, "client_stalled") == 1.0).await;
    assert!(!client.rest().await.ends_with("0\r\n\r\n"), "a part is not passed off as the whole");
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_gives_its_claim_back_and_others_go_on() {
    let replica = Replica::listen().await;
    let stage = impatient(&replica);
    let io = TokioIo::new(stage.connect().await.stream);
    let builder = &mut Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.initial_stream_window_size(100_000).handshake(io).await.unwrap();
    tokio::spawn(connection);
    let ask = || Request::get(URL).body(Empty::<Bytes>::new()).unwrap();
    let stalled = tokio::spawn(sender.send_request(ask()));
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let mut stalled = {
        let pouring = pour(&mut upstream);
        tokio::join!(pouring, async { soon(stalled).await.unwrap().unwrap() }).1
    };
    until(|| stage.in_flight("production", 1) == 0).await;
    assert_eq!(ended(&stage, "client_stalled"), 1.0);
    let cut = soon(async { while stalled.frame().await.is_some_and(|frame| frame.is_ok()) {} });
    cut.await;

    let other = tokio::spawn(sender.send_request(ask()));
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("other")).await;
    let answer = soon(other).await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "other", "its connection goes on");
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_not_cut() {
    let replica = Replica::listen().await;
    let stage = impatient(&replica);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let body = "x".repeat(16 << 20);
    let answer = ok(&body);
    let reading = async {
        client.head().await;
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
        for _ in 0..64 {
            ticks.tick().await;
            client.exactly(body.len() / 64).await;
        }
    };
    tokio::join!(upstream.say(&answer), reading);
    assert_eq!(ended(&stage, "client_stalled"), 0.0);
}

#[tokio::test]
async fn an_event_stream_that_is_quiet_is_not_cut() {
    let replica = Replica::listen().await;
    let stage = impatient(&replica);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = stage.send(&get("/", &[])).await;
    let mut first = replica.accept().await;
    first.message().await;
    first.say(head).await;
    client.head().await;

    let io = TokioIo::new(stage.connect().await.stream);
    let (mut sender, connection) = Builder::new(TokioExecutor::new()).handshake(io).await.unwrap();
    tokio::spawn(connection);
    let asked = tokio::spawn(sender.send_request(Request::get(URL).body(Empty::<Bytes>::new()).unwrap()));
    let mut second = replica.accept().await;
    second.message().await;
    second.say(head).await;
    let mut stream = soon(asked).await.unwrap().unwrap().into_body();

    // Another client is cut meanwhile, for it takes nothing.
    let _stalled = stage.send(&get("/", &[])).await;
    let mut third = replica.accept().await;
    third.message().await;
    pour(&mut third).await;
    until(|| ended(&stage, "client_stalled") == 1.0).await;

    for wire in [&mut first, &mut second] {
        wire.say("5\r\nevent\r\n").await;
    }
    assert_eq!(client.chunk().await.as_deref(), Some("event"));
    assert_eq!(soon(stream.frame()).await.unwrap().unwrap().into_data().unwrap(), "event");
}

#[tokio::test]
async fn a_body_that_is_announced_and_does_not_come_is_answered_408() {
    let replica = Replica::listen().await;
    let stage = impatient(&replica);
    let mut client = stage.send(&(post("/", &["Content-Length: 10"]) + "half")).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    assert_eq!(upstream.exactly(4).await, "half");
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (408, "request_timeout"));
    client.ends().await;
    upstream.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_over_http_2_is_answered_408_and_one_of_grpc_may_pause() {
    let replica = Replica::listen().await;
    let stage = impatient(&replica);
    let io = TokioIo::new(stage.connect().await.stream);
    let (mut sender, connection) = Builder::new(TokioExecutor::new()).handshake(io).await.unwrap();
    tokio::spawn(connection);
    let never = || StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>());
    let grpc = Request::post(URL).header("content-type", "application/grpc").body(never()).unwrap();
    let paused = tokio::spawn(sender.send_request(grpc));
    let mut kept = replica.accept().await;
    kept.head().await;

    let asked = tokio::spawn(sender.send_request(Request::post(URL).body(never()).unwrap()));
    let mut upstream = replica.accept().await;
    upstream.head().await;
    assert_eq!(soon(asked).await.unwrap().unwrap().status(), StatusCode::REQUEST_TIMEOUT);
    upstream.rest().await;
    assert_eq!(stage.in_flight("production", 1), 1, "the other one may pause");
    kept.say(&ok("")).await;
    assert_eq!(soon(paused).await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_not_cut() {
    let replica = Replica::listen().await;
    let stage = impatient(&replica);
    let mut client = stage.send(&post("/", &["Content-Length: 10"])).await;
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    for _ in 0..10 {
        ticks.tick().await;
        client.say("x").await;
    }
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.body, "xxxxxxxxxx");
    upstream.say(&ok("patience")).await;
    assert_eq!(client.message().await.body, "patience");
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_to_come_in_time() {
    let mut stage = Stage::with(|config| config.head_timeout = Span::try_from("300ms".to_owned()).unwrap());
    stage.environment("production", None).publish();
    let mut client = stage.connect().await;
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
    soon(async {
        while client.stream.write_all(b"X").await.is_ok() {
            ticks.tick().await;
        }
    })
    .await;
    client.ends().await;
}
