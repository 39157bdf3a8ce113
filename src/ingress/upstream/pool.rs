//! Kept connections of one core, and the lease a request has on one.
//!
//! A connection is kept only when nothing is left of the request before; it is
//! never used again once readable or closed. The usual race is narrower: the
//! write succeeds while the close is on its way. So idle ones close early: after
//! 4 s, as common servers close at 5 s, or a second before the replica says it will.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;

use crate::ingress::exchange::Exchange;
use crate::ingress::headers;
use crate::ingress::request_body::RequestBody;
use crate::ingress::upgrade::Tunnel;
use crate::ingress::upstream::Upstream;
use crate::ingress::upstream::link::{Link, Opened};

/// A connection that waits for a request.
pub(super) struct Idle {
    sender: SendRequest<RequestBody>,
    link: Rc<Link>,
    since: Instant,
    idle_limit: Duration,
}

/// Below this the event loop has seen a close about as soon as we could: asking
/// the kernel about every reuse would cost a call per request.
const PEEK_AFTER: Duration = Duration::from_millis(10);

impl Idle {
    /// Whether the other side has not closed it, as far as we have heard.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.link.alarm.has_rung()
    }

    fn is_usable(&self, now: Instant) -> bool {
        let rested = now.saturating_duration_since(self.since);
        self.is_open() && self.sender.is_ready() && (rested < PEEK_AFTER || !self.link.is_readable())
    }
}

/// A request's hold on a connection. Dropping it ends the connection, and the
/// request on it: that is how a client that is gone ends its request upstream.
pub(in crate::ingress) struct Lease {
    held: Option<Idle>,
    ended: Option<tokio::task::JoinHandle<bytes::Bytes>>,
    /// Whether the connection has served before.
    pub(super) reused: bool,
}

impl Upstream {
    /// A connection to `address`: a kept one unless `fresh`, else a new one.
    pub(super) async fn lease(
        &self,
        address: SocketAddr,
        fresh: bool,
        connect_timeout: Duration,
        now: Instant,
    ) -> io::Result<Lease> {
        if !fresh && let Some(kept) = self.kept(address, now) {
            self.counters.upstream_reuses.one();
            kept.link.alarm.off();
            return Ok(Lease { held: Some(kept), ended: None, reused: true });
        }
        let opened = Link::open(address, self.alarms.add(), connect_timeout, self.peer_timeout).await;
        let Opened { sender, link, ended } = opened.inspect_err(|_| self.counters.upstream_connect_failures.one())?;
        self.counters.upstream_connects.one();
        let held = Idle { sender, link, since: now, idle_limit: self.idle_timeout };
        Ok(Lease { held: Some(held), ended: Some(ended), reused: false })
    }

    fn kept(&self, address: SocketAddr, now: Instant) -> Option<Idle> {
        let mut replicas = self.replicas.borrow_mut();
        let idle = &mut replicas.get_mut(&address)?.idle;
        // The one used last first: the others may become old enough to close.
        while let Some(kept) = idle.pop() {
            if kept.is_usable(now) {
                return Some(kept);
            }
            kept.link.alarm.ring();
        }
        None
    }

    fn keep(&self, mut idle: Idle) {
        let mut replicas = self.replicas.borrow_mut();
        let known = replicas.entry(idle.link.address).or_default();
        if known.idle.len() < self.idle_max && idle.is_open() && !idle.idle_limit.is_zero() {
            idle.since = Instant::now();
            idle.link.alarm.within(idle.idle_limit);
            known.idle.push(idle);
        } else {
            idle.link.alarm.ring();
        }
    }
}

impl Lease {
    /// Sends a request; a request that comes back with the error was not sent.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Option<TrySendError<Request<RequestBody>>>> {
        let idle = self.held.as_mut().ok_or(None)?;
        let response = idle.sender.try_send_request(request).await.map_err(Some)?;
        if let Some(seconds) = headers::keep_alive_seconds(response.headers()) {
            idle.idle_limit = idle.idle_limit.min(Duration::from_secs(seconds.saturating_sub(1)));
        }
        Ok(response)
    }

    /// Ends the connection unless this is called anew, or with `None`, in time.
    pub(in crate::ingress) fn patience(&self, limit: Option<Duration>) {
        if let Some(idle) = &self.held {
            limit.map_or_else(|| idle.link.alarm.off(), |limit| idle.link.alarm.within(limit));
        }
    }

    /// As [`Lease::patience`], for when the request's body is out.
    pub(super) fn later_patience(&self, limit: Duration) -> impl FnOnce() + use<> {
        let link = self.held.as_ref().map(|idle| Rc::clone(&idle.link));
        move || {
            if let Some(link) = link {
                link.alarm.within(limit);
            }
        }
    }

    /// Whether patience has run out.
    pub(in crate::ingress) fn is_overdue(&self) -> bool {
        self.held.as_ref().is_some_and(|idle| idle.link.alarm.has_rung())
    }

    /// The answer is complete: the connection is kept, unless the request is not.
    pub(in crate::ingress) fn give_back(mut self, exchange: &Exchange) {
        let is_request_done = exchange.ledger.as_ref().is_none_or(|ledger| ledger.is_done());
        if is_request_done && let Some(idle) = self.held.take() {
            exchange.core.upstream.keep(idle);
        }
    }

    /// Turns the connection into a tunnel, after a 101.
    pub(in crate::ingress) async fn into_tunnel(mut self, exchange: Exchange) -> Option<Tunnel> {
        let ended = self.ended.take()?;
        let idle = self.held.take()?;
        let early = ended.await.ok()?;
        Some(Tunnel::new(idle.link.take_stream()?, early, exchange))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(idle) = &self.held {
            idle.link.alarm.ring();
        }
    }
}
