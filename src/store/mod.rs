//! Durable truth: rows, revisions, change log and history.
//!
//! Owns the database and what one transaction means. A write transaction
//! collects which environments and pools it touched; committing it derives
//! their routing records, appends one change set to the log when any of them
//! differs, and advances revision and digest, all or nothing (invariant 4).
//! Knows nothing of who asks: rules live in `model` and `control`.

/// Which part of a list to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Items at most.
    pub limit: u32,
    /// Answer what follows this cursor, as an earlier [`Listed::next`] gave it.
    pub after: Option<String>,
}

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where to go on, if there is more.
    pub next: Option<String>,
}

/// Why the store could not answer. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory is used by another process.
    #[error("use {0} as data directory: another repoint process owns it; stop that one, or give another --data-dir")]
    Owned(std::path::PathBuf),
    /// The data directory cannot be read or written.
    #[error("use {path} as data directory: {source}; check its owner and mode, or give another --data-dir")]
    Unusable {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Written by a newer Repoint.
    #[error("open the store: its schema {found} is newer than this repoint knows ({known}); run the newer repoint")]
    Newer {
        /// What the file has.
        found: i64,
        /// What this build knows.
        known: i64,
    },
    /// A host is claimed by another environment.
    #[error("claim host {host}: environment {owner} has it")]
    HostTaken {
        /// The host.
        host: String,
        /// Whose it is.
        owner: crate::model::id::EnvironmentId,
    },
    /// A unique name is used already.
    #[error("use the name {0}: it is taken")]
    NameTaken(String),
    /// A cursor that no list gave.
    #[error("read the cursor: pass next_cursor of an earlier answer as it was")]
    Cursor,
    /// A stored value that this build cannot read.
    #[error("read a stored {what}: {detail}")]
    Corrupt {
        /// Which noun.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The database failed.
    #[error("use the database")]
    Database(#[from] sqlx::Error),
}
