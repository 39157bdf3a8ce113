//! The answer's body on its way to the client.
//!
//! Passes frames on as they come. The exchange rides in it: its claims and its
//! record end with the last byte or trailer, or when the body is dropped because
//! the client is gone. Invariant 2 ends here.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::ingress::alarm::Alarm;
use crate::ingress::error::Error;
use crate::ingress::exchange::Exchange;
use crate::ingress::request_body::State;
use crate::ingress::upstream::link::Broken;
use crate::ingress::upstream::pool::Lease;

/// An answer's body.
pub(super) struct Body(Inner);

enum Inner {
    /// Made here; nothing once taken.
    Made(Option<Bytes>),
    /// The replica's.
    Replica(Box<Replica>),
}

struct Replica {
    /// Longest wait for the next frame; `None` on streams that may pause for ever.
    pause_max: Option<Duration>,
    waiting: bool,
    /// Ends the client's stream unless it takes what is there.
    stall: Option<Stall>,
    /// Until the last byte.
    held: Option<(Lease, Exchange)>,
}

/// Why an answer ends early; hyper then cuts the client's connection or stream,
/// so that a part is never taken for the whole.
#[derive(Debug, thiserror::Error)]
#[error("pass on the replica's answer")]
pub(super) struct Cut(#[source] Error);

impl Body {
    /// A body made here.
    pub(super) fn made(bytes: Bytes) -> Self {
        Self(Inner::Made(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// The replica's body, which ends the exchange with its last byte.
    pub(super) fn replica(
        pause_max: Option<Duration>,
        stall: Option<Stall>,
        mut lease: Lease,
        mut exchange: Exchange,
    ) -> Self {
        if lease.is_end() {
            lease.give_back(exchange);
            return Self(Inner::Made(None));
        }
        // Nearly every small answer: no more of it is to be waited for.
        if stall.is_none()
            && let Some(whole) = lease.take_whole()
        {
            exchange.bytes_out += whole.len() as u64;
            lease.give_back(exchange);
            return Self(Inner::Made(Some(whole)));
        }
        // The head is there already.
        if let Some(stall) = &stall {
            stall.begin();
        }
        Self(Inner::Replica(Box::new(Replica { pause_max, waiting: false, stall, held: Some((lease, exchange)) })))
    }
}

/// How long a client of HTTP/2 may leave what is there untaken. Over HTTP/1 its
/// socket tells.
pub(super) struct Stall {
    pub(super) alarm: Rc<Alarm>,
    pub(super) limit: Duration,
}

impl Stall {
    /// It is the client's turn: hyper asks for more when some was taken.
    fn begin(&self) {
        self.alarm.within(self.limit);
    }

    /// It is the replica's turn.
    fn end(&self) {
        self.alarm.off();
    }

    fn is_over(&self) -> bool {
        self.alarm.has_rung()
    }
}

impl Replica {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(stall) = &self.stall {
            stall.end();
        }
        let Some((lease, exchange)) = &mut self.held else { return Poll::Ready(None) };
        let Poll::Ready(frame) = lease.poll_frame(cx) else {
            if !self.waiting {
                self.waiting = true;
                lease.patience(self.pause_max);
            }
            return lease.poll_overdue(cx).map(|()| Some(Err(self.cut(Error::ResponseTimeout))));
        };
        if self.waiting {
            self.waiting = false;
            lease.patience(None);
        }
        match frame {
            Some(Ok(frame)) => {
                if let Some(stall) = &self.stall {
                    stall.begin();
                }
                exchange.bytes_out += frame.data_ref().map_or(0, |data| data.len() as u64);
                if lease.is_end() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(broken)) => {
                let error = why(broken, exchange);
                Poll::Ready(Some(Err(self.cut(error))))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    /// The last byte is out of our hands.
    fn finish(&mut self) {
        // What hyper has of it lasts as long as the connection at most.
        if let Some(stall) = &self.stall {
            stall.end();
        }
        if let Some((lease, exchange)) = self.held.take() {
            lease.give_back(exchange);
        }
    }

    /// The answer ends here, and is not whole.
    fn cut(&mut self, error: Error) -> Cut {
        if let Some((_, mut exchange)) = self.held.take() {
            exchange.failed(&error);
        }
        Cut(error)
    }
}

impl Replica {
    fn size_hint(&self) -> SizeHint {
        let left = self.held.as_ref().map_or(Some(0), |(lease, _)| lease.left());
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What the end of an answer that has begun means.
fn why(broken: Broken, exchange: &Exchange) -> Error {
    match broken {
        Broken::Overdue => Error::ResponseTimeout,
        Broken::Malformed(malformed) => Error::UpstreamInvalid(malformed),
        Broken::Unsent(error) => Error::UpstreamReset(Some(error)),
        Broken::Refused => Error::UpstreamReset(None),
        Broken::Closed(error) => Error::UpstreamReset(error),
        Broken::Cut => match exchange.ledger.as_ref().map(|ledger| ledger.state()) {
            Some(State::TooLarge) => {
                let claimed = exchange.claimed.as_ref();
                Error::RequestTooLarge(claimed.map_or(0, |claimed| claimed.environment().policy.request_body_max))
            }
            Some(State::Malformed) => Error::BadRequest("the body's chunks are not chunks"),
            _ => Error::ClientGone,
        },
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some((_, exchange)) = &mut self.held {
            let stalled = self.stall.as_ref().is_some_and(Stall::is_over) || exchange.connection.is_overdue();
            exchange.failed(if stalled { &Error::ClientStalled } else { &Error::ClientGone });
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.0 {
            Inner::Made(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Replica(replica) => replica.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Made(bytes) => bytes.is_none(),
            Inner::Replica(replica) => replica.held.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Made(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Replica(replica) => replica.size_hint(),
        }
    }
}
