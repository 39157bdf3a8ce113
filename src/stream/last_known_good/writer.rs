//! Keeps the files true to what was applied: appends to the journal, and begins
//! a new checkpoint when that is due.
//!
//! Owns what is known of the files. Everything here waits for the disk and is
//! called on the [`keeper`](super::keeper)'s own thread. After a failure nothing
//! is taken for written, and the same call may be made again.

use std::collections::VecDeque;
use std::io::{self, Write};

use tracing::{info, warn};

use crate::model::revision::Position;
use crate::stream::last_known_good::compaction::{self, Base};
use crate::stream::last_known_good::disk::{Disk, Sink};
use crate::stream::last_known_good::format::{Bad, HEADER_BYTES, Header, Kind, encode_frame};
use crate::stream::last_known_good::names::{Name, TEMPORARY, checkpoint, journal};
use crate::stream::last_known_good::recovery::{Found, Loaded};
use crate::wire::response::{Delta, Response, SnapshotChunk};

/// Something that was applied and is to be kept.
#[derive(Clone, Debug)]
pub enum Item {
    /// The parts of a snapshot, as they came.
    Snapshot(Vec<SnapshotChunk>),
    /// A delta, as it came.
    Delta(Delta),
}

/// Why something is not on disk. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The disk does not take it; later it may.
    #[error("keep the table on disk: {0}")]
    Disk(#[from] io::Error),
    /// What is on disk cannot be built upon; only a whole table can follow.
    #[error("go on from the table on disk: {0}")]
    Lost(String),
}

/// The files, as far as they count.
pub struct Writer<D> {
    disk: D,
    /// The highest number any file has.
    sequence: u64,
    base: Option<Kept>,
}

/// A checkpoint and its journal.
struct Kept {
    sequence: u64,
    /// Where they lead.
    position: Position,
    journal_bytes: u64,
    journal: Tail,
}

/// The end of the journal.
enum Tail {
    /// Everything up to the counted length is synced; what comes goes behind it.
    Open(Box<dyn Sink>),
    /// There may be more bytes than count. They are cut off before anything is
    /// appended.
    Loose,
    /// After a sync that failed nobody knows what of the pages will ever reach
    /// the disk, and a later sync would not say. A new checkpoint reads them
    /// once more, checks them and writes them elsewhere.
    Spoiled,
}

/// Frames are written in pieces of this size: few calls, little memory.
const WRITE_BYTES: usize = 1 << 20;

impl<D: Disk> Writer<D> {
    /// Goes on from what a start has found.
    pub fn new(disk: D, found: &Found) -> Self {
        let kept = |loaded: Loaded| Kept {
            sequence: loaded.sequence,
            position: loaded.position,
            journal_bytes: loaded.journal_bytes,
            journal: if loaded.is_second_best { Tail::Spoiled } else { Tail::Loose },
        };
        Self { disk, sequence: found.sequence, base: found.loaded.map(kept) }
    }

    /// Where a restart would begin; `None`: with nothing.
    pub fn position(&self) -> Option<Position> {
        self.base.as_ref().map(|base| base.position)
    }

