//! A request on its way out over HTTP/2: its head made fit, then its body as the
//! replica's window allows.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, SendStream};
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderValue, Method, Request, Version};
use http_body::Body as _;

use crate::ingress::added::Ours;
use crate::ingress::request_body::RequestBody;

/// Fields that say something about an HTTP/1 connection (RFC 9113 §8.2.2), and
/// `Host`, which is `:authority` here.
const NOT_HERE: [HeaderName; 7] = [
    header::HOST,
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// The body of one request.
pub(super) struct Outgoing(pub(super) SendStream<Bytes>);

/// Why sending stops.
pub(super) enum Stop {
    /// The body has no end: the client's doing.
    Cut,
    /// The replica takes no more of it, or is gone.
    Refused,
}

/// The head as HTTP/2 wants it; `parts` stay as they are, as they may be sent again.
pub(super) fn head(parts: &Parts, ours: Ours<'_>, is_secure: bool) -> Result<Request<()>, http::Error> {
    let host = parts.headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let mut uri = parts.uri.clone().into_parts();
    uri.scheme = Some(if is_secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(Authority::try_from(host)?);
    let mut headers: HeaderMap = parts.headers.clone();
    for name in NOT_HERE {
        headers.remove(name);
    }
    ours.put(&mut headers);
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = Uri::from_parts(uri)?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The head that asks for a WebSocket (RFC 8441 §5), from one of HTTP/1.1.
pub(super) fn connect(parts: &Parts, ours: Ours<'_>, is_secure: bool) -> Result<Request<()>, http::Error> {
    let mut request = head(parts, ours, is_secure)?;
    *request.method_mut() = Method::CONNECT;
    request.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    Ok(request)
}

impl Outgoing {
    /// Sends what there is; ready when all of it is sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, body: &mut RequestBody) -> Poll<Result<(), Stop>> {
        loop {
            ready!(self.poll_window(cx))?;
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
                return Poll::Ready(self.0.send_data(Bytes::new(), true).map_err(|_| Stop::Refused));
            };
            let Ok(frame) = frame else {
                // Its end must not look like the end of the body.
                self.0.send_reset(Reason::CANCEL);
                return Poll::Ready(Err(Stop::Cut));
            };
            match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    self.0.send_data(data, is_last).map_err(|_| Stop::Refused)?;
                    if is_last {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(self.0.send_trailers(trailers).map_err(|_| Stop::Refused));
                }
            }
        }
    }

    /// Ready when the replica has room. What is taken from the client before that
    /// would only be stored.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if self.0.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Stop::Refused));
        }
        self.0.reserve_capacity(1);
        while self.0.capacity() == 0 {
            match ready!(self.0.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Stop::Refused)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::added::{Added, Origin};
    use crate::routing::pool::DeploymentText;

    #[test]
    fn a_head_loses_what_belongs_to_a_connection_and_names_its_authority() {
        let request = Request::post("/a?b=c")
            .header("host", "agents.example:8080")
            .header("connection", "te")
            .header("te", "trailers")
            .header("transfer-encoding", "chunked")
            .header("x-a", "1");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let value = HeaderValue::from_static;
        let added = Added {
            forwarded_for: value("192.0.2.1"),
            forwarded_proto: None,
            forwarded_host: None,
            via: "1.1 repoint",
            request_id: value("r"),
            traceparent: value("t"),
        };
        let origin = Origin { deployment: DeploymentText::of(uuid::Uuid::from_u128(1)), environment: b"staging" };
        let head = head(&parts, Ours::new(&added, origin), false).unwrap();
        assert_eq!(head.uri(), "http://agents.example:8080/a?b=c");
        let mut names: Vec<_> = head.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["te", "traceparent", "via", "x-a", "x-deployment-id", "x-environment", "x-forwarded-for", "x-request-id"]
        );
        assert_eq!(parts.headers.len(), 5, "it may be sent again");
    }
}
