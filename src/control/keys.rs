//! API keys: how the first one is made, and what is kept of any.
//!
//! A key is `rpt_` and 256 random bits in hex. The store keeps its SHA-256: with
//! that much chance in the key a slow hash would protect nothing. The admin key
//! is also in `admin.key` in the data directory, for the command line beside it;
//! whoever can write there owns this installation anyway.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::store::{self, ApiKey, Store};

/// File name of the admin key in the data directory.
pub const FILE_NAME: &str = "admin.key";

/// Name of the admin key, which history shows as actor.
const ADMIN: &str = "admin";

/// Why there is no admin key. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("use {path} for the admin key: {source}; check the data directory's owner and mode")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("read {0}: it holds no key (rpt_ and 64 hex digits); put the key back, or remove the file")]
    NoKey(PathBuf),
    /// The system has no random bytes.
    #[error("make an admin key: the system gave no random bytes")]
    NoChance,
    /// The store could not keep it.
    #[error("keep the admin key")]
    Store(#[from] store::Error),
}

/// Makes the admin key when there is no key yet, and answers it then. A key file
/// that is there is kept, and its key works: also after the store was replaced.
///
/// Where keys exist and the file is gone, somebody took it away on purpose; none
/// is made. (To get back in, write a key of one's own to the file.)
///
/// # Errors
///
/// When the file or the store cannot be used; the message names the remedy.
pub async fn ensure_admin_key(store: &Store, data_dir: &Path) -> Result<Option<String>, Error> {
    let path = data_dir.join(FILE_NAME);
    let of_file = |source| Error::File { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let key = text.trim();
            if !is_key(key) {
                return Err(Error::NoKey(path));
            }
            let mode = fs::metadata(&path).map_err(of_file)?.permissions().mode();
            if mode & 0o077 != 0 {
                tracing::warn!(path = %path.display(), "the admin key is readable by others; chmod 600 it");
            }
            remember(store, key).await?;
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if store.read().await?.has_keys().await? {
                return Ok(None);
            }
            let key = fresh()?;
            // The file first: a crash in between leaves a key that the next start
            // learns, never a known key that nobody has.
            write_private(&path, &key).map_err(of_file)?;
            remember(store, &key).await?;
            Ok(Some(key))
        }
        Err(error) => Err(of_file(error)),
    }
}

/// What is kept of a key.
pub(super) fn hash(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

async fn remember(store: &Store, key: &str) -> Result<(), Error> {
    let mut tx = store.write().await?;
    let hash = hash(key);
    if tx.key_by_hash(&hash).await?.is_none() {
        let id = Uuid::now_v7().into();
        let row = ApiKey { id, name: ADMIN.into(), hash, role: ADMIN.into(), created_at: Timestamp::now() };
        tx.insert_key(&row).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn fresh() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| Error::NoChance)?;
    Ok(bytes.iter().fold("rpt_".to_owned(), |key, byte| format!("{key}{byte:02x}")))
}

fn is_key(text: &str) -> bool {
    text.strip_prefix("rpt_").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whole or not at all, and never readable by others, not even for a moment.
fn write_private(path: &Path, key: &str) -> io::Result<()> {
    let temporary = path.with_extension("key.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The name must outlive a power cut that the key's row in the store outlives.
    let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_keys_have_their_form_and_differ() {
        let (a, b) = (fresh().unwrap(), fresh().unwrap());
        assert!(is_key(&a) && is_key(&b) && a != b);
        assert!(!is_key("rpt_") && !is_key(&a[..a.len() - 1]) && !is_key(&a.replace("rpt_", "xxx_")));
    }

    #[test]
    fn the_file_is_private_and_left_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(path.with_extension("key.new"), "cut sh").unwrap();
        write_private(&path, "rpt_x").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "rpt_x\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
