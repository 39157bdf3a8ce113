//! Which pools each probed target and each resolved name is of.
//!
//! Pure. Kept in step pool by pool, so that a change of one pool among a hundred
//! thousand costs as much as it has endpoints, and news of a target is taken to
//! the pools that have it.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::model::pool::PoolKey;

/// What each pool wants watched, and who wants it.
#[derive(Debug)]
pub(super) struct Interest<T> {
    by_pool: HashMap<PoolKey, BTreeSet<T>>,
    by_thing: HashMap<T, BTreeSet<PoolKey>>,
}

/// What has to be done about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delta<T> {
    /// Wanted by nobody before.
    pub begun: Vec<T>,
    /// Wanted by nobody any more.
    pub ended: Vec<T>,
}

impl<T: Ord + Hash + Clone> Interest<T> {
    pub fn new() -> Self {
        Self { by_pool: HashMap::new(), by_thing: HashMap::new() }
    }

    /// From now on this is what `pool` wants.
    pub fn set(&mut self, pool: PoolKey, wanted: BTreeSet<T>) -> Delta<T> {
        let mut delta = Delta { begun: Vec::new(), ended: Vec::new() };
        if self.by_pool.get(&pool).map_or(wanted.is_empty(), |before| *before == wanted) {
            return delta;
        }
        let before = self.by_pool.remove(&pool).unwrap_or_default();
        for thing in wanted.difference(&before) {
            let pools = self.by_thing.entry(thing.clone()).or_default();
            if pools.is_empty() {
                delta.begun.push(thing.clone());
            }
            pools.insert(pool);
        }
        for thing in before.difference(&wanted) {
            let Some(pools) = self.by_thing.get_mut(thing) else { continue };
            pools.remove(&pool);
            if pools.is_empty() {
                self.by_thing.remove(thing);
                delta.ended.push(thing.clone());
            }
        }
        if !wanted.is_empty() {
            self.by_pool.insert(pool, wanted);
        }
        delta
    }

    /// Who wants it.
    pub fn of(&self, thing: &T) -> impl Iterator<Item = PoolKey> {
        self.by_thing.get(thing).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn pool(n: u128) -> PoolKey {
        PoolKey { environment: Uuid::from_u128(n).into(), deployment: Uuid::from_u128(9).into() }
    }

    #[test]
    fn something_is_watched_from_the_first_who_wants_it_to_the_last() {
        let mut interest = Interest::new();
        let mut set = |n, wanted: &[u8]| {
            let delta = interest.set(pool(n), wanted.iter().copied().collect());
            (delta.begun, delta.ended, interest.of(&1).collect::<Vec<_>>())
        };
        assert_eq!(set(1, &[1, 2]), (vec![1, 2], vec![], vec![pool(1)]));
        assert_eq!(set(1, &[1, 2]), (vec![], vec![], vec![pool(1)]), "nothing new");
        assert_eq!(set(2, &[1, 3]), (vec![3], vec![], vec![pool(1), pool(2)]));
        assert_eq!(set(1, &[2]), (vec![], vec![], vec![pool(2)]));
        assert_eq!(set(2, &[]), (vec![], vec![1, 3], vec![]));
        assert_eq!(set(2, &[]), (vec![], vec![], vec![]));
        assert_eq!(set(1, &[]), (vec![], vec![2], vec![]));
        assert!(interest.by_pool.is_empty() && interest.by_thing.is_empty(), "nothing is left behind");
    }
}
