//! What every conversion promises: what goes out comes back, and bytes of any
//! kind are refused without a panic.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use crate::model::change::{
    ChangeSet, EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, RecordKey,
};
use crate::model::deployment::HostHeader;
use crate::model::manifest::Protocol;
use crate::model::name::DeploymentRef;
use crate::model::policy::Policy;
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;
use crate::wire::proto::{SyncRequest, SyncResponse};
use crate::wire::request::Request;
use crate::wire::response::Response;
use crate::wire::{
    DecodedChangeSet, Error, assemble_change_set, decode_change_set, decode_record, encode_change_set, encode_record,
    net_change_set, proto, samples,
};

/// Decodes bytes as everything they could be meant to be.
fn decode_all(bytes: &[u8]) {
    let _ = decode_record(bytes);
    let _ = decode_change_set(bytes);
    let _ = net_change_set(&[Bytes::copy_from_slice(bytes)]);
    let _ = SyncRequest::decode(bytes).map(Request::try_from);
    let _ = SyncResponse::decode(bytes).map(Response::try_from);
}

/// Flips a bit, cuts the end, or repeats a part.
fn mutate(bytes: &[u8], at: usize, bit: u8, how: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = at % bytes.len().max(1);
    match how % 3 {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << (bit % 8),
        1 => bytes.truncate(at),
        _ => bytes.extend_from_within(at..),
    }
    bytes
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(record in samples::record()) {
        prop_assert_eq!(decode_record(&encode_record(&record)), Ok(record));
    }

    #[test]
    fn change_sets_come_back_with_the_bytes_of_their_records(change in samples::change_set()) {
        let decoded = decode_change_set(&encode_change_set(&change)).unwrap();
        let upserts = change.upserts.iter().map(|record| (record.clone(), encode_record(record))).collect();
        let expected = DecodedChangeSet {
            revision: change.revision,
            minor_min: decoded.minor_min,
            mass_change_allowed: false,
            upserts,
            deletes: change.deletes,
        };
        prop_assert_eq!(decoded, expected);
    }

    #[test]
    fn messages_come_back_as_they_were(request in samples::request(), response in samples::response()) {
        let bytes = SyncRequest::from(request.clone()).encode_to_vec();
        prop_assert_eq!(Request::try_from(SyncRequest::decode(&*bytes).unwrap()), Ok(request));
        let bytes = SyncResponse::from(response.clone()).encode_to_vec();
        prop_assert_eq!(Response::try_from(SyncResponse::decode(&*bytes).unwrap()), Ok(response));
    }

    #[test]
    fn bytes_of_any_kind_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    #[test]
    fn mutated_frames_never_panic(
        request in samples::request(),
        response in samples::response(),
        change in samples::change_set(),
        at: usize,
        bit: u8,
        how: u8,
    ) {
        let frames = [
            SyncRequest::from(request).encode_to_vec(),
            SyncResponse::from(response).encode_to_vec(),
            encode_change_set(&change).to_vec(),
        ];
        for frame in frames {
            decode_all(&mutate(&frame, at, bit, how));
        }
    }

    #[test]
    fn the_net_of_changes_is_each_key_once_as_it_was_last(
        changes in proptest::collection::vec(samples::change_set(), 0..4),
    ) {
        let encoded: Vec<Bytes> = changes.iter().map(encode_change_set).collect();
        let net = decode_change_set(&net_change_set(&encoded).unwrap()).unwrap();
        let mut expected = std::collections::BTreeMap::new();
        for change in &changes {
            expected.extend(change.deletes.iter().map(|key| (*key, None)));
            expected.extend(change.upserts.iter().map(|record| (record.key(), Some(record.clone()))));
        }
        let mut found = std::collections::BTreeMap::new();
        found.extend(net.deletes.iter().map(|key| (*key, None)));
        found.extend(net.upserts.iter().map(|(record, _)| (record.key(), Some(record.clone()))));
        prop_assert_eq!(found.len(), net.deletes.len() + net.upserts.len());
        prop_assert_eq!(found, expected);
        prop_assert_eq!(net.revision, changes.last().map_or(Revision(0), |change| change.revision));
    }
}

