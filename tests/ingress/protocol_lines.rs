//! Lines of the protocols that have no better place: HTTP/1.0, closing one side,
//! clients that are gone, messages without a body.

use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use repoint::model::manifest::Span;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use crate::support::*;

const URL: &str = "http://support-production.localhost/";

/// What a client that is gone may keep its replica for.
const SECOND: Duration = Duration::from_secs(1);

async fn http2<B>(stage: &Stage) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
{
    let io = TokioIo::new(stage.connect().await.stream);
    let (sender, connection) = handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn ask(stage_sender: &mut SendRequest<Empty<Bytes>>, method: &str) -> JoinHandle<Response<Incoming>> {
    let asked = stage_sender.send_request(Request::builder().method(method).uri(URL).body(Empty::new()).unwrap());
    tokio::spawn(async move { asked.await.unwrap() })
}

#[tokio::test]
async fn a_client_of_http_1_0_that_asks_for_it_keeps_its_connection() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.connect().await;
    let mut upstream = None;
    for body in ["first", "second"] {
        client.say("GET / HTTP/1.0\r\nHost: support-production.localhost\r\nConnection: keep-alive\r\n\r\n").await;
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(replica.accept().await),
        };
        upstream.message().await;
        upstream.say(&ok(body)).await;
        let answer = client.message().await;
        assert_eq!((answer.line.as_str(), answer.body.as_str()), ("HTTP/1.0 200 OK", body));
        assert_eq!(answer.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_without_keep_alive_is_closed_after_an_answer_of_known_length_too() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send("GET / HTTP/1.0\r\nHost: support-production.localhost\r\n\r\n").await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("all")).await;
    assert_eq!(client.message().await.body, "all");
    client.ends().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_after_its_request_gets_an_answer_that_is_quick() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    // The request and the end may arrive together or apart.
    for _ in 0..50 {
        let mut client = stage.send(&get("/", &[])).await;
        client.stream.shutdown().await.unwrap();
        let mut upstream = replica.accept().await;
        upstream.message().await;
        upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 12\r\n\r\njust in time").await;
        assert_eq!(client.message().await.body, "just in time");
    }
    until(|| stage.metric("repoint_ingress_connections") == 0.0).await;
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_request_at_the_replica_within_a_second() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    // A client that closes altogether, one that is killed, and one that may still read look alike but for the second.
    for how in ["closes", "resets", "closes its side"] {
        let mut client = stage.send(&get("/", &[])).await;
        let mut upstream = replica.accept().await;
        upstream.message().await;
        let left = Instant::now();
        let _kept = match how {
            "closes its side" => {
                client.stream.shutdown().await.unwrap();
                Some(client)
            }
            "resets" => {
                socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
                drop(client);
                None
            }
            _ => {
                drop(client);
                None
            }
        };
        upstream.ends().await;
        assert!(left.elapsed() < SECOND, "{how}: {:?}", left.elapsed());
        until(|| stage.in_flight("production", 1) == 0).await;
    }
}

#[tokio::test]
async fn a_client_of_http_2_that_is_gone_ends_its_requests_at_the_replica_within_a_second() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let io = TokioIo::new(stage.connect().await.stream);
    let (mut sender, connection) = handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    let driving = tokio::spawn(connection);
    let asked = ask(&mut sender, "GET");
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let left = Instant::now();
    asked.abort();
    driving.abort();
    upstream.ends().await;
    assert!(left.elapsed() < SECOND, "{:?}", left.elapsed());
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_client_whose_socket_takes_nothing_is_given_up_by_the_kernel() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| {
        config.stall_timeout = Span::seconds(0);
        config.peer_timeout = Span::seconds(2);
    });
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let _client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    while soon(upstream.stream.write_all(chunk.as_bytes())).await.is_ok() {}
    until(|| stage.in_flight("production", 1) == 0).await;
}

/// Set where a test runs in a network of its own.
const ALONE: &str = "REPOINT_TEST_NETWORK";

/// Runs a command of iproute2 in the test's own network.
fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

#[test]
fn a_client_that_vanishes_without_a_word_ends_its_request_at_the_replica() {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(vanish());
    }
    let name = "protocol_lines::a_client_that_vanishes_without_a_word_ends_its_request_at_the_replica";
    let possible = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: no network of its own can be had here");
    }
    let mut alone = Command::new("unshare");
    alone.arg("-rn").arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let output = alone.env(ALONE, "1").output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn vanish() {
    ip("link set lo up");
    ip("address add 10.9.9.9/32 dev lo");
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.peer_timeout = Span::seconds(2));
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("10.9.9.9:0".parse().unwrap()).unwrap();
    let mut client = Wire::new(soon(socket.connect(stage.address())).await.unwrap());
    client.say(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.head().await;

    // No packet reaches it from now on, and none of its own is taken.
    ip("rule add pref 10 lookup local");
    ip("rule del pref 0");
    ip("rule add pref 5 to 10.9.9.9 blackhole");
    let vanished = Instant::now();
    upstream.say("5\r\nevent\r\n").await;
    upstream.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
    assert!(vanished.elapsed() > SECOND, "it took the time that a peer is given: {:?}", vanished.elapsed());
    drop(client);
}

#[tokio::test]
async fn trailers_of_a_request_over_http_2_reach_a_replica_of_http_1() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let frames = [Frame::data(Bytes::from_static(b"hi")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
    let mut sender = http2(&stage).await;
    let request = Request::post(URL).header("trailer", "x-sum").body(body).unwrap();
    let asked = tokio::spawn(sender.send_request(request));
    let mut upstream = replica.accept().await;
    upstream.head().await;
    assert_eq!(upstream.exactly("2\r\nhi\r\n0\r\n".len()).await, "2\r\nhi\r\n0\r\n");
    assert_eq!(upstream.line().await.to_ascii_lowercase(), "x-sum: 7");
    upstream.line().await;
    upstream.say(&ok("")).await;
    assert_eq!(soon(asked).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn answers_without_a_body_have_none_over_http_2() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut sender = http2(&stage).await;
    let mut upstream = None;
    for (method, head, status) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ] {
        let asked = ask(&mut sender, method);
        let upstream = match &mut upstream {
            Some(upstream) => upstream,
            none => none.insert(replica.accept().await),
        };
        upstream.message().await;
        upstream.say(head).await;
        let answer = soon(asked).await.unwrap();
        assert_eq!(answer.status(), status, "{head}");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "");
    }
}

#[tokio::test]
async fn early_hints_are_left_out_over_http_2_too() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut sender = http2(&stage).await;
    let asked = ask(&mut sender, "GET");
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n").await;
    upstream.say(&ok("final")).await;
    let answer = soon(asked).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("link")), (200, None));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "final");
}
