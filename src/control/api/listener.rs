//! A listener that never holds more connections than it should, nor dead ones
//! for ever.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections to the API at once, over all its sockets. The next one waits in
/// the kernel's queue until one ends.
const CONNECTIONS_MAX: usize = 1024;

/// A connection on which nothing moves for so long is closed. Two minutes: twice
/// the longest `wait_ms`, and many of an event stream's keep-alives.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// A TCP listener that shares a budget of connections with others.
pub(super) struct Bounded {
    listener: TcpListener,
    connections: Arc<Semaphore>,
}

impl Bounded {
    pub(super) fn connections() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(CONNECTIONS_MAX))
    }

    pub(super) fn new(listener: TcpListener, connections: &Arc<Semaphore>) -> Self {
        Self { listener, connections: Arc::clone(connections) }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.connections).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = Listener::accept(&mut self.listener).await;
        // Answers are small and whole: nothing is gained by holding them back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection to the API takes no TCP_NODELAY");
        }
        (Connection { stream, idle: Box::pin(sleep(IDLE_MAX)), _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its place in the budget and its patience.
pub(super) struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
    }

    /// Pending, or the error that ends an idle connection.
    fn patience<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.idle.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buf) {
            Poll::Pending => self.patience(context),
            read => {
                self.moved();
                read
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, buf) {
            Poll::Pending => self.patience(context),
            written => {
                self.moved();
                written
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, bufs) {
            Poll::Pending => self.patience(context),
            written => {
                self.moved();
                written
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
