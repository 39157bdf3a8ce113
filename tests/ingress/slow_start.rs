//! A replica that joins others starts slowly, where the environment says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;

/// How long a replica is new. Far longer than the requests take that are counted meanwhile.
const WINDOW: Duration = Duration::from_secs(3);

/// Answers every request and counts them.
fn counted(replica: Replica) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let (address, count) = (replica.address, Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut wire, counts) = (replica.accept_whenever().await, Arc::clone(&counts));
            tokio::spawn(async move {
                while wire.next_request().await.is_some() {
                    counts.fetch_add(1, Ordering::SeqCst);
                    wire.say(&ok("")).await;
                }
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_replica_that_joins_gets_fewer_requests_at_first_and_its_share_later() {
    let (first, _) = counted(Replica::listen().await);
    let (second, _) = counted(Replica::listen().await);
    let (third, joined) = counted(Replica::listen().await);
    let mut stage = Stage::with(|config| config.threads = Some(1.try_into().unwrap()));
    stage.environment("production", Some(1));
    stage.policy(|policy| policy.slow_start_ms = WINDOW.as_millis() as u64);
    stage.pool_at("production", 1, &[first, second]).publish();
    let mut client = stage.connect().await;
    let began = Instant::now();
    // Until the first two are new no longer.
    while began.elapsed() < WINDOW + WINDOW / 10 {
        client.say(&get("/", &[])).await;
        client.message().await;
    }

    stage.pool_at("production", 1, &[first, second, third]).publish();
    let began = Instant::now();
    let mut early = 0;
    for _ in 0..60 {
        client.say(&get("/", &[])).await;
        client.message().await;
        if began.elapsed() < WINDOW / 2 {
            early = joined.load(Ordering::SeqCst);
        }
    }
    // Chosen with nothing else to do, it seems to carry more than either of the others.
    assert_eq!(early, 0);
    soon(async {
        while joined.load(Ordering::SeqCst) < 20 {
            client.say(&get("/", &[])).await;
            client.message().await;
        }
    })
    .await;
}
