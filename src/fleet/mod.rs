//! What the control plane knows of its proxies: who is there, what each has
//! applied, and what still runs on what is to be stopped.
//!
//! Owns the members and every conclusion drawn from them. The conclusions are
//! pure ([`members`], `now` is an argument); [`Fleet`] adds a lock and a bell.
//! Knows neither messages nor the store: `stream::server` reports here,
//! `control` waits for a move to be applied, `worker` for pools to be idle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::fleet::blocker::Blockers;
use crate::fleet::member::{Greeting, Refused, Report};
use crate::fleet::members::{Members, ProxyView, Session, StillLive};
use crate::fleet::propagation::Propagation;
use crate::fleet::spread::Spread;
use crate::fleet::wait::{Until, Wait};
use crate::model::id::{EndpointId, InstanceId};
use crate::model::member::{MemberKey, StoredMember};
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;

pub mod blocker;
pub mod member;
pub mod members;
pub mod propagation;
pub mod spread;
pub mod wait;

/// How silence is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Heard within this long: live. 10 s: ten statuses, so that one slow
    /// snapshot or a stalled machine does not make a proxy suspect.
    pub live: Duration,
    /// Heard within this long: suspect, and still waited for. 60 s: three of the
    /// longest reconnect delays.
    pub suspect: Duration,
    /// Gone for this long: no longer waited for when something is to be stopped.
    /// 5 min: a proxy cut off from here may be serving all that time.
    pub gone_grace: Duration,
    /// For this long after a start nothing is concluded from who is not here:
    /// proxies that serve may only not have come back yet. As long as `suspect`.
    pub settle: Duration,
    /// Silent for this long: forgotten.
    pub forget: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            live: Duration::from_secs(10),
            suspect: Duration::from_secs(60),
            gone_grace: Duration::from_secs(300),
            settle: Duration::from_secs(60),
            forget: Duration::from_secs(24 * 3_600),
        }
    }
}

/// The proxies, shared. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

struct Shared {
    members: Mutex<Members>,
    changed: watch::Sender<u64>,
}

impl Fleet {
    /// Nobody yet.
    pub fn new(config: Config) -> Self {
        let members = Mutex::new(Members::new(config, now()));
        Self(Arc::new(Shared { members, changed: watch::Sender::new(0) }))
    }

    /// Takes over what an earlier run of the control plane stored: those proxies
    /// may be serving, and are waited for like those that were just heard.
    pub fn restore(&self, stored: Vec<StoredMember>) {
        self.members().restore(stored, Timestamp::now(), now());
        self.ring();
    }

    /// The control plane is awake, and says so every second from now on: where
    /// it does not, it was stopped meanwhile, and the silence of proxies was its
    /// own. Answers for how long it slept since the last time.
    pub fn pulse(&self) -> Duration {
        self.members().pulse(now())
    }

    /// A proxy has opened a stream; the session names it in every further call.
    pub fn hello(&self, greeting: Greeting) -> Session {
        let session = self.members().hello(greeting, now());
        self.ring();
        session
    }

    /// A proxy has published `applied`, and has `durable` on disk.
    pub fn ack(&self, session: &Session, applied: Option<Revision>, durable: Option<Revision>) {
        let changed = self.members().ack(session, applied, durable, now());
        self.ring_if(changed);
    }

    /// A proxy has refused a change.
    pub fn nack(&self, session: &Session, refused: Refused) {
        let changed = self.members().nack(session, refused, now());
        self.ring_if(changed);
    }

    /// A proxy has said what it is doing.
    pub fn status(&self, session: &Session, report: Report) {
        let changed = self.members().status(session, report, now());
        self.ring_if(changed);
    }

    /// Whether this stream still speaks for its proxy; a newer one of the same
    /// instance takes its place.
    pub fn is_current(&self, session: &Session) -> bool {
        self.members().is_current(session)
    }

    /// A proxy has stopped for good.
    pub fn goodbye(&self, session: &Session) {
        let changed = self.members().goodbye(session);
        self.ring_if(changed);
    }

    /// Forgets runs of a proxy that are not live any more: one, or all. Whoever
    /// asks removes them from the store, in a transaction that was begun before.
    ///
    /// # Errors
    ///
    /// When what was named is live.
    pub fn forget(&self, proxy_id: &str, instance: Option<InstanceId>) -> Result<Vec<MemberKey>, StillLive> {
        let forgotten = self.members().forget(proxy_id, instance, now())?;
        self.ring_if(!forgotten.is_empty());
        Ok(forgotten)
    }

    /// What has to be stored before the proxy is welcomed: nothing, where its
    /// run is known already.
    pub fn unstored(&self, session: &Session) -> Option<StoredMember> {
        let members = self.members();
        let key = members.unstored(session)?;
        members.stored_form(key, Timestamp::now(), now())
    }

    /// Up to `limit` members of which the store knows too little; whoever asks
    /// stores them. What was heard of them meanwhile may be lost: it is coarse.
    pub fn stored_late(&self, limit: usize) -> Vec<StoredMember> {
        let (mut members, wall, now) = (self.members(), Timestamp::now(), now());
        let late = members.stored_late(limit);
        late.iter().for_each(|key| members.note_stored(key));
        late.iter().filter_map(|key| members.stored_form(key, wall, now)).collect()
    }

