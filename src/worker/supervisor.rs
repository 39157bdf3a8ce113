//! The supervisor's loop: look, plan, act, write down, wait.
//!
//! Owns what was seen and is alone in changing it. Rules are in `plan`, steps in
//! `carry`, rows in `record`; here is their order. A commit says which pools it
//! touched and only those are read again; falling behind, and every ten minutes,
//! it reads everything, so that no mistake about that lasts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::bundle::digest::Digest;
use crate::fleet::Fleet;
use crate::logs::LogFolder;
use crate::model::pool::{PoolError, PoolKey};
use crate::replica_tls::{self, ReplicaTls};
use crate::store::{self, Store, Work, WorkWatch};
use crate::telemetry::metrics::Metrics as Registry;

use super::Config;
use super::desired::Desired;
use super::endpoints::Outside;
use super::event::Event;
use super::interest::Interest;
use super::launch::{Launcher, folder};
use super::metrics::Metrics;
use super::observed::{Observed, Phase};
use super::plan::{next_look, plan};
use super::probe::Target;
use super::watching::{Prober, Watching};

/// Why the supervisor could not start. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used.
    #[error("prepare {path} for workers: {source}; make room or correct its mode")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody could vouch for an endpoint.
    #[error(transparent)]
    ReplicaCa(#[from] replica_tls::Error),
    /// The store failed.
    #[error("read which pools are wanted")]
    Store(#[from] store::Error),
}

/// After the store failed, it is asked again so soon.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Everything is read again after so long, called for or not.
const LOAD_ALL_EVERY: Duration = Duration::from_secs(600);
/// Rounds of planning without waiting. Each makes progress; the limit only keeps a mistake from spinning.
const ROUNDS_MAX: usize = 16;
/// Pools of others that are looked at, and written, in one turn: one address may serve a hundred thousand environments,
/// and news of it must not hold up what runs here, nor the store, for long.
const OUTSIDE_MAX: usize = 500;

/// Runs what the store wants.
pub struct Supervisor {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) fleet: Fleet,
    pub(super) logs: LogFolder,
    pub(super) launcher: Launcher,
    pub(super) told: mpsc::UnboundedSender<Event>,
    hears: mpsc::UnboundedReceiver<Event>,
    pub(super) prober: Prober,
    metrics: Metrics,
    pub(super) probing: Watching<Target>,
    pub(super) resolving: Watching<String>,
    /// Which pools have which target, and which name.
    pub(super) targets: Interest<Target>,
    pub(super) names: Interest<String>,
    pub(super) desired: Desired,
    pub(super) observed: Observed,
    pub(super) outside: Outside,
    /// What was told about endpoint pools in trouble, to tell it once.
    pub(super) troubles: HashMap<PoolKey, String>,
    /// Errors waiting to be written.
    pub(super) faults: Vec<(PoolKey, PoolError)>,
    pub(super) unpacked: HashMap<Digest, PathBuf>,
    /// Asked to stop: whoever runs at that time is killed.
    stop: watch::Receiver<Option<Instant>>,
}

