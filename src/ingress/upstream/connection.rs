//! The bytes to and from a replica: over TCP alone, or over TLS.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::ingress::memory::Memory;
use crate::ingress::socket;
use crate::ingress::upstream::peer::Peer;
use crate::model::manifest::Protocol;
use crate::replica_tls::ReplicaTls;

/// A connection to a replica.
pub(in crate::ingress) enum Connection {
    Plain(TcpStream),
    // Boxed: a kilobyte, which those without TLS are spared.
    Secure(Box<TlsStream<TcpStream>>),
    /// No socket at all, where `steps` measures.
    Memory(Box<Memory>),
}

macro_rules! either {
    ($connection:expr, $inner:ident => $call:expr) => {
        match $connection {
            Connection::Plain($inner) => $call,
            Connection::Secure($inner) => $call,
            Connection::Memory($inner) => $call,
        }
    };
}

impl Connection {
    /// Connects to `peer`, which is to speak `protocol`. The caller limits the time.
    pub(super) async fn open(
        peer: &Peer,
        protocol: Protocol,
        tls: &ReplicaTls,
        peer_timeout: Duration,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(peer.address).await?;
        socket::tune(&SockRef::from(&stream), peer_timeout)?;
        match &peer.secure {
            None => Ok(Self::Plain(stream)),
            // Boxed: rare, and its state is large.
            Some(authority) => {
                let stream = Box::pin(tls.connect(stream, authority, protocol)).await?;
                Ok(Self::Secure(Box::new(stream)))
            }
        }
    }

    /// The socket below, where there is one.
    pub(super) fn socket(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Plain(stream) => Some(SockRef::from(stream)),
            Self::Secure(stream) => Some(SockRef::from(stream.get_ref().0)),
            Self::Memory(_) => None,
        }
    }

    /// Whether nothing has come, as far as the event loop has heard; only to be
    /// asked while nobody waits for anything. No system call unless something has.
    pub(super) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(stream) => {
                stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            // What is no data, as tickets are (RFC 8446 §4.6.1), is taken in on the way.
            Self::Secure(stream) => {
                let mut behind = [0];
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream.as_mut()).poll_read(&mut cx, &mut ReadBuf::new(&mut behind)).is_pending()
            }
            Self::Memory(peer) => peer.is_quiet(),
        }
    }

    /// The same, as far as the kernel knows.
    pub(super) fn is_quiet_now(&mut self) -> bool {
        let is_quiet = self.is_quiet();
        let peeked = self.socket().map(|socket| socket.peek(&mut [MaybeUninit::uninit()]));
        is_quiet && peeked.is_none_or(|peeked| peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, into))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
