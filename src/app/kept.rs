//! Where a proxy keeps its table and its name, and whether it does.
//!
//! Owns the choice of the folder and what is said when there is none: a proxy
//! without one works, and starts with nothing. `app` calls it for `repoint proxy`
//! only; in `up` the store next door is the truth.

use anyhow::Context as _;
use tracing::{info, warn};

use crate::config::ServerArgs;
use crate::routing::live::Live;
use crate::stream::last_known_good::Config;
use crate::stream::last_known_good::folder::{Error, Folder};
use crate::stream::last_known_good::keeper::Keeper;
use crate::stream::last_known_good::metrics::DiskMetrics;
use crate::telemetry::metrics::Metrics;

/// Beside what a control plane on the same machine keeps in the same directory,
/// with a lock of its own.
const FOLDER: &str = "proxy";

/// The folder in the data directory, owned; `None` where that cannot be used,
/// which is said.
pub(super) fn folder(args: &ServerArgs) -> anyhow::Result<Option<Folder>> {
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

/// Loads what is kept into `live`, and keeps on.
pub(super) fn load(folder: Folder, config: Config, live: &Live, metrics: &Metrics) -> anyhow::Result<Option<Keeper>> {
    let (path, is_writable) = (folder.path().to_owned(), folder.is_writable());
    let keeper = Keeper::start(folder, config, live, DiskMetrics::registered(metrics));
    let keeper = keeper.context("start the thread that keeps the table on disk")?;
    // A table that can only be read is served all the same. It will be found
    // again after a restart, so the control plane hears that it is kept, and
    // never that anything newer is durable.
    if !is_writable && keeper.loaded().is_none() {
        not_kept(&format!("{} cannot be written to; give another --data-dir", path.display()));
        return Ok(None);
    }
    info!(folder = %path.display(), "the routing table is kept on disk");
    Ok(Some(keeper))
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
