//! Starting a successor when a signal asks for one.
//!
//! It is started as this process was, from the same path, which may hold a newer
//! binary by now; all the rest is between the two of them.

use std::convert::Infallible;
use std::io;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};
use tokio::signal::unix::Signal;
use tracing::{info, warn};

use crate::app::{SERVING, notify};

/// What a successor is told beside what this process was told.
const TAKE_OVER: &str = "--take-over";

/// Starts a successor each time the signal comes, one at a time.
pub(super) async fn start(asked: &mut Signal) -> Infallible {
    let mut successor = None;
    loop {
        tokio::select! {
            _ = asked.recv() => match &successor {
                Some(_) => warn!("a successor prepares already; no other one is started"),
                None => successor = begin(),
            },
            ended = end(&mut successor) => {
                successor = None;
                let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                warn!(status, "the successor has ended; this proxy goes on as before");
                notify::ready("serving; the successor has failed");
            }
        }
    }
}

fn begin() -> Option<Child> {
    notify::reloading();
    match spawn() {
        Ok(child) => {
            info!(pid = child.id(), "a successor is started");
            Some(child)
        }
        Err(error) => {
            warn!(%error, "a successor cannot be started; this proxy goes on as before");
            notify::ready(SERVING);
            None
        }
    }
}

/// By the name it was called by, as a shell would: a link that leads to the
/// newest version is followed anew.
fn spawn() -> io::Result<Child> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    command.args(arguments.filter(|argument| argument != TAKE_OVER)).arg(TAKE_OVER);
    // The watchdog is to be the successor's once it is the main process.
    command.env_remove("WATCHDOG_PID").stdin(Stdio::null()).spawn()
}

async fn end(successor: &mut Option<Child>) -> io::Result<ExitStatus> {
    match successor {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}
