//! One request on a session, and the stream of its answer.
//!
//! Whoever holds it polls it; dropping it resets the stream, which ends the
//! request at the replica. After an answer has begun too early, a task of its
//! own sends the rest of the request.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::{Body as _, Frame};
use tokio::task::JoinHandle;

use crate::ingress::added::Ours;
use crate::ingress::alarm::Alarm;
use crate::ingress::request_body::RequestBody;
use crate::ingress::upstream::http1::Malformed;
use crate::ingress::upstream::http2::outgoing::{Outgoing, Stop, connect, head};
use crate::ingress::upstream::http2::session::Place;
use crate::ingress::upstream::http2::tunnel::{Tunnelled, accept, agree, key};
use crate::ingress::upstream::link::Broken;

/// A replica that has said nothing for so long after a connection was accepted is
/// not going to.
const SETTINGS_WITHIN: Duration = Duration::from_secs(10);
const NO_WEBSOCKETS: Malformed =
    Malformed("the replica takes no WebSockets over HTTP/2: it does not announce SETTINGS_ENABLE_CONNECT_PROTOCOL");

/// One request and its answer.
pub(in crate::ingress::upstream) struct Stream {
    pub(in crate::ingress::upstream) alarm: Alarm,
    send: SendRequest<Bytes>,
    is_secure: bool,
    answer: Option<RecvStream>,
    /// All data of the answer was read, its trailers were not.
    before_trailers: bool,
    sending: Option<Sending>,
    /// The way to the replica, once it has agreed to a tunnel.
    tunnel: Option<SendStream<Bytes>>,
    place: Place,
}

/// A task that sends the rest of a request; ended when dropped.
struct Sending {
    task: JoinHandle<()>,
    /// The request has no end, so the stream was reset.
    cut: Rc<Cell<bool>>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    /// A stream on which nothing was sent.
    pub(super) fn new(send: SendRequest<Bytes>, is_secure: bool, place: Place, alarm: Alarm) -> Self {
        Self { alarm, send, is_secure, answer: None, before_trailers: false, sending: None, tunnel: None, place }
    }

    /// Sends a request and reads the head of its answer, whose fields replace
    /// those of the request. The alarm is set to `patience` once all of the
    /// request is sent: a slow upload is the client's doing.
    pub(in crate::ingress::upstream) async fn exchange(
        &mut self,
        parts: &mut Parts,
        ours: Ours<'_>,
        body: &mut RequestBody,
        patience: Option<Duration>,
    ) -> Result<StatusCode, Broken> {
        if key(parts).is_some() {
            // Boxed: rare, and its state would make every request's larger.
            return Box::pin(self.connect(parts, ours, patience)).await;
        }
        let request = head(parts, ours, self.is_secure).map_err(|error| Broken::Unsent(io::Error::other(error)))?;
        let has_body = !body.is_end_stream();
        let begun = self.send.send_request(request, !has_body);
        let (mut coming, out) = begun.map_err(|error| Broken::Unsent(io::Error::other(error)))?;
        let mut out = has_body.then_some(Outgoing(out));
        if !has_body && let Some(limit) = patience {
            self.alarm.within(limit);
        }
        let answer = poll_fn(|cx| {
            if let Some(sending) = &mut out
                && let Poll::Ready(sent) = sending.poll(cx, body)
            {
                if let Err(Stop::Cut) = sent {
                    return Poll::Ready(Err(Broken::Cut));
                }
                // Where it was refused, the answer says why, or the reset does.
                out = None;
                if let Some(limit) = patience {
                    self.alarm.within(limit);
                }
            }
            self.poll_answer(cx, &mut coming, body)
        });
        let (head, answer) = answer.await?.into_parts();
        self.alarm.off();
        self.place.served();
        if let Some(out) = out {
            self.send_rest(out, std::mem::replace(body, RequestBody::empty()));
        }
        parts.headers = head.headers;
        self.answer = Some(answer);
        Ok(head.status)
    }

