//! HTTP/2 towards replicas (`protocol = "h2c"`), played by the h2 crate's server.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use repoint::model::manifest::{Protocol, Span};
use tokio::sync::mpsc;

use crate::support::*;

/// A replica's end of one HTTP/2 connection.
pub struct Peer {
    pub requests: mpsc::UnboundedReceiver<Asked>,
    /// Says GOAWAY when dropped or told, and serves what runs.
    pub goodbye: mpsc::UnboundedSender<()>,
    pub ended: tokio::task::JoinHandle<()>,
}

/// A request as the replica sees it.
pub struct Asked {
    pub head: Request<()>,
    pub body: RecvStream,
    pub answer: SendResponse<Bytes>,
}

pub async fn accept(replica: &Replica) -> Peer {
    accept_with(replica, 200).await
}

pub async fn accept_with(replica: &Replica, streams: u32) -> Peer {
    let stream = replica.accept().await.stream;
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams).enable_connect_protocol();
    let mut connection = soon(builder.handshake::<_, Bytes>(stream)).await.unwrap();
    let (requests, received) = mpsc::unbounded_channel();
    let (goodbye, mut leaving) = mpsc::unbounded_channel();
    let ended = tokio::spawn(async move {
        loop {
            tokio::select! {
                accepted = connection.accept() => {
                    let Some(Ok((request, answer))) = accepted else { return };
                    let (parts, body) = request.into_parts();
                    let _ = requests.send(Asked { head: Request::from_parts(parts, ()), body, answer });
                }
                Some(()) = leaving.recv() => connection.graceful_shutdown(),
            }
        }
    });
    Peer { requests: received, goodbye, ended }
}

impl Peer {
    pub async fn next(&mut self) -> Asked {
        soon(self.requests.recv()).await.expect("a request, and not the end of the connection")
    }
}

impl Asked {
    fn path(&self) -> &str {
        self.head.uri().path()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }

    /// Data of the body as it comes; `None` at its end.
    pub async fn data(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let data = soon(self.body.data()).await;
        if let Some(Ok(data)) = &data {
            self.body.flow_control().release_capacity(data.len()).unwrap();
        }
        data
    }

