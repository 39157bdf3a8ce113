//! Bundles as they arrive: to a file beside the others, judged, then named.
//!
//! The bytes go to a temporary file that is removed unless everything holds:
//! the size, the digest that the path announced, and what `bundle::inspect`
//! says of the archive inside. Only then do the file's name and the store's row
//! appear, in that order, so that a row always has its bytes.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::bundle::digest::Digest;
use crate::bundle::inspect::{Inspected, inspect};
use crate::bundle::{self, PACKED_BYTES_MAX, Rejected};
use crate::control::error::{Error, Noun};
use crate::control::{Config, Control};
use crate::model::manifest::Manifest;
use crate::rest::bundles::Bundle;

/// Longest pause between two pieces of an upload. A link that is slower than a
/// piece a minute would hold its place for days.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Marks files of uploads that are on their way.
const TEMPORARY: &str = "upload-";

impl Control {
    /// Takes in a bundle. Answers it, and whether it was new.
    ///
    /// # Errors
    ///
    /// When the bytes are too many, are not those announced, or are no bundle that
    /// can run; nothing is kept then.
    pub async fn receive_bundle<E: std::fmt::Display>(
        &self,
        digest: Digest,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        now: Timestamp,
    ) -> Result<(Bundle, bool), Error> {
        let _place = Arc::clone(&self.uploads)
            .try_acquire_owned()
            .map_err(|_| Error::Overloaded("too many bundles are being uploaded"))?;
        let upload = Upload::begin(&self.config)?;
        let size = upload.fill(body).await?;
        let path = bundle::archive_path(&self.config.data_dir, &digest);
        let kept = tokio::task::spawn_blocking(move || upload.keep(&digest, &path));
        let inspected = kept.await.map_err(|_| Error::Internal("looking into a bundle panicked"))??;

        let mut tx = self.store.write().await?;
        let name = digest.to_string();
        let is_new = tx.bundle(&name).await?.is_none();
        if is_new {
            let manifest =
                toml::to_string(&inspected.manifest).map_err(|_| Error::Internal("a manifest is no TOML"))?;
            tx.insert_bundle(&name, size, &manifest, now).await?;
            tx.commit().await?;
            tracing::info!(digest = name, size, "bundle received");
        }
        Ok((Bundle { digest: name, size_bytes: size, manifest: inspected.manifest }, is_new))
    }

    /// A bundle that was received before.
    ///
    /// # Errors
    ///
    /// When it was not.
    pub async fn bundle(&self, digest: Digest) -> Result<Bundle, Error> {
        let row = self.store.read().await?.bundle(&digest.to_string()).await?;
        let row = row.ok_or_else(|| Error::not_found(Noun::Bundle, digest))?;
        let manifest = Manifest::parse(&row.manifest_toml).map_err(|error| Error::BundleInvalid(error.to_string()))?;
        Ok(Bundle { digest: row.digest, size_bytes: row.size, manifest })
    }
}

/// A file that is removed unless it is kept.
struct Upload(Option<PathBuf>);

impl Upload {
    fn begin(config: &Config) -> Result<Self, Error> {
        let folder = bundle::archives(&config.data_dir);
        make(&folder).map_err(failed("make the folder of bundles"))?;
        Ok(Self(Some(folder.join(format!("{TEMPORARY}{}.tar.gz", Uuid::now_v7())))))
    }

    fn path(&self) -> Result<&Path, Error> {
        self.0.as_deref().ok_or(Error::Internal("an upload was used after it was kept"))
    }

    /// Writes what arrives; answers how much that was.
    async fn fill<E: std::fmt::Display>(
        &self,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<u64, Error> {
        let broke_off = |why: String| Error::Invalid(format!("the upload broke off: {why}; nothing was kept"));
        let created = tokio::fs::File::options().write(true).create_new(true).mode(0o600).open(self.path()?).await;
        let mut file = created.map_err(failed("make a file for an upload"))?;
        let mut size = 0;
        loop {
            let piece = tokio::time::timeout(PAUSE_MAX, body.next())
                .await
                .map_err(|_| broke_off(format!("nothing arrived for {} s", PAUSE_MAX.as_secs())))?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|error| broke_off(error.to_string()))?;
            size += piece.len() as u64;
            if size > PACKED_BYTES_MAX {
                return Err(Error::TooLarge { what: "a bundle", limit: PACKED_BYTES_MAX });
            }
            file.write_all(&piece).await.map_err(failed("write an upload"))?;
        }
        file.sync_all().await.map_err(failed("write an upload"))?;
        Ok(size)
    }

    /// Judges the bytes and gives them their name.
    fn keep(mut self, digest: &Digest, path: &Path) -> Result<Inspected, Error> {
        let inspected = inspect(self.path()?, digest).map_err(refused)?;
        std::fs::rename(self.path()?, path).map_err(failed("name an upload"))?;
        self.0 = None;
        if let Some(folder) = path.parent() {
            // The name must outlive a crash that the row in the store outlives.
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("name an upload"))?;
        }
        Ok(inspected)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Where it cannot be removed now, the next start tries again.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Makes the folder of bundles, for nobody but us: what people upload holds their
/// code, and the data directory around it lets other users pass. The supervisor
/// unpacks as us; replicas, which run as others, read only what it unpacked.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Closes the folder to others, where an earlier build left it open, and removes
/// what uploads that a crash cut short have left.
pub(super) fn sweep(config: &Config) {
    let folder = bundle::archives(&config.data_dir);
    let Ok(entries) = std::fs::read_dir(&folder) else { return };
    if let Err(error) = std::fs::set_permissions(&folder, Permissions::from_mode(0o700)) {
        tracing::warn!(%error, path = %folder.display(), "other users may read the bundles; chmod 700 their folder");
    }
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "an old upload cannot be removed");
        }
    }
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { doing, source }
}

fn refused(error: bundle::Error) -> Error {
    match error {
        bundle::Error::Rejected(Rejected::Digest { named, actual }) => {
            Error::DigestMismatch { announced: named.to_string(), found: actual.to_string() }
        }
        bundle::Error::Rejected(Rejected::PackedTooLarge) => {
            Error::TooLarge { what: "a bundle", limit: PACKED_BYTES_MAX }
        }
        bundle::Error::Rejected(rejected) => Error::BundleInvalid(rejected.to_string()),
        bundle::Error::Io { doing, source, .. } => Error::File { doing, source },
    }
}
