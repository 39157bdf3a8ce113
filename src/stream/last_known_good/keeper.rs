//! Beside the stream: hands what was applied to a thread that waits for the disk.
//!
//! Owns the queue between them and the thread. The reader of the stream never
//! waits here: a slow disk delays `durable` and nothing else (rule 8 of the
//! control stream), and a dead one costs `Config::queue_bytes_max`, after which the
//! queue is let go and a whole table asked for once the disk takes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::info;

use crate::model::revision::Position;
use crate::routing::live::Live;
use crate::stream::last_known_good::Config;
use crate::stream::last_known_good::disk::Disk;
use crate::stream::last_known_good::metrics::DiskMetrics;
use crate::stream::last_known_good::queue::{Pause, Shared};
use crate::stream::last_known_good::recovery::{Loaded, recover};
use crate::stream::last_known_good::worker::Worker;
use crate::stream::last_known_good::writer::{Item, Writer};
use crate::wire::response::{Response, SnapshotChunk};

/// The stream's side of what keeps the table on disk.
pub struct Keeper {
    shared: Arc<Shared>,
    durable: watch::Receiver<Option<Position>>,
    heard: Mutex<Heard>,
    loaded: Option<Loaded>,
}

/// What was heard and is not applied yet.
#[derive(Default)]
enum Heard {
    #[default]
    Nothing,
    /// The parts of a snapshot so far. The session refuses one that is too large.
    Parts(Vec<SnapshotChunk>),
    Item(Item),
}

/// What can pause a [`Keeper`], whoever has that.
#[derive(Clone)]
pub struct Pausing(Arc<Shared>);

/// The files are not touched while this is there: somebody else may read them,
/// and with [`Paused::give_up`] have them. What is applied meanwhile waits.
/// Dropped without a word it leaves them to whoever had them before.
pub struct Paused {
    shared: Arc<Shared>,
    are_ours: bool,
}

/// The disk does not take what was applied. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
#[error("put the table on disk within {} s: the disk is slow", PAUSE_TIMEOUT.as_secs())]
pub struct StillWriting;

/// Time to put the last changes on disk when stopping: some syncs of a busy disk.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a pause to begin: a checkpoint of a million environments may
/// be under way.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

