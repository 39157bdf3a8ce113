//! How many replicas run, and which.

use std::collections::HashSet;

use repoint::model::pool::{EndpointState, Pool, PoolState};
use rustix::process::Signal;

use crate::bench::{Bench, is_alive, kill, ready, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_is_replaced_on_another_port() {
    let bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let mut ports = HashSet::new();
    for _ in 0..3 {
        let is_new = |pool: &Pool| ready(pool).first().is_some_and(|address| !ports.contains(&address.port()));
        let pool = bench.until(key, "a replica on a port not seen before", is_new).await;
        assert!(ports.insert(ready(&pool)[0].port()), "a port rests for a minute");
        kill(pool.endpoints[0].pid.unwrap(), Signal::KILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_up_starts_more_and_scaling_down_drains_the_newest() {
    let mut bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let oldest = bench.until_ready(key, 1).await.endpoints[0].clone();
    bench.change(key, |pool| pool.bounds.min = 2).await;
    let both = bench.until_ready(key, 2).await;
    let newest = both.endpoints.iter().find(|endpoint| endpoint.id != oldest.id).unwrap().clone();

    // A proxy that has not heard of it may be sending requests there.
    bench.proxy_is_behind();
    bench.change(key, |pool| pool.bounds.min = 1).await;
    let pool = bench.until(key, "a draining replica", has_draining).await;
    let draining = pool.endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Draining);
    assert_eq!(draining.map(|endpoint| endpoint.id).collect::<Vec<_>>(), [newest.id]);
    assert!(is_alive(newest.pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_replica_is_stopped_once_every_proxy_has_shown_it_idle() {
    let mut bench = Bench::start().await;
    let key = bench.deploy_mirror(2).await;
    let both = bench.until_ready(key, 2).await;
    bench.change(key, |pool| pool.bounds.min = 1).await;
    bench.until(key, "a draining replica", has_draining).await;
    bench.proxy_says(&[]);
    let pool = bench.until(key, "one replica", |pool| pool.endpoints.len() == 1).await;
    assert_eq!(pool.state, PoolState::Running);
    let gone = both.endpoints.iter().find(|endpoint| endpoint.id != pool.endpoints[0].id).unwrap().pid.unwrap();
    until("its end", || !is_alive(gone)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_9_a_closing_pool_runs_on_until_every_proxy_has_shown_it_idle() {
    let mut bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let pid = bench.until_ready(key, 1).await.endpoints[0].pid.unwrap();
    bench.close(key).await;
    bench.proxy_says(&[key]);
    // Another pool comes and goes: time enough to do wrong.
    let other = bench.deploy_mirror(1).await;
    bench.until_ready(other, 1).await;
    let pool = bench.pool(key).await;
    assert_eq!((pool.state, pool.ready_count(), is_alive(pid)), (PoolState::Closing, 1, true));

    bench.proxy_says(&[]);
    let pool = bench.until_state(key, PoolState::Stopped).await;
    assert_eq!((pool.endpoints.len(), pool.closing_revision, pool.closing_since), (0, None, None));
    until("its end", || !is_alive(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_opened_again_keeps_its_replicas() {
    let mut bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let before = bench.until_ready(key, 1).await;
    bench.close(key).await;
    bench.proxy_says(&[key]);
    bench
        .change(key, |pool| {
            pool.state = PoolState::Running;
            (pool.closing_revision, pool.closing_since) = (None, None);
        })
        .await;
    // Idle now, but the proof is of a closing that no longer is.
    bench.proxy_says(&[]);
    let other = bench.deploy_mirror(1).await;
    bench.until_ready(other, 1).await;
    let after = bench.until_ready(key, 1).await;
    assert_eq!(after.endpoints[0].id, before.endpoints[0].id);
    assert!(is_alive(before.endpoints[0].pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_replicas_are_started_anew_on_ports_of_their_own() {
    let mut bench = Bench::start_with(|config| config.ports = 29_900..=29_905).await;
    let key = bench.deploy_mirror(2).await;
    let before = bench.until_ready(key, 2).await;
    bench.stop().await;
    assert!(before.endpoints.iter().all(|endpoint| !is_alive(endpoint.pid.unwrap())), "stopping leaves nobody behind");
    assert_eq!(bench.pool(key).await.endpoints, before.endpoints, "rows stay as they were");

    bench.supervise(|config| config.ports = 29_900..=29_905).await;
    assert_eq!(bench.pool(key).await.endpoints, [], "before anything else");
    let after = bench.until_ready(key, 2).await;
    let ports = |pool| ready(pool).into_iter().map(|address| address.port()).collect::<HashSet<_>>();
    assert!(ports(&before).is_disjoint(&ports(&after)), "ports rest also over a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_row_is_gone_takes_its_replicas_along() {
    let bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let pid = bench.until_ready(key, 1).await.endpoints[0].pid.unwrap();
    let mut writing = bench.store.write().await.unwrap();
    writing.delete_pool(key).await.unwrap();
    writing.commit().await.unwrap();
    until("its end", || !is_alive(pid)).await;
    until("its output to be removed", || bench.logs.pools().unwrap().is_empty()).await;
}

fn has_draining(pool: &Pool) -> bool {
    pool.endpoints.iter().any(|endpoint| endpoint.state == EndpointState::Draining)
}
