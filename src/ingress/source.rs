//! Where the body of a request comes from: hyper, or the socket that we read.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::ingress::downstream::http1::client::Client;
use crate::ingress::upstream::http1::Malformed;

/// A body as it comes in.
pub(super) enum Source {
    Hyper(Incoming),
    Client(Claim),
}

/// The body on a connection that we read ourselves. Whoever holds it reads it.
pub(super) struct Claim(Rc<Client>);

/// Why it ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// What hyper says.
    #[error("read it")]
    Hyper(#[source] hyper::Error),
    /// The connection has ended.
    #[error("read it")]
    Closed(#[source] io::Error),
    /// Its framing makes no sense.
    #[error("find its end")]
    Malformed(#[source] Malformed),
}

impl Source {
    /// The body that is on a client's connection now.
    pub(super) fn client(client: &Rc<Client>) -> Self {
        client.claim_body();
        Self::Client(Claim(Rc::clone(client)))
    }
}

impl Ended {
    /// Whether what came is no body, rather than half of one. hyper says so by the
    /// kind of the I/O error its decoder makes.
    pub(super) fn is_malformed(&self) -> bool {
        match self {
            Self::Hyper(error) => {
                let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
                source.is_some_and(|error| {
                    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
                })
            }
            Self::Closed(_) => false,
            Self::Malformed(_) => true,
        }
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        match self.get_mut() {
            Self::Hyper(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Ended::Hyper)))
            }
            Self::Client(Claim(client)) => client.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Client(Claim(client)) => client.is_body_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Client(Claim(client)) => client.body_left().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.release_body();
    }
}
