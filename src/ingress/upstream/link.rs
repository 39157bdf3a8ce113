//! One connection to a replica, and the request that is on it.
//!
//! Nobody drives a link: whoever holds it polls it, and dropping it closes the
//! connection. While a request waits for its answer the link writes and reads in
//! turn; after an answer has begun too early, a task of its own sends the rest.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::Frame;
use tokio::io::{AsyncRead, ReadBuf, ReadHalf};
use tokio::task::JoinHandle;

use crate::ingress::added::Ours;
use crate::ingress::alarm::Alarm;
use crate::ingress::buffers::{Buffers, READ_BYTES_MAX, READ_BYTES_MIN};
use crate::ingress::outbound::Outbound;
use crate::ingress::request_body::RequestBody;
use crate::ingress::upstream::connection::Connection;
use crate::ingress::upstream::http1::Malformed;
use crate::ingress::upstream::http1::body::{Body, Step};
use crate::ingress::upstream::http1::head::{Head, Reader};
use crate::ingress::upstream::http1::outgoing::{Outgoing, Stop};
use crate::ingress::upstream::peer::Peer;

/// One connection to a replica.
pub(super) struct Link {
    pub(super) peer: Peer,
    pub(super) alarm: Alarm,
    /// When it began to wait for a request.
    pub(super) since: Instant,
    /// How long it may wait.
    pub(super) idle_limit: Duration,
    io: Io,
    buffers: Rc<Buffers>,
    /// Read, and not yet handed on.
    rest: Bytes,
    body: Body,
    /// Whether the request that is on it is written as a whole.
    is_sent: bool,
    /// Whether the replica lets it be used again.
    keeps: bool,
}

enum Io {
    Whole(Connection),
    /// The rest of the request is sent by a task, which ends with the link.
    Reading {
        stream: ReadHalf<Connection>,
        sending: Sending,
    },
    Gone,
}

/// A task that sends the rest of a request; ended when dropped.
struct Sending {
    task: JoinHandle<()>,
    /// The request has no end, so the connection was closed.
    cut: Rc<Cell<bool>>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a request got no answer, or half of one.
#[derive(Debug)]
pub(in crate::ingress) enum Broken {
    /// Not one byte of the request was written.
    Unsent(io::Error),
    /// The replica says that it has not looked at the request (RFC 9113 §8.7).
    Refused,
    /// The request's body has no end.
    Cut,
    /// The connection has ended.
    Closed(Option<io::Error>),
    /// What came is not HTTP.
    Malformed(Malformed),
    /// The alarm has rung.
    Overdue,
}

impl Link {
    /// A connection to `peer` that nothing has been sent on.
    pub(super) fn new(
        peer: Peer,
        connection: Connection,
        alarm: Alarm,
        idle_limit: Duration,
        buffers: Rc<Buffers>,
    ) -> Box<Self> {
        Box::new(Self {
            peer,
            alarm,
            since: Instant::now(),
            idle_limit,
            io: Io::Whole(connection),
            buffers,
            rest: Bytes::new(),
            body: Body::EMPTY,
            is_sent: true,
            keeps: true,
        })
    }

    /// Whether nothing has happened on an idle connection, as far as the event
    /// loop has heard: anything to read is its end, or an answer nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        let Io::Whole(connection) = &mut self.io else { return false };
        !self.alarm.has_rung() && connection.is_quiet()
    }

    /// The same, as far as the kernel knows.
    pub(super) fn is_quiet_now(&mut self) -> bool {
        let Io::Whole(connection) = &mut self.io else { return false };
        !self.alarm.has_rung() && connection.is_quiet_now()
    }

    /// Ready when the alarm has rung.
    pub(super) fn poll_overdue(&self, cx: &Context<'_>) -> Poll<()> {
        // One that is off needs nobody to be woken.
        if self.alarm.is_on() || self.alarm.has_rung() { self.alarm.poll_rung(cx) } else { Poll::Pending }
    }

