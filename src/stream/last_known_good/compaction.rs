//! From a checkpoint and its journal to the next checkpoint, without the table.
//!
//! The journal comes to each key's latest bytes, which are few; the checkpoint,
//! which is large, streams past them. So a million environments cost the memory
//! of what changed since the last checkpoint, not a second copy of all of them.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};

use bytes::Bytes;

use crate::model::change::RecordKey;
use crate::model::revision::{Digest, Position};
use crate::stream::last_known_good::disk::Disk;
use crate::stream::last_known_good::format::{Bad, Frames, Kind};
use crate::stream::last_known_good::names::{checkpoint, journal};
use crate::stream::last_known_good::writer::Failure;
use crate::wire::response::{Delta, Response, SnapshotChunk};
use crate::wire::{decode_change_set, decode_record};

/// What there is.
pub struct Base {
    /// The number of checkpoint and journal.
    pub sequence: u64,
    /// Bytes of the journal that count; 0 where there is none.
    pub journal_bytes: u64,
}

/// Each key's latest bytes; `None`: it is gone.
pub type Net = HashMap<RecordKey, Option<Bytes>>;

/// As large as the parts in which a control plane sends a snapshot.
const CHUNK_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 256 << 10;

/// What the journal and `more` come to.
pub fn net(disk: &dyn Disk, base: &Base, more: &[Delta]) -> Result<Net, Bad> {
    let mut net = Net::new();
    if base.journal_bytes > 0 {
        let input = disk.read(&journal(base.sequence))?.take(base.journal_bytes);
        let mut frames = open(Box::new(input), Kind::Journal, base.sequence)?;
        while let Some(message) = frames.next()? {
            let Response::Delta(delta) = message else {
                return Err(Bad::Order("a journal holds something other than deltas".into()));
            };
            overlay(&mut net, &delta)?;
        }
        if frames.good() < base.journal_bytes {
            return Err(Bad::Short);
        }
    }
    for delta in more {
        overlay(&mut net, delta)?;
    }
    Ok(net)
}

fn overlay(net: &mut Net, delta: &Delta) -> Result<(), Bad> {
    for bytes in &delta.change_sets {
        let change = decode_change_set(bytes)?;
        net.extend(change.deletes.into_iter().map(|key| (key, None)));
        net.extend(change.upserts.into_iter().map(|(record, bytes)| (record.key(), Some(bytes))));
    }
    Ok(())
}

/// Hands on the old checkpoint with `net` laid over it, part by part.
pub fn rewrite(
    disk: &dyn Disk,
    base: &Base,
    net: Net,
    position: Position,
    mut put: impl FnMut(SnapshotChunk) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut parts = Parts::new(position);
    let input = disk.read(&checkpoint(base.sequence)).map_err(Bad::from)?;
    let mut frames = open(input, Kind::Checkpoint, base.sequence)?;
    while let Some(message) = frames.next()? {
        let Response::SnapshotChunk(chunk) = message else {
            return Err(Bad::Order("a checkpoint holds something other than a snapshot".into()).into());
        };
        for bytes in chunk.records {
            let key = decode_record(&bytes).map_err(Bad::from)?.key();
            if !net.contains_key(&key)
                && let Some(part) = parts.add(key, bytes)
            {
                put(part)?;
            }
        }
    }
    for (key, bytes) in net {
        if let Some(bytes) = bytes
            && let Some(part) = parts.add(key, bytes)
        {
            put(part)?;
        }
    }
    // Nothing is believed that does not add up to what the store said.
    if parts.digest != position.digest {
        return Err(Failure::Lost("its records do not add up to its digest".into()));
    }
    Ok(put(parts.last())?)
}

fn open(input: Box<dyn Read>, kind: Kind, sequence: u64) -> Result<Frames, Bad> {
    Frames::open(Box::new(BufReader::with_capacity(READ_BYTES, input)), kind, sequence).map(|(frames, _)| frames)
}

/// Records gathered into the parts of a snapshot.
struct Parts {
    next: SnapshotChunk,
    bytes: usize,
    digest: Digest,
}

impl Parts {
    fn new(position: Position) -> Self {
        let next = SnapshotChunk { position, index: 0, last: false, records: Vec::new(), mass_change_allowed: false };
        Self { next, bytes: 0, digest: Digest::default() }
    }

    /// Adds a record; answers a part that has no room for it.
    fn add(&mut self, key: RecordKey, bytes: Bytes) -> Option<SnapshotChunk> {
        self.digest = self.digest.with(Digest::of_record(&key.to_string(), &bytes));
        let is_full = self.bytes > 0 && self.bytes + bytes.len() > CHUNK_BYTES;
        let full = is_full.then(|| {
            self.bytes = 0;
            let SnapshotChunk { position, index, .. } = self.next;
            let next = SnapshotChunk { index: index + 1, ..Self::new(position).next };
            std::mem::replace(&mut self.next, next)
        });
        self.bytes += bytes.len();
        self.next.records.push(bytes);
        full
    }

    fn last(self) -> SnapshotChunk {
        SnapshotChunk { last: true, ..self.next }
    }
}
