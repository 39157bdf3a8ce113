//! Where bundles lie in the data directory.
//!
//! `{root}/packed/{hex}.tar.gz` as they were uploaded, `{root}/unpacked/{hex}/`
//! as replicas see them, `{root}/incoming/` while they arrive. `control` admits
//! uploads, `worker` unpacks; both hold the same [`BundleFolder`].

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::inspect::{Inspected, inspect};
use super::unpack::{sweep, unpack};
use super::{Error, Rejected};

/// The bundles of one data directory.
#[derive(Clone, Debug)]
pub struct BundleFolder {
    root: PathBuf,
}

impl BundleFolder {
    /// Opens the folder, making it where it is missing, and sweeps what an earlier run left unfinished. The data
    /// directory has one owner, so nobody is at work in it.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = Self { root: root.into() };
        // Replicas run as other users and pass through to what is unpacked; uploads are nobody's business.
        for (name, mode) in [("", 0o711), ("packed", 0o700), ("incoming", 0o700), ("unpacked", 0o711)] {
            let path = folder.root.join(name);
            let make = || {
                DirBuilder::new().recursive(true).mode(mode).create(&path)?;
                fs::set_permissions(&path, Permissions::from_mode(mode))
            };
            make().map_err(Error::io("prepare the folder", &path))?;
        }
        let incoming = folder.root.join("incoming");
        let stale = || -> std::io::Result<()> {
            fs::read_dir(&incoming)?.try_for_each(|entry| fs::remove_file(entry?.path()))?;
            sweep(&folder.unpacked_root())
        };
        stale().map_err(Error::io("sweep", &folder.root))?;
        Ok(folder)
    }

    /// A fresh path for an upload to be written to. Remove it when the upload is broken off.
    pub fn incoming(&self) -> PathBuf {
        self.root.join("incoming").join(format!("{:016x}", fastrand::u64(..)))
    }

    /// Judges the upload in `incoming` and keeps it under its name. Admitting the same bytes twice is no error.
    ///
    /// # Errors
    ///
    /// When the upload is no acceptable bundle; it is removed then.
    pub fn admit(&self, incoming: &Path, digest: &Digest) -> Result<Inspected, Error> {
        let keep = || {
            let inspected = inspect(incoming, digest)?;
            self.keep(incoming, digest)?;
            Ok(inspected)
        };
        keep().inspect_err(|_| drop(fs::remove_file(incoming)))
    }

    /// Whether the bundle was uploaded.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.packed(digest).is_file()
    }

    /// Reads a bundle that was uploaded before.
    ///
    /// # Errors
    ///
    /// When it is missing (`Io`, not found) or damaged since.
    pub fn inspect(&self, digest: &Digest) -> Result<Inspected, Error> {
        inspect(&self.packed(digest), digest)
    }

    /// Unpacks a bundle, unless it is unpacked already, and answers where. Blocks while it works.
    ///
    /// # Errors
    ///
    /// When it is missing (`Io`, not found), damaged since, or the disk fails.
    pub fn unpack(&self, digest: &Digest) -> Result<PathBuf, Error> {
        unpack(&self.packed(digest), &self.unpacked_root(), digest)
    }

    fn packed(&self, digest: &Digest) -> PathBuf {
        self.root.join("packed").join(format!("{}.tar.gz", digest.hex()))
    }

    fn unpacked_root(&self) -> PathBuf {
        self.root.join("unpacked")
    }

    fn keep(&self, incoming: &Path, digest: &Digest) -> Result<(), Error> {
        let packed = self.packed(digest);
        let keep = || {
            File::open(incoming)?.sync_all()?;
            fs::rename(incoming, &packed)?;
            File::open(self.root.join("packed"))?.sync_all()
        };
        keep().map_err(Error::io("keep the bundle", &packed))
    }
}

impl Error {
    /// Whether the bundle is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// What is wrong with the bundle, if that is what failed.
    pub fn rejected(&self) -> Option<&Rejected> {
        match self {
            Self::Rejected(rejected) => Some(rejected),
            Self::Io { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::pack::pack;
    use super::*;

    fn upload(folder: &BundleFolder) -> (PathBuf, Digest) {
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("repoint.toml"), "[worker]\ncommand = [\"./serve\"]").unwrap();
        let mut packed = pack(source.path(), &[], &mut |_| {}).unwrap();
        let incoming = folder.incoming();
        io::copy(&mut packed.file, &mut File::create(&incoming).unwrap()).unwrap();
        (incoming, packed.digest)
    }

    #[test]
    fn an_admitted_bundle_can_be_inspected_and_unpacked_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = BundleFolder::open(dir.path()).unwrap();
        let (incoming, digest) = upload(&folder);
        assert!(!folder.contains(&digest));
        let admitted = folder.admit(&incoming, &digest).unwrap();
        let (again, _) = upload(&folder);
        folder.admit(&again, &digest).unwrap();

        fs::write(folder.incoming(), "half").unwrap();
        let folder = BundleFolder::open(dir.path()).unwrap();
        assert!(folder.contains(&digest));
        assert_eq!(folder.inspect(&digest).unwrap(), admitted);
        assert!(folder.unpack(&digest).unwrap().join("repoint.toml").exists());
        assert_eq!(fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0, "broken uploads are swept");
        fs::set_permissions(folder.unpack(&digest).unwrap(), Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_refused_upload_is_removed_and_a_missing_bundle_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let folder = BundleFolder::open(dir.path()).unwrap();
        let incoming = folder.incoming();
        fs::write(&incoming, "no bundle").unwrap();
        let digest = Digest::of(&b"no bundle"[..]).unwrap();
        assert!(folder.admit(&incoming, &digest).unwrap_err().rejected().is_some());
        assert!(!incoming.exists());
        assert!(folder.unpack(&digest).unwrap_err().is_missing());
    }
}
