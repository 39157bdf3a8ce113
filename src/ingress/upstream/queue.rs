//! The queue before a pool whose replicas take only so many requests at once.
//!
//! Whoever finds every replica full waits, in the order of coming, and holds no
//! claim meanwhile: a pointer that moves takes it along. Each request that leaves
//! a replica rings the bell for one that waits. Pools without such a limit have
//! no queue and never come here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Notify;

use crate::ingress::metrics::Counters;
use crate::model::pool::PoolKey;
use crate::routing::claim::Claim;

/// Queues that are kept although nobody is in them or before them.
const KEPT: usize = 1_024;

/// How often who waits looks again, whatever rings: the pointer may have moved,
/// or the limit been raised, and no request that ends tells of that.
const RECHECK: Duration = Duration::from_millis(100);

/// The queues of this process, each made when first needed.
#[derive(Default)]
pub(in crate::ingress) struct Queues(DashMap<PoolKey, Arc<Queue>>);

/// The queue before one pool.
#[derive(Default)]
pub(super) struct Queue {
    /// How many wait: what a request that leaves a replica looks at first.
    waiting: AtomicUsize,
    /// Who waits, the first at the front.
    line: Mutex<VecDeque<Arc<Notify>>>,
}

/// A request's place in a queue, until dropped.
pub(super) struct Ticket {
    queue: Arc<Queue>,
    bell: Arc<Notify>,
    counters: Arc<Counters>,
}

/// A request's hold on an endpoint; dropping it lets the next one in.
pub(in crate::ingress) struct Held {
    claim: Option<Claim>,
    queue: Option<Arc<Queue>>,
}

impl Queues {
    /// The queue before this pool.
    pub(super) fn of(&self, key: PoolKey) -> Arc<Queue> {
        if let Some(queue) = self.0.get(&key) {
            return Arc::clone(&queue);
        }
        if self.0.len() >= KEPT {
            self.0.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        Arc::clone(&self.0.entry(key).or_default())
    }
}

impl Queue {
    /// Whether anybody waits: who comes now waits behind them.
    pub(super) fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Takes a place at the end; `None` when `max` wait.
    pub(super) fn enter(self: &Arc<Self>, max: u64, counters: &Arc<Counters>) -> Option<Ticket> {
        let mut line = self.line();
        if line.len() as u64 >= max {
            return None;
        }
        let bell = Arc::<Notify>::default();
        line.push_back(Arc::clone(&bell));
        self.waiting.store(line.len(), Ordering::Release);
        counters.queued.one();
        Some(Ticket { queue: Arc::clone(self), bell, counters: Arc::clone(counters) })
    }

    /// Rings for the first. What rings while it does not listen is kept for when
    /// it does.
    fn ring(&self) {
        if self.is_waited_in()
            && let Some(first) = self.line().front()
        {
            first.notify_one();
        }
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        // A push, a removal or a ring is all that happens under it.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Whether it is this one's turn.
    pub(super) fn is_first(&self) -> bool {
        self.queue.line().front().is_some_and(|first| Arc::ptr_eq(first, &self.bell))
    }

    /// Waits for the bell, but no longer than until it is time to look anyway.
    pub(super) async fn rung(&self, left: Duration) {
        // Both ends of this wait mean the same: look again.
        let _ = tokio::time::timeout(left.min(RECHECK), self.bell.notified()).await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        line.retain(|bell| !Arc::ptr_eq(bell, &self.bell));
        self.queue.waiting.store(line.len(), Ordering::Release);
        drop(line);
        self.counters.queued.less();
        // There may be room for the next one as well.
        self.queue.ring();
    }
}

impl Held {
    /// A hold that is given back to `queue`, where there is one.
    pub(super) fn new(claim: Claim, queue: Option<Arc<Queue>>) -> Self {
        Self { claim: Some(claim), queue }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.claim.take());
        if let Some(queue) = &self.queue {
            queue.ring();
        }
    }
}
