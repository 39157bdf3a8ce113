//! HTTP/2 as spoken to replicas (`h2c`, by prior knowledge: RFC 9113 §3.3).
//!
//! Frames, windows and states are the h2 crate's. `session` is a connection that
//! many requests share, `stream` one request on it, `outgoing` its way out,
//! `tunnel` what is left of one that a WebSocket takes. As
//! over HTTP/1.1 the request's own future does the work; only the connection has
//! a task of its own. Knows nothing of retries or clients. Called by `pool`.

pub(super) mod outgoing;
pub(super) mod session;
pub(super) mod stream;
pub(super) mod tunnel;

/// Bytes of a body that a replica may send ahead of a client's reading, for each
/// request. A connection holds as much for all its streams together, so that a
/// client that does not read holds up nobody else's answer.
const WINDOW_BYTES: u32 = 256 * 1024;

/// Streams that share a connection; for more, another is opened. Most servers
/// allow about as many.
const STREAMS_MAX: usize = 100;
