//! The real binary, started and spoken to by tests and benches.
//!
//! Owns processes and sockets of a run and ends them when dropped. Waits for
//! values with a deadline and never for a while.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod api;
pub mod http;
pub mod relay;
pub mod replica;
pub mod server;

use std::time::{Duration, Instant};

/// Longest wait for anything: generous, for a slow, busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until the answer is there.
///
/// # Panics
///
/// When it is not there by the deadline; `what` says what was waited for.
#[track_caller]
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, ask).unwrap_or_else(|| panic!("waited {DEADLINE:?} for {what}"))
}

/// Asks until the answer is there, or for so long.
pub fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= end {
            return answer;
        }
        // The pause between two looks, not the wait.
        std::thread::sleep(Duration::from_millis(10));
    }
}