/// A supervisor at work.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<Option<Instant>>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts it. Replicas of an earlier run are gone, because its guard ended them; before anything else their
    /// endpoints are taken out of the store, so that nothing is sent to whoever has their ports now.
    ///
    /// # Errors
    ///
    /// When the data directory, the store, or a file of authorities fails.
    pub async fn start(
        config: Config,
        store: Store,
        fleet: Fleet,
        logs: LogFolder,
        registry: &Registry,
    ) -> Result<Running, Error> {
        let unpacked = config.data_dir.join("unpacked");
        let unusable = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| Error::Folder { path, source }
        };
        folder(&unpacked, 0o711).map_err(unusable(&unpacked))?;
        crate::bundle::unpack::sweep(&unpacked).map_err(unusable(&unpacked))?;
        let replica_tls = ReplicaTls::new(&config.replica_ca)?;
        let (told, hears) = mpsc::unbounded_channel();
        let launcher = Launcher::new(&config, logs.clone(), told.clone()).map_err(unusable(&config.data_dir))?;
        let (stop, stopped) = watch::channel(None);
        let mut supervisor = Self {
            metrics: Metrics::register(registry),
            prober: Prober::new(config.probe, replica_tls, told.clone()),
            config,
            store,
            fleet,
            logs,
            launcher,
            told,
            hears,
            probing: Watching::new(),
            resolving: Watching::new(),
            targets: Interest::new(),
            names: Interest::new(),
            desired: Desired::default(),
            observed: Observed::default(),
            outside: Outside::default(),
            troubles: HashMap::new(),
            faults: Vec::new(),
            unpacked: HashMap::new(),
            stop: stopped,
        };
        // From before the first read: what is committed after it is told.
        let work = supervisor.store.watch_work();
        supervisor.take_over().await?;
        Ok(Running { stop, task: tokio::spawn(supervisor.run(work)) })
    }

    async fn run(mut self, mut work: WorkWatch) {
        let mut fleet = self.fleet.watch();
        let (mut stale, mut load_all) = (Work::default(), Instant::now() + LOAD_ALL_EVERY);
        loop {
            stale.merge(&work.take());
            if load_all <= Instant::now() {
                stale = Work::Everything;
            }
            fleet.mark_unchanged();
            let next = match self.turn(&stale).await {
                Ok(next) => {
                    if stale == Work::Everything {
                        load_all = Instant::now() + LOAD_ALL_EVERY;
                    }
                    stale = Work::default();
                    Some(next.map_or(load_all, |next| next.min(load_all)))
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "the supervisor cannot use the store and tries again");
                    Some(Instant::now() + STORE_RETRY)
                }
            };
            if self.is_stopping() && self.observed.pools.values().all(|pool| pool.replicas.is_empty()) {
                break;
            }
            let pause = next.map_or(Duration::MAX, |next| next.saturating_duration_since(Instant::now()));
            tokio::select! {
                // `self` holds a sender, so there always is a next one.
                Some(event) = self.hears.recv() => self.take_in_all(event),
                // The store and the fleet are held by `self`, so their bells cannot close.
                Some(touched) = work.changed() => stale.merge(&touched),
                Ok(()) = fleet.changed() => {}
                // It closes when `Running` is dropped, which lets the supervisor run on.
                Ok(()) = self.stop.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.launcher.finish().await;
    }

    /// One turn; answers when the next one is due by the passing of time.
    async fn turn(&mut self, stale: &Work) -> Result<Option<Instant>, store::Error> {
        if self.is_stopping() {
            // Nothing is wanted any more. The rows stay as they are.
            self.desired.clear();
        } else {
            self.load(stale).await?;
        }
        let planned = self.act().await?;
        self.metrics.stops_blocked.set(i64::try_from(self.observed.blocked_count()).unwrap_or(i64::MAX));
        let due = self.desired.due(OUTSIDE_MAX);
        self.note_troubles(&due);
        self.write_down(&due).await?;
        self.watch_outside(&due);
        if self.desired.looked_at(&due) {
            return Ok(Some(planned));
        }
        // From the time that was planned for: what fell due since then is overdue, not over.
        Ok(next_look(&self.desired.planned, &self.observed, planned))
    }

    /// Plans and acts until there is nothing left to do. Answers the time of the last plan.
    async fn act(&mut self) -> Result<Instant, store::Error> {
        let mut planned = Instant::now();
        for _ in 0..ROUNDS_MAX {
            planned = Instant::now();
            self.look_at_proofs();
            let actions = plan(&self.desired.planned, &self.observed, planned);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.carry_out(action).await?;
            }
            self.hurry();
        }
        Ok(planned)
    }

    fn take_in_all(&mut self, first: Event) {
        self.take_in(first);
        while let Ok(event) = self.hears.try_recv() {
            self.take_in(event);
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Stopping in a hurry: nobody's grace reaches beyond the time that was given.
    fn hurry(&mut self) {
        let Some(deadline) = *self.stop.borrow() else { return };
        for replica in self.observed.pools.values_mut().flat_map(|seen| seen.replicas.values_mut()) {
            if let Phase::Stopping { kill_after, .. } = &mut replica.phase {
                *kill_after = deadline.min(*kill_after);
            }
        }
    }
}

impl Running {
    /// Asks every replica to end, and ends those that still run after `limit`. Rows stay as they are, so that the next
    /// start begins where this one ended. Calling it again shortens the time: zero insists.
    pub fn ask(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.stop.send_modify(|stop| *stop = Some(stop.map_or(deadline, |earlier| earlier.min(deadline))));
    }

    /// Waits until every replica has ended.
    pub async fn stopped(self) {
        // A panic in the supervisor has closed the guard's pipe, so replicas end in that case too.
        let _ = self.task.await;
    }

    /// Asks, and waits.
    pub async fn stop(self, limit: Duration) {
        self.ask(limit);
        self.stopped().await;
    }
}
