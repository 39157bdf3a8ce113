//! Kept connections of one core, and the lease a request has on one.
//!
//! An HTTP/1.1 connection is kept only when nothing is left of the request
//! before; it is never used again once readable or closed. The usual race is
//! narrower: the write succeeds while the close is on its way. So idle ones close
//! early: after 4 s, as common servers close at 5 s, or a second before the
//! replica says it will. A close that comes while one is idle is noticed by the
//! sweep. An HTTP/2 connection is shared by the requests that run, and closes as
//! early when none does.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;
use tokio::sync::Notify;

use crate::ingress::added::Ours;
use crate::ingress::exchange::Exchange;
use crate::ingress::memory::Memory;
use crate::ingress::outbound::Outbound;
use crate::ingress::request_body::RequestBody;
use crate::ingress::upgrade::Tunnel;
use crate::ingress::upstream::Upstream;
use crate::ingress::upstream::connection::Connection;
use crate::ingress::upstream::http2::session::Session;
use crate::ingress::upstream::http2::stream::Stream;
use crate::ingress::upstream::link::{Broken, Link};
use crate::ingress::upstream::peer::Peer;
use crate::model::manifest::Protocol;
use crate::routing::pool::EndpointRoute;

/// Below this the event loop has seen a close about as soon as we could: asking
/// the kernel about every reuse would cost a call per request.
const PEEK_AFTER: Duration = Duration::from_millis(10);

/// A request's hold on a connection. Dropping it ends the request on it: that is
/// how a client that is gone ends its request upstream.
pub(in crate::ingress) struct Lease {
    held: Held,
    /// Whether the connection has served before.
    pub(super) reused: bool,
}

enum Held {
    /// All of a connection, which ends with it.
    Http1(Box<Link>),
    /// A stream of a connection, which is reset.
    Http2(Box<Stream>),
}

macro_rules! either {
    ($held:expr, $inner:ident => $call:expr) => {
        match $held {
            Held::Http1($inner) => $call,
            Held::Http2($inner) => $call,
        }
    };
}

impl Upstream {
    /// A kept connection to `peer`, where there is one.
    pub(super) fn kept(&self, peer: &Peer, protocol: Protocol, now: Instant) -> Option<Lease> {
        let lease = match protocol {
            Protocol::Http1 => self.idle(peer, now).map(|link| Lease { held: Held::Http1(link), reused: true })?,
            Protocol::H2c => self.shared(peer)?,
        };
        self.counters.upstream_reuses.one();
        Some(lease)
    }

    fn idle(&self, peer: &Peer, now: Instant) -> Option<Box<Link>> {
        let mut replicas = self.replicas.borrow_mut();
        let idle = &mut replicas.get_mut(peer)?.idle;
        // The one used last first: the others may become old enough to close.
        while let Some(mut link) = idle.pop() {
            let rested = now.saturating_duration_since(link.since);
            if if rested < PEEK_AFTER { link.is_quiet() } else { link.is_quiet_now() } {
                link.alarm.off();
                return Some(link);
            }
        }
        None
    }

    /// A stream of a connection that has room for one.
    fn shared(&self, peer: &Peer) -> Option<Lease> {
        let replicas = self.replicas.borrow();
        let mut sessions = replicas.get(peer)?.sessions.iter();
        let (stream, reused) = sessions.find_map(|session| session.stream(self.alarms.add()))?;
        Some(Lease { held: Held::Http2(Box::new(stream)), reused })
    }

    /// A new connection to `peer`; over HTTP/2 possibly one that somebody else
    /// has just opened.
    pub(super) async fn open(&self, peer: &Peer, protocol: Protocol, connect_timeout: Duration) -> io::Result<Lease> {
        let opened = match protocol {
            Protocol::Http1 => self.link(peer, connect_timeout).await,
            Protocol::H2c => self.session(peer, connect_timeout).await,
        };
        opened.inspect_err(|_| self.counters.upstream_connect_failures.one())
    }

    async fn link(&self, peer: &Peer, connect_timeout: Duration) -> io::Result<Lease> {
        let connecting = Connection::open(peer, Protocol::Http1, &self.tls, self.peer_timeout);
        let connection = tokio::time::timeout(connect_timeout, connecting);
        let connection = connection.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let link = Link::new(peer.clone(), connection, self.alarms.add(), self.idle_timeout, Rc::clone(&self.buffers));
        self.counters.upstream_connects.one();
        Ok(Lease { held: Held::Http1(link), reused: false })
    }

    async fn session(&self, peer: &Peer, connect_timeout: Duration) -> io::Result<Lease> {
        let deadline = tokio::time::Instant::now() + connect_timeout;
        loop {
            if let Some(lease) = self.shared(peer) {
                return Ok(lease);
            }
            let opened = match self.begin_opening(peer) {
                Ok(opening) => {
                    let opened = async {
                        let connection = Connection::open(peer, Protocol::H2c, &self.tls, self.peer_timeout).await?;
                        Session::open(connection, peer.address).await
                    };
                    let opened = tokio::time::timeout_at(deadline, opened).await;
                    let session = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                    self.counters.upstream_connects.one();
                    self.replicas.borrow_mut().entry(peer.clone()).or_default().sessions.push(session);
                    drop(opening);
                    return self.shared(peer).ok_or_else(|| io::ErrorKind::ConnectionReset.into());
                }
                Err(somebody) => tokio::time::timeout_at(deadline, somebody.notified()).await,
            };
            opened.map_err(|_| io::ErrorKind::TimedOut)?;
        }
    }

