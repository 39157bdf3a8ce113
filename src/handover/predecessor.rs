//! The successor's side: what it is given, and when it may begin.

use std::io;
use std::net::TcpListener;
use std::path::Path;

use tokio::net::UnixStream;

use crate::handover::channel::{Channel, Message, unexpected};
use crate::handover::{Error, Estate, PROTOCOL, Passed, door_of};

/// The proxy that runs, while it waits for us.
#[derive(Debug)]
pub struct Predecessor(Channel);

/// Asks the proxy that has this folder for what it has. `None`: none runs that
/// could be asked.
///
/// # Errors
///
/// When it does not want to, or is somebody else's.
pub async fn meet(folder: &Path, build: &str) -> Result<Option<(Predecessor, Estate)>, Error> {
    let path = door_of(folder);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(source) => return Err(Error::Door { path, source }),
    };
    let (mut channel, _) = Channel::new(stream)?;
    channel.say(&Message::Hello { protocol: PROTOCOL, build: build.to_owned() }).await?;
    let (described, position) = match channel.hear().await? {
        Message::Offer { sockets, position } => (sockets, position),
        other => return Err(unexpected(&other)),
    };
    let mut sockets = Vec::new();
    for socket in described {
        let listener = TcpListener::from(channel.take().await?);
        sockets.push(Passed { name: socket.name, asked: socket.asked, is_fixed: socket.is_fixed, listener });
    }
    let lock = channel.take().await?.into();
    Ok(Some((Predecessor(channel), Estate { sockets, lock, position })))
}

impl Predecessor {
    /// Says that we could serve, and waits until we may.
    ///
    /// # Errors
    ///
    /// When it does not let us, or has ended.
    pub async fn ready(&mut self) -> Result<(), Error> {
        self.0.say(&Message::Ready).await?;
        match self.0.hear().await? {
            Message::Go => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Says that we serve. Nothing is to be done where it does not hear that.
    pub async fn serving(&mut self) {
        let _ = self.0.say(&Message::Serving).await;
    }

    /// Resolves when it waits no longer, with the reason.
    pub async fn gone(&mut self) -> Error {
        match self.0.hear_ever().await {
            Ok(other) => unexpected(&other),
            Err(error) => error,
        }
    }
}
