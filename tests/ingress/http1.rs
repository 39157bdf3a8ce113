//! HTTP/1: connections, framing, bodies.

use std::time::Duration;

use repoint::model::manifest::Span;

use crate::support::*;

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/1", &[])).await;
    let mut upstream = replica.accept().await;

    assert_eq!(upstream.message().await.line, "GET /1 HTTP/1.1");
    upstream.say(&ok("one")).await;
    assert_eq!(client.message().await.body, "one");

    client.say(&get("/2", &[])).await;
    assert_eq!(upstream.message().await.line, "GET /2 HTTP/1.1");
    upstream.say(&ok("two")).await;
    assert_eq!(client.message().await.body, "two");
    until(|| stage.metric("repoint_ingress_upstream_reuses_total") == 1.0).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&[get("/1", &[]), get("/2", &[]), get("/3", &[])].concat()).await;
    let mut upstream = replica.accept().await;
    for n in 1..=3 {
        assert_eq!(upstream.message().await.line, format!("GET /{n} HTTP/1.1"));
        upstream.say(&ok(&format!("answer {n}"))).await;
    }
    for n in 1..=3 {
        assert_eq!(client.message().await.body, format!("answer {n}"));
    }
}

#[tokio::test]
async fn a_request_whose_head_comes_byte_by_byte_is_one_request() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.connect().await;
    // It begins like the preface of HTTP/2, which must not confuse anybody.
    for byte in head("PRICE", "/", "support-production.localhost", &[]).chars() {
        client.say(&byte.to_string()).await;
    }
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.line, "PRICE / HTTP/1.1");
    upstream.say(&ok("ok")).await;
    assert_eq!(client.message().await.body, "ok");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_its_answer_and_the_end() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send("GET / HTTP/1.0\r\nHost: support-production.localhost\r\n\r\n").await;
    let mut upstream = replica.accept().await;
    let request = upstream.message().await;
    assert_eq!((request.line.as_str(), request.header("via")), ("GET / HTTP/1.1", Some("1.0 repoint")));
    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let answer = client.head().await;
    assert_eq!((answer.line.as_str(), answer.header("transfer-encoding")), ("HTTP/1.0 200 OK", None));
    assert_eq!(client.rest().await, "ok");
}

#[tokio::test]
async fn a_replica_of_http_1_0_ends_its_answer_by_closing() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.0 200 OK\r\n\r\nall of it").await;
    drop(upstream);
    assert_eq!(client.message().await.body, "all of it");
    client.say(&get("/", &[])).await;
    replica.accept().await;
}

#[tokio::test]
async fn answers_without_a_body_keep_their_headers_and_the_connection() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&head("HEAD", "/", "support-production.localhost", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await;
    assert_eq!(client.head().await.header("content-length"), Some("1234"));

    client.say(&get("/", &[])).await;
    upstream.message().await;
    upstream.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.header("content-length")), (204, None));

    client.say(&get("/", &[])).await;
    upstream.message().await;
    upstream.say("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n").await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.header("etag")), (304, Some("\"x\"")));

    client.say(&get("/", &[])).await;
    upstream.message().await;
    upstream.say(&ok("still here")).await;
    assert_eq!(client.message().await.body, "still here");
}

#[tokio::test]
async fn a_head_request_to_nowhere_has_no_body_either() {
    let stage = Stage::serving(&[]);
    let mut client = stage.send(&head("HEAD", "/", "nowhere.localhost", &[])).await;
    assert_eq!(client.head().await.status(), 404);
    client.say(&head("HEAD", "/", "nowhere.localhost", &[])).await;
    assert_eq!(client.head().await.status(), 404);
}

#[tokio::test]
async fn request_bodies_pass_on_as_they_come() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&post("/", &["Transfer-Encoding: chunked"])).await;
    let mut upstream = replica.accept().await;
    let request = upstream.head().await;
    assert_eq!(request.header("transfer-encoding"), Some("chunked"));
    for piece in ["first", "second"] {
        client.say(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        assert_eq!(upstream.chunk().await.as_deref(), Some(piece));
    }
    client.say("0\r\n\r\n").await;
    assert_eq!(upstream.chunk().await, None);
    upstream.say(&ok("thanks")).await;
    assert_eq!(client.message().await.body, "thanks");
}

