//! The ingress and the stream that feeds it, as `up` and `proxy` run them.
//!
//! Owns the order of their start and end: the last table is loaded before the
//! first request is accepted, and the stream outlives the last claim.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tracing::warn;

use crate::app::activation::Sockets;
use crate::app::bound::Bound;
use crate::app::kept::Custody;
use crate::app::{STOP_API, kept, memory, reload};
use crate::config::ServerArgs;
use crate::drain::Drain;
use crate::handover::{Estate, Passed, Place};
use crate::ingress::{self, Given};
use crate::model::id::InstanceId;
use crate::model::revision::Position;
use crate::routing::live::Live;
use crate::stream::client::{self, Link};
use crate::stream::last_known_good;
use crate::stream::last_known_good::folder::{Folder, Mark};
use crate::stream::last_known_good::keeper::Paused;
use crate::stream::metrics::ClientMetrics;
use crate::telemetry::admin::{Admin, Condition, Page};
use crate::telemetry::metrics::Metrics;

/// A folder for the table, and whether somebody else has it still.
pub(super) struct Kept {
    pub(super) folder: Folder,
    pub(super) config: last_known_good::Config,
    pub(super) is_paused: bool,
}

/// A data plane that follows the control plane and serves nobody yet.
pub(super) struct Prepared {
    ingress: ingress::Prepared,
    waiting: Option<Paused>,
    following: Following,
}

/// The data plane while it runs.
pub(super) struct DataPlane {
    pub(super) metrics: Metrics,
    /// This run, as the control plane knows it.
    pub(super) instance: InstanceId,
    ingress: Arc<ingress::Running>,
    following: Following,
}

/// What is the same before and after the first request.
struct Following {
    metrics: Metrics,
    instance: InstanceId,
    live: Arc<Live>,
    link: watch::Receiver<Link>,
    stream: ClientMetrics,
    drain: Drain,
    custody: Option<Custody>,
    /// Dropped last: until then a successor knows that this run has not ended.
    _mark: Option<Mark>,
}

impl Prepared {
    /// Waits until the control plane knows this run and has the same history,
    /// and the table is at `position` at least.
    pub(super) async fn current(&self, position: Option<Place>) -> anyhow::Result<()> {
        let is_current = |link: &Link| {
            let (Some(at), Some(head)) = (link.applied, link.head) else { return false };
            let is_behind = |place: Place| place.lineage == at.lineage && at.revision < place.revision;
            link.connected && at.lineage == head.lineage && !position.is_some_and(is_behind)
        };
        let mut link = self.following.link.clone();
        let current = link.wait_for(is_current);
        current.await.context("follow the control plane")?;
        Ok(())
    }

    /// Why it is not known there, where that is the case.
    pub(super) fn problem(&self) -> Option<String> {
        self.following.link.borrow().problem.clone()
    }

    /// Begins to serve. Answers what begins to keep the table, where somebody
    /// else has its files still.
    pub(super) fn start(self) -> anyhow::Result<(DataPlane, Option<Paused>)> {
        let Self { ingress, waiting, following } = self;
        let ingress = Arc::new(ingress.start(Arc::clone(&following.live), &following.metrics)?);
        if !ingress.tls_addresses().is_empty() {
            reload::on_hangup(&ingress)?;
        }
        let (metrics, instance) = (following.metrics.clone(), following.instance);
        Ok((DataPlane { metrics, instance, ingress, following }, waiting))
    }

    /// Leaves everything as it was found, and takes leave of the control plane.
    pub(super) async fn give_up(self) {
        drop(self.waiting);
        self.following.drain.drain(STOP_API).await;
    }
}

impl DataPlane {
    /// Loads the table that is kept on disk, where one is, and follows the
    /// control plane from there. Listens on what is `given`, for addresses of
    /// which something is; whoever connects waits for [`Prepared::start`].
    pub(super) fn prepare(
        args: &ServerArgs,
        following: client::Config,
        kept: Option<Kept>,
        given: Vec<Given>,
    ) -> anyhow::Result<Prepared> {
        let config = args.ingress();
        let (metrics, drain) = (Metrics::default(), Drain::new());
        let live = Live::new(config.cores());
        let stream = ClientMetrics::registered(&metrics);
        let client = client::Client::new(following, Arc::clone(&live), stream.clone())?;
        let mut client = client.loading_with(memory::loading);
        let (instance, link) = (client.instance_id(), client.link());
        // Before anybody is told of this run.
        let ingress = ingress::prepare(config, given)?;
        let (mut mark, mut custody, mut waiting) = (None, None, None);
        // Before the first request is accepted: none is refused for want of it.
        if let Some(Kept { folder, config, is_paused }) = kept {
            let noted = folder.note_run(instance);
            client = client.following_on(noted.ended);
            mark = noted.mark;
            if let Some(keeping) = kept::load(folder, config, is_paused, &live, &metrics)? {
                client = client.keeping(keeping.keeper);
                (custody, waiting) = (Some(keeping.custody), keeping.waiting);
            }
        }
        tokio::spawn(client.run(drain.watch()));
        let following = Following { metrics, instance, live, link, stream, drain, custody, _mark: mark };
        Ok(Prepared { ingress, waiting, following })
    }

