//! SIGHUP: reading certificates again at once.
//!
//! Taken only where there are certificates. Elsewhere the signal does what it
//! always did: end a server whose terminal is gone.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::ingress::Running;

/// Reads them again whenever SIGHUP comes, for as long as the ingress is there.
pub(super) fn on_hangup(ingress: &Arc<Running>) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let ingress = Arc::downgrade(ingress);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let Some(ingress) = ingress.upgrade() else { return };
            info!("SIGHUP: reading certificates again");
            ingress.reload_certificates();
        }
    });
    Ok(())
}
