//! What to tell of a move to somebody who watches it, and when it is over.
//!
//! Pure: each look at a move says everything that is true of it now, in order;
//! this keeps what was told already and lets through what is news. `now` is an
//! argument. `api/move_events.rs` looks, and sends what comes out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::rest::move_events::MoveEvent;

/// What somebody was told of one move.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    told: HashMap<&'static str, (MoveEvent, Instant)>,
    has_ended: bool,
}

/// Counts are told so often at most: what a person can read, and little to send
/// although ten thousand proxies come in one by one.
const COUNTS_EVERY: Duration = Duration::from_secs(1);

impl Timeline {
    /// What is news of what is true `now`, in the same order.
    pub(super) fn tell(&mut self, looked: Vec<MoveEvent>, now: Instant) -> Vec<MoveEvent> {
        let mut news = Vec::new();
        // Whatever comes after it in a look would have come by now.
        self.has_ended = looked.last().is_some_and(is_last);
        for event in looked {
            if self.is_news(&event, now) {
                self.told.insert(event.name(), (event.clone(), now));
                news.push(event);
            }
        }
        news
    }

    /// Whether nothing more is to be told.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn is_news(&self, event: &MoveEvent, now: Instant) -> bool {
        let Some((told, at)) = self.told.get(event.name()) else { return true };
        match event {
            MoveEvent::Waiting { .. } => told != event,
            MoveEvent::Applying { .. } | MoveEvent::Closing { .. } => {
                told != event && now.saturating_duration_since(*at) >= COUNTS_EVERY
            }
            // Facts that do not change; what a row learns later is told by another event.
            MoveEvent::Committed { .. }
            | MoveEvent::Applied { .. }
            | MoveEvent::Superseded { .. }
            | MoveEvent::TargetNotReady { .. }
            | MoveEvent::Refused { .. }
            | MoveEvent::Drained { .. }
            | MoveEvent::Kept { .. } => false,
        }
    }
}

fn is_last(event: &MoveEvent) -> bool {
    match event {
        MoveEvent::Waiting { .. } | MoveEvent::Committed { .. } => false,
        MoveEvent::Applying { .. } | MoveEvent::Closing { .. } => false,
        MoveEvent::Superseded { .. } | MoveEvent::TargetNotReady { .. } | MoveEvent::Refused { .. } => true,
        MoveEvent::Applied { .. } | MoveEvent::Drained { .. } | MoveEvent::Kept { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::revision::Revision;
    use uuid::Uuid;

    fn applying(applied: u32) -> MoveEvent {
        MoveEvent::Applying {
            revision: Revision(7),
            required: 3,
            applied,
            unconfirmed: 0,
            lagging: Vec::new(),
            lagging_count: 3 - applied as usize,
            refusing_count: 0,
        }
    }

    fn applied(all_ms: f64) -> MoveEvent {
        MoveEvent::Applied {
            revision: Revision(7),
            required: 3,
            unconfirmed: 0,
            p50_ms: None,
            p99_ms: None,
            all_ms: Some(all_ms),
        }
    }

    fn closing(in_flight: u64) -> MoveEvent {
        let deployment_id = Uuid::from_u128(1).into();
        let blocked_by = Vec::new();
        MoveEvent::Closing { deployment_id, reference: None, in_flight, blocked_by, blocked_by_count: 1 }
    }

    fn drained() -> MoveEvent {
        let deployment_id = Uuid::from_u128(1).into();
        let drained_at = jiff::Timestamp::UNIX_EPOCH;
        MoveEvent::Drained { deployment_id, reference: None, drained_at, streams_cut: 0 }
    }

    #[test]
    fn what_is_true_is_told_once_and_in_order_until_the_last() {
        let (mut timeline, now) = (Timeline::default(), Instant::now());
        assert_eq!(timeline.tell(vec![applying(1)], now), [applying(1)]);
        assert!(!timeline.has_ended());
        // The last proxies and the closing in one look.
        assert_eq!(timeline.tell(vec![applied(4.0), closing(2)], now), [applied(4.0), closing(2)]);
        assert_eq!(timeline.tell(vec![applied(9.0), closing(2)], now), []);
        assert!(!timeline.has_ended());
        assert_eq!(timeline.tell(vec![applied(4.0), drained()], now), [drained()]);
        assert!(timeline.has_ended());
    }

    #[test]
    fn counts_are_told_again_when_they_have_changed_and_not_faster_than_they_can_be_read() {
        let (mut timeline, start) = (Timeline::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(timeline.tell(vec![applying(0)], start), [applying(0)]);
        assert_eq!(timeline.tell(vec![applying(1)], start), []);
        assert_eq!(timeline.tell(vec![applying(1)], later(1)), [applying(1)]);
        assert_eq!(timeline.tell(vec![applying(1)], later(9)), [], "nothing is new");
    }

    #[test]
    fn a_move_that_leaves_nothing_behind_ends_when_it_is_applied() {
        let (mut timeline, now) = (Timeline::default(), Instant::now());
        timeline.tell(vec![applied(1.0)], now);
        assert!(timeline.has_ended());
    }
}
