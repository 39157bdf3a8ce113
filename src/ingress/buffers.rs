//! Buffers that the connections of one core take turns with.
//!
//! None of them has one to itself: what waits for bytes holds no memory for them.
//! Bytes are read into one buffer and handed on as pieces of it; what is written
//! is put together in one of a few that go round.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// One core's.
#[derive(Default)]
pub(super) struct Buffers {
    read: RefCell<BytesMut>,
    write: RefCell<Vec<Vec<u8>>>,
}

/// What a buffer holds: a large answer fills it, a few dozen small heads share it.
/// Answers are read in pieces as large as this.
pub(super) const READ_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request's body read at once at most. Twice as much saves calls and costs
/// more than they do: whoever sends finds us asleep more often, and what is copied in
/// falls out of the core's cache before it is copied out (uploads of 1 MiB took 555 µs
/// instead of 400). Answers are the other way round: those of 64 KiB take 28 µs read
/// whole and 36 µs in halves.
pub(super) const BODY_BYTES_MAX: usize = 32 * 1024;
/// What there must be room for before a read.
pub(super) const READ_BYTES_MIN: usize = 8 * 1024;
/// What has become larger is not kept.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// As many as are in use at once while nobody is slow: one for either side.
const WRITE_BUFFERS_MAX: usize = 8;

impl Buffers {
    /// Reads what is there, `max` bytes at most, with room for so many; empty at the end.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        room: usize,
        max: usize,
    ) -> Poll<io::Result<Bytes>> {
        let mut buffer = self.read.borrow_mut();
        if buffer.capacity() < room {
            // Uses the same memory again where nobody holds on to a piece of it.
            buffer.reserve(READ_BYTES_MAX);
        }
        pin!(from.read_buf(&mut (&mut *buffer).limit(max))).poll(cx).map_ok(|_| buffer.split().freeze())
    }

    /// An empty buffer to write into.
    pub(super) fn take(&self) -> Vec<u8> {
        self.write.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes one back.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        let mut kept = self.write.borrow_mut();
        if buffer.capacity() <= WRITE_BYTES_MAX && kept.len() < WRITE_BUFFERS_MAX {
            buffer.clear();
            kept.push(buffer);
        }
    }
}
