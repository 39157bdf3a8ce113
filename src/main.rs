//! The `repoint` binary: arguments to exit code.

fn main() {}
