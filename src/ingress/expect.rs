//! `Expect: 100-continue`: the client is asked for its body when the replica asks.
//!
//! The head goes to the replica at once. The body waits behind a gate, which
//! opens with the replica's 100, or after a while, because a replica may not
//! know the header (RFC 9110 §10.1.1). Passing the gate is what makes hyper's
//! server send 100 to the client. A final answer that comes first leaves the
//! gate shut: the client never sends the body.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

/// What holds a body back; taken away when the replica asks.
pub(super) struct Gate {
    patience: Pin<Box<Sleep>>,
}

impl Gate {
    /// Shut; opens by itself after `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience: Box::pin(tokio::time::sleep(patience)) }
    }

    /// Resolves when it is open.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.patience.as_mut().poll(cx)
    }
}
