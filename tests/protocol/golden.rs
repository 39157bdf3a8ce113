//! Golden frames: bytes as a peer of a released minor sends them, one of each kind with every field set.
//!
//! `golden/minor-N/KIND-NAME.bin` is one message, `frames.txt` beside it says in words what is in each. For today's
//! minor, `FREEZE=1 cargo test --test protocol frames_of_every` writes both, and the `.proto` into `proto/released`,
//! unless they are there already: that is part of a release. What is there is never written again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use protox::prost_reflect::prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, Kind, Value};
use repoint::wire::proto::{self, sync_request, sync_response};
use repoint::wire::request::Request;
use repoint::wire::response::Response;
use repoint::wire::{MINOR, decode_change_set, decode_record, encode_record};

use super::{PROTO, current, released, root};

#[test]
fn frames_of_every_released_minor_mean_what_they_meant() {
    if std::env::var_os("FREEZE").is_some() {
        freeze();
    }
    let now = current();
    for (minor, then) in released() {
        let (folder, texts) = golden(minor);
        let mut seen = BTreeSet::new();
        for (name, text) in &texts {
            let bytes = std::fs::read(folder.join(format!("{name}.bin"))).unwrap();
            assert_eq!(
                &describe(&decode(&then, name, &bytes), &mut seen),
                text,
                "{name}, by the file of minor {minor}"
            );
            assert_eq!(&describe(&decode(&now, name, &bytes), &mut seen), text, "{name}, by the file of today");
        }
        let frames = std::fs::read_dir(&folder)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "bin"));
        assert_eq!(frames.count(), texts.len(), "each frame of minor {minor} is described");
        let fields = then.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
        let unseen: Vec<String> =
            fields.map(|field| field.full_name().to_owned()).filter(|name| !seen.contains(name)).collect();
        assert_eq!(unseen, Vec::<String>::new(), "no frame of minor {minor} has these");
    }
}

#[test]
fn this_build_understands_the_frames_of_each_released_minor() {
    for (minor, _) in released() {
        let (folder, texts) = golden(minor);
        for (name, text) in &texts {
            let bytes = std::fs::read(folder.join(format!("{name}.bin"))).unwrap();
            let again = understood(name, &bytes).unwrap_or_else(|error| panic!("{name} of minor {minor}: {error}"));
            let again = describe(&decode(&current(), name, &again), &mut BTreeSet::new());
            let kept: Vec<&str> = text.lines().filter(|line| !is_for_others(line)).collect();
            assert_eq!(again.lines().collect::<Vec<_>>(), kept, "{name} of minor {minor}");
        }
    }
}

#[test]
fn a_frame_that_is_not_what_it_says_is_found() {
    let hello = frames().into_iter().find(|(name, _)| *name == "request-hello").unwrap().1;
    let as_it_is = describe(&decode(&current(), "request-hello", &hello), &mut BTreeSet::new());
    let mut other = hello.clone();
    let at = other.windows(6).position(|part| part == b"edge-1").unwrap();
    other[at] = b'h';
    assert_ne!(describe(&decode(&current(), "request-hello", &other), &mut BTreeSet::new()), as_it_is);
    // A field that nobody knows: number 100, varint 1.
    let unknown = [hello, vec![0xa0, 0x06, 0x01]].concat();
    let described = describe(&decode(&current(), "request-hello", &unknown), &mut BTreeSet::new());
    assert!(described.contains("unknown field 100"), "{described}");
    assert!(understood("record-pool", b"").is_err());
}

/// Where the frames of a minor are, and what is said of each.
fn golden(minor: u32) -> (PathBuf, Vec<(String, String)>) {
    let folder = folder(minor);
    let all = std::fs::read_to_string(folder.join("frames.txt")).unwrap();
    let sections = all.split("\n# ").skip(1).map(|section| section.split_once('\n').unwrap());
    let texts =
        sections.map(|(name, text)| (name.to_owned(), format!("{}\n", text.trim_end()).trim_start().to_owned()));
    (folder, texts.collect())
}

fn folder(minor: u32) -> PathBuf {
    root().join(format!("tests/protocol/golden/minor-{minor}"))
}

/// What of a frame is for other readers than this build: shown to people by some control planes, decided by none.
fn is_for_others(line: &str) -> bool {
    ["long_lived:", "oldest_age_ms:"].iter().any(|name| line.trim_start().starts_with(name))
}

/// The same message again, by way of what this build makes of it.
fn understood(name: &str, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    match name.split('-').next() {
        Some("request") => {
            let request = Request::try_from(proto::SyncRequest::decode(bytes)?)?;
            Ok(proto::SyncRequest::from(request).encode_to_vec())
        }
        Some("response") => {
            let response = Response::try_from(proto::SyncResponse::decode(bytes)?)?;
            Ok(proto::SyncResponse::from(response).encode_to_vec())
        }
        Some("record") => Ok(encode_record(&decode_record(bytes)?).to_vec()),
        _ => {
            let change = decode_change_set(bytes)?;
            let again = proto::ChangeSet {
                revision: change.revision.0,
                minor_min: change.minor_min,
                mass_change_allowed: change.mass_change_allowed,
                upserts: change.upserts.iter().map(|(record, _)| encode_record(record)).collect(),
                deletes: change.deletes.iter().map(ToString::to_string).collect(),
            };
            Ok(again.encode_to_vec())
        }
    }
}

