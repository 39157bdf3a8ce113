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

    /// Takes one; `None` at the limit.
    pub(super) fn take(self: &Arc<Self>) -> Option<Permit> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        // Gives back what was added, also when it was too much.
        let permit = Permit(Arc::clone(self));
        (before < self.max).then_some(permit)
    }
}

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
    fn a_limit_gives_out_no_more_than_it_has() {
        let limit = Limit::new(2);
        let (first, _second) = (limit.take().unwrap(), limit.take().unwrap());
        assert!(limit.take().is_none());
        assert!(limit.take().is_none());
        drop(first);
        assert!(limit.take().is_some());
    }
}
