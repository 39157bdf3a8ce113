//! Claims and the writer beside each other, in every order of their steps.
//!
//! The file of the claim is compiled here with loom's atomics in place of the
//! standard library's. What must hold in each order is invariant 2: once a pool
//! is closed and its sum was zero, nobody holds a claim on it, and nobody gets
//! one, also while its cores begin to count apart.

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use claim::Claims;

/// Stands in for `routing::sync`.
mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering};

    /// A value that is set once. `ready` is the model; the value behind it is
    /// reached only by who has seen it set.
    #[derive(Debug)]
    pub struct OnceLock<T> {
        ready: AtomicU64,
        value: std::sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        pub fn new() -> Self {
            Self { ready: AtomicU64::new(0), value: std::sync::OnceLock::new() }
        }

        pub fn get(&self) -> Option<&T> {
            self.value.get().filter(|_| self.ready.load(Ordering::Acquire) == 1)
        }

        pub fn set(&self, value: T) -> Result<(), T> {
            self.value.set(value)?;
            self.ready.store(1, Ordering::Release);
            Ok(())
        }
    }

    /// Counts how often it was rung.
    #[derive(Debug)]
    pub struct Notify(AtomicU64);

    impl Notify {
        pub fn new() -> Self {
            Self(AtomicU64::new(0))
        }

        pub fn notify_one(&self) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }

        pub fn rung(&self) -> u64 {
            self.0.load(Ordering::Acquire)
        }
    }
}

#[allow(dead_code, reason = "only what runs beside something else is called here")]
#[path = "../src/routing/claim.rs"]
mod claim;

fn claims() -> (Arc<Claims>, Arc<sync::Notify>) {
    let idle = Arc::new(sync::Notify::new());
    (Claims::new(Arc::clone(&idle)), idle)
}

/// Every order in which the steps can be taken, with at most two switches
/// against a thread's will: three take a minute and show the same.
fn model(story: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(story);
}

#[test]
fn invariant_2_what_was_closed_and_idle_once_grants_no_claim() {
    for apart in [false, true] {
        model(move || {
            let (claims, _) = claims();
            if apart {
                claims.spread(2);
            }
            let threads = [0, 1].map(|core| {
                let claims = Arc::clone(&claims);
                thread::spawn(move || claims.claim(core))
            });
            claims.close();
            let was_idle = claims.in_flight() == 0;
            let held = threads.map(|thread| thread.join().unwrap());
            assert!(!was_idle || held.iter().all(Option::is_none), "idle, with a claim on it");
            assert_eq!(claims.in_flight(), held.iter().flatten().count() as u64);
            assert!(claims.claim(0).is_none());
        });
    }
}

#[test]
fn invariant_2_closing_holds_while_cores_begin_to_count_apart() {
    model(|| {
        let (claims, _) = claims();
        let threads = [0, 1].map(|core| {
            let claims = Arc::clone(&claims);
            thread::spawn(move || claims.claim(core))
        });
        claims.spread(2);
        claims.close();
        let was_idle = claims.in_flight() == 0;
        let held = threads.map(|thread| thread.join().unwrap());
        assert!(!was_idle || held.iter().all(Option::is_none), "idle, with a claim on it");
        drop(held);
        assert_eq!(claims.in_flight(), 0);
    });
}

#[test]
fn what_is_closed_before_its_cores_count_apart_stays_closed() {
    model(|| {
        let (claims, _) = claims();
        claims.close();
        let late = {
            let claims = Arc::clone(&claims);
            thread::spawn(move || claims.claim(1).is_some())
        };
        claims.spread(2);
        assert!(!late.join().unwrap());
        assert_eq!(claims.in_flight(), 0);
    });
}

#[test]
fn no_claim_is_lost_or_counted_twice_while_cores_begin_to_count_apart() {
    model(|| {
        let (claims, _) = claims();
        let threads = [0, 1].map(|core| {
            let claims = Arc::clone(&claims);
            thread::spawn(move || {
                let (first, second) = (claims.claim(core), claims.claim(core));
                drop(first);
                second
            })
        });
        claims.spread(2);
        let held = threads.map(|thread| thread.join().unwrap());
        assert_eq!((claims.in_flight(), claims.total()), (2, 4));
        drop(held);
        assert_eq!(claims.in_flight(), 0);
    });
}

#[test]
fn the_end_of_the_last_claim_is_rung_or_seen_by_who_closes() {
    model(|| {
        let (claims, idle) = claims();
        let running = claims.claim(0).unwrap();
        let ends = thread::spawn(move || drop(running));
        claims.spread(2);
        claims.close();
        let was_idle = claims.in_flight() == 0;
        ends.join().unwrap();
        assert!(was_idle || idle.rung() > 0, "busy when it was closed, and nobody was told of its end");
    });
}

/// The steps of `Live::publish` beside those of `Reader::claim`: a pool opens, the
/// table that leads to it takes the place of the other, the other pool closes. A
/// reader compares the table's address without ordering anything (`arc_swap`'s
/// cache does): that it meets the newer one is for the closed bit to bring about.
#[test]
fn invariant_2_a_request_that_meets_a_closed_pool_finds_the_newer_table() {
    model(|| {
        let pools = [claims().0, claims().0];
        pools[1].close();
        let table = Arc::new(AtomicUsize::new(0));
        let request = {
            let (pools, table) = (pools.clone(), Arc::clone(&table));
            thread::spawn(move || {
                let tries = (0..2).find_map(|_| {
                    let leads_to = table.load(Ordering::Relaxed);
                    Some((leads_to, pools[leads_to].claim(0)?))
                });
                tries.expect("a table leads to an open pool at the second try")
            })
        };
        pools[1].open();
        table.store(1, Ordering::Release);
        pools[0].close();
        let was_idle = pools[0].in_flight() == 0;
        let (leads_to, claim) = request.join().unwrap();
        assert!(leads_to == 1 || !was_idle, "idle, with a request on its way");
        drop(claim);
        assert_eq!((pools[0].in_flight(), pools[1].in_flight()), (0, 0));
    });
}
