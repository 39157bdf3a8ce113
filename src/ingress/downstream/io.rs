//! The client's socket, with what was read to tell the protocols apart.
//!
//! Reports every read and write to its connection, so that silence is noticed.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use crate::ingress::downstream::Connection;
use crate::ingress::memory::Memory;

/// Plain or encrypted. An enum, so that plain costs a branch and no call.
pub(in crate::ingress) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// No socket at all, where `steps` measures.
    Memory(Box<Memory>),
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
            Stream::Memory($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, bytes))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, parts))
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        either!(self, inner => inner.is_write_vectored())
    }
}

/// How long the end of what a client sends is kept from HTTP while a request runs,
/// or is about to: hyper looks for the end before it hands a request on.
/// Over HTTP/1 one that has closed its side alone and waits for its answer looks
/// like one that is gone: an answer that comes this soon reaches the former, and
/// the latter's request ends within a second. Resets are passed on at once.
const HALF_CLOSED: Duration = Duration::from_millis(500);

/// The client's socket.
pub(super) struct ClientIo {
    pub(super) stream: Stream,
    /// Read already and not yet handed on.
    pub(super) early: Bytes,
    /// `None` on HTTP/2, where bytes come and go without a request.
    pub(super) heard_by: Option<Rc<Connection>>,
    /// It has closed its side.
    closed: Option<Pin<Box<Sleep>>>,
}

impl ClientIo {
    /// A socket of which `early` was read; see the fields.
    pub(super) fn new(stream: Stream, early: Bytes, heard_by: Option<Rc<Connection>>) -> Self {
        Self { stream, early, heard_by, closed: None }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let taken = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..taken]);
            self.early.advance(taken);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let me = &mut *self;
        let Some(connection) = &me.heard_by else { return Poll::Ready(Ok(())) };
        if buf.filled().len() > before {
            connection.heard();
        } else if !connection.is_idle() && buf.remaining() > 0 {
            let patience = me.closed.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
            ready!(patience.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl ClientIo {
    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Some(connection) = &self.heard_by {
            match result {
                Poll::Ready(Ok(_)) => connection.told(),
                Poll::Ready(Err(_)) => {}
                Poll::Pending => connection.blocked(),
            }
        }
        result
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
