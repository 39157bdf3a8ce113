//! The change log: how those who follow the store catch up.
//!
//! Either the changes after what they have, or, where the log no longer reaches
//! back that far, every record as it stands. Written by `record`, read by
//! `stream::server`.

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::model::revision::{Digest, Position, Revision};
use crate::store::row::{Row, number, query};
use crate::store::{Error, Store, Transaction};

/// One encoded change of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedChange {
    /// Where the history stands after it.
    pub position: Position,
    /// The encoded change set.
    pub bytes: Bytes,
}

/// What the log answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changes {
    /// The changes that follow, oldest first, without gaps; empty at the head.
    Log(Vec<LoggedChange>),
    /// The log does not reach back that far: take a snapshot.
    BehindFloor,
}

/// Every record as it stands at one position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Where.
    pub position: Position,
    /// The encoded records, ordered by key.
    pub records: Vec<Bytes>,
    /// The last change that was allowed to delete much; 0 where there is none.
    pub mass_change_at: Revision,
}

/// Changes kept. A proxy that missed more has been away for long, and a
/// snapshot is the shorter way.
pub(super) const CHANGES_MAX: u64 = 10_000;

/// Old changes are deleted in batches, not one with every commit.
const TRIM_EVERY: u64 = 256;

impl Store {
    /// The changes after a revision: at least one if there is one, and no
    /// further one once `bytes_max` is exceeded. Nothing follows a revision that
    /// has not been reached yet.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn changes_after(&self, after: Revision, bytes_max: usize) -> Result<Changes, Error> {
        if let Some(recent) = self.live().changes_after(after, bytes_max) {
            return Ok(Changes::Log(recent));
        }
        self.read().await?.logged_after(after, bytes_max).await
    }

    /// Where the history stood at a revision, if the log reaches back that far:
    /// what a follower's digest is compared with before it resumes.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn position_at(&self, revision: Revision) -> Result<Option<Position>, Error> {
        let head = self.head();
        match revision {
            revision if revision == head.revision => Ok(Some(head)),
            Revision(0) => Ok(Some(Position { revision, digest: Digest::default(), ..head })),
            _ => self.read().await?.logged_position(revision).await,
        }
    }

    /// Every record at one instant.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut transaction = self.read().await?;
        let position = transaction.position().await?;
        let mass_change_at = transaction.mass_change_at().await?;
        let mut rows = query("SELECT value FROM routes ORDER BY key").fetch(transaction.connection());
        let mut records = Vec::new();
        while let Some(row) = rows.try_next().await? {
            records.push(Row::new("record", row).bytes("value")?.into());
        }
        drop(rows);
        Ok(Snapshot { position, records, mass_change_at })
    }
}

impl Transaction {
    /// Where the history stands in this transaction.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn position(&mut self) -> Result<Position, Error> {
        let row = self.one("head", query("SELECT lineage, revision, digest FROM head WHERE id = 1")).await?;
        position(&row)
    }

    async fn logged_after(&mut self, after: Revision, bytes_max: usize) -> Result<Changes, Error> {
        let select = query(
            "SELECT head.lineage, changes.revision, changes.digest, changes.bytes FROM changes, head
             WHERE head.id = 1 AND changes.revision > $1 ORDER BY changes.revision",
        );
        let mut rows = select.bind(number(after.0)).fetch(self.connection());
        let (mut changes, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let row = Row::new("change", row);
            let change = LoggedChange { position: position(&row)?, bytes: row.bytes("bytes")?.into() };
            if changes.is_empty() && change.position.revision != after.next() {
                return Ok(Changes::BehindFloor);
            }
            bytes += change.bytes.len();
            changes.push(change);
            if bytes > bytes_max {
                break;
            }
        }
        Ok(Changes::Log(changes))
    }

    async fn logged_position(&mut self, revision: Revision) -> Result<Option<Position>, Error> {
        let select = query(
            "SELECT head.lineage, changes.revision, changes.digest FROM changes, head
             WHERE head.id = 1 AND changes.revision = $1",
        );
        self.first("change", select.bind(number(revision.0))).await?.map(|row| position(&row)).transpose()
    }

    /// Appends a change and lets go of those past the floor.
    pub(super) async fn log(&mut self, change: &LoggedChange) -> Result<(), Error> {
        let revision = change.position.revision;
        let insert = query("INSERT INTO changes (revision, digest, bytes) VALUES ($1, $2, $3)")
            .bind(number(revision.0))
            .bind(change.position.digest.to_string())
            .bind(change.bytes.to_vec());
        self.execute(insert).await?;
        if revision.0.is_multiple_of(TRIM_EVERY) {
            let floor = revision.0.saturating_sub(CHANGES_MAX);
            self.execute(query("DELETE FROM changes WHERE revision <= $1").bind(number(floor))).await?;
        }
        Ok(())
    }
}

/// Reads a position from columns of these names.
pub(super) fn position(row: &Row) -> Result<Position, Error> {
    let digest = row.text("digest")?;
    let digest = u128::from_str_radix(&digest, 16).map_err(|error| row.corrupt("digest", error))?;
    Ok(Position { lineage: row.parsed("lineage")?, revision: Revision(row.count("revision")?), digest: Digest(digest) })
}
