//! The checked-in protobuf code is what the `.proto` compiles to.
//!
//! `REGENERATE=1 cargo test --test wire_fresh` rewrites it. The compiler is pure Rust, so no `protoc` is needed.

use std::path::Path;

const PROTO: &str = "repoint/control/v1/control.proto";
const CHECKED_IN: &str = "src/wire/generated/repoint.control.v1.rs";

#[test]
fn checked_in_code_is_what_the_proto_compiles_to() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiled = compile(root);
    let path = root.join(CHECKED_IN);
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&path, &compiled).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    // Not `assert_eq!`: two copies of the file would say less than this sentence.
    assert!(checked_in == compiled, "{CHECKED_IN} is stale: run REGENERATE=1 cargo test --test wire_fresh");
}

#[test]
fn every_message_field_and_value_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("proto").join(PROTO)).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for pair in lines.windows(2) {
        let declares = pair[1].ends_with(';') && pair[1].contains(" = ")
            || ["message ", "enum ", "service ", "rpc ", "oneof "].iter().any(|word| pair[1].starts_with(word));
        let is_syntax = pair[1].starts_with("syntax");
        assert!(!declares || is_syntax || pair[0].starts_with("//"), "say what this is: {}", pair[1]);
    }
}

fn compile(root: &Path) -> String {
    let descriptors = protox::compile([PROTO], [root.join("proto")]).expect("the .proto is valid");
    let out = tempfile::tempdir().expect("a folder to compile into");
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("the .proto compiles");
    std::fs::read_to_string(out.path().join("repoint.control.v1.rs")).expect("the compiled file")
}
