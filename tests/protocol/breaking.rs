//! What was released stays as it was: `buf breaking` with its FILE rules. The file may grow, and then its minor does.

use protox::prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ServiceDescriptor,
};

use super::{current, released, small};

/// What of `old` is gone or different in `new`.
fn broken(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let mut found = Vec::new();
    for file in old.files() {
        match new.get_file_by_name(file.name()) {
            None => found.push(format!("file {} is gone", file.name())),
            Some(now) if now.package_name() != file.package_name() || now.syntax() != file.syntax() => {
                found.push(format!("file {} has another package or syntax", file.name()));
            }
            Some(_) => {}
        }
    }
    for message in old.all_messages() {
        match new.get_message_by_name(message.full_name()) {
            None => found.push(format!("message {} is gone", message.full_name())),
            Some(now) => of_message(&message, &now, &mut found),
        }
    }
    for of in old.all_enums() {
        match new.get_enum_by_name(of.full_name()) {
            None => found.push(format!("enum {} is gone", of.full_name())),
            Some(now) => of_enum(&of, &now, &mut found),
        }
    }
    for service in old.services() {
        match new.get_service_by_name(service.full_name()) {
            None => found.push(format!("service {} is gone", service.full_name())),
            Some(now) => of_service(&service, &now, &mut found),
        }
    }
    found
}

fn of_message(old: &MessageDescriptor, new: &MessageDescriptor, found: &mut Vec<String>) {
    for field in old.fields() {
        let now = new.get_field(field.number()).map(|now| meaning(&now));
        if now.as_ref() != Some(&meaning(&field)) {
            let now = now.unwrap_or_else(|| "nothing".to_owned());
            found.push(format!("{} = {} was {}, is {now}", field.full_name(), field.number(), meaning(&field)));
        }
    }
    for oneof in old.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        if !new.oneofs().any(|now| now.name() == oneof.name()) {
            found.push(format!("oneof {} is gone", oneof.full_name()));
        }
    }
    let is_free = |number: u32| !new.reserved_ranges().any(|range| range.contains(&number));
    for range in old.reserved_ranges().filter(|range| range.clone().any(is_free)) {
        found.push(format!("{}: {range:?} is not reserved any more", old.full_name()));
    }
    for name in old.reserved_names().filter(|name| !new.reserved_names().any(|now| now == *name)) {
        found.push(format!("{}: {name:?} is not reserved any more", old.full_name()));
    }
}

/// All of a field that is on the wire, in JSON, or in generated code.
fn meaning(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(of) => of.full_name().to_owned(),
        plain => format!("{plain:?}").to_lowercase(),
    };
    let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    let oneof = oneof.map(|oneof| format!(" in {}", oneof.name())).unwrap_or_default();
    let presence = if field.supports_presence() { "optional " } else { "" };
    let (label, packed) = (format!("{:?}", field.cardinality()).to_lowercase(), field.is_packed());
    format!("{label} {presence}{kind} {} (JSON {}, packed {packed}){oneof}", field.name(), field.json_name())
}

fn of_enum(old: &EnumDescriptor, new: &EnumDescriptor, found: &mut Vec<String>) {
    for value in old.values() {
        let now = new.values().find(|now| now.name() == value.name()).map(|now| now.number());
        if now != Some(value.number()) {
            found.push(format!("{} was {}, is {now:?}", value.full_name(), value.number()));
        }
    }
    let is_free = |number: i32| !new.reserved_ranges().any(|range| range.contains(&number));
    for range in old.reserved_ranges().filter(|range| range.clone().any(is_free)) {
        found.push(format!("{}: {range:?} is not reserved any more", old.full_name()));
    }
    for name in old.reserved_names().filter(|name| !new.reserved_names().any(|now| now == *name)) {
        found.push(format!("{}: {name:?} is not reserved any more", old.full_name()));
    }
}

fn of_service(old: &ServiceDescriptor, new: &ServiceDescriptor, found: &mut Vec<String>) {
    for method in old.methods() {
        let calls = |service: &ServiceDescriptor| {
            let method = service.methods().find(|now| now.name() == method.name())?;
            let streams = (method.is_client_streaming(), method.is_server_streaming());
            Some((method.input().full_name().to_owned(), method.output().full_name().to_owned(), streams))
        };
        if calls(old) != calls(new) {
            found.push(format!("rpc {} was {:?}, is {:?}", method.full_name(), calls(old), calls(new)));
        }
    }
}

