//! Starting processes, and everything that happens between fork and exec.
//!
//! The one file of the worker with `unsafe` in it. A replica gets a session of
//! its own (so that all of its processes can be reached), an environment of its
//! own, no descriptor but its output, and a signal when this process dies. That
//! signal fires when the *thread* that forked ends, and threads of a runtime do,
//! hence [`Spawner`]: one thread that stays.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{PoisonError, Weak, mpsc};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::guard::Line;

/// What to start.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// Program and arguments; the program is looked up in the `PATH` of `environment`.
    pub command: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// All of its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// User and group it runs as, without any other group; `None`: as we do.
    pub user: Option<u32>,
    /// Address space at most.
    pub memory_bytes: Option<u64>,
    /// Open files at most.
    pub open_files: Option<u64>,
}

/// The thread that forks.
#[derive(Clone, Debug)]
pub(super) struct Spawner {
    requests: mpsc::Sender<Request>,
}

type Request = (Launch, oneshot::Sender<io::Result<Child>>);

impl Spawner {
    /// Starts the thread; it stays until the last clone is dropped, and replicas with it. What it starts says so on the
    /// guard's `line`.
    pub fn start(runtime: Handle, line: Weak<Line>) -> io::Result<Self> {
        let (requests, received) = mpsc::channel::<Request>();
        std::thread::Builder::new().name("worker-spawner".to_owned()).spawn(move || {
            // Children are reaped by the runtime.
            let _entered = runtime.enter();
            for (launch, answer) in received {
                // Whoever asked may be gone; then the child is dropped, and killed with that.
                let _ = answer.send(spawn(&launch, &line));
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts a process.
    pub async fn spawn(&self, launch: Launch) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts workers is gone");
        let (answer, answered) = oneshot::channel();
        self.requests.send((launch, answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn spawn(launch: &Launch, line: &Weak<Line>) -> io::Result<Child> {
    let (program, arguments) = launch.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .current_dir(&launch.folder)
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(user) = launch.user {
        // As root, `uid` also drops every supplementary group.
        command.gid(user).uid(user);
    }
    let parent = libc::pid_t::try_from(std::process::id()).map_err(|_| io::ErrorKind::InvalidData)?;
    let (memory_bytes, open_files) = (launch.memory_bytes, launch.open_files);
    // Held until the child has spoken, so that the guard is not replaced by one that was not there to hear it.
    let line = line.upgrade();
    let line = line.as_deref().map(|line| line.lock().unwrap_or_else(PoisonError::into_inner));
    let guard = line.as_ref().and_then(|line| line.as_ref());
    let (mut said, say) = io::pipe()?;
    let (to_guard, to_us) = (guard.map(AsRawFd::as_raw_fd), say.as_raw_fd());
    #[allow(unsafe_code, reason = "there is no other way to run something between fork and exec")]
    // SAFETY: `prepare` makes only calls that are async-signal-safe (signal-safety(7)) or plain system calls, and
    // neither allocates nor locks: this process has threads, of which the child is a copy without the others.
    unsafe {
        command.pre_exec(move || {
            prepare(parent, memory_bytes, open_files)?;
            announce(to_guard, to_us);
            Ok(())
        });
    }
    let spawned = Command::from(command).kill_on_drop(true).spawn();
    drop(say);
    let mut pid = [0; size_of::<libc::pid_t>()];
    if let (Err(_), Some(guard), Ok(())) = (&spawned, guard, said.read_exact(&mut pid)) {
        // It was there and could not be executed: the guard forgets its number before anybody else gets it.
        let _ = rustix::io::write(guard, format!("-{}\n", libc::pid_t::from_ne_bytes(pid)).as_bytes());
    }
    spawned
}

/// Runs in the child, last of all: tells the guard that this process group is there, and the parent its number, which
/// it does not learn otherwise when the program cannot be executed. A guard that does not hear it is told by the parent.
fn announce(to_guard: Option<RawFd>, to_us: RawFd) {
    let pid = std::process::id().cast_signed();
    let mut line = [b'\n'; 16];
    let mut at = line.len() - 1;
    let mut rest = pid;
    while rest > 0 {
        at -= 1;
        line[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    at -= 1;
    line[at] = b'+';
    let line = &line[at..];
    #[allow(unsafe_code, reason = "plain system calls, with pointers to values on the stack")]
    // SAFETY: see `spawn`; both descriptors were open when this process was forked, and the values outlive the calls.
    unsafe {
        libc::write(to_us, pid.to_ne_bytes().as_ptr().cast(), size_of::<libc::pid_t>());
        if let Some(guard) = to_guard {
            // A guard that has just ended must not end us too.
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::write(guard, line.as_ptr().cast(), line.len());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
    }
}

/// Runs in the child, after it has changed user and folder.
fn prepare(parent: libc::pid_t, memory_bytes: Option<u64>, open_files: Option<u64>) -> io::Result<()> {
    #[allow(unsafe_code, reason = "plain system calls without pointers, but for one to a value on the stack")]
    // SAFETY: see the caller; the limits outlive the calls that read them.
    unsafe {
        // Its own session and process group, numbered as the child is.
        check(libc::setsid())?;
        // Nobody but its own user and group reads what a replica writes.
        libc::umask(0o027);
        // Cleared by changing the user, so it comes after that. It is not inherited: the guard sees to grandchildren.
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM))?;
        if libc::getppid() != parent {
            // The parent died before the line above.
            libc::_exit(1);
        }
        if let Some(limit) = memory_bytes {
            check(libc::setrlimit(libc::RLIMIT_AS, &libc::rlimit { rlim_cur: limit, rlim_max: limit }))?;
        }
        if let Some(limit) = open_files {
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: limit, rlim_max: limit }))?;
        }
        close_others()
    }
}

/// Marks every descriptor but the standard three to be closed by exec. Marked, not closed: the standard library reports
/// a failed exec through one of them.
fn close_others() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a plain system call without pointers")]
    // SAFETY: nothing in this process owns descriptors it would miss: it is about to become another program.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `command` a process that outlives this one: a session of its own, deaf to the signals a terminal or a service
/// manager sends, and without our descriptors.
pub(super) fn detached(mut command: std::process::Command) -> std::process::Command {
    #[allow(unsafe_code, reason = "there is no other way to run something between fork and exec")]
    // SAFETY: as in `spawn`; ignored signals stay ignored over exec (signal(7)).
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_IGN);
            }
            close_others()
        });
    }
    command
}

/// The most open files a process may be given here.
pub(super) fn open_files_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}