    /// Asks the replica for a WebSocket (RFC 8441 §4). It agrees as over HTTP/1.1:
    /// with a 101, and proof that the key was read.
    async fn connect(
        &mut self,
        parts: &mut Parts,
        ours: Ours<'_>,
        patience: Option<Duration>,
    ) -> Result<StatusCode, Broken> {
        let unsent = |error| Broken::Unsent(io::Error::other(error));
        let heard = tokio::time::timeout(SETTINGS_WITHIN, self.place.may_connect(&self.send)).await;
        let may = heard.map_err(|_| Broken::Overdue)?.map_err(unsent)?;
        let proof = key(parts).filter(|_| may).map(accept).ok_or(Broken::Malformed(NO_WEBSOCKETS))?;
        let request = connect(parts, ours, self.is_secure).map_err(|error| Broken::Unsent(io::Error::other(error)))?;
        let (mut coming, mut out) = self.send.send_request(request, false).map_err(unsent)?;
        if let Some(limit) = patience {
            self.alarm.within(limit);
        }
        let answer = poll_fn(|cx| self.poll_answer(cx, &mut coming, &mut RequestBody::empty()));
        let (head, answer) = answer.await?.into_parts();
        self.alarm.off();
        self.place.served();
        parts.headers = head.headers;
        self.answer = Some(answer);
        if !head.status.is_success() {
            // An answer like any other; where it has ended both sides already, that is fine too.
            let _ = out.send_data(Bytes::new(), true);
            return Ok(head.status);
        }
        agree(&mut parts.headers, proof);
        self.tunnel = Some(out);
        Ok(StatusCode::SWITCHING_PROTOCOLS)
    }

    /// What is left of it once the replica has agreed to a tunnel.
    pub(in crate::ingress::upstream) fn into_tunnel(self) -> Option<Tunnelled> {
        Some(Tunnelled::new(self.tunnel?, self.answer?, self.place))
    }

    fn poll_answer(
        &self,
        cx: &mut Context<'_>,
        coming: &mut ResponseFuture,
        body: &mut RequestBody,
    ) -> Poll<Result<Response<RecvStream>, Broken>> {
        while let Poll::Ready(Some(interim)) = coming.poll_informational(cx) {
            if interim.map_err(broken)?.status() == StatusCode::CONTINUE {
                body.ask();
                // The body is waiting for this, and not for anything of the connection.
                cx.waker().wake_by_ref();
            }
        }
        match Pin::new(coming).poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(broken)),
            Poll::Pending => self.poll_overdue(cx).map(|()| Err(Broken::Overdue)),
        }
    }

    /// Ready when the alarm has rung.
    pub(in crate::ingress::upstream) fn poll_overdue(&self, cx: &Context<'_>) -> Poll<()> {
        self.alarm.poll_rung(cx)
    }

    /// The next frame of the answer's body.
    pub(in crate::ingress::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(None) };
        if !self.before_trailers {
            match ready!(answer.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Handed on at once, so the replica may send as much again.
                    let _ = answer.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.over(error)),
                None => self.before_trailers = true,
            }
        }
        match ready!(answer.poll_trailers(cx)) {
            Ok(Some(trailers)) => {
                self.answer = None;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Ok(None) => {
                self.answer = None;
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(self.over(error)),
        }
    }

    /// What an error in the middle of an answer means.
    fn over(&mut self, error: h2::Error) -> Option<Result<Frame<Bytes>, Broken>> {
        self.answer = None;
        if error.is_remote() && error.reason() == Some(Reason::NO_ERROR) {
            // RFC 9113 §8.1: the answer is complete, and the rest of the request is not wanted.
            return None;
        }
        let cut = self.sending.as_ref().is_some_and(|sending| sending.cut.get());
        Some(Err(if cut { Broken::Cut } else { broken(error) }))
    }

    /// Whether the answer's body has ended.
    pub(in crate::ingress::upstream) fn is_end(&self) -> bool {
        self.answer.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// Whether an answer came before its request was sent, and the rest is being sent.
    pub(in crate::ingress::upstream) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Resolves when the rest of the request is sent, or the replica wants no more.
    pub(in crate::ingress::upstream) async fn sent(&mut self) {
        if let Some(sending) = &mut self.sending {
            // It is not aborted while we hold it, and it does not panic.
            let _ = (&mut sending.task).await;
        }
    }

    fn send_rest(&mut self, mut out: Outgoing, mut body: RequestBody) {
        let cut = Rc::new(Cell::new(false));
        let is_cut = Rc::clone(&cut);
        let task = tokio::task::spawn_local(async move {
            if let Err(Stop::Cut) = poll_fn(|cx| out.poll(cx, &mut body)).await {
                is_cut.set(true);
            }
        });
        self.sending = Some(Sending { task, cut });
    }
}

/// What an error of a stream means for its request.
fn broken(error: h2::Error) -> Broken {
    // RFC 9113 §8.7: neither was processed. A GOAWAY ends streams beyond its id only.
    let is_unseen = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM) || error.is_go_away();
    if error.is_remote() && is_unseen {
        return Broken::Refused;
    }
    if error.is_library() {
        return Broken::Malformed(Malformed("the replica does not speak HTTP/2 as it should; does it speak HTTP/1.1?"));
    }
    Broken::Closed(Some(io::Error::other(error)))
}
