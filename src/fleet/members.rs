//! Every proxy that is remembered, and what follows from what they said.
//!
//! Pure: `now` is an argument. A member is one run of one proxy: a run that has
//! handed its sockets to a successor stays one until its requests have ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::fleet::Config;
use crate::fleet::blocker::{Blocker, Why};
use crate::fleet::member::{Greeting, Member, Refused, Report, State};
use crate::fleet::propagation::{Propagation, Refusal};
use crate::model::id::{EndpointId, InstanceId};
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;

/// One stream of one run of one proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    key: Key,
    stream: u64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    proxy_id: String,
    instance_id: InstanceId,
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
}

/// Every proxy that is remembered.
#[derive(Debug)]
pub struct Members {
    config: Config,
    since: Instant,
    streams: u64,
    members: BTreeMap<Key, Member>,
}

impl Members {
    /// Nobody yet; the control plane started `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self { config, since: now, streams: 0, members: BTreeMap::new() }
    }

    /// A stream was opened. It speaks for its proxy from now on; an older one
    /// of the same run no longer does.
    pub fn hello(&mut self, greeting: Greeting, now: Instant) -> Session {
        self.members.retain(|_, member| member.silent(now) <= self.config.forget);
        self.streams += 1;
        let stream = self.streams;
        let key = Key { proxy_id: greeting.proxy_id.clone(), instance_id: greeting.instance_id };
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
        self.is_current(session) && self.members.remove(&session.key).is_some()
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

    /// When silence alone changes an answer next.
    pub fn next_transition(&self, now: Instant) -> Option<Instant> {
        self.members.values().filter_map(|member| member.next_transition(&self.config, now)).min()
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
        member.heard = now;
        say(member) || back
    }
}

fn refusal(key: &Key, refused: &Refused) -> Refusal {
    Refusal {
        proxy_id: key.proxy_id.clone(),
        revision: refused.revision,
        reason: refused.reason,
        detail: refused.detail.clone(),
    }
}

fn view(key: &Key, member: &Member, config: &Config, now: Instant) -> ProxyView {
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
    }
}

#[cfg(test)]
mod tests;