/// Whether there is something in `new` that `old` has not.
fn grew(old: &DescriptorPool, new: &DescriptorPool) -> bool {
    // Whatever is new would be gone the other way round.
    !broken(new, old).is_empty()
}

#[test]
fn nothing_that_was_released_is_gone_or_different() {
    let mut files = released();
    files.push((repoint::wire::MINOR, current()));
    for pair in files.windows(2) {
        let [(minor, old), (_, new)] = pair else { unreachable!("windows of two") };
        assert_eq!(broken(old, new), Vec::<String>::new(), "since minor {minor}");
    }
}

#[test]
fn what_was_added_has_a_minor_of_its_own() {
    let (minor, last) = released().pop().unwrap();
    let now = repoint::wire::MINOR;
    assert!(now >= minor, "the minor went back from {minor} to {now}");
    assert!(!grew(&last, &current()) || now > minor, "the file has more than minor {minor} had: raise wire::MINOR");
}

const FILE: &str = "enum E { E_UNSPECIFIED = 0; E_A = 1; reserved 7; reserved \"E_OLD\"; }
    message SyncRequest { oneof message { string a = 1; string b = 2; } }
    message SyncResponse { repeated uint64 n = 1; optional bytes o = 2; E e = 3; reserved 5 to 6; reserved \"old\"; }
    service ControlStreamService { rpc Sync(stream SyncRequest) returns (stream SyncResponse); }";

#[test]
fn each_way_of_breaking_it_is_found() {
    let cases = [
        ("enum E {", "enum F { F_UNSPECIFIED = 0; } enum E {", ""),
        ("string b = 2;", "string b = 2; string c = 3;", ""),
        ("E_A = 1;", "E_A = 1; E_B = 2;", ""),
        (" string b = 2;", "", "SyncRequest.b = 2"),
        ("string b = 2;", "string b = 3;", "SyncRequest.b = 2"),
        ("string b = 2;", "string renamed = 2;", "SyncRequest.b = 2"),
        ("string b = 2;", "bytes b = 2;", "SyncRequest.b = 2"),
        ("string b = 2; }", "} string b = 2;", "SyncRequest.b = 2"),
        ("oneof message", "oneof other", "oneof repoint.control.v1.SyncRequest.message"),
        ("repeated uint64", "uint64", "SyncResponse.n = 1"),
        ("repeated uint64 n = 1", "repeated uint64 n = 1 [packed = false]", "SyncResponse.n = 1"),
        ("optional bytes", "bytes", "SyncResponse.o = 2"),
        ("optional bytes o = 2", "optional bytes o = 2 [json_name = \"p\"]", "SyncResponse.o = 2"),
        ("E e = 3", "int32 e = 3", "SyncResponse.e = 3"),
        ("reserved 5 to 6;", "reserved 5;", "SyncResponse: 5..7 is not reserved"),
        ("reserved \"old\";", "", "SyncResponse: \"old\" is not reserved"),
        (" E_A = 1;", "", "E_A was 1"),
        ("E_A = 1;", "E_A = 2;", "E_A was 1"),
        ("E_A = 1;", "E_RENAMED = 1;", "E_A was 1"),
        ("reserved 7;", "", "E: 7..=7 is not reserved"),
        ("reserved \"E_OLD\";", "", "E: \"E_OLD\" is not reserved"),
        ("rpc Sync(stream ", "rpc Sync(", "rpc repoint.control.v1.ControlStreamService.Sync"),
        ("returns (stream SyncResponse)", "returns (stream SyncRequest)", "rpc repoint.control.v1.ControlStreamSer"),
        ("rpc Sync", "rpc Renamed", "rpc repoint.control.v1.ControlStreamService.Sync"),
        ("service ControlStreamService", "service Renamed", "service repoint.control.v1.ControlStreamService is gone"),
    ];
    let old = small(FILE);
    for (before, after, expected) in cases {
        assert_eq!(FILE.matches(before).count(), 1, "{before}");
        let new = small(&FILE.replace(before, after));
        let found = broken(&old, &new);
        if expected.is_empty() {
            assert_eq!(found, Vec::<String>::new(), "{after}");
            assert!(grew(&old, &new), "{after}");
        } else {
            assert!(found.iter().any(|found| found.contains(expected)), "{after}: {found:?}");
        }
    }
    assert!(!grew(&old, &old));
    let gone = small("service ControlStreamService {}");
    let of_what = |kind: &str| broken(&old, &gone).iter().any(|found| found.starts_with(kind));
    assert!(of_what("message ") && of_what("enum ") && of_what("rpc "));
}