    /// Whoever comes first opens a session; the others get what to wait for.
    fn begin_opening<'a>(&'a self, peer: &'a Peer) -> Result<Opening<'a>, Rc<Notify>> {
        let mut replicas = self.replicas.borrow_mut();
        let opening = &mut replicas.entry(peer.clone()).or_default().opening;
        match opening {
            Some(somebody) => Err(Rc::clone(somebody)),
            None => {
                *opening = Some(Rc::default());
                Ok(Opening { upstream: self, peer })
            }
        }
    }

    /// Keeps a connection to an endpoint which is memory: see `steps`.
    pub(in crate::ingress) fn keep_in_memory(&self, endpoint: &EndpointRoute, replica: Memory) {
        let (peer, connection) = (Peer::of(endpoint), Connection::Memory(Box::new(replica)));
        self.keep(Link::new(peer, connection, self.alarms.add(), self.idle_timeout, Rc::clone(&self.buffers)));
    }

    fn keep(&self, mut link: Box<Link>) {
        let mut replicas = self.replicas.borrow_mut();
        let known = replicas.entry(link.peer.clone()).or_default();
        if known.idle.len() < self.idle_max && !link.idle_limit.is_zero() {
            link.since = Instant::now();
            link.alarm.within(link.idle_limit);
            known.idle.push(link);
        }
    }
}

/// A session that is being opened. Its end, whatever it is, is told to who waits:
/// they see for themselves what came of it, and one of them tries next.
struct Opening<'a> {
    upstream: &'a Upstream,
    peer: &'a Peer,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut replicas = self.upstream.replicas.borrow_mut();
        if let Some(waiting) = replicas.get_mut(self.peer).and_then(|known| known.opening.take()) {
            waiting.notify_waiters();
        }
    }
}

impl Lease {
    /// Sends a request and reads the head of its answer, which `outbound` holds
    /// then.
    pub(super) async fn exchange(
        &mut self,
        outbound: &mut Outbound,
        ours: Ours<'_>,
        body: &mut RequestBody,
        patience: Option<Duration>,
    ) -> Result<StatusCode, Broken> {
        match &mut self.held {
            Held::Http1(link) => link.exchange(outbound, ours, body, patience).await,
            // Boxed, so that a request over HTTP/1.1 is no larger for it.
            Held::Http2(stream) => Box::pin(stream.exchange(outbound.map(), ours, body, patience)).await,
        }
    }

    /// The next frame of the answer's body.
    pub(in crate::ingress) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        either!(&mut self.held, held => held.poll_frame(cx))
    }

    /// All of the answer's body, where it is here already.
    pub(in crate::ingress) fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.held {
            Held::Http1(link) => link.take_whole(),
            Held::Http2(_) => None,
        }
    }

    /// Whether the answer's body has ended.
    pub(in crate::ingress) fn is_end(&self) -> bool {
        either!(&self.held, held => held.is_end())
    }

    /// Bytes of the answer's body that are still to come, where that is known.
    pub(in crate::ingress) fn left(&self) -> Option<u64> {
        match &self.held {
            Held::Http1(link) => link.left(),
            Held::Http2(_) => None,
        }
    }

    /// Ends the wait for a frame unless this is called anew, or with `None`, in time.
    pub(in crate::ingress) fn patience(&self, limit: Option<Duration>) {
        let alarm = either!(&self.held, held => &held.alarm);
        limit.map_or_else(|| alarm.off(), |limit| alarm.within(limit));
    }

    /// Ready when patience has run out.
    pub(in crate::ingress) fn poll_overdue(&self, cx: &Context<'_>) -> Poll<()> {
        either!(&self.held, held => held.poll_overdue(cx))
    }

    /// The answer is complete. The connection is kept, unless the request is not
    /// complete: a replica that has accepted it may want the rest, and the exchange
    /// lasts until it has it. One that has refused it does not.
    pub(in crate::ingress) fn give_back(self, exchange: Exchange) {
        match self.held {
            Held::Http1(link) if link.is_reusable() => exchange.core.upstream.keep(link),
            held if either!(&held, held => held.is_sending()) && exchange.is_accepted() => {
                tokio::task::spawn_local(linger(held, exchange));
            }
            Held::Http1(_) | Held::Http2(_) => {}
        }
    }

    /// Turns the connection into a tunnel, after a 101.
    pub(in crate::ingress) fn into_tunnel(self, exchange: Exchange) -> Option<Tunnel> {
        match self.held {
            Held::Http1(link) => {
                let (stream, early) = link.into_stream()?;
                Some(Tunnel::new(stream, early, exchange))
            }
            Held::Http2(stream) => Some(Tunnel::new(stream.into_tunnel()?, Bytes::new(), exchange)),
        }
    }
}

/// Waits for the rest of a request whose answer is complete, while there is any.
async fn linger(mut held: Held, exchange: Exchange) {
    let Some(ledger) = exchange.ledger.clone() else { return };
    let pause_max = exchange.core.config().idle_timeout.duration();
    // A client that waits to be asked for its body was answered instead.
    while ledger.is_flowing() {
        let before = ledger.bytes();
        let sent = async { either!(&mut held, held => held.sent().await) };
        let is_over = tokio::time::timeout(pause_max, sent).await.is_ok();
        if is_over || ledger.bytes() == before {
            return;
        }
    }
}
