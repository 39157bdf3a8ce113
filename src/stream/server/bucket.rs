//! How many proxies may introduce themselves at a time.
//!
//! A Hello costs a handshake, a look into the log and a row: ten thousand in one
//! second would starve the moves of those that are connected. Pure: `now` is an
//! argument. Who finds no token is sent away by `stream` before any of that work.

use std::time::{Duration, Instant};

/// A bucket of tokens, one for each Hello.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    size: f64,
    tokens: f64,
    filled: Instant,
    /// Sent away since the bucket was full: they come back, and need tokens then.
    refused: u32,
}

/// Nobody is asked to stay away for longer: as long as the longest reconnect delay.
const AWAY_MAX: Duration = Duration::from_secs(20);

impl Bucket {
    /// A full one that takes `size` at once and `per_second` for long.
    pub fn new(per_second: u32, size: u32, now: Instant) -> Self {
        let size = f64::from(size);
        Self { per_second: f64::from(per_second.max(1)), size, tokens: size, filled: now, refused: 0 }
    }

    /// Takes a token. Without one: the time over which whoever asks should come
    /// back, long enough that all who were refused find tokens then.
    ///
    /// # Errors
    ///
    /// When there is no token.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * self.per_second).min(self.size);
        self.filled = now;
        if self.tokens >= self.size {
            self.refused = 0;
        }
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        self.refused = self.refused.saturating_add(1);
        Err(Duration::from_secs_f64(f64::from(self.refused) / self.per_second).min(AWAY_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_fit_are_let_in_at_once_and_then_as_many_as_come_in() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 3, start);
        assert_eq!((0..5).filter(|_| bucket.take(start).is_ok()).count(), 3);
        let later = start + Duration::from_millis(200);
        assert_eq!((0..5).filter(|_| bucket.take(later).is_ok()).count(), 2);
        let much_later = start + Duration::from_secs(60);
        assert_eq!((0..5).filter(|_| bucket.take(much_later).is_ok()).count(), 3, "no more than fit are saved up");
    }

    #[test]
    fn who_is_refused_comes_back_over_a_time_in_which_all_of_them_find_tokens() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 1, start);
        assert_eq!(bucket.take(start), Ok(()));
        for refused in 1..=50_u64 {
            assert_eq!(bucket.take(start), Err(Duration::from_millis(100 * refused)));
        }
        assert_eq!((0..1_000).filter_map(|_| bucket.take(start).err()).max(), Some(AWAY_MAX));
        let full = start + Duration::from_secs(1);
        assert_eq!(bucket.take(full), Ok(()));
        assert_eq!(bucket.take(full), Err(Duration::from_millis(100)), "a full bucket has forgotten them");
    }

    #[test]
    fn a_clock_that_stands_still_or_steps_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut bucket = Bucket::new(10, 1, start);
        assert_eq!(bucket.take(start), Ok(()));
        assert!(bucket.take(start - Duration::from_secs(1)).is_err());
    }
}
