//! Unpacking a bundle once per name, for every replica that runs it.
//!
//! The archive is judged again while it is written, into a temporary sibling
//! that takes its final name only when everything is on disk: a folder with the
//! final name is complete, also after a crash. The result is read-only and
//! readable by any user, because replicas run as users of their own and share it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::inspect::open;
use super::tree::{Kind, Member};
use super::{Error, archive};

/// So many files are brought to disk one by one, at some milliseconds each. For more, one call for the whole file system
/// is quicker, although it waits for what others have written too.
const SYNCED_ONE_BY_ONE_MAX: usize = 32;

/// Unpacks `file`, which is said to be `digest`, to a folder in `root` and answers where. Costs a look when that was
/// done before; two callers at once both get the one folder.
///
/// # Errors
///
/// When the bundle is not acceptable or the disk fails; nothing is left behind then.
pub fn unpack(file: &Path, root: &Path, digest: &Digest) -> Result<PathBuf, Error> {
    let unpacked = root.join(digest.hex());
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    let temporary = root.join(format!(".{}.{:016x}", digest.hex(), fastrand::u64(..)));
    match fill(file, &temporary, digest).and_then(|made| take_name(&temporary, &made, &unpacked, root)) {
        Ok(()) => Ok(unpacked),
        Err(error) => {
            // The first error says more than one from cleaning up; what stays is swept at the next start.
            let _ = remove(&temporary);
            Err(error)
        }
    }
}

/// Removes what unpacking left unfinished when the process was killed. For the start, while nobody unpacks.
///
/// # Errors
///
/// When the disk fails.
pub fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") && entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Writes everything into a new folder; answers the files and directories made.
fn fill(file: &Path, into: &Path, digest: &Digest) -> Result<Vec<PathBuf>, Error> {
    let packed = open(file, digest)?;
    // Nobody else looks in until it is complete.
    DirBuilder::new().mode(0o700).create(into).map_err(Error::io("create the folder", into))?;
    let mut directories = vec![into.to_owned()];
    let (mut files, mut links) = (Vec::new(), Vec::new());
    archive::read(&packed, |member, bytes| {
        let path = into.join(&member.path);
        match &member.kind {
            Kind::Directory => make_directories(into, &member.path, &mut directories)?,
            Kind::File { executable, .. } => {
                if let Some((parent, _)) = member.path.rsplit_once('/') {
                    make_directories(into, parent, &mut directories)?;
                }
                write(&path, bytes, *executable).map_err(Error::io("unpack the file", &path))?;
                files.push(path);
            }
            Kind::Link { .. } => links.push(member.clone()),
        }
        Ok(())
    })?;
    // Links last, once the whole tree is known to be sound: no file was written through one.
    for Member { path, kind } in &links {
        if let Some((parent, _)) = path.rsplit_once('/') {
            make_directories(into, parent, &mut directories)?;
        }
        if let Kind::Link { target } = kind {
            symlink(target, into.join(path)).map_err(Error::io("unpack the link", into.join(path)))?;
        }
    }
    // Innermost first: a read-only directory takes no more changes from an ordinary user.
    for directory in directories.iter().rev() {
        fs::set_permissions(directory, Permissions::from_mode(0o555)).map_err(Error::io("protect", directory))?;
    }
    files.append(&mut directories);
    Ok(files)
}

fn write(path: &Path, bytes: &mut dyn Read, executable: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::copy(bytes, &mut file)?;
    // Explicitly, because the mode given to open is cut by the umask.
    file.set_permissions(Permissions::from_mode(if executable { 0o555 } else { 0o444 }))
}

/// Makes `path` and what it lies in, remembering what was made, outer before inner.
fn make_directories(into: &Path, path: &str, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let ends = path.match_indices('/').map(|(slash, _)| slash).chain([path.len()]);
    for end in ends {
        let directory = into.join(&path[..end]);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => made.push(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create the folder", directory)(error)),
        }
    }
    Ok(())
}

fn take_name(temporary: &Path, made: &[PathBuf], unpacked: &Path, root: &Path) -> Result<(), Error> {
    let complete = || {
        let root = File::open(root)?;
        if made.len() <= SYNCED_ONE_BY_ONE_MAX {
            made.iter().try_for_each(|path| File::open(path)?.sync_all())?;
        } else {
            rustix::fs::syncfs(&root)?;
        }
        match fs::rename(temporary, unpacked) {
            // Another caller was quicker, with the same bytes.
            Err(_) if unpacked.is_dir() => remove(temporary),
            renamed => renamed.and_then(|()| root.sync_all()),
        }
    };
    complete().map_err(Error::io("complete the folder", unpacked))
}

