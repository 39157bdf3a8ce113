//! One run of one proxy: what it last said, and how its silence is read.
//!
//! Pure: `now` is an argument. [`members`](crate::fleet::members) draws the
//! conclusions over all of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::fleet::Config;
use crate::fleet::blocker::Why;
use crate::model::id::{EndpointId, InstanceId};
use crate::model::member::StoredMember;
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;

/// How a proxy introduces itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// The proxy; it keeps its name over restarts.
    pub proxy_id: String,
    /// This run of it.
    pub instance_id: InstanceId,
    /// Its software and version.
    pub build: String,
    /// Where it runs.
    pub zone: String,
    /// Where its stream comes from.
    pub address: SocketAddr,
    /// The revision it serves, where that is known to be one of this store's
    /// history; `None` while it serves nothing, or something else.
    pub applied: Option<Revision>,
    /// It serves what its disk has after a restart, before it has heard anything.
    /// One that does not must be told the state first.
    pub keeps_table: bool,
    /// It serves changes that the store does not have: an older copy of the
    /// store has been put back.
    pub ahead: bool,
    /// It ends with the process of the control plane, because it is in it.
    pub embedded: bool,
    /// Earlier runs of this proxy whose process has ended.
    pub ended: Vec<InstanceId>,
}

impl Greeting {
    /// A run of a proxy that serves nothing and keeps nothing.
    pub fn new(proxy_id: &str, instance_id: InstanceId, address: SocketAddr) -> Self {
        Self {
            proxy_id: proxy_id.to_owned(),
            instance_id,
            build: String::new(),
            zone: String::new(),
            address,
            applied: None,
            keeps_table: false,
            ahead: false,
            embedded: false,
            ended: Vec::new(),
        }
    }
}

/// A change that a proxy refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The revision it did not move to.
    pub revision: Revision,
    /// Why.
    pub reason: Reason,
    /// What is wrong, for people.
    pub detail: String,
}

/// Why a proxy refuses a change: the control stream's closed list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// A record breaks a rule or names one that does not exist.
    Invalid,
    /// It needs a newer proxy.
    Unsupported,
    /// It belongs to another history than the proxy's table.
    WrongLineage,
    /// It does not begin where the proxy's table stands.
    Gap,
    /// The records do not add up to the digest.
    DigestMismatch,
    /// It is larger than the proxy accepts.
    TooLarge,
    /// A snapshot without the stamp deletes too much.
    MassChange,
}

impl Reason {
    /// The word used in the API and in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::WrongLineage => "wrong_lineage",
            Self::Gap => "gap",
            Self::DigestMismatch => "digest_mismatch",
            Self::TooLarge => "too_large",
            Self::MassChange => "mass_change",
        }
    }

    /// Whether sending the same state again, as a snapshot, cannot help.
    pub fn is_lasting(self) -> bool {
        match self {
            Self::Invalid | Self::Unsupported | Self::TooLarge | Self::MassChange => true,
            Self::WrongLineage | Self::Gap | Self::DigestMismatch => false,
        }
    }
}

/// What a proxy says it is doing: one whole status.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The revision it served before it read its counters; `None` while that is
    /// not one of this store's history.
    pub applied: Option<Revision>,
    /// Closing pools with running requests.
    pub busy_pools: Vec<(PoolKey, u64)>,
    /// Draining endpoints with running requests.
    pub busy_endpoints: Vec<(EndpointId, u64)>,
    /// The lists are not complete: nothing follows from absence.
    pub truncated: bool,
    /// Requests running on pools whose load changed.
    pub in_flight: Vec<(PoolKey, u64)>,
}

/// How much is known about a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum State {
    /// Heard just now.
    Live,
    /// Silent for a while, still waited for.
    Suspect,
    /// Silent for long.
    Gone,
}

impl State {
    /// The word used in the API and in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspect => "suspect",
            Self::Gone => "gone",
        }
    }
}

/// One run of one proxy.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) greeting: Greeting,
    /// The stream that speaks for it; `None` between streams.
    pub(super) stream: Option<u64>,
    pub(super) heard: Instant,
    pub(super) applied: Option<Revision>,
    pub(super) durable: Option<Revision>,
    pub(super) refused: Option<Refused>,
    /// When `applied` got where, newest last; the first is only where it stood.
    arrivals: VecDeque<(Option<Revision>, Instant)>,
    /// `heard` as of the last time it was stored; `None`: it never was.
    stored: Option<Instant>,
    /// What an earlier run of the control plane knew; over once it is heard.
    before: Option<Before>,
    said: Said,
    in_flight: HashMap<PoolKey, u64>,
}

