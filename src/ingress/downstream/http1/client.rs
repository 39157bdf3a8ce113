//! The client's side of a connection of HTTP/1 that we read ourselves: its socket,
//! what was read of it and not used, and the body that is on it.
//!
//! Shared by who serves the connection and who forwards the body, which may last
//! longer than the answer. One of them reads at any time: the body's reader while
//! there is a body.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;

use crate::ingress::buffers::{BODY_BYTES_MAX, Buffers, READ_BYTES_MIN};
use crate::ingress::downstream::http1::request::{Parsed, Request, Rules, parse};
use crate::ingress::downstream::io::{ClientIo, Stream};
use crate::ingress::source::Ended;
use crate::ingress::upstream::http1::body::{Body, Step};
use crate::ingress::upstream::http1::outgoing::{Outgoing, Stop};

/// Bytes that are read while a request runs: of the next ones, if any come early.
const AHEAD_BYTES_MAX: usize = 16 * 1024;

/// What follows `Next::Request`.
pub(super) enum Next {
    Request(Box<Request>),
    /// What came is for hyper to read: see `take`.
    Unusual,
    /// Nothing comes any more.
    End,
}

/// The client's side.
pub(in crate::ingress) struct Client {
    /// `None` once it was taken away.
    io: RefCell<Option<ClientIo>>,
    reading: RefCell<Reading>,
    buffers: Rc<Buffers>,
    /// Somebody reads the body.
    is_claimed: Cell<bool>,
    /// An answer is on its way, which may be over for the replica already.
    is_answered: Cell<bool>,
    /// Who waits until nobody does.
    waiting: RefCell<Option<Waker>>,
}

struct Reading {
    /// Read, and not used.
    rest: Bytes,
    /// A head of which more is to come, and bytes of it in which its end was looked for.
    part: BytesMut,
    searched: usize,
    body: Body,
}

impl Client {
    /// A connection of which `rest` was read.
    pub(in crate::ingress::downstream) fn new(io: ClientIo, rest: Bytes, buffers: &Rc<Buffers>) -> Rc<Self> {
        let reading = Reading { rest, part: BytesMut::new(), searched: 0, body: Body::EMPTY };
        Rc::new(Self {
            io: RefCell::new(Some(io)),
            reading: RefCell::new(reading),
            buffers: Rc::clone(buffers),
            is_claimed: Cell::new(false),
            is_answered: Cell::new(false),
            waiting: RefCell::new(None),
        })
    }

    /// Takes the socket away, and what was read and not used.
    pub(in crate::ingress::downstream) fn take(&self) -> Option<(Stream, Bytes)> {
        let io = self.io.borrow_mut().take()?;
        let reading = &mut *self.reading.borrow_mut();
        reading.join();
        Some((io.stream, std::mem::take(&mut reading.rest)))
    }

