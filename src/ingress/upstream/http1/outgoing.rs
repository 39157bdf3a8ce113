//! A message of HTTP/1 on its way out: its head, then its body as it comes.
//!
//! Knows at any time whether a byte of it was written, which is what decides if
//! a request may be sent again. A frame is written as it is, with its framing
//! around it, in one call; nothing is taken from who sends before the frame before
//! it is out. Small frames of an answer are put together where several are there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use crate::ingress::added::Ours;
use crate::ingress::outbound::Outbound;
use crate::ingress::request_body::RequestBody;
use crate::ingress::upstream::http1::request::{Framing, write_chunk_size, write_head, write_trailers};

/// What is to be written of one message.
pub(in crate::ingress) struct Outgoing {
    /// Our own bytes, which come before `data`, and how many of them are written.
    ours: Vec<u8>,
    at: usize,
    /// The client's.
    data: Bytes,
    /// What closes `data`.
    tail: &'static [u8],
    framing: Framing,
    /// Small frames are copied behind `ours`, as nobody wants them back.
    is_answer: bool,
    has_begun: bool,
    has_ended: bool,
}

/// Frames up to this size are copied: that costs less than a vectored write, which
/// the kernel has to put together, and saves a call where several are there.
const GATHERED_FRAME_MAX: usize = 4 * 1024;
/// Bytes that are put together at most.
const GATHERED_MAX: usize = 16 * 1024;

/// Why sending stops.
#[derive(Debug)]
pub(in crate::ingress) enum Stop {
    /// The body has no end: the doing of who sends it.
    Cut,
    /// The connection does not take it.
    Io(io::Error),
}

impl Outgoing {
    /// A request to be sent; `buffer` is written into.
    pub(in crate::ingress) fn request(
        outbound: &Outbound,
        ours: Ours<'_>,
        body: &RequestBody,
        mut buffer: Vec<u8>,
    ) -> Self {
        let length = (!body.is_end_stream()).then(|| body.size_hint().exact());
        let framing = write_head(outbound, ours, length, &mut buffer);
        Self { is_answer: false, ..Self::answer(buffer, framing) }
    }

    /// An answer, of which the head is written.
    pub(in crate::ingress) fn answer(head: Vec<u8>, framing: Framing) -> Self {
        let has_ended = matches!(framing, Framing::Empty | Framing::Length(0));
        Self { ours: head, at: 0, data: Bytes::new(), tail: b"", framing, is_answer: true, has_begun: false, has_ended }
    }

    /// Whether a byte of it was written.
    pub(in crate::ingress::upstream) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// What was taken from the body and not written; only before the first byte
    /// is that a whole frame.
    pub(in crate::ingress::upstream) fn take_unsent(&mut self) -> Bytes {
        std::mem::take(&mut self.data)
    }

    /// The buffer, to be used again.
    pub(in crate::ingress) fn into_buffer(self) -> Vec<u8> {
        self.ours
    }

    /// Writes what there is; ready when all of it is written.
    pub(in crate::ingress) fn poll<E>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        body: &mut (impl Body<Data = Bytes, Error = E> + Unpin),
    ) -> Poll<Result<(), Stop>> {
        loop {
            let mut waits = false;
            while !waits && self.wants_more() {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(next) => self.take(next.transpose().map_err(|_| Stop::Cut)?)?,
                    Poll::Pending => waits = true,
                }
                if !self.is_answer {
                    break;
                }
            }
            if self.at == self.ours.len() && self.data.is_empty() && self.tail.is_empty() {
                if self.has_ended || waits {
                    // TLS keeps what the socket did not take at once.
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Stop::Io)?;
                }
                if self.has_ended {
                    return Poll::Ready(Ok(()));
                }
                if waits {
                    return Poll::Pending;
                }
                continue;
            }
            let written = ready!(self.poll_write(cx, to)).map_err(Stop::Io)?;
            if written == 0 {
                return Poll::Ready(Err(Stop::Io(io::ErrorKind::WriteZero.into())));
            }
            self.has_begun = true;
            self.advance(written);
        }
    }

    /// Whether a frame may be taken: while what is here is not being written, or of
    /// a request one beside its head.
    fn wants_more(&self) -> bool {
        let has_room = !self.is_answer || self.at == 0 && self.ours.len() < GATHERED_MAX || self.at == self.ours.len();
        !self.has_ended && self.data.is_empty() && self.tail.is_empty() && has_room
    }

    /// Frames what came.
    fn take(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), Stop> {
        if self.at == self.ours.len() {
            self.ours.clear();
            self.at = 0;
        }
        match frame.map(Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => self.take_data(data)?,
            Some(Err(frame)) => {
                if let (Framing::Chunked, Ok(trailers)) = (self.framing, frame.into_trailers()) {
                    // RFC 9110 §6.5.1: clients say whether they take them, and those of ours did not.
                    let trailers = if self.is_answer { HeaderMap::new() } else { trailers };
                    write_trailers(&trailers, &mut self.ours);
                    self.has_ended = true;
                }
            }
            None => match self.framing {
                // Less than was announced: the replica must not take it for all.
                Framing::Length(_) => return Err(Stop::Cut),
                Framing::Chunked => {
                    self.ours.extend_from_slice(b"0\r\n\r\n");
                    self.has_ended = true;
                }
                Framing::Empty => self.has_ended = true,
            },
        }
        Ok(())
    }

    fn take_data(&mut self, data: Bytes) -> Result<(), Stop> {
        let mut tail: &'static [u8] = b"";
        match &mut self.framing {
            Framing::Chunked => {
                write_chunk_size(data.len(), &mut self.ours);
                tail = b"\r\n";
            }
            Framing::Length(left) => {
                // More than was announced would be the next request.
                *left = left.checked_sub(data.len() as u64).ok_or(Stop::Cut)?;
                self.has_ended = *left == 0;
            }
            Framing::Empty => return Err(Stop::Cut),
        }
        if self.is_answer && data.len() <= GATHERED_FRAME_MAX {
            self.ours.extend_from_slice(&data);
            self.ours.extend_from_slice(tail);
        } else {
            (self.data, self.tail) = (data, tail);
        }
        Ok(())
    }

    fn poll_write(&self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<usize>> {
        let ours = &self.ours[self.at..];
        if self.data.is_empty() && self.tail.is_empty() {
            return Pin::new(to).poll_write(cx, ours);
        }
        let parts = [IoSlice::new(ours), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        Pin::new(to).poll_write_vectored(cx, &parts)
    }

    fn advance(&mut self, mut written: usize) {
        let ours = written.min(self.ours.len() - self.at);
        self.at += ours;
        written -= ours;
        let data = written.min(self.data.len());
        self.data.advance(data);
        written -= data;
        self.tail = &self.tail[written..];
    }
}
