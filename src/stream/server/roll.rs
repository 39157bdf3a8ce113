//! The roll: writes down who is a member, and strikes out who is none any more.
//!
//! One task writes for all streams: proxies that come together share a
//! transaction, and one that has been heard costs a row now and then, not one a
//! status. Who is a member is `fleet`'s knowledge; this only keeps it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use crate::drain;
use crate::fleet::Fleet;
use crate::fleet::members::Session;
use crate::model::member::{MemberKey, StoredMember};
use crate::store::{self, MembersChange};
use crate::stream::source::Source;

/// The way in. The task ends with the last clone.
#[derive(Clone)]
pub struct Roll(mpsc::Sender<Entry>);

enum Entry {
    /// Answers when the member is stored; is dropped when that failed.
    Arrived(Box<StoredMember>, oneshot::Sender<()>),
    /// Somebody is to be struck out.
    Departed,
}

/// Proxies in one transaction; as many may wait for the next one, and further
/// ones wait to get in.
const TOGETHER_MAX: usize = 256;
/// How often the store is brought up to date with what was heard.
const EVERY: Duration = Duration::from_secs(30);
/// Rows written then: 10,000 members take their turn in five minutes, and none
/// of the writes holds up a promotion for long.
const HEARD_MAX: usize = 1_000;

impl Roll {
    /// Starts writing what `fleet` knows.
    pub fn start<S: Source>(source: S, fleet: Fleet, drain: &drain::Watch) -> Self {
        let (sender, entries) = mpsc::channel(TOGETHER_MAX);
        let writer = Writer { source, fleet, departed: Vec::new() };
        let hold = drain.hold();
        tokio::spawn(async move {
            writer.run(entries).await;
            drop(hold);
        });
        Self(sender)
    }

    /// One that writes nothing.
    #[cfg(test)]
    pub fn idle() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Returns when this session's member is stored. Answers whether it is:
    /// false when the store failed, which has been told.
    pub async fn has(&self, fleet: &Fleet, session: &Session) -> bool {
        let Some(member) = fleet.unstored(session) else { return true };
        let (written, hears) = oneshot::channel();
        let entry = Entry::Arrived(Box::new(member), written);
        self.0.send(entry).await.is_ok() && hears.await.is_ok()
    }

    /// Somebody has departed. Does not wait; a full queue is written soon, and
    /// departures with it.
    pub fn strike_out(&self) {
        let _ = self.0.try_send(Entry::Departed);
    }
}

struct Writer<S> {
    source: S,
    fleet: Fleet,
    /// Not struck out yet, because the store failed.
    departed: Vec<MemberKey>,
}

impl<S: Source> Writer<S> {
    async fn run(mut self, mut entries: mpsc::Receiver<Entry>) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let heard_max = tokio::select! {
                biased;
                _ = ticks.tick() => HEARD_MAX,
                received = entries.recv_many(&mut batch, TOGETHER_MAX) => match received {
                    0 => return,
                    _ => 0,
                },
            };
            // A failure has been told, and answers nobody.
            let _ = self.write(batch.drain(..), heard_max).await;
        }
    }

    async fn write(&mut self, entries: impl Iterator<Item = Entry>, heard_max: usize) -> Result<(), store::Error> {
        let (mut arrived, mut waiting) = (Vec::new(), Vec::new());
        for entry in entries {
            if let Entry::Arrived(member, written) = entry {
                arrived.push(*member);
                waiting.push(written);
            }
        }
        // Who has departed is taken first: what is read afterwards knows of it.
        self.departed.extend(self.fleet.take_departed());
        let heard = self.fleet.stored_late(heard_max);
        if self.departed.is_empty() && arrived.is_empty() && heard.is_empty() {
            return Ok(());
        }
        let departed = self.departed.clone();
        let keys: Vec<_> = arrived.iter().map(|member| member.key.clone()).collect();
        if let Err(error) = self.source.keep_members(MembersChange { departed, arrived, heard }).await {
            error!(error = &error as &dyn std::error::Error, "failed to write down which proxies are members");
            return Err(error);
        }
        self.departed.clear();
        keys.iter().for_each(|key| self.fleet.note_stored(key));
        // Whoever waited may have left.
        for written in waiting {
            let _ = written.send(());
        }
        Ok(())
    }
}
