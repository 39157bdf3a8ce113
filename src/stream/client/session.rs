//! What a proxy does with what it hears.
//!
//! Pure: the table's position and `now` are arguments. Puts snapshots together
//! and decodes everything before anything is applied; what cannot be decoded is
//! refused whole. [`client`](crate::stream::client) carries the actions out.

use std::time::{Duration, Instant};

use crate::model::change::{PoolRecordState, Record};
use crate::model::revision::{Digest, Position, Revision};
use crate::routing::change::{Change, Refusal};
use crate::wire::proto::NackReason;
use crate::wire::request::Nack;
use crate::wire::response::{Delta, GoAway, Response, SnapshotChunk, Welcome};
use crate::wire::{self, decode_change_set, decode_record};

/// The proxy's side of one stream.
#[derive(Debug)]
pub struct Session {
    heard: Instant,
    patience: Duration,
    welcomed: bool,
    incoming: Incoming,
}

/// A snapshot that is under way.
#[derive(Debug)]
enum Incoming {
    None,
    /// Its records so far.
    Parts {
        position: Position,
        parts: u32,
        bytes: usize,
        records: Vec<(Record, Digest)>,
    },
    /// It was refused: the rest of it says nothing.
    Refused(Position),
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Nothing.
    None,
    /// The stream has begun.
    Begin(Welcome),
    /// Apply this, then acknowledge or refuse.
    Apply(Work),
    /// Say that it is refused.
    Refuse(Nack),
    /// End the stream and come back later.
    Leave(GoAway),
}

/// Something to apply, decoded.
#[derive(Debug)]
pub enum Work {
    /// Everything.
    Snapshot {
        /// What it amounts to.
        position: Position,
        /// Its records.
        records: Vec<(Record, Digest)>,
        /// Somebody allowed it to lack much of the table.
        is_stamped: bool,
    },
    /// What changed.
    Delta {
        /// Where the table must stand.
        from: Position,
        /// Where it stands afterwards.
        to: Position,
        /// The steps between.
        changes: Vec<Change>,
    },
}

/// The other side does not keep to the protocol. Reads as "failed to …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Something came before Welcome, or a second Welcome.
    #[error("follow the control plane: it does not begin with one Welcome")]
    Welcome,
    /// A part of a snapshot is missing.
    #[error("follow the control plane: the parts of its snapshot do not follow each other")]
    Parts,
}

/// Before Welcome there is no agreed interval; 10 s is a slow handshake.
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);
/// Missed heartbeats that show a dead stream.
const HEARTBEATS_MISSED: u32 = 3;
/// 1 GiB of encoded records: eight million environments.
const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

impl Session {
    /// A stream was opened `now`.
    pub fn new(now: Instant) -> Self {
        Self { heard: now, patience: WELCOME_PATIENCE, welcomed: false, incoming: Incoming::None }
    }

    /// For frames that are read back from disk `now`: no Welcome comes first.
    pub fn replay(now: Instant) -> Self {
        Self { welcomed: true, ..Self::new(now) }
    }

