//! Writes of one HTTP/2 connection, put together.
//!
//! Each stream's answer makes h2 flush, and each flush would be a system call and a
//! segment of its own. While other requests of the connection are on their way, a
//! flush waits for a turn of the event loop instead, and for another one as long as
//! each brings more: whatever other streams have by then goes out with it. Nothing
//! waits for time: on an idle core a turn comes at once, and brings nothing. Clients
//! answer what comes together with requests that come together, so that this saves
//! reading as well.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ingress::buffers::Buffers;

/// What is larger is not copied: it fills a call by itself.
const COPIED_MAX: usize = 16 * 1024;
/// Bytes that wait at most.
const GATHERED_MAX: usize = 64 * 1024;
/// How often the same bytes are put off at most: a core with much to do takes some
/// hundred microseconds for so many turns.
const TURNS_MAX: u8 = 16;

/// A socket whose writes are put together; `expects` says whether more is on its way.
pub(super) struct Gather<T, E> {
    io: T,
    expects: E,
    buffers: Rc<Buffers>,
    /// Written to us and not to the socket; `at` bytes of it are out.
    waiting: Vec<u8>,
    at: usize,
    /// How often a flush was put off for what waits, and what waited then.
    turns: u8,
    seen: usize,
}

impl<T: AsyncWrite + Unpin, E: Fn() -> bool + Unpin> Gather<T, E> {
    pub(super) fn new(io: T, buffers: &Rc<Buffers>, expects: E) -> Self {
        Self { io, expects, buffers: Rc::clone(buffers), waiting: Vec::new(), at: 0, turns: 0, seen: 0 }
    }

    /// Whether a flush is worth another turn.
    fn is_worth_a_turn(&self) -> bool {
        self.waiting.len() > self.seen && self.turns < TURNS_MAX && (self.expects)()
    }

    /// Wakes its task once the event loop has heard of what has come meanwhile.
    fn put_off(&mut self, cx: &mut Context<'_>) {
        self.turns += 1;
        self.seen = self.waiting.len();
        // Its first poll leaves the waker where the runtime looks after its sockets; that is all of it we need.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
    }

    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.waiting.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.at += written,
            }
        }
        if !self.waiting.is_empty() {
            // A connection that has nothing to say holds no memory for it.
            self.buffers.give(std::mem::take(&mut self.waiting));
        }
        (self.at, self.turns, self.seen) = (0, 0, 0);
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes; whether they are to be copied.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        let is_copied = bytes <= COPIED_MAX;
        if !is_copied || self.waiting.len() + bytes > GATHERED_MAX {
            ready!(self.poll_drain(cx))?;
        }
        if is_copied && self.waiting.capacity() == 0 {
            self.waiting = self.buffers.take();
        }
        Poll::Ready(Ok(is_copied))
    }
}

impl<T: AsyncRead + Unpin, E: Unpin> AsyncRead for Gather<T, E> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Unpin, E: Fn() -> bool + Unpin> AsyncWrite for Gather<T, E> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !ready!(self.poll_room(cx, bytes.len()))? {
            return Pin::new(&mut self.io).poll_write(cx, bytes);
        }
        self.waiting.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        if !ready!(self.poll_room(cx, bytes))? {
            return Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        }
        for part in parts {
            self.waiting.extend_from_slice(part);
        }
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_worth_a_turn() {
            self.put_off(cx);
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        // TLS keeps what the socket did not take at once.
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::Waker;

    use super::*;

    /// A socket that takes so many bytes at a time, and remembers the calls.
    struct Calls(Vec<Vec<u8>>, usize);

    impl AsyncWrite for Calls {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.1);
            self.0.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Gathered<'a> = Gather<Calls, &'a dyn Fn() -> bool>;

    fn write(gather: &mut Gathered<'_>, bytes: &[u8]) {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut rest = bytes;
        while !rest.is_empty() {
            let Poll::Ready(Ok(taken)) = Pin::new(&mut *gather).poll_write(cx, rest) else { panic!("it takes all") };
            rest = &rest[taken..];
        }
    }

    fn flush(gather: &mut Gathered<'_>) -> bool {
        Pin::new(gather).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_flush_waits_for_as_long_as_turns_bring_more() {
        let expects: &dyn Fn() -> bool = &|| true;
        let mut gather = Gather::new(Calls(Vec::new(), usize::MAX), &Rc::default(), expects);
        for part in [b"one ", b"two "] {
            write(&mut gather, part);
            assert!(!flush(&mut gather) && gather.io.0.is_empty());
        }
        assert!(flush(&mut gather), "the last turn brought nothing");
        assert_eq!(gather.io.0, [b"one two ".to_vec()]);
        assert!(flush(&mut gather), "nothing waits");
        for _ in 0..TURNS_MAX {
            write(&mut gather, b"more");
            assert!(!flush(&mut gather), "each time anew");
        }
        write(&mut gather, b"more");
        assert!(flush(&mut gather), "but not for ever");
    }

    #[test]
    fn nothing_waits_when_nothing_is_on_its_way() {
        let is_expected = Cell::new(true);
        let expects = || is_expected.get();
        let mut gather = Gather::new(Calls(Vec::new(), usize::MAX), &Rc::default(), &expects as &dyn Fn() -> bool);
        write(&mut gather, b"one ");
        assert!(!flush(&mut gather));
        write(&mut gather, b"two");
        is_expected.set(false);
        assert!(flush(&mut gather));
        assert_eq!(gather.io.0, [b"one two".to_vec()]);
    }

    #[test]
    fn the_order_stays_whatever_the_sizes() {
        let expects: &dyn Fn() -> bool = &|| true;
        let mut gather = Gather::new(Calls(Vec::new(), 1_000), &Rc::default(), expects);
        let mut all = Vec::new();
        for (at, size) in
            [10, 20_000, 300, 16_384, 16_385, 1, 60_000, 16_000, 16_000, 16_000, 16_000, 5].into_iter().enumerate()
        {
            let bytes = vec![u8::try_from(at).unwrap(); size];
            all.extend_from_slice(&bytes);
            write(&mut gather, &bytes);
            assert!(gather.waiting.len() <= GATHERED_MAX);
        }
        while !flush(&mut gather) {}
        assert_eq!(gather.io.0.concat(), all);
        assert_eq!(gather.waiting.capacity(), 0);
    }
}
