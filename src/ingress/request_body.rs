//! The request's body on its way to a replica.
//!
//! Passes frames on as they come, enforces the environment's limit, and holds
//! the first frame back until the replica asks for it where the client announced
//! its body with `Expect`. Its ledger outlives it and tells the rest of the walk
//! what became of the body. Where the request may be sent again it can be begun
//! anew. Buffers nothing: frames kept for a second sending are shared.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::ingress::expect::Gate;
use crate::ingress::source::{Ended, Source};

/// Bytes of a body kept to send it again. Enough for prompts; whoever sends
/// more is told of the failure instead.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// What is known of a request's body.
#[derive(Default)]
pub(super) struct Ledger {
    bytes: Cell<u64>,
    state: Cell<State>,
    /// Whether the client holds it back until it is asked.
    held_back: Cell<bool>,
    /// An answer has begun: whoever reads it may take its time with the body.
    answered: Cell<bool>,
    /// Frames taken so far, while all of them may have to be sent again.
    kept: RefCell<Option<VecDeque<Bytes>>>,
    kept_bytes: Cell<usize>,
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
    /// Its framing makes no sense.
    Malformed,
    /// Nothing more of it came for too long.
    Stalled,
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

    /// Whether more of it is to come, asked for or not.
    pub(super) fn is_flowing(&self) -> bool {
        self.state.get() == State::Open && !self.held_back.get()
    }

    /// An answer has begun: the body is not sent again.
    pub(super) fn settle(&self) {
        self.answered.set(true);
        *self.kept.borrow_mut() = None;
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

/// Why a body ends early; the connection to the replica closes with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    /// It passes the limit.
    #[error("take a request body of this size")]
    TooLarge,
    /// The client went away.
    #[error("read the client's request body")]
    ClientGone(#[source] Ended),
    /// Its framing makes no sense.
    #[error("find the end of the client's request body")]
    Malformed(#[source] Ended),
    /// Nothing more of it came for too long.
    #[error("get more of the client's request body in time")]
    Stalled,
}

/// A request's body.
pub(super) struct RequestBody(Option<Box<Inner>>);

struct Inner {
    /// Frames to be sent again, before what still comes.
    again: VecDeque<Bytes>,
    /// What still comes; `None` once all of it was taken.
    source: Option<Source>,
    ledger: Rc<Ledger>,
    /// 0: no limit.
    limit: u64,
    gate: Option<Gate>,
    patience: Option<Patience>,
}

impl RequestBody {
    /// No body.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// A body that ends with an error past `limit` bytes; 0 means no limit.
    pub(super) fn new(source: Source, ledger: Rc<Ledger>, limit: u64, gate: Option<Gate>) -> Self {
        ledger.held_back.set(gate.is_some());
        let (again, source) = (VecDeque::new(), Some(source));
        Self(Some(Box::new(Inner { again, source, ledger, limit, gate, patience: None })))
    }

    /// It also ends with an error when nothing of it comes for so long before an
    /// answer has begun.
    pub(super) fn within(mut self, limit: Option<Duration>) -> Self {
        if let Some(inner) = &mut self.0 {
            inner.patience = limit.map(Patience::new);
        }
        self
    }

    /// The replica asks for it.
    pub(super) fn ask(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.open();
        }
    }

    /// Takes back what was taken last and sent nowhere.
    pub(super) fn put_back(&mut self, data: Bytes) {
        if let Some(inner) = self.0.as_mut().filter(|_| !data.is_empty()) {
            inner.again.push_front(data);
        }
    }

    /// Begins anew, to be sent once more; `false` when more was taken than is kept.
    pub(super) fn rewind(&mut self) -> bool {
        let Some(inner) = &mut self.0 else { return true };
        let Some(kept) = inner.ledger.kept.borrow().clone() else { return false };
        inner.again = kept;
        inner.open();
        true
    }
}

impl Inner {
    fn open(&mut self) {
        self.gate = None;
        self.ledger.held_back.set(false);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.open();
        }
        if let Some(data) = self.again.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *source).poll_frame(cx) else {
            let patience = self.patience.as_mut().filter(|_| !self.ledger.answered.get());
            let Some(patience) = patience else { return Poll::Pending };
            return patience.poll_over(cx).map(|()| {
                self.ledger.state.set(State::Stalled);
                Some(Err(Cut::Stalled))
            });
        };
        if let Some(patience) = &mut self.patience {
            patience.since = None;
        }
        let is_last = frame.is_none() || source.is_end_stream();
        let passed = frame.map(|frame| self.check(frame)).transpose();
        if is_last && passed.is_ok() {
            self.source = None;
            self.ledger.state.set(State::Done);
        }
        Poll::Ready(passed.transpose())
    }

    fn check(&self, frame: Result<Frame<Bytes>, Ended>) -> Result<Frame<Bytes>, Cut> {
        let ledger = &self.ledger;
        let frame = frame.map_err(|error| {
            let malformed = error.is_malformed();
            ledger.state.set(if malformed { State::Malformed } else { State::ClientGone });
            if malformed { Cut::Malformed(error) } else { Cut::ClientGone(error) }
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

/// How long nothing may come. One timer for a body that keeps somebody waiting,
/// set again when it ends too early: frames that come do not touch it.
struct Patience {
    limit: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, since: None, timer: None }
    }

    /// Ready when it is over. Called while nothing is there.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |inner| inner.poll(cx))
    }

    fn is_end_stream(&self) -> bool {
        let is_end = |inner: &Inner| inner.again.is_empty() && inner.source.as_ref().is_none_or(Body::is_end_stream);
        self.0.as_deref().is_none_or(is_end)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(inner) = &self.0 else { return SizeHint::with_exact(0) };
        let again: u64 = inner.again.iter().map(|data| data.len() as u64).sum();
        let Some(source) = &inner.source else { return SizeHint::with_exact(again) };
        let rest = source.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + again);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(again));
        }
        hint
    }
}
