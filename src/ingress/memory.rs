//! A peer that is memory: it says the same message whenever it is its turn.
//!
//! Stands where a socket would, on either side, so that what a request costs can
//! be measured without the kernel's part of it. The turn goes over to it with
//! each write and ends with its message. Never wakes anybody: whoever would wait
//! for it would wait for ever. Made by `steps` alone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A peer in memory.
pub(super) struct Memory {
    says: Bytes,
    /// Bytes of it that it has said, this turn.
    said: usize,
    /// Turns it has yet, this one included; then it closes.
    turns: u64,
    is_its_turn: bool,
}

impl Memory {
    /// A client that asks so many times, each time when it has its answer.
    pub(super) fn asking(says: Bytes, times: u64) -> Self {
        Self { says, said: 0, turns: times, is_its_turn: times > 0 }
    }

    /// A replica that answers whatever it is asked.
    pub(super) fn answering(says: Bytes) -> Self {
        Self { says, said: 0, turns: u64::MAX, is_its_turn: false }
    }

    /// Whether it says nothing.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_its_turn && self.turns > 0
    }
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_quiet() {
            return Poll::Pending;
        }
        if self.is_its_turn {
            let taken = into.remaining().min(self.says.len() - self.said);
            into.put_slice(&self.says[self.said..self.said + taken]);
            self.said += taken;
            if self.said == self.says.len() {
                (self.said, self.is_its_turn) = (0, false);
                self.turns -= 1;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_its_turn = self.turns > 0;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.poll_write(cx, b"").map_ok(|_| bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
