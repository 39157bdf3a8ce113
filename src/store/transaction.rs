//! A transaction: what is read at one instant, or written all or nothing.
//!
//! Owns the connection, the turn to write, and the memory of what was touched.
//! The nouns' files add their reads and writes; `record` turns what was touched
//! into a change set when the transaction commits.

use std::collections::BTreeSet;

use sqlx::any::Any;
use tokio::sync::OwnedMutexGuard;
use tracing::Instrument as _;

use crate::model::change::RecordKey;
use crate::model::event::What;
use crate::model::id::EnvironmentId;
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;
use crate::store::row::{Query, Row, query};
use crate::store::work::{Work, WorkKey};
use crate::store::{Error, Store};

/// A transaction. Reading sees one instant; writing is undone unless
/// [`Transaction::commit`] is called, also when it is dropped in the middle of
/// a query.
pub struct Transaction {
    // Dropped before the turn, so that the rollback is queued on the one write
    // connection before the next writer can queue anything.
    inner: sqlx::Transaction<'static, Any>,
    pub(super) touched: Touched,
    store: Store,
    turn: Option<OwnedMutexGuard<()>>,
}

/// What a transaction touched and wants told.
#[derive(Default)]
pub(super) struct Touched {
    /// Keys of records that may differ now.
    pub records: BTreeSet<RecordKey>,
    /// What somebody may have to act on.
    pub work: Work,
    /// Published after the commit.
    pub events: Vec<What>,
    /// Somebody means it, however much is deleted.
    pub mass_change_allowed: bool,
    /// The state as it stands is to be stamped, also where nothing changes.
    pub mass_change_stamped: bool,
}

impl Transaction {
    pub(super) fn new(inner: sqlx::Transaction<'static, Any>, store: Store, turn: Option<OwnedMutexGuard<()>>) -> Self {
        Self { inner, touched: Touched::default(), store, turn }
    }

    /// Publishes `what` after the commit; never when it is rolled back.
    pub fn note(&mut self, what: What) {
        if !self.touched.events.contains(&what) {
            self.touched.events.push(what);
        }
    }

    /// The revision this transaction's change will get, if it changes any
    /// routing record.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn next_revision(&mut self) -> Result<Revision, Error> {
        // Written, not only read: where several processes share a database the
        // row's lock keeps the promise until the commit.
        let lock = query("UPDATE head SET revision = revision WHERE id = 1 RETURNING revision");
        Ok(Revision(self.one("head", lock).await?.count("revision")?).next())
    }

    /// Makes everything written durable, derives the change set of what was
    /// touched, and then wakes those who watch. Answers the head. Once begun it
    /// is carried through even if the caller goes away: the head in memory must
    /// not fall behind the database.
    ///
    /// # Errors
    ///
    /// When the database fails; nothing is written then.
    pub async fn commit(self) -> Result<Revision, Error> {
        match tokio::spawn(self.finish().in_current_span()).await {
            Ok(result) => result,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(Error::Database(sqlx::Error::PoolClosed)),
        }
    }

    async fn finish(mut self) -> Result<Revision, Error> {
        let change = self.change().await?;
        let Self { inner, touched, store, turn } = self;
        // Invariant 4: rows, history, records and log in one commit.
        inner.commit().await?;
        let revision = store.live().committed(change, touched);
        drop(turn);
        Ok(revision)
    }

    pub(super) fn touch_environment(&mut self, id: EnvironmentId) {
        self.touched.records.insert(RecordKey::Environment(id));
    }

    /// The pool's row changed: its record may have, and the supervisor looks at it.
    pub(super) fn touch_pool(&mut self, key: PoolKey) {
        self.touched.records.insert(RecordKey::Pool(key));
        self.touched.work.add(WorkKey::Pool(key));
    }

    /// Runs a statement; answers how many rows it wrote.
    pub(super) async fn execute(&mut self, query: Query) -> Result<u64, Error> {
        Ok(query.execute(&mut *self.inner).await?.rows_affected())
    }

    pub(super) async fn all(&mut self, noun: &'static str, query: Query) -> Result<Vec<Row>, Error> {
        let rows = query.fetch_all(&mut *self.inner).await?;
        Ok(rows.into_iter().map(|row| Row::new(noun, row)).collect())
    }

    pub(super) async fn first(&mut self, noun: &'static str, query: Query) -> Result<Option<Row>, Error> {
        let row = query.fetch_optional(&mut *self.inner).await?;
        Ok(row.map(|row| Row::new(noun, row)))
    }

    pub(super) async fn one(&mut self, noun: &'static str, query: Query) -> Result<Row, Error> {
        Ok(Row::new(noun, query.fetch_one(&mut *self.inner).await?))
    }

    pub(super) fn connection(&mut self) -> &mut sqlx::AnyConnection {
        &mut self.inner
    }
}