    /// Bytes of the journal.
    pub fn journal_bytes(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.journal_bytes)
    }

    /// Makes sure that what a start has found would be found again after a power
    /// cut: a killed process leaves pages that no disk has seen.
    pub fn settle(&mut self) -> Result<(), Failure> {
        self.clear(|name| name.ends_with(TEMPORARY));
        match &self.base {
            None => Ok(()),
            Some(Kept { journal: Tail::Spoiled, .. }) => self.compact(&[]),
            Some(_) => self.open_journal(),
        }
    }

    /// Puts on disk what waits, taking it away as far as that succeeds.
    pub fn write(&mut self, waiting: &mut VecDeque<Item>) -> Result<(), Failure> {
        // A snapshot takes the place of everything before it.
        if let Some(at) = waiting.iter().rposition(|item| matches!(item, Item::Snapshot(_))) {
            waiting.drain(..at);
            if let Some(Item::Snapshot(chunks)) = waiting.front() {
                self.replace(chunks)?;
            }
            waiting.pop_front();
        }
        let deltas: Vec<Delta> = waiting
            .iter()
            .filter_map(|item| match item {
                Item::Delta(delta) => Some(delta.clone()),
                Item::Snapshot(_) => None,
            })
            .collect();
        if !deltas.is_empty() {
            self.keep(&deltas)?;
            waiting.clear();
        }
        Ok(())
    }

    fn keep(&mut self, deltas: &[Delta]) -> Result<(), Failure> {
        let Some(base) = &self.base else { return Err(Failure::Lost("there is none".into())) };
        let mut at = base.position;
        for delta in deltas {
            if delta.from != at {
                let (from, at) = (delta.from.revision, at.revision);
                return Err(Failure::Lost(format!("it is at revision {at}, and what follows begins at {from}")));
            }
            at = delta.to;
        }
        if matches!(base.journal, Tail::Spoiled) { self.compact(deltas) } else { self.append(deltas, at) }
    }

    /// Appends deltas that lead to `to`, with one sync for all of them.
    fn append(&mut self, deltas: &[Delta], to: Position) -> Result<(), Failure> {
        self.open_journal()?;
        let Some(base) = &mut self.base else { return Ok(()) };
        let Tail::Open(sink) = &mut base.journal else { return Ok(()) };
        let written = write_frames(sink.as_mut(), deltas.iter().cloned().map(Response::Delta));
        let bytes = match written {
            Ok(bytes) => bytes,
            Err(error) => {
                // A full disk most of all. Cutting off what was begun needs no room.
                base.journal = Tail::Loose;
                return Err(error.into());
            }
        };
        if let Err(error) = sink.sync() {
            base.journal = Tail::Spoiled;
            return Err(error.into());
        }
        base.journal_bytes += bytes;
        base.position = to;
        Ok(())
    }

    fn open_journal(&mut self) -> Result<(), Failure> {
        let Some(base) = &mut self.base else { return Ok(()) };
        if !matches!(base.journal, Tail::Loose) {
            return Ok(());
        }
        let name = journal(base.sequence);
        let mut sink = if base.journal_bytes == 0 {
            let mut sink = self.disk.create(&name)?;
            let (lineage, sequence) = (base.position.lineage, base.sequence);
            sink.write_all(&Header { kind: Kind::Journal, lineage, sequence }.encode())?;
            sink
        } else {
            self.disk.resume(&name, base.journal_bytes)?
        };
        if let Err(error) = sink.sync().and_then(|()| self.disk.sync()) {
            base.journal = Tail::Spoiled;
            return Err(error.into());
        }
        base.journal_bytes = base.journal_bytes.max(HEADER_BYTES as u64);
        base.journal = Tail::Open(sink);
        Ok(())
    }

    /// Writes a snapshot as a new checkpoint, in the place of everything.
    fn replace(&mut self, chunks: &[SnapshotChunk]) -> Result<(), Failure> {
        let Some(position) = chunks.first().map(|chunk| chunk.position) else { return Ok(()) };
        self.checkpoint(position, |sink, _| {
            Ok(write_frames(sink, chunks.iter().cloned().map(Response::SnapshotChunk)).map(drop)?)
        })
    }

    /// Writes a new checkpoint out of the old one, its journal and `more`.
    pub fn compact(&mut self, more: &[Delta]) -> Result<(), Failure> {
        let Some(base) = &self.base else { return Ok(()) };
        let position = more.last().map_or(base.position, |delta| delta.to);
        let base = Base { sequence: base.sequence, journal_bytes: base.journal_bytes };
        self.checkpoint(position, |sink, disk| {
            let net = compaction::net(disk, &base, more)?;
            compaction::rewrite(disk, &base, net, position, |chunk| {
                write_frames(sink, [Response::SnapshotChunk(chunk)]).map(drop)
            })
        })
    }

    /// A new checkpoint, durable before anything older is removed.
    fn checkpoint(
        &mut self,
        position: Position,
        fill: impl FnOnce(&mut dyn Sink, &dyn Disk) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.sequence += 1;
        let (sequence, name) = (self.sequence, checkpoint(self.sequence));
        let temporary = format!("{name}{TEMPORARY}");
        let header = Header { kind: Kind::Checkpoint, lineage: position.lineage, sequence };
        let written = self.disk.create(&temporary).map_err(Failure::Disk).and_then(|mut sink| {
            sink.write_all(&header.encode())?;
            fill(sink.as_mut(), &self.disk)?;
            Ok(sink.sync()?)
        });
        if let Err(failure) = written {
            // A full disk wants its room back.
            self.clear(|name| name == temporary);
            return Err(failure);
        }
        let named = self.disk.rename(&temporary, &name).and_then(|()| self.disk.sync());
        if let Err(error) = named {
            // It may be found after a crash, or not. Nothing that is appended to
            // the older journal would then count, so nothing is.
            if let Some(base) = &mut self.base {
                base.journal = Tail::Spoiled;
            }
            return Err(error.into());
        }
        self.base = Some(Kept { sequence, position, journal_bytes: 0, journal: Tail::Loose });
        self.clear(|name| name.parse::<Name>().is_ok_and(|name| name.sequence != sequence));
        info!(revision = %position.revision, file = name, "the table is on disk as a new checkpoint");
        Ok(())
    }

    /// Removes what is of no use any more. What stays is tried again next time.
    fn clear(&mut self, is_useless: impl Fn(&str) -> bool) {
        for name in self.disk.names().unwrap_or_default().iter().filter(|name| is_useless(name)) {
            if let Err(error) = self.disk.remove(name) {
                warn!(file = name, %error, "an old file stays");
            }
        }
    }

    /// Whether the disk takes anything at all.
    pub fn probe(&mut self) -> io::Result<()> {
        let name = format!("probe{TEMPORARY}");
        let mut sink = self.disk.create(&name)?;
        sink.write_all(&[0; 4096])?;
        sink.sync()?;
        drop(sink);
        self.disk.remove(&name)
    }
}

/// Writes messages as frames; answers their bytes.
fn write_frames(sink: &mut dyn Sink, messages: impl IntoIterator<Item = Response>) -> io::Result<u64> {
    let (mut buffer, mut bytes) = (Vec::new(), 0);
    for message in messages {
        encode_frame(message, &mut buffer);
        if buffer.len() >= WRITE_BYTES {
            sink.write_all(&buffer)?;
            bytes += buffer.len() as u64;
            buffer.clear();
        }
    }
    sink.write_all(&buffer)?;
    Ok(bytes + buffer.len() as u64)
}

/// What cannot be read back cannot be built upon.
impl From<Bad> for Failure {
    fn from(bad: Bad) -> Self {
        Self::Lost(format!("failed to {bad}"))
    }
}