    /// A message has been acted on. Nothing could be heard meanwhile, so
    /// silence begins only now.
    pub fn acted(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When the stream is dead if nothing more is heard.
    pub fn deadline(&self) -> Instant {
        self.heard + self.patience
    }

    /// What to do about a message; `have` is where the table stands.
    ///
    /// # Errors
    ///
    /// When the stream must be given up.
    pub fn receive(&mut self, response: Response, have: Option<Position>, now: Instant) -> Result<Action, Broken> {
        self.heard = now;
        match response {
            Response::GoAway(away) => Ok(Action::Leave(away)),
            Response::Welcome(welcome) if !self.welcomed => {
                self.welcomed = true;
                // 1 s at least: a shorter patience would mistake a busy machine for a dead one.
                self.patience = (welcome.heartbeat_interval * HEARTBEATS_MISSED).clamp(PATIENCE_MIN, PATIENCE_MAX);
                Ok(Action::Begin(welcome))
            }
            _ if !self.welcomed => Err(Broken::Welcome),
            Response::Welcome(_) => Err(Broken::Welcome),
            Response::Heartbeat(head) => Ok(check_digest(head, have)),
            Response::Delta(delta) => Ok(take_delta(delta, have)),
            Response::SnapshotChunk(chunk) => self.take_chunk(chunk, have),
        }
    }

    fn take_chunk(&mut self, chunk: SnapshotChunk, have: Option<Position>) -> Result<Action, Broken> {
        let SnapshotChunk { position, index, last, records: encoded, mass_change_allowed } = chunk;
        let (parts, mut bytes, mut records) = match std::mem::replace(&mut self.incoming, Incoming::None) {
            Incoming::Refused(refused) if refused == position && index > 0 => {
                self.incoming = if last { Incoming::None } else { Incoming::Refused(refused) };
                return Ok(Action::None);
            }
            Incoming::Parts { position: begun, parts, bytes, records } if begun == position => (parts, bytes, records),
            Incoming::None | Incoming::Refused(_) if index == 0 => (0, 0, Vec::new()),
            _ => return Err(Broken::Parts),
        };
        if index != parts {
            return Err(Broken::Parts);
        }
        // The part that is refused may be the last one already.
        let refused = if last { Incoming::None } else { Incoming::Refused(position) };
        for record in encoded {
            bytes += record.len();
            if bytes > SNAPSHOT_BYTES_MAX {
                self.incoming = refused;
                let detail = format!("a snapshot of more than {SNAPSHOT_BYTES_MAX} bytes");
                return Ok(Action::Refuse(nack(have, position.revision, NackReason::TooLarge, detail)));
            }
            match decode_record(&record) {
                Ok(decoded) => {
                    let digest = Digest::of_record(&decoded.key().to_string(), &record);
                    records.push((decoded, digest));
                }
                Err(error) => {
                    self.incoming = refused;
                    return Ok(Action::Refuse(unreadable(have, position.revision, &error)));
                }
            }
        }
        if last {
            // Every part has the stamp, or none.
            return Ok(Action::Apply(Work::Snapshot { position, records, is_stamped: mass_change_allowed }));
        }
        self.incoming = Incoming::Parts { position, parts: parts + 1, bytes, records };
        Ok(Action::None)
    }
}

const PATIENCE_MIN: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(60);

impl Work {
    /// The revision this leads to.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Snapshot { position, .. } => position.revision,
            Self::Delta { to, .. } => to.revision,
        }
    }

    /// Whether it closes something, so that who waits for that to be idle
    /// should hear at once.
    pub fn closes(&self) -> bool {
        let closing = |change: &Change| match change {
            Change::Upsert(Record::Pool(pool), _) => {
                pool.state == PoolRecordState::Closing || pool.endpoints.iter().any(|endpoint| endpoint.draining)
            }
            Change::Upsert(..) => false,
            Change::Delete(_) => true,
        };
        match self {
            Self::Snapshot { .. } => true,
            Self::Delta { changes, .. } => changes.iter().any(closing),
        }
    }
}

/// A refusal of the table, in the stream's words.
pub fn refusal(have: Option<Position>, refused: Revision, refusal: &Refusal) -> Nack {
    let (reason, keys) = match refusal {
        Refusal::WrongLineage => (NackReason::WrongLineage, Vec::new()),
        Refusal::Gap { .. } => (NackReason::Gap, Vec::new()),
        Refusal::DigestMismatch => (NackReason::DigestMismatch, Vec::new()),
        Refusal::MassChange(_) => (NackReason::MassChange, Vec::new()),
        Refusal::Invalid { key, .. } => (NackReason::Invalid, vec![key.to_string()]),
    };
    Nack { keys, ..nack(have, refused, reason, format!("failed to {refusal}")) }
}

/// A message that could not be read at all.
pub fn unreadable(have: Option<Position>, refused: Revision, error: &wire::Error) -> Nack {
    let reason = match error {
        wire::Error::Unsupported { .. } => NackReason::Unsupported,
        wire::Error::Malformed { .. }
        | wire::Error::Missing { .. }
        | wire::Error::Length { .. }
        | wire::Error::Text { .. } => NackReason::Invalid,
    };
    nack(have, refused, reason, format!("failed to {error}"))
}

fn nack(stuck: Option<Position>, refused: Revision, reason: NackReason, detail: String) -> Nack {
    Nack { stuck, refused, reason, keys: Vec::new(), detail }
}

fn take_delta(delta: Delta, have: Option<Position>) -> Action {
    let Delta { from, to, change_sets } = delta;
    match steps(&change_sets) {
        Ok(changes) => Action::Apply(Work::Delta { from, to, changes }),
        Err(error) => Action::Refuse(unreadable(have, to.revision, &error)),
    }
}

fn steps(change_sets: &[bytes::Bytes]) -> Result<Vec<Change>, wire::Error> {
    let mut steps = Vec::new();
    for bytes in change_sets {
        let change = decode_change_set(bytes)?;
        steps.extend(change.deletes.into_iter().map(Change::Delete));
        for (record, bytes) in change.upserts {
            let digest = Digest::of_record(&record.key().to_string(), &bytes);
            steps.push(Change::Upsert(record, digest));
        }
    }
    Ok(steps)
}

/// A heartbeat at the table's own revision must agree with it.
fn check_digest(head: Position, have: Option<Position>) -> Action {
    match have {
        Some(at) if at.lineage == head.lineage && at.revision == head.revision && at.digest != head.digest => {
            let detail = format!("the table adds up to {}, the store to {}", at.digest, head.digest);
            Action::Refuse(nack(have, head.revision, NackReason::DigestMismatch, detail))
        }
        _ => Action::None,
    }
}

#[cfg(test)]
mod tests;
