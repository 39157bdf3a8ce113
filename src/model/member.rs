//! A member: one run of one proxy, as the control plane remembers it.

use std::net::SocketAddr;

use jiff::Timestamp;

use crate::model::id::InstanceId;
use crate::model::revision::Revision;

/// Which run of which proxy.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MemberKey {
    /// The proxy; it keeps its name over restarts.
    pub proxy_id: String,
    /// This run of it.
    pub instance_id: InstanceId,
}

/// What outlives the control plane's own process about a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMember {
    /// Which run of which proxy.
    pub key: MemberKey,
    /// Its software and version.
    pub build: String,
    /// Where it runs.
    pub zone: String,
    /// Where its stream came from.
    pub address: SocketAddr,
    /// It begins with what its disk has after a restart.
    pub keeps_table: bool,
    /// It is in the control plane's own process and ends with it.
    pub embedded: bool,
    /// When it was heard, some minutes older than it could be.
    pub last_heard: Timestamp,
    /// What was on its disk then.
    pub durable: Option<Revision>,
}
