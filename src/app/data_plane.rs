//! The ingress and the stream that feeds it, as `up` and `proxy` run them.
//!
//! Owns the order of their start and end: the last table is loaded before the
//! first request is accepted, and the stream outlives the last claim.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tracing::warn;

use crate::app::bound::Bound;
use crate::app::{STOP_API, kept};
use crate::config::ServerArgs;
use crate::drain::Drain;
use crate::ingress::{self, Given};
use crate::model::id::InstanceId;
use crate::routing::live::Live;
use crate::stream::client::{self, Link};
use crate::stream::last_known_good;
use crate::stream::last_known_good::folder::{Folder, Mark};
use crate::stream::metrics::ClientMetrics;
use crate::telemetry::admin::Condition;
use crate::telemetry::metrics::Metrics;

/// The data plane while it runs.
pub(super) struct DataPlane {
    pub(super) metrics: Metrics,
    /// This run, as the control plane knows it.
    pub(super) instance: InstanceId,
    ingress: ingress::Running,
    live: Arc<Live>,
    link: watch::Receiver<Link>,
    drain: Drain,
    /// Dropped last: until then a successor knows that this run has not ended.
    _mark: Option<Mark>,
}

impl DataPlane {
    /// Serves from the table that is kept on disk, where one is, and follows the
    /// control plane from there. Listens on what is `given`, for addresses of
    /// which something is.
    pub(super) fn start(
        args: &ServerArgs,
        following: client::Config,
        kept: Option<(Folder, last_known_good::Config)>,
        given: Vec<Given>,
    ) -> anyhow::Result<Self> {
        let config = args.ingress();
        let (metrics, drain) = (Metrics::default(), Drain::new());
        let live = Live::new(config.cores());
        // Before the first request is accepted: none is refused for want of it.
        let mut client = client::Client::new(following, Arc::clone(&live), ClientMetrics::registered(&metrics))?;
        let (instance, link) = (client.instance_id(), client.link());
        let mut mark = None;
        if let Some((folder, config)) = kept {
            let noted = folder.note_run(instance);
            client = client.following_on(noted.ended);
            mark = noted.mark;
            if let Some(keeper) = kept::load(folder, config, &live, &metrics)? {
                client = client.keeping(keeper);
            }
        }
        let ingress = ingress::prepare(config, given)?.start(Arc::clone(&live), &metrics)?;
        tokio::spawn(client.run(drain.watch()));
        Ok(Self { metrics, instance, ingress, live, link, drain, _mark: mark })
    }

    /// What is bound elsewhere, and where requests arrive.
    pub(super) fn bound(&self, elsewhere: Bound) -> Bound {
        let (ingress, tls) = (self.ingress.addresses().to_vec(), self.ingress.tls_addresses().to_vec());
        Bound { ingress, tls, ..elsewhere }
    }

    pub(super) fn table_loaded(&self) -> Condition {
        let live = Arc::clone(&self.live);
        ("routing table", Box::new(move || live.position().is_some()))
    }

    /// Waits for the first table: before it is there, requests are answered 503.
    pub(super) async fn first_table(&self) -> anyhow::Result<()> {
        let mut link = self.link.clone();
        link.wait_for(|link| link.applied.is_some()).await.context("follow the control plane")?;
        Ok(())
    }

    pub(super) async fn drain(self, timeout: Duration) {
        let cut = self.ingress.drain(timeout).await;
        if cut > 0 {
            warn!(cut, "cut requests that were still running at the deadline");
        }
        self.drain.drain(STOP_API).await;
    }
}
