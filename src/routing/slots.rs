//! Slots: the environments of a table, by number.
//!
//! A persistent vector: a tree of fixed depth with small nodes. Moving one
//! pointer copies the leaf it is in and the way to it, which counts up the
//! pointers in these nodes and touches no environment but those in that leaf.

use std::sync::Arc;

use crate::routing::index::Slot;

/// Values by slot; a clone shares everything until it is written to.
pub struct Slots<T> {
    root: Arc<[Arc<Upper<T>>]>,
}

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root) }
    }
}

type Upper<T> = [Arc<Lower<T>>; FAN];
type Lower<T> = [Arc<Leaf<T>>; FAN];
type Leaf<T> = [Option<Arc<T>>; FAN];

/// A write copies one node of each level, and copying a pointer writes to what
/// it points at: wider nodes make a write wait for more memory, narrower ones
/// make a read go through more levels.
const FAN: usize = 32;

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { root: Arc::new([]) }
    }
}

impl<T> Slots<T> {
    /// The value in `slot`.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&Arc<T>> {
        let slot = slot as usize;
        let upper = self.root.get(slot / (FAN * FAN * FAN))?;
        upper[slot / (FAN * FAN) % FAN][slot / FAN % FAN][slot % FAN].as_ref()
    }

    /// Every value, by slot.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.root
            .iter()
            .flat_map(|upper| upper.iter())
            .flat_map(|lower| lower.iter())
            .flat_map(|leaf| leaf.iter().flatten())
    }

    /// Puts a value into `slot`, or empties it.
    pub fn set(&mut self, slot: Slot, value: Option<Arc<T>>) {
        let slot = slot as usize;
        let upper = slot / (FAN * FAN * FAN);
        if upper >= self.root.len() {
            // Everything that is empty is one and the same until it is written to.
            let leaf: Arc<Leaf<T>> = Arc::new(std::array::from_fn(|_| None));
            let lower: Arc<Lower<T>> = Arc::new(std::array::from_fn(|_| Arc::clone(&leaf)));
            let empty: Arc<Upper<T>> = Arc::new(std::array::from_fn(|_| Arc::clone(&lower)));
            let more = (self.root.len()..=upper).map(|_| Arc::clone(&empty));
            self.root = self.root.iter().cloned().chain(more).collect();
        }
        let upper = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[upper]);
        let lower = Arc::make_mut(&mut upper[slot / (FAN * FAN) % FAN]);
        Arc::make_mut(&mut lower[slot / FAN % FAN])[slot % FAN] = value;
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
