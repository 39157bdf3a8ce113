//! Durable truth: rows, revisions, change log and history.
//!
//! Owns the database and what one transaction means. A write transaction
//! collects which environments and pools it touched; committing it derives
//! their routing records, appends one change set to the log when any of them
//! differs, and advances revision and digest, all or nothing (invariant 4).
//! Knows nothing of who asks: rules live in `model` and `control`.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Mutex, broadcast, watch};

use crate::model::event::{Event, What};
use crate::model::host::HostPattern;
use crate::model::revision::Position;
use crate::store::database::{BEGIN_WRITE, Database, WAIT_MAX};
use crate::store::directory::Directory;
use crate::store::live::Live;

mod bulk;
mod database;
mod deployments;
mod directory;
mod environments;
mod error;
mod hosts;
mod imported;
mod keys;
mod live;
mod log;
mod mass_change;
mod members;
mod moves;
mod page;
mod pools;
mod projects;
mod promotions;
mod record;
mod row;
mod running;
mod settings;
mod transaction;
mod work;

#[cfg(test)]
mod tests;

pub use deployments::BundleRow;
pub use error::Error;
pub use keys::ApiKey;
pub use log::{Changes, LoggedChange, Snapshot};
pub use members::MembersChange;
pub use page::{Listed, Page};
pub use running::{RunningPool, Scope};
pub use transaction::Transaction;
pub use work::{Work, WorkKey, WorkWatch};

/// Where the store lives and which hosts it makes from names.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory that holds everything; created if absent.
    pub data_dir: PathBuf,
    /// Parent of every host made from names.
    pub base_domain: HostPattern,
    /// Further hosts on which `X-Project` and `X-Environment` choose.
    pub shared_hosts: Vec<HostPattern>,
}

/// The durable store. Cheap to clone; the last clone or transaction that is
/// dropped lets go of the data directory.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    live: Live,
    // Connections go before the lock on the directory does.
    database: Database,
    turn: Arc<Mutex<()>>,
    _directory: Directory,
}

impl Store {
    /// Takes the data directory, brings its schema up to date and takes over
    /// the configuration. The first start founds a lineage.
    ///
    /// # Errors
    ///
    /// [`Error::Owned`], [`Error::Unusable`], [`Error::Newer`], or
    /// [`Error::HostTaken`] when a new `base_domain` makes a host that an
    /// environment claims.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        let directory = Directory::own(&config.data_dir)?;
        let database = Database::open(&directory).await?;
        let head = database.found().await?;
        let turn = Arc::default();
        let store = Self(Arc::new(Inner { live: Live::new(head), database, turn, _directory: directory }));
        let mut transaction = store.write().await?;
        transaction.configure(config).await?;
        transaction.commit().await?;
        Ok(store)
    }

    /// Reads at one instant, which is that of the first read.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when no connection is free within 30 s, or when the
    /// database fails.
    pub async fn read(&self) -> Result<Transaction, Error> {
        Ok(Transaction::new(self.0.database.readers.begin().await?, self.clone(), None))
    }

    /// Writes, one at a time: waits for its turn.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when the turn does not come within 30 s, or when the
    /// database fails.
    pub async fn write(&self) -> Result<Transaction, Error> {
        let turn = Arc::clone(&self.0.turn).lock_owned();
        let turn = tokio::time::timeout(WAIT_MAX, turn).await.map_err(|_| Error::Busy)?;
        let inner = self.0.database.writer.begin_with(BEGIN_WRITE).await?;
        Ok(Transaction::new(inner, self.clone(), Some(turn)))
    }

    /// Where the history stands, from memory.
    pub fn head(&self) -> Position {
        *self.live().head.borrow()
    }

    /// Wakes after each commit that advanced the revision.
    pub fn watch_head(&self) -> watch::Receiver<Position> {
        self.live().head.subscribe()
    }

    /// Wakes after each commit that touched pools, moves, pointers or policies,
    /// and tells which.
    pub fn watch_work(&self) -> WorkWatch {
        self.live().work.watch()
    }

    /// What happens from now on. A subscriber that falls 1,024 events behind
    /// loses the oldest and is told how many.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.live().events.subscribe()
    }

    /// Tells of something that no transaction made true.
    pub fn publish(&self, what: What) {
        self.live().publish(what);
    }

    /// Gives back the space of the write-ahead log, which a large transaction
    /// has made long. Answers whether it did: while somebody reads, or writes,
    /// it is left to one of the next commits.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn truncate_log(&self) -> Result<bool, Error> {
        self.0.database.truncate_log().await
    }

    /// Waits for open transactions to end and closes the database, so that the
    /// directory is at rest when the last clone is dropped. Nothing can be read
    /// or written afterwards.
    pub async fn close(&self) {
        self.0.database.close().await;
    }

    fn live(&self) -> &Live {
        &self.0.live
    }
}
