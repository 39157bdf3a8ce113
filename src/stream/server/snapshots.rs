//! Snapshots: how many at a time, and cut into chunks.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use crate::model::revision::Position;
use crate::store::{self, Snapshot};
use crate::stream::source::Source;
use crate::wire;
use crate::wire::response::SnapshotChunk;

/// Hands out snapshots, a few at a time; those who ask at the same revision
/// share one.
pub struct Snapshots {
    permits: Semaphore,
    latest: Mutex<Weak<Snapshot>>,
}

/// A snapshot, and the right to send it.
pub struct Taken<'a> {
    pub snapshot: Arc<Snapshot>,
    _permit: SemaphorePermit<'a>,
}

impl Snapshots {
    pub fn new(at_a_time: usize) -> Self {
        Self { permits: Semaphore::new(at_a_time), latest: Mutex::default() }
    }

    /// The state at `head` or later, or `None` when too many are under way:
    /// said before any costly work.
    pub async fn take(&self, source: &impl Source, head: Position) -> Result<Option<Taken<'_>>, store::Error> {
        let Ok(permit) = self.permits.try_acquire() else { return Ok(None) };
        // Held while reading, so that the next one finds what is being read.
        let mut latest = self.latest.lock().await;
        let snapshot = match latest.upgrade().filter(|snapshot| snapshot.position == head) {
            Some(snapshot) => snapshot,
            None => {
                let snapshot = Arc::new(source.snapshot().await?);
                *latest = Arc::downgrade(&snapshot);
                snapshot
            }
        };
        Ok(Some(Taken { snapshot, _permit: permit }))
    }
}

impl Taken<'_> {
    /// The protocol minor that its records need, where that is above `minor`.
    /// Looks into each record, on a thread that may block.
    pub async fn minor_above(&self, minor: u32) -> Result<Option<u32>, store::Error> {
        let snapshot = Arc::clone(&self.snapshot);
        let needed = move || snapshot.records.iter().map(|record| wire::minor_of(record)).max();
        let needed = tokio::task::spawn_blocking(needed).await;
        // Without an answer the proxy must not be given what it may not understand.
        let needed = needed.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()));
        Ok(needed.filter(|needed| *needed > minor))
    }
}

/// A snapshot in parts of about 1 MiB: small enough for a heartbeat's patience
/// on a slow line, large enough that framing costs nothing.
const CHUNK_BYTES: usize = 1 << 20;

/// The parts of a snapshot; at least one.
pub fn chunks(snapshot: &Snapshot, mass_change_allowed: bool) -> impl Iterator<Item = SnapshotChunk> + '_ {
    let mut rest = snapshot.records.as_slice();
    let mut index = 0;
    std::iter::from_fn(move || {
        let done = index > 0 && rest.is_empty();
        if done {
            return None;
        }
        let (records, left) = rest.split_at(fitting(rest));
        rest = left;
        let chunk = SnapshotChunk {
            position: snapshot.position,
            index,
            last: left.is_empty(),
            records: records.to_vec(),
            mass_change_allowed,
        };
        index += 1;
        Some(chunk)
    })
}

/// How many records fit into a chunk; one at least, however large.
fn fitting(records: &[Bytes]) -> usize {
    let mut bytes = 0;
    let over = records.iter().position(|record| {
        bytes += record.len();
        bytes > CHUNK_BYTES
    });
    over.map_or(records.len(), |at| at.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::revision::{Digest, Revision};
    use uuid::Uuid;

    fn snapshot(sizes: &[usize]) -> Snapshot {
        let lineage = Uuid::from_u128(1).into();
        let position = Position { lineage, revision: Revision(1), digest: Digest::default() };
        let mass_change_at = Revision(0);
        Snapshot { position, mass_change_at, records: sizes.iter().map(|size| vec![0; *size].into()).collect() }
    }

    #[test]
    fn chunks_are_bounded_and_lose_nothing() {
        for (sizes, expected) in [
            (vec![], vec![0]),
            (vec![1, 2, 3], vec![3]),
            (vec![CHUNK_BYTES, 1], vec![1, 1]),
            (vec![CHUNK_BYTES / 2; 5], vec![2, 2, 1]),
            (vec![CHUNK_BYTES * 2, 1, 1], vec![1, 2]),
        ] {
            let snapshot = snapshot(&sizes);
            let chunks: Vec<SnapshotChunk> = chunks(&snapshot, false).collect();
            assert_eq!(chunks.iter().map(|chunk| chunk.records.len()).collect::<Vec<_>>(), expected, "{sizes:?}");
            assert!(chunks.iter().enumerate().all(|(at, chunk)| chunk.index as usize == at));
            assert!(chunks.iter().rev().enumerate().all(|(at, chunk)| chunk.last == (at == 0)));
        }
    }
}
