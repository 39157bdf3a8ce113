//! Where a proxy keeps its table and its name, and whether it does.
//!
//! Owns the choice of the folder and what is said when there is none: a proxy
//! without one works, and starts with nothing. `app` calls it for `repoint proxy`
//! only; in `up` the store next door is the truth.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tracing::{info, warn};

use crate::app::memory;
use crate::config::ServerArgs;
use crate::routing::live::Live;
use crate::stream::last_known_good::Config;
use crate::stream::last_known_good::folder::{self, Error, Folder};
use crate::stream::last_known_good::keeper::{Keeper, Paused, Pausing};
use crate::stream::last_known_good::metrics::DiskMetrics;
use crate::telemetry::metrics::Metrics;

/// Beside what a control plane on the same machine keeps in the same directory,
/// with a lock of its own.
const FOLDER: &str = "proxy";

/// A table that is kept on disk, beside the client that keeps it.
pub(super) struct Keeping {
    pub(super) keeper: Keeper,
    /// What a successor would be given.
    pub(super) custody: Custody,
    /// Begins to keep, where somebody else has the files still.
    pub(super) waiting: Option<Paused>,
}

/// The folder, as long as it is ours to hand over.
pub(super) struct Custody {
    path: PathBuf,
    lock: File,
    pausing: Pausing,
}

impl Custody {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For whoever finds it locked; nobody relies on it.
    pub(super) fn sign(&self) {
        let _ = folder::sign(&self.lock);
    }

    /// Leaves the files as they are from now on, and answers the lock on them.
    pub(super) async fn pause(&self) -> anyhow::Result<(Paused, File)> {
        let lock = self.lock.try_clone().context("share the lock on the folder")?;
        Ok((self.pausing.pause().await?, lock))
    }
}

/// Where the folder is.
pub(super) fn path(args: &ServerArgs) -> anyhow::Result<PathBuf> {
    Ok(args.data_dir()?.join(FOLDER))
}

/// The folder in the data directory, owned; `None` where that cannot be used,
/// which is said.
pub(super) fn owned(args: &ServerArgs) -> anyhow::Result<Option<Folder>> {
    let data_dir = match args.data_dir() {
        Ok(data_dir) => data_dir,
        Err(error) => {
            not_kept(&error.to_string());
            return Ok(None);
        }
    };
    match Folder::own(&data_dir.join(FOLDER)) {
        Ok(folder) => Ok(Some(folder)),
        Err(error @ Error::Owned { .. }) => Err(error.into()),
        Err(error @ Error::Unusable { .. }) => {
            not_kept(&error.to_string());
            Ok(None)
        }
    }
}

/// Loads what is kept into `live`, and keeps on: at once, or when `is_paused` is over.
pub(super) fn load(
    folder: Folder,
    config: Config,
    is_paused: bool,
    live: &Live,
    metrics: &Metrics,
) -> anyhow::Result<Option<Keeping>> {
    let (path, is_writable) = (folder.path().to_owned(), folder.is_writable());
    let lock = folder.share_lock().context("share the lock on the folder")?;
    let metrics = DiskMetrics::registered(metrics);
    let start = || {
        if is_paused {
            Keeper::start_paused(folder, config, live, metrics).map(|(keeper, waiting)| (keeper, Some(waiting)))
        } else {
            Keeper::start(folder, config, live, metrics).map(|keeper| (keeper, None))
        }
    };
    let (mut start, mut started) = (Some(start), None);
    memory::loading(&mut || started = start.take().map(|start| start()));
    let started = started.context("load the table that is kept on disk")?;
    let (keeper, waiting) = started.context("start the thread that keeps the table on disk")?;
    // A table that can only be read is served all the same. It will be found
    // again after a restart, so the control plane hears that it is kept, and
    // never that anything newer is durable.
    if !is_writable && keeper.loaded().is_none() {
        not_kept(&format!("{} cannot be written to; give another --data-dir", path.display()));
        return Ok(None);
    }
    info!(folder = %path.display(), "the routing table is kept on disk");
    let custody = Custody { path, lock, pausing: keeper.pausing() };
    Ok(Some(Keeping { keeper, custody, waiting }))
}

/// The proxy's name: as given, else as it was last time, else the host's name
/// and the ingress's port.
pub(super) fn proxy_id(folder: Option<&Folder>, given: Option<&str>, args: &ServerArgs) -> String {
    let default = || {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        match args.ingress().listen.first().map_or(0, std::net::SocketAddr::port) {
            0 => host,
            port => format!("{host}-{port}"),
        }
    };
    match folder {
        Some(folder) => folder.proxy_id(given, default),
        None => given.map_or_else(default, str::to_owned),
    }
}

fn not_kept(reason: &str) {
    warn!(
        reason,
        "no routing table is kept on disk: after a restart this proxy serves nothing before it has reached the \
         control plane"
    );
}
