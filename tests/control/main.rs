//! The control plane over real sockets: its API, a store in a directory of its
//! own, and a fleet whose members the tests feed by hand.
//!
//! There is no supervisor here; `plane.rs` writes what one would.

#![allow(clippy::unwrap_used, reason = "a test that panics with a line number is a test that reports")]
#![allow(clippy::needless_pass_by_value, reason = "`json!({…})` as an argument reads best by value")]

mod bad_input;
mod batch;
mod bundles;
mod concurrency;
mod deployments;
mod environments;
mod events;
mod import;
mod invariants;
mod keys;
mod logs;
mod mass_change;
mod move_events;
mod moves;
mod plane;
mod projects;
mod promotions;
mod propagation;
mod proxies;
mod rollbacks;
mod sleeping;
