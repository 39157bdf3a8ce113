//! Counted limits of the whole process, and what happens at them.
//!
//! Invariant 12: every count has a named limit and a stated behaviour. These are
//! exact for this process; each is one counter that only connections and HTTP/2
//! requests touch, never a plain HTTP/1 request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A count that may not pass its limit.
#[derive(Debug)]
pub(super) struct Limit {
    taken: AtomicUsize,
    max: usize,
}

impl Limit {
    /// A limit of `max`, nothing taken.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max })
    }

    /// Whether three of four are taken.
    pub(super) fn is_scarce(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.max - self.max / 4
    }

    /// Takes one; `None` at the limit.
    pub(super) fn take(self: &Arc<Self>) -> Option<Permit> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        // Gives back what was added, also when it was too much.
        let permit = Permit(Arc::clone(self));
        (before < self.max).then_some(permit)
    }
}

/// Whether more than `max` run, of which `here` on this core. The other cores'
/// counts are asked for only when this one's share is half used, for looking at
/// them makes them slower; small limits are always told exactly.
pub(super) fn is_over(max: u64, cores: usize, here: u64, total: impl FnOnce() -> u64) -> bool {
    let cores = cores as u64;
    let watermark = if max <= SMALL_SHARE * cores { 0 } else { max / (2 * cores) };
    here > watermark && total() > max
}

/// Up to so many for each core a limit is exact.
const SMALL_SHARE: u64 = 64;

/// One of what is limited; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Limit>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_looked_at_first_and_small_limits_are_exact() {
        assert!(is_over(2, 4, 1, || 3));
        assert!(!is_over(2, 4, 1, || 2));
        assert!(is_over(1_000, 2, 251, || 1_001));
        assert!(!is_over(1_000, 2, 250, || unreachable!("half a share is not used")));
    }

    #[test]
    fn a_limit_gives_out_no_more_than_it_has() {
        let limit = Limit::new(2);
        let (first, _second) = (limit.take().unwrap(), limit.take().unwrap());
        assert!(limit.take().is_none());
        assert!(limit.take().is_none());
        drop(first);
        assert!(limit.take().is_some());
    }
}
