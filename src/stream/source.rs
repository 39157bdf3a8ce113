//! Where the server reads what was committed, and keeps who is a member.
//!
//! A trait although the store is its one implementor in production: SQLite
//! answers on a thread of its own, so simulations that must replay exactly put
//! a log in memory behind the same face.

use tokio::sync::watch;

use crate::model::revision::{Position, Revision};
use crate::store::{Changes, Error, MembersChange, Snapshot, Store};

/// A totally ordered log of changes, and the state they add up to.
pub trait Source: Clone + Send + Sync + 'static {
    /// Where the log ends, and a wake-up whenever that moves. The wake-up
    /// carries no change: a lost one costs nothing.
    fn watch_head(&self) -> watch::Receiver<Position>;

    /// Changes after a revision, oldest first; about `bytes_max` of them, and
    /// at least one if there is any.
    fn changes_after(&self, after: Revision, bytes_max: usize) -> impl Future<Output = Result<Changes, Error>> + Send;

    /// Where the log stood at a revision, if it reaches back that far.
    fn position_at(&self, revision: Revision) -> impl Future<Output = Result<Option<Position>, Error>> + Send;

    /// Every record at one instant.
    fn snapshot(&self) -> impl Future<Output = Result<Snapshot, Error>> + Send;

    /// Writes down who is a member, all or nothing.
    fn keep_members(&self, change: MembersChange) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Source for Store {
    fn watch_head(&self) -> watch::Receiver<Position> {
        Self::watch_head(self)
    }

    async fn changes_after(&self, after: Revision, bytes_max: usize) -> Result<Changes, Error> {
        Self::changes_after(self, after, bytes_max).await
    }

    async fn position_at(&self, revision: Revision) -> Result<Option<Position>, Error> {
        Self::position_at(self, revision).await
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        Self::snapshot(self).await
    }

    async fn keep_members(&self, change: MembersChange) -> Result<(), Error> {
        Self::keep_members(self, &change).await
    }
}
