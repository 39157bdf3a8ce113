//! What a refused request still sends: read and thrown away, within limits.
//!
//! A server that answers and closes while the client is still sending makes the
//! kernel reset the connection, and the reset overtakes the answer: the client
//! would see a broken pipe instead of the reason (RFC 9112 §9.6). So what is
//! left of a body when its handler is done is read before the answer goes out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

/// Larger than any JSON body by mistake; a bundle that is refused by its
/// announced size is not worth reading.
const UNREAD_MAX: usize = 16 * 1024 * 1024;

/// A slow sender is not waited for.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a body goes back to when its handler lets go of it.
type Slot = Arc<Mutex<Option<Body>>>;

/// Runs the handler, then reads what it left of the body.
pub(super) async fn read_rest(request: Request, next: Next) -> Response {
    let slot = Slot::default();
    let lent = Arc::clone(&slot);
    let request = request.map(|body| Body::new(Lent { body: Some(body), slot: lent }));
    let response = next.run(request).await;
    let left = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(left) = left.filter(|left| !left.is_end_stream()) {
        // Either outcome leads to the answer; what comes of it is the client's matter.
        let _ = tokio::time::timeout(UNREAD_TIMEOUT, discard(left)).await;
    }
    response
}

async fn discard(mut body: Body) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > UNREAD_MAX {
            return;
        }
    }
}

/// A body that goes back to its slot when dropped.
struct Lent {
    body: Option<Body>,
    slot: Slot,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.get_mut().body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, |body| body.size_hint())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}
