//! Upgrades: a tunnel between client and replica, after the replica's 101 only.
//!
//! The request goes out on a connection of its own. When the replica agrees,
//! both sides leave HTTP: `downstream` runs the [`Tunnel`] once the client has
//! its 101; over HTTP/2, where only a stream leaves, it has a task of its own.
//! The exchange, and the claims in it, end when both sides have ended.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::ingress::downstream::io::Stream;
use crate::ingress::exchange::Exchange;

/// Bytes read at once, per direction: a few WebSocket messages, or a tenth of a
/// video frame; more buys little and is held for as long as the tunnel is.
const CHUNK_BYTES: usize = 16 * 1024;

/// What carries bytes to and from a replica.
pub(super) trait Side: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Side for T {}

/// An agreed upgrade that waits for the client to have its 101.
pub(super) struct Tunnel {
    replica: Box<dyn Side>,
    /// What the replica sent right behind its 101.
    early: Bytes,
    exchange: Exchange,
}

impl Tunnel {
    /// A tunnel to `replica`.
    pub(super) fn new(replica: impl Side + 'static, early: Bytes, exchange: Exchange) -> Self {
        Self { replica: Box::new(replica), early, exchange }
    }

    /// Carries bytes both ways until both sides have ended, or one has failed.
    /// `early` is what the client sent right behind its request.
    pub(super) async fn run(self, client: &mut Stream, early: Bytes) {
        match client {
            Stream::Plain(client) => {
                let (read, write) = client.split();
                self.between(read, write, early, pending()).await;
            }
            Stream::Tls(client) => {
                let (read, write) = tokio::io::split(client);
                self.between(read, write, early, pending()).await;
            }
            Stream::Memory(client) => {
                let (read, write) = tokio::io::split(client);
                self.between(read, write, early, pending()).await;
            }
        }
    }

    /// The same for a stream of an HTTP/2 connection, once it has left HTTP.
    pub(super) async fn run_stream(self, client: OnUpgrade) {
        match client.await {
            Ok(client) => {
                let client = ClientStream(Rc::new(RefCell::new(TokioIo::new(client))));
                self.between(client.clone(), client.clone(), Bytes::new(), client.reset()).await;
            }
            // The client went while it was told.
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "stream not handed over"),
        }
    }

    /// `reset` says that the client has not just ended its side; it is asked only
    /// when that side has ended.
    async fn between(
        mut self,
        client_read: impl AsyncRead + Unpin,
        client_write: impl AsyncWrite + Unpin,
        early: Bytes,
        reset: impl Future<Output = ()>,
    ) {
        let counters = &self.exchange.core.counters;
        counters.tunnels.one();
        let (to_replica, to_client) = (Cell::new(0), Cell::new(0));
        let (replica_read, replica_write) = tokio::io::split(&mut self.replica);
        let up = std::pin::pin!(carry(client_read, replica_write, early, &to_replica));
        let down = std::pin::pin!(carry(replica_read, client_write, self.early, &to_client));
        // One side may end long before the other; a failure ends both.
        let both = async {
            match select(up, down).await {
                Either::Left((Ok(()), down)) => drop(select(down, std::pin::pin!(reset)).await),
                Either::Right((Ok(()), up)) => drop(up.await),
                Either::Left((Err(_), _)) | Either::Right((Err(_), _)) => {}
            }
        };
        let claimed = self.exchange.claimed.as_ref();
        let silence_max = claimed.map_or(0, |claimed| claimed.environment().policy.websocket_idle_timeout_ms);
        let carried = || to_replica.get() + to_client.get();
        until_silent(both, Duration::from_millis(silence_max), carried).await;
        counters.tunnels.less();
        self.exchange.tunnel_in = Some(to_replica.get());
        self.exchange.bytes_out = to_client.get();
    }
}

/// Runs `both` until it ends, or until `carried` has not grown for `limit`, which
/// is looked at once in that time. A `limit` of zero is none.
async fn until_silent(both: impl Future<Output = ()>, limit: Duration, carried: impl Fn() -> u64) {
    if limit.is_zero() {
        return both.await;
    }
    let mut both = std::pin::pin!(both);
    let mut before = carried();
    while tokio::time::timeout(limit, &mut both).await.is_err() {
        let now = carried();
        if now == before {
            return;
        }
        before = now;
    }
}

/// Carries bytes until `from` ends, then ends `to`.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    early: Bytes,
    carried: &Cell<u64>,
) -> io::Result<()> {
    to.write_all(&early).await?;
    // TLS keeps what the socket did not take at once.
    to.flush().await?;
    carried.set(early.len() as u64);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..read]).await?;
        to.flush().await?;
        carried.set(carried.get() + read as u64);
    }
}

/// A client's stream of HTTP/2, once it has left HTTP.
#[derive(Clone)]
struct ClientStream(Rc<RefCell<TokioIo<Upgraded>>>);

/// How often a stream whose client has ended its side is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl ClientStream {
    /// Resolves when the stream was reset. hyper reads `RST_STREAM` with `CANCEL`,
    /// which is how browsers leave, as the end of the client's side; only writing
    /// tells them apart, and nothing wakes who does not write.
    async fn reset(self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            // Where it waits for the client to take what was written, it is open.
            let flushed = poll_fn(|cx| Poll::Ready(Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx))).await;
            if let Poll::Ready(Err(_)) = flushed {
                return;
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, into)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