    async fn text(&mut self) -> String {
        let mut text = Vec::new();
        while let Some(data) = self.data().await {
            text.extend_from_slice(&data.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    pub fn begin(&mut self) -> h2::SendStream<Bytes> {
        self.answer.send_response(Response::new(()), false).unwrap()
    }

    fn say(mut self, body: &str) {
        self.begin().send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    }
}

/// `production` on deployment 1, whose replicas speak HTTP/2.
pub fn serving(replicas: &[&Replica]) -> Stage {
    serving_with(replicas, |_| {})
}

pub fn serving_with(replicas: &[&Replica], set: impl FnOnce(&mut repoint::ingress::config::Config)) -> Stage {
    let mut stage = Stage::with(set);
    stage.environment("production", Some(1)).pool("production", 1, replicas);
    stage.change_pool(|pool| pool.protocol = Protocol::H2c).publish();
    stage
}

#[tokio::test]
async fn requests_of_many_clients_share_a_connection_and_overtake_each_other() {
    let replica = Replica::listen().await;
    let stage = serving_with(&[&replica], |config| config.threads = Some(1.try_into().unwrap()));
    let mut slow = stage.send(&get("/slow?a=b", &["TE: trailers", "Connection: X-Hop", "X-Hop: 1"])).await;
    let mut peer = accept(&replica).await;
    let first = peer.next().await;
    assert_eq!(first.head.uri(), "http://support-production.localhost/slow?a=b");
    assert_eq!((first.header("te"), first.header("x-hop"), first.header("connection")), (Some("trailers"), None, None));
    assert_eq!((first.header("host"), first.header("via")), (None, Some("1.1 repoint")));
    assert!(first.header("x-deployment-id").is_some() && first.header("traceparent").is_some());
    let mut fast = stage.send(&get("/fast", &[])).await;
    peer.next().await.say("fast");
    assert_eq!(fast.message().await.body, "fast");
    first.say("slow");
    let answer = slow.message().await;
    assert_eq!((answer.body.as_str(), answer.all("x-environment")), ("slow", vec!["production"]));
    assert!(replica.is_alone().await, "one connection did");
    assert_eq!(stage.metric("repoint_ingress_upstream_connects_total"), 1.0);
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn many_that_come_at_once_wait_for_one_connection() {
    let replica = Replica::listen().await;
    let stage = serving_with(&[&replica], |config| config.threads = Some(1.try_into().unwrap()));
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(stage.send(&get("/", &[])).await);
    }
    let mut peer = accept(&replica).await;
    for _ in 0..20 {
        peer.next().await.say("one");
    }
    for client in &mut clients {
        assert_eq!(client.message().await.body, "one");
    }
    assert!(replica.is_alone().await);
}

type Sender = hyper::client::conn::http2::SendRequest<StreamBody<tokio_stream::wrappers::ReceiverStream<Said>>>;
type Said = Result<Frame<Bytes>, std::convert::Infallible>;

/// A client over HTTP/2 whose request goes on as long as the test says.
async fn talk(stage: &Stage, path: &str) -> (mpsc::Sender<Said>, tokio::task::JoinHandle<Response<Incoming>>) {
    let io = TokioIo::new(stage.connect().await.stream);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection): (Sender, _) = handshake.await.unwrap();
    tokio::spawn(connection);
    let (said, frames) = mpsc::channel(4);
    let request = Request::post(format!("http://support-production.localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let request = request.body(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(frames))).unwrap();
    (said, tokio::spawn(async move { soon(sender.send_request(request)).await.unwrap() }))
}

fn data(text: &str) -> Said {
    Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))
}

fn trailers(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
}

#[tokio::test]
async fn both_directions_stream_and_end_with_trailers() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let (client, answer) = talk(&stage, "/agents.Agent/Talk").await;
    client.send(data("first")).await.unwrap();
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    assert_eq!(asked.header("content-type"), Some("application/grpc"));
    assert_eq!(asked.data().await.unwrap().unwrap(), "first");
    let mut saying = asked.begin();
    saying.send_data("one".into(), false).unwrap();
    let mut answer = soon(answer).await.unwrap().into_body();
    for (said, heard) in [("second", "two"), ("third", "three")] {
        let frame = soon(answer.frame()).await.unwrap().unwrap();
        assert!(!frame.into_data().unwrap().is_empty());
        client.send(data(said)).await.unwrap();
        assert_eq!(asked.data().await.unwrap().unwrap(), said);
        saying.send_data(heard.into(), false).unwrap();
    }
    assert_eq!(soon(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), "three");
    client.send(Ok(Frame::trailers(trailers("x-sum", "6")))).await.unwrap();
    drop(client);
    assert!(asked.data().await.is_none());
    assert_eq!(soon(asked.body.trailers()).await.unwrap().unwrap()["x-sum"], "6");
    saying.send_trailers(trailers("grpc-status", "0")).unwrap();
    let last = soon(answer.frame()).await.unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
    assert!(soon(answer.frame()).await.is_none());
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn trailers_alone_are_an_answer() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let (client, answer) = talk(&stage, "/agents.Agent/Missing").await;
    drop(client);
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    let only = Response::builder().header("content-type", "application/grpc").header("grpc-status", "12");
    asked.answer.send_response(only.body(()).unwrap(), true).unwrap();
    let answer = soon(answer).await.unwrap();
    assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &"12".parse().unwrap()));
    assert!(hyper::body::Body::is_end_stream(answer.body()), "the first frame ends it");
}

