//! The request's body on its way to a replica.
//!
//! Passes frames on as they come, enforces the environment's limit, and holds
//! the first frame back until the replica asks for it where the client announced
//! its body with `Expect`. Its ledger outlives it and tells the rest of the walk
//! what became of the body, and, for requests that may be sent again, gives back
//! what was taken. Buffers nothing: frames kept for a second sending are shared.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::ingress::expect::Gate;

/// Bytes of a body kept to send it again. Enough for prompts; whoever sends
/// more is told of the failure instead.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// What is known of a request's body.
#[derive(Default)]
pub(super) struct Ledger {
    bytes: Cell<u64>,
    state: Cell<State>,
    /// Frames taken so far, while all of them may have to be sent again.
    kept: RefCell<Option<VecDeque<Bytes>>>,
    kept_bytes: Cell<usize>,
    /// What was not taken, once the body was dropped.
    rest: RefCell<Option<Incoming>>,
    /// Called with its end.
    then: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// How far a body has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum State {
    /// Its end has not been seen.
    #[default]
    Open,
    /// All of it was passed on.
    Done,
    /// It passes the limit.
    TooLarge,
    /// The client went away in the middle.
    ClientGone,
}

impl Ledger {
    /// A ledger; `keep` when the body may have to be sent again.
    pub(super) fn new(keep: bool) -> Rc<Self> {
        Rc::new(Self { kept: RefCell::new(keep.then(VecDeque::new)), ..Self::default() })
    }

    /// Bytes passed on.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// How far it has come.
    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    /// Whether all of it was passed on.
    pub(super) fn is_done(&self) -> bool {
        self.state.get() == State::Done
    }

    /// Calls `then` with the end of the body, unless an answer has begun by then.
    pub(super) fn when_done(&self, then: impl FnOnce() + 'static) {
        *self.then.borrow_mut() = Some(Box::new(then));
    }

    /// An answer has begun: the body is not sent again.
    pub(super) fn settle(&self) {
        *self.then.borrow_mut() = None;
        *self.kept.borrow_mut() = None;
        *self.rest.borrow_mut() = None;
    }

    fn done(&self) {
        self.state.set(State::Done);
        if let Some(then) = self.then.borrow_mut().take() {
            then();
        }
    }

    fn keep(&self, data: &Bytes) {
        let mut kept = self.kept.borrow_mut();
        let Some(frames) = kept.as_mut() else { return };
        self.kept_bytes.set(self.kept_bytes.get() + data.len());
        if self.kept_bytes.get() > KEPT_BYTES_MAX {
            *kept = None;
        } else {
            frames.push_back(data.clone());
        }
    }
}

/// Why a body ends early; told to the upstream connection, which closes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    /// It passes the limit.
    #[error("take a request body of this size")]
    TooLarge,
    /// The client went away.
    #[error("read the client's request body")]
    ClientGone(#[source] hyper::Error),
}

/// A request's body.
pub(super) struct RequestBody(Option<Box<Inner>>);

struct Inner {
    /// Frames to be sent again, before what still comes.
    again: VecDeque<Bytes>,
    /// What still comes; `None` once all of it was taken.
    incoming: Option<Incoming>,
    ledger: Rc<Ledger>,
    /// 0: no limit.
    limit: u64,
    gate: Option<Gate>,
}

impl RequestBody {
    /// No body.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// A body that ends with an error past `limit` bytes; 0 means no limit.
    pub(super) fn new(incoming: Incoming, ledger: Rc<Ledger>, limit: u64, gate: Option<Gate>) -> Self {
        Self(Some(Box::new(Inner { again: VecDeque::new(), incoming: Some(incoming), ledger, limit, gate })))
    }

    /// The same body once more, after the first was dropped; `None` when more
    /// was taken than is kept.
    pub(super) fn again(ledger: &Rc<Ledger>, limit: u64) -> Option<Self> {
        let again = ledger.kept.borrow().clone()?;
        let incoming = ledger.rest.borrow_mut().take();
        if incoming.is_none() && !ledger.is_done() {
            return None;
        }
        Some(Self(Some(Box::new(Inner { again, incoming, ledger: Rc::clone(ledger), limit, gate: None }))))
    }
}

impl Inner {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        if let Some(data) = self.again.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        let is_last = frame.is_none() || incoming.is_end_stream();
        let passed = frame.map(|frame| self.check(frame)).transpose();
        if is_last && passed.is_ok() {
            self.incoming = None;
            self.ledger.done();
        }
        Poll::Ready(passed.transpose())
    }

    fn check(&self, frame: Result<Frame<Bytes>, hyper::Error>) -> Result<Frame<Bytes>, Cut> {
        let ledger = &self.ledger;
        let frame = frame.map_err(|error| {
            ledger.state.set(State::ClientGone);
            Cut::ClientGone(error)
        })?;
        let Some(data) = frame.data_ref() else {
            // Trailers are not kept: the body could not be sent again whole.
            *ledger.kept.borrow_mut() = None;
            return Ok(frame);
        };
        let bytes = ledger.bytes.get() + data.len() as u64;
        if self.limit > 0 && bytes > self.limit {
            ledger.state.set(State::TooLarge);
            return Err(Cut::TooLarge);
        }
        ledger.bytes.set(bytes);
        ledger.keep(data);
        Ok(frame)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |inner| inner.poll(cx))
    }

    fn is_end_stream(&self) -> bool {
        let is_end = |inner: &Inner| inner.again.is_empty() && inner.incoming.as_ref().is_none_or(Body::is_end_stream);
        self.0.as_deref().is_none_or(is_end)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(inner) = &self.0 else { return SizeHint::with_exact(0) };
        let again: u64 = inner.again.iter().map(|data| data.len() as u64).sum();
        let Some(incoming) = &inner.incoming else { return SizeHint::with_exact(again) };
        let rest = incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + again);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.ledger.kept.borrow().is_some() {
            *self.ledger.rest.borrow_mut() = self.incoming.take();
        }
    }
}
