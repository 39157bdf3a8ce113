//! HTTP/2 by prior knowledge, on the same port.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use repoint::model::manifest::Span;

use crate::support::*;

type Sender = SendRequest<Full<Bytes>>;

async fn connect(stage: &Stage) -> Sender {
    let io = TokioIo::new(stage.connect().await.stream);
    let (sender, connection) = handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> http::request::Builder {
    Request::get(format!("http://support-production.localhost{path}"))
}

async fn ask(sender: &Sender, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
    soon(sender.clone().send_request(request)).await
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn requests_share_a_connection_and_overtake_each_other() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let sender = connect(&stage).await;
    let slow = tokio::spawn({
        let sender = sender.clone();
        async move { ask(&sender, request("/slow").body(Full::default()).unwrap()).await.unwrap() }
    });
    let mut held = replica.accept().await;
    assert_eq!(held.message().await.line, "GET /slow HTTP/1.1");
    let fast = tokio::spawn({
        let sender = sender.clone();
        async move { ask(&sender, request("/fast").body(Full::default()).unwrap()).await.unwrap() }
    });
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("fast")).await;
    assert_eq!(text(soon(fast).await.unwrap()).await, "fast");
    held.say(&ok("slow")).await;
    assert_eq!(text(soon(slow).await.unwrap()).await, "slow");
}

#[tokio::test]
async fn a_replica_sees_plain_http_1() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let sender = connect(&stage).await;
    let asked =
        request("/x?y=1").method("POST").header("cookie", "a=1").header("cookie", "b=2").header("te", "trailers");
    let asked = tokio::spawn(async move { ask(&sender, asked.body("body".into()).unwrap()).await.unwrap() });
    let mut upstream = replica.accept().await;
    let seen = upstream.message().await;
    assert_eq!((seen.line.as_str(), seen.body.as_str()), ("POST /x?y=1 HTTP/1.1", "body"));
    assert_eq!(seen.header("host"), Some("support-production.localhost"));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!((seen.header("via"), seen.header("te")), (Some("2.0 repoint"), Some("trailers")));
    upstream
        .say("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nTrailer: x-cost\r\n\r\n")
        .await;
    upstream.say("2\r\nok\r\n0\r\nX-Cost: 3\r\n\r\n").await;
    let answer = soon(asked).await.unwrap();
    assert_eq!(answer.headers().get("connection"), None);
    assert_eq!(answer.headers()["x-environment"], "production");
    let collected = answer.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-cost"], "3");
    assert_eq!(collected.to_bytes(), "ok");
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_its_request_at_the_replica() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let sender = connect(&stage).await;
    let asked = tokio::spawn({
        let sender = sender.clone();
        async move { ask(&sender, request("/").body(Full::default()).unwrap()).await.unwrap() }
    });
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let answer = soon(asked).await.unwrap();
    drop(answer);
    upstream.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
    assert!(!sender.is_closed(), "the connection stays");
}

#[tokio::test]
async fn errors_come_as_answers() {
    let mut stage = Stage::with(|config| config.streams_max = 1);
    let replica = Replica::listen().await;
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let sender = connect(&stage).await;
    let nowhere = Request::get("http://nowhere.localhost/").body(Full::default()).unwrap();
    assert_eq!(ask(&sender, nowhere).await.unwrap().status(), 404);
    let mut many = request("/");
    for n in 0..130 {
        many = many.header(format!("x-{n}"), "1");
    }
    let many = ask(&sender, many.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!((many.status().as_u16(), text(many).await.contains("headers_too_large")), (431, true));
    let two_hosts = request("/").header("host", "other.localhost").body(Full::default()).unwrap();
    assert_eq!(ask(&sender, two_hosts).await.unwrap().status(), 400);

    let first = tokio::spawn({
        let sender = sender.clone();
        async move { ask(&sender, request("/").body(Full::default()).unwrap()).await.unwrap() }
    });
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let second = ask(&sender, request("/").body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(second.status(), 503);
    assert!(text(second).await.contains("overloaded"));
    upstream.say(&ok("first")).await;
    assert_eq!(text(soon(first).await.unwrap()).await, "first");
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_says_goaway() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let sender = connect(&stage).await;
    let running = tokio::spawn({
        let sender = sender.clone();
        async move { ask(&sender, request("/").body(Full::default()).unwrap()).await.unwrap() }
    });
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let finish = async {
        until(|| std::net::TcpStream::connect(stage.address()).is_err()).await;
        upstream.say(&ok("finished")).await;
        let answer = text(soon(running).await.unwrap()).await;
        until(|| sender.is_closed()).await;
        answer
    };
    let (cut, answer) = tokio::join!(stage.running.drain(LIMIT), finish);
    assert_eq!((cut, answer.as_str()), (0, "finished"));
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let mut stage = Stage::with(|config| config.idle_timeout = Span::try_from("10ms".to_owned()).unwrap());
    stage.environment("production", None).publish();
    let sender = connect(&stage).await;
    assert_eq!(ask(&sender, request("/").body(Full::default()).unwrap()).await.unwrap().status(), 503);
    until(|| sender.is_closed()).await;
}
