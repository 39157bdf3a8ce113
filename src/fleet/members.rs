//! Every proxy that is remembered, and what follows from what they said.
//!
//! Pure: `now` is an argument. A member is one run of one proxy: a run that has
//! handed its sockets to a successor stays one until its requests have ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::fleet::Config;
use crate::fleet::blocker::{Blocker, Why};
use crate::fleet::member::{Before, Greeting, Member, Refused, Report, State};
use crate::fleet::propagation::{Propagation, Refusal};
use crate::fleet::spread::Spread;
use crate::model::id::{EndpointId, InstanceId};
use crate::model::member::{MemberKey, StoredMember};
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;

/// One stream of one run of one proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    key: MemberKey,
    stream: u64,
}

/// A proxy as shown to people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyView {
    /// The proxy.
    pub proxy_id: String,
    /// This run of it.
    pub instance_id: InstanceId,
    /// Whether it is waited for.
    pub state: State,
    /// Whether it has a stream now.
    pub connected: bool,
    /// What it serves, where that is one of this store's revisions.
    pub applied_revision: Option<Revision>,
    /// What it would serve after a restart.
    pub durable_revision: Option<Revision>,
    /// Its software and version.
    pub version: String,
    /// Where it runs.
    pub zone: String,
    /// Where its stream comes from.
    pub address: SocketAddr,
    /// Requests it carries, as last reported.
    pub in_flight: u64,
    /// How long ago it was heard.
    pub silent_for: Duration,
    /// The change it refuses, while it does.
    pub refused: Option<Refused>,
    /// Whether it begins with what its disk has after a restart.
    pub keeps_table: bool,
    /// Whether it serves changes that the store does not have.
    pub ahead: bool,
}

/// A run that cannot be forgotten, because it is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StillLive {
    /// The proxy.
    pub proxy_id: String,
    /// This run of it.
    pub instance_id: InstanceId,
    /// How long ago it was heard.
    pub silent_for: Duration,
}

/// Every proxy that is remembered.
#[derive(Debug)]
pub struct Members {
    config: Config,
    since: Instant,
    /// When the control plane was awake last, as far as it says so, and for how
    /// long it has slept since it was asked.
    awake: Option<Instant>,
    slept: Duration,
    streams: u64,
    members: BTreeMap<MemberKey, Member>,
    /// Stored runs that are members no more, until the store is told.
    departed: Vec<MemberKey>,
}

/// Five pulses missed: longer than a busy machine keeps a task waiting, and too
/// short to matter where silence is counted in minutes.
const AWAY: Duration = Duration::from_secs(5);

