//! What replicas print, kept within a disk budget and followed by those who ask.
//!
//! Layout: `{root}/{environment}/{deployment}/{replica}/` holds `current` and
//! `previous`, two halves of the replica's budget: when one is full it takes the
//! place of the other. The last replicas of a pool are kept. `worker` writes,
//! `control` reads; both hold the same [`LogFolder`]. Knows nothing of processes
//! or requests.

pub mod follow;
pub mod line;
pub mod read;
pub mod write;

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::id::EndpointId;
use crate::model::pool::PoolKey;

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Bytes on disk for one replica, both halves together.
    pub replica_bytes_max: u64,
    /// Replicas of one pool whose output is kept; those that run are kept in any case.
    pub replicas_kept: usize,
}

impl Default for Config {
    /// 16 MiB hold some hundred thousand lines; ten replicas show a crash loop from its beginning to its delay's end.
    fn default() -> Self {
        Self { replica_bytes_max: 16 << 20, replicas_kept: 10 }
    }
}

/// The output of every replica.
#[derive(Clone, Debug)]
pub struct LogFolder {
    root: PathBuf,
    config: Config,
    /// Replicas that are written now; never removed to make room.
    live: Arc<Mutex<HashSet<EndpointId>>>,
}

impl LogFolder {
    /// Opens the folder, making it where it is missing.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn open(root: impl Into<PathBuf>, config: Config) -> io::Result<Self> {
        let root = root.into();
        make(&root)?;
        Ok(Self { root, config, live: Arc::default() })
    }

    /// Every pool that has output.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn pools(&self) -> io::Result<Vec<PoolKey>> {
        let mut pools = Vec::new();
        for environment in names(&self.root)? {
            let deployments = names(&self.root.join(&environment))?;
            let Ok(environment) = environment.parse() else { continue };
            let deployments = deployments.iter().filter_map(|name| name.parse().ok());
            pools.extend(deployments.map(|deployment| PoolKey { environment, deployment }));
        }
        Ok(pools)
    }

    /// The replicas of a pool that have output, oldest first.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn replicas(&self, pool: PoolKey) -> io::Result<Vec<EndpointId>> {
        let mut replicas: Vec<EndpointId> =
            names(&self.pool_path(pool))?.iter().filter_map(|name| name.parse().ok()).collect();
        // Ids are UUIDv7: their order is the order of creation.
        replicas.sort();
        Ok(replicas)
    }

    /// Forgets what a pool's replicas printed.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn remove(&self, pool: PoolKey) -> io::Result<()> {
        let path = self.pool_path(pool);
        absent_is_fine(fs::remove_dir_all(&path))?;
        // The environment's folder goes with its last pool; while it holds another one this fails, as it should.
        let _ = path.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Makes room for another replica of a pool.
    fn prune(&self, pool: PoolKey) -> io::Result<()> {
        let replicas = self.replicas(pool)?;
        let surplus = (replicas.len() + 1).saturating_sub(self.config.replicas_kept);
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for replica in replicas.iter().filter(|replica| !live.contains(replica)).take(surplus) {
            absent_is_fine(fs::remove_dir_all(self.replica_path(pool, *replica)))?;
        }
        Ok(())
    }

    fn pool_path(&self, pool: PoolKey) -> PathBuf {
        self.root.join(pool.environment.to_string()).join(pool.deployment.to_string())
    }

    fn replica_path(&self, pool: PoolKey, replica: EndpointId) -> PathBuf {
        self.pool_path(pool).join(replica.to_string())
    }
}

/// Makes a folder for our own eyes: output may hold what a worker should not have printed.
fn make(path: &std::path::Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Names in a folder; none if it is not there.
fn names(folder: &std::path::Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
