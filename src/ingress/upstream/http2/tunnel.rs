//! A stream that has left HTTP: bytes both ways, after an extended CONNECT was
//! agreed to (RFC 8441 §4).
//!
//! Also what such a request lacks beside one of HTTP/1.1: its key, and the proof
//! that the key was read, which we make in the replica's place.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ingress::upstream::http2::session::Place;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// The key of a request for a WebSocket; nothing for any other.
pub(super) fn key(parts: &Parts) -> Option<&HeaderValue> {
    let upgrade = parts.headers.get(header::UPGRADE)?;
    let key = parts.headers.get(header::SEC_WEBSOCKET_KEY)?;
    upgrade.as_bytes().eq_ignore_ascii_case(b"websocket").then_some(key)
}

/// What proves that a key was read (RFC 6455 §4.2.2).
pub(super) fn accept(key: &HeaderValue) -> HeaderValue {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    // Base64 is a field's value in any case.
    HeaderValue::try_from(STANDARD.encode(hash.finalize())).unwrap_or(WEBSOCKET)
}

/// Makes the fields of an agreement those that HTTP/1.1 has.
pub(super) fn agree(fields: &mut HeaderMap, accept: HeaderValue) {
    fields.remove(header::CONTENT_LENGTH);
    fields.insert(header::CONNECTION, UPGRADE);
    fields.insert(header::UPGRADE, WEBSOCKET);
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
}

/// The stream. Dropped before both sides have ended, it is reset.
pub(in crate::ingress::upstream) struct Tunnelled {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Read, and not yet handed on.
    rest: Bytes,
    _place: Place,
}

impl Tunnelled {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream, place: Place) -> Self {
        Self { send, receive, rest: Bytes::new(), _place: place }
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(data) => self.rest = data.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        // Handed on: the replica may send as much again.
        let _ = self.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(bytes.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(capacity) => drop(capacity.map_err(io::Error::other)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = bytes.len().min(self.send.capacity());
        let sent = self.send.send_data(Bytes::copy_from_slice(&bytes[..count]), false);
        Poll::Ready(sent.map(|()| count).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task does that.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_in_the_example_of_rfc_6455() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
