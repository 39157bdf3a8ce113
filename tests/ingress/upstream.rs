//! The replica's side of a connection: what it may send, and what it may not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use repoint::model::manifest::Span;
use tokio::io::AsyncWriteExt;

use crate::support::*;

#[tokio::test]
async fn an_answer_that_is_not_http_is_refused_and_its_connection_closed() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "a".repeat(70_000));
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Space : a\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Split: a\nX-Second: b\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        &large,
    ];
    for said in cases {
        let mut client = stage.send(&get("/", &[])).await;
        let mut upstream = replica.accept().await;
        upstream.message().await;
        upstream.say(said).await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_invalid"), "{:.60}", said);
        upstream.ends().await;
    }
    assert_eq!(stage.metric("repoint_ingress_retries_total"), 0.0, "it was an answer, and no accident");
}

#[tokio::test]
async fn an_answer_whose_chunks_are_broken_ends_both_connections() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n").await;
    client.head().await;
    assert_eq!(client.chunk().await.as_deref(), Some("part"));
    upstream.say("zz\r\n").await;
    client.ends().await;
    upstream.ends().await;
    until(|| stage.metric("repoint_ingress_errors_total{code=\"upstream_invalid\"}") == 1.0).await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_one_head() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    for byte in "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nslowly\r\n0\r\n\r\n".chars() {
        upstream.say(&byte.to_string()).await;
    }
    assert_eq!(client.message().await.body, "slowly");
    client.say(&get("/again", &[])).await;
    assert_eq!(upstream.message().await.line, "GET /again HTTP/1.1");
}

#[tokio::test]
async fn a_kept_connection_that_the_replica_closes_is_closed_here_too() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.upstream_idle_timeout = Span::seconds(3600));
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("kept")).await;
    client.message().await;
    AsyncWriteExt::shutdown(&mut upstream.stream).await.unwrap();
    upstream.ends().await;
}

#[tokio::test]
async fn an_answer_and_an_upload_do_not_wait_for_each_other() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    // More than every buffer on the way holds.
    let body = "x".repeat(16_000_000);
    let request = post("/", &[&format!("Content-Length: {}", body.len())]);
    let mut client = stage.send(&request).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    client.head().await;
    let Wire { stream, .. } = upstream;
    let (read, mut write) = stream.into_split();
    let mut read = tokio::io::AsyncReadExt::take(read, body.len() as u64);
    // The replica writes its answer while it reads; the client reads when all is sent.
    let answering = async { AsyncWriteExt::write_all(&mut write, body.as_bytes()).await.unwrap() };
    let mut sink = tokio::io::sink();
    let reading = async { tokio::io::copy(&mut read, &mut sink).await.unwrap() };
    let asking = async {
        client.say(&body).await;
        client.exactly(body.len()).await.len()
    };
    let ((), taken, answered) = soon(async { tokio::join!(answering, reading, asking) }).await;
    assert_eq!((taken, answered), (body.len() as u64, body.len()));
}

#[tokio::test]
async fn an_upload_that_passes_the_limit_cuts_an_answer_that_has_begun() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.request_body_max = 10);
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Transfer-Encoding: chunked"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    // Its end is told by the end of the connection, which must not come from us.
    upstream.say("HTTP/1.1 200 OK\r\n\r\nbegun").await;
    client.head().await;
    assert_eq!(client.chunk().await.as_deref(), Some("begun"));
    client.say("b\r\n01234567890\r\n").await;
    assert!(!client.rest().await.contains("0\r\n\r\n"), "a part is not passed off as the whole");
    upstream.rest().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn an_answer_is_heard_from_a_replica_that_takes_no_more() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&post("/", &["Content-Length: 100000000"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig").await;
    drop(upstream);
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.body.as_str()), (413, "big"));
}

#[tokio::test]
async fn a_get_with_a_body_takes_it_along() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&(get("/", &["Transfer-Encoding: chunked"]) + "2\r\nhi\r\n0\r\n\r\n")).await;
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.body, "hi");
    upstream.say(&ok("thanks")).await;
    assert_eq!(client.message().await.body, "thanks");
    client.say(&get("/", &[])).await;
    let request = upstream.head().await;
    assert_eq!((request.header("transfer-encoding"), request.header("content-length")), (None, None));
}

#[tokio::test]
async fn a_client_that_reads_late_gets_all_of_it() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    // More than every buffer on the way holds, so the replica is kept waiting.
    let body = "x".repeat(64_000_000);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let said = AtomicUsize::new(0);
    let answering = async {
        upstream.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        for piece in body.as_bytes().chunks(100_000) {
            soon(upstream.stream.write_all(piece)).await.unwrap();
            said.fetch_add(piece.len(), Ordering::Relaxed);
        }
    };
    let reading = async {
        // Until nothing moves any more.
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let mut before = usize::MAX;
        while std::mem::replace(&mut before, said.load(Ordering::Relaxed)) != before || before == 0 {
            ticks.tick().await;
        }
        assert!(before < body.len(), "the replica is kept waiting");
        client.head().await;
        client.exactly(body.len()).await == body
    };
    let ((), is_same) = tokio::join!(answering, reading);
    assert!(is_same);
}

#[tokio::test]
async fn an_interim_answer_leaves_the_request_as_it_was() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &["X-Mine: kept"])).await;
    let mut first = replica.accept().await;
    first.message().await;
    first.say("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n").await;
    drop(first);
    let mut second = replica.accept().await;
    let again = second.message().await;
    assert_eq!((again.header("x-mine"), again.header("link")), (Some("kept"), None));
    second.say(&ok("again")).await;
    let answer = client.message().await;
    assert_eq!((answer.body.as_str(), answer.header("link")), ("again", None));
}

#[tokio::test]
async fn an_answer_that_is_half_there_ends_with_an_upload_that_is_cut() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.request_body_max = 10);
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Transfer-Encoding: chunked"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nda").await;
    client.head().await;
    assert_eq!(client.exactly(2).await, "da");
    client.say("b\r\n01234567890\r\n").await;
    assert_eq!(client.rest().await, "");
    until(|| stage.metric("repoint_ingress_errors_total{code=\"request_too_large\"}") == 1.0).await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn an_upload_goes_on_after_its_answer() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&post("/", &["Transfer-Encoding: chunked"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say(&ok("accepted")).await;
    assert_eq!(client.message().await.body, "accepted");
    for piece in ["first", "second"] {
        client.say(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        assert_eq!(upstream.chunk().await.as_deref(), Some(piece));
        assert_eq!(stage.in_flight("production", 1), 1, "the pool is held until the replica has all of it");
    }
    client.say("0\r\n\r\n").await;
    assert_eq!(upstream.chunk().await, None);
    until(|| stage.in_flight("production", 1) == 0).await;
    client.say(&get("/next", &[])).await;
    let mut next = replica.accept().await;
    assert_eq!(next.message().await.line, "GET /next HTTP/1.1");
    next.say(&ok("next")).await;
    assert_eq!(client.message().await.body, "next");
}

#[tokio::test]
async fn an_upload_that_stops_after_its_answer_is_given_up() {
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.idle_timeout = Span::seconds(1));
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Transfer-Encoding: chunked"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say(&ok("accepted")).await;
    assert_eq!(client.message().await.body, "accepted");
    upstream.ends().await;
    client.ends().await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn an_upload_ends_with_the_replica_that_closes_after_its_answer() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&post("/", &["Transfer-Encoding: chunked"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say(&ok("enough")).await;
    assert_eq!(client.message().await.body, "enough");
    drop(upstream);
    until(|| stage.in_flight("production", 1) == 0).await;
    client.rest().await;
}
