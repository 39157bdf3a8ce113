//! A claim: a request's hold on a pool or an endpoint, and the counters behind.
//!
//! Invariant 2: a claim is taken before the first await after resolve and is
//! dropped with the last byte of the answer. Once closed, no claim succeeds.
//!
//! One word per core, each with its own "closed" bit beside its count. Taking a
//! claim is one `fetch_add`: the bit comes back with the old count, so there is
//! no moment between "is it closed?" and "count me in". Closing sets the bit in
//! every word; once all are set, a sum of zero stays zero, because whoever adds
//! after that sees the bit, takes its one away again and is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counters of claims on one pool or one endpoint.
#[derive(Debug)]
pub struct Claims {
    words: Box<[Word]>,
    /// Rung when the last claim of a closed word ends, so that "idle" is
    /// reported at once and not with the next status.
    idle: Arc<Notify>,
}

/// Aligned to a cache line of its own: cores never write to each other's.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Word {
    /// Running claims; the top bit says closed.
    count: AtomicU64,
    /// Claims ever taken here.
    total: AtomicU64,
}

const CLOSED: u64 = 1 << 63;

impl Claims {
    /// Open counters with a word for each of `cores` cores.
    pub fn new(cores: usize, idle: Arc<Notify>) -> Arc<Self> {
        let words = (0..cores.max(1)).map(|_| Word::default()).collect();
        Arc::new(Self { words, idle })
    }

    /// Takes a claim from a thread of `core`; `None` when closed.
    pub fn claim(self: &Arc<Self>, core: usize) -> Option<Claim> {
        let core = core % self.words.len();
        let word = &self.words[core];
        // AcqRel: pairs with `close`, so that a claim that misses the bit is
        // seen by whoever sums after setting it.
        if word.count.fetch_add(1, Ordering::AcqRel) & CLOSED != 0 {
            self.release(core);
            return None;
        }
        word.total.fetch_add(1, Ordering::Relaxed);
        Some(Claim { claims: Arc::clone(self), core })
    }

    /// Refuses every claim from now on; running ones go on.
    pub fn close(&self) {
        for word in &self.words {
            word.count.fetch_or(CLOSED, Ordering::AcqRel);
        }
    }

    /// Grants claims again.
    pub fn open(&self) {
        for word in &self.words {
            word.count.fetch_and(!CLOSED, Ordering::AcqRel);
        }
    }

    /// Running claims.
    pub fn in_flight(&self) -> u64 {
        self.words.iter().map(|word| word.count.load(Ordering::Acquire) & !CLOSED).sum()
    }

    /// Running claims of one core: what its own choices can go by without
    /// touching another core's cache line.
    pub fn in_flight_of(&self, core: usize) -> u64 {
        self.words[core % self.words.len()].count.load(Ordering::Relaxed) & !CLOSED
    }

    /// Claims ever taken.
    pub fn total(&self) -> u64 {
        self.words.iter().map(|word| word.total.load(Ordering::Relaxed)).sum()
    }

    fn release(&self, core: usize) {
        let before = self.words[core].count.fetch_sub(1, Ordering::AcqRel);
        if before == CLOSED | 1 {
            self.idle.notify_one();
        }
    }
}

/// A hold on a pool or an endpoint; ends when dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Arc<Claims>,
    // The word it was counted in: a claim may be dropped on another thread.
    core: usize,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.release(self.core);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(cores: usize) -> Arc<Claims> {
        Claims::new(cores, Arc::new(Notify::new()))
    }

    #[test]
    fn claims_are_counted_until_dropped() {
        let claims = claims(2);
        let (first, second) = (claims.claim(0).unwrap(), claims.claim(1).unwrap());
        assert_eq!((claims.in_flight(), claims.in_flight_of(0), claims.total()), (2, 1, 2));
        drop(first);
        drop(second);
        assert_eq!((claims.in_flight(), claims.total()), (0, 2));
    }

    #[test]
    fn a_closed_pool_refuses_new_claims_and_keeps_running_ones() {
        let claims = claims(2);
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

    #[tokio::test]
    async fn the_end_of_the_last_claim_on_a_closed_pool_is_rung() {
        let idle = Arc::new(Notify::new());
        let claims = Claims::new(1, Arc::clone(&idle));
        let running = claims.claim(0).unwrap();
        claims.close();
        drop(running);
        tokio::time::timeout(std::time::Duration::from_secs(10), idle.notified()).await.unwrap();
    }

    #[test]
    fn once_closed_and_idle_it_stays_idle_under_contention() {
        let claims = claims(2);
        std::thread::scope(|scope| {
            for core in 0..2 {
                let claims = &claims;
                scope.spawn(move || while claims.claim(core).is_some() {});
            }
            claims.close();
        });
        assert_eq!(claims.in_flight(), 0);
        assert!(claims.claim(0).is_none());
        assert_eq!(claims.in_flight(), 0);
    }
}
