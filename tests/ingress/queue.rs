//! The queue before replicas that take only so many requests at once.

use crate::support::*;

/// `production` on deployment 1, whose replicas take one request each.
fn limited(replicas: &[&Replica], queue_max: u64, queue_timeout_ms: u64) -> Stage {
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).policy(|policy| {
        policy.endpoint_concurrency_max = 1;
        policy.queue_max = queue_max;
        policy.queue_timeout_ms = queue_timeout_ms;
    });
    stage.pool("production", 1, replicas).publish();
    stage
}

async fn queued(stage: &Stage, count: usize) {
    let line = format!("repoint_ingress_requests_queued {count}");
    until(|| stage.metrics.text().unwrap().lines().any(|have| have == line)).await;
}

#[tokio::test]
async fn requests_wait_for_a_replica_with_room_and_go_in_their_order() {
    let replica = Replica::listen().await;
    let stage = limited(&[&replica], 10, 60_000);
    let mut clients = Vec::new();
    for (path, waiting) in [("/0", 0), ("/1", 1), ("/2", 2), ("/3", 3)] {
        clients.push(stage.send(&get(path, &["Connection: close"])).await);
        if waiting == 0 {
            until(|| stage.in_flight("production", 1) == 1).await;
        }
        queued(&stage, waiting).await;
    }
    for (at, client) in clients.iter_mut().enumerate() {
        let mut upstream = replica.accept().await;
        assert!(upstream.message().await.line.contains(&format!("/{at} ")));
        assert!(replica.is_alone().await, "one at a time");
        upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n.").await;
        assert_eq!(client.message().await.status(), 200);
    }
    queued(&stage, 0).await;
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn each_replica_is_given_its_own_number() {
    let (first, second) = (Replica::listen().await, Replica::listen().await);
    let stage = limited(&[&first, &second], 10, 60_000);
    let _a = stage.send(&get("/a", &[])).await;
    let _b = stage.send(&get("/b", &[])).await;
    let (mut one, mut other) = (first.accept().await, second.accept().await);
    one.message().await;
    other.message().await;
    let _c = stage.send(&get("/c", &[])).await;
    queued(&stage, 1).await;
    assert!(first.is_alone().await && second.is_alone().await);
}

#[tokio::test]
async fn a_full_queue_and_a_long_wait_are_told_at_once_and_change_nothing() {
    let replica = Replica::listen().await;
    let mut stage = limited(&[&replica], 1, 60_000);
    let mut running = stage.send(&get("/long", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let waiting = stage.send(&get("/waits", &[])).await;
    queued(&stage, 1).await;
    let refused = stage.send(&get("/refused", &[])).await.message().await;
    assert_eq!((refused.status(), refused.code().as_str()), (503, "queue_full"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // A client that leaves leaves the queue too.
    drop(waiting);
    queued(&stage, 0).await;

    stage.policy(|policy| policy.queue_timeout_ms = 1).publish();
    let late = stage.send(&get("/late", &[])).await.message().await;
    assert_eq!((late.status(), late.code().as_str()), (503, "queue_timeout"));
    assert!(replica.is_alone().await, "no replica hears of them");
    assert_eq!(stage.in_flight("production", 1), 1);
    upstream.say(&ok("done")).await;
    assert_eq!(running.message().await.body, "done");
}

#[tokio::test]
async fn invariant_10_who_waits_holds_no_claim_and_goes_where_the_pointer_goes() {
    let (old, new) = (Replica::listen().await, Replica::listen().await);
    let mut stage = limited(&[&old], 10, 60_000);
    stage.pool("production", 2, &[&new]).publish();
    let _running = stage.send(&get("/long", &[])).await;
    let mut upstream = old.accept().await;
    upstream.message().await;
    let mut client = stage.send(&get("/waits", &[])).await;
    queued(&stage, 1).await;
    until(|| stage.in_flight("production", 1) == 1).await;
    stage.promote("production", 2);
    let mut elsewhere = new.accept().await;
    elsewhere.message().await;
    elsewhere.say(&ok("new")).await;
    assert_eq!(client.message().await.body, "new");
}
