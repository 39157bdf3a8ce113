//! What a request resolves to: host or header, environment, pool.
//!
//! Owns the immutable routing table, the one atomic swap that replaces it, and
//! the claims requests hold on pools. Knows nothing of sockets, clocks or who
//! moved a pointer. `ingress::proxy` claims through a [`live::Reader`] per
//! thread; `stream::client` applies changes to [`live::Live`].

pub mod address;
pub mod change;
pub mod claim;
pub mod counters;
pub mod environments;
pub mod explain;
pub mod hosts;
pub mod index;
pub mod live;
pub mod pool;
pub mod route;
pub mod slots;
pub mod table;
pub mod text;

mod closed;
mod draft;
mod sync;

#[cfg(test)]
mod claim_tests;
