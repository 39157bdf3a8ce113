//! What a proxy says it is doing: read from the table's counters, cut into parts.

use std::collections::{HashMap, HashSet};

use crate::model::pool::PoolKey;
use crate::model::revision::Position;
use crate::routing::live::{self, Busy, Live};
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
            self.moved(live.load().into_iter().filter(|load| !listed.contains(&load.key)))
        } else {
            Vec::new()
        };
        parts(applied, &busy, &loads).into_iter().map(Request::Status).collect()
    }

    /// Loads that differ from what was said, and a last word on pools that have
    /// left the table. What still runs on these is in the busy list.
    fn moved(&mut self, now: impl Iterator<Item = live::Load>) -> Vec<Load> {
        let moved = now.filter_map(|now| {
            if now.has_left {
                return self.said.remove(&now.key).map(|before| Load { in_flight: 0, ..before });
            }
            let load = Load { pool: now.key, requests_total: now.claimed_total, in_flight: now.in_flight };
            let is_news = load.requests_total > 0 && self.said.get(&load.pool) != Some(&load);
            is_news.then(|| {
                self.said.insert(load.pool, load);
                load
            })
        });
        moved.collect()
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
        let mut say = |seen: &[(Load, bool)]| {
            let seen = seen.iter().map(|(load, has_left)| live::Load {
                key: load.pool,
                claimed_total: load.requests_total,
                in_flight: load.in_flight,
                has_left: *has_left,
            });
            reports.moved(seen)
        };
        let first = [(load(1, 5, 2), false), (load(2, 1, 0), false), (load(3, 0, 0), false)];
        assert_eq!(say(&first), [load(1, 5, 2), load(2, 1, 0)]);
        assert_eq!(say(&first), []);
        assert_eq!(say(&[(load(2, 1, 0), false), (load(1, 5, 1), false)]), [load(1, 5, 1)]);
        assert_eq!(say(&[(load(2, 1, 0), false)]), [], "not looked at is not gone");
        assert_eq!(say(&[(load(1, 5, 0), true)]), [load(1, 5, 0)], "gone from the table");
        assert_eq!(say(&[(load(1, 5, 0), true), (load(3, 0, 0), true)]), [], "and said so, once");
        assert_eq!(say(&[(load(1, 6, 1), false)]), [load(1, 6, 1)], "and back");
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
