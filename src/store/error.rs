//! Why the store could not answer, told so that a person knows what to do.

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
    /// More would be deleted at once than an accident should be able to; nothing was.
    #[error(
        "commit a change that deletes so much: {0}; nothing was changed; allow it with allow_mass_change=true if it is meant"
    )]
    MassChange(crate::model::mass_change::MassChange),
    /// Too many wait, or one does not end.
    #[error(
        "get a turn at the database within 30 s: earlier work does not end; look whether the disk is stuck, and try again"
    )]
    Busy,
    /// No room for what was to be written; nothing of it was.
    #[error("write to the database: the disk is full; free some space where the data directory is, and try again")]
    Full,
    /// The database failed.
    #[error("use the database")]
    Database(#[source] sqlx::Error),
}

/// `SQLITE_FULL`, and `disk_full` of PostgreSQL.
const DISK_FULL: [&str; 2] = ["13", "53100"];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::Busy,
            sqlx::Error::Database(error) if error.code().is_some_and(|code| DISK_FULL.contains(&&*code)) => Self::Full,
            error => Self::Database(error),
        }
    }
}
