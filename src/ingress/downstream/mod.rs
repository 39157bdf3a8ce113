//! A client connection: its state, and driving it from first byte to last.
//!
//! Reads who is behind a balancer that says so, tells HTTP/1 from HTTP/2 by the
//! first bytes, serves either, watches over
//! silence, comes to an end when asked, and hands an upgraded connection to its
//! tunnel. Knows nothing of where requests go: that is `proxy`'s.

mod gather;
mod handshake;
pub(super) mod http1;
pub(super) mod io;
mod proxied;
pub(super) mod serve;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::ingress::alarm::Alarm;
use crate::ingress::core::Core;
use crate::ingress::limits::Permit;
use crate::ingress::tls::Certificate;
use crate::ingress::upgrade::Tunnel;

/// Who is at the other end: of the socket, or of the connection that a balancer
/// passes on to us byte by byte. Who speaks HTTP is the latter, so that the lists
/// of proxies to trust are about them.
pub(super) struct Peer {
    address: IpAddr,
    /// Its address as a header wants it, made once per connection.
    pub(super) forwarded: HeaderValue,
    /// Whether its word on `X-Forwarded-*` is taken.
    pub(super) is_trusted: bool,
}

impl Peer {
    /// The peer at `address`.
    pub(super) fn new(address: IpAddr, core: &Core) -> Self {
        let address = address.to_canonical();
        let forwarded = HeaderValue::from_str(&address.to_string()).expect("an IP address is visible ASCII");
        let is_trusted = core.config().trusted_proxies.iter().any(|network| network.contains(address));
        Self { address, forwarded, is_trusted }
    }

    /// Its address as text.
    pub(super) fn text(&self) -> &str {
        self.forwarded.to_str().unwrap_or_default()
    }

    /// Its address.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

/// One client connection, shared by the task that drives it and its requests.
pub(super) struct Connection {
    peer: Peer,
    /// Whom a balancer named; instead of the balancer itself.
    proxied: OnceCell<Peer>,
    /// What a client that named a host was shown.
    certificate: OnceCell<Arc<Certificate>>,
    is_secure: Cell<bool>,
    alarm: Alarm,
    phase: Cell<Phase>,
    in_flight: Cell<u32>,
    served: Cell<bool>,
    /// A drain has cut its first wait short.
    hurried: Cell<bool>,
    /// The client may still be sending what nobody will read.
    lingers: Cell<bool>,
    /// What takes over when HTTP has ended.
    tunnel: RefCell<Option<Tunnel>>,
    head_timeout: Duration,
    idle_timeout: Duration,
    stall_limit: Option<Duration>,
    core: Rc<Core>,
    _permit: Permit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between requests, nothing of the next one is here.
    Idle,
    /// Part of a head is in.
    Head,
    /// At least one request runs.
    Busy,
}

impl Connection {
    /// A connection that was just accepted.
    pub(super) fn new(peer: Peer, core: &Rc<Core>, permit: Permit) -> Rc<Self> {
        let alarm = core.alarms.add();
        let head_timeout = core.config().head_timeout.duration();
        alarm.within(head_timeout);
        core.counters.connections.one();
        core.counters.accepted.one();
        Rc::new(Self {
            peer,
            proxied: OnceCell::new(),
            certificate: OnceCell::new(),
            is_secure: Cell::new(false),
            alarm,
            phase: Cell::new(Phase::Head),
            in_flight: Cell::new(0),
            served: Cell::new(false),
            hurried: Cell::new(false),
            lingers: Cell::new(false),
            tunnel: RefCell::new(None),
            head_timeout,
            idle_timeout: core.config().idle_timeout.duration(),
            stall_limit: core.config().stall_limit(),
            core: Rc::clone(core),
            _permit: permit,
        })
    }

    /// Bytes have arrived. The first of a head starts its clock; further ones do
    /// not wind it back, or a byte now and then would hold a connection for ever.
    fn heard(&self) {
        if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.alarm.within(self.head_timeout);
        }
    }

    /// Bytes were taken by the client: it is slow rather than silent.
    fn told(&self) {
        match self.phase.get() {
            Phase::Idle => self.alarm.within(self.idle_timeout),
            // `blocked` has set it.
            Phase::Busy if self.alarm.is_on() => self.alarm.off(),
            Phase::Busy | Phase::Head => {}
        }
    }

    /// The client does not take what is there for it.
    fn blocked(&self) {
        let limit = self.stall_limit.filter(|_| self.phase.get() == Phase::Busy && !self.alarm.is_on());
        if let Some(limit) = limit {
            self.alarm.within(limit);
        }
    }

    /// Whether it is between requests, and nothing of the next one is here.
    fn is_idle(&self) -> bool {
        self.phase.get() == Phase::Idle
    }

    /// Whether a request runs on it.
    fn is_busy(&self) -> bool {
        self.phase.get() == Phase::Busy
    }

    /// Whether it was ended for its silence.
    pub(super) fn is_overdue(&self) -> bool {
        self.alarm.has_rung()
    }

    /// A request's head is in.
    pub(super) fn begin_request(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.served.set(true);
        self.phase.set(Phase::Busy);
        self.alarm.off();
    }

    /// A request has its answer, or will never have one.
    pub(super) fn end_request(&self, is_body_done: bool) {
        self.in_flight.set(self.in_flight.get() - 1);
        if !is_body_done {
            self.lingers.set(true);
        }
        if self.in_flight.get() == 0 {
            self.phase.set(Phase::Idle);
            self.alarm.within(self.idle_timeout);
        }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> &Peer {
        self.proxied.get().unwrap_or(&self.peer)
    }

    /// Whether it is TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.is_secure.get()
    }

    /// Whether a request for `authority` may come on it: always, unless the
    /// client named a host and was shown a certificate that is not good for this one.
    pub(super) fn may_ask(&self, authority: &[u8]) -> bool {
        self.certificate.get().is_none_or(|certificate| certificate.covers(authority))
    }

    /// Whether it is to come to an end.
    pub(super) fn is_draining(&self) -> bool {
        self.alarm.is_asked()
    }

    /// Whether that is to be soon: nobody else takes what its client sends next.
    fn is_hurried(&self) -> bool {
        self.alarm.is_asked() && !self.core.is_succeeded()
    }

    /// Leaves a tunnel to be run when HTTP has ended with its 101.
    pub(super) fn hand_over(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.core.counters.connections.less();
    }
}
