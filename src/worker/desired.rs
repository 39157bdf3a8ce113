//! What the store asks for, pool by pool.
//!
//! A plain value: the rows with what belongs to them, and which of them have
//! changed since they were looked at. Loading it is the supervisor's business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::model::deployment::{Deployment, Source};
use crate::model::id::EnvironmentId;
use crate::model::name::{EnvironmentName, ProjectName};
use crate::model::pool::{Pool, PoolKey, PoolState};

/// A pool as the store has it, with what it takes to run it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct DesiredPool {
    pub row: Pool,
    pub deployment: Arc<Deployment>,
    pub project: ProjectName,
    pub environment: EnvironmentName,
    /// Longest wait for running requests once it is closing.
    pub max_drain: Duration,
}

impl DesiredPool {
    /// The URLs of workers that somebody else runs; `None` where Repoint runs them.
    pub fn urls(&self) -> Option<&[String]> {
        match &self.deployment.source {
            Source::Bundle { .. } => None,
            Source::Endpoints { endpoints, .. } => Some(endpoints),
        }
    }

    /// How many replicas should run.
    pub fn replicas(&self) -> usize {
        match self.row.state.is_wanted() && self.deployment.is_managed() {
            // A `u32` fits a `usize` wherever processes run.
            true => self.row.bounds.min as usize,
            false => 0,
        }
    }

    pub fn ready_timeout(&self) -> Duration {
        self.deployment.ready_timeout().duration()
    }

    /// Whether there is something to plan: replicas to run, or a closing to watch.
    fn is_planned(&self) -> bool {
        self.deployment.is_managed() || self.row.state == PoolState::Closing
    }
}

/// Every pool that is wanted, or of which something is left.
#[derive(Default, Debug)]
pub(super) struct Desired {
    /// Those that are planned for, at every look: as many as run on this machine, and what is closing.
    pub planned: BTreeMap<PoolKey, DesiredPool>,
    /// Those that somebody else runs and that nothing is to be done about but to ask how they are. There may be
    /// hundreds of thousands: nothing that happens at every look goes through all of them.
    outside: BTreeMap<PoolKey, DesiredPool>,
    /// Pools whose row, or what is known of them, has changed and was not looked at yet; also those that went.
    changed: BTreeSet<PoolKey>,
}

impl Desired {
    pub fn get(&self, key: &PoolKey) -> Option<&DesiredPool> {
        self.planned.get(key).or_else(|| self.outside.get(key))
    }

    /// Takes a pool in as it is now.
    pub fn put(&mut self, pool: DesiredPool) {
        let key = pool.row.key;
        if self.get(&key) == Some(&pool) {
            return;
        }
        self.changed.insert(key);
        let (into, from) = match pool.is_planned() {
            true => (&mut self.planned, &mut self.outside),
            false => (&mut self.outside, &mut self.planned),
        };
        from.remove(&key);
        into.insert(key, pool);
    }

    /// Gives a known pool another row; answers the one before.
    pub fn put_row(&mut self, row: Pool) -> Option<Pool> {
        let pool = self.get(&row.key)?.clone();
        let before = pool.row.clone();
        self.put(DesiredPool { row, ..pool });
        Some(before)
    }

    /// A pool is gone, or at rest.
    pub fn remove(&mut self, key: PoolKey) {
        let (planned, outside) = (self.planned.remove(&key), self.outside.remove(&key));
        if planned.is_some() || outside.is_some() {
            self.changed.insert(key);
        }
    }

    /// All are gone.
    pub fn clear(&mut self) {
        self.keys().into_iter().for_each(|key| self.remove(key));
    }

    /// The pools of an environment.
    pub fn of_environment(&self, environment: EnvironmentId) -> BTreeSet<PoolKey> {
        let key = |deployment: Uuid| PoolKey { environment, deployment: deployment.into() };
        let range = || key(Uuid::nil())..=key(Uuid::max());
        self.planned.range(range()).chain(self.outside.range(range())).map(|(key, _)| *key).collect()
    }

