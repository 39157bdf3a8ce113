//! Slots: the environments of a table, by number.
//!
//! A persistent vector in chunks. Moving one pointer copies the chunk it is in
//! and the list of chunks, never the environments themselves.

use std::sync::Arc;

use crate::routing::index::Slot;

/// Values by slot; a clone shares everything until it is written to.
pub struct Slots<T> {
    chunks: Arc<Vec<Arc<Chunk<T>>>>,
}

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks) }
    }
}

type Chunk<T> = [Option<Arc<T>>; CHUNK_SLOTS];

/// About the square root of a million: a write copies one chunk and one list of
/// chunks, and their sum is least when both are of a size.
const CHUNK_SLOTS: usize = 512;

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { chunks: Arc::new(Vec::new()) }
    }
}

impl<T> Slots<T> {
    /// The value in `slot`.
    pub fn get(&self, slot: Slot) -> Option<&Arc<T>> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK_SLOTS)?[slot % CHUNK_SLOTS].as_ref()
    }

    /// Puts a value into `slot`, or empties it.
    pub fn set(&mut self, slot: Slot, value: Option<Arc<T>>) {
        let slot = slot as usize;
        let chunks = Arc::make_mut(&mut self.chunks);
        while chunks.len() <= slot / CHUNK_SLOTS {
            chunks.push(Arc::new(std::array::from_fn(|_| None)));
        }
        Arc::make_mut(&mut chunks[slot / CHUNK_SLOTS])[slot % CHUNK_SLOTS] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let mut slots = Slots::default();
        slots.set(1_000, Some(Arc::new("old")));
        let older = slots.clone();
        slots.set(1_000, Some(Arc::new("new")));
        slots.set(3, Some(Arc::new("three")));
        assert_eq!(older.get(1_000).map(|v| **v), Some("old"));
        assert_eq!(slots.get(1_000).map(|v| **v), Some("new"));
        assert_eq!(older.get(3), None);
        assert_eq!(slots.get(1_000_000), None);
    }
}
