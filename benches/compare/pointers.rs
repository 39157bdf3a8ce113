//! Which deployment may answer, while pointers move.
//!
//! Every revision at which a pointer moved is written down before the control plane lets it go, and the newest
//! revision that the proxy has acknowledged is known. A proxy acknowledges what it has published, and requests that
//! come later are resolved against that or newer. So of a request and its answer this much is certain: the answer is of
//! a deployment that the pointer named at the revision acknowledged when the request was sent, or at a later one. Any
//! other is wrong; no time of grace is needed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::replicas::COUNT;

/// Where pointers are, and were.
pub struct Pointers {
    /// The newest revision that the proxy has acknowledged.
    applied: AtomicU64,
    /// For each environment the revisions at which its pointer moved, growing, and where to.
    moves: Vec<Mutex<Vec<(u64, usize)>>>,
}

impl Pointers {
    /// Each environment at the deployment it begins with.
    pub fn new(environments: usize) -> Self {
        let begins = |environment| Mutex::new(vec![(0, environment % COUNT)]);
        Self { applied: AtomicU64::new(0), moves: (0..environments).map(begins).collect() }
    }

    /// Where the pointer is to go next: anywhere else.
    pub fn elsewhere(&self, environment: usize) -> usize {
        let past = self.moves[environment].lock().unwrap_or_else(PoisonError::into_inner);
        let now = past.last().map_or(0, |(_, deployment)| *deployment);
        (now + fastrand::usize(1..COUNT)) % COUNT
    }

    /// The pointer moves at this revision; said before anybody can know.
    pub fn moves(&self, environment: usize, revision: u64, deployment: usize) {
        let mut past = self.moves[environment].lock().unwrap_or_else(PoisonError::into_inner);
        past.push((revision, deployment));
    }

    /// The proxy has acknowledged this revision.
    pub fn acknowledged(&self, revision: u64) {
        self.applied.fetch_max(revision, Ordering::SeqCst);
    }

    /// The newest revision that the proxy has acknowledged.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    fn admits(&self, environment: usize, asked: u64, replica: usize) -> bool {
        let past = self.moves[environment].lock().unwrap_or_else(PoisonError::into_inner);
        let later = past.partition_point(|(revision, _)| *revision <= asked);
        past[later.saturating_sub(1)..].iter().any(|(_, deployment)| *deployment == replica)
    }
}

/// Who may answer.
#[derive(Clone)]
pub enum Expected {
    /// Pointers stand still, each where it began.
    Still,
    /// They move.
    Moving(Arc<Pointers>),
}

impl Expected {
    /// What is to be remembered when a request is sent.
    pub fn asks(&self) -> u64 {
        match self {
            Self::Still => 0,
            Self::Moving(pointers) => pointers.applied(),
        }
    }

    /// Whether this replica may have answered a request that was sent then.
    pub fn admits(&self, environment: usize, asked: u64, replica: usize) -> bool {
        match self {
            Self::Still => replica == environment % COUNT,
            Self::Moving(pointers) => pointers.admits(environment, asked, replica),
        }
    }
}
