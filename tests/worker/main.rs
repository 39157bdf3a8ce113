//! The supervisor on real processes: what a replica is promised, and what must never happen to one.

#![allow(clippy::unwrap_used, reason = "a test that panics with a line number is a test that reports")]

mod bench;
mod endpoints;
mod endings;
mod failures;
mod orphans;
mod promises;
mod replicas;
