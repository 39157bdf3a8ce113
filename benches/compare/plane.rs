//! A control plane in this process: the real server of the control stream over a log in memory.
//!
//! One frame is on its way at a time, and what commits meanwhile goes in the next, because the server is the one that
//! ships. Instead of the store there is a log that can be filled with a million environments in a moment, and that
//! commits a move of a pointer whenever it is due. It runs on the load's core.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use repoint::drain::Drain;
use repoint::fleet::{self, Fleet};
use repoint::model::revision::{Position, Revision};
use repoint::store::{Changes, Error, LoggedChange, MembersChange, Snapshot};
use repoint::stream::metrics::ServerMetrics;
use repoint::stream::server;
use repoint::stream::source::Source;
use repoint::stream::token::Token;
use repoint::wire::assemble_change_set;
use tempfile::TempDir;
use tokio::sync::watch;
use uuid::Uuid;

use crate::pointers::Pointers;
use crate::records::Records;
use crate::support::until;

/// Changes that the log keeps; a proxy of this machine is never so far behind.
const CHANGES_MAX: usize = 10_000;
/// 1,000 moves a second.
const BETWEEN_MOVES: Duration = Duration::from_millis(1);

/// A running control plane; dropped, it ends.
pub struct Plane {
    pub address: SocketAddr,
    pub pointers: Arc<Pointers>,
    log: Log,
    fleet: Fleet,
    folder: TempDir,
    _drain: Drain,
}

impl Plane {
    /// Serves these environments.
    pub fn start(records: Records) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("start a control plane: {error}");
        let folder = tempfile::tempdir().map_err(failed)?;
        let token = Token::from_bytes([7; 32]);
        std::fs::write(folder.path().join("stream.token"), token.reveal()).map_err(failed)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // Nobody but the proxies of this run may have been there before.
        let fleet = Fleet::new(fleet::Config { settle: Duration::ZERO, ..fleet::Config::default() });
        let pointers = Arc::new(Pointers::new(records.environments()));
        let log = Log::new(records, Arc::clone(&pointers));
        let drain = Drain::new();
        let plane = Self { address, pointers, log, fleet, folder, _drain: drain };
        let (log, fleet, pointers) = (plane.log.clone(), plane.fleet.clone(), Arc::clone(&plane.pointers));
        let stop = plane._drain.watch();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket of ours");
                tokio::spawn(log.clone().move_when_asked());
                tokio::spawn(follow(fleet.clone(), pointers));
                let config = server::Config::new(token);
                let served = server::serve(listener, log, fleet, config, ServerMetrics::default(), stop).await;
                served.expect("a control plane of ours");
            });
        });
        Ok(plane)
    }

    /// The file with the token that proxies show.
    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("stream.token")
    }

    /// Whether pointers move from now on. When they stop, waits until the proxy has caught up.
    pub fn set_moving(&self, moving: bool) {
        self.log.0.moving.store(moving, Ordering::SeqCst);
        if !moving {
            self.wait_applied();
        }
    }

    /// Waits until a proxy serves what there is.
    pub fn wait_applied(&self) {
        until("a proxy to apply the newest revision", || {
            (self.pointers.applied() >= self.log.head().revision.0).then_some(())
        });
    }

    /// Waits until it also has it on disk, so that writing it falls into no round.
    pub fn wait_durable(&self) {
        until("a proxy to keep the newest revision", || {
            let head = self.log.head().revision;
            let proxies = self.fleet.proxies();
            (!proxies.is_empty() && proxies.iter().all(|proxy| proxy.durable_revision >= Some(head))).then_some(())
        });
    }

    /// Moves and frames so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.log.head().revision.0, self.log.0.frames.load(Ordering::SeqCst))
    }
}

/// Notes what the proxy has acknowledged.
async fn follow(fleet: Fleet, pointers: Arc<Pointers>) {
    let mut changed = fleet.watch();
    while changed.changed().await.is_ok() {
        let applied = fleet.proxies().iter().filter_map(|proxy| proxy.applied_revision).min();
        pointers.acknowledged(applied.map_or(0, |revision| revision.0));
    }
}

/// The log. Cloning shares.
#[derive(Clone)]
struct Log(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    head: watch::Sender<Position>,
    pointers: Arc<Pointers>,
    moving: AtomicBool,
    /// Times that the server took changes to send.
    frames: AtomicU64,
}

struct Inner {
    records: Records,
    changes: VecDeque<LoggedChange>,
    floor: Revision,
}

impl Log {
    fn new(records: Records, pointers: Arc<Pointers>) -> Self {
        let lineage = Uuid::from_u128(1).into();
        let head = Position { lineage, revision: Revision(1), digest: records.digest() };
        let inner = Inner { records, changes: VecDeque::new(), floor: head.revision };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            head: watch::Sender::new(head),
            pointers,
            moving: AtomicBool::new(false),
            frames: AtomicU64::new(0),
        }))
    }

    fn head(&self) -> Position {
        *self.0.head.borrow()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn move_when_asked(self) {
        // A late tick is made up for: so many moves are due a second.
        let mut ticks = tokio::time::interval(BETWEEN_MOVES);
        loop {
            ticks.tick().await;
            if self.0.moving.load(Ordering::SeqCst) {
                self.move_one();
            }
        }
    }

    /// Commits one move, by itself.
    fn move_one(&self) {
        let mut inner = self.inner();
        let environment = fastrand::usize(..inner.records.environments());
        let deployment = self.0.pointers.elsewhere(environment);
        let from = self.head();
        let revision = from.revision.next();
        let (bytes, old, new) = inner.records.moved(environment, deployment);
        let to = Position { revision, digest: from.digest.without(old).with(new), ..from };
        let bytes = assemble_change_set(revision, vec![bytes], &[]);
        inner.changes.push_back(LoggedChange { position: to, bytes });
        if inner.changes.len() > CHANGES_MAX {
            inner.floor = inner.changes.pop_front().map_or(inner.floor, |change| change.position.revision);
        }
        self.0.pointers.moves(environment, revision.0, deployment);
        drop(inner);
        self.0.head.send_replace(to);
    }
}

impl Source for Log {
    fn watch_head(&self) -> watch::Receiver<Position> {
        self.0.head.subscribe()
    }

    async fn changes_after(&self, after: Revision, bytes_max: usize) -> Result<Changes, Error> {
        let inner = self.inner();
        if after < inner.floor {
            return Ok(Changes::BehindFloor);
        }
        self.0.frames.fetch_add(1, Ordering::SeqCst);
        let first = inner.changes.partition_point(|change| change.position.revision <= after);
        let mut bytes = 0;
        let fits = |change: &&LoggedChange| {
            let is_first = bytes == 0;
            bytes += change.bytes.len();
            is_first || bytes <= bytes_max
        };
        Ok(Changes::Log(inner.changes.range(first..).take_while(fits).cloned().collect()))
    }

    async fn position_at(&self, revision: Revision) -> Result<Option<Position>, Error> {
        let inner = self.inner();
        let head = self.head();
        let logged = || inner.changes.iter().map(|change| change.position).find(|at| at.revision == revision);
        Ok(if revision == head.revision { Some(head) } else { logged() })
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        // The head moves only while the records are held.
        let inner = self.inner();
        Ok(Snapshot { position: self.head(), records: inner.records.all(), mass_change_at: Revision(0) })
    }

    async fn keep_members(&self, _: MembersChange) -> Result<(), Error> {
        // Nobody comes back to this run.
        Ok(())
    }
}
