//! Durable truth: rows, revisions, change log and history.
//!
//! Owns the database and what one transaction means. A write transaction
//! collects which environments and pools it touched; committing it derives
//! their routing records, appends one change set to the log when any of them
//! differs, and advances revision and digest, all or nothing (invariant 4).
//! Knows nothing of who asks: rules live in `model` and `control`.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::model::deployment::Deployment;
use crate::model::environment::Environment;
use crate::model::event::{Event, What};
use crate::model::history::Stack;
use crate::model::host::HostPattern;
use crate::model::id::{DeploymentId, EnvironmentId, KeyId, ProjectId, PromotionId};
use crate::model::moves::{MoveState, PendingMove};
use crate::model::name::{DeploymentRef, EnvironmentName, ProjectName};
use crate::model::pool::{Pool, PoolError, PoolKey};
use crate::model::project::Project;
use crate::model::promotion::Promotion;
use crate::model::revision::{Position, Revision};

mod error;
mod page;

pub use error::Error;
pub use page::{Listed, Page};

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

/// One encoded change of the log.
#[derive(Clone, Debug)]
pub struct LoggedChange {
    /// Where the history stands after it.
    pub position: Position,
    /// The encoded change set.
    pub bytes: bytes::Bytes,
}

/// What the log answers.
#[derive(Clone, Debug)]
pub enum Changes {
    /// The changes that follow, oldest first; empty at the head.
    Log(Vec<LoggedChange>),
    /// The log does not reach back that far: take a snapshot.
    BehindFloor,
}

/// Every record as it stands at one position.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where.
    pub position: Position,
    /// The encoded records, by key.
    pub records: Vec<bytes::Bytes>,
}

/// A registered bundle; its bytes are a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleRow {
    /// `sha256:` and the hash of its bytes, in hex.
    pub digest: String,
    /// Packed size in bytes.
    pub size: u64,
    /// The manifest inside, as text.
    pub manifest_toml: String,
    /// When it was uploaded first.
    pub created_at: Timestamp,
}

/// A stored API key; the key itself is not kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// Its name, which history shows as actor.
    pub name: String,
    /// SHA-256 of the key.
    pub hash: Vec<u8>,
    /// What it may do.
    pub role: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The durable store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<()>);

/// One transaction, for reads or for writes.
pub struct Transaction(());

fn pending<T>() -> Result<T, Error> {
    Err(Error::Database(sqlx::Error::PoolClosed))
}

#[allow(missing_docs, clippy::unused_async, reason = "signatures first; bodies follow")]
impl Store {
    pub async fn open(_config: &Config) -> Result<Self, Error> {
        pending()
    }
    pub async fn read(&self) -> Result<Transaction, Error> {
        pending()
    }
    pub async fn write(&self) -> Result<Transaction, Error> {
        pending()
    }
    pub fn head(&self) -> Position {
        unreachable!("no store can be opened yet, {:p}", self.0)
    }
    pub fn watch_head(&self) -> watch::Receiver<Position> {
        unreachable!()
    }
    pub fn watch_work(&self) -> watch::Receiver<u64> {
        unreachable!()
    }
    pub fn events(&self) -> broadcast::Receiver<Event> {
        unreachable!()
    }
    pub fn publish(&self, _what: What) {}
    pub async fn changes_after(&self, _after: Revision, _bytes_max: usize) -> Result<Changes, Error> {
        pending()
    }
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        pending()
    }
}

