//! What is known of the store without asking it: the head, and who is woken.
//!
//! Follows the commits, in their order, because it is only told of one while
//! its transaction still holds the turn to write.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::model::event::{Event, What};
use crate::model::revision::{Position, Revision};
use crate::store::log::LoggedChange;
use crate::store::transaction::Touched;
use crate::store::work::Bell;

pub(super) struct Live {
    pub head: watch::Sender<Position>,
    pub work: Bell,
    pub events: broadcast::Sender<Event>,
    recent: Mutex<Recent>,
}

/// Events kept for a slow subscriber; one that falls further behind is told how
/// many it missed.
const EVENTS_MAX: usize = 1024;

impl Live {
    pub fn new(head: Position) -> Self {
        Self {
            head: watch::Sender::new(head),
            work: Bell::new(),
            events: broadcast::Sender::new(EVENTS_MAX),
            recent: Mutex::default(),
        }
    }

    /// Tells of a commit. Answers the head after it.
    pub fn committed(&self, change: Option<LoggedChange>, touched: Touched) -> Revision {
        if let Some(change) = change {
            let position = change.position;
            // Before the wake-up: whoever is woken finds the change here.
            self.recent.lock().unwrap_or_else(PoisonError::into_inner).push(change);
            self.head.send_replace(position);
        }
        self.work.ring(touched.work);
        for what in touched.events {
            self.publish(what);
        }
        self.head.borrow().revision
    }

    pub fn publish(&self, what: What) {
        // Without subscribers there is nobody to miss it.
        let _ = self.events.send(Event { at: Timestamp::now(), what });
    }

    /// The changes after a revision, if memory reaches back that far.
    pub fn changes_after(&self, after: Revision, bytes_max: usize) -> Option<Vec<LoggedChange>> {
        if after >= self.head.borrow().revision {
            return Some(Vec::new());
        }
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).after(after, bytes_max)
    }
}

/// The last changes, without gaps, so that a thousand woken streams do not each
/// ask the database for the same one.
#[derive(Default)]
struct Recent {
    changes: VecDeque<LoggedChange>,
    bytes: usize,
}

/// 4 MiB: some 30,000 promotions.
const RECENT_BYTES_MAX: usize = 4 << 20;

impl Recent {
    fn push(&mut self, change: LoggedChange) {
        let follows = |last: &LoggedChange| last.position.revision.next() == change.position.revision;
        if !self.changes.back().is_none_or(follows) {
            *self = Self::default();
        }
        self.bytes += change.bytes.len();
        self.changes.push_back(change);
        while self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
        }
    }

    fn after(&self, after: Revision, bytes_max: usize) -> Option<Vec<LoggedChange>> {
        let oldest = self.changes.front()?.position.revision;
        // Revisions here have no gaps, so the index follows from the number.
        let start = usize::try_from(after.next().0.checked_sub(oldest.0)?).ok()?;
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for change in self.changes.iter().skip(start) {
            bytes += change.bytes.len();
            changes.push(change.clone());
            if bytes > bytes_max {
                break;
            }
        }
        Some(changes)
    }
}
