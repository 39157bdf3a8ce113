//! The database behind the store: how it is reached and how its schema grows.
//!
//! The only file that knows which database it is. Everything else speaks the
//! common part of SQLite's and PostgreSQL's SQL through sqlx's `Any` driver.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool, ConnectOptions, Connection, Executor};
use uuid::Uuid;

use crate::model::id::Lineage;
use crate::model::revision::{Digest, Position};
use crate::store::directory::Directory;
use crate::store::{Error, log, row};

/// The connections: one that writes, a few that read.
pub(super) struct Database {
    pub writer: AnyPool,
    pub readers: AnyPool,
    options: AnyConnectOptions,
}

impl Database {
    /// Opens the file and brings its schema up to this build's.
    pub async fn open(directory: &Directory) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let options = options(&directory.database()).map_err(|source| unusable(directory.path(), source))?;
        try_once(&options).await.map_err(|error| unusable(directory.path(), io::Error::other(error)))?;
        let writer = pool(options.clone(), 1, WRITER);
        migrate(&writer).await?;
        Ok(Self { writer, readers: pool(options.clone(), READERS_MAX, READER), options })
    }

    /// Where the history stands. A new store gets its lineage here.
    pub async fn found(&self) -> Result<Position, Error> {
        let insert =
            "INSERT INTO head (id, lineage, revision, digest) VALUES (1, $1, 0, $2) ON CONFLICT (id) DO NOTHING";
        let lineage = Lineage::from(Uuid::new_v4());
        let insert = row::query(insert).bind(lineage.to_string()).bind(Digest::default().to_string());
        insert.execute(&self.writer).await?;
        let head =
            row::query("SELECT lineage, revision, digest FROM head WHERE id = 1").fetch_one(&self.writer).await?;
        log::position(&row::Row::new("head", head))
    }

    /// Gives back what a large transaction wrote ahead; answers whether nobody
    /// was in the way. On a connection of its own, so that nobody waits for it
    /// longer than it waits for others.
    pub async fn truncate_log(&self) -> Result<bool, Error> {
        let mut connection = self.options.connect().await?;
        connection.execute(sqlx::raw_sql(TRUNCATING)).await?;
        let done = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut connection).await?;
        let busy = row::Row::new("checkpoint", done).number("busy")?;
        connection.close().await?;
        Ok(busy == 0)
    }

    /// Waits for what runs and closes every connection.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Reads are short and mostly single-row; WAL lets them run beside the writer.
const READERS_MAX: u32 = 4;

/// Longest wait for a connection. Transactions last milliseconds: whoever waits
/// this long hears that something is stuck instead of joining it.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(30);

/// `synchronous=FULL`: a commit is on disk when it returns (invariant 4); WAL
/// alone would lose the last ones when the power goes. The busy timeout covers
/// another process that reads the file, such as a backup. The log is written
/// anew from its beginning whenever everything in it has reached the database;
/// what is longer than 8 MiB then, twice what it usually comes to, is given back.
const WRITER: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 8388608;";
const READER: &str =
    "PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA query_only = ON;";

/// Whoever writes waits while this waits for readers.
const TRUNCATING: &str = "PRAGMA busy_timeout = 100; PRAGMA synchronous = FULL;";

fn pool(options: AnyConnectOptions, connections_max: u32, pragmas: &'static str) -> AnyPool {
    AnyPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(WAIT_MAX)
        // A file does not go stale the way a network connection does.
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(sqlx::raw_sql(pragmas)).await.map(drop) })
        })
        // A full disk makes SQLite undo a transaction by itself (its section "Response
        // To Errors Within A Transaction"); undoing it once more fails then, and sqlx
        // takes the connection for one inside a transaction for ever.
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .connect_lazy_with(options)
}

/// A pool tries again for as long as it may wait; a file that is no database
/// should be reported at once.
async fn try_once(options: &AnyConnectOptions) -> sqlx::Result<()> {
    let mut connection = options.connect().await?;
    connection.execute(sqlx::raw_sql(WRITER)).await?;
    connection.close().await
}

fn options(file: &Path) -> io::Result<AnyConnectOptions> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
    // sqlx decodes the path as UTF-8.
    let path = std::str::from_utf8(file.as_os_str().as_bytes()).map_err(|_| invalid("its path is not UTF-8".into()))?;
    let options = AnyConnectOptions::from_str(&format!("sqlite://{}?mode=rw", percent_encoded(path)));
    Ok(options.map_err(|error| invalid(error.to_string()))?.disable_statement_logging())
}

fn percent_encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn unusable(path: &Path, source: io::Error) -> Error {
    Error::Unusable { path: path.to_owned(), source }
}

/// The schema's history. A file is never edited once a build with it is out.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_members.sql"),
    include_str!("migrations/0003_sleep.sql"),
    include_str!("migrations/0004_move_ended.sql"),
];

async fn migrate(writer: &AnyPool) -> Result<(), Error> {
    let known = MIGRATIONS.len() as i64;
    loop {
        let mut transaction = writer.begin_with(BEGIN_WRITE).await?;
        let found = version(&mut transaction).await?;
        if found > known {
            return Err(Error::Newer { found, known });
        }
        let Some(migration) = usize::try_from(found).ok().and_then(|index| MIGRATIONS.get(index)) else {
            return Ok(());
        };
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
        let next = row::query("UPDATE schema_version SET version = $1").bind(found + 1);
        next.execute(&mut *transaction).await?;
        transaction.commit().await?;
        tracing::info!(version = found + 1, "store schema migrated");
    }
}

async fn version(connection: &mut AnyConnection) -> Result<i64, Error> {
    let create = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)";
    sqlx::raw_sql(create).execute(&mut *connection).await?;
    let select = row::query("SELECT version FROM schema_version");
    if let Some(found) = select.fetch_optional(&mut *connection).await? {
        return row::Row::new("schema version", found).number("version");
    }
    row::query("INSERT INTO schema_version (version) VALUES (0)").execute(connection).await?;
    Ok(0)
}

/// A place for a value in a text that is made for many. SQLite would take `$1`
/// for a name and look for it among all names, both when it parses and when it
/// binds: a statement's cost would grow with the square of its values.
pub(super) const PLACE: &str = "?";

/// Takes the write lock at once: a transaction that read first and then wrote
/// could find that it may not.
pub(super) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_survives_the_url() {
        assert_eq!(percent_encoded("/a b/50%?#ü.db"), "/a%20b/50%25%3F%23%C3%BC.db");
    }
}
