//! The public protocol keeps its promises: its file is well formed and only ever grows, and bytes of every released
//! minor are read as they were meant.
//!
//! `proto/released/minor-N` has the file as it was released with protocol minor N, and `golden/minor-N` frames of that
//! minor. Neither is ever changed. What `buf lint` (STANDARD) and `buf breaking` (FILE) ask for is asked for here, in
//! Rust alone, because a fresh machine has no `buf`.

#![allow(clippy::unwrap_used, reason = "a test that panics with a line number is a test that reports")]

mod breaking;
mod golden;
mod lint;

use std::path::{Path, PathBuf};

use protox::prost_reflect::DescriptorPool;

const PROTO: &str = "repoint/control/v1/control.proto";

/// The file as it is now.
fn current() -> DescriptorPool {
    compile(&root().join("proto"))
}

/// Released minors with their files, oldest first.
fn released() -> Vec<(u32, DescriptorPool)> {
    let folders = std::fs::read_dir(root().join("proto/released")).unwrap().map(|entry| entry.unwrap().path());
    let minor = |path: &Path| path.file_name()?.to_str()?.strip_prefix("minor-")?.parse().ok();
    let mut found: Vec<_> = folders.filter_map(|path| Some((minor(&path)?, compile(&path)))).collect();
    found.sort_by_key(|(minor, _)| *minor);
    assert!(!found.is_empty(), "the released files are in proto/released");
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn compile(include: &Path) -> DescriptorPool {
    let set = protox::compile([PROTO], [include]).unwrap_or_else(|error| panic!("{}: {error}", include.display()));
    DescriptorPool::from_file_descriptor_set(set).unwrap()
}

/// A file of a test's own, with this behind its package.
fn small(text: &str) -> DescriptorPool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(PROTO);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, format!("syntax = \"proto3\";\npackage repoint.control.v1;\n{text}")).unwrap();
    compile(folder.path())
}