    /// The next request's head.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>, rules: &Rules<'_>) -> Poll<Next> {
        loop {
            let reading = &mut *self.reading.borrow_mut();
            if reading.part.is_empty() && !reading.rest.is_empty() {
                match parse(&mut reading.rest, rules) {
                    Parsed::Request(request, body) => {
                        reading.body = body;
                        return Poll::Ready(Next::Request(request));
                    }
                    Parsed::Unusual => return Poll::Ready(Next::Unusual),
                    Parsed::Part => {
                        reading.part.extend_from_slice(&reading.rest);
                        reading.searched = reading.part.len();
                        reading.rest = Bytes::new();
                    }
                }
            }
            match ready!(self.poll_read(cx, READ_BYTES_MIN)) {
                Ok(more) if more.is_empty() => return Poll::Ready(Next::End),
                Ok(more) if reading.part.is_empty() => reading.rest = more,
                Ok(more) => {
                    if !reading.grow(&more, rules.config.head_bytes_max as usize) {
                        return Poll::Ready(Next::Unusual);
                    }
                }
                Err(_) => return Poll::Ready(Next::End),
            }
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Bytes>> {
        match self.io.borrow_mut().as_mut() {
            Some(io) => self.buffers.poll_read(cx, io, room, BODY_BYTES_MAX),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Ready when the client is gone. While its body is being read, that is for its
    /// reader to find.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_released(cx).is_pending() {
            return Poll::Pending;
        }
        let reading = &mut *self.reading.borrow_mut();
        while reading.body.is_end() && reading.rest.len() < AHEAD_BYTES_MAX {
            match ready!(self.poll_read(cx, READ_BYTES_MIN)) {
                Ok(more) if !more.is_empty() => {
                    reading.part.extend_from_slice(&reading.rest);
                    reading.part.extend_from_slice(&more);
                    reading.join();
                }
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Ready when nobody reads the body.
    pub(super) fn poll_released(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_claimed.get() || self.is_body_end() {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Drops what is left of a body and was read already. Whether that is all of it.
    pub(super) fn skip_body(&self) -> bool {
        let reading = &mut *self.reading.borrow_mut();
        loop {
            match reading.body.step(&mut reading.rest) {
                Ok(Step::Data(_) | Step::Trailers(_)) => {}
                Ok(Step::End) => return true,
                Ok(Step::More) | Err(_) => return false,
            }
        }
    }

    /// Writes a message to it.
    pub(super) fn poll_write<E>(
        &self,
        cx: &mut Context<'_>,
        out: &mut Outgoing,
        body: &mut (impl http_body::Body<Data = Bytes, Error = E> + Unpin),
    ) -> Poll<Result<(), Stop>> {
        match self.io.borrow_mut().as_mut() {
            Some(io) => out.poll(cx, io, body),
            None => Poll::Ready(Err(Stop::Io(io::ErrorKind::NotConnected.into()))),
        }
    }

    /// Somebody is going to read the body.
    pub(in crate::ingress) fn claim_body(&self) {
        self.is_claimed.set(true);
    }

    /// Nobody reads the body any more.
    pub(in crate::ingress) fn release_body(&self) {
        self.is_claimed.set(false);
        self.tell();
    }

    fn tell(&self) {
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The next frame of the body.
    pub(in crate::ingress) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        loop {
            let reading = &mut *self.reading.borrow_mut();
            let step = reading.body.step(&mut reading.rest).map_err(Ended::Malformed)?;
            let wanted = reading.body.left();
            if reading.body.is_end() {
                self.tell();
            }
            match step {
                Step::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Step::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Step::End => return Poll::Ready(None),
                Step::More => {}
            }
            let wanted = wanted.map_or(READ_BYTES_MIN * 2, |left| usize::try_from(left).unwrap_or(usize::MAX));
            let more = ready!(self.poll_read(cx, wanted.clamp(READ_BYTES_MIN, BODY_BYTES_MAX)));
            let more = more.and_then(|more| match more.is_empty() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(more),
            });
            reading.rest = more.map_err(Ended::Closed)?;
        }
    }

    /// Whether all of the body was read.
    pub(in crate::ingress) fn is_body_end(&self) -> bool {
        self.reading.borrow().body.is_end()
    }

    /// Bytes of the body that are still to come, where that is known.
    pub(in crate::ingress) fn body_left(&self) -> Option<u64> {
        self.reading.borrow().body.left()
    }

    /// An answer begins, or all of it is written.
    pub(super) fn answers(&self, is_answered: bool) {
        self.is_answered.set(is_answered);
    }

    /// Whether it has not got all of an answer that has begun.
    pub(in crate::ingress::downstream) fn is_answered(&self) -> bool {
        self.is_answered.get()
    }

    /// Whether part of a further request is here.
    pub(in crate::ingress::downstream) fn has_more(&self) -> bool {
        let reading = self.reading.borrow();
        !reading.rest.is_empty() || !reading.part.is_empty()
    }
}

impl Reading {
    /// What there is of a head is all there is, for now.
    fn join(&mut self) {
        if !self.part.is_empty() {
            // As a whole: what is left of a split would keep hold of the memory.
            self.rest = std::mem::take(&mut self.part).freeze();
        }
    }

    /// Adds to a head of which a part is here; `false` when it becomes too large. It
    /// is parsed anew when its end may be here: one that comes byte by byte would be
    /// parsed as often.
    fn grow(&mut self, more: &[u8], max: usize) -> bool {
        self.part.extend_from_slice(more);
        let begin = self.searched.saturating_sub(3);
        self.searched = self.part.len();
        if self.part[begin..].windows(4).any(|window| window == b"\r\n\r\n" || window[2..] == *b"\n\n") {
            self.join();
        }
        self.part.len() <= max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_in_pieces_is_looked_at_again_when_its_end_may_be_here() {
        let mut reading = Reading { rest: Bytes::new(), part: BytesMut::new(), searched: 0, body: Body::EMPTY };
        for piece in ["GET / HTTP/1.1\r", "\nHost: a\r\n", "\r"] {
            assert!(reading.grow(piece.as_bytes(), 100));
            assert!(reading.rest.is_empty());
        }
        assert!(reading.grow(b"\nGET", 100));
        assert_eq!((&reading.rest[..], reading.part.len()), (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET"[..], 0));
        assert!(!reading.grow(&[b'a'; 101], 100));
    }
}