fn decode(pool: &DescriptorPool, name: &str, bytes: &[u8]) -> DynamicMessage {
    let kind = match name.split('-').next() {
        Some("request") => "SyncRequest",
        Some("response") => "SyncResponse",
        Some("record") => "Record",
        _ => "ChangeSet",
    };
    let message = pool.get_message_by_name(&format!("repoint.control.v1.{kind}")).unwrap();
    DynamicMessage::decode(message, bytes).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// One field to a line, by the names of the `.proto`; notes which fields were seen.
fn describe(message: &DynamicMessage, seen: &mut BTreeSet<String>) -> String {
    let mut text = String::new();
    describe_into(message, 0, &mut text, seen);
    text
}

fn describe_into(message: &DynamicMessage, depth: usize, text: &mut String, seen: &mut BTreeSet<String>) {
    let mut fields: Vec<_> = message.fields().collect();
    fields.sort_by_key(|(field, _)| field.number());
    for (field, value) in fields {
        seen.insert(field.full_name().to_owned());
        let values = if let Value::List(values) = value { values.as_slice() } else { std::slice::from_ref(value) };
        for value in values {
            write!(text, "{:width$}{}:", "", field.name(), width = 2 * depth).unwrap();
            match (value, field.kind()) {
                (Value::Message(message), _) => {
                    text.push('\n');
                    describe_into(message, depth + 1, text, seen);
                }
                (Value::EnumNumber(number), Kind::Enum(of)) => {
                    let name = of.get_value(*number).map(|value| value.name().to_owned());
                    writeln!(text, " {}", name.unwrap_or_else(|| number.to_string())).unwrap();
                }
                (Value::Bytes(bytes), _) => {
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    writeln!(text, " 0x{hex}").unwrap();
                }
                (Value::String(string), _) => writeln!(text, " {string:?}").unwrap(),
                (Value::Bool(is), _) => writeln!(text, " {is}").unwrap(),
                (Value::U32(number), _) => writeln!(text, " {number}").unwrap(),
                (Value::U64(number), _) => writeln!(text, " {number}").unwrap(),
                (other, _) => writeln!(text, " {other:?}").unwrap(),
            }
        }
    }
    for field in message.unknown_fields() {
        writeln!(text, "{:width$}unknown field {}", "", field.number(), width = 2 * depth).unwrap();
    }
}

/// Writes what a release of today's minor keeps for ever, unless it is there.
fn freeze() {
    let released = root().join(format!("proto/released/minor-{MINOR}")).join(PROTO);
    if !released.exists() {
        std::fs::create_dir_all(released.parent().unwrap()).unwrap();
        std::fs::copy(root().join("proto").join(PROTO), released).unwrap();
    }
    let folder = folder(MINOR);
    if !folder.exists() {
        write(&folder);
    }
}

fn write(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let mut text = format!(
        "Frames as a peer with protocol minor {MINOR} sends them. Each section is a file NAME.bin beside this one: one\n\
         SyncRequest (request), SyncResponse (response), ChangeSet (change_set) or Record (record), not prefixed.\n\
         Written once; never changed.\n"
    );
    for (name, bytes) in frames() {
        write!(text, "\n# {name}\n{}", describe(&decode(&current(), name, &bytes), &mut BTreeSet::new())).unwrap();
        std::fs::write(folder.join(format!("{name}.bin")), bytes).unwrap();
    }
    std::fs::write(folder.join("frames.txt"), text).unwrap();
}

// One of each kind, with every field set.

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut frames: Vec<_> = records().into_iter().map(|(name, record)| (name, record.encode_to_vec())).collect();
    frames.push(("change_set", change_set().encode_to_vec()));
    let request = |message| proto::SyncRequest { message: Some(message) }.encode_to_vec();
    frames.extend(requests().into_iter().map(|(name, message)| (name, request(message))));
    let response = |message| proto::SyncResponse { message: Some(message) }.encode_to_vec();
    frames.extend(responses().into_iter().map(|(name, message)| (name, response(message))));
    frames
}

fn id<T: From<Vec<u8>>>(n: u8) -> T {
    vec![n; 16].into()
}

fn position(revision: u64) -> proto::Position {
    proto::Position { lineage: id(0x11), revision, digest: id(0xd0) }
}

fn pool_key() -> proto::PoolKey {
    proto::PoolKey { environment_id: id(0xe1), deployment_id: id(0xde) }
}

