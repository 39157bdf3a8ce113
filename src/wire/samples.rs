//! Records, change sets and messages of any content, for the property tests of `wire`.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use crate::model::change::{
    ChangeSet, EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, RecordKey, SettingsRecord,
};
use crate::model::deployment::HostHeader;
use crate::model::host::HostPattern;
use crate::model::manifest::Protocol;
use crate::model::name::DeploymentRef;
use crate::model::policy::{Door, Policy};
use crate::model::pool::PoolKey;
use crate::model::revision::{Digest, Position, Revision};
use crate::wire::proto::{GoAwayReason, NackReason, SyncMode};
use crate::wire::request::{Ack, Demand, Hello, Load, Nack, Request, Status};
use crate::wire::response::{Delta, GoAway, Response, SnapshotChunk, Welcome};

pub fn id<T: From<Uuid> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    any::<u128>().prop_map(|n| Uuid::from_u128(n).into())
}

pub fn pool_key() -> impl Strategy<Value = PoolKey> {
    (id(), id()).prop_map(|(environment, deployment)| PoolKey { environment, deployment })
}

pub fn position() -> impl Strategy<Value = Position> {
    (id(), any::<u64>(), any::<u128>()).prop_map(|(lineage, revision, digest)| Position {
        lineage,
        revision: Revision(revision),
        digest: Digest(digest),
    })
}

fn host() -> impl Strategy<Value = HostPattern> {
    r"(\*\.)?[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,2}".prop_map(|text| text.parse().unwrap())
}

fn door() -> impl Strategy<Value = Door> {
    prop_oneof![Just(Door::Open), Just(Door::Off)]
}

fn policy() -> impl Strategy<Value = Policy> {
    (door(), option::of(door()), any::<[u64; 13]>()).prop_map(|(pins, deployment_hosts, n)| Policy {
        pins,
        deployment_hosts,
        request_body_max: n[0],
        connect_timeout_ms: n[1],
        response_start_timeout_ms: n[2],
        response_idle_timeout_ms: n[3],
        max_drain_ms: n[4],
        in_flight_max: n[5],
        sse_idle_timeout_ms: n[6],
        grpc_idle_timeout_ms: n[7],
        websocket_idle_timeout_ms: n[8],
        endpoint_concurrency_max: n[9],
        queue_max: n[10],
        queue_timeout_ms: n[11],
        slow_start_ms: n[12],
        ..Policy::default()
    })
}

fn environment() -> impl Strategy<Value = EnvironmentRecord> {
    let names = ("[a-z]{3,30}", "[a-z]{1,30}");
    (id(), names, vec(host(), 0..4), option::of(id()), policy()).prop_map(|(id, names, hosts, pointer, policy)| {
        EnvironmentRecord {
            id,
            project: names.0.parse().unwrap(),
            name: names.1.parse().unwrap(),
            hosts,
            pointer,
            policy,
        }
    })
}

fn endpoint() -> impl Strategy<Value = EndpointRecord> {
    (id(), any::<SocketAddr>(), option::of("[a-z]{1,9}:[0-9]{1,4}"), any::<[bool; 2]>()).prop_map(
        |(id, address, authority, [draining, secure])| {
            // Flow label and scope of an IPv6 address are the sender's own and do not travel.
            let address = SocketAddr::new(address.ip(), address.port());
            let secure = secure && authority.is_some();
            EndpointRecord { id, address, authority, secure, draining }
        },
    )
}

fn pool() -> impl Strategy<Value = PoolRecord> {
    (pool_key(), any::<[u8; 8]>(), any::<[bool; 4]>(), vec(endpoint(), 0..4)).prop_map(
        |(key, reference, is, endpoints)| PoolRecord {
            key,
            reference: DeploymentRef::from_bytes(reference),
            state: if is[0] { PoolRecordState::Open } else { PoolRecordState::Closing },
            protocol: if is[1] { Protocol::Http1 } else { Protocol::H2c },
            host: if is[2] { HostHeader::Client } else { HostHeader::Endpoint },
            retry_on_reused_close: is[3],
            endpoints,
        },
    )
}