    /// A member is stored.
    pub fn note_stored(&self, key: &MemberKey) {
        self.members().note_stored(key);
    }

    /// Runs that the store is to remove, told once. Forgets who was silent for a
    /// day on the way.
    pub fn take_departed(&self) -> Vec<MemberKey> {
        let mut members = self.members();
        let changed = members.sweep(now());
        let departed = members.take_departed();
        drop(members);
        self.ring_if(changed);
        departed
    }

    /// Whether every proxy that has a stream serves changes that the store does
    /// not have: then the store is the one that is wrong.
    pub fn are_all_ahead(&self) -> bool {
        self.members().are_all_ahead()
    }

    /// A stream has ended; the proxy is still waited for.
    pub fn lost(&self, session: &Session) {
        let changed = self.members().lost(session);
        self.ring_if(changed);
    }

    /// Who has applied `revision`, as things are.
    pub fn propagation(&self, revision: Revision) -> Propagation {
        self.members().propagation(revision, now())
    }

    /// The same by name and in time; it was committed at `committed`.
    pub fn spread(&self, revision: Revision, committed: Timestamp) -> Spread {
        let now = now();
        let since = Duration::try_from(Timestamp::now().duration_since(committed)).unwrap_or_default();
        // A machine that started after the commit has no instant for it.
        self.members().spread(revision, now.checked_sub(since).unwrap_or(now), now)
    }

    /// Waits until every live and suspect proxy has applied `revision`, until
    /// those that have not have refused it for good, or for `deadline`.
    pub async fn wait_applied(&self, revision: Revision, deadline: Duration) -> Propagation {
        self.wait(Wait::new(revision, Until::Settled), deadline).await
    }

    /// The same, waiting refusals out: a later change may heal them.
    pub async fn wait_complete(&self, revision: Revision, deadline: Duration) -> Propagation {
        self.wait(Wait::new(revision, Until::Complete), deadline).await
    }

    async fn wait(&self, mut wait: Wait, deadline: Duration) -> Propagation {
        let started = now();
        let mut changed = self.watch();
        loop {
            changed.borrow_and_update();
            let now = now();
            let elapsed = now.duration_since(started);
            let pause = {
                let members = self.members();
                match wait.look(&members, now).filter(|_| elapsed < deadline) {
                    // A member that falls silent changes the answer without a word.
                    Some(gone_at) => gone_at.saturating_duration_since(now).min(deadline - elapsed),
                    None => return members.propagation(wait.revision(), now).after(elapsed),
                }
            };
            // Either outcome leads to another look. The bell cannot close: `self` holds it.
            let _ = tokio::time::timeout(pause, changed.changed()).await;
        }
    }

    /// A bell that rings whenever a conclusion may have changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Whether the change at `revision` binds every proxy that may still serve,
    /// so that what it closed gets no new requests: applied, and on disk where
    /// the proxy begins with what its disk has. More than
    /// `propagation(revision).complete`, which goes on without those that are
    /// gone: this waits until their grace is over, as the proofs below do.
    pub fn closing_known(&self, revision: Revision) -> bool {
        self.members().blocking_closing(revision, now()).next().is_none()
    }

    /// Whether no proxy holds a request on this pool, which the change at
    /// `closing` closed.
    pub fn drained_pool(&self, pool: PoolKey, closing: Revision) -> bool {
        self.members().blocking_pool(pool, closing, now()).next().is_none()
    }

    /// Whether no proxy holds a request on this endpoint, which the change at
    /// `draining` marked draining or removed.
    pub fn drained_endpoint(&self, endpoint: EndpointId, draining: Revision) -> bool {
        self.members().blocking_endpoint(endpoint, draining, now()).next().is_none()
    }

    /// Why [`Fleet::drained_pool`] is false, proxy by proxy: nobody when it is true.
    pub fn blocking_pool(&self, pool: PoolKey, closing: Revision) -> Blockers {
        self.members().blocking_pool(pool, closing, now()).collect()
    }

    /// Why [`Fleet::drained_endpoint`] is false.
    pub fn blocking_endpoint(&self, endpoint: EndpointId, draining: Revision) -> Blockers {
        self.members().blocking_endpoint(endpoint, draining, now()).collect()
    }

    /// Why [`Fleet::closing_known`] is false.
    pub fn blocking_closing(&self, revision: Revision) -> Blockers {
        self.members().blocking_closing(revision, now()).collect()
    }

    /// Requests on a pool, summed over the proxies that are not gone, as last reported.
    pub fn in_flight(&self, pool: PoolKey) -> u64 {
        self.members().in_flight(pool, now())
    }

    /// How many runs of proxies are remembered.
    pub fn count(&self) -> usize {
        self.members().count()
    }

    /// Every proxy that is remembered.
    pub fn proxies(&self) -> Vec<ProxyView> {
        self.members().proxies(now())
    }

    fn ring_if(&self, changed: bool) {
        if changed {
            self.ring();
        }
    }

    fn ring(&self) {
        self.0.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Every change to the members is one assignment; a panic leaves nothing half-done.
        let mut members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is first after a sleep, nothing is concluded from it.
        members.notice(now());
        members
    }
}

/// The runtime's clock, which simulations turn themselves.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
