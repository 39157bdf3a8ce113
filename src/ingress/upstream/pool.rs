//! Kept connections of one core, and the lease a request has on one.
//!
//! A connection is kept only when nothing is left of the request before; it is
//! never used again once readable or closed. The usual race is narrower: the
//! write succeeds while the close is on its way. So idle ones close early: after
//! 4 s, as common servers close at 5 s, or a second before the replica says it
//! will. A close that comes while one is idle is noticed by the sweep.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use http_body::Frame;

use crate::ingress::exchange::Exchange;
use crate::ingress::request_body::RequestBody;
use crate::ingress::upgrade::Tunnel;
use crate::ingress::upstream::Upstream;
use crate::ingress::upstream::link::{Broken, Link};

/// Below this the event loop has seen a close about as soon as we could: asking
/// the kernel about every reuse would cost a call per request.
const PEEK_AFTER: Duration = Duration::from_millis(10);

/// A request's hold on a connection. Dropping it ends the connection, and the
/// request on it: that is how a client that is gone ends its request upstream.
pub(in crate::ingress) struct Lease {
    link: Box<Link>,
    /// Whether the connection has served before.
    pub(super) reused: bool,
}

impl Upstream {
    /// A kept connection to `address`, where there is one.
    pub(super) fn kept(&self, address: SocketAddr, now: Instant) -> Option<Lease> {
        let mut replicas = self.replicas.borrow_mut();
        let idle = &mut replicas.get_mut(&address)?.idle;
        // The one used last first: the others may become old enough to close.
        while let Some(link) = idle.pop() {
            let rested = now.saturating_duration_since(link.since);
            if if rested < PEEK_AFTER { link.is_quiet() } else { link.is_quiet_now() } {
                link.alarm.off();
                self.counters.upstream_reuses.one();
                return Some(Lease { link, reused: true });
            }
        }
        None
    }

    /// A new connection to `address`.
    pub(super) async fn open(&self, address: SocketAddr, connect_timeout: Duration) -> io::Result<Lease> {
        let buffers = Rc::clone(&self.buffers);
        let opening =
            Link::open(address, self.alarms.add(), connect_timeout, self.peer_timeout, self.idle_timeout, buffers);
        let link = opening.await.inspect_err(|_| self.counters.upstream_connect_failures.one())?;
        self.counters.upstream_connects.one();
        Ok(Lease { link, reused: false })
    }

    fn keep(&self, mut link: Box<Link>) {
        let mut replicas = self.replicas.borrow_mut();
        let known = replicas.entry(link.address).or_default();
        if known.idle.len() < self.idle_max && !link.idle_limit.is_zero() {
            link.since = Instant::now();
            link.alarm.within(link.idle_limit);
            known.idle.push(link);
        }
    }
}

impl Lease {
    /// Sends a request and reads the head of its answer: the fields in `parts`
    /// are the answer's then.
    pub(super) async fn exchange(
        &mut self,
        parts: &mut Parts,
        body: &mut RequestBody,
        patience: Option<Duration>,
    ) -> Result<StatusCode, Broken> {
        self.link.exchange(parts, body, patience).await
    }

    /// The next frame of the answer's body.
    pub(in crate::ingress) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.link.poll_frame(cx)
    }

    /// Whether the answer's body has ended.
    pub(in crate::ingress) fn is_end(&self) -> bool {
        self.link.is_end()
    }

    /// Bytes of the answer's body that are still to come, where that is known.
    pub(in crate::ingress) fn left(&self) -> Option<u64> {
        self.link.left()
    }

    /// Ends the wait for a frame unless this is called anew, or with `None`, in time.
    pub(in crate::ingress) fn patience(&self, limit: Option<Duration>) {
        limit.map_or_else(|| self.link.alarm.off(), |limit| self.link.alarm.within(limit));
    }

    /// Ready when patience has run out.
    pub(in crate::ingress) fn poll_overdue(&self, cx: &Context<'_>) -> Poll<()> {
        self.link.poll_overdue(cx)
    }

    /// The answer is complete. The connection is kept, unless the request is not
    /// complete: a replica that has accepted it may want the rest, and the exchange
    /// lasts until it has it. One that has refused it does not.
    pub(in crate::ingress) fn give_back(self, exchange: Exchange) {
        if self.link.is_reusable() {
            exchange.core.upstream.keep(self.link);
        } else if self.link.is_sending() && exchange.is_accepted() {
            tokio::task::spawn_local(linger(self.link, exchange));
        }
    }

    /// Turns the connection into a tunnel, after a 101.
    pub(in crate::ingress) fn into_tunnel(self, exchange: Exchange) -> Option<Tunnel> {
        let (stream, early) = self.link.into_stream()?;
        Some(Tunnel::new(stream, early, exchange))
    }
}

/// Waits for the rest of a request whose answer is complete, while there is any.
async fn linger(mut link: Box<Link>, exchange: Exchange) {
    let Some(ledger) = exchange.ledger.clone() else { return };
    let pause_max = exchange.core.config().idle_timeout.duration();
    // A client that waits to be asked for its body was answered instead.
    while ledger.is_flowing() {
        let before = ledger.bytes();
        let is_over = tokio::time::timeout(pause_max, link.sent()).await.is_ok();
        if is_over || ledger.bytes() == before {
            return;
        }
    }
}
