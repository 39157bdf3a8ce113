//! The index: which slot a host or a pair of names leads to.
//!
//! A persistent map in shards. A clone shares every shard; the first write to a
//! shard of a clone copies that shard alone, so that one new host costs
//! microseconds however many there are, and readers of the older table see
//! nothing of it.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Number of a slot.
pub type Slot = u32;

/// Keys to slots.
#[derive(Clone)]
pub struct Index {
    shards: Arc<Vec<Arc<Shard>>>,
    hasher: RandomState,
    count: usize,
}

type Shard = HashTable<(Arc<str>, Slot)>;

/// Keys in a shard on average; small, because a write copies a shard.
const SHARD_KEYS: usize = 64;

impl Index {
    /// An empty index with room for about `keys` keys.
    pub fn with_capacity(keys: usize) -> Self {
        let count = (keys / SHARD_KEYS).next_power_of_two().max(16);
        let shards = Arc::new((0..count).map(|_| Arc::new(Shard::new())).collect());
        Self { shards, hasher: RandomState::default(), count: 0 }
    }

    /// The slot of `key`. Neither locks nor allocates.
    pub fn get(&self, key: &[u8]) -> Option<Slot> {
        // One hash: its high bits choose the shard, its low ones the bucket.
        let hash = self.hasher.hash_one(key);
        let shard = &self.shards[self.shard_of(hash)];
        shard.find(hash, |(known, _)| known.as_bytes() == key).map(|(_, slot)| *slot)
    }

    /// Leads `key` to `slot`; answers where it led before.
    pub fn insert(&mut self, key: &str, slot: Slot) -> Option<Slot> {
        if self.count >= self.shards.len() * SHARD_KEYS * 4 {
            self.spread();
        }
        let hash = self.hasher.hash_one(key.as_bytes());
        let hasher = self.hasher.clone();
        let shard = self.shard_mut(hash);
        if let Some(entry) = shard.find_mut(hash, |(known, _)| &**known == key) {
            return Some(std::mem::replace(&mut entry.1, slot));
        }
        shard.insert_unique(hash, (key.into(), slot), |(known, _)| hasher.hash_one(known.as_bytes()));
        self.count += 1;
        None
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &str) {
        let hash = self.hasher.hash_one(key.as_bytes());
        if let Ok(entry) = self.shard_mut(hash).find_entry(hash, |(known, _)| &**known == key) {
            entry.remove();
            self.count -= 1;
        }
    }

    fn shard_of(&self, hash: u64) -> usize {
        // Shards are a power of two; the bucket uses the low bits.
        (hash >> 32) as usize & (self.shards.len() - 1)
    }

    fn shard_mut(&mut self, hash: u64) -> &mut Shard {
        let at = self.shard_of(hash);
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[at])
    }

    /// Moves everything to four times the shards. Amortised: after it, three
    /// times as many keys again fit.
    fn spread(&mut self) {
        let mut wider = Self::with_capacity(self.shards.len() * SHARD_KEYS * 4);
        wider.hasher = self.hasher.clone();
        for (key, slot) in self.shards.iter().flat_map(|shard| shard.iter()) {
            wider.insert(key, *slot);
        }
        *self = wider;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let mut index = Index::with_capacity(0);
        for n in 0..1000 {
            index.insert(&format!("h{n}"), n);
        }
        let older = index.clone();
        assert_eq!(index.insert("h7", 99), Some(7));
        index.remove("h8");
        index.insert("new", 1);
        assert_eq!((older.get(b"h7"), older.get(b"h8"), older.get(b"new")), (Some(7), Some(8), None));
        assert_eq!((index.get(b"h7"), index.get(b"h8"), index.get(b"new")), (Some(99), None, Some(1)));
    }

    #[test]
    fn growing_past_its_capacity_loses_nothing() {
        let mut index = Index::with_capacity(0);
        for n in 0..20_000 {
            index.insert(&format!("host-{n}.example.com"), n);
        }
        assert!((0..20_000).all(|n| index.get(format!("host-{n}.example.com").as_bytes()) == Some(n)));
    }
}
