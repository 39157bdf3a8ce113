//! What claims synchronise with.
//!
//! Named in one place so that `tests/loom.rs` can put its own in their stead and
//! run [`claim`](crate::routing::claim) through every order of events.

pub(super) use std::sync::OnceLock;
pub(super) use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use tokio::sync::Notify;