/// Removes a tree of read-only directories.
fn remove(tree: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(tree)?.is_dir() {
        return fs::remove_file(tree);
    }
    fs::set_permissions(tree, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(tree)? {
        remove(&entry?.path())?;
    }
    fs::remove_dir(tree)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::pack::pack;
    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        digest: Digest,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let source = dir.path().join("source");
            fs::create_dir_all(source.join("lib/deep")).unwrap();
            fs::create_dir_all(dir.path().join("unpacked")).unwrap();
            fs::write(source.join("repoint.toml"), "[worker]\ncommand = [\"./serve\"]").unwrap();
            fs::write(source.join("lib/deep/a"), "contents").unwrap();
            fs::write(source.join("serve"), "#!/bin/sh").unwrap();
            fs::set_permissions(source.join("serve"), Permissions::from_mode(0o700)).unwrap();
            symlink("../serve", source.join("lib/link")).unwrap();
            let mut packed = pack(&source, &[], &mut |_| {}).unwrap();
            io::copy(&mut packed.file, &mut File::create(dir.path().join("packed")).unwrap()).unwrap();
            Self { dir, digest: packed.digest }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("unpacked")
        }

        fn unpack(&self) -> Result<PathBuf, Error> {
            unpack(&self.dir.path().join("packed"), &self.root(), &self.digest)
        }

        fn left(&self) -> usize {
            fs::read_dir(self.root()).unwrap().count()
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            for entry in fs::read_dir(self.root()).unwrap() {
                remove(&entry.unwrap().path()).unwrap();
            }
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_was_packed_is_there_read_only_for_everybody() {
        let bench = Bench::new();
        let unpacked = bench.unpack().unwrap();
        assert_eq!(fs::read_to_string(unpacked.join("lib/deep/a")).unwrap(), "contents");
        assert_eq!(fs::read_to_string(unpacked.join("lib/link")).unwrap(), "#!/bin/sh");
        for directory in ["", "lib", "lib/deep"] {
            assert_eq!(mode(&unpacked.join(directory)), 0o555, "{directory}");
        }
        assert_eq!(mode(&unpacked.join("serve")), 0o555);
        assert_eq!(mode(&unpacked.join("lib/deep/a")), 0o444);
    }

    #[test]
    fn a_bundle_is_unpacked_once() {
        let bench = Bench::new();
        let first = bench.unpack().unwrap();
        let inode = fs::metadata(&first).unwrap().ino();
        fs::remove_file(bench.dir.path().join("packed")).unwrap();
        assert_eq!(bench.unpack().unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().ino(), inode);
    }

    #[test]
    fn callers_at_once_share_one_folder() {
        let bench = Bench::new();
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| bench.unpack())).collect();
            for caller in callers {
                assert_eq!(caller.join().unwrap().unwrap(), bench.root().join(bench.digest.hex()));
            }
        });
        assert_eq!(bench.left(), 1);
    }

    #[test]
    fn a_refused_bundle_leaves_nothing() {
        let bench = Bench::new();
        let packed = bench.dir.path().join("packed");
        let mut bytes = fs::read(&packed).unwrap();
        bytes.truncate(bytes.len() - 10);
        fs::write(&packed, &bytes).unwrap();
        assert!(bench.unpack().is_err(), "the name lies");
        let cut = Digest::of(bytes.as_slice()).unwrap();
        assert!(unpack(&packed, &bench.root(), &cut).is_err(), "the name is right, the bytes are cut");
        assert_eq!(bench.left(), 0);
    }

    #[test]
    fn leftovers_of_a_crash_are_swept_and_complete_folders_stay() {
        let bench = Bench::new();
        bench.unpack().unwrap();
        let leftover = bench.root().join(".0123.4567/half");
        fs::create_dir_all(&leftover).unwrap();
        fs::write(leftover.join("file"), "x").unwrap();
        fs::set_permissions(&leftover, Permissions::from_mode(0o555)).unwrap();
        sweep(&bench.root()).unwrap();
        assert_eq!(bench.left(), 1);
        assert!(bench.unpack().unwrap().join("serve").exists());
    }
}
