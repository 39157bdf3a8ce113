# Short names for everyday commands; `.ci/run` is what decides.

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the commands.
default:
    @just --list

# Format the source.
fmt:
    cargo fmt

# Format, lints and documentation, without running anything.
check:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked

# The tests; with arguments, those that match.
test *arguments:
    cargo test --locked {{ arguments }}

# Layering, budgets and wording.
tidy:
    cargo test --locked --test tidy

# Everything a change has to pass.
ci:
    .ci/run

# A whole Repoint with a demo agent in two versions.
demo:
    cargo run --release --locked -- up --demo
