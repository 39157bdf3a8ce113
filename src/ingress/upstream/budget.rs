//! The retry budget: what keeps retries from becoming an outage of their own.
//!
//! Per core, over a sliding window: a tenth of the requests, and three a second.
//! Pure: `now` is an argument.

use std::time::{Duration, Instant};

/// Requests and retries of the last one to two half windows.
#[derive(Debug)]
pub(super) struct Budget {
    begun: Instant,
    current: Half,
    previous: Half,
}

#[derive(Debug, Default, Clone, Copy)]
struct Half {
    requests: u64,
    retries: u64,
}

/// Long enough that a replica's end at full load (every connection at once)
/// draws on many seconds of requests, short enough to forget a quiet night.
const HALF_WINDOW: Duration = Duration::from_secs(10);
const REQUESTS_PER_RETRY: u64 = 10;
/// Three a second over the whole window, for cores with little to do.
const RETRIES_MIN: u64 = 60;

impl Budget {
    /// Nothing spent.
    pub(super) fn new(now: Instant) -> Self {
        Self { begun: now, current: Half::default(), previous: Half::default() }
    }

    /// A request has arrived.
    pub(super) fn request(&mut self, now: Instant) {
        self.turn(now);
        self.current.requests += 1;
    }

    /// Whether a retry may be sent; if so, it is spent.
    pub(super) fn retry(&mut self, now: Instant) -> bool {
        self.turn(now);
        let requests = self.current.requests + self.previous.requests;
        let retries = self.current.retries + self.previous.retries;
        let may = retries < requests / REQUESTS_PER_RETRY + RETRIES_MIN;
        self.current.retries += u64::from(may);
        may
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.begun);
        if passed < HALF_WINDOW {
            return;
        }
        self.previous = if passed < HALF_WINDOW * 2 { self.current } else { Half::default() };
        self.current = Half::default();
        self.begun = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(budget: &mut Budget, now: Instant) -> u64 {
        (0..1_000_000).take_while(|_| budget.retry(now)).count() as u64
    }

    #[test]
    fn a_tenth_of_the_requests_may_be_sent_again_and_a_few() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!(retries(&mut budget, start), RETRIES_MIN);
        for _ in 0..5_000 {
            budget.request(start);
        }
        assert_eq!(retries(&mut budget, start), 500);
    }

    #[test]
    fn what_was_spent_comes_back_with_time() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        retries(&mut budget, start);
        assert_eq!(retries(&mut budget, start + HALF_WINDOW), 0);
        assert_eq!(retries(&mut budget, start + HALF_WINDOW * 2), RETRIES_MIN);
        assert_eq!(retries(&mut budget, start + HALF_WINDOW * 20), RETRIES_MIN);
    }
}
