//! Bodies of the demo worker: whole, or token by token.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// What an answer carries.
pub(super) enum Answer {
    /// Everything at once.
    Whole(Full<Bytes>),
    /// Server-sent events (WHATWG HTML §9.2), one a token.
    Tokens(Tokens),
}

/// Tokens to come.
pub(super) struct Tokens {
    pub(super) prefix: String,
    pub(super) next: u64,
    pub(super) count: u64,
    pub(super) delay: Duration,
    pub(super) sleep: Pin<Box<Sleep>>,
}

impl Tokens {
    fn event(&mut self) -> Bytes {
        let word = WORDS[self.next as usize % WORDS.len()];
        let event = format!("data: {},\"token\":{},\"text\":\"{word}\"}}\n\n", self.prefix, self.next);
        self.next += 1;
        self.sleep.as_mut().reset(Instant::now() + self.delay);
        event.into()
    }
}

const WORDS: [&str; 8] = ["an", "agent", "thinks", "aloud", "and", "takes", "its", "time"];

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Tokens(tokens) if tokens.next >= tokens.count => Poll::Ready(None),
            Self::Tokens(tokens) => {
                std::task::ready!(tokens.sleep.as_mut().poll(cx));
                Poll::Ready(Some(Ok(Frame::data(tokens.event()))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Tokens(_) => SizeHint::default(),
        }
    }
}
