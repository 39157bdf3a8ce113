//! The way in: how many connections there are, and how long one may stay
//! without a stream.
//!
//! Whoever reaches the port may connect, and is a stranger until its token has
//! been seen. Owns what strangers can cost; who is let in is the
//! [`server`](crate::stream::server)'s rule, which says so with [`Entry::opened`].

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::debug;

/// A connection, as its requests see it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it comes from; transports without addresses exist in simulations only.
    pub address: Option<SocketAddr>,
    opened: Arc<AtomicBool>,
}

impl Entry {
    /// A stream was let in over this connection: it may stay.
    pub fn opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }
}

/// A connection that counts, and that ends if no stream is opened in time.
pub struct Guarded<Io> {
    io: Io,
    entry: Entry,
    /// Over once a stream is open.
    limit: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

/// Lets in at most `connections_max` at a time; a further one is closed at once.
/// One over which no stream is opened within `opening_max` is closed, too.
pub fn guard<Io, E>(
    incoming: impl Stream<Item = Result<Io, E>>,
    connections_max: usize,
    opening_max: Duration,
) -> impl Stream<Item = Result<Guarded<Io>, E>>
where
    Io: Connected,
{
    let places = Arc::new(Semaphore::new(connections_max));
    incoming.filter_map(move |arrived| {
        let guarded = match arrived {
            Ok(io) => enter(io, &places, opening_max).map(Ok),
            Err(error) => Some(Err(error)),
        };
        std::future::ready(guarded)
    })
}

fn enter<Io: Connected>(io: Io, places: &Arc<Semaphore>, opening_max: Duration) -> Option<Guarded<Io>> {
    let info = io.connect_info();
    let address = (&info as &dyn Any).downcast_ref::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        // Not a warning: who causes this could fill the log with it.
        debug!(?address, "connection closed: there are too many");
        return None;
    };
    let entry = Entry { address, opened: Arc::default() };
    Some(Guarded { io, entry, limit: Some(Box::pin(sleep(opening_max))), _place: place })
}

impl<Io> Connected for Guarded<Io> {
    type ConnectInfo = Entry;

    fn connect_info(&self) -> Entry {
        self.entry.clone()
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Guarded<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.entry.opened.load(Ordering::Relaxed) {
            self.limit = None;
        }
        // A connection always reads, so that this is where it notices.
        if let Some(limit) = &mut self.limit
            && limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no stream was opened in time")));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Guarded<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
