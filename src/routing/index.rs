//! The index: which slot a key leads to.
//!
//! A persistent hash map that holds no keys: an entry is a number, and whoever
//! asks compares the key with what lies in the slot, which is fetched anyway.
//! A clone shares every chunk; the first write to a chunk of a clone copies that
//! chunk as plain memory, so that one new host costs microseconds however many
//! there are, and readers of the older table see nothing of it. Knows nothing of
//! routes; [`table`](crate::routing::table) asks it.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;

/// Number of a slot.
pub type Slot = u32;

/// Keys to slots. The hasher is the caller's, so that one hash serves every
/// index it asks.
#[derive(Clone)]
pub struct Index {
    /// Two levels, so that a write copies two short lists of pointers.
    nodes: Arc<[Node]>,
    chunk_count: usize,
    count: usize,
}

type Node = Arc<[Arc<Chunk>]>;
type Chunk = [Entry; CHUNK_ENTRIES];

/// What an entry is made of, from its low bits up: the slot and one (an empty
/// entry is 0), and the low bits of the hash. Of these the lowest say where in
/// its chunk the key would best lie.
type Entry = u64;

const EMPTY: Entry = 0;
const TAG_SHIFT: u32 = 32;
const TAG_MASK: u64 = u64::MAX >> TAG_SHIFT;
/// 4 KiB: one page to copy for a new host.
const CHUNK_ENTRIES: usize = 512;
const NODE_CHUNKS: usize = 64;
/// Keys in a chunk on average at most: three quarters, at which a search looks
/// at two or three entries beside each other. That a chunk with this average
/// fills up entirely is out at the sixth standard deviation.
const CHUNK_KEYS: usize = CHUNK_ENTRIES / 4 * 3;

/// Hashes keys; made once, so that clones of a table agree.
#[derive(Clone, Default)]
pub struct KeyHasher(RandomState);

impl KeyHasher {
    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    /// The hash of a key in two parts.
    pub fn hash_pair(&self, first: &[u8], second: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(first);
        hasher.write(second);
        hasher.finish()
    }
}

impl Index {
    /// An empty index with room for `keys` keys.
    pub fn with_capacity(keys: usize) -> Self {
        let chunk_count = keys.div_ceil(CHUNK_KEYS).max(1);
        // They share one empty chunk until they are written to.
        let empty: Arc<Chunk> = Arc::new([EMPTY; CHUNK_ENTRIES]);
        let node = |at: usize| (0..(chunk_count - at).min(NODE_CHUNKS)).map(|_| Arc::clone(&empty)).collect();
        let nodes = (0..chunk_count).step_by(NODE_CHUNKS).map(node).collect();
        Self { nodes, chunk_count, count: 0 }
    }

    /// What `at` makes of the slot of the key with this hash; it answers `None`
    /// where another key lies. Neither locks nor allocates.
    pub fn get<R>(&self, hash: u64, mut at: impl FnMut(Slot) -> Option<R>) -> Option<R> {
        let chunk = self.chunk_of(hash);
        let chunk = &self.nodes[chunk / NODE_CHUNKS][chunk % NODE_CHUNKS];
        let (tag, home) = (hash & TAG_MASK, home(hash));
        for step in 0..CHUNK_ENTRIES {
            let entry = chunk[(home + step) % CHUNK_ENTRIES];
            if entry == EMPTY {
                return None;
            }
            if entry >> TAG_SHIFT == tag
                && let Some(found) = at(slot(entry))
            {
                return Some(found);
            }
        }
        None
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether one more key wants [`Index::grown`] first.
    pub fn is_full(&self) -> bool {
        self.count >= self.chunk_count * CHUNK_KEYS
    }

    /// Adds a key that is not in it. `false` when its chunk is full and the
    /// index has to be [grown](Index::grown) first.
    #[must_use]
    pub fn insert(&mut self, hash: u64, at: Slot) -> bool {
        let chunk = self.chunk_mut(hash);
        let free = (0..CHUNK_ENTRIES).map(|step| (home(hash) + step) % CHUNK_ENTRIES).find(|at| chunk[*at] == EMPTY);
        let Some(free) = free else { return false };
        chunk[free] = (hash & TAG_MASK) << TAG_SHIFT | (u64::from(at) + 1);
        self.count += 1;
        true
    }

    /// Forgets the key with this hash and this slot.
    pub fn remove(&mut self, hash: u64, at: Slot) {
        let chunk = self.chunk_mut(hash);
        let tag = hash & TAG_MASK;
        let steps = (0..CHUNK_ENTRIES).map(|step| (home(hash) + step) % CHUNK_ENTRIES);
        let mut found = steps.take_while(|at| chunk[*at] != EMPTY);
        let Some(hole) = found.find(|i| chunk[*i] >> TAG_SHIFT == tag && slot(chunk[*i]) == at) else { return };
        close_hole(chunk, hole);
        self.count -= 1;
    }

    /// The same keys with half as much room again; `hash_of` hashes the key of a
    /// slot. Amortised: it looks at every key, for half as many new ones.
    pub fn grown(&self, hash_of: impl Fn(Slot) -> u64) -> Self {
        let mut keys = self.chunk_count * CHUNK_KEYS * 3 / 2;
        loop {
            let mut wider = Self::with_capacity(keys);
            let entries = self.nodes.iter().flat_map(|node| node.iter()).flat_map(|chunk| chunk.iter());
            let mut slots = entries.filter(|entry| **entry != EMPTY).map(|entry| slot(*entry));
            if slots.all(|slot| wider.insert(hash_of(slot), slot)) {
                return wider;
            }
            // A chunk overflowed: the more chunks, the further apart its keys go.
            keys *= 2;
        }
    }

    #[inline]
    fn chunk_of(&self, hash: u64) -> usize {
        // The high half, scaled to the count: any count will do, so that growing
        // by half is possible. The low half says where in the chunk.
        (((hash >> 32) * self.chunk_count as u64) >> 32) as usize
    }

    fn chunk_mut(&mut self, hash: u64) -> &mut Chunk {
        let chunk = self.chunk_of(hash);
        let node = Arc::make_mut(&mut Arc::make_mut(&mut self.nodes)[chunk / NODE_CHUNKS]);
        Arc::make_mut(&mut node[chunk % NODE_CHUNKS])
    }
}

#[inline]
fn home(hash: u64) -> usize {
    hash as usize % CHUNK_ENTRIES
}

#[inline]
fn slot(entry: Entry) -> Slot {
    (entry as u32).wrapping_sub(1)
}

/// Empties `hole` and moves what a search would no longer find across it, so
/// that an empty entry always ends a search.
fn close_hole(chunk: &mut Chunk, mut hole: usize) {
    let mut at = hole;
    loop {
        chunk[hole] = EMPTY;
        loop {
            at = (at + 1) % CHUNK_ENTRIES;
            // Nothing else is empty: everything lies as near its home as it can.
            if chunk[at] == EMPTY || at == hole {
                return;
            }
            let way = |from: usize| at.wrapping_sub(from) % CHUNK_ENTRIES;
            if way(home(chunk[at] >> TAG_SHIFT)) >= way(hole) {
                break;
            }
        }
        chunk[hole] = chunk[at];
        hole = at;
    }
}

#[cfg(test)]
mod tests;
