//! Who has to look again: what commits touched, for those who act on it.
//!
//! A commit tells which environments, pools and moves it touched, so that one
//! moved pointer among a hundred thousand environments is one environment to
//! read again. Whoever falls behind, or would have to look at more than that,
//! is told to look at everything. The keys carry no data: the store is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

use crate::model::id::EnvironmentId;
use crate::model::pool::PoolKey;

/// Something that a commit touched.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum WorkKey {
    /// An environment: its pointer, its policy, or all of it.
    Environment(EnvironmentId),
    /// A pool's row.
    Pool(PoolKey),
    /// A pending move of an environment, by number.
    Move(EnvironmentId, u64),
}

impl WorkKey {
    /// The environment it belongs to.
    pub fn environment(self) -> EnvironmentId {
        match self {
            Self::Environment(environment) | Self::Move(environment, _) => environment,
            Self::Pool(key) => key.environment,
        }
    }
}

/// What is to be looked at again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// These; possibly none.
    Keys(BTreeSet<WorkKey>),
    /// More than can be told one by one.
    Everything,
}

/// Keys told one by one. With more, one read of everything is cheaper than a
/// read for each.
const KEYS_MAX: usize = 1_024;

impl Default for Work {
    fn default() -> Self {
        Self::Keys(BTreeSet::new())
    }
}

impl Work {
    /// Whether there is nothing to do.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Keys(keys) if keys.is_empty())
    }

    /// One more.
    pub fn add(&mut self, key: WorkKey) {
        if let Self::Keys(keys) = self {
            keys.insert(key);
            if keys.len() > KEYS_MAX {
                *self = Self::Everything;
            }
        }
    }

    /// All of `other` too.
    pub fn merge(&mut self, other: &Self) {
        match other {
            Self::Everything => *self = Self::Everything,
            Self::Keys(keys) => keys.iter().for_each(|key| self.add(*key)),
        }
    }

    /// Whether this move may have changed.
    pub fn has_move(&self, number: u64) -> bool {
        self.any(|key| matches!(key, WorkKey::Move(_, other) if *other == number))
    }

    /// Whether anything may have changed of environments like this.
    pub fn has_environment(&self, wanted: impl Fn(EnvironmentId) -> bool) -> bool {
        self.any(|key| wanted(key.environment()))
    }

    fn any(&self, wanted: impl Fn(&WorkKey) -> bool) -> bool {
        match self {
            Self::Everything => true,
            Self::Keys(keys) => keys.iter().any(wanted),
        }
    }
}

/// Tells of commits. One place for all who watch: nobody is waited for.
pub(super) struct Bell(broadcast::Sender<Arc<Work>>);

/// Commits that a watcher may be behind before it is told to look at everything.
const COMMITS_MAX: usize = 256;

impl Bell {
    pub fn new() -> Self {
        Self(broadcast::Sender::new(COMMITS_MAX))
    }

    pub fn ring(&self, work: Work) {
        if !work.is_none() {
            // Without watchers there is nobody to miss it.
            let _ = self.0.send(Arc::new(work));
        }
    }

    pub fn watch(&self) -> WorkWatch {
        WorkWatch(self.0.subscribe())
    }
}

/// What was touched since it was asked last, from when it was made.
pub struct WorkWatch(broadcast::Receiver<Arc<Work>>);

impl WorkWatch {
    /// What was touched meanwhile, without waiting. Ask before reading: what is
    /// committed after that is told again.
    pub fn take(&mut self) -> Work {
        let mut work = Work::default();
        loop {
            match self.0.try_recv() {
                Ok(touched) => work.merge(&touched),
                Err(TryRecvError::Lagged(_)) => work = Work::Everything,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return work,
            }
        }
    }

    /// Waits until something is touched. `None`: the store is gone. Nothing is
    /// lost when the wait is given up.
    pub async fn changed(&mut self) -> Option<Work> {
        let mut work = match self.0.recv().await {
            Ok(touched) => Work::clone(&touched),
            Err(RecvError::Lagged(_)) => Work::Everything,
            Err(RecvError::Closed) => return None,
        };
        work.merge(&self.take());
        Some(work)
    }

    /// Waits until something `wanted` is touched; false: the store is gone.
    pub async fn until(&mut self, wanted: impl Fn(&Work) -> bool) -> bool {
        loop {
            match self.changed().await {
                Some(work) if wanted(&work) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn key(n: usize) -> WorkKey {
        WorkKey::Environment(Uuid::from_u128(n as u128).into())
    }

    fn of(count: usize) -> Work {
        let mut work = Work::default();
        (0..count).for_each(|n| work.add(key(n)));
        work
    }

    #[test]
    fn too_many_keys_are_everything() {
        assert!(of(0).is_none());
        assert!(matches!(of(KEYS_MAX), Work::Keys(keys) if keys.len() == KEYS_MAX));
        assert_eq!(of(KEYS_MAX + 1), Work::Everything);
        let mut merged = of(1);
        merged.merge(&Work::Everything);
        merged.add(key(7));
        assert_eq!(merged, Work::Everything);
        assert!(merged.has_move(9) && merged.has_environment(|_| false));
    }

    #[test]
    fn a_watcher_hears_of_what_concerns_it() {
        let environment: EnvironmentId = Uuid::from_u128(3).into();
        let mut work = Work::default();
        work.add(WorkKey::Move(environment, 9));
        assert!(work.has_move(9) && !work.has_move(8));
        assert!(work.has_environment(|id| id == environment) && !work.has_environment(|id| id != environment));
    }

    #[tokio::test]
    async fn what_was_touched_meanwhile_comes_at_once_and_a_watcher_far_behind_looks_at_everything() {
        let bell = Bell::new();
        let mut watch = bell.watch();
        bell.ring(Work::default());
        assert!(watch.take().is_none());
        bell.ring(of(1));
        bell.ring(of(2));
        assert_eq!(watch.changed().await, Some(of(2)));
        assert!(watch.take().is_none());
        (0..=COMMITS_MAX).for_each(|_| bell.ring(of(1)));
        assert_eq!(watch.take(), Work::Everything);
        bell.ring(of(1));
        assert_eq!(watch.take(), of(1), "and goes on from there");
        drop(bell);
        assert_eq!(watch.changed().await, None);
    }
}
