//! When a server is to stop, and how often it was asked.
//!
//! Owns the signals. What stopping means is the caller's.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::app::notify;

/// Ctrl-C and SIGTERM.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on. One that comes before it is waited for is not lost.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for Ctrl-C")?,
        })
    }

    /// Waits for the first one. From then on a further one ends the process at
    /// once. Workers are not left behind: their guard ends them when it sees the
    /// supervisor gone.
    pub(super) async fn requested(&mut self) {
        self.next().await;
        notify::stopping();
        info!("stopping: running requests may finish; ask again to stop at once");
        tokio::spawn(async {
            if let Ok(mut further) = Self::listen() {
                further.next().await;
                warn!("stopping at once");
                std::process::exit(130);
            }
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