fn requests() -> Vec<(&'static str, sync_request::Message)> {
    use sync_request::Message;
    let hello = proto::Hello {
        proxy_id: "edge-1".into(),
        instance_id: id(0x21),
        build: "repoint/0.1.0".into(),
        minor: 4,
        zone: "eu-1".into(),
        position: Some(position(41)),
        keeps_table: true,
        ended_instance_ids: vec![id(0x1f), id(0x20)],
    };
    let nack = proto::Nack {
        stuck: Some(position(41)),
        refused_revision: 42,
        reason: proto::NackReason::Unsupported.into(),
        keys: vec!["settings".into()],
        detail: "failed to understand a kind of record".into(),
    };
    let busy = proto::BusyPool { pool: Some(pool_key()), in_flight: 3, long_lived: 2, oldest_age_ms: 9_000 };
    let endpoint = proto::BusyEndpoint { endpoint_id: id(0xab), in_flight: 1, long_lived: 1, oldest_age_ms: 800 };
    let status = proto::Status {
        applied: Some(position(42)),
        busy_pools: vec![busy],
        busy_endpoints: vec![endpoint],
        truncated: true,
        more: true,
        loads: vec![proto::PoolLoad { pool: Some(pool_key()), requests_total: 1_000, in_flight: 3 }],
    };
    vec![
        ("request-hello", Message::Hello(hello)),
        ("request-ack", Message::Ack(proto::Ack { applied: Some(position(42)), durable: Some(position(41)) })),
        ("request-nack", Message::Nack(nack)),
        ("request-status", Message::Status(status)),
        ("request-demand", Message::Demand(proto::Demand { pool: Some(pool_key()), waiting: 5 })),
        ("request-goodbye", Message::Goodbye(proto::Goodbye {})),
    ]
}

fn responses() -> Vec<(&'static str, sync_response::Message)> {
    use sync_response::Message;
    let welcome = proto::Welcome {
        head: Some(position(42)),
        mode: proto::SyncMode::Resume.into(),
        heartbeat_interval_ms: 1_000,
        status_interval_ms: 1_000,
        reconnect_spread_ms: 2_000,
        minor: 4,
        build: "repoint/0.1.0".into(),
    };
    let chunk = proto::SnapshotChunk {
        position: Some(position(42)),
        index: 1,
        last: true,
        records: records().iter().map(|(_, record)| record.encode_to_vec().into()).collect(),
        mass_change_allowed: true,
    };
    let delta = proto::Delta {
        from: Some(position(41)),
        to: Some(position(42)),
        change_sets: vec![change_set().encode_to_vec().into()],
    };
    let away = proto::GoAway { reason: proto::GoAwayReason::Overloaded.into(), delay_ms: 2_000, spread_ms: 3_000 };
    vec![
        ("response-welcome", Message::Welcome(welcome)),
        ("response-snapshot_chunk", Message::SnapshotChunk(chunk)),
        ("response-delta", Message::Delta(delta)),
        ("response-heartbeat", Message::Heartbeat(proto::Heartbeat { head: Some(position(42)) })),
        ("response-go_away", Message::GoAway(away)),
    ]
}

fn change_set() -> proto::ChangeSet {
    proto::ChangeSet {
        revision: 42,
        minor_min: 4,
        mass_change_allowed: true,
        upserts: records().iter().map(|(_, record)| record.encode_to_vec().into()).collect(),
        deletes: vec!["environment/e2e2e2e2-e2e2-e2e2-e2e2-e2e2e2e2e2e2".into()],
    }
}

fn records() -> Vec<(&'static str, proto::Record)> {
    use proto::record::Value;
    let record = |value| proto::Record { value: Some(value) };
    let settings =
        proto::Settings { base_domain: "agents.example.com".into(), shared_hosts: vec!["agents.example.net".into()] };
    let environment = proto::Environment {
        id: id(0xe1),
        project: "support".into(),
        name: "production".into(),
        hosts: vec!["support.example.com".into(), "*.support.example.com".into()],
        pointer: Some(id(0xde)),
        policy: Some(policy()),
    };
    let endpoint = proto::Endpoint {
        id: id(0xab),
        address: "[2001:db8::7]:8443".into(),
        authority: Some("replica.internal:8443".into()),
        state: proto::EndpointState::Draining.into(),
        tls: true,
    };
    let pool = proto::Pool {
        key: Some(pool_key()),
        reference: "k3v9x2bc".into(),
        state: proto::PoolState::Closing.into(),
        protocol: proto::Protocol::H2c.into(),
        host: proto::HostHeader::Endpoint.into(),
        retry_on_reused_close: true,
        endpoints: vec![endpoint],
    };
    vec![
        ("record-settings", record(Value::Settings(settings))),
        ("record-environment", record(Value::Environment(environment))),
        ("record-pool", record(Value::Pool(pool))),
    ]
}

fn policy() -> proto::Policy {
    proto::Policy {
        pins: proto::Door::Open.into(),
        deployment_hosts: Some(proto::Door::Off.into()),
        request_body_max: 104_857_600,
        connect_timeout_ms: 5_000,
        response_start_timeout_ms: 60_000,
        response_idle_timeout_ms: 300_000,
        max_drain_ms: 900_000,
        in_flight_max: 500,
        sse_idle_timeout_ms: 61_000,
        grpc_idle_timeout_ms: 62_000,
        websocket_idle_timeout_ms: 63_000,
        endpoint_concurrency_max: 8,
        queue_max: Some(20),
        queue_timeout_ms: Some(4_000),
        slow_start_ms: 30_000,
    }
}
