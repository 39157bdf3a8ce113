//! Last-known-good: the table on disk, so that a restarted proxy serves before it
//! has reached the control plane.
//!
//! A checkpoint is a whole snapshot, a journal the deltas after it; both are the
//! frames of the stream as they came. `recovery` loads them at start, the
//! [`keeper`] hands what the client has applied to a thread of its own, where the
//! `writer` makes it durable. Refuses to know what a record means: the digest
//! that came with it says whether it is whole. `app` opens the [`folder`], the
//! [`client`](crate::stream::client) says what was heard and applied.

pub(super) mod compaction;
pub(super) mod disk;
pub mod folder;
pub(super) mod format;
pub mod keeper;
pub mod metrics;
pub(super) mod names;
pub(super) mod queue;
pub(super) mod recovery;
pub(super) mod worker;
pub(super) mod writer;

#[cfg(test)]
pub(super) mod tests;

/// The runtime's clock, which simulations turn themselves. The thread that waits
/// for the disk has no runtime, and gets the system's.
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// How much is kept before something is done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// A journal of so many bytes is followed by a new checkpoint.
    pub checkpoint_bytes: u64,
    /// Deltas that wait for the disk take this much memory at most; what comes
    /// after that is not kept, and a whole table asked for once the disk works.
    pub queue_bytes_max: usize,
}

impl Default for Config {
    /// 64 MiB each: half a million moves. Reading that back takes a second, and
    /// a disk that hangs for minutes does not yet cost a snapshot.
    fn default() -> Self {
        Self { checkpoint_bytes: 64 << 20, queue_bytes_max: 64 << 20 }
    }
}
