//! Handing over: how a proxy that runs leaves its listening sockets and its
//! folder to a successor, and nothing is refused meanwhile.
//!
//! Owns the Unix socket at which the two meet, their words, and who may come in.
//! Knows nothing of what is served or kept: `app` acts for both.
//!
//! ```text
//! successor            running proxy
//!    Hello    ──────▶                    the same user? nobody else preparing?
//!             ◀──────  Offer, sockets    from here on it leaves its files alone
//!    Ready    ──────▶                    within its deadline?
//!             ◀──────  Go                both may accept from here on
//!    Serving  ──────▶                    it stops accepting and gives up its files
//!             ◀──────  (end)             the files are the successor's
//! ```
//!
//! Until it has heard `Serving` the running proxy serves as ever. The connection
//! says who is still there: when it ends early, nothing has happened.

mod channel;
mod door;
mod predecessor;

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::id::Lineage;
use crate::model::revision::Revision;

pub use door::{Door, Successor};
pub use predecessor::{Predecessor, meet};

/// What a successor is given.
#[derive(Debug)]
pub struct Estate {
    /// Listening sockets. Their queues outlive whoever leaves.
    pub sockets: Vec<Passed>,
    /// The lock on the folder: one lock, which both have until one lets go.
    pub lock: File,
    /// Where the table stands: a successor that is behind that is not ready.
    pub position: Option<Place>,
}

/// A listening socket that is passed on.
#[derive(Debug)]
pub struct Passed {
    /// What arrives on it.
    pub name: String,
    /// The address that was asked for, which may have had port 0.
    pub asked: SocketAddr,
    /// It is listened on whatever the settings say: an init system has bound it.
    pub is_fixed: bool,
    /// The socket.
    pub listener: TcpListener,
}

/// Where a table stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// In which history.
    pub lineage: Lineage,
    /// How far.
    pub revision: Revision,
}

/// Why sockets are not handed over. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no meeting at that path.
    #[error("hand sockets over at {path}: {source}", path = path.display())]
    Door {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other side is somebody else's.
    #[error("hand sockets over: the other side is run by another user (uid {uid}); run both as the same one")]
    Stranger {
        /// Whose.
        uid: u32,
    },
    /// The running proxy does not want to.
    #[error("take over from the proxy that runs: it goes on, because {0}")]
    Refused(String),
    /// The other side is gone.
    #[error("hand sockets over: the other side ended before that was done")]
    Ended,
    /// The other side takes too long.
    #[error("hand sockets over: the other side has not answered within {} s", .0.as_secs())]
    Late(Duration),
    /// The other side says something else than it should.
    #[error("hand sockets over: {0}; stop the older process, then start the newer one")]
    Misunderstood(String),
    /// The connection to the other side fails.
    #[error("hand sockets over: {0}")]
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Ended,
            _ => Self::Io(error),
        }
    }
}

/// The file in the folder at which they meet.
const FILE: &str = "handover.sock";

fn door_of(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Raised when an older process would misunderstand a newer one. Fields may be
/// added without that: what is not known is passed over.
const PROTOCOL: u32 = 1;

/// Longest wait for what the other side says at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
