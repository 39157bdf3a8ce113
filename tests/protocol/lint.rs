//! How things are named: `buf lint` with its STANDARD rules, as far as they say anything of one file.

use protox::prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor, ServiceDescriptor, Syntax};

use super::{PROTO, current, released, small};

/// What breaks a rule, by the rule's name.
fn lint(pool: &DescriptorPool) -> Vec<String> {
    let mut found = Vec::new();
    for file in pool.files() {
        let (name, package) = (file.name(), file.package_name());
        let mut check = |holds: bool, rule: &str| {
            if !holds {
                found.push(format!("{rule} {name}"));
            }
        };
        check(file.syntax() == Syntax::Proto3, "SYNTAX_SPECIFIED");
        check(!package.is_empty(), "PACKAGE_DEFINED");
        check(package.split('.').all(is_snake), "PACKAGE_LOWER_SNAKE_CASE");
        check(package.rsplit('.').next().is_some_and(is_version), "PACKAGE_VERSION_SUFFIX");
        let (folder, base) = name.rsplit_once('/').unwrap_or_default();
        check(folder == package.replace('.', "/"), "PACKAGE_DIRECTORY_MATCH");
        check(base.strip_suffix(".proto").is_some_and(is_snake), "FILE_LOWER_SNAKE_CASE");
        check(file.public_dependencies().len() == 0, "IMPORT_NO_PUBLIC");
        check(file.file_descriptor_proto().weak_dependency.is_empty(), "IMPORT_NO_WEAK");
    }
    pool.all_messages().filter(|message| !message.is_map_entry()).for_each(|message| of_message(&message, &mut found));
    pool.all_enums().for_each(|of| of_enum(&of, &mut found));
    pool.services().for_each(|service| of_service(&service, &mut found));
    found
}

fn of_message(message: &MessageDescriptor, found: &mut Vec<String>) {
    if !is_pascal(message.name()) {
        found.push(format!("MESSAGE_PASCAL_CASE {}", message.full_name()));
    }
    for field in message.fields() {
        if !is_snake(field.name()) {
            found.push(format!("FIELD_LOWER_SNAKE_CASE {}", field.full_name()));
        }
        if field.is_required() {
            found.push(format!("FIELD_NOT_REQUIRED {}", field.full_name()));
        }
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic() && !is_snake(oneof.name())) {
        found.push(format!("ONEOF_LOWER_SNAKE_CASE {}", oneof.full_name()));
    }
}

fn of_enum(of: &EnumDescriptor, found: &mut Vec<String>) {
    let mut check = |holds: bool, rule: &str, name: &str| {
        if !holds {
            found.push(format!("{rule} {name}"));
        }
    };
    check(is_pascal(of.name()), "ENUM_PASCAL_CASE", of.full_name());
    let aliased = of.enum_descriptor_proto().options.as_ref().is_some_and(|options| options.allow_alias());
    check(!aliased, "ENUM_NO_ALLOW_ALIAS", of.full_name());
    let prefix = upper_snake(of.name()) + "_";
    for value in of.enum_descriptor_proto().value.iter() {
        let is_shouted = value.name().bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        check(is_shouted, "ENUM_VALUE_UPPER_SNAKE_CASE", value.name());
        check(value.name().starts_with(&prefix), "ENUM_VALUE_PREFIX", value.name());
        let is_unspecified = value.name() == format!("{prefix}UNSPECIFIED");
        check(is_unspecified == (value.number() == 0), "ENUM_ZERO_VALUE_SUFFIX", value.name());
    }
    let first = of.enum_descriptor_proto().value.first();
    check(first.is_some_and(|first| first.number() == 0), "ENUM_FIRST_VALUE_ZERO", of.full_name());
}

fn of_service(service: &ServiceDescriptor, found: &mut Vec<String>) {
    let mut check = |holds: bool, rule: &str, name: &str| {
        if !holds {
            found.push(format!("{rule} {name}"));
        }
    };
    check(is_pascal(service.name()), "SERVICE_PASCAL_CASE", service.full_name());
    check(service.name().ends_with("Service"), "SERVICE_SUFFIX", service.full_name());
    let mut carried = Vec::new();
    for method in service.methods() {
        let (input, output) = (method.input(), method.output());
        check(is_pascal(method.name()), "RPC_PASCAL_CASE", method.full_name());
        check(input.name() == format!("{}Request", method.name()), "RPC_REQUEST_STANDARD_NAME", method.full_name());
        check(output.name() == format!("{}Response", method.name()), "RPC_RESPONSE_STANDARD_NAME", method.full_name());
        for message in [input, output] {
            check(!carried.contains(&message), "RPC_REQUEST_RESPONSE_UNIQUE", method.full_name());
            carried.push(message);
        }
    }
}

fn is_snake(name: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(may)
        && !name.contains("__")
        && !name.ends_with('_')
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_version(part: &str) -> bool {
    let digits = part.strip_prefix('v').unwrap_or_default();
    !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// `GoAwayReason` → `GO_AWAY_REASON`.
fn upper_snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

#[test]
fn the_file_is_named_by_the_rules_now_and_as_it_was_released() {
    assert_eq!(lint(&current()), Vec::<String>::new(), "{PROTO}");
    for (minor, pool) in released() {
        assert_eq!(lint(&pool), Vec::<String>::new(), "minor {minor}");
    }
}

#[test]
fn each_rule_can_fail() {
    let cases = [
        ("message bad_name {}", "MESSAGE_PASCAL_CASE"),
        ("message A { string badName = 1; }", "FIELD_LOWER_SNAKE_CASE"),
        ("message A { oneof Bad { string a = 1; } }", "ONEOF_LOWER_SNAKE_CASE"),
        ("message A { message b {} }", "MESSAGE_PASCAL_CASE"),
        ("enum bad { BAD_UNSPECIFIED = 0; }", "ENUM_PASCAL_CASE"),
        ("enum A { A_UNSPECIFIED = 0; A_x = 1; }", "ENUM_VALUE_UPPER_SNAKE_CASE"),
        ("enum A { A_UNSPECIFIED = 0; X = 1; }", "ENUM_VALUE_PREFIX"),
        ("enum A { A_NONE = 0; }", "ENUM_ZERO_VALUE_SUFFIX"),
        ("enum A { option allow_alias = true; A_UNSPECIFIED = 0; A_X = 1; A_Y = 1; }", "ENUM_NO_ALLOW_ALIAS"),
        (
            "message MRequest {} message MResponse {} service A { rpc M(MRequest) returns (MResponse); }",
            "SERVICE_SUFFIX",
        ),
        (
            "message X {} message MResponse {} service AService { rpc M(X) returns (MResponse); }",
            "RPC_REQUEST_STANDARD",
        ),
        ("message MRequest {} message X {} service AService { rpc M(MRequest) returns (X); }", "RPC_RESPONSE_STANDARD"),
        ("message X {} service AService { rpc M(X) returns (X); }", "RPC_REQUEST_RESPONSE_UNIQUE"),
        (
            "message mRequest {} message mResponse {} service AService { rpc m(mRequest) returns (mResponse); }",
            "RPC_PASC",
        ),
    ];
    for (text, rule) in cases {
        let found = lint(&small(text));
        assert!(found.iter().any(|found| found.starts_with(rule)), "{rule}: {text}: {found:?}");
    }
    assert_eq!(lint(&small("message A { string a_b = 1; }")), Vec::<String>::new());
}