    /// The folder, where there is one to hand over.
    pub(super) fn custody(&self) -> Option<&Custody> {
        self.following.custody.as_ref()
    }

    /// Everything a successor is given, with the pause in which its files rest.
    pub(super) async fn estate(&self, admin: &Passed) -> anyhow::Result<(Paused, Estate)> {
        let custody = self.custody().context("hand over: there is no folder")?;
        let (paused, lock) = custody.pause().await?;
        let sockets = self.ingress.share_sockets().context("share the sockets")?;
        let mut sockets: Vec<_> = sockets.into_iter().map(Sockets::passed_on).collect();
        let listener = admin.listener.try_clone().context("share the admin listener")?;
        sockets.push(Passed { name: admin.name.clone(), listener, ..*admin });
        let place = |at: Position| Place { lineage: at.lineage, revision: at.revision };
        Ok((paused, Estate { sockets, lock, position: self.following.live.position().map(place) }))
    }

    /// The folder is somebody else's.
    pub(super) fn leave_folder(&mut self) {
        self.following.custody = None;
    }

    /// What is bound elsewhere, and where requests arrive.
    pub(super) fn bound(&self, elsewhere: Bound) -> Bound {
        let (ingress, tls) = (self.ingress.addresses().to_vec(), self.ingress.tls_addresses().to_vec());
        Bound { ingress, tls, ..elsewhere }
    }

    /// What the admin listener shows of it.
    pub(super) fn shown(&self) -> Admin {
        let Following { metrics, live, .. } = &self.following;
        let loaded = Arc::clone(live);
        let table_loaded: Condition = ("routing table", Box::new(move || loaded.position().is_some()));
        Admin { metrics: metrics.clone(), ready_when: vec![table_loaded], pages: vec![self.routes()] }
    }

    /// `/routes`: what a host would resolve to, and how old the table is that says so.
    fn routes(&self) -> Page {
        let Following { live, link, stream, .. } = &self.following;
        let (live, link, stream) = (Arc::clone(live), link.clone(), stream.clone());
        let show = move |query: &[(String, String)]| {
            let (status, mut told) = ingress::routes::explain(&live, query);
            let link = link.borrow();
            let now = jiff::Timestamp::now().as_second();
            let table = serde_json::json!({
                "revision": told.remove("revision"),
                "head_revision": link.head.map(|at| at.revision.0),
                "connected": link.connected,
                "heard_seconds_ago": stream.heard_at().map(|at| now.saturating_sub(at).max(0)),
            });
            told.insert("table".to_owned(), table);
            (status, serde_json::Value::Object(told))
        };
        ("/routes", Box::new(show))
    }

    /// Waits for the first table: before it is there, requests are answered 503.
    pub(super) async fn first_table(&self) -> anyhow::Result<()> {
        let mut link = self.following.link.clone();
        link.wait_for(|link| link.applied.is_some()).await.context("follow the control plane")?;
        Ok(())
    }

    /// Finishes what runs, for `timeout` at most.
    pub(super) async fn drain(self, timeout: Duration) {
        told(self.ingress.drain(timeout).await);
        self.following.drain.drain(STOP_API).await;
    }

    /// The same once a successor serves: for `limit` at most, where there is one,
    /// and from when it is `asked` to stop for `timeout` at most.
    pub(super) async fn hand_over(self, limit: Option<Duration>, asked: impl Future<Output = ()>, timeout: Duration) {
        let cut = tokio::select! {
            cut = self.ingress.hand_over(limit.unwrap_or(Duration::MAX)) => cut,
            () = asked => self.ingress.drain(timeout).await,
        };
        told(cut);
        self.following.drain.drain(STOP_API).await;
    }
}

fn told(cut: usize) {
    if cut > 0 {
        warn!(cut, "cut requests that were still running at the deadline");
    }
}