#[allow(missing_docs, clippy::unused_async, reason = "signatures first; bodies follow")]
impl Transaction {
    pub async fn insert_project(&mut self, _project: &Project) -> Result<(), Error> {
        pending()
    }
    pub async fn project(&mut self, _id: ProjectId) -> Result<Option<Project>, Error> {
        pending()
    }
    pub async fn project_by_name(&mut self, _name: &ProjectName) -> Result<Option<Project>, Error> {
        pending()
    }
    pub async fn projects(&mut self, _page: &Page) -> Result<Listed<Project>, Error> {
        pending()
    }
    pub async fn delete_project(&mut self, _id: ProjectId) -> Result<(), Error> {
        pending()
    }
    pub async fn insert_environment(&mut self, _environment: &Environment) -> Result<(), Error> {
        pending()
    }
    pub async fn environment(&mut self, _id: EnvironmentId) -> Result<Option<Environment>, Error> {
        pending()
    }
    pub async fn environment_by_name(
        &mut self,
        _project: ProjectId,
        _name: &EnvironmentName,
    ) -> Result<Option<Environment>, Error> {
        pending()
    }
    pub async fn environments(
        &mut self,
        _project: Option<ProjectId>,
        _page: &Page,
    ) -> Result<Listed<Environment>, Error> {
        pending()
    }
    pub async fn update_environment(&mut self, _environment: &Environment) -> Result<(), Error> {
        pending()
    }
    pub async fn delete_environment(&mut self, _id: EnvironmentId) -> Result<(), Error> {
        pending()
    }
    pub async fn host_owner(&mut self, _host: &HostPattern) -> Result<Option<EnvironmentId>, Error> {
        pending()
    }
    pub async fn environments_pointing_at(&mut self, _deployment: DeploymentId) -> Result<Vec<Environment>, Error> {
        pending()
    }
    pub async fn insert_deployment(&mut self, _deployment: &Deployment) -> Result<(), Error> {
        pending()
    }
    pub async fn deployment(&mut self, _id: DeploymentId) -> Result<Option<Deployment>, Error> {
        pending()
    }
    pub async fn deployment_by_ref(
        &mut self,
        _project: ProjectId,
        _reference: &DeploymentRef,
    ) -> Result<Option<Deployment>, Error> {
        pending()
    }
    pub async fn deployments(&mut self, _project: ProjectId, _page: &Page) -> Result<Listed<Deployment>, Error> {
        pending()
    }
    pub async fn latest_deployment(&mut self, _project: ProjectId) -> Result<Option<Deployment>, Error> {
        pending()
    }
    pub async fn insert_bundle(
        &mut self,
        _digest: &str,
        _size: u64,
        _manifest_toml: &str,
        _at: Timestamp,
    ) -> Result<(), Error> {
        pending()
    }
    pub async fn bundle(&mut self, _digest: &str) -> Result<Option<BundleRow>, Error> {
        pending()
    }
    pub async fn pool(&mut self, _key: PoolKey) -> Result<Option<Pool>, Error> {
        pending()
    }
    pub async fn pools_of_environment(&mut self, _environment: EnvironmentId) -> Result<Vec<Pool>, Error> {
        pending()
    }
    pub async fn pools_of_deployment(&mut self, _deployment: DeploymentId) -> Result<Vec<Pool>, Error> {
        pending()
    }
    pub async fn pools(&mut self) -> Result<Vec<Pool>, Error> {
        pending()
    }
    pub async fn put_pool(&mut self, _pool: &Pool) -> Result<(), Error> {
        pending()
    }
    pub async fn delete_pool(&mut self, _key: PoolKey) -> Result<(), Error> {
        pending()
    }
    pub async fn record_pool_error(&mut self, _key: PoolKey, _error: &PoolError) -> Result<(), Error> {
        pending()
    }
    pub async fn pool_errors(&mut self, _key: PoolKey, _limit: u32) -> Result<Vec<PoolError>, Error> {
        pending()
    }
    pub async fn insert_promotion(&mut self, _promotion: &Promotion) -> Result<(), Error> {
        pending()
    }
    pub async fn promotion(&mut self, _id: PromotionId) -> Result<Option<Promotion>, Error> {
        pending()
    }
    pub async fn promotions(&mut self, _environment: EnvironmentId, _page: &Page) -> Result<Listed<Promotion>, Error> {
        pending()
    }
    pub async fn stack(&mut self, _environment: EnvironmentId) -> Result<Stack, Error> {
        pending()
    }
    pub async fn last_sequence(&mut self, _environment: EnvironmentId) -> Result<u64, Error> {
        pending()
    }
    pub async fn set_applied(&mut self, _id: PromotionId, _at: Timestamp) -> Result<(), Error> {
        pending()
    }
    pub async fn insert_move(&mut self, _pending: &PendingMove) -> Result<u64, Error> {
        pending()
    }
    pub async fn pending_move(&mut self, _number: u64) -> Result<Option<PendingMove>, Error> {
        pending()
    }
    pub async fn waiting_moves(&mut self) -> Result<Vec<PendingMove>, Error> {
        pending()
    }
    pub async fn supersede_waiting(&mut self, _environment: EnvironmentId) -> Result<Vec<u64>, Error> {
        pending()
    }
    pub async fn end_move(
        &mut self,
        _number: u64,
        _state: MoveState,
        _detail: Option<String>,
        _promotion: Option<PromotionId>,
    ) -> Result<(), Error> {
        pending()
    }
    pub async fn insert_key(&mut self, _key: &ApiKey) -> Result<(), Error> {
        pending()
    }
    pub async fn key_by_hash(&mut self, _hash: &[u8]) -> Result<Option<ApiKey>, Error> {
        pending()
    }
    pub async fn has_keys(&mut self) -> Result<bool, Error> {
        pending()
    }
    pub fn note(&mut self, _what: What) {}
    pub async fn next_revision(&mut self) -> Result<Revision, Error> {
        pending()
    }
    pub async fn commit(self) -> Result<Revision, Error> {
        pending()
    }
}
