//! The nouns, as plain values and pure rules.
//!
//! Owns names, ids and what may follow from what. Knows no clock, no I/O and no
//! async: time and fresh ids come in as arguments. Everything else in the crate
//! speaks in these types.

pub mod bounds;
pub mod change;
pub mod deployment;
pub mod endpoint_url;
pub mod environment;
pub mod event;
pub mod history;
pub mod host;
pub mod id;
pub mod manifest;
pub mod mass_change;
pub mod member;
pub mod moves;
pub mod name;
pub mod policy;
pub mod pool;
pub mod project;
pub mod promotion;
pub mod revision;
