//! Starting one replica: what it is given, and what is taken back when it ends.
//!
//! Everything that can be found wrong before the process exists is found here
//! and said with its remedy; the process itself is `process`'s business.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::logs::LogFolder;
use crate::model::id::EndpointId;
use crate::model::manifest::Manifest;
use crate::model::pool::{PoolError, PoolErrorKind, PoolKey};

use super::Config;
use super::desired::DesiredPool;
use super::event::Event;
use super::guard::Guard;
use super::observed::{Phase, Replica};
use super::ports::{Claim, Numbers};
use super::process::{Launch, Spawner, open_files_max};
use super::reach::first_closed_to;

/// Why a replica could not be started. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("find a free port in {0}-{1}; widen the range with --worker-ports, or stop what uses it")]
    NoPort(u16, u16),
    #[error("find a free user for another replica; a thousand run already")]
    NoUser,
    // Without the user's number: the next start has another one, and the store counts equal messages.
    #[error(
        "run the worker as a user of its own: that one cannot enter {}; allow it with `chmod o+x {}`, or give another \
         --data-dir", .0.display(), .0.display()
    )]
    Closed(PathBuf),
    #[error("give the worker {asked} open files: this machine allows {max}; lower limits.open_files")]
    OpenFiles { asked: u64, max: u64 },
    #[error("prepare {path} for the worker: {source}; make room or correct its mode")]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "run {0:?}: no such program, or its interpreter is missing; correct worker.command, put the program into the bundle and write \"./name\", or \
         into the PATH that repoint runs with"
    )]
    NoProgram(String),
    #[error(
        "run {}: the worker's user may not; `chmod +x` it, start it with its interpreter, or put it where every user \
         can enter", .0.display()
    )]
    NotExecutable(PathBuf),
    #[error("run {program:?}: {source}")]
    Start { program: String, source: io::Error },
}

impl Error {
    /// As recorded for the pool.
    pub fn fault(&self, at: Timestamp) -> PoolError {
        let kind = match self {
            Self::NoProgram(_) | Self::NotExecutable(_) => PoolErrorKind::ImageInvalid,
            Self::NoPort(..)
            | Self::NoUser
            | Self::Closed(_)
            | Self::OpenFiles { .. }
            | Self::Folder { .. }
            | Self::Start { .. } => PoolErrorKind::SchedulingFailed,
        };
        PoolError { at, kind, message: format!("failed to {self}"), output: Vec::new(), count: 1 }
    }
}

/// What replicas are given, and who watches over them.
#[derive(Debug)]
pub(super) struct Launcher {
    ports: Numbers,
    port_range: (u16, u16),
    users: Numbers,
    advertise: IpAddr,
    work: PathBuf,
    spawner: Spawner,
    guard: Guard,
    logs: LogFolder,
    told: mpsc::UnboundedSender<Event>,
}

/// What a start takes, and an end gives back.
struct Given {
    id: EndpointId,
    port: u16,
    user: Option<u32>,
}

