//! Both ends together: in any order over a network that loses everything, and
//! over real sockets with a real store and a real table.

mod any_order;
mod log;
