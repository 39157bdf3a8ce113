//! The state folder of a proxy: made, checked and owned by one process at a time.
//!
//! Owns the lock, the modes of files (routes name hosts and addresses: they are
//! the owner's only), the proxy's name and its runs. A `Disk` on a real file system.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::model::id::InstanceId;
use crate::stream::last_known_good::disk::{Disk, Sink};
use crate::stream::last_known_good::names::TEMPORARY;

/// A folder that this process owns until the value is dropped. The lock belongs
/// to the open file, so the kernel lets go of it however we end.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    is_writable: bool,
    lock: File,
}

/// A run that was noted.
#[derive(Debug)]
pub struct Noted {
    /// Earlier runs whose process has ended.
    pub ended: Vec<InstanceId>,
    /// Keeps this one from being taken for ended; `None` where it cannot be.
    pub mark: Option<Mark>,
}

/// Shows that the process of a run is there, until it is dropped. Like the lock
/// on the folder it ends with the process, however that ends.
#[derive(Debug)]
pub struct Mark {
    _file: File,
}

/// Why a folder cannot be used. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it.
    #[error(
        "keep the table in {path}: another proxy{} keeps its own there; stop that one, or give this one another \
         --data-dir, or --no-state to keep none",
        pid.map_or_else(String::new, |pid| format!(" (process {pid})")), path = path.display()
    )]
    Owned {
        /// Which.
        path: PathBuf,
        /// Who, where it says so.
        pid: Option<u32>,
    },
    /// It cannot be made or opened.
    #[error("keep the table in {path}: {source}; give a --data-dir that can be written to", path = path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

const LOCK: &str = "lock";
const NAME: &str = "proxy_id";
const RUNS: &str = "instance_ids";
/// Begins the name of a file that a run has locked while its process is there.
const MARK: &str = "run-";
/// Earlier runs that are remembered, of those that have ended and of those that
/// have not. More start in a row only where none lives long enough to be
/// welcomed; the oldest are then waited for as any silent one.
const RUNS_MAX: usize = 32;
/// Longer than any host's name with a port.
const NAME_BYTES_MAX: u64 = 512;
/// More than as many lines of a UUID as are kept.
const RUNS_BYTES_MAX: u64 = 4096;

