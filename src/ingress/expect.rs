//! `Expect: 100-continue`: the client is asked for its body when the replica asks.
//!
//! The head goes to the replica at once. The body waits behind a gate, which
//! opens with the replica's 100, or after a while, because a replica may not
//! know the header (RFC 9110 §10.1.1). Passing the gate is what makes hyper's
//! server send 100 to the client. A final answer that comes first leaves the
//! gate shut: the client never sends the body.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::{Request, StatusCode};
use tokio::time::Sleep;

/// The body's side.
pub(super) struct Gate {
    shared: Arc<Shared>,
    patience: Pin<Box<Sleep>>,
}

/// Shared with a callback that hyper wants to be `Send`.
#[derive(Default)]
struct Shared {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Gate {
    /// Shut; opens by itself after `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self { shared: Arc::default(), patience: Box::pin(tokio::time::sleep(patience)) }
    }

    /// The replica's side.
    pub(super) fn key(&self) -> Key {
        Key(Arc::clone(&self.shared))
    }

    /// Resolves when it is open.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.waker.register(cx.waker());
        if self.shared.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.patience.as_mut().poll(cx)
    }
}

/// The replica's side of a gate.
pub(super) struct Key(Arc<Shared>);

impl Key {
    /// Opens the gate when the answer to `request` says 100.
    pub(super) fn hand_to<B>(self, request: &mut Request<B>) {
        hyper::ext::on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                self.0.open.store(true, Ordering::Release);
                self.0.waker.wake();
            }
        });
    }
}
