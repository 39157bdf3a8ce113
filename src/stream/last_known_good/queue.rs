//! What was applied and is not on disk: bounded, with a whole table as the way
//! out when there is too much of it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use crate::stream::last_known_good::now;
use crate::stream::last_known_good::writer::Item;

/// The queue, shared by the stream and the thread that writes.
pub struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    delta_bytes_max: usize,
    /// Whether the thread rests, for those who wait for that.
    rests: watch::Sender<bool>,
}

/// What waits.
#[derive(Default)]
pub struct Queue {
    /// In the order of its application.
    pub items: VecDeque<Item>,
    /// Bytes of the deltas that are not on disk, here or with the writer.
    pub delta_bytes: usize,
    /// There was too much, or what is on disk is no good: nothing but a snapshot
    /// helps, and what comes before one is of no use.
    pub is_lost: bool,
    /// The disk would take a snapshot now.
    pub wants_snapshot: bool,
    /// Nothing more comes.
    pub is_closed: bool,
    /// Whether the thread may touch the files.
    pub pause: Pause,
}

/// Whether the thread may touch the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pause {
    /// It may.
    #[default]
    Over,
    /// It is to put on disk what it can, and then to rest.
    Asked,
    /// It does not until the pause is over; if nothing more comes, never again.
    Begun,
}

/// What a delta takes beside its change sets.
const DELTA_OVERHEAD_BYTES: usize = 256;

impl Shared {
    /// Empty; deltas may take so many bytes.
    pub fn new(delta_bytes_max: usize, pause: Pause) -> Self {
        let queue = Mutex::new(Queue { pause, ..Queue::default() });
        let rests = watch::Sender::new(pause == Pause::Begun);
        Self { queue, filled: Condvar::new(), delta_bytes_max, rests }
    }

    /// Adds what was applied. Never waits for the disk.
    pub fn push(&self, item: Item) {
        let mut queue = self.queue();
        if queue.is_closed {
            return;
        }
        if matches!(item, Item::Snapshot(_)) {
            // It takes the place of all that waits, lost or not.
            queue.items.clear();
            queue.delta_bytes = 0;
            queue.is_lost = false;
            queue.wants_snapshot = false;
        }
        queue.delta_bytes += delta_bytes(&item);
        if queue.delta_bytes > self.delta_bytes_max {
            queue.lose();
        }
        if !queue.is_lost {
            queue.items.push_back(item);
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Nothing more comes.
    pub fn close(&self) {
        self.queue().is_closed = true;
        self.filled.notify_one();
    }

    /// Asks for a pause, or ends one. The last one does not end.
    pub fn pause(&self, pause: Pause) {
        let mut queue = self.queue();
        if !queue.is_closed {
            queue.pause = pause;
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Says when the thread rests, and when it works.
    pub fn rests(&self) -> watch::Receiver<bool> {
        self.rests.subscribe()
    }

    /// Rests while there is a pause. Answers whether the files may be touched
    /// afterwards: not, where nothing more comes before its end.
    pub fn rest(&self) -> bool {
        let mut queue = self.queue();
        if queue.pause == Pause::Asked {
            queue.pause = Pause::Begun;
        }
        self.rests.send_replace(queue.pause == Pause::Begun);
        while queue.pause == Pause::Begun && !queue.is_closed {
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        self.rests.send_replace(false);
        queue.pause != Pause::Begun
    }

    /// The queue once there is something in it, a pause is asked for, or `until`
    /// is over.
    pub fn wait(&self, until: Option<Instant>, is_enough: impl Fn(&Queue) -> bool) -> MutexGuard<'_, Queue> {
        let mut queue = self.queue();
        while !queue.is_closed && queue.pause != Pause::Asked && !is_enough(&queue) {
            queue = match until.map(|until| until.saturating_duration_since(now())) {
                None => self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return queue,
                Some(left) => self.filled.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        queue
    }

    /// The queue as it is.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Lets go of everything: only a snapshot can follow.
    pub fn lose(&mut self) {
        self.items.clear();
        self.delta_bytes = 0;
        self.is_lost = true;
    }
}

/// What counts against the limit. A snapshot does not: the session has a limit
/// for it, and there is at most one here.
pub fn delta_bytes(item: &Item) -> usize {
    match item {
        Item::Snapshot(_) => 0,
        Item::Delta(delta) => DELTA_OVERHEAD_BYTES + delta.change_sets.iter().map(bytes::Bytes::len).sum::<usize>(),
    }
}
