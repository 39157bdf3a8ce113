//! What a proxy says it is doing: read from the table's counters, cut into parts.

use std::collections::{HashMap, HashSet};

use crate::model::pool::PoolKey;
use crate::model::revision::Position;
use crate::routing::live::{Busy, Live};
use crate::wire::request::{Load, Request, Status};

/// Remembers which load has been said on this stream: only what moved is said again.
#[derive(Default)]
pub struct Reports {
    said: HashMap<PoolKey, Load>,
    /// What the busy list was before, for the breaking of promises.
    #[cfg(test)]
    early: Busy,
}

/// Entries in one message: about 300 KiB, well below what gRPC implementations
/// accept by default.
const PART_ENTRIES: usize = 5_000;

impl Reports {
    /// One status, in as many messages as it takes; with the load if wanted.
    pub fn read(&mut self, live: &Live, with_load: bool) -> Vec<Request> {
        // Read first: what is not listed below was idle at this revision or later.
        let applied = live.position();
        let busy = live.busy();
        #[cfg(test)]
        let busy = crate::stream::tests::sabotage::busy(&mut self.early, busy);
        // Their counts are in the busy list; once they leave it, their load is news.
        for (pool, _) in &busy.pools {
            self.said.remove(pool);
        }
        let loads = if with_load {
            let listed: HashSet<PoolKey> = busy.pools.iter().map(|(pool, _)| *pool).collect();
            let now = live.load().into_iter().filter(|load| !listed.contains(&load.key)).map(|load| Load {
                pool: load.key,
                requests_total: load.claimed_total,
                in_flight: load.in_flight,
            });
            self.moved(now)
        } else {
            Vec::new()
        };
        parts(applied, &busy, &loads).into_iter().map(Request::Status).collect()
    }

    /// Loads that differ from what was said, and a last word on pools that are
    /// no longer listed.
    fn moved(&mut self, now: impl Iterator<Item = Load>) -> Vec<Load> {
        let mut gone = std::mem::take(&mut self.said);
        let mut moved = Vec::new();
        for load in now {
            let before = gone.remove(&load.pool);
            if load.requests_total == 0 {
                continue;
            }
            if before != Some(load) {
                moved.push(load);
            }
            self.said.insert(load.pool, load);
        }
        // What still runs on them is in the busy list.
        moved.extend(gone.into_values().map(|load| Load { in_flight: 0, ..load }));
        moved
    }
}

fn parts(applied: Option<Position>, busy: &Busy, loads: &[Load]) -> Vec<Status> {
    let empty = || Status { applied, more: true, ..Status::default() };
    let mut parts = Vec::new();
    let of_pools = |chunk: &[_]| Status { busy_pools: chunk.to_vec(), ..empty() };
    parts.extend(busy.pools.chunks(PART_ENTRIES).map(of_pools));
    let of_endpoints = |chunk: &[_]| Status { busy_endpoints: chunk.to_vec(), ..empty() };
    parts.extend(busy.endpoints.chunks(PART_ENTRIES).map(of_endpoints));
    let of_loads = |chunk: &[_]| Status { loads: chunk.to_vec(), ..empty() };
    parts.extend(loads.chunks(PART_ENTRIES).map(of_loads));
    match parts.last_mut() {
        Some(last) => last.more = false,
        None => parts.push(Status { more: false, ..empty() }),
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn load(n: u128, requests_total: u64, in_flight: u64) -> Load {
        let pool = PoolKey { environment: Uuid::from_u128(n).into(), deployment: Uuid::from_u128(n).into() };
        Load { pool, requests_total, in_flight }
    }

    #[test]
    fn only_load_that_moved_is_said_again() {
        let mut reports = Reports::default();
        let first = [load(1, 5, 2), load(2, 1, 0), load(3, 0, 0)];
        assert_eq!(reports.moved(first.into_iter()), [load(1, 5, 2), load(2, 1, 0)]);
        assert_eq!(reports.moved(first.into_iter()), []);
        assert_eq!(reports.moved([load(2, 1, 0), load(1, 5, 1)].into_iter()), [load(1, 5, 1)]);
        assert_eq!(reports.moved([load(2, 1, 0)].into_iter()), [load(1, 5, 0)], "gone from the table");
        assert_eq!(reports.moved([load(2, 1, 0)].into_iter()), []);
    }

    #[test]
    fn a_long_status_goes_in_parts_of_which_the_last_says_so() {
        let endpoints = (0..12_000).map(|n| (Uuid::from_u128(n).into(), 1)).collect();
        let busy = Busy { pools: vec![(load(1, 0, 0).pool, 1)], endpoints };
        let parts = parts(None, &busy, &[]);
        assert_eq!(parts.iter().map(|part| part.more).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(parts.iter().map(|part| part.busy_endpoints.len()).sum::<usize>(), 12_000);
        assert_eq!(super::parts(None, &Busy::default(), &[]).len(), 1, "nothing to say is said, too");
    }
}
