//! Streaming: frame by frame, nothing buffered, no end but the replica's or the client's.

use crate::support::*;

const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[tokio::test]
async fn each_chunk_passes_before_the_next_is_written() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(CHUNKED).await;
    assert_eq!(client.head().await.status(), 200);
    for piece in ["one", "two", "three"] {
        upstream.say(&chunk(piece)).await;
        assert_eq!(client.chunk().await.as_deref(), Some(piece));
    }
    upstream.say("0\r\n\r\n").await;
    assert_eq!(client.chunk().await, None);
}

#[tokio::test]
async fn server_sent_events_pass_one_by_one_and_may_pause_for_ever() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.response_idle_timeout_ms = 1);
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&get("/", &["Accept: text/event-stream"])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(SSE).await;
    assert_eq!(client.head().await.header("content-type"), Some("text/event-stream"));
    upstream.say(&chunk("data: 1\n\n")).await;
    assert_eq!(client.chunk().await.as_deref(), Some("data: 1\n\n"));

    // A unary answer that pauses as long is cut meanwhile.
    let mut unary = stage.send(&get("/unary", &[])).await;
    let mut other = replica.accept().await;
    other.message().await;
    other.say(CHUNKED).await;
    unary.head().await;
    unary.ends().await;
    other.ends().await;
    until(|| stage.metric("repoint_ingress_errors_total{code=\"response_timeout\"}") == 1.0).await;

    upstream.say(&chunk("data: 2\n\n")).await;
    assert_eq!(client.chunk().await.as_deref(), Some("data: 2\n\n"));
}

#[tokio::test]
async fn a_body_of_known_length_streams_as_well() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none").await;
    client.head().await;
    assert_eq!(client.exactly(3).await, "one");
    upstream.say("two").await;
    assert_eq!(client.exactly(3).await, "two");
}

#[tokio::test]
async fn an_answer_cut_short_is_never_passed_off_as_whole() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    for part in ["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", &format!("{CHUNKED}4\r\npart\r\n")] {
        let mut client = stage.send(&get("/", &[])).await;
        let mut upstream = replica.accept().await;
        upstream.message().await;
        upstream.say(part).await;
        let answer = client.head().await;
        drop(upstream);
        let rest = client.rest().await;
        assert!(rest.contains("part") && !rest.contains("\r\n0\r\n"), "{answer}{rest}");
    }
    until(|| stage.metric("repoint_ingress_errors_total{code=\"upstream_reset\"}") == 2.0).await;
}

#[tokio::test]
async fn a_replica_that_does_not_begin_in_time_is_given_up() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.response_start_timeout_ms = 1);
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let answer = client.message().await;
    assert_eq!((answer.status(), answer.code().as_str()), (504, "response_timeout"));
    upstream.ends().await;
}

#[tokio::test]
async fn a_slow_upload_does_not_count_against_the_replica() {
    let replica = Replica::listen().await;
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| policy.response_start_timeout_ms = 1);
    stage.pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&post("/", &["Content-Length: 4"])).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    // Longer than it takes to give another request up.
    let mut other = stage.send(&get("/", &[])).await;
    let _never_answered = replica.accept().await;
    assert_eq!(other.message().await.status(), 504);
    client.say("body").await;
    assert_eq!(upstream.exactly(4).await, "body");
    assert_eq!(client.message().await.status(), 504, "now it counts");
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_request_at_the_replica() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);

    // Before the answer has begun.
    let client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let started = std::time::Instant::now();
    drop(client);
    upstream.ends().await;
    assert!(started.elapsed().as_secs() < 1);

    // In the middle of a stream.
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(SSE).await;
    client.head().await;
    let started = std::time::Instant::now();
    drop(client);
    upstream.ends().await;
    assert!(started.elapsed().as_secs() < 1);

    // In the middle of an upload.
    let mut client = stage.send(&post("/", &["Content-Length: 10"])).await;
    client.say("half").await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    assert_eq!(upstream.exactly(4).await, "half");
    drop(client);
    upstream.ends().await;

    until(|| stage.in_flight("production", 1) == 0).await;
    until(|| stage.metric("repoint_ingress_errors_total{code=\"client_gone\"}") == 3.0).await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_reaches_the_client() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&post("/", &["Content-Length: 1000000"])).await;
    client.say("a little").await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    upstream.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nstop").await;
    assert_eq!(client.message().await.body, "stop");
    upstream.rest().await;
    client.ends().await;
}
