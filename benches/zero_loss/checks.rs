//! What was counted, and what was wrong.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a run.
#[derive(Default)]
pub struct Tally {
    pub gets: AtomicU64,
    pub posts: AtomicU64,
    pub streams: AtomicU64,
    pub tokens: AtomicU64,
    pub exact: AtomicU64,
    wrong: AtomicU64,
    lines: Mutex<Vec<String>>,
}

/// The counters at the end.
pub struct Counts {
    pub answers: u64,
    pub gets: u64,
    pub posts: u64,
    pub streams: u64,
    pub tokens: u64,
    pub exact: u64,
    pub wrong: u64,
}

/// Lines kept of what was wrong; the rest is counted.
const LINES_MAX: usize = 20;

impl Tally {
    /// Counts something wrong and keeps its line.
    pub fn wrong(&self, line: String) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        let mut lines = self.lines.lock().expect("nobody panics while holding it");
        if lines.len() < LINES_MAX {
            lines.push(line);
        }
    }

    pub fn first_wrong(&self) -> Vec<String> {
        self.lines.lock().expect("nobody panics while holding it").clone()
    }

    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (gets, posts, streams) = (of(&self.gets), of(&self.posts), of(&self.streams));
        let (tokens, exact, wrong) = (of(&self.tokens), of(&self.exact), of(&self.wrong));
        Counts { answers: gets + posts + streams, gets, posts, streams, tokens, exact, wrong }
    }
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