    /// Whether nothing is left of the request that was on it.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_sent && self.keeps && self.body.is_end() && self.rest.is_empty()
    }

    /// Sends a request and reads the head of its answer, whose fields replace
    /// those of the request. The alarm is set to `patience` once all of the
    /// request is written: a slow upload is the client's doing.
    pub(super) async fn exchange(
        &mut self,
        outbound: &mut Outbound,
        ours: Ours<'_>,
        body: &mut RequestBody,
        patience: Option<Duration>,
    ) -> Result<StatusCode, Broken> {
        let mut out = Outgoing::request(outbound, ours, body, self.buffers.take());
        let mut reader = Reader::default();
        let mut refused = None;
        self.is_sent = false;
        let head = poll_fn(|cx| {
            loop {
                if !self.is_sent
                    && refused.is_none()
                    && let Poll::Ready(error) = self.poll_send(cx, &mut out, body, patience)?
                {
                    refused = error;
                }
                match ready!(self.poll_head(cx, &mut reader, outbound)) {
                    Ok(head) if head.is_interim() => {
                        if head.status == StatusCode::CONTINUE {
                            body.ask();
                        }
                    }
                    Ok(head) => return Poll::Ready(Ok(head)),
                    // What kept us from writing says more than the end that followed.
                    Err(Broken::Closed(error)) => {
                        return Poll::Ready(Err(Broken::Closed(refused.take().or(error))));
                    }
                    Err(broken) => return Poll::Ready(Err(broken)),
                }
            }
        });
        let head = head.await?;
        if self.is_sent {
            self.buffers.give(out.into_buffer());
        } else if refused.is_none() {
            self.send_rest(out, std::mem::replace(body, RequestBody::empty()));
        }
        self.alarm.off();
        Ok(self.begin(head))
    }

    fn begin(&mut self, head: Head) -> StatusCode {
        self.keeps = head.keeps;
        self.body = head.body;
        if let Some(limit) = head.idle_limit {
            self.idle_limit = self.idle_limit.min(limit);
        }
        head.status
    }

    /// Sends what can be sent. An answer may be there although the connection
    /// takes no more; then the error is what this is ready with.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outgoing,
        body: &mut RequestBody,
        patience: Option<Duration>,
    ) -> Poll<Result<Option<io::Error>, Broken>> {
        let Io::Whole(stream) = &mut self.io else { return Poll::Ready(Ok(None)) };
        let refused = match ready!(out.poll(cx, stream, body)) {
            Ok(()) => {
                self.is_sent = true;
                None
            }
            Err(Stop::Cut) => return Poll::Ready(Err(Broken::Cut)),
            Err(Stop::Io(error)) if !out.has_begun() => {
                body.put_back(out.take_unsent());
                return Poll::Ready(Err(Broken::Unsent(error)));
            }
            Err(Stop::Io(error)) => Some(error),
        };
        if let Some(limit) = patience {
            self.alarm.within(limit);
        }
        Poll::Ready(Ok(refused))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Reader,
        outbound: &mut Outbound,
    ) -> Poll<Result<Head, Broken>> {
        let to_head = *outbound.method() == Method::HEAD;
        loop {
            if let Some(head) = reader.read(&mut self.rest, to_head, outbound.answer()).map_err(Broken::Malformed)? {
                return Poll::Ready(Ok(head));
            }
            if !ready!(self.poll_fill(cx, READ_BYTES_MIN))? {
                return Poll::Ready(Err(Broken::Closed(None)));
            }
        }
    }

    /// The next frame of the answer's body.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.body.step(&mut self.rest).map_err(Broken::Malformed)? {
                Step::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Step::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Step::End => return Poll::Ready(None),
                Step::More => {}
            }
            let wanted =
                self.body.left().map_or(READ_BYTES_MIN * 2, |left| usize::try_from(left).unwrap_or(usize::MAX));
            if !ready!(self.poll_fill(cx, wanted.clamp(READ_BYTES_MIN, READ_BYTES_MAX)))? {
                let is_whole = matches!(self.body, Body::UntilClose);
                self.body = Body::EMPTY;
                self.keeps = false;
                return Poll::Ready(if is_whole { None } else { Some(Err(Broken::Closed(None))) });
            }
        }
    }

    /// All of the answer's body, where it is here already.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        let left = usize::try_from(self.body.left()?).ok().filter(|left| *left <= self.rest.len())?;
        self.body = Body::EMPTY;
        Some(self.rest.split_to(left))
    }

    /// Whether the answer's body has ended.
    pub(super) fn is_end(&self) -> bool {
        self.body.is_end()
    }

    /// Bytes of the answer's body that are still to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.body.left()
    }

    /// Reads more; `false` at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<bool, Broken>> {
        let Poll::Ready(read) = self.buffers.poll_read(cx, &mut self.io, room, READ_BYTES_MAX) else {
            return self.poll_overdue(cx).map(|()| Err(Broken::Overdue));
        };
        if let Io::Reading { sending, .. } = &self.io
            && read.as_ref().map_or(true, Bytes::is_empty)
            && sending.cut.get()
        {
            // We closed it: what came so far is not the whole of an answer that ends with its connection.
            return Poll::Ready(Err(Broken::Cut));
        }
        let read = read.map_err(|error| Broken::Closed(Some(error)))?;
        // Never empty here: what was read before has been used up.
        self.rest = read;
        Poll::Ready(Ok(!self.rest.is_empty()))
    }

    /// The answer has begun and the request has not ended: both go on, whichever
    /// of them the client is slow to take or give. Such a connection is not kept.
    fn send_rest(&mut self, mut out: Outgoing, mut body: RequestBody) {
        let Io::Whole(stream) = std::mem::replace(&mut self.io, Io::Gone) else { return };
        // Closes it as a whole: a cut request must not look like a complete one.
        let Some(Ok(socket)) = stream.socket().map(|socket| socket.try_clone()) else { return };
        let (read, mut write) = tokio::io::split(stream);
        let cut = Rc::new(Cell::new(false));
        let is_cut = Rc::clone(&cut);
        let task = tokio::task::spawn_local(async move {
            if let Err(Stop::Cut) = poll_fn(|cx| out.poll(cx, &mut write, &mut body)).await {
                is_cut.set(true);
                // Best effort: where it fails, the connection has ended already.
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        self.io = Io::Reading { stream: read, sending: Sending { task, cut } };
    }

    /// Whether an answer came before its request was sent, and the rest is being sent.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.io, Io::Reading { .. })
    }

    /// Resolves when the rest of the request is sent, or the replica has closed.
    pub(super) async fn sent(&mut self) {
        let Io::Reading { stream, sending } = &mut self.io else { return };
        poll_fn(|cx| {
            let mut behind = [0];
            // Whatever comes after the answer, this connection has served.
            let is_over = Pin::new(&mut *stream).poll_read(cx, &mut ReadBuf::new(&mut behind)).is_ready();
            if is_over { Poll::Ready(()) } else { Pin::new(&mut sending.task).poll(cx).map(|_| ()) }
        })
        .await;
    }

    /// Takes the connection, and what came behind a 101.
    pub(super) fn into_stream(self) -> Option<(Connection, Bytes)> {
        match self.io {
            Io::Whole(stream) => Some((stream, self.rest)),
            Io::Reading { .. } | Io::Gone => None,
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Whole(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Reading { stream, .. } => Pin::new(stream).poll_read(cx, into),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}
