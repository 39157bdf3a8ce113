//! What a proxy says, as checked values.
//!
//! One enum for the messages of `SyncRequest`. `stream::client` builds them,
//! `stream::server` reads them; neither touches the generated types.

use crate::model::id::{EndpointId, InstanceId};
use crate::model::pool::PoolKey;
use crate::model::revision::{Position, Revision};
use crate::wire::field::{id, id_bytes, known, pool_key, pool_key_out, required};
use crate::wire::position::{encode_position, optional_position};
use crate::wire::proto::sync_request::Message;
use crate::wire::{Error, proto};

/// What a proxy says.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// First, and only once.
    Hello(Hello),
    /// What it has applied.
    Ack(Ack),
    /// What it refused.
    Nack(Nack),
    /// What is still in flight.
    Status(Status),
    /// What is waited for.
    Demand(Demand),
    /// Last, when it stops for good.
    Goodbye,
}

/// Who a proxy is and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Its name, the same after a restart.
    pub proxy_id: String,
    /// One run of its process.
    pub instance_id: InstanceId,
    /// Its software and version.
    pub build: String,
    /// The newest protocol minor it understands.
    pub minor: u32,
    /// Where it runs.
    pub zone: String,
    /// The table it serves now.
    pub position: Option<Position>,
    /// Whether it keeps its last table on disk.
    pub keeps_table: bool,
    /// Earlier runs of this proxy whose process has ended.
    pub ended: Vec<InstanceId>,
}

/// Cumulative: what is published and what is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ack {
    /// Published.
    pub applied: Option<Position>,
    /// On disk.
    pub durable: Option<Position>,
}

/// A refused change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nack {
    /// Where the proxy stays.
    pub stuck: Option<Position>,
    /// The revision it refused to move to.
    pub refused: Revision,
    /// Why.
    pub reason: proto::NackReason,
    /// Keys of the records at fault.
    pub keys: Vec<String>,
    /// What is wrong with them.
    pub detail: String,
}

/// What a proxy is doing, or a part of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// The table that was current before any counter was read.
    pub applied: Option<Position>,
    /// Every closing pool that holds requests, and how many.
    pub busy_pools: Vec<(PoolKey, u64)>,
    /// Every draining endpoint that holds requests, and how many.
    pub busy_endpoints: Vec<(EndpointId, u64)>,
    /// The lists are not complete.
    pub truncated: bool,
    /// Further parts of this status follow.
    pub more: bool,
    /// Load of the pools whose counters moved.
    pub loads: Vec<Load>,
}

/// Load of one pool on one proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Which pool.
    pub pool: PoolKey,
    /// Requests ever given to it.
    pub requests_total: u64,
    /// Those of them that have not ended.
    pub in_flight: u64,
}

/// Requests wait for a pool without a ready endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    /// Which pool.
    pub pool: PoolKey,
    /// How many wait.
    pub waiting: u64,
}

impl From<Request> for proto::SyncRequest {
    fn from(request: Request) -> Self {
        let message = match request {
            Request::Hello(hello) => Message::Hello(hello.into()),
            Request::Ack(ack) => Message::Ack(proto::Ack {
                applied: ack.applied.map(encode_position),
                durable: ack.durable.map(encode_position),
            }),
            Request::Nack(nack) => Message::Nack(nack.into()),
            Request::Status(status) => Message::Status(status.into()),
            Request::Demand(demand) => {
                Message::Demand(proto::Demand { pool: Some(pool_key_out(demand.pool)), waiting: demand.waiting })
            }
            Request::Goodbye => Message::Goodbye(proto::Goodbye {}),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::SyncRequest> for Request {
    type Error = Error;

    fn try_from(request: proto::SyncRequest) -> Result<Self, Error> {
        match request.message.ok_or(Error::Unsupported { what: "a message of the proxy" })? {
            Message::Hello(hello) => hello.try_into().map(Self::Hello),
            Message::Ack(ack) => Ok(Self::Ack(Ack {
                applied: optional_position(ack.applied.as_ref())?,
                durable: optional_position(ack.durable.as_ref())?,
            })),
            Message::Nack(nack) => nack.try_into().map(Self::Nack),
            Message::Status(status) => status.try_into().map(Self::Status),
            Message::Demand(demand) => Ok(Self::Demand(Demand {
                pool: pool_key("demand.pool", demand.pool.as_ref())?,
                waiting: demand.waiting,
            })),
            Message::Goodbye(proto::Goodbye {}) => Ok(Self::Goodbye),
        }
    }
}

impl From<Hello> for proto::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            proxy_id: hello.proxy_id,
            instance_id: id_bytes(hello.instance_id.uuid()),
            build: hello.build,
            minor: hello.minor,
            zone: hello.zone,
            position: hello.position.map(encode_position),
            keeps_table: hello.keeps_table,
            ended_instance_ids: hello.ended.into_iter().map(|ended| id_bytes(ended.uuid())).collect(),
        }
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = Error;

    fn try_from(hello: proto::Hello) -> Result<Self, Error> {
        let ended = hello.ended_instance_ids.iter().map(|ended| id("hello.ended_instance_ids", ended));
        Ok(Self {
            proxy_id: short("hello.proxy_id", hello.proxy_id)?,
            instance_id: id("hello.instance_id", &hello.instance_id)?,
            build: short("hello.build", hello.build)?,
            minor: hello.minor,
            // The one text of these that may be empty.
            zone: if hello.zone.is_empty() { hello.zone } else { short("hello.zone", hello.zone)? },
            position: optional_position(hello.position.as_ref())?,
            keeps_table: hello.keeps_table,
            ended: ended.take(ENDED_MAX).collect::<Result<_, Error>>()?,
        })
    }
}

impl From<Nack> for proto::Nack {
    fn from(nack: Nack) -> Self {
        Self {
            stuck: nack.stuck.map(encode_position),
            refused_revision: nack.refused.0,
            reason: nack.reason.into(),
            keys: nack.keys,
            detail: nack.detail,
        }
    }
}

impl TryFrom<proto::Nack> for Nack {
    type Error = Error;