    /// Every pool.
    pub fn keys(&self) -> BTreeSet<PoolKey> {
        self.planned.keys().chain(self.outside.keys()).copied().collect()
    }

    /// Something is known of a pool that was not.
    pub fn note(&mut self, key: PoolKey) {
        self.changed.insert(key);
    }

    /// All that are planned for, and of the others the changed ones, at most `max`.
    pub fn due(&self, max: usize) -> BTreeSet<PoolKey> {
        let others = self.changed.iter().filter(|key| !self.planned.contains_key(key)).take(max);
        others.chain(self.planned.keys()).copied().collect()
    }

    /// These were looked at. Answers whether others are still due.
    pub fn looked_at(&mut self, keys: &BTreeSet<PoolKey>) -> bool {
        for key in keys {
            self.changed.remove(key);
        }
        !self.changed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bounds::Bounds;
    use crate::model::deployment::HostHeader;
    use crate::model::manifest::{Manifest, Protocol};
    use jiff::Timestamp;

    fn key(n: u128) -> PoolKey {
        PoolKey { environment: Uuid::from_u128(n).into(), deployment: Uuid::from_u128(7).into() }
    }

    fn pool(n: u128, state: PoolState, managed: bool) -> DesiredPool {
        let source = match managed {
            true => Source::Bundle {
                digest: "sha256:0".to_owned(),
                manifest: Manifest::parse("[worker]\ncommand = [\"./serve\"]").unwrap(),
            },
            false => Source::Endpoints {
                endpoints: vec!["http://127.0.0.1:1".to_owned()],
                protocol: Protocol::Http1,
                health_path: None,
                host: HostHeader::Client,
            },
        };
        let deployment = Deployment {
            id: key(n).deployment,
            reference: "bcdf2345".parse().unwrap(),
            project: Uuid::from_u128(3).into(),
            source,
            message: None,
            git_commit: None,
            created_by: "test".to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
        };
        DesiredPool {
            row: Pool { state, ..Pool::starting(key(n), Bounds::default()) },
            deployment: Arc::new(deployment),
            project: "support".parse().unwrap(),
            environment: "preview".parse().unwrap(),
            max_drain: Duration::ZERO,
        }
    }

    #[test]
    fn of_what_others_run_only_what_changed_is_due_and_some_at_a_time() {
        let mut desired = Desired::default();
        desired.put(pool(0, PoolState::Running, true));
        (1..=5).for_each(|n| desired.put(pool(n, PoolState::Running, false)));
        let first = desired.due(3);
        assert_eq!(first, [key(0), key(1), key(2), key(3)].into());
        assert!(desired.looked_at(&first), "two are left");
        let second = desired.due(3);
        assert_eq!(second, [key(0), key(4), key(5)].into());
        assert!(!desired.looked_at(&second));
        assert_eq!(desired.due(3), [key(0)].into(), "what runs here is looked at every time");
        desired.put(pool(3, PoolState::Running, false));
        assert_eq!(desired.due(3), [key(0)].into(), "it is what it was");
        desired.put(pool(3, PoolState::Failing, false));
        desired.note(key(5));
        desired.remove(key(4));
        assert_eq!(desired.due(3), [key(0), key(3), key(4), key(5)].into());
    }

    #[test]
    fn a_pool_of_others_is_planned_for_while_it_closes() {
        let mut desired = Desired::default();
        for (state, planned) in [(PoolState::Running, 0), (PoolState::Closing, 1), (PoolState::Starting, 0)] {
            desired.put(pool(1, state, false));
            assert_eq!(desired.planned.len(), planned, "{state:?}");
            assert_eq!(desired.get(&key(1)).unwrap().row.state, state);
            assert_eq!(desired.keys(), [key(1)].into());
        }
        assert_eq!(desired.of_environment(key(1).environment), [key(1)].into());
        assert_eq!(desired.of_environment(key(2).environment), BTreeSet::new());
        desired.clear();
        assert!(desired.keys().is_empty() && desired.get(&key(1)).is_none());
    }
}
