//! How replicas end: asked first, then made to, and everything they started with them.

use std::time::Duration;

use repoint::model::event::What;
use repoint::model::pool::{PoolState, Rest};

use crate::bench::{Bench, is_alive, printed, until};

/// A worker that cannot be talked to, with a child that cannot either. It listens, so that it becomes ready.
const STUBBORN: &str = r#"
import os, signal, socket, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
child = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1000 & wait; done"])
print("child", child.pid, flush=True)
while True:
    listener.accept()[0].close()
"#;

fn stubborn(grace: &str) -> String {
    format!("[worker]\ncommand = [\"python3\", \"worker.py\"]\nstop_grace = \"{grace}\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ignores_sigterm_is_killed_with_all_it_started() {
    let mut bench = Bench::start().await;
    let key = bench.deploy(&stubborn("300ms"), &[("worker.py", STUBBORN)], 1).await;
    let pid = bench.until_ready(key, 1).await.endpoints[0].pid.unwrap();
    until("the child", || printed(&bench.logs, key, "child").len() == 1).await;
    let child = printed(&bench.logs, key, "child")[0];
    assert!(is_alive(pid) && is_alive(child));
    bench.close(key).await;
    bench.proxy_says(&[]);
    bench.until_state(key, PoolState::Stopped).await;
    until("both to end", || !is_alive(pid) && !is_alive(child)).await;
    let texts: Vec<_> = bench.logs.tail(key, None, 100).unwrap().into_iter().map(|line| line.text).collect();
    assert!(texts.contains(&"asked".to_owned()), "it was asked first: {texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_started_ends_when_the_replica_does() {
    let bench = Bench::start().await;
    let key = bench.deploy(&stubborn("5s"), &[("worker.py", STUBBORN)], 1).await;
    let pid = bench.until_ready(key, 1).await.endpoints[0].pid.unwrap();
    until("the child", || printed(&bench.logs, key, "child").len() == 1).await;
    let child = printed(&bench.logs, key, "child")[0];
    crate::bench::kill(pid, rustix::process::Signal::KILL);
    until("the child to end", || !is_alive(child)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_drain_stops_a_busy_pool_where_every_proxy_knows_it_is_closing() {
    let mut bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let pid = bench.until_ready(key, 1).await.endpoints[0].pid.unwrap();
    let mut environment = bench.environment.clone();
    environment.policy.max_drain_ms = 1;
    let mut writing = bench.store.write().await.unwrap();
    writing.update_environment(&environment).await.unwrap();
    writing.commit().await.unwrap();

    bench.proxy_is_behind();
    (1..30).for_each(|n| bench.another_is_behind(&format!("behind-{n}")));
    let mut events = bench.store.events();
    bench.close(key).await;
    let other = bench.deploy_mirror(1).await;
    bench.until_ready(other, 1).await;
    assert_eq!(bench.pool(key).await.state, PoolState::Closing, "a proxy does not know of it");
    assert!(is_alive(pid));
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let What::StopBlocked { deployment_id, blocked_by, blocked_by_count, .. } =
                events.recv().await.unwrap().what
            {
                return (deployment_id, blocked_by, blocked_by_count);
            }
        }
    });
    let (deployment, blocked_by, count) = told.await.expect("somebody is told");
    assert_eq!((deployment, blocked_by.len(), count), (key.deployment, 20, 30), "some are named, all are counted");
    assert!(blocked_by[0].contains("proxy behind") && blocked_by[0].contains("not applied"), "{blocked_by:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_drain_cuts_what_runs_too_long() {
    let mut bench = Bench::start().await;
    let mut environment = bench.environment.clone();
    environment.policy.max_drain_ms = 100;
    let mut writing = bench.store.write().await.unwrap();
    writing.update_environment(&environment).await.unwrap();
    writing.commit().await.unwrap();
    let key = bench.deploy_mirror(1).await;
    let pid = bench.until_ready(key, 1).await.endpoints[0].pid.unwrap();
    bench.close(key).await;
    bench.proxy_says(&[key]);
    bench.until_state(key, PoolState::Stopped).await;
    until("its end", || !is_alive(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_gives_nobody_more_time_than_there_is() {
    let mut bench = Bench::start().await;
    let key = bench.deploy(&stubborn("1h"), &[("worker.py", STUBBORN)], 1).await;
    let pid = bench.until_ready(key, 1).await.endpoints[0].pid.unwrap();
    until("the child", || printed(&bench.logs, key, "child").len() == 1).await;
    let child = printed(&bench.logs, key, "child")[0];
    let stopped = tokio::time::timeout(Duration::from_secs(20), bench.stop());
    // `stop` gives seconds; the worker wants an hour.
    stopped.await.expect("it stops in time");
    until("both to end", || !is_alive(pid) && !is_alive(child)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_goes_to_sleep_is_idle_when_it_is_drained_and_starts_again_when_wanted() {
    let mut bench = Bench::start().await;
    let key = bench.deploy_mirror(2).await;
    let first = bench.until_ready(key, 2).await;
    bench.close(key).await;
    bench.change(key, |pool| pool.closing_to = Some(Rest::Idle)).await;
    bench.proxy_says(&[]);
    let idle = bench.until_state(key, PoolState::Idle).await;
    assert_eq!((idle.endpoints.len(), idle.closing_revision, idle.bounds.min), (0, None, 2));
    let alive = || first.endpoints.iter().any(|endpoint| is_alive(endpoint.pid.unwrap()));
    until("its replicas to end", || !alive()).await;
    bench.change(key, |pool| pool.state = PoolState::Starting).await;
    bench.until_ready(key, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_from_before_a_reopening_stops_nothing() {
    let mut bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let pid = bench.until_ready(key, 1).await.endpoints[0].pid.unwrap();
    // Busy while it closes; opened again; then a proxy says, of the first closing, that it is idle.
    bench.proxy_says(&[key]);
    bench.close(key).await;
    let before = bench.store.head().revision;
    bench
        .change(key, |pool| {
            pool.state = PoolState::Running;
            (pool.closing_revision, pool.closing_since) = (None, None);
        })
        .await;
    bench.close(key).await;
    bench.proxy_says_at(before, &[]);
    let other = bench.deploy_mirror(1).await;
    bench.until_ready(other, 1).await;
    assert_eq!(bench.pool(key).await.state, PoolState::Closing, "that was another closing");
    assert!(is_alive(pid));
    bench.proxy_says(&[]);
    bench.until_state(key, PoolState::Stopped).await;
}
