//! HTTP/1.1 as spoken to replicas: bytes out, bytes in, what they mean.
//!
//! No task and no channel: the request's own future writes and reads, then the
//! answer's body reads. `request` and `outgoing` write, `head`, `body` and
//! `chunks` read; those three are pure and are fed bytes as they come. Knows
//! nothing of retries, pools or clients. Called by `link`.

pub(in crate::ingress) mod body;
pub(in crate::ingress) mod chunks;
pub(super) mod head;
pub(in crate::ingress) mod lines;
pub(in crate::ingress) mod outgoing;
pub(in crate::ingress) mod request;

/// Bytes of an answer's head, and of its trailers. As large as the heads we take
/// from clients by default.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Fields of an answer's head, and of its trailers.
const FIELDS_MAX: usize = 128;

/// What a replica sent is not HTTP, or could be read in two ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::ingress) struct Malformed(pub(in crate::ingress) &'static str);
