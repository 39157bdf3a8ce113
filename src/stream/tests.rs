//! Both ends together: in any order over a network that loses everything, and
//! over real sockets with a real table.

mod any_order;
pub(super) mod cluster;
mod guards;
pub(super) mod log;
mod loopback;
mod real_store;