#[test]
fn what_a_newer_minor_may_know_is_unsupported_and_not_skipped() {
    let empty = proto::Record { value: None }.encode_to_vec();
    assert!(matches!(decode_record(&empty), Err(Error::Unsupported { .. })));
    assert!(matches!(Request::try_from(SyncRequest::default()), Err(Error::Unsupported { .. })));
    assert!(matches!(Response::try_from(SyncResponse::default()), Err(Error::Unsupported { .. })));

    let newer = proto::ChangeSet { minor_min: super::MINOR + 1, ..proto::ChangeSet::default() }.encode_to_vec();
    assert!(matches!(decode_change_set(&newer), Err(Error::Unsupported { .. })));

    let policy = proto::Policy { pins: 99, ..proto::Policy::default() };
    let environment = proto::Environment {
        id: Bytes::from_static(&[1; 16]),
        project: "support".into(),
        name: "preview".into(),
        policy: Some(policy),
        ..proto::Environment::default()
    };
    let record = proto::Record { value: Some(proto::record::Value::Environment(environment)) };
    assert_eq!(decode_record(&record.encode_to_vec()), Err(Error::Unsupported { what: "policy.pins" }));
}

#[test]
fn refusals_name_the_field() {
    let environment = proto::Environment { id: Bytes::from_static(&[1; 3]), ..proto::Environment::default() };
    let record = proto::Record { value: Some(proto::record::Value::Environment(environment)) };
    let error = decode_record(&record.encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "read environment.id: 3 bytes, not 16");

    let settings = proto::Settings { base_domain: "http://x".into(), ..proto::Settings::default() };
    let record = proto::Record { value: Some(proto::record::Value::Settings(settings)) };
    let error = decode_record(&record.encode_to_vec()).unwrap_err().to_string();
    assert!(error.starts_with("read settings.base_domain: failed to use"), "{error}");

    let deletes = proto::ChangeSet { deletes: vec!["secret/1".into()], ..proto::ChangeSet::default() };
    assert!(matches!(decode_change_set(&deletes.encode_to_vec()), Err(Error::Text { .. })));
    assert!(matches!(decode_record(b"\xff\xff"), Err(Error::Malformed { .. })));
}

#[test]
fn a_proxy_with_an_unusable_name_is_refused() {
    for name in ["", "a\nb", &"x".repeat(129)] {
        let hello = proto::Hello {
            proxy_id: name.into(),
            instance_id: Bytes::from_static(&[1; 16]),
            build: "b".into(),
            ..proto::Hello::default()
        };
        let request = SyncRequest { message: Some(proto::sync_request::Message::Hello(hello)) };
        assert!(Request::try_from(request).is_err(), "{name:?}");
    }
}

#[test]
fn a_change_set_assembled_from_stored_records_is_the_same() {
    let deletes = [RecordKey::Settings];
    let assembled = assemble_change_set(Revision(3), Vec::new(), &deletes);
    let decoded = decode_change_set(&assembled).unwrap();
    assert_eq!((decoded.revision, decoded.deletes.as_slice()), (Revision(3), deletes.as_slice()));
}

#[test]
fn a_change_set_asks_for_the_minor_that_its_records_need() {
    let environment = |policy| {
        let environment = EnvironmentRecord {
            id: uuid::Uuid::from_u128(1).into(),
            project: "support".parse().unwrap(),
            name: "staging".parse().unwrap(),
            hosts: Vec::new(),
            pointer: None,
            policy,
        };
        let upserts = vec![Record::Environment(environment)];
        let change = ChangeSet { revision: Revision(1), upserts, deletes: Vec::new() };
        decode_change_set(&encode_change_set(&change)).unwrap().minor_min
    };
    assert_eq!(environment(Policy::default()), 1);
    assert_eq!(environment(Policy { in_flight_max: 1, ..Policy::default() }), 3);
    assert_eq!(environment(Policy { websocket_idle_timeout_ms: 1, ..Policy::default() }), 3);
    let pool = |secure| {
        let (environment, deployment) = (uuid::Uuid::from_u128(1).into(), uuid::Uuid::from_u128(2).into());
        let endpoint = EndpointRecord {
            id: uuid::Uuid::from_u128(3).into(),
            address: "10.0.0.7:443".parse().unwrap(),
            authority: Some("agents.internal".to_owned()),
            secure,
            draining: false,
        };
        let pool = PoolRecord {
            key: PoolKey { environment, deployment },
            reference: DeploymentRef::from_bytes([7; 8]),
            state: PoolRecordState::Open,
            protocol: Protocol::Http1,
            host: HostHeader::Client,
            retry_on_reused_close: false,
            endpoints: vec![endpoint],
        };
        let upserts = vec![Record::Pool(pool)];
        let change = ChangeSet { revision: Revision(1), upserts, deletes: Vec::new() };
        decode_change_set(&encode_change_set(&change)).unwrap().minor_min
    };
    assert_eq!((pool(false), pool(true)), (1, 4), "who does not know of TLS would speak in the open");
}
