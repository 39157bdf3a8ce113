//! Records on the wire and in the change log.
//!
//! Encoded once, when the store commits; the digest is over those very bytes,
//! because protobuf has no canonical form.

use bytes::Bytes;
use prost::Message;

use crate::model::change::{EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, SettingsRecord};
use crate::model::deployment::HostHeader;
use crate::model::host::HostPattern;
use crate::model::manifest::Protocol;
use crate::model::policy::{Door, Policy};
use crate::wire::field::{id, id_bytes, known, message, pool_key, pool_key_out, required, text, texts};
use crate::wire::{Error, proto};

/// The bytes of a record, as stored and sent.
pub fn encode_record(record: &Record) -> Bytes {
    let value = match record {
        Record::Settings(settings) => proto::record::Value::Settings(settings_out(settings)),
        Record::Environment(environment) => proto::record::Value::Environment(environment_out(environment)),
        Record::Pool(pool) => proto::record::Value::Pool(pool_out(pool)),
    };
    proto::Record { value: Some(value) }.encode_to_vec().into()
}

/// Reads a record.
///
/// # Errors
///
/// When the bytes are no record, or one that breaks a rule of the model.
pub fn decode_record(bytes: &[u8]) -> Result<Record, Error> {
    let record: proto::Record = message("a record", bytes)?;
    // An arm of a newer minor is dropped by the decoder and leaves an empty oneof.
    match record.value.ok_or(Error::Unsupported { what: "a kind of record" })? {
        proto::record::Value::Settings(settings) => settings_in(&settings).map(Record::Settings),
        proto::record::Value::Environment(environment) => environment_in(environment).map(Record::Environment),
        proto::record::Value::Pool(pool) => pool_in(pool).map(Record::Pool),
    }
}

/// The least protocol minor that understands all of a record's bytes: a decoder
/// drops what it does not know without a word.
pub fn minor_of(record: &[u8]) -> u32 {
    let value = proto::Record::decode(record).ok().and_then(|record| record.value);
    let policy = match value {
        Some(proto::record::Value::Environment(proto::Environment { policy: Some(policy), .. })) => policy,
        // Who does not know of TLS would speak in the open.
        Some(proto::record::Value::Pool(pool)) if pool.endpoints.iter().any(|endpoint| endpoint.tls) => return 4,
        _ => return 1,
    };
    let since_3 = [
        policy.in_flight_max,
        policy.sse_idle_timeout_ms,
        policy.grpc_idle_timeout_ms,
        policy.websocket_idle_timeout_ms,
        // The queue means something only with this one.
        policy.endpoint_concurrency_max,
        policy.slow_start_ms,
    ];
    if since_3.iter().any(|set| *set > 0) { 3 } else { 1 }
}

fn settings_out(settings: &SettingsRecord) -> proto::Settings {
    proto::Settings {
        base_domain: settings.base_domain.to_string(),
        shared_hosts: settings.shared_hosts.iter().map(HostPattern::to_string).collect(),
    }
}

fn settings_in(settings: &proto::Settings) -> Result<SettingsRecord, Error> {
    Ok(SettingsRecord {
        base_domain: text("settings.base_domain", &settings.base_domain)?,
        shared_hosts: texts("settings.shared_hosts", &settings.shared_hosts)?,
    })
}

fn environment_out(environment: &EnvironmentRecord) -> proto::Environment {
    proto::Environment {
        id: id_bytes(environment.id.uuid()),
        project: environment.project.to_string(),
        name: environment.name.to_string(),
        hosts: environment.hosts.iter().map(HostPattern::to_string).collect(),
        pointer: environment.pointer.map(|deployment| id_bytes(deployment.uuid())),
        policy: Some(policy_out(&environment.policy)),
    }
}

fn environment_in(environment: proto::Environment) -> Result<EnvironmentRecord, Error> {
    Ok(EnvironmentRecord {
        id: id("environment.id", &environment.id)?,
        project: text("environment.project", &environment.project)?,
        name: text("environment.name", &environment.name)?,
        hosts: texts("environment.hosts", &environment.hosts)?,
        pointer: environment.pointer.map(|bytes| id("environment.pointer", &bytes)).transpose()?,
        policy: policy_in(required("environment.policy", environment.policy)?)?,
    })
}

fn policy_out(policy: &Policy) -> proto::Policy {
    proto::Policy {
        pins: door_out(policy.pins).into(),
        deployment_hosts: policy.deployment_hosts.map(|door| door_out(door).into()),
        request_body_max: policy.request_body_max,
        connect_timeout_ms: policy.connect_timeout_ms,
        response_start_timeout_ms: policy.response_start_timeout_ms,
        response_idle_timeout_ms: policy.response_idle_timeout_ms,
        max_drain_ms: policy.max_drain_ms,
        in_flight_max: policy.in_flight_max,
        sse_idle_timeout_ms: policy.sse_idle_timeout_ms,
        grpc_idle_timeout_ms: policy.grpc_idle_timeout_ms,
        websocket_idle_timeout_ms: policy.websocket_idle_timeout_ms,
        endpoint_concurrency_max: policy.endpoint_concurrency_max,
        // Absent where they are as usual, as they are nearly everywhere.
        queue_max: Some(policy.queue_max).filter(|max| *max != Policy::default().queue_max),
        queue_timeout_ms: Some(policy.queue_timeout_ms).filter(|time| *time != Policy::default().queue_timeout_ms),
        slow_start_ms: policy.slow_start_ms,
    }
}

