//! Claims one after the other; `tests/loom.rs` has them beside each other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::claim::Claims;

/// Counters of two cores, apart or not.
fn claims(apart: bool) -> Arc<Claims> {
    let claims = Claims::new(Arc::default());
    if apart {
        claims.spread(2);
    }
    claims
}

#[test]
fn claims_are_counted_until_dropped() {
    for (apart, of_core) in [(false, 2), (true, 1)] {
        let claims = claims(apart);
        let (first, second) = (claims.claim(0).unwrap(), claims.claim(1).unwrap());
        assert_eq!((claims.in_flight(), claims.in_flight_of(0), claims.total()), (2, of_core, 2));
        drop(first);
        drop(second);
        assert_eq!((claims.in_flight(), claims.total()), (0, 2));
    }
}

#[test]
fn claims_taken_before_cores_count_apart_stay_counted() {
    let claims = claims(false);
    let before = claims.claim(0).unwrap();
    claims.spread(2);
    let after = claims.claim(0).unwrap();
    assert_eq!((claims.in_flight(), claims.in_flight_of(0), claims.total()), (2, 1, 2));
    claims.close();
    drop((before, after));
    assert_eq!(claims.in_flight(), 0);
}

#[test]
fn what_is_closed_stays_closed_when_cores_come_to_count_apart() {
    let claims = claims(false);
    claims.close();
    claims.spread(2);
    assert!(claims.claim(0).is_none());
    claims.open();
    assert!(claims.claim(0).is_some());
}

#[test]
fn a_closed_pool_refuses_new_claims_and_keeps_running_ones() {
    for apart in [false, true] {
        let claims = claims(apart);
        let running = claims.claim(0).unwrap();
        claims.close();
        assert!(claims.claim(0).is_none());
        assert!(claims.claim(1).is_none());
        assert_eq!(claims.in_flight(), 1);
        drop(running);
        assert_eq!(claims.in_flight(), 0);
        claims.open();
        assert!(claims.claim(1).is_some());
    }
}

#[tokio::test]
async fn the_end_of_the_last_claim_on_a_closed_pool_is_rung() {
    let idle = Arc::new(Notify::new());
    let claims = Claims::new(Arc::clone(&idle));
    let running = claims.claim(0).unwrap();
    claims.close();
    drop(running);
    tokio::time::timeout(Duration::from_secs(10), idle.notified()).await.unwrap();
}

#[test]
fn once_closed_and_idle_it_stays_idle_under_contention() {
    let claims = claims(false);
    std::thread::scope(|scope| {
        for core in 0..2 {
            let claims = &claims;
            scope.spawn(move || while claims.claim(core).is_some() {});
        }
        claims.spread(2);
        claims.close();
    });
    assert_eq!(claims.in_flight(), 0);
    assert!(claims.claim(0).is_none());
    assert_eq!(claims.in_flight(), 0);
}
