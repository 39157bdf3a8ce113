//! What the control plane says, as checked values.
//!
//! One enum for the messages of `SyncResponse`. `stream::server` builds them,
//! `stream::client` reads them. Change sets and records stay bytes here: they
//! are shared by all streams on one side and decoded once on the other.

use std::time::Duration;

use bytes::Bytes;

use crate::model::revision::Position;
use crate::wire::field::known;
use crate::wire::position::{encode_position, required_position};
use crate::wire::proto::sync_response::Message;
use crate::wire::{Error, proto};

pub use crate::wire::proto::{GoAwayReason, SyncMode};

/// What the control plane says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// The answer to Hello.
    Welcome(Welcome),
    /// A part of the whole state.
    SnapshotChunk(SnapshotChunk),
    /// What changed.
    Delta(Delta),
    /// Nothing new: where the store stands.
    Heartbeat(Position),
    /// Come back later.
    GoAway(GoAway),
}

/// The answer to Hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// Where the store stands.
    pub head: Position,
    /// What follows.
    pub mode: SyncMode,
    /// A heartbeat comes at least this often.
    pub heartbeat_interval: Duration,
    /// A status is expected this often.
    pub status_interval: Duration,
    /// Reconnects are spread over this.
    pub reconnect_spread: Duration,
    /// The newest protocol minor of the control plane.
    pub minor: u32,
    /// Its software and version.
    pub build: String,
}

/// A part of the whole state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotChunk {
    /// What the whole snapshot amounts to.
    pub position: Position,
    /// 0, 1, 2 …
    pub index: u32,
    /// No part follows.
    pub last: bool,
    /// Encoded records, as stored.
    pub records: Vec<Bytes>,
    /// An operator allowed it to lack much of what the table has.
    pub mass_change_allowed: bool,
}

/// What changed between two positions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delta {
    /// Where the table must stand.
    pub from: Position,
    /// Where it stands afterwards.
    pub to: Position,
    /// Encoded change sets, as stored, oldest first.
    pub change_sets: Vec<Bytes>,
}

/// Come back later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GoAway {
    /// Why.
    pub reason: GoAwayReason,
    /// After this long at the earliest.
    pub delay: Duration,
    /// At a random moment within this further time.
    pub spread: Duration,
}

impl From<Response> for proto::SyncResponse {
    fn from(response: Response) -> Self {
        let message = match response {
            Response::Welcome(welcome) => Message::Welcome(welcome.into()),
            Response::SnapshotChunk(chunk) => Message::SnapshotChunk(proto::SnapshotChunk {
                position: Some(encode_position(chunk.position)),
                index: chunk.index,
                last: chunk.last,
                records: chunk.records,
                mass_change_allowed: chunk.mass_change_allowed,
            }),
            Response::Delta(delta) => Message::Delta(proto::Delta {
                from: Some(encode_position(delta.from)),
                to: Some(encode_position(delta.to)),
                change_sets: delta.change_sets,
            }),
            Response::Heartbeat(head) => Message::Heartbeat(proto::Heartbeat { head: Some(encode_position(head)) }),
            Response::GoAway(away) => Message::GoAway(proto::GoAway {
                reason: away.reason.into(),
                delay_ms: milliseconds(away.delay),
                spread_ms: milliseconds(away.spread),
            }),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::SyncResponse> for Response {
    type Error = Error;

    fn try_from(response: proto::SyncResponse) -> Result<Self, Error> {
        match response.message.ok_or(Error::Unsupported { what: "a message of the control plane" })? {
            Message::Welcome(welcome) => welcome.try_into().map(Self::Welcome),
            Message::SnapshotChunk(chunk) => Ok(Self::SnapshotChunk(SnapshotChunk {
                position: required_position("snapshot_chunk.position", chunk.position.as_ref())?,
                index: chunk.index,
                last: chunk.last,
                records: chunk.records,
                mass_change_allowed: chunk.mass_change_allowed,
            })),
            Message::Delta(delta) => Ok(Self::Delta(Delta {
                from: required_position("delta.from", delta.from.as_ref())?,
                to: required_position("delta.to", delta.to.as_ref())?,
                change_sets: delta.change_sets,
            })),
            Message::Heartbeat(heartbeat) => {
                required_position("heartbeat.head", heartbeat.head.as_ref()).map(Self::Heartbeat)
            }
            // A reason of a newer minor changes nothing about what to do.
            Message::GoAway(away) => Ok(Self::GoAway(GoAway {
                reason: GoAwayReason::try_from(away.reason).unwrap_or(GoAwayReason::Unspecified),
                delay: Duration::from_millis(away.delay_ms.into()),
                spread: Duration::from_millis(away.spread_ms.into()),
            })),
        }
    }
}

impl From<Welcome> for proto::Welcome {
    fn from(welcome: Welcome) -> Self {
        Self {
            head: Some(encode_position(welcome.head)),
            mode: welcome.mode.into(),
            heartbeat_interval_ms: milliseconds(welcome.heartbeat_interval),
            status_interval_ms: milliseconds(welcome.status_interval),
            reconnect_spread_ms: milliseconds(welcome.reconnect_spread),
            minor: welcome.minor,
            build: welcome.build,
        }
    }
}

impl TryFrom<proto::Welcome> for Welcome {
    type Error = Error;

    fn try_from(welcome: proto::Welcome) -> Result<Self, Error> {
        Ok(Self {
            head: required_position("welcome.head", welcome.head.as_ref())?,
            mode: known("welcome.mode", welcome.mode)?,
            heartbeat_interval: Duration::from_millis(welcome.heartbeat_interval_ms.into()),
            status_interval: Duration::from_millis(welcome.status_interval_ms.into()),
            reconnect_spread: Duration::from_millis(welcome.reconnect_spread_ms.into()),
            minor: welcome.minor,
            build: welcome.build,
        })
    }
}

/// Whole milliseconds; 49 days where it is longer.
fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
