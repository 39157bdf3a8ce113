//! What a start finds on disk: the newest valid checkpoint, and its journal up to
//! the first bad frame.
//!
//! Reads and never writes. Every frame goes the way of a message of the control
//! stream, through [`Session`] into the table, which refuses what does not add up
//! to its digest. The [`writer`](super::writer) goes on from what is found here.

use std::io::{self, BufReader};
use std::time::{Instant, SystemTime};

use tracing::{error, warn};

use crate::model::id::Lineage;
use crate::model::revision::Position;
use crate::routing::live::Live;
use crate::stream::client::session::{Action, Session, Work, refusal};
use crate::stream::last_known_good::disk::Disk;
use crate::stream::last_known_good::format::{Bad, Frames, Kind};
use crate::stream::last_known_good::names::{Name, checkpoint, journal};
use crate::wire::response::{Delta, Response};

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The highest number any file has.
    pub sequence: u64,
    /// What the table was loaded from; `None`: there is no table.
    pub loaded: Option<Loaded>,
}

/// What the table was loaded from.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// The number of the checkpoint and of its journal.
    pub sequence: u64,
    /// Where the table stands.
    pub position: Position,
    /// Bytes of the journal that count; 0 where there is none.
    pub journal_bytes: u64,
    /// Whether a checkpoint that is newer is no good.
    pub is_second_best: bool,
    /// When the table last changed, where that is known.
    pub changed_at: Option<SystemTime>,
}

/// Reading in steps of this size keeps the number of system calls low.
const READ_BYTES: usize = 256 << 10;
/// Deltas applied with one swap: the table checks and copies per swap, not per
/// byte, and a journal may have hundreds of thousands.
const BATCH_BYTES: usize = 4 << 20;

/// Loads into `live`, which must be without a table.
pub fn recover(disk: &dyn Disk, live: &Live) -> Found {
    let names = disk.names().unwrap_or_else(|error| {
        error!(%error, "the folder of the last table cannot be read");
        Vec::new()
    });
    let names: Vec<Name> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let mut checkpoints: Vec<u64> =
        names.iter().filter(|name| name.kind == Kind::Checkpoint).map(|name| name.sequence).collect();
    checkpoints.sort_unstable_by(|a, b| b.cmp(a));
    let sequence = names.iter().map(|name| name.sequence).max().unwrap_or(0);
    let mut is_second_best = false;
    for checkpoint_sequence in checkpoints {
        let file = checkpoint(checkpoint_sequence);
        let newer = open(disk, &journal(checkpoint_sequence), Kind::Journal, checkpoint_sequence).err();
        let newer = newer.filter(|bad| matches!(bad, Bad::Newer(_)));
        match newer.map_or_else(|| load_checkpoint(disk, checkpoint_sequence, live), Err) {
            Ok(position) => {
                let loaded = replay(disk, checkpoint_sequence, position, live);
                return Found { sequence, loaded: Some(Loaded { is_second_best, ..loaded }) };
            }
            Err(bad @ Bad::Newer(_)) => {
                // What is older than this was replaced by it: serving that would
                // go back behind what was acknowledged (invariant 3).
                error!(
                    file, reason = %bad,
                    "the table on disk was written by a newer repoint; it stays there until a new one is synced: \
                     start that build again, or reach the control plane"
                );
                break;
            }
            Err(bad) => {
                error!(file, reason = %bad, "a table on disk is damaged and not used");
                is_second_best = true;
            }
        }
    }
    Found { sequence, loaded: None }
}

fn open(disk: &dyn Disk, name: &str, kind: Kind, sequence: u64) -> Result<(Frames, Lineage), Bad> {
    let input = disk.read(name)?;
    Frames::open(Box::new(BufReader::with_capacity(READ_BYTES, input)), kind, sequence)
}

fn load_checkpoint(disk: &dyn Disk, sequence: u64, live: &Live) -> Result<Position, Bad> {
    let (mut frames, lineage) = open(disk, &checkpoint(sequence), Kind::Checkpoint, sequence)?;
    let mut session = Session::replay(Instant::now());
    while let Some(message) = frames.next()? {
        let Response::SnapshotChunk(chunk) = message else {
            return Err(Bad::Order("a checkpoint holds something other than a snapshot".into()));
        };
        if chunk.position.lineage != lineage {
            return Err(Bad::Order("a checkpoint names two lineages".into()));
        }
        let is_last = chunk.last;
        take(&mut session, live, Response::SnapshotChunk(chunk))?;
        if is_last {
            return live.position().ok_or_else(|| Bad::Order("it makes no table".into()));
        }
    }
    Err(Bad::Short)
}