impl Members {
    /// Nobody yet; the control plane started `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            since: now,
            awake: None,
            slept: Duration::ZERO,
            streams: 0,
            members: BTreeMap::new(),
            departed: Vec::new(),
        }
    }

    /// What an earlier run of the control plane stored; `wall` is the time on
    /// the wall `now`.
    pub fn restore(&mut self, stored: Vec<StoredMember>, wall: Timestamp, now: Instant) {
        // Nobody was heard while the control plane was away: the member heard
        // last shows when that began.
        let newest = stored.iter().map(|member| member.last_heard).max().unwrap_or(wall);
        for member in stored {
            let silent = since(wall, member.last_heard);
            let before = Before { silent, unheard: since(newest, member.last_heard) };
            self.members.insert(member.key.clone(), Member::restored(member, before, now));
        }
    }

    /// The control plane is awake `now`, and says so again within a second.
    /// Answers for how long it has slept since the last time.
    pub fn pulse(&mut self, now: Instant) -> Duration {
        self.notice(now);
        self.awake = Some(now);
        std::mem::take(&mut self.slept)
    }

    /// Notices that the control plane itself was away: stopped, or its machine
    /// suspended. It heard nobody meanwhile, and nothing follows from that; what
    /// it would have heard may still wait to be read. To be called before
    /// anything is concluded.
    pub fn notice(&mut self, now: Instant) {
        let Some(awake) = self.awake else { return };
        let slept = now.saturating_duration_since(awake);
        if slept < AWAY {
            return;
        }
        self.awake = Some(now);
        self.slept += slept;
        for member in self.members.values_mut() {
            member.heard = (member.heard + slept).min(now);
        }
    }

    /// A stream was opened. It speaks for its proxy from now on; an older one
    /// of the same run no longer does.
    pub fn hello(&mut self, greeting: Greeting, now: Instant) -> Session {
        for instance_id in &greeting.ended {
            let ended = MemberKey { proxy_id: greeting.proxy_id.clone(), instance_id: *instance_id };
            if *instance_id != greeting.instance_id {
                self.remove(&ended);
            }
        }
        self.streams += 1;
        let stream = self.streams;
        let key = MemberKey { proxy_id: greeting.proxy_id.clone(), instance_id: greeting.instance_id };
        match self.members.get_mut(&key) {
            Some(member) => member.greet_again(greeting, stream, now),
            None => drop(self.members.insert(key.clone(), Member::new(greeting, stream, now))),
        }
        Session { key, stream }
    }

    /// What a proxy serves. Answers, like the calls below, whether a conclusion
    /// may have changed.
    pub fn ack(
        &mut self,
        session: &Session,
        applied: Option<Revision>,
        durable: Option<Revision>,
        now: Instant,
    ) -> bool {
        self.hear(session, now, |member| member.ack(applied, durable))
    }

    /// What a proxy refused.
    pub fn nack(&mut self, session: &Session, refused: Refused, now: Instant) -> bool {
        self.hear(session, now, |member| {
            let changed = member.refused.as_ref() != Some(&refused);
            member.refused = Some(refused);
            changed
        })
    }

    /// What a proxy is doing.
    pub fn status(&mut self, session: &Session, report: Report, now: Instant) -> bool {
        self.hear(session, now, |member| member.report(report))
    }

    /// Whether this stream still speaks for its proxy.
    pub fn is_current(&self, session: &Session) -> bool {
        self.members.get(&session.key).is_some_and(|member| member.stream == Some(session.stream))
    }

    /// A proxy has stopped for good.
    pub fn goodbye(&mut self, session: &Session) -> bool {
        self.is_current(session) && self.remove(&session.key)
    }

    /// Forgets who was not heard for a day. Answers whether anybody was.
    pub fn sweep(&mut self, now: Instant) -> bool {
        let is_over = |member: &Member| member.unheard(now) > self.config.forget;
        let over: Vec<_> =
            self.members.iter().filter(|(_, member)| is_over(member)).map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.remove(key);
        }
        !over.is_empty()
    }

    /// Forgets one run of a proxy, or all that are not live. Nobody waits for
    /// what is forgotten: it must not be serving any more.
    ///
    /// # Errors
    ///
    /// When a run is live and it, or nothing else, was to be forgotten; nothing
    /// is forgotten then.
    pub fn forget(
        &mut self,
        proxy_id: &str,
        instance: Option<InstanceId>,
        now: Instant,
    ) -> Result<Vec<MemberKey>, StillLive> {
        let asked = |key: &MemberKey| key.proxy_id == proxy_id && instance.is_none_or(|asked| asked == key.instance_id);
        let (live, silent): (Vec<_>, Vec<_>) = self
            .members
            .iter()
            .filter(|(key, _)| asked(key))
            .partition(|(_, member)| member.state(&self.config, now) == State::Live);
        if let (Some((key, member)), []) = (live.first(), silent.as_slice()) {
            let silent_for = member.silent(now);
            return Err(StillLive { proxy_id: key.proxy_id.clone(), instance_id: key.instance_id, silent_for });
        }
        let forgotten: Vec<_> = silent.into_iter().map(|(key, _)| key.clone()).collect();
        forgotten.iter().for_each(|key| drop(self.members.remove(key)));
        Ok(forgotten)
    }

    /// The member of this session, where the store does not have it yet.
    pub fn unstored(&self, session: &Session) -> Option<&MemberKey> {
        let (key, member) = self.members.get_key_value(&session.key)?;
        (!member.is_stored()).then_some(key)
    }

    /// What a member is stored as, at the time `wall` on the wall.
    pub fn stored_form(&self, key: &MemberKey, wall: Timestamp, now: Instant) -> Option<StoredMember> {
        let member = self.members.get(key)?;
        let silent = jiff::SignedDuration::try_from(member.silent(now)).ok()?;
        Some(StoredMember {
            key: key.clone(),
            build: member.greeting.build.clone(),
            zone: member.greeting.zone.clone(),
            address: member.greeting.address,
            keeps_table: member.greeting.keeps_table,
            embedded: member.greeting.embedded,
            last_heard: wall.checked_sub(silent).unwrap_or(wall),
            durable: member.durable,
        })
    }

    /// The store has a member as it is now.
    pub fn note_stored(&mut self, key: &MemberKey) {
        if let Some(member) = self.members.get_mut(key) {
            member.note_stored();
        }
    }

    /// Up to `limit` members of which the store knows too little, worst first.
    pub fn stored_late(&self, limit: usize) -> Vec<MemberKey> {
        let late = self.members.iter().filter_map(|(key, member)| Some((member.stored_late_by()?, key)));
        let mut late: Vec<_> = late.collect();
        late.sort_by_key(|(late, _)| std::cmp::Reverse(*late));
        late.into_iter().take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// Runs that the store is to remove, told once.
    pub fn take_departed(&mut self) -> Vec<MemberKey> {
        std::mem::take(&mut self.departed)
    }

    /// Whether all that have a stream serve changes that the store does not have.
    pub fn are_all_ahead(&self) -> bool {
        let mut connected = self.members.values().filter(|member| member.stream.is_some()).peekable();
        connected.peek().is_some() && connected.all(Member::is_ahead)
    }

    fn remove(&mut self, key: &MemberKey) -> bool {
        let removed = self.members.remove(key);
        if removed.is_some() {
            // Also where the row is only being written: removing one that is not there does no harm.
            self.departed.push(key.clone());
        }
        removed.is_some()
    }

    /// A stream has ended. The proxy goes on serving: only its silence counts.
    pub fn lost(&mut self, session: &Session) -> bool {
        let current = self.is_current(session);
        if let Some(member) = self.members.get_mut(&session.key).filter(|_| current) {
            member.stream = None;
        }
        current
    }

    /// Who has applied `revision`.
    pub fn propagation(&self, revision: Revision, now: Instant) -> Propagation {
        let mut propagation = Propagation::default();
        for (key, member) in &self.members {
            let applied = member.applied >= Some(revision);
            match member.state(&self.config, now) {
                State::Gone => propagation.unconfirmed += u32::from(!applied),
                State::Live | State::Suspect => {
                    propagation.required += 1;
                    propagation.applied += u32::from(applied);
                    if let Some(refused) = member.refused.as_ref().filter(|_| !applied) {
                        propagation.refused.push(refusal(key, refused));
                    }
                }
            }
        }
        propagation.complete = propagation.applied == propagation.required;
        propagation
    }

    /// How the change at `revision`, which was committed then, has spread.
    pub fn spread(&self, revision: Revision, committed: Instant, now: Instant) -> Spread {
        Spread::of(self.members.iter(), &self.config, revision, committed, now)
    }

    /// A live or suspect member that `lacks` something, and when it would be
    /// gone: the first from this key on, or else from the beginning.
    pub(super) fn awaited(
        &self,
        from: Option<&MemberKey>,
        now: Instant,
        lacks: impl Fn(&Member) -> bool,
    ) -> Option<(&MemberKey, Instant)> {
        let begin = from.map_or(Bound::Unbounded, Bound::Included);
        let onwards = self.members.range::<MemberKey, _>((begin, Bound::Unbounded));
        let before = from.map(|from| self.members.range(..from)).into_iter().flatten();
        let is_awaited = |member: &Member| lacks(member) && member.state(&self.config, now) != State::Gone;
        let (key, member) = onwards.chain(before).find(|(_, member)| is_awaited(member))?;
        Some((key, member.gone_at(&self.config)))
    }

    /// What keeps a pool, which the change at `closing` closed, from being
    /// stopped (invariant 9). A proxy that is silent still counts until
    /// `gone_grace` is over, unless what it said last was proof already.
    pub fn blocking_pool(&self, pool: PoolKey, closing: Revision, now: Instant) -> impl Iterator<Item = Blocker> {
        self.blocking(now, move |member| member.blocks_pool(pool, closing))
    }

    /// The same for an endpoint that a change marked draining or removed.
    pub fn blocking_endpoint(
        &self,
        endpoint: EndpointId,
        draining: Revision,
        now: Instant,
    ) -> impl Iterator<Item = Blocker> {
        self.blocking(now, move |member| member.blocks_endpoint(endpoint, draining))
    }

    /// What keeps the change at `revision` from binding every proxy that may
    /// still serve, also after a restart of it.
    pub fn blocking_closing(&self, revision: Revision, now: Instant) -> impl Iterator<Item = Blocker> {
        self.blocking(now, move |member| member.does_not_know(revision))
    }

    /// Requests on a pool, as last reported.
    pub fn in_flight(&self, pool: PoolKey, now: Instant) -> u64 {
        let here = self.members.values().filter(|member| member.state(&self.config, now) != State::Gone);
        here.map(|member| member.in_flight_on(pool)).sum()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Every proxy, by name.
    pub fn proxies(&self, now: Instant) -> Vec<ProxyView> {
        self.members.iter().map(|(key, member)| view(key, member, &self.config, now)).collect()
    }

    fn blocking(&self, now: Instant, lacks: impl Fn(&Member) -> Option<Why>) -> impl Iterator<Item = Blocker> {
        // Nothing is concluded from absence after a restart: whoever is here
        // already, others that serve may only not have reconnected.
        let left = self.config.settle.saturating_sub(now.saturating_duration_since(self.since));
        let settling = (!left.is_zero()).then_some(Blocker::Settling { left });
        let proxies = self.members.iter().filter_map(move |(key, member)| {
            let why = lacks(member).filter(|_| member.may_serve(&self.config, now))?;
            Some(Blocker::Proxy {
                proxy_id: key.proxy_id.clone(),
                instance_id: key.instance_id,
                state: member.state(&self.config, now),
                silent_for: member.silent(now),
                why,
            })
        });
        settling.into_iter().chain(proxies)
    }

    /// Applies what the current stream of a proxy said; words of an older one are dropped.
    fn hear(&mut self, session: &Session, now: Instant, say: impl FnOnce(&mut Member) -> bool) -> bool {
        let config = self.config;
        let Some(member) = self.members.get_mut(&session.key).filter(|member| member.stream == Some(session.stream))
        else {
            return false;
        };
        let back = member.state(&config, now) != State::Live;
        member.hear(now);
        say(member) || back
    }
}

fn refusal(key: &MemberKey, refused: &Refused) -> Refusal {
    Refusal {
        proxy_id: key.proxy_id.clone(),
        revision: refused.revision,
        reason: refused.reason,
        detail: refused.detail.clone(),
    }
}

fn view(key: &MemberKey, member: &Member, config: &Config, now: Instant) -> ProxyView {
    ProxyView {
        proxy_id: key.proxy_id.clone(),
        instance_id: key.instance_id,
        state: member.state(config, now),
        connected: member.stream.is_some(),
        applied_revision: member.applied,
        durable_revision: member.durable,
        version: member.greeting.build.clone(),
        zone: member.greeting.zone.clone(),
        address: member.greeting.address,
        in_flight: member.in_flight_total(),
        silent_for: member.silent(now),
        refused: member.refused.clone(),
        keeps_table: member.greeting.keeps_table,
        ahead: member.is_ahead(),
    }
}

/// Clocks may be set back.
fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