#[tokio::test]
async fn a_large_body_arrives_byte_for_byte_both_ways() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let body: String = (0..1_000_000).map(|n| format!("{n:08}")).collect();
    let mut client = stage.connect().await;
    let echo = async {
        let mut peer = accept(&replica).await;
        let mut asked = peer.next().await;
        let text = asked.text().await;
        let is_same = text == body;
        let mut saying = asked.begin();
        saying.reserve_capacity(text.len());
        saying.send_data(text.into(), true).unwrap();
        // Lives until the answer is out.
        (peer, is_same)
    };
    let talk = async {
        client.say(&(post("/", &[&format!("Content-Length: {}", body.len())]) + &body)).await;
        client.message().await
    };
    let (answer, (_peer, is_same)) = tokio::join!(talk, echo);
    assert!(is_same && answer.body == body);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    let replica = Replica::listen().await;
    let stage = serving_with(&[&replica], |config| config.threads = Some(1.try_into().unwrap()));
    let _deaf = stage.send(&get("/deaf", &[])).await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    let mut saying = asked.begin();
    let said = 64 * 1024 * 1024;
    saying.send_data(vec![0; said].into(), false).unwrap();
    // Until the replica is kept waiting: nothing moves any more.
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    let mut before = f64::NAN;
    let sent = || stage.metric("repoint_ingress_sent_bytes_total");
    while std::mem::replace(&mut before, sent()) != before {
        ticks.tick().await;
    }
    assert!(before < said as f64, "the replica is kept waiting");
    let mut client = stage.send(&get("/", &[])).await;
    peer.next().await.say("served");
    assert_eq!(client.message().await.body, "served");
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_request_at_the_replica() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let client = stage.send(&get("/", &[])).await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    let mut saying = asked.begin();
    saying.send_data("token".into(), false).unwrap();
    drop(client);
    let reason = soon(std::future::poll_fn(|cx| saying.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, Reason::CANCEL);
    until(|| stage.in_flight("production", 1) == 0).await;
    // The connection has other streams to carry.
    let mut client = stage.send(&get("/next", &[])).await;
    let mut next = soon(async {
        tokio::select! {
            asked = peer.requests.recv() => asked.unwrap(),
            // The other core has a connection of its own.
            mut other = accept(&replica) => other.next().await,
        }
    })
    .await;
    assert_eq!(next.path(), "/next");
    next.begin().send_data("next".into(), true).unwrap();
    assert_eq!(client.message().await.body, "next");
}

#[tokio::test]
async fn an_upload_that_is_cut_is_reset_and_never_ended() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let mut client = stage.send(&post("/", &["Content-Length: 100"])).await;
    client.say("part").await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    assert_eq!(asked.data().await.unwrap().unwrap(), "part");
    drop(client);
    let error = asked.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_its_method() {
    let replica = Replica::listen().await;
    let stage = serving_with(&[&replica], |config| config.threads = Some(1.try_into().unwrap()));
    let mut client = stage.send(&(post("/", &["Content-Length: 4"]) + "body")).await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    assert_eq!(asked.text().await, "body");
    asked.answer.send_reset(Reason::REFUSED_STREAM);
    let mut again = peer.next().await;
    let body = again.text().await;
    assert_eq!((again.head.method().as_str(), body.as_str()), ("POST", "body"));
    again.say("at last");
    assert_eq!(client.message().await.body, "at last");
    assert_eq!(stage.metric("repoint_ingress_retries_total"), 1.0);
}

#[tokio::test]
async fn another_reset_is_not_sent_again() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let mut client = stage.send(&(post("/", &["Content-Length: 4"]) + "body")).await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    asked.text().await;
    asked.answer.send_reset(Reason::INTERNAL_ERROR);
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_reset"));
    assert_eq!(stage.metric("repoint_ingress_retries_total"), 0.0);
}

#[tokio::test]
async fn after_goaway_what_runs_is_finished_and_what_is_new_goes_elsewhere() {
    let replica = Replica::listen().await;
    let stage = serving_with(&[&replica], |config| config.threads = Some(1.try_into().unwrap()));
    let mut first = stage.send(&get("/first", &[])).await;
    let mut leaving = accept(&replica).await;
    let running = leaving.next().await;
    leaving.goodbye.send(()).unwrap();
    // Graceful: it is told first, and asked with a PING whether it has heard.
    let mut next = stage.send(&get("/second", &[])).await;
    let (mut peer, second) = soon(async {
        tokio::select! {
            mut peer = accept(&replica) => { let second = peer.next().await; (peer, second) }
            // It had not heard yet: this one is within what the replica takes.
            Some(second) = leaving.requests.recv() => {
                second.say("second");
                assert_eq!(next.message().await.body, "second");
                next = stage.send(&get("/third", &[])).await;
                let mut peer = accept(&replica).await;
                let third = peer.next().await;
                (peer, third)
            }
        }
    })
    .await;
    second.say("elsewhere");
    assert_eq!(next.message().await.body, "elsewhere");
    running.say("finished");
    assert_eq!(first.message().await.body, "finished");
    soon(leaving.ended).await.unwrap();
    assert!(peer.requests.try_recv().is_err());
}

