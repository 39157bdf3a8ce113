//! The index beside a naive map, with hashes that collide on purpose.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// An index and the keys its slots stand for.
#[derive(Clone)]
struct Keyed {
    index: Index,
    keys: HashMap<Slot, String>,
    hash: fn(&str) -> u64,
}

impl Keyed {
    fn new(hash: fn(&str) -> u64) -> Self {
        Self { index: Index::with_capacity(0), keys: HashMap::new(), hash }
    }

    fn get(&self, key: &str) -> Option<Slot> {
        self.index.get((self.hash)(key), |slot| (self.keys.get(&slot)? == key).then_some(slot))
    }

    fn insert(&mut self, key: &str, slot: Slot) {
        self.keys.insert(slot, key.into());
        while self.index.is_full() || !self.index.insert((self.hash)(key), slot) {
            self.index = self.index.grown(|slot| (self.hash)(&self.keys[&slot]));
        }
    }

    fn remove(&mut self, key: &str, slot: Slot) {
        self.index.remove((self.hash)(key), slot);
        self.keys.remove(&slot);
    }
}

fn spread(key: &str) -> u64 {
    foldhash::fast::FixedState::with_seed(1).hash_one(key)
}

/// Few homes, few tags, chunks that wrap around at their end.
fn crowded(key: &str) -> u64 {
    spread(key) & 0xffff_ffff_0000_0003 | 0x1fd
}

#[test]
fn a_clone_does_not_see_later_writes() {
    let mut index = Keyed::new(spread);
    (0..1_000).for_each(|n| index.insert(&format!("h{n}"), n));
    let older = index.clone();
    index.remove("h8", 8);
    index.insert("new", 1_000);
    assert_eq!((older.get("h7"), older.get("h8"), older.get("new")), (Some(7), Some(8), None));
    assert_eq!((index.get("h7"), index.get("h8"), index.get("new")), (Some(7), None, Some(1_000)));
}

#[test]
fn growing_past_its_capacity_loses_nothing() {
    let mut index = Keyed::new(spread);
    (0..20_000).for_each(|n| index.insert(&format!("host-{n}.example.com"), n));
    assert!((0..20_000).all(|n| index.get(&format!("host-{n}.example.com")) == Some(n)));
    assert_eq!(index.get("host-20000.example.com"), None);
}

#[test]
fn slots_survive_their_entry() {
    let mut index = Index::with_capacity(1);
    let ends = [0, Slot::MAX - 1];
    for at in ends {
        assert!(index.insert(u64::MAX, at));
        assert_eq!(index.get(u64::MAX, |found| (found == at).then_some(found)), Some(at));
        index.remove(u64::MAX, at);
        assert_eq!(index.get(u64::MAX, Some), None);
    }
}

proptest! {
    #[test]
    fn any_history_answers_as_a_naive_map_does(
        steps in proptest::collection::vec((any::<bool>(), 0..300u32), 0..900),
        is_crowded: bool,
    ) {
        let mut index = Keyed::new(if is_crowded { crowded } else { spread });
        let mut naive = HashMap::new();
        for (add, n) in steps {
            let key = format!("k{n}");
            match (add, naive.contains_key(&n)) {
                (true, false) => { index.insert(&key, n); naive.insert(n, ()); }
                (false, true) => { index.remove(&key, n); naive.remove(&n); }
                _ => {}
            }
        }
        for n in 0..300 {
            prop_assert_eq!(index.get(&format!("k{n}")), naive.contains_key(&n).then_some(n));
        }
    }
}
