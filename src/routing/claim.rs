//! A claim: a request's hold on a pool or an endpoint, and the counters behind.
//!
//! Invariant 2: a claim is taken before the first await after resolve and is
//! dropped with the last byte of the answer. Once closed, no claim succeeds.
//!
//! Counters begin as one word for all cores, because most of a million pools
//! are seldom asked; a busy one gets a word per core. Every word has its own
//! "closed" bit beside its count. Taking a claim is one `fetch_add`: the bit
//! comes back with the old count, so there is no moment between "is it closed?"
//! and "count me in". Closing sets the bit in every word; once all are set, a
//! sum of zero stays zero, because whoever adds after that sees the bit, takes
//! its one away again and is refused.
//!
//! Closing, opening and spreading are the writer's, one at a time, under the
//! lock of [`Live`](crate::routing::live::Live): between them nothing is to be
//! decided. Claims run beside them in any order; `tests/loom.rs` tries them all.

use std::sync::Arc;

use super::sync::{AtomicU64, Notify, OnceLock, Ordering};

/// Counters of claims on one pool or one endpoint.
#[derive(Debug)]
pub struct Claims {
    shared: Word,
    /// Where claims are counted instead once there are many. The shared word
    /// stays in the sum: its claims are still running, and a thread that has
    /// looked here too early may still add to it.
    spread: OnceLock<Box<[Apart]>>,
    /// Rung when the last claim of a closed word ends, so that "idle" is
    /// reported at once and not with the next status.
    idle: Arc<Notify>,
}

#[derive(Debug)]
struct Word {
    /// Running claims; the top bit says closed.
    count: AtomicU64,
    /// Claims ever taken here.
    total: AtomicU64,
}

/// Aligned to a cache line of its own: cores never write to each other's.
#[repr(align(64))]
#[derive(Debug)]
struct Apart(Word);

const CLOSED: u64 = 1 << 63;

impl Claims {
    /// Open counters that nobody has claimed yet.
    pub fn new(idle: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { shared: Word::new(0), spread: OnceLock::new(), idle })
    }

    /// Takes a claim from a thread of `core`; `None` when closed.
    pub fn claim(self: &Arc<Self>, core: usize) -> Option<Claim> {
        let place = match self.spread.get() {
            None => Place::Shared,
            Some(words) => Place::Core((core % words.len()) as u32),
        };
        let word = self.word(place);
        // AcqRel: pairs with `close`, so that a claim that misses the bit is
        // seen by whoever sums after setting it.
        if word.count.fetch_add(1, Ordering::AcqRel) & CLOSED != 0 {
            self.release(place);
            return None;
        }
        let before = word.total.fetch_add(1, Ordering::Relaxed);
        Some(Claim { claims: Arc::clone(self), place, is_first: before == 0 && place == Place::Shared })
    }

    /// Running claims.
    pub fn in_flight(&self) -> u64 {
        self.words().map(|word| word.count.load(Ordering::Acquire) & !CLOSED).sum()
    }

    /// Running claims as far as `core` should go by them in its choices: its
    /// own where cores count apart, so that it touches no other core's line.
    pub fn in_flight_of(&self, core: usize) -> u64 {
        let word = self.spread.get().map_or(&self.shared, |words| &words[core % words.len()].0);
        word.count.load(Ordering::Relaxed) & !CLOSED
    }

    /// Claims ever taken.
    pub fn total(&self) -> u64 {
        self.words().map(|word| word.total.load(Ordering::Relaxed)).sum()
    }

    /// Refuses every claim from now on; running ones go on. The writer's.
    pub(super) fn close(&self) {
        for word in self.words() {
            word.count.fetch_or(CLOSED, Ordering::AcqRel);
        }
    }

    /// Grants claims again. The writer's.
    pub(super) fn open(&self) {
        for word in self.words() {
            word.count.fetch_and(!CLOSED, Ordering::AcqRel);
        }
    }

    /// Counts each of `cores` cores apart from now on. The writer's.
    pub(super) fn spread(&self, cores: usize) {
        if cores < 2 || self.spread.get().is_some() {
            return;
        }
        // Only the writer changes the bit, and we are the writer: what it is
        // now, it still is when the words can be seen.
        let closed = self.shared.count.load(Ordering::Acquire) & CLOSED;
        let words = (0..cores).map(|_| Apart(Word::new(closed))).collect();
        // Somebody else's words would do as well, but there is one writer.
        let _ = self.spread.set(words);
    }

    fn words(&self) -> impl Iterator<Item = &Word> {
        let apart = self.spread.get().into_iter().flat_map(|words| words.iter().map(|apart| &apart.0));
        std::iter::once(&self.shared).chain(apart)
    }

    fn word(&self, place: Place) -> &Word {
        match (place, self.spread.get()) {
            (Place::Core(core), Some(words)) => &words[core as usize].0,
            _ => &self.shared,
        }
    }

    fn release(&self, place: Place) {
        let before = self.word(place).count.fetch_sub(1, Ordering::AcqRel);
        if before == CLOSED | 1 {
            self.idle.notify_one();
        }
    }
}

impl Word {
    fn new(count: u64) -> Self {
        Self { count: AtomicU64::new(count), total: AtomicU64::new(0) }
    }
}

/// A hold on a pool or an endpoint; ends when dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Arc<Claims>,
    // The word it was counted in: a claim may be dropped on another thread.
    place: Place,
    is_first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Shared,
    Core(u32),
}

impl Claim {
    /// Whether nobody had claimed this pool or endpoint before.
    pub(super) fn is_first(&self) -> bool {
        self.is_first
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.release(self.place);
    }
}
