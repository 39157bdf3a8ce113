//! One connection to a replica: opening it, its socket, its alarm.
//!
//! hyper drives the HTTP on it in a task of its own. Whoever holds the
//! [`Link`] can end it, ask whether it can still be used, or take the socket
//! back after an upgrade.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::ingress::alarm::Alarm;
use crate::ingress::request_body::RequestBody;
use crate::ingress::socket;

/// One connection to a replica.
pub(super) struct Link {
    pub(super) address: SocketAddr,
    pub(super) alarm: Alarm,
    /// Gone once an upgrade has taken it.
    stream: RefCell<Option<TcpStream>>,
}

/// A connection that was just opened.
pub(super) struct Opened {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) link: Rc<Link>,
    /// Resolves when HTTP has ended on it, with what was read beyond.
    pub(super) ended: JoinHandle<Bytes>,
}

impl Link {
    /// Connects to `address` within `limit`.
    pub(super) async fn open(
        address: SocketAddr,
        alarm: Alarm,
        limit: Duration,
        peer_timeout: Duration,
    ) -> io::Result<Opened> {
        let connecting = tokio::time::timeout(limit, TcpStream::connect(address));
        let stream = connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        socket::tune(&SockRef::from(&stream), peer_timeout)?;
        let link = Rc::new(Self { address, alarm, stream: RefCell::new(Some(stream)) });
        let io = TokioIo::new(ReplicaIo(Rc::clone(&link)));
        let (sender, http) = http1::Builder::new().handshake(io).await.map_err(io::Error::other)?;
        let ended = tokio::task::spawn_local(drive(Rc::clone(&link), http));
        Ok(Opened { sender, link, ended })
    }

    /// Whether something can be read. On an idle connection that is its end, or
    /// an answer nobody asked for; either way it cannot be used.
    pub(super) fn is_readable(&self) -> bool {
        let stream = self.stream.borrow();
        let Some(stream) = stream.as_ref() else { return true };
        let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Takes the socket, once HTTP has ended on it.
    pub(super) fn take_stream(&self) -> Option<TcpStream> {
        self.stream.borrow_mut().take()
    }
}

async fn drive(link: Rc<Link>, mut http: http1::Connection<TokioIo<ReplicaIo>, RequestBody>) -> Bytes {
    let ended = poll_fn(|cx| {
        if link.alarm.poll_rung(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut http).poll(cx).map(Some)
    });
    match ended.await {
        Some(Ok(())) => http.into_parts().read_buf,
        Some(Err(error)) => {
            // Whoever waits on this connection is told through its request.
            tracing::trace!(error = &error as &dyn std::error::Error, replica = %link.address, "link ended");
            Bytes::new()
        }
        None => Bytes::new(),
    }
}

/// The socket as hyper sees it; the link keeps hold of it.
struct ReplicaIo(Rc<Link>);

impl ReplicaIo {
    fn with<T>(&self, poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.stream.borrow_mut().as_mut() {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for ReplicaIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for ReplicaIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
