//! The replica side of one core: kept connections, health, the choice of a replica.
//!
//! Owns what this core knows of every address it sends to. `forward` sends one
//! request through it. Knows nothing of environments or pointers: it is handed
//! endpoints, and who is at their addresses is all it remembers.

pub(super) mod balance;
pub(super) mod budget;
pub(super) mod connection;
pub(super) mod forward;
pub(super) mod health;
pub(super) mod http1;
pub(super) mod http2;
pub(super) mod link;
pub(super) mod peer;
pub(super) mod pool;
pub(super) mod queue;
pub(super) mod retry;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tokio::sync::Notify;

use crate::ingress::alarm::Alarms;
use crate::ingress::buffers::Buffers;
use crate::ingress::config::Config;
use crate::ingress::metrics::Counters;
use crate::ingress::upstream::budget::Budget;
use crate::ingress::upstream::health::Health;
use crate::ingress::upstream::http2::session::Session;
use crate::ingress::upstream::link::Link;
use crate::ingress::upstream::peer::Peer;
use crate::model::id::EndpointId;
use crate::replica_tls::ReplicaTls;
use crate::routing::claim::Claim;
use crate::routing::pool::PoolRoute;

/// What one core knows of its replicas.
pub(super) struct Upstream {
    replicas: RefCell<HashMap<Peer, Replica>>,
    /// Whether any replica is unwell: while none is, no choice looks at health.
    unwell: Cell<bool>,
    budget: RefCell<Budget>,
    /// Since when endpoints are known, where new ones are to start slowly.
    seen: RefCell<HashMap<EndpointId, Instant>>,
    alarms: Rc<Alarms>,
    buffers: Rc<Buffers>,
    tls: ReplicaTls,
    counters: Arc<Counters>,
    idle_timeout: Duration,
    idle_max: usize,
    peer_timeout: Duration,
    attempts_max: u32,
}

/// What an environment says about choices.
#[derive(Clone, Copy)]
struct Rules {
    /// Requests that one endpoint is given at once; 0 means no limit.
    running_max: u64,
    /// How long a new endpoint is given less.
    slow_start: Duration,
}

/// Endpoints whose beginning is remembered; past that all begin anew, alike.
const SEEN_MAX: usize = 16 * 1024;

/// What is known of one address.
#[derive(Default)]
struct Replica {
    #[expect(clippy::vec_box, reason = "a link moves between here and a request, each time by its pointer")]
    idle: Vec<Box<Link>>,
    sessions: Vec<Session>,
    /// Somebody opens a session; whoever needs one may wait for that.
    opening: Option<Rc<Notify>>,
    health: Health,
}

impl Upstream {
    /// Nothing known yet.
    pub(super) fn new(config: &Config, tls: ReplicaTls, buffers: Rc<Buffers>, counters: Arc<Counters>) -> Self {
        let now = Instant::now();
        Self {
            replicas: RefCell::default(),
            unwell: Cell::new(false),
            budget: RefCell::new(Budget::new(now)),
            seen: RefCell::default(),
            alarms: Alarms::new(now),
            buffers,
            tls,
            counters,
            idle_timeout: config.upstream_idle_timeout.duration(),
            // The bound is per process; every core may fill its share.
            idle_max: config.upstream_idle_max.div_ceil(config.cores()),
            peer_timeout: config.peer_timeout.duration(),
            attempts_max: config.attempts_max,
        }
    }

    /// Chooses an endpoint and takes a claim on it. `None` when every endpoint is
    /// draining, full, or in `avoid`.
    fn choose(
        &self,
        pool: &PoolRoute,
        core: usize,
        avoid: &[EndpointId],
        now: Instant,
        rules: Rules,
    ) -> Option<(usize, Claim)> {
        let endpoints = &pool.endpoints;
        let has_room = |at: usize| rules.running_max == 0 || pool.endpoint_load(at) < rules.running_max;
        let takes = |at: usize| !endpoints[at].draining && !avoid.contains(&endpoints[at].id) && has_room(at);
        let load = |at: usize| self.load(pool, at, core, now, rules);
        let random = |below: usize| fastrand::usize(..below);
        let picked = if self.unwell.get() {
            let replicas = self.replicas.borrow();
            let is_well =
                |at: usize| !replicas.get(&Peer::of(&endpoints[at])).is_some_and(|known| known.health.is_ejected(now));
            // Never the last one: where all are unwell, any may have come back.
            balance::pick(endpoints.len(), |at| takes(at) && is_well(at), load, random)
                .or_else(|| balance::pick(endpoints.len(), takes, load, random))
        } else {
            balance::pick(endpoints.len(), takes, load, random)
        };
        // A draining endpoint refuses also when this table does not know it yet.
        let claim = picked.and_then(|at| Some((at, pool.claim_endpoint(at, core)?)));
        claim.or_else(|| {
            (0..endpoints.len()).filter(|at| takes(*at)).find_map(|at| Some((at, pool.claim_endpoint(at, core)?)))
        })
    }

    /// What an endpoint carries, as choices see it: a new one seems to carry more.
    fn load(&self, pool: &PoolRoute, at: usize, core: usize, now: Instant, rules: Rules) -> u64 {
        let running = match rules.running_max {
            0 => pool.endpoint_in_flight(at, core),
            _ => pool.endpoint_load(at),
        };
        if rules.slow_start.is_zero() {
            return running;
        }
        let since = *self.seen.borrow_mut().entry(pool.endpoints[at].id).or_insert(now);
        balance::weighed(running, now.saturating_duration_since(since), rules.slow_start)
    }

    /// A connection to `peer` could not be opened, or closed unused.
    fn failed(&self, peer: &Peer, now: Instant) {
        self.unwell.set(true);
        if self.replicas.borrow_mut().entry(peer.clone()).or_default().health.failed(now) {
            self.counters.ejections.one();
        }
    }

    /// `peer` has answered.
    fn succeeded(&self, peer: &Peer) {
        if self.unwell.get()
            && let Some(known) = self.replicas.borrow_mut().get_mut(peer)
        {
            known.health.succeeded();
        }
    }

    /// Once a tick: closes what has been idle for too long or was closed by the
    /// replica, forgets addresses that nothing is known of.
    pub(super) fn sweep(&self, now: Instant) {
        self.alarms.sweep(now);
        if self.seen.borrow().len() > SEEN_MAX {
            self.seen.borrow_mut().clear();
        }
        let mut replicas = self.replicas.borrow_mut();
        replicas.retain(|_, known| {
            known.idle.retain_mut(|link| link.is_quiet());
            known.sessions.retain(|session| session.is_wanted(now, self.idle_timeout));
            let is_used = !known.idle.is_empty() || !known.sessions.is_empty() || known.opening.is_some();
            is_used || !known.health.is_forgettable(now)
        });
        self.unwell.set(replicas.values().any(|known| !known.health.is_well()));
        self.counters.ejected.set(replicas.values().filter(|known| known.health.is_ejected(now)).count() as u64);
    }
}