impl Folder {
    /// Makes the folder where it is absent, and takes its lock.
    ///
    /// # Errors
    ///
    /// When another process owns it, or it cannot be used at all. One that can
    /// only be read is fine: see [`Folder::is_writable`].
    pub fn own(path: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Unusable { path: path.to_owned(), source };
        create(path).map_err(unusable)?;
        let mut lock = open_lock(&path.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = lock.read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(Error::Owned { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let mut folder = Self { path: path.to_owned(), is_writable: true, lock };
        folder.is_writable = folder.try_write();
        // For whoever finds it locked; nobody relies on it.
        let _ = sign(&folder.lock);
        Ok(folder)
    }

    /// A folder whose lock has been passed on by its owner, who has it still.
    pub fn inherited(path: &Path, lock: File) -> Self {
        let mut folder = Self { path: path.to_owned(), is_writable: true, lock };
        folder.is_writable = folder.try_write();
        folder
    }

    /// The lock, for a successor: it is one lock, whoever has a descriptor of it.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn share_lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether files can be made in it. A full disk can, later.
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// The proxy's name: as given, else as it was last time, else `default`; and
    /// noted for next time.
    pub fn proxy_id(&self, given: Option<&str>, default: impl FnOnce() -> String) -> String {
        let noted = self.noted_name();
        let name = given.map(str::to_owned).or_else(|| noted.clone()).unwrap_or_else(default);
        if noted.as_deref() != Some(&name)
            && let Err(error) = self.note(NAME, &format!("{name}\n"))
        {
            tracing::warn!(%error, "the proxy's name is not noted: give --proxy-id to keep it");
        }
        name
    }

    /// Notes a run of the proxy, and says which earlier ones have ended. What
    /// cannot be read or written only costs the control plane some waiting.
    pub fn note_run(&self, run: InstanceId) -> Noted {
        let mut text = String::new();
        let read =
            File::open(self.path.join(RUNS)).and_then(|file| file.take(RUNS_BYTES_MAX).read_to_string(&mut text));
        let runs = text.lines().filter_map(|line| line.parse().ok());
        let (mut running, mut ended): (Vec<InstanceId>, Vec<_>) = runs.partition(|run| self.is_running(*run));
        for runs in [&mut running, &mut ended] {
            runs.drain(..runs.len().saturating_sub(RUNS_MAX));
        }
        let lines: String = ended.iter().chain(&running).chain([&run]).map(|run| format!("{run}\n")).collect();
        let noted = read.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(error) });
        let mark = self.mark(run).and_then(|mark| noted.and_then(|_| self.note(RUNS, &lines)).map(|()| mark));
        if let Err(error) = &mark {
            tracing::warn!(%error, "this run of the proxy is not noted: if it crashes it is waited for a while");
        }
        self.remove_old_marks();
        Noted { ended, mark: mark.ok() }
    }

    /// Whether the process of a run is still there: one that has handed its
    /// sockets on goes on until its requests have ended, and has no lock on the
    /// folder any more.
    fn is_running(&self, run: InstanceId) -> bool {
        match File::open(self.path.join(mark_name(run))) {
            // An error is no proof that it has ended.
            Ok(mark) => !matches!(mark.try_lock(), Ok(())),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn mark(&self, run: InstanceId) -> io::Result<Mark> {
        let path = self.path.join(mark_name(run));
        let file = private(OpenOptions::new().write(true).create(true).truncate(false), &path)?;
        file.try_lock()?;
        Ok(Mark { _file: file })
    }

    fn remove_old_marks(&self) {
        let names = self.names().unwrap_or_default();
        let runs = names.iter().filter_map(|name| name.strip_prefix(MARK)?.parse().ok());
        for run in runs.filter(|run| !self.is_running(*run)) {
            // One that stays is looked at again at the next start.
            let _ = fs::remove_file(self.path.join(mark_name(run)));
        }
    }

    fn noted_name(&self) -> Option<String> {
        let mut text = String::new();
        File::open(self.path.join(NAME)).ok()?.take(NAME_BYTES_MAX).read_to_string(&mut text).ok()?;
        let name = text.trim();
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
        is_name.then(|| name.to_owned())
    }

    fn note(&self, name: &str, text: &str) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}{TEMPORARY}"));
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(true), &temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    fn try_write(&self) -> bool {
        let probe = self.path.join(format!("open{TEMPORARY}"));
        let made = private(OpenOptions::new().write(true).create(true).truncate(true), &probe);
        let removed = made.and_then(|_| fs::remove_file(&probe));
        let is_forbidden = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        };
        !removed.is_err_and(|error| is_forbidden(&error))
    }
}

/// Writes into the lock who has it.
///
/// # Errors
///
/// When it cannot be written to.
pub fn sign(mut lock: &File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    writeln!(lock, "{}", std::process::id())
}

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.path)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn changed_at(&self, name: &str) -> Option<SystemTime> {
        fs::metadata(self.path.join(name)).and_then(|metadata| metadata.modified()).ok()
    }

    fn create(&mut self, name: &str) -> io::Result<Box<dyn Sink>> {
        let file = private(OpenOptions::new().write(true).create(true).truncate(true), &self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn resume(&mut self, name: &str, length: u64) -> io::Result<Box<dyn Sink>> {
        let mut file = private(OpenOptions::new().write(true), &self.path.join(name))?;
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        Ok(Box::new(file))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        // The length is synced with it; times are not, and nobody needs them.
        self.sync_data()
    }
}

fn mark_name(run: InstanceId) -> String {
    format!("{MARK}{run}")
}

fn create(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    // 0711, as the control plane makes it, which may come to share it.
    DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
    DirBuilder::new().mode(0o700).create(path)?;
    File::open(parent)?.sync_all()
}

fn open_lock(path: &Path) -> io::Result<File> {
    let opened = private(OpenOptions::new().read(true).write(true).create(true).truncate(false), path);
    // What can only be read can be locked all the same.
    opened.or_else(|error| File::open(path).map_err(|_| error))
}

fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}