#[tokio::test]
async fn no_more_streams_than_the_replica_allows_share_a_connection() {
    let replica = Replica::listen().await;
    let stage = serving_with(&[&replica], |config| config.threads = Some(1.try_into().unwrap()));
    let mut first = stage.send(&get("/a", &[])).await;
    let mut one = accept_with(&replica, 1).await;
    let held = one.next().await;
    let mut second = stage.send(&get("/b", &[])).await;
    let mut two = accept_with(&replica, 1).await;
    two.next().await.say("b");
    assert_eq!(second.message().await.body, "b");
    held.say("a");
    assert_eq!(first.message().await.body, "a");
}

#[tokio::test]
async fn a_replica_that_speaks_http_1_is_told_apart() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.exactly(24).await, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    upstream.say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_invalid"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_taken_for_whole() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    asked.begin().send_data("part".into(), false).unwrap();
    client.head().await;
    assert_eq!(client.chunk().await.as_deref(), Some("part"));
    peer.ended.abort();
    assert_eq!(client.rest().await, "");
    until(|| stage.metric("repoint_ingress_errors_total{code=\"upstream_reset\"}") == 1.0).await;
}

#[tokio::test]
async fn a_client_is_asked_for_its_body_when_the_replica_asks() {
    let replica = Replica::listen().await;
    let stage = serving_with(&[&replica], |config| config.continue_timeout = Span::seconds(3600));
    let mut client = stage.send(&post("/", &["Expect: 100-continue", "Content-Length: 4"])).await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    assert_eq!(asked.header("expect"), Some("100-continue"));
    assert!(client.is_silent().await);
    let interim = Response::builder().status(StatusCode::CONTINUE).body(()).unwrap();
    asked.answer.send_informational(interim).unwrap();
    assert_eq!(client.head().await.status(), 100);
    client.say("body").await;
    assert_eq!(asked.text().await, "body");
    asked.say("done");
    assert_eq!(client.message().await.body, "done");
}

#[tokio::test]
async fn an_upgrade_is_asked_of_nobody_over_http_2() {
    let replica = Replica::listen().await;
    let stage = serving(&[&replica]);
    let mut client = stage.send(&get("/", &["Connection: upgrade", "Upgrade: websocket"])).await;
    let mut peer = accept(&replica).await;
    let asked = peer.next().await;
    assert_eq!((asked.header("upgrade"), asked.header("connection")), (None, None));
    asked.say("no upgrade here");
    assert_eq!(client.message().await.body, "no upgrade here");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_given_up() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.response_start_timeout_ms = 100);
    stage.pool("production", 1, &[&replica]).change_pool(|pool| pool.protocol = Protocol::H2c).publish();
    let mut client = stage.send(&get("/", &[])).await;
    let mut peer = accept(&replica).await;
    let mut asked = peer.next().await;
    assert_eq!(client.message().await.code(), "response_timeout");
    let reason = soon(std::future::poll_fn(|cx| asked.answer.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, Reason::CANCEL);
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed() {
    let replica = Replica::listen().await;
    let stage = serving_with(&[&replica], |config| config.upstream_idle_timeout = Span::seconds(1));
    let mut client = stage.send(&get("/", &[])).await;
    let mut peer = accept(&replica).await;
    peer.next().await.say("done");
    client.message().await;
    soon(peer.ended).await.unwrap();
}

#[tokio::test]
async fn a_grpc_client_is_told_of_errors_in_trailers_alone() {
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).pool_at("production", 1, &[nobody().await]);
    stage.change_pool(|pool| pool.protocol = Protocol::H2c).publish();
    let (client, answer) = talk(&stage, "/agents.Agent/Talk").await;
    drop(client);
    let answer = soon(answer).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"application/grpc".parse().unwrap())
    );
    assert_eq!(answer.headers()["grpc-status"], "14");
    assert!(answer.headers()["grpc-message"].to_str().unwrap().starts_with("connect_failed: "));
    assert!(hyper::body::Body::is_end_stream(answer.body()), "the first frame ends it");
    assert_eq!(stage.metric("repoint_ingress_errors_total{code=\"connect_failed\"}"), 1.0);
}