/// A message of the past, applied if it is good for that.
fn take(session: &mut Session, live: &Live, message: Response) -> Result<(), Bad> {
    let have = live.position();
    let action = session.receive(message, have, Instant::now()).map_err(|broken| Bad::Order(broken.to_string()))?;
    let work = match action {
        Action::Apply(work) => work,
        Action::Refuse(nack) => return Err(Bad::Order(nack.detail)),
        Action::None | Action::Begin(_) | Action::Leave(_) => return Ok(()),
    };
    let revision = work.revision();
    let applied = match work {
        // What was applied once was not refused then.
        Work::Snapshot { position, records, .. } => live.apply_stamped_snapshot(position, records),
        Work::Delta { from, to, changes } => live.apply_delta(from, to, changes),
    };
    applied.map_err(|refused| Bad::Order(refusal(have, revision, &refused).detail))
}

fn replay(disk: &dyn Disk, sequence: u64, position: Position, live: &Live) -> Loaded {
    let name = journal(sequence);
    let mut replay = Replay { live, session: Session::replay(Instant::now()), batch: Vec::new(), applied_bytes: 0 };
    let bad = match open(disk, &name, Kind::Journal, sequence) {
        Ok((mut frames, _)) => {
            replay.applied_bytes = frames.good();
            replay.all(&mut frames, position).err()
        }
        // No change came after the checkpoint.
        Err(Bad::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(bad) => Some(bad),
    };
    if let Some(bad) = bad {
        warn!(
            file = name, used_bytes = replay.applied_bytes, reason = %bad,
            "the journal of the last table is used up to its first bad frame; the rest is cut off"
        );
    }
    let changed_at = disk.changed_at(&name).or_else(|| disk.changed_at(&checkpoint(sequence)));
    let position = live.position().unwrap_or(position);
    Loaded { sequence, position, journal_bytes: replay.applied_bytes, is_second_best: false, changed_at }
}

/// Applies the deltas of a journal, many with one swap.
struct Replay<'a> {
    live: &'a Live,
    session: Session,
    /// Read and not applied yet, each with where it ends.
    batch: Vec<(Delta, u64)>,
    applied_bytes: u64,
}

impl Replay<'_> {
    /// Everything up to the first bad frame, and then what is wrong with that.
    fn all(&mut self, frames: &mut Frames, mut at: Position) -> Result<(), Bad> {
        let mut bytes = 0;
        let ended = loop {
            let delta = match frames.next() {
                Ok(Some(Response::Delta(delta))) if delta.from == at => delta,
                Ok(Some(_)) => break Err(Bad::Order("a frame does not continue the one before".into())),
                Ok(None) => break Ok(()),
                Err(bad) => break Err(bad),
            };
            at = delta.to;
            bytes += delta.change_sets.iter().map(bytes::Bytes::len).sum::<usize>();
            self.batch.push((delta, frames.good()));
            if bytes >= BATCH_BYTES {
                self.apply()?;
                bytes = 0;
            }
        };
        self.apply()?;
        ended
    }

    fn apply(&mut self) -> Result<(), Bad> {
        let batch = std::mem::take(&mut self.batch);
        let (Some((first, _)), Some((last, end))) = (batch.first(), batch.last()) else { return Ok(()) };
        let change_sets = batch.iter().flat_map(|(delta, _)| delta.change_sets.iter().cloned()).collect();
        let whole = Delta { from: first.from, to: last.to, change_sets };
        if take(&mut self.session, self.live, Response::Delta(whole)).is_ok() {
            self.applied_bytes = *end;
            return Ok(());
        }
        // One of them is bad: those before it are not.
        for (delta, end) in batch {
            take(&mut self.session, self.live, Response::Delta(delta))?;
            self.applied_bytes = end;
        }
        Ok(())
    }
}