impl Keeper {
    /// Loads the newest valid table into `live`, which must be without one, and
    /// starts the thread that keeps it from now on.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(
        disk: impl Disk + 'static,
        config: Config,
        live: &Live,
        metrics: DiskMetrics,
    ) -> Result<Self, std::io::Error> {
        Self::begin(disk, config, live, metrics, Pause::Over)
    }

    /// The same, for files that somebody else has still: they are only read
    /// before the pause is over.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start_paused(
        disk: impl Disk + 'static,
        config: Config,
        live: &Live,
        metrics: DiskMetrics,
    ) -> Result<(Self, Paused), std::io::Error> {
        let keeper = Self::begin(disk, config, live, metrics, Pause::Begun)?;
        let paused = Paused { shared: Arc::clone(&keeper.shared), are_ours: false };
        Ok((keeper, paused))
    }

    fn begin(
        disk: impl Disk + 'static,
        config: Config,
        live: &Live,
        metrics: DiskMetrics,
        pause: Pause,
    ) -> Result<Self, std::io::Error> {
        let (keeper, worker) = Self::prepare(disk, config, live, metrics, pause);
        thread::Builder::new().name("last-known-good".into()).spawn(move || worker.run())?;
        Ok(keeper)
    }

    /// The same without the thread: whoever asks gives the worker its turns.
    #[cfg(test)]
    pub fn start_driven<D: Disk + 'static>(
        disk: D,
        config: Config,
        live: &Live,
        metrics: DiskMetrics,
    ) -> (Self, Worker<D>) {
        Self::prepare(disk, config, live, metrics, Pause::Over)
    }

    fn prepare<D: Disk + 'static>(
        disk: D,
        config: Config,
        live: &Live,
        metrics: DiskMetrics,
        pause: Pause,
    ) -> (Self, Worker<D>) {
        let begun = std::time::Instant::now();
        let found = recover(&disk, live);
        metrics.load_seconds.set(begun.elapsed().as_secs_f64());
        if let Some(loaded) = &found.loaded {
            info!(
                revision = %loaded.position.revision, lineage = %loaded.position.lineage,
                took_ms = begun.elapsed().as_millis(), unchanged_for_s = age(loaded).as_secs(),
                "serving the table kept on disk, which may be stale until the control plane is heard"
            );
        }
        let shared = Arc::new(Shared::new(config.queue_bytes_max, pause));
        let (said, durable) = watch::channel(None);
        let writer = Writer::new(disk, &found);
        let worker = Worker::new(writer, Arc::clone(&shared), config, said, metrics);
        (Self { shared, durable, heard: Mutex::default(), loaded: found.loaded }, worker)
    }

    /// What can pause it, once it is the client's.
    pub fn pausing(&self) -> Pausing {
        Pausing(Arc::clone(&self.shared))
    }

    /// Whether nothing is kept any more: the files are somebody else's.
    pub fn is_given_up(&self) -> bool {
        self.shared.queue().is_closed
    }

    /// What the table was loaded from, if it was.
    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.as_ref()
    }

    /// A message came. It counts once [`Keeper::applied`] says so.
    pub fn heard(&self, message: &Response) {
        let mut heard = self.heard_now();
        *heard = match (message, std::mem::take(&mut *heard)) {
            (Response::Delta(delta), _) => Heard::Item(Item::Delta(delta.clone())),
            (Response::SnapshotChunk(chunk), before) => {
                let mut parts = match before {
                    Heard::Parts(parts) if chunk.index > 0 => parts,
                    _ => Vec::new(),
                };
                parts.push(chunk.clone());
                // Whether they follow each other is for the session to say: what
                // does not is never applied, and so never kept.
                if chunk.last { Heard::Item(Item::Snapshot(parts)) } else { Heard::Parts(parts) }
            }
            (_, before) => before,
        };
    }

    /// What was heard is published (invariant 6: only then it goes to disk).
    pub fn applied(&self) {
        if let Heard::Item(item) = std::mem::take(&mut *self.heard_now()) {
            self.shared.push(item);
        }
    }

    /// The stream has ended: what was not applied by then never will be.
    pub fn forget(&self) {
        *self.heard_now() = Heard::Nothing;
    }

    /// Where a restart would begin.
    pub fn durable(&self) -> Option<Position> {
        *self.durable.borrow()
    }

    /// Says when [`Keeper::durable`] or [`Keeper::wants_snapshot`] may have changed.
    pub fn watch(&self) -> watch::Receiver<Option<Position>> {
        self.durable.clone()
    }

    /// Whether only a whole table can bring the disk up to date.
    pub fn wants_snapshot(&self) -> bool {
        self.shared.queue().wants_snapshot
    }

    /// The same, once for every time it begins to be wanted.
    pub fn take_wants_snapshot(&self) -> bool {
        std::mem::take(&mut self.shared.queue().wants_snapshot)
    }

    /// Waits until what was applied is on disk, or has failed to get there, for
    /// a moment at most; nothing is kept from then on.
    pub async fn close(self) {
        self.shared.close();
        let mut durable = self.durable.clone();
        // The thread's end drops the sender.
        let ended = async { while durable.changed().await.is_ok() {} };
        if timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            tracing::warn!("the disk is slow: a restart may begin with an older table");
        }
    }

    fn heard_now(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pausing {
    /// Returns when everything that was applied is on disk, or the disk refuses
    /// it, and the files are left alone.
    ///
    /// # Errors
    ///
    /// When the disk takes too long; the keeper goes on then.
    pub async fn pause(&self) -> Result<Paused, StillWriting> {
        let paused = Paused { shared: Arc::clone(&self.0), are_ours: true };
        self.0.pause(Pause::Asked);
        let mut rests = self.0.rests();
        match timeout(PAUSE_TIMEOUT, rests.wait_for(|rests| *rests)).await {
            Ok(Ok(_)) => Ok(paused),
            // Dropping it ends what has not begun.
            Ok(Err(_)) | Err(_) => Err(StillWriting),
        }
    }
}

impl Paused {
    /// Goes on with the files, which nobody else has any more.
    pub fn resume(mut self) {
        self.are_ours = true;
    }

    /// Leaves the files to somebody else, for good.
    pub fn give_up(mut self) {
        self.are_ours = false;
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if self.are_ours { self.shared.pause(Pause::Over) } else { self.shared.close() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// How long ago the loaded table last changed.
fn age(loaded: &Loaded) -> Duration {
    loaded.changed_at.and_then(|at| at.elapsed().ok()).unwrap_or_default()
}