pub fn record() -> impl Strategy<Value = Record> {
    let settings = (host(), vec(host(), 0..3))
        .prop_map(|(base_domain, shared_hosts)| SettingsRecord { base_domain, shared_hosts });
    prop_oneof![
        settings.prop_map(Record::Settings),
        environment().prop_map(Record::Environment),
        pool().prop_map(Record::Pool),
    ]
}

fn record_key() -> impl Strategy<Value = RecordKey> {
    prop_oneof![Just(RecordKey::Settings), id().prop_map(RecordKey::Environment), pool_key().prop_map(RecordKey::Pool)]
}

pub fn change_set() -> impl Strategy<Value = ChangeSet> {
    (any::<u64>(), vec(record(), 0..4), vec(record_key(), 0..4)).prop_map(|(revision, upserts, deletes)| ChangeSet {
        revision: Revision(revision),
        upserts,
        deletes,
    })
}

fn status() -> impl Strategy<Value = Status> {
    let load =
        (pool_key(), any::<[u64; 2]>()).prop_map(|(pool, n)| Load { pool, requests_total: n[0], in_flight: n[1] });
    let lists = (vec((pool_key(), any::<u64>()), 0..4), vec((id(), any::<u64>()), 0..4), vec(load, 0..4));
    (option::of(position()), lists, any::<[bool; 2]>()).prop_map(|(applied, lists, is)| Status {
        applied,
        busy_pools: lists.0,
        busy_endpoints: lists.1,
        truncated: is[0],
        more: is[1],
        loads: lists.2,
    })
}

pub fn request() -> impl Strategy<Value = Request> {
    let hello =
        (id(), "[a-z]{1,20}", any::<u32>(), "[a-z]{0,9}", option::of(position()), any::<bool>(), vec(id(), 0..4))
            .prop_map(|(instance_id, proxy_id, minor, zone, position, keeps_table, ended)| Hello {
                build: format!("repoint/{proxy_id}"),
                proxy_id,
                instance_id,
                minor,
                zone,
                position,
                keeps_table,
                ended,
            });
    let ack = (option::of(position()), option::of(position())).prop_map(|(applied, durable)| Ack { applied, durable });
    let nack = (option::of(position()), any::<u64>(), 1..8, vec("[a-z/]{0,9}", 0..4), ".{0,30}").prop_map(
        |(stuck, refused, reason, keys, detail)| Nack {
            stuck,
            refused: Revision(refused),
            reason: NackReason::try_from(reason).unwrap(),
            keys,
            detail,
        },
    );
    prop_oneof![
        hello.prop_map(Request::Hello),
        ack.prop_map(Request::Ack),
        nack.prop_map(Request::Nack),
        status().prop_map(Request::Status),
        (pool_key(), any::<u64>()).prop_map(|(pool, waiting)| Request::Demand(Demand { pool, waiting })),
        Just(Request::Goodbye),
    ]
}

pub fn response() -> impl Strategy<Value = Response> {
    let blobs = || vec(vec(any::<u8>(), 0..9).prop_map(bytes::Bytes::from), 0..4);
    let time = || any::<u32>().prop_map(|ms| std::time::Duration::from_millis(ms.into()));
    let welcome =
        (position(), 1..3, [time(), time(), time()], any::<u32>()).prop_map(|(head, mode, times, minor)| Welcome {
            head,
            mode: SyncMode::try_from(mode).unwrap(),
            heartbeat_interval: times[0],
            status_interval: times[1],
            reconnect_spread: times[2],
            minor,
            build: "repoint".into(),
        });
    let chunk = (position(), any::<u32>(), any::<[bool; 2]>(), blobs()).prop_map(|(position, index, is, records)| {
        SnapshotChunk { position, index, last: is[0], records, mass_change_allowed: is[1] }
    });
    let delta = (position(), position(), blobs()).prop_map(|(from, to, change_sets)| Delta { from, to, change_sets });
    let away = (1..5, time(), time()).prop_map(|(reason, delay, spread)| GoAway {
        reason: GoAwayReason::try_from(reason).unwrap(),
        delay,
        spread,
    });
    prop_oneof![
        welcome.prop_map(Response::Welcome),
        chunk.prop_map(Response::SnapshotChunk),
        delta.prop_map(Response::Delta),
        position().prop_map(Response::Heartbeat),
        away.prop_map(Response::GoAway),
    ]
}
