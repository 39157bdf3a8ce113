//! How often a proxy acknowledges.
//!
//! The control plane sends what has changed once the frame before is acknowledged,
//! so this is what puts changes together when a great many come: each frame costs a
//! swap, a write to disk and a few wake-ups, however little is in it. A few in a row
//! are acknowledged at once. Pure: `now` is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Acknowledgements of one stream.
#[derive(Debug)]
pub struct Pace {
    /// When all that were made are paid for.
    paid: Instant,
}

/// 10 ms: where a thousand pointers move each second, ten moves share a frame, and the
/// last of them waits for no longer than this.
const EACH: Duration = Duration::from_millis(10);

/// So many go at once after a quiet time: a person's moves, and a program's that waits
/// for each before the next, seldom come to more.
const AT_ONCE: u32 = 50;

impl Pace {
    /// Nothing acknowledged yet.
    pub fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// When the next one may go; not later than `now` where that is at once.
    pub fn due(&self, now: Instant) -> Instant {
        if self.paid <= now + EACH * (AT_ONCE - 1) { now } else { self.paid - EACH * (AT_ONCE - 1) }
    }

    /// One goes.
    pub fn goes(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + EACH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_go_at_once_and_then_one_each_ten_milliseconds() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..AT_ONCE {
            assert_eq!(pace.due(start), start);
            pace.goes(start);
        }
        assert_eq!(pace.due(start), start + EACH);
        let later = start + EACH;
        assert_eq!(pace.due(later), later);
        pace.goes(later);
        assert_eq!(pace.due(later), later + EACH);
        let quiet = later + EACH * AT_ONCE * 10;
        assert_eq!(
            (0..2 * AT_ONCE)
                .filter(|_| {
                    let is_due = pace.due(quiet) == quiet;
                    if is_due {
                        pace.goes(quiet)
                    }
                    is_due
                })
                .count(),
            AT_ONCE as usize,
            "no more than that is saved up"
        );
    }
}