impl Launcher {
    /// Starts the helpers and sweeps the working folders of an earlier run.
    pub fn new(config: &Config, logs: LogFolder, told: mpsc::UnboundedSender<Event>) -> io::Result<Self> {
        let work = config.data_dir.join("work");
        match fs::remove_dir_all(&work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        folder(&work, 0o711)?;
        let guard = Guard::start(config.executable.as_deref())?;
        Ok(Self {
            ports: Numbers::new(u32::from(*config.ports.start())..=u32::from(*config.ports.end()), config.port_pause),
            port_range: (*config.ports.start(), *config.ports.end()),
            users: Numbers::new(config.users.clone(), config.port_pause),
            advertise: config.advertise,
            work,
            spawner: Spawner::start(tokio::runtime::Handle::current(), guard.line())?,
            guard,
            logs,
            told,
        })
    }

    /// Starts one replica of `pool`, whose bundle lies unpacked in `bundle`.
    pub async fn launch(
        &mut self,
        pool: &DesiredPool,
        manifest: &Manifest,
        bundle: &Path,
    ) -> Result<(EndpointId, Replica), Error> {
        let given = self.give()?;
        let launched = self.launch_with(pool, manifest, bundle, &given).await;
        if launched.is_err() {
            self.take_back(given.port, given.user, Instant::now());
            // What is left is swept at the next start.
            let _ = fs::remove_dir_all(self.folder_of(given.id));
        }
        launched
    }

    async fn launch_with(
        &self,
        pool: &DesiredPool,
        manifest: &Manifest,
        bundle: &Path,
        given: &Given,
    ) -> Result<(EndpointId, Replica), Error> {
        if let (Some(asked), Some(max)) = (manifest.limits.open_files, open_files_max())
            && asked > max
        {
            return Err(Error::OpenFiles { asked, max });
        }
        let work = self.folder_of(given.id);
        let unusable = |source| Error::Folder { path: work.clone(), source };
        folder(&work, 0o700).map_err(unusable)?;
        if let Some(user) = given.user {
            chown(&work, Some(user), Some(user)).map_err(unusable)?;
            for path in [bundle, &work] {
                let closed =
                    first_closed_to(path, user).map_err(|source| Error::Folder { path: path.to_owned(), source })?;
                closed.map_or(Ok(()), |folder| Err(Error::Closed(folder)))?;
            }
        }
        let writer = self.logs.writer(pool.row.key, given.id).map_err(unusable)?;
        let launch = Launch {
            command: manifest.worker.command.clone(),
            folder: bundle.to_owned(),
            environment: environment(pool, given.port, &work),
            user: given.user,
            memory_bytes: manifest.limits.memory.map(|memory| memory.0),
            open_files: manifest.limits.open_files,
        };
        let program = manifest.worker.command.first().cloned().unwrap_or_default();
        let child = self.spawner.spawn(launch).await.map_err(|source| not_started(program, source))?;
        let address = SocketAddr::new(self.advertise, given.port);
        let replica = replica(&child, address, given.user, manifest.worker.stop_grace.duration());
        self.guard.add(replica.pid);
        self.attend(pool.row.key, given.id, child, writer, &replica);
        Ok((given.id, replica))
    }

    /// Keeps what the replica prints, and tells when it has ended.
    fn attend(
        &self,
        pool: PoolKey,
        id: EndpointId,
        mut child: Child,
        writer: crate::logs::write::LogWriter,
        replica: &Replica,
    ) {
        let told = self.told.clone();
        let pid = replica.pid;
        let pipe = "both pipes were asked for when the process was started";
        let capture = writer.capture(child.stdout.take().expect(pipe), child.stderr.take().expect(pipe));
        capture.note(format!("started as process {pid} on port {}", replica.address.port()));
        tokio::spawn(async move {
            let status = child.wait().await;
            // What it started ends with it, also what would hold on to its port. The group's number is not given to
            // anybody else while one of them lives, and hardly in the instant since the last one ended.
            signal(pid, Signal::KILL);
            // Nobody listens any more when the supervisor has ended.
            let _ = told.send(Event::Ended { pool, replica: id, status, capture });
        });
    }

    /// A replica has ended: what it was given rests, then goes to others.
    pub fn ended(&mut self, replica: &Replica, now: Instant) {
        self.guard.remove(replica.pid);
        self.take_back(replica.address.port(), replica.user, now);
    }

    /// A port that a replica of an earlier run had. Proxies may still know it.
    pub fn rest(&mut self, port: u16, now: Instant) {
        self.ports.rest(u32::from(port), now, Claim::port);
    }

    /// The folder that a replica works in; to be removed after it has ended.
    pub fn folder_of(&self, id: EndpointId) -> PathBuf {
        self.work.join(id.to_string())
    }

    /// Lets the guard end whatever is left.
    pub async fn finish(self) {
        self.guard.finish().await;
    }

    fn give(&mut self) -> Result<Given, Error> {
        let now = Instant::now();
        let port = self.ports.take(now, Claim::port).and_then(|port| u16::try_from(port).ok());
        let port = port.ok_or(Error::NoPort(self.port_range.0, self.port_range.1))?;
        let user = match rustix::process::geteuid().is_root() {
            true => match self.users.take(now, Claim::user) {
                Some(user) => Some(user),
                None => {
                    self.take_back(port, None, now);
                    return Err(Error::NoUser);
                }
            },
            false => None,
        };
        // Version 7, so that replicas sort by their start.
        Ok(Given { id: Uuid::now_v7().into(), port, user })
    }

    fn take_back(&mut self, port: u16, user: Option<u32>, now: Instant) {
        self.ports.give_back(u32::from(port), now);
        if let Some(user) = user {
            self.users.give_back(user, now);
        }
    }
}

/// Sends a signal to a replica and everything it started.
pub(super) fn signal(pid: u32, signal: Signal) {
    let group = i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
    if let Some(group) = group {
        // It fails when they are gone already, which is what was wanted.
        let _ = kill_process_group(group, signal);
    }
}

fn replica(child: &Child, address: SocketAddr, user: Option<u32>, stop_grace: Duration) -> Replica {
    Replica {
        address,
        // Absent only once the child was waited for.
        pid: child.id().unwrap_or_default(),
        user,
        phase: Phase::Up,
        started: Instant::now(),
        since: Timestamp::now(),
        ready: false,
        ready_since: None,
        timeout_told: false,
        probe_error: None,
        stop_grace,
    }
}

/// All that a replica gets: what it is promised, and what makes programs behave.
fn environment(pool: &DesiredPool, port: u16, work: &Path) -> Vec<(OsString, OsString)> {
    let own = |name: &str| std::env::var_os(name);
    let path = own("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let promised = [
        ("PORT", port.to_string().into()),
        ("REPOINT_PROJECT", pool.project.as_str().into()),
        ("REPOINT_ENVIRONMENT", pool.environment.as_str().into()),
        ("REPOINT_DEPLOYMENT_ID", pool.deployment.id.to_string().into()),
        ("HOME", work.into()),
        ("TMPDIR", work.into()),
        ("PATH", path),
    ];
    let inherited = ["LANG", "LC_ALL", "TZ"].into_iter().filter_map(|name| Some((name, own(name)?)));
    promised.into_iter().chain(inherited).map(|(name, value)| (name.into(), value)).collect()
}

fn not_started(program: String, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound => Error::NoProgram(program),
        // Also what a search of the PATH ends with when it could not enter one of the folders there.
        io::ErrorKind::PermissionDenied => found(&program).map_or(Error::NoProgram(program), Error::NotExecutable),
        _ => Error::Start { program, source },
    }
}

/// Where a program is, as far as we can see.
fn found(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Makes a folder of this mode, whatever the umask says.
pub(super) fn folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}
