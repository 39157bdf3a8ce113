//! What this core's own connections say of a replica's health.
//!
//! Passive: probing is the control plane's business. A replica that refuses
//! connections is left out for a while that grows, until one succeeds. Pure.

use std::time::{Duration, Instant};

/// How a replica did lately.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Health {
    /// Connections that failed in a row.
    failures: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

/// One refused connection may be a full accept queue; two in a row are a pattern.
const FAILURES_MIN: u32 = 2;
/// A replica restarted in place is back within a second or two.
const FIRST: Duration = Duration::from_secs(1);
/// By now the control plane has seen it too and takes the endpoint out.
const LONGEST: Duration = Duration::from_secs(30);

impl Health {
    /// A connection failed. Answers whether it is left out from now on, and was
    /// not before.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let before = self.is_ejected(now);
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        if let Some(doublings) = self.failures.checked_sub(FAILURES_MIN) {
            self.until = Some(now + LONGEST.min(FIRST * 2u32.saturating_pow(doublings.min(16))));
        }
        !before && self.is_ejected(now)
    }

    /// It answered.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Whether it is to be left out now.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Whether nothing is known against it.
    pub(super) fn is_well(&self) -> bool {
        self.failures == 0
    }

    /// Whether what is known is too old to matter.
    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now > last + LONGEST * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_failures_in_a_row_leave_it_out_for_a_while_that_grows() {
        let start = Instant::now();
        let mut health = Health::default();
        health.failed(start);
        assert!(!health.is_ejected(start));
        health.failed(start);
        assert!(health.is_ejected(start) && !health.is_ejected(start + FIRST));
        health.failed(start);
        assert!(health.is_ejected(start + FIRST) && !health.is_ejected(start + FIRST * 2));
        for _ in 0..100 {
            health.failed(start);
        }
        assert!(health.is_ejected(start + FIRST * 16) && !health.is_ejected(start + LONGEST));
    }

    #[test]
    fn an_answer_clears_it() {
        let start = Instant::now();
        let mut health = Health::default();
        health.failed(start);
        health.failed(start);
        health.succeeded();
        health.failed(start);
        assert!(!health.is_ejected(start));
    }

    #[test]
    fn old_failures_are_forgotten() {
        let start = Instant::now();
        let mut health = Health::default();
        assert!(health.is_forgettable(start));
        health.failed(start);
        assert!(!health.is_forgettable(start + LONGEST));
        assert!(health.is_forgettable(start + LONGEST * 3));
    }
}