    fn try_from(nack: proto::Nack) -> Result<Self, Error> {
        Ok(Self {
            stuck: optional_position(nack.stuck.as_ref())?,
            refused: Revision(nack.refused_revision),
            reason: known("nack.reason", nack.reason)?,
            keys: nack.keys.into_iter().take(NACK_KEYS_MAX).map(|key| bounded(&key)).collect(),
            detail: bounded(&nack.detail),
        })
    }
}

impl From<Status> for proto::Status {
    fn from(status: Status) -> Self {
        let busy_pool = |(pool, in_flight)| proto::BusyPool {
            pool: Some(pool_key_out(pool)),
            in_flight,
            ..proto::BusyPool::default()
        };
        let busy_endpoint = |(endpoint, in_flight): (EndpointId, u64)| proto::BusyEndpoint {
            endpoint_id: id_bytes(endpoint.uuid()),
            in_flight,
            ..proto::BusyEndpoint::default()
        };
        let load = |load: Load| proto::PoolLoad {
            pool: Some(pool_key_out(load.pool)),
            requests_total: load.requests_total,
            in_flight: load.in_flight,
        };
        Self {
            applied: status.applied.map(encode_position),
            busy_pools: status.busy_pools.into_iter().map(busy_pool).collect(),
            busy_endpoints: status.busy_endpoints.into_iter().map(busy_endpoint).collect(),
            truncated: status.truncated,
            more: status.more,
            loads: status.loads.into_iter().map(load).collect(),
        }
    }
}

impl TryFrom<proto::Status> for Status {
    type Error = Error;

    fn try_from(status: proto::Status) -> Result<Self, Error> {
        let busy_pool = |busy: &proto::BusyPool| Ok((pool_key("busy_pool.pool", busy.pool.as_ref())?, busy.in_flight));
        let busy_endpoint =
            |busy: &proto::BusyEndpoint| Ok((id("busy_endpoint.endpoint_id", &busy.endpoint_id)?, busy.in_flight));
        let load = |load: &proto::PoolLoad| {
            Ok(Load {
                pool: pool_key("pool_load.pool", load.pool.as_ref())?,
                requests_total: load.requests_total,
                in_flight: load.in_flight,
            })
        };
        Ok(Self {
            applied: optional_position(status.applied.as_ref())?,
            busy_pools: status.busy_pools.iter().map(busy_pool).collect::<Result<_, Error>>()?,
            busy_endpoints: status.busy_endpoints.iter().map(busy_endpoint).collect::<Result<_, Error>>()?,
            truncated: status.truncated,
            more: status.more,
            loads: status.loads.iter().map(load).collect::<Result<_, Error>>()?,
        })
    }
}

/// A text that names something: shown in lists and logs, so neither empty nor long.
fn short(field: &'static str, text: String) -> Result<String, Error> {
    let text = required(field, Some(text).filter(|text| !text.is_empty()))?;
    match text.len() <= NAME_MAX && !text.chars().any(char::is_control) {
        true => Ok(text),
        false => Err(Error::Text { field, detail: format!("use it: give 1 to {NAME_MAX} visible bytes") }),
    }
}

/// A text for people, cut where it is too long to show.
fn bounded(text: &str) -> String {
    text.chars().take(DETAIL_MAX).collect()
}

/// 128: a host name with a suffix fits, a paragraph does not.
const NAME_MAX: usize = 128;
/// 1,024 characters: several sentences; answers of the REST API repeat it.
const DETAIL_MAX: usize = 1_024;
/// Runs that ended before one of them was heard. More are left out: they are
/// waited for, which is safe.
pub const ENDED_MAX: usize = 64;
/// 16 keys tell where to look; a thousand do not tell more.
pub const NACK_KEYS_MAX: usize = 16;
