//! When a server is to stop, and how often it was asked.
//!
//! Owns the signals. What stopping means is the caller's.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::app::notify;

/// Waits for Ctrl-C or SIGTERM. From then on a further signal ends the process
/// at once. Workers are not left behind: their guard ends them when it sees the
/// supervisor gone.
pub(super) async fn requested() -> anyhow::Result<()> {
    signalled().await?;
    notify::stopping();
    info!("stopping: running requests may finish; ask again to stop at once");
    tokio::spawn(async {
        if signalled().await.is_ok() {
            warn!("stopping at once");
            std::process::exit(130);
        }
    });
    Ok(())
}

async fn signalled() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
