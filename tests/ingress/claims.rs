//! Claims: what holds a pool, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn invariant_2_claim_ends_with_the_last_byte() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    assert_eq!(stage.in_flight("production", 1), 0);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    // Held already when the connection is made, before a byte was sent.
    assert_eq!(stage.in_flight("production", 1), 1);
    upstream.message().await;
    upstream.say(CHUNKED).await;
    client.head().await;
    assert_eq!(stage.in_flight("production", 1), 1);
    upstream.say("3\r\nall\r\n").await;
    client.chunk().await;
    assert_eq!(stage.in_flight("production", 1), 1, "the last byte is not out yet");
    upstream.say("0\r\n\r\n").await;
    assert_eq!(client.chunk().await, None);
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn claims_on_every_way_out_are_given_back() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    // An answer without a body.
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    client.head().await;
    until(|| stage.in_flight("production", 1) == 0).await;
    // No answer at all.
    client.say(&post("/", &["Content-Length: 0"])).await;
    upstream.message().await;
    drop(upstream);
    assert_eq!(client.message().await.code(), "upstream_reset");
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_pointer_move_leaves_streams_alone_and_takes_the_next_request_along() {
    let (old, new) = (Replica::listen().await, Replica::listen().await);
    let mut stage = Stage::serving(&[&old]);
    stage.pool("production", 2, &[&new]).publish();
    let mut streaming = stage.send(&get("/stream", &[])).await;
    let mut from_old = old.accept().await;
    from_old.message().await;
    from_old.say(CHUNKED).await;
    streaming.head().await;

    stage.promote("production", 2);

    from_old.say("3\r\nold\r\n0\r\n\r\n").await;
    assert_eq!(streaming.chunk().await.as_deref(), Some("old"));
    assert_eq!(streaming.chunk().await, None);
    streaming.say(&get("/next", &[])).await;
    let mut from_new = new.accept().await;
    from_new.message().await;
    from_new.say(&ok("new")).await;
    let answer = streaming.message().await;
    assert_eq!(answer.body, "new");
    assert_eq!(answer.header("x-deployment-id"), Some(deployment(2).to_string().as_str()));
}

#[tokio::test]
async fn invariant_2_a_pool_that_closes_takes_no_new_request_and_finishes_what_it_has() {
    let (old, new) = (Replica::listen().await, Replica::listen().await);
    let mut stage = Stage::serving(&[&old]);
    let mut running = stage.send(&get("/", &[])).await;
    let mut from_old = old.accept().await;
    from_old.message().await;
    stage.change_pool(|pool| pool.state = repoint::model::change::PoolRecordState::Closing);
    stage.pool("production", 2, &[&new]).environment("production", Some(2)).publish();

    let pinned = get("/", &[&format!("X-Deployment-ID: {}", deployment(1))]);
    assert_eq!(stage.send(&pinned).await.message().await.code(), "deployment_not_found");
    from_old.say(&ok("finished")).await;
    assert_eq!(running.message().await.body, "finished");
    until(|| stage.live.busy().pools.is_empty()).await;
}

#[tokio::test]
async fn a_draining_endpoint_gets_nothing_new() {
    let (going, staying) = (Replica::listen().await, Replica::listen().await);
    let mut stage = Stage::serving(&[&going, &staying]);
    stage.change_pool(|pool| pool.endpoints[0].draining = true).publish();
    for _ in 0..8 {
        let mut client = stage.send(&get("/", &[])).await;
        let mut upstream = staying.accept().await;
        upstream.message().await;
        upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.message().await.status(), 200);
    }
    assert!(going.is_alone().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_under_load_lose_nothing_and_take_effect_at_once() {
    let one = Replica::listen().await.always("one");
    let two = Replica::listen().await.always("two");
    let mut stage = Stage::open();
    stage
        .environment("production", Some(1))
        .pool_at("production", 1, &[one])
        .pool_at("production", 2, &[two])
        .publish();
    let address = stage.address();
    let stop = Arc::new(AtomicBool::new(false));
    let load = (0..8).map(|_| {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let mut client = Wire::new(tokio::net::TcpStream::connect(address).await.unwrap());
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                let request = if answers % 2 == 0 { get("/", &[]) } else { post("/", &["Content-Length: 4"]) + "body" };
                client.say(&request).await;
                let answer = client.message().await;
                assert_eq!(answer.status(), 200, "{answer}");
                let said_by = if answer.body == "one" { deployment(1) } else { deployment(2) };
                assert_eq!(answer.header("x-deployment-id"), Some(said_by.to_string().as_str()));
                answers += 1;
            }
            answers
        })
    });
    let load: Vec<_> = load.collect();
    let mut watcher = stage.connect().await;
    for n in 0..200 {
        let to = 1 + n % 2;
        stage.promote("production", to);
        watcher.say(&get("/", &[])).await;
        assert_eq!(watcher.message().await.body, if to == 1 { "one" } else { "two" });
    }
    stop.store(true, Ordering::Relaxed);
    let mut answers = 0;
    for client in load {
        answers += client.await.unwrap();
    }
    assert!(answers > 200, "{answers}");
    until(|| stage.in_flight("production", 1) + stage.in_flight("production", 2) == 0).await;
}
