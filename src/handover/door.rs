//! The running proxy's side: who knocks, what is offered, when it is done.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tracing::{info, warn};

use crate::handover::channel::{Channel, Described, Message, unexpected};
use crate::handover::{Error, Estate, PROTOCOL, door_of};

/// Where successors knock. Dropping it removes it.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

/// Somebody who may take over.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
    /// Its process, where the kernel says so.
    pub pid: Option<u32>,
    /// Its software and version.
    pub build: String,
}

/// Who comes in and says nothing keeps others waiting for so long.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

impl Door {
    /// Opens one in a folder whose lock is ours: what an earlier process left
    /// there is removed.
    ///
    /// # Errors
    ///
    /// When there can be none: its path is longer than Unix sockets allow, or the
    /// folder is read-only.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = door_of(folder);
        // Nobody listens there: its owner had the lock.
        let _ = fs::remove_file(&path);
        // The folder lets nobody else in, so that the mode is only said twice.
        let opened = UnixListener::bind(&path)
            .and_then(|listener| fs::set_permissions(&path, Permissions::from_mode(0o600)).map(|()| listener));
        match opened {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(Error::Door { path, source }),
        }
    }

    /// Waits for a successor of our own user that speaks our protocol. Others
    /// are turned away.
    pub async fn knocked(&self) -> Successor {
        loop {
            let Some(stream) = self.accepted().await else { continue };
            match greeted(stream).await {
                Ok(successor) => {
                    info!(pid = successor.pid, build = successor.build, "a successor would like to take over");
                    return successor;
                }
                Err(error) => warn!(error = &error as &dyn std::error::Error, "turned away at the hand-over"),
            }
        }
    }

    /// Turns everybody away for as long as it is waited for.
    pub async fn turn_away(&self, reason: &str) -> Infallible {
        loop {
            let Some(stream) = self.accepted().await else { continue };
            let Ok(mut successor) = greeted(stream).await else { continue };
            warn!(pid = successor.pid, reason, "turned away at the hand-over");
            successor.refuse(reason).await;
        }
    }

    async fn accepted(&self) -> Option<UnixStream> {
        match self.listener.accept().await {
            Ok((stream, _)) => Some(stream),
            Err(error) => {
                warn!(%error, "failed to hear who would like to take over");
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Left behind it does no harm: the next owner of the folder removes it.
        let _ = fs::remove_file(&self.path);
    }
}

async fn greeted(stream: UnixStream) -> Result<Successor, Error> {
    let (mut channel, pid) = Channel::new(stream)?;
    match channel.hear_within(GREETING_TIMEOUT).await? {
        Message::Hello { protocol: PROTOCOL, build } => Ok(Successor { channel, pid, build }),
        Message::Hello { protocol, build } => {
            let reason = format!("it hands over by protocol {PROTOCOL}, and {build} takes over by protocol {protocol}");
            channel.say(&Message::Refused { reason: reason.clone() }).await?;
            Err(Error::Misunderstood(reason))
        }
        other => Err(unexpected(&other)),
    }
}

impl Successor {
    /// Shows and gives what there is. The files must not change from here on.
    ///
    /// # Errors
    ///
    /// When it does not arrive.
    pub async fn offer(&mut self, estate: &Estate) -> Result<(), Error> {
        let describe = |passed: &super::Passed| Described {
            name: passed.name.clone(),
            asked: passed.asked,
            is_fixed: passed.is_fixed,
        };
        let sockets = estate.sockets.iter().map(describe).collect();
        self.channel.say(&Message::Offer { sockets, position: estate.position }).await?;
        for passed in &estate.sockets {
            self.channel.pass(&passed.listener).await?;
        }
        self.channel.pass(&estate.lock).await
    }

    /// Waits until it could serve.
    ///
    /// # Errors
    ///
    /// When it could not within `deadline`, which it is told, or has ended.
    pub async fn ready(&mut self, deadline: Duration) -> Result<(), Error> {
        match self.channel.hear_within(deadline).await {
            Ok(Message::Ready) => Ok(()),
            Ok(other) => Err(unexpected(&other)),
            Err(Error::Late(limit)) => {
                self.refuse(&format!("its successor was not ready within {} s", limit.as_secs())).await;
                Err(Error::Late(limit))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets it serve, and waits until it does. There is no deadline any more: it
    /// does, or it ends.
    ///
    /// # Errors
    ///
    /// When it has ended before.
    pub async fn go(&mut self) -> Result<(), Error> {
        self.channel.say(&Message::Go).await?;
        match self.channel.hear_ever().await? {
            Message::Serving => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Says why it goes no further. Who does not hear that sees the end.
    pub async fn refuse(&mut self, reason: &str) {
        let _ = self.channel.say(&Message::Refused { reason: reason.to_owned() }).await;
    }
}
