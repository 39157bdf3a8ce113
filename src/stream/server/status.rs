//! What a proxy reports, put together and handed to `fleet` in its words.

use crate::fleet::member::{Reason, Report};
use crate::model::revision::{Position, Revision};
use crate::wire::proto::NackReason;
use crate::wire::request::Status;

/// Puts the parts of long statuses together.
#[derive(Default)]
pub struct Statuses {
    parts: Option<Status>,
}

/// A whole status.
#[derive(PartialEq, Debug)]
pub struct Whole {
    /// The table it was read from.
    pub applied: Option<Position>,
    status: Status,
}

/// Entries of one status at most. A million busy closing pools on one proxy is
/// past anything that works; what is longer counts as truncated.
const ENTRIES_MAX: usize = 1_000_000;

impl Statuses {
    /// Takes a part; answers the whole when it was the last one.
    pub fn take(&mut self, part: Status) -> Option<Whole> {
        let more = part.more;
        let mut status = match self.parts.take() {
            // Every part speaks of the same table; a sender that forgets it has begun anew.
            Some(mut begun) if begun.applied == part.applied => {
                begun.truncated |= part.truncated;
                begun.busy_pools.extend(part.busy_pools);
                begun.busy_endpoints.extend(part.busy_endpoints);
                begun.loads.extend(part.loads);
                begun
            }
            _ => part,
        };
        if status.busy_pools.len() + status.busy_endpoints.len() + status.loads.len() > ENTRIES_MAX {
            status.truncated = true;
            status.busy_pools.clear();
            status.busy_endpoints.clear();
            status.loads.clear();
        }
        if more {
            self.parts = Some(status);
            return None;
        }
        Some(Whole { applied: status.applied, status })
    }
}

impl Whole {
    /// In `fleet`'s words; `applied` is what the position stands for in this history.
    pub fn report(self, applied: Option<Revision>) -> Report {
        Report {
            applied,
            busy_pools: self.status.busy_pools,
            busy_endpoints: self.status.busy_endpoints,
            truncated: self.status.truncated,
            in_flight: self.status.loads.into_iter().map(|load| (load.pool, load.in_flight)).collect(),
        }
    }
}

/// A reason in `fleet`'s words.
pub fn reason(reason: NackReason) -> Reason {
    match reason {
        // A proxy that gives no reason found something it could not use.
        NackReason::Unspecified | NackReason::Invalid => Reason::Invalid,
        NackReason::Unsupported => Reason::Unsupported,
        NackReason::WrongLineage => Reason::WrongLineage,
        NackReason::Gap => Reason::Gap,
        NackReason::DigestMismatch => Reason::DigestMismatch,
        NackReason::TooLarge => Reason::TooLarge,
        NackReason::MassChange => Reason::MassChange,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn part(n: u128, more: bool) -> Status {
        Status { busy_endpoints: vec![(Uuid::from_u128(n).into(), 1)], more, ..Status::default() }
    }

    #[test]
    fn parts_become_one_report() {
        let mut statuses = Statuses::default();
        assert_eq!(statuses.take(part(1, true)), None);
        assert_eq!(statuses.take(part(2, true)), None);
        let report = statuses.take(part(3, false)).unwrap().report(Some(Revision(7)));
        assert_eq!((report.busy_endpoints.len(), report.applied), (3, Some(Revision(7))));
        assert_eq!(statuses.take(part(4, false)).unwrap().report(None).busy_endpoints.len(), 1);
    }

    #[test]
    fn a_truncated_part_makes_the_whole_truncated() {
        let mut statuses = Statuses::default();
        statuses.take(Status { truncated: true, ..part(1, true) });
        assert!(statuses.take(part(2, false)).unwrap().report(None).truncated);
    }
}