/// How long a member that was stored had been silent when this run began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// By the clock on the wall.
    pub silent: Duration,
    /// While the control plane was there to hear it.
    pub unheard: Duration,
}

/// What the last status said of closing pools and draining endpoints.
#[derive(Debug, Default)]
struct Said {
    /// What is not listed below is idle since this; `None`: nothing follows.
    complete_at: Option<Revision>,
    busy_pools: BTreeMap<PoolKey, u64>,
    busy_endpoints: BTreeMap<EndpointId, u64>,
}

/// Arrivals kept. Enough to say of a move how long it took while it is looked
/// at, however many follow it; older ones are in the history as a whole.
const ARRIVALS_MAX: usize = 16;

/// 5 min: what is stored is for people and for forgetting after a day; 10,000
/// proxies are 33 rows a second at this pace.
const STORED_LATE_MAX: Duration = Duration::from_secs(300);

impl Said {
    /// Whether the same is busy as of the same revision, however much.
    fn proves_as_much_as(&self, other: &Self) -> bool {
        self.complete_at == other.complete_at
            && self.busy_pools.keys().eq(other.busy_pools.keys())
            && self.busy_endpoints.keys().eq(other.busy_endpoints.keys())
    }
}

impl Member {
    pub(super) fn new(greeting: Greeting, stream: u64, now: Instant) -> Self {
        Self {
            applied: greeting.applied,
            arrivals: VecDeque::from([(greeting.applied, now)]),
            greeting,
            stream: Some(stream),
            heard: now,
            durable: None,
            refused: None,
            stored: None,
            before: None,
            said: Said::default(),
            in_flight: HashMap::new(),
        }
    }

    /// A member of which only the store knows. It may be serving all the same.
    pub(super) fn restored(stored: StoredMember, before: Before, now: Instant) -> Self {
        let key = stored.key;
        let greeting = Greeting {
            build: stored.build,
            zone: stored.zone,
            keeps_table: stored.keeps_table,
            embedded: stored.embedded,
            ..Greeting::new(&key.proxy_id, key.instance_id, stored.address)
        };
        Self {
            stream: None,
            durable: stored.durable,
            stored: Some(now),
            before: Some(before),
            ..Self::new(greeting, 0, now)
        }
    }

    /// The same run has opened another stream. Its last status still holds: what
    /// closed and went idle takes no requests until a newer change opens it.
    pub(super) fn greet_again(&mut self, greeting: Greeting, stream: u64, now: Instant) {
        if self.applied != greeting.applied {
            // When it got there was not seen.
            self.arrivals = VecDeque::from([(greeting.applied, now)]);
        }
        self.applied = greeting.applied;
        self.greeting = greeting;
        self.stream = Some(stream);
        self.hear(now);
        // It says so again if it still refuses.
        self.refused = None;
        // So does the first status of a stream with every count that is not zero.
        self.in_flight.clear();
        if self.applied.is_none() {
            // It serves another history: nothing it said counts in this one.
            self.said.complete_at = None;
            self.durable = None;
        }
    }

    /// Acks are cumulative and may overtake each other: watermarks only grow.
    /// Answers whether anything did.
    pub(super) fn ack(&mut self, applied: Option<Revision>, durable: Option<Revision>) -> bool {
        let grown = applied > self.applied || durable > self.durable;
        if applied > self.applied {
            self.arrivals.push_back((applied, self.heard));
            if self.arrivals.len() > ARRIVALS_MAX {
                self.arrivals.pop_front();
            }
        }
        self.applied = self.applied.max(applied);
        self.durable = self.durable.max(durable);
        let healed = self.refused.as_ref().is_some_and(|refused| self.applied >= Some(refused.revision));
        if healed {
            self.refused = None;
        }
        grown || healed
    }

    /// Takes a whole status. Answers whether it says something new.
    pub(super) fn report(&mut self, report: Report) -> bool {
        let said = Said {
            complete_at: report.applied.filter(|_| !report.truncated),
            busy_pools: report.busy_pools.iter().copied().collect(),
            busy_endpoints: report.busy_endpoints.into_iter().collect(),
        };
        // A pool that has left the busy list holds nothing, or says so anew in
        // the load list, which holds only pools whose load moved. Counts prove
        // nothing, so they ring no bell.
        let left = |pool: &&PoolKey| !report.truncated && !said.busy_pools.contains_key(*pool);
        for pool in self.said.busy_pools.keys().filter(left) {
            self.in_flight.remove(pool);
        }
        for (pool, count) in report.in_flight.into_iter().chain(report.busy_pools) {
            match count {
                0 => self.in_flight.remove(&pool),
                _ => self.in_flight.insert(pool, count),
            };
        }
        let changed = !self.said.proves_as_much_as(&said);
        self.said = said;
        changed
    }