#[tokio::test]
async fn a_large_body_arrives_byte_for_byte_both_ways() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let body: String = (0..1_000_000).map(|n| format!("{n:08}")).collect();
    let request = post("/", &[&format!("Content-Length: {}", body.len())]) + &body;
    let mut client = stage.connect().await;
    let echo = async {
        let mut upstream = replica.accept().await;
        let request = upstream.message().await;
        upstream.say(&ok(&request.body)).await;
        request.body == body
    };
    // It reads as soon as it has said all: what the sockets on the way hold is less than an answer.
    let talk = async {
        client.say(&request).await;
        client.message().await
    };
    let (answer, is_same) = tokio::join!(talk, echo);
    assert!(is_same);
    assert!(answer.body == body);
}

#[tokio::test]
async fn a_client_is_asked_for_its_body_when_the_replica_asks() {
    let replica = Replica::listen().await;
    let stage = Stage::with(|config| config.continue_timeout = Span::seconds(3600));
    let mut stage = stage;
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Expect: 100-continue", "Content-Length: 4"])).await;
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.head().await.header("expect"), Some("100-continue"));
    assert!(client.is_silent().await);

    upstream.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 100);
    client.say("body").await;
    assert_eq!(upstream.exactly(4).await, "body");
    upstream.say(&ok("done")).await;
    assert_eq!(client.message().await.body, "done");
}

#[tokio::test]
async fn a_final_answer_spares_the_client_its_body() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.continue_timeout = Span::seconds(3600));
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Expect: 100-continue", "Content-Length: 4000000"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.body.as_str()), (401, "no"));
    client.ends().await;
    upstream.ends().await;
}

#[tokio::test]
async fn a_replica_that_does_not_know_expect_gets_the_body_after_a_while() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.continue_timeout = Span::try_from("50ms".to_owned()).unwrap());
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Expect: 100-continue", "Content-Length: 4"])).await;
    assert_eq!(client.head().await.status(), 100);
    client.say("body").await;
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.body, "body");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let lines = ["Transfer-Encoding: chunked", "TE: trailers", "Connection: te", "Trailer: x-sum"];
    let mut client = stage.send(&(post("/", &lines) + "2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")).await;
    let mut upstream = replica.accept().await;
    let request = upstream.head().await;
    assert_eq!((request.header("te"), request.header("connection")), (Some("trailers"), Some("te")));
    assert_eq!(upstream.exactly("2\r\nhi\r\n0\r\n".len()).await, "2\r\nhi\r\n0\r\n");
    assert_eq!(upstream.line().await.to_ascii_lowercase(), "x-sum: 7");
    upstream.line().await;

    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Cost\r\n\r\n").await;
    upstream.say("2\r\nok\r\n0\r\nX-Cost: 3\r\n\r\n").await;
    assert_eq!(client.head().await.header("trailer"), Some("X-Cost"));
    assert_eq!(client.exactly("2\r\nok\r\n0\r\n".len()).await, "2\r\nok\r\n0\r\n");
    assert_eq!(client.line().await.to_ascii_lowercase(), "x-cost: 3");
}

#[tokio::test]
async fn informational_answers_are_left_out() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n").await;
    upstream.say(&ok("final")).await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.header("link")), (200, None));
}

#[tokio::test]
async fn a_head_that_never_ends_and_an_idle_connection_are_closed() {
    let mut stage = Stage::with(|config| {
        config.head_timeout = Span::try_from("50ms".to_owned()).unwrap();
        config.idle_timeout = Span::try_from("100ms".to_owned()).unwrap();
    });
    stage.environment("production", None).publish();
    let mut slow = stage.send("GET / HTTP/1.1\r\nHost: a").await;
    let mut silent = stage.connect().await;
    let mut idle = stage.send(&get("/", &[])).await;
    assert_eq!(idle.message().await.status(), 503);
    let started = std::time::Instant::now();
    idle.ends().await;
    slow.ends().await;
    silent.ends().await;
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_running_request_is_never_idle() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| {
        config.head_timeout = Span::try_from("1ms".to_owned()).unwrap();
        config.idle_timeout = Span::try_from("1ms".to_owned()).unwrap();
    });
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    // Another connection lives and dies of idleness meanwhile.
    stage.connect().await.ends().await;
    upstream.say(&ok("in its own time")).await;
    assert_eq!(client.message().await.body, "in its own time");
}
