//! The guard: ends replicas when the supervisor can no longer do it.
//!
//! A process of its own (`repoint worker-guard`), told through a pipe which
//! process groups there are. When the pipe closes, for whatever reason, `kill
//! -9` included, every group still known is asked to end and two seconds later
//! made to. The kernel's parent-death signal asks replicas themselves, which may
//! be deaf to it; the guard insists, and also reaches what they started. A replica
//! says itself that it is there, before it becomes what the bundle runs: one that
//! only the supervisor could name would outlive a supervisor killed before it did.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::process::detached;

/// The word that makes the binary a guard.
pub const SUBCOMMAND: &str = "worker-guard";

/// From asking to insisting. Short: whoever killed the supervisor wants the machine quiet.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at who is left.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs as the guard until standard input closes. Called by the binary, before it does anything else.
pub fn main() -> ExitCode {
    // Whatever folder this was started in may be unmounted or removed meanwhile.
    let _ = std::env::set_current_dir("/");
    let mut groups = HashSet::new();
    for line in io::stdin().lock().lines() {
        // A pipe that fails is as good as closed.
        let Ok(line) = line else { break };
        note(&mut groups, &line);
    }
    end(groups);
    ExitCode::SUCCESS
}

/// `+PGID` adds, `-PGID` removes; anything else was not said by us.
fn note(groups: &mut HashSet<Pid>, line: &str) {
    let number = |text: &str| text.parse().ok().filter(|number| *number > 1).and_then(Pid::from_raw);
    if let Some(group) = line.strip_prefix('+').and_then(number) {
        groups.insert(group);
    } else if let Some(group) = line.strip_prefix('-').and_then(number) {
        groups.remove(&group);
    }
}

fn end(mut groups: HashSet<Pid>) {
    // A group that is gone already is no failure; there is nobody to report any other one to.
    groups.retain(|group| kill_process_group(*group, Signal::TERM).is_ok());
    let deadline = Instant::now() + GRACE;
    while !groups.is_empty() && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
        groups.retain(|group| test_kill_process_group(*group).is_ok());
    }
    for group in groups {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// The supervisor's end: a guard that is started again should anybody end it.
#[derive(Debug)]
pub(super) struct Guard {
    told: mpsc::UnboundedSender<Told>,
    task: JoinHandle<()>,
    line: Weak<Line>,
}

/// The pipe to the guard that runs now, for replicas that have just been forked. Absent while there is no guard.
/// The guard's task is its only lasting owner: the pipe closes with that.
pub(super) type Line = Mutex<Option<OwnedFd>>;

#[derive(Debug)]
enum Told {
    Add(u32),
    Remove(u32),
}

impl Guard {
    /// Starts a guard from `executable`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(executable: Option<&Path>) -> io::Result<Self> {
        // The link leads to the running binary also when its file was replaced.
        let executable = executable.map_or_else(|| PathBuf::from("/proc/self/exe"), Path::to_owned);
        let first = launch(&executable, &BTreeSet::new())?;
        let (told, hears) = mpsc::unbounded_channel();
        let line = Arc::new(Line::default());
        connect(&line, Some(&first.1));
        Ok(Self { told, line: Arc::downgrade(&line), task: tokio::spawn(attend(executable, first, hears, line)) })
    }

    /// Where a replica says that it is there.
    pub fn line(&self) -> Weak<Line> {
        Weak::clone(&self.line)
    }

    /// A process group came to be.
    pub fn add(&self, group: u32) {
        // The task ends only with the runtime.
        let _ = self.told.send(Told::Add(group));
    }

    /// A process group is gone.
    pub fn remove(&self, group: u32) {
        let _ = self.told.send(Told::Remove(group));
    }

    /// Lets the guard end what is left and waits for it.
    pub async fn finish(self) {
        drop(self.told);
        // Ends within its grace; a task that panicked has let go of the pipe, which is all that matters.
        let _ = self.task.await;
    }
}

/// Keeps a guard running and telling it what there is.
async fn attend(
    executable: PathBuf,
    mut guard: (Child, Sender),
    mut hears: mpsc::UnboundedReceiver<Told>,
    line: Arc<Line>,
) {
    let mut groups = BTreeSet::new();
    loop {
        let words = tokio::select! {
            told = hears.recv() => match told {
                Some(Told::Add(group)) => { groups.insert(group); format!("+{group}\n") }
                Some(Told::Remove(group)) => { groups.remove(&group); format!("-{group}\n") }
                None => break,
            },
            ended = guard.0.wait() => {
                tracing::warn!(?ended, "the worker guard ended; starting another one");
                match launch(&executable, &groups) {
                    Ok(next) => {
                        connect(&line, Some(&next.1));
                        guard = next;
                    }
                    Err(error) => {
                        connect(&line, None);
                        tracing::error!(%error, "workers are without a guard: they may outlive a crash of repoint");
                        while hears.recv().await.is_some() {}
                        return;
                    }
                }
                continue;
            }
        };
        // A guard that is gone is noticed above.
        let _ = guard.1.write_all(words.as_bytes()).await;
    }
    let (mut child, pipe) = guard;
    connect(&line, None);
    drop(pipe);
    let _ = child.wait().await;
}

/// Replicas speak to the guard behind this pipe from now on; without one the supervisor alone does.
fn connect(line: &Line, pipe: Option<&Sender>) {
    let pipe = pipe.and_then(|pipe| pipe.as_fd().try_clone_to_owned().ok());
    *line.lock().unwrap_or_else(PoisonError::into_inner) = pipe;
}

/// Starts a guard that knows of `groups` from its first moment: they are in the pipe before it exists.
fn launch(executable: &Path, groups: &BTreeSet<u32>) -> io::Result<(Child, Sender)> {
    let (reader, mut writer) = io::pipe()?;
    let lines: String = groups.iter().map(|group| format!("+{group}\n")).collect();
    // A pipe holds 64 KiB, which is thousands of groups.
    writer.write_all(lines.as_bytes())?;
    let mut command = std::process::Command::new(executable);
    command.arg0("repoint").arg(SUBCOMMAND).stdin(reader).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Command::from(detached(command)).spawn()?;
    Ok((child, Sender::from_owned_fd(writer.into())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_groups_are_noted() {
        let mut groups = HashSet::new();
        for line in ["+12", "+13", "-12", "+0", "+1", "+-5", "x", "", "+99999999999", "-77"] {
            note(&mut groups, line);
        }
        // 0 would be the guard's own group, 1 every process there is.
        assert_eq!(groups.into_iter().map(Pid::as_raw_nonzero).map(i32::from).collect::<Vec<_>>(), [13]);
    }
}