fn policy_in(policy: proto::Policy) -> Result<Policy, Error> {
    let usual = Policy::default();
    Ok(Policy {
        pins: door_in("policy.pins", policy.pins)?,
        deployment_hosts: policy.deployment_hosts.map(|door| door_in("policy.deployment_hosts", door)).transpose()?,
        request_body_max: policy.request_body_max,
        connect_timeout_ms: policy.connect_timeout_ms,
        response_start_timeout_ms: policy.response_start_timeout_ms,
        response_idle_timeout_ms: policy.response_idle_timeout_ms,
        max_drain_ms: policy.max_drain_ms,
        in_flight_max: policy.in_flight_max,
        sse_idle_timeout_ms: policy.sse_idle_timeout_ms,
        grpc_idle_timeout_ms: policy.grpc_idle_timeout_ms,
        websocket_idle_timeout_ms: policy.websocket_idle_timeout_ms,
        endpoint_concurrency_max: policy.endpoint_concurrency_max,
        queue_max: policy.queue_max.unwrap_or(usual.queue_max),
        queue_timeout_ms: policy.queue_timeout_ms.unwrap_or(usual.queue_timeout_ms),
        slow_start_ms: policy.slow_start_ms,
        ..usual
    })
}

fn door_out(door: Door) -> proto::Door {
    match door {
        Door::Open => proto::Door::Open,
        Door::Off => proto::Door::Off,
    }
}

fn door_in(field: &'static str, door: i32) -> Result<Door, Error> {
    match known(field, door)? {
        proto::Door::Open => Ok(Door::Open),
        proto::Door::Off => Ok(Door::Off),
        proto::Door::Unspecified => Err(Error::Missing { field }),
    }
}

fn pool_out(pool: &PoolRecord) -> proto::Pool {
    let state = match pool.state {
        PoolRecordState::Open => proto::PoolState::Open,
        PoolRecordState::Closing => proto::PoolState::Closing,
    };
    let protocol = match pool.protocol {
        Protocol::Http1 => proto::Protocol::Http1,
        Protocol::H2c => proto::Protocol::H2c,
    };
    let host = match pool.host {
        HostHeader::Client => proto::HostHeader::Client,
        HostHeader::Endpoint => proto::HostHeader::Endpoint,
    };
    proto::Pool {
        key: Some(pool_key_out(pool.key)),
        reference: pool.reference.to_string(),
        state: state.into(),
        protocol: protocol.into(),
        host: host.into(),
        retry_on_reused_close: pool.retry_on_reused_close,
        endpoints: pool.endpoints.iter().map(endpoint_out).collect(),
    }
}

fn pool_in(pool: proto::Pool) -> Result<PoolRecord, Error> {
    let state = match known("pool.state", pool.state)? {
        proto::PoolState::Open => PoolRecordState::Open,
        proto::PoolState::Closing => PoolRecordState::Closing,
        proto::PoolState::Unspecified => return Err(Error::Missing { field: "pool.state" }),
    };
    let protocol = match known("pool.protocol", pool.protocol)? {
        proto::Protocol::Http1 => Protocol::Http1,
        proto::Protocol::H2c => Protocol::H2c,
        proto::Protocol::Unspecified => return Err(Error::Missing { field: "pool.protocol" }),
    };
    let host = match known("pool.host", pool.host)? {
        proto::HostHeader::Client => HostHeader::Client,
        proto::HostHeader::Endpoint => HostHeader::Endpoint,
        proto::HostHeader::Unspecified => return Err(Error::Missing { field: "pool.host" }),
    };
    Ok(PoolRecord {
        key: pool_key("pool.key", pool.key.as_ref())?,
        reference: text("pool.reference", &pool.reference)?,
        state,
        protocol,
        host,
        retry_on_reused_close: pool.retry_on_reused_close,
        endpoints: pool.endpoints.into_iter().map(endpoint_in).collect::<Result<_, _>>()?,
    })
}

fn endpoint_out(endpoint: &EndpointRecord) -> proto::Endpoint {
    let state = if endpoint.draining { proto::EndpointState::Draining } else { proto::EndpointState::Ready };
    proto::Endpoint {
        id: id_bytes(endpoint.id.uuid()),
        address: endpoint.address.to_string(),
        authority: endpoint.authority.clone(),
        tls: endpoint.secure,
        state: state.into(),
    }
}

fn endpoint_in(endpoint: proto::Endpoint) -> Result<EndpointRecord, Error> {
    let draining = match known("endpoint.state", endpoint.state)? {
        proto::EndpointState::Ready => false,
        proto::EndpointState::Draining => true,
        proto::EndpointState::Unspecified => return Err(Error::Missing { field: "endpoint.state" }),
    };
    if endpoint.tls && endpoint.authority.is_none() {
        return Err(Error::Missing { field: "endpoint.authority" });
    }
    Ok(EndpointRecord {
        id: id("endpoint.id", &endpoint.id)?,
        address: text("endpoint.address", &endpoint.address)?,
        authority: endpoint.authority,
        secure: endpoint.tls,
        draining,
    })
}
