//! What is loaded after anything that may happen to a disk is what was applied.

mod bytes;
mod crashes;
mod faults;
pub(in crate::stream) mod memory;
mod restarts;
mod world;
