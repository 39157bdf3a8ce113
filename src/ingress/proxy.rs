//! One request, top to bottom: identify, resolve, claim, prepare, forward,
//! answer, record.
//!
//! `downstream` calls [`handle`] with each request. Every failure comes back
//! here and becomes an answer by the table in `error`. Recording happens when the
//! exchange is dropped, with the answer's last byte.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};

use crate::ingress::added::{Added, Origin};
use crate::ingress::body::{Body, Stall};
use crate::ingress::core::Core;
use crate::ingress::downstream::Connection;
use crate::ingress::error::Error;
use crate::ingress::exchange::Exchange;
use crate::ingress::expect::Gate;
use crate::ingress::headers::{self, Class};
use crate::ingress::identify::{Found, identify};
use crate::ingress::request_body::{Ledger, RequestBody};
use crate::ingress::upstream::forward::{Sending, Sent, forward};
use crate::ingress::upstream::http1::Malformed;
use crate::model::manifest::Protocol;
use crate::model::policy::Policy;
use crate::routing::live::Claimed;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Bytes of an unread body that have most likely arrived with its head.
const UNREAD_MAX: u64 = 4 * 1024;

/// Answers one request.
pub(super) async fn handle(core: Rc<Core>, connection: Rc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let mut exchange = Exchange::begin(&core, &connection, &request);
    match walk(&mut exchange, request).await {
        Ok((fields, sent)) => answer(exchange, fields, sent),
        Err(error) => refuse(exchange, &error),
    }
}

/// The walk of a request to a replica, up to the head of its answer.
async fn walk(exchange: &mut Exchange, mut request: Request<Incoming>) -> Result<(HeaderMap, Sent), Error> {
    if request.version() == Version::HTTP_2 {
        exchange.count_stream()?;
    }
    let (asked, mut found) = identify(&request, exchange.core.config())?;
    if !exchange.connection.may_ask(asked.address().host) {
        return Err(Error::Misdirected);
    }
    // A protocol is not switched in the middle of a body.
    found.upgrade = found.upgrade.filter(|_| request.body().is_end_stream());
    // Invariants 1 and 2: one table, read once; the claim precedes the first await.
    let claimed = exchange.core.claim(&asked.address())?;
    exchange.core.admit(&claimed)?;
    let repeatable = is_repeatable(&request, &found);
    exchange.upgrading = found.extended.then(|| hyper::upgrade::on(&mut request));
    let (request, added) = headers::prepare(request, &asked, &found, &exchange.connection, exchange.place());
    exchange.identified(request.headers(), &added);
    let sending = sending(&claimed, &found, repeatable, added);
    exchange.claimed = Some(claimed);
    let (mut parts, incoming) = request.into_parts();
    let body = take_body(exchange, &found, &sending, incoming)?;
    let sent = forward(exchange, &asked, &sending, &mut parts, body).await?;
    Ok((parts.headers, sent))
}

/// Whether doing it twice is doing it once.
fn is_repeatable(request: &Request<Incoming>, found: &Found) -> bool {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    is_safe && request.body().is_end_stream() || found.idempotent
}

fn sending(claimed: &Claimed, found: &Found, repeatable: bool, added: Added) -> Sending {
    let is_http1 = claimed.pool.protocol == Protocol::Http1;
    let policy = &claimed.environment().policy;
    Sending {
        added,
        repeatable,
        repeatable_on_reuse: claimed.pool.retry_on_reused_close,
        // Over HTTP/2 there are WebSockets alone (RFC 8441): for the rest the replica gets a plain request.
        upgrade: found.upgrade.as_ref().is_some_and(|to| is_http1 || to.as_bytes().eq_ignore_ascii_case(b"websocket")),
        may_be_refused: claimed.pool.protocol == Protocol::H2c,
        connect_timeout: Duration::from_millis(policy.connect_timeout_ms),
        response_start: limit(policy.response_start_timeout_ms),
        body_max: policy.request_body_max,
    }
}

/// Longest pause inside an answer, by what it is.
fn pause_max(policy: &Policy, answer: &HeaderMap) -> u64 {
    match headers::class(answer) {
        Class::Unary => policy.response_idle_timeout_ms,
        Class::Events => policy.sse_idle_timeout_ms,
        Class::Grpc => policy.grpc_idle_timeout_ms,
    }
}

