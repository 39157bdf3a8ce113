//! kill -9 at every step by which the control plane changes the world, on the
//! real binaries: what was answered is there, what is there agrees, and those
//! who use it notice nothing.
//!
//! `killer.c` is put in front of libc, counts the calls that matter and kills at
//! the one it is told; nothing in the product knows of it.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod page;
mod plane;
mod pointers;
mod replicas;
mod traffic;
mod walk;
mod workers;
