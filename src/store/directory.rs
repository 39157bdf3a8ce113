//! The data directory: made, checked and owned by one process at a time.
//!
//! Owns the advisory lock that keeps a second Repoint out. Knows nothing of
//! what is kept in the directory beyond the name of the database file.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::store::Error;

/// A data directory that this process owns until the value is dropped. The lock
/// belongs to the open file, so the kernel lets go of it however we end.
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory where it is absent, and takes its lock.
    pub fn own(path: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Unusable { path: path.to_owned(), source };
        create(path).map_err(unusable)?;
        let lock = private_file(&path.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Owned(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        // SQLite gives its journal files the mode of the database file, so the
        // file is made here, before SQLite could make it with the umask's mode.
        private_file(&path.join(DATABASE)).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }
}

const DATABASE: &str = "repoint.db";

fn create(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    // 0711: workers that run as another user pass through to their bundle; what
    // is private lies inside with 0600 or 0700. Set again because a umask may
    // have taken the passage away.
    DirBuilder::new().mode(0o711).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o711))?;
    // SQLite syncs what it puts into the directory; that the directory itself
    // outlives a power cut is up to its maker.
    File::open(parent)?.sync_all()
}

fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_directory_lets_pass_and_its_files_are_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/data");
        let directory = Directory::own(&path).unwrap();
        assert_eq!(mode(&path), 0o711);
        assert_eq!(mode(&directory.database()), 0o600);
        assert_eq!(mode(&path.join("lock")), 0o600);
    }

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = Directory::own(&path).unwrap();
        let refused = Directory::own(&path).err().unwrap();
        assert!(matches!(&refused, Error::Owned(owned) if *owned == path), "{refused}");
        drop(first);
        assert!(Directory::own(&path).is_ok());
    }

    #[test]
    fn a_path_that_cannot_be_used_is_named_with_a_remedy() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let refused = Directory::own(&path).err().unwrap().to_string();
            assert!(refused.contains(path.to_str().unwrap()) && refused.contains("--data-dir"), "{refused}");
        }
    }
}