/// 0 means no limit.
fn limit(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// Wraps the body for its way to the replica; too large a one is refused before
/// anybody is asked for it.
fn take_body(
    exchange: &mut Exchange,
    found: &Found,
    sending: &Sending,
    incoming: Incoming,
) -> Result<RequestBody, Error> {
    if incoming.is_end_stream() {
        return Ok(RequestBody::empty());
    }
    let ledger = Ledger::new(sending.repeatable || sending.repeatable_on_reuse || sending.may_be_refused);
    exchange.ledger = Some(Rc::clone(&ledger));
    if sending.body_max > 0 && incoming.size_hint().lower() > sending.body_max {
        return Err(Error::RequestTooLarge(sending.body_max));
    }
    let gate = found.expects.then(|| Gate::new(exchange.core.config().continue_timeout.duration()));
    // The streams of gRPC may pause for as long as both sides like.
    let stall_max = exchange.core.config().stall_limit().filter(|_| !exchange.is_grpc());
    Ok(RequestBody::new(incoming, ledger, sending.body_max, gate).within(stall_max))
}

/// Passes the replica's answer on. The exchange leaves with its body.
fn answer(mut exchange: Exchange, fields: HeaderMap, sent: Sent) -> Response<Body> {
    let Sent { status, lease } = sent;
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    parts.headers = fields;
    let pause_max = exchange.claimed.as_ref().and_then(|claimed| {
        headers::answer(&mut parts, Origin::of(claimed));
        limit(pause_max(&claimed.environment().policy, &parts.headers))
    });
    let upgrading = exchange.upgrading.take();
    if upgrading.is_some() && parts.status.is_success() {
        // A client that asked for a tunnel would take this for one.
        return refuse(exchange, &Error::UpstreamInvalid(Malformed("it did not agree to the upgrade, nor refuse it")));
    }
    let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    if switches && upgrading.is_some() {
        headers::agree(&mut parts);
    }
    exchange.answered(parts.status);
    if !switches {
        close_if_asked(&exchange, &mut parts.headers);
        return Response::from_parts(parts, Body::replica(pause_max, stall(&exchange), lease, exchange));
    }
    let connection = Rc::clone(&exchange.connection);
    let Some(tunnel) = lease.into_tunnel(exchange) else { return plain(&Error::UpstreamReset(None), None) };
    match upgrading {
        Some(stream) => drop(tokio::task::spawn_local(tunnel.run_stream(stream))),
        None => connection.hand_over(tunnel),
    }
    Response::from_parts(parts, Body::made(Bytes::new()))
}

/// How long the client may leave its answer untaken.
fn stall(exchange: &Exchange) -> Option<Stall> {
    let limit = exchange.core.config().stall_limit()?;
    exchange.core.streams.current().map(|alarm| Stall { alarm, limit })
}

/// Answers with an error of our own.
fn refuse(mut exchange: Exchange, error: &Error) -> Response<Body> {
    exchange.failed(error);
    let mut response =
        if exchange.is_grpc() { error.grpc_answer().map(Body::made) } else { plain(error, exchange.request_id()) };
    exchange.answered(response.status());
    // A body that is not here yet is not waited for: hyper closes after the
    // answer, and the client had better know. What follows a request that could be
    // read in two ways could, too.
    // Who may not ask now need not keep others from connecting, either.
    let is_overload = matches!(error, Error::Overloaded | Error::EnvironmentOverloaded(_));
    let is_in_the_way = is_overload && exchange.core.limits.connections.is_scarce();
    let is_ambiguous = matches!(error, Error::BadRequest(_) | Error::RequestTimeout);
    let is_over = exchange.body_left() > UNREAD_MAX || is_ambiguous || is_in_the_way;
    if is_over && !exchange.is_http2() {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    close_if_asked(&exchange, response.headers_mut());
    response
}

/// While draining, each HTTP/1 answer says that it is the last on its connection;
/// over HTTP/2 that is GOAWAY's to say.
fn close_if_asked(exchange: &Exchange, headers: &mut HeaderMap) {
    if exchange.connection.is_draining() && !exchange.is_http2() {
        headers.insert(header::CONNECTION, CLOSE);
    }
}

fn plain(error: &Error, request_id: Option<&HeaderValue>) -> Response<Body> {
    error.answer(request_id).map(Body::made)
}
