//! When to connect again.

use std::time::Duration;

use crate::wire::response::GoAway;

/// Counts attempts that came to nothing.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    /// Over which time the control plane wants its fleet to come back.
    spread: Duration,
}

/// First pause at most: a restarted control plane is found again at once.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest pause: a third of the time in which a silent proxy is still waited for.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// A stream that lived this long was a good one.
const LIVED: Duration = Duration::from_secs(10);

impl Backoff {
    /// The control plane has said over which time proxies are to come back
    /// should it be lost without a word.
    pub fn welcomed(&mut self, spread: Duration) {
        self.spread = spread.min(PAUSE_MAX);
    }

    /// The pause after a stream that lived for `lived`; `chance` is anywhere in
    /// 0..1. Full jitter: everybody who lost the same control plane comes back
    /// at a different moment.
    pub fn pause(&mut self, lived: Duration, chance: f64) -> Duration {
        if lived >= LIVED {
            self.failures = 0;
        }
        let grown = PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        // Everybody's first attempt comes within the spread; later ones are spread by themselves.
        let limit = if self.failures == 0 { grown.max(self.spread) } else { grown };
        self.failures = self.failures.saturating_add(1);
        limit.mul_f64(chance)
    }

    /// The pause the control plane asked for, within reason.
    pub fn asked(away: GoAway, chance: f64) -> Duration {
        (away.delay + away.spread.mul_f64(chance)).min(ASKED_MAX)
    }
}

/// 10 min: a mistaken GoAway must not cost a proxy more.
const ASKED_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::response::GoAwayReason;

    #[test]
    fn pauses_grow_to_a_limit_and_shrink_after_a_good_stream() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause(Duration::ZERO, 1.0).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
        assert_eq!(backoff.pause(LIVED, 1.0), PAUSE_MIN);
        assert_eq!(backoff.pause(Duration::ZERO, 0.0), Duration::ZERO);
    }

    #[test]
    fn the_first_attempt_comes_within_the_spread_that_was_agreed() {
        let mut backoff = Backoff::default();
        backoff.welcomed(Duration::from_secs(8));
        let first = |backoff: &mut Backoff, chance| backoff.pause(LIVED, chance);
        assert_eq!(first(&mut backoff, 1.0), Duration::from_secs(8));
        assert_eq!(first(&mut backoff, 0.25), Duration::from_secs(2));
        assert_eq!(backoff.pause(Duration::ZERO, 1.0), PAUSE_MIN * 2, "the next is spread by its growth");
        backoff.welcomed(Duration::from_secs(3_600));
        assert_eq!(first(&mut backoff, 1.0), PAUSE_MAX, "a mistaken spread must not cost more");
        backoff.welcomed(Duration::ZERO);
        assert_eq!(first(&mut backoff, 1.0), PAUSE_MIN);
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept_within_reason() {
        let away = |delay, spread| GoAway {
            reason: GoAwayReason::Overloaded,
            delay: Duration::from_secs(delay),
            spread: Duration::from_secs(spread),
        };
        assert_eq!(Backoff::asked(away(2, 4), 0.5), Duration::from_secs(4));
        assert_eq!(Backoff::asked(away(1 << 20, 0), 0.5), ASKED_MAX);
    }
}