    /// When it was seen to get to `revision`; `None` where it stood there
    /// already, or that is too long ago.
    pub(super) fn arrived_at(&self, revision: Revision) -> Option<Instant> {
        let at = self.arrivals.partition_point(|(applied, _)| *applied < Some(revision));
        // What stands first was not seen to arrive.
        (at > 0).then(|| self.arrivals.get(at)).flatten().map(|(_, at)| *at)
    }

    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.before = None;
    }

    /// A stored member that was not heard since the control plane started is
    /// suspect from that start on, however long it was silent before: nobody
    /// was there to hear it.
    pub(super) fn state(&self, config: &Config, now: Instant) -> State {
        match self.silent_here(now) {
            silent if silent <= config.live && self.before.is_none() => State::Live,
            silent if silent <= config.suspect => State::Suspect,
            _ => State::Gone,
        }
    }

    /// For how long it was not heard, by the clock on the wall.
    pub(super) fn silent(&self, now: Instant) -> Duration {
        self.before.map_or(Duration::ZERO, |before| before.silent) + self.silent_here(now)
    }

    /// The same, while a control plane was there to hear it: what counts before
    /// it is forgotten.
    pub(super) fn unheard(&self, now: Instant) -> Duration {
        self.before.map_or(Duration::ZERO, |before| before.unheard) + self.silent_here(now)
    }

    fn silent_here(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// Whether it serves changes that the store does not have, and did not get others since.
    pub(super) fn is_ahead(&self) -> bool {
        self.greeting.ahead && self.applied.is_none()
    }

    pub(super) fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// For how long the store lacks what was heard since; a member that has no
    /// stream gets its last word stored soon.
    pub(super) fn stored_late_by(&self) -> Option<Duration> {
        let late = self.heard.saturating_duration_since(self.stored?);
        let limit = if self.stream.is_some() { STORED_LATE_MAX } else { Duration::ZERO };
        (late > limit).then_some(late)
    }

    pub(super) fn note_stored(&mut self) {
        self.stored = Some(self.heard);
    }

    /// When it is gone if it stays silent.
    pub(super) fn gone_at(&self, config: &Config) -> Instant {
        // Just past the limit: at the limit it is still suspect.
        self.heard + config.suspect + Duration::from_millis(1)
    }

    /// Whether sending it this change, or a later one that does not heal it, cannot help.
    pub(super) fn refuses_for_good(&self, revision: Revision) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.revision >= revision && refused.reason.is_lasting())
    }

    /// Whether it still has to be waited for before something is stopped that
    /// it has not shown idle.
    pub(super) fn may_serve(&self, config: &Config, now: Instant) -> bool {
        self.silent_here(now) <= config.suspect + config.gone_grace
    }

    /// What it lacks before the change at `closing` is known to bind it, also
    /// after a restart (invariant 9).
    pub(super) fn does_not_know(&self, closing: Revision) -> Option<Why> {
        if self.applied < Some(closing) {
            return Some(Why::NotApplied);
        }
        // One that keeps no table asks for the state before it serves again.
        let forgets = self.greeting.keeps_table && self.durable < Some(closing);
        forgets.then_some(Why::NotDurable)
    }

    /// What it lacks before this pool is known to be idle here.
    pub(super) fn blocks_pool(&self, pool: PoolKey, closing: Revision) -> Option<Why> {
        self.blocks(self.said.busy_pools.get(&pool), closing)
    }

    /// The same for an endpoint.
    pub(super) fn blocks_endpoint(&self, endpoint: EndpointId, draining: Revision) -> Option<Why> {
        self.blocks(self.said.busy_endpoints.get(&endpoint), draining)
    }

    fn blocks(&self, busy: Option<&u64>, closing: Revision) -> Option<Why> {
        if let Some(why) = self.does_not_know(closing) {
            return Some(why);
        }
        // A status that is older than the change proves nothing, also where an
        // earlier change had closed the same.
        if self.said.complete_at < Some(closing) {
            return Some(busy.map_or(Why::Unreported, |in_flight| Why::Busy { in_flight: *in_flight }));
        }
        busy.map(|in_flight| Why::Busy { in_flight: *in_flight })
    }

    pub(super) fn in_flight_on(&self, pool: PoolKey) -> u64 {
        self.in_flight.get(&pool).copied().unwrap_or(0)
    }

    pub(super) fn in_flight_total(&self) -> u64 {
        self.in_flight.values().sum()
    }
}
