//! Both ends together: in any order over a network that loses everything, on a
//! simulated network from a seed, and over real sockets with a real table.

mod any_order;
pub(super) mod cluster;
mod guards;
pub(super) mod log;
mod loopback;
mod minors;
mod mutated;
mod real_store;
pub(super) mod sabotage;
mod simulation;
