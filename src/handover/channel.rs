//! The words of the two sides, and the descriptors that go with them.
//!
//! A message is JSON behind its length. Each descriptor travels with a byte of
//! its own, so that none is lost to a read that did not ask for it, and their
//! number has no limit.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::handover::{ANSWER_TIMEOUT, Error, Place};

/// What is said.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "says", rename_all = "snake_case")]
pub(super) enum Message {
    /// A successor would like to begin.
    Hello { protocol: u32, build: String },
    /// What it is given; the descriptors follow in this order, then the lock.
    Offer { sockets: Vec<Described>, position: Option<Place> },
    /// It is not, or no longer.
    Refused { reason: String },
    /// The successor could serve.
    Ready,
    /// It may.
    Go,
    /// It does.
    Serving,
}

/// A socket in words.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Described {
    pub name: String,
    pub asked: SocketAddr,
    #[serde(default)]
    pub is_fixed: bool,
}

/// A connection between the two.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

/// Thousands of sockets.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

impl Channel {
    /// A connection to a process of our own user. Answers its process, too.
    pub(super) fn new(stream: UnixStream) -> Result<(Self, Option<u32>), Error> {
        let peer = stream.peer_cred()?;
        if peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::Stranger { uid: peer.uid() });
        }
        let pid = peer.pid().and_then(|pid| pid.try_into().ok());
        Ok((Self(stream), pid))
    }

    pub(super) async fn say(&mut self, message: &Message) -> Result<(), Error> {
        let text = serde_json::to_vec(message).map_err(io::Error::from)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes(), &text[..]].concat();
        within(ANSWER_TIMEOUT, self.0.write_all(&bytes)).await
    }

    /// The next message, which comes at once.
    pub(super) async fn hear(&mut self) -> Result<Message, Error> {
        self.hear_within(ANSWER_TIMEOUT).await
    }

    pub(super) async fn hear_within(&mut self, limit: Duration) -> Result<Message, Error> {
        timeout(limit, self.hear_ever()).await.map_err(|_| Error::Late(limit))?
    }

    /// The next message, however long that takes. What the running proxy refuses
    /// is an error.
    pub(super) async fn hear_ever(&mut self) -> Result<Message, Error> {
        let length = self.0.read_u32().await? as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(Error::Misunderstood(format!("a message of {length} bytes is no message of this protocol")));
        }
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).await?;
        match serde_json::from_slice(&text) {
            Ok(Message::Refused { reason }) => Err(Error::Refused(reason)),
            Ok(message) => Ok(message),
            Err(error) => Err(Error::Misunderstood(format!("a message cannot be read ({error})"))),
        }
    }

    pub(super) async fn pass(&mut self, descriptor: impl AsFd) -> Result<(), Error> {
        let descriptors = [descriptor.as_fd()];
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            Ok(sendmsg(&self.0, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL).map(drop)?)
        };
        within(ANSWER_TIMEOUT, self.0.async_io(Interest::WRITABLE, send)).await
    }

    pub(super) async fn take(&mut self) -> Result<OwnedFd, Error> {
        let receive = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            // Not for children: they would keep a listener open that nobody accepts from.
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
            let descriptor = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            match descriptor {
                Some(descriptor) => Ok(descriptor),
                None if received.bytes == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
                None => Err(io::Error::other("a descriptor did not arrive: too many are open")),
            }
        };
        within(ANSWER_TIMEOUT, self.0.async_io(Interest::READABLE, receive)).await
    }
}

async fn within<T>(limit: Duration, what: impl Future<Output = io::Result<T>>) -> Result<T, Error> {
    Ok(timeout(limit, what).await.map_err(|_| Error::Late(limit))??)
}

/// For a message that does not belong here.
pub(super) fn unexpected(message: &Message) -> Error {
    Error::Misunderstood(format!("{message:?} was not expected here"))
}
