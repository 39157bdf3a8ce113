//! One request, top to bottom: identify, prepare, resolve, claim, forward,
//! answer, record.
//!
//! `downstream` calls [`handle_lines`] with requests that it has read and
//! prepared itself, and [`handle`] with those that hyper has read; from `respond`
//! on both go the same way. Every failure comes back here and becomes an answer by
//! the table in `error`. Recording happens when the exchange is dropped, with the
//! answer's last byte.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::{Body as _, Incoming};

use crate::ingress::added::{Added, Origin};
use crate::ingress::body::{Body, Stall};
use crate::ingress::core::Core;
use crate::ingress::downstream::Connection;
use crate::ingress::downstream::http1::client::Client;
use crate::ingress::downstream::http1::request::Request as Lined;
use crate::ingress::error::Error;
use crate::ingress::exchange::Exchange;
use crate::ingress::expect::Gate;
use crate::ingress::headers::{self, Class};
use crate::ingress::identify::{Asked, Found, identify};
use crate::ingress::outbound::{AnswerLines, Lines, Outbound};
use crate::ingress::request_body::{Ledger, RequestBody};
use crate::ingress::source::Source;
use crate::ingress::upstream::forward::{Sending, Sent, forward};
use crate::ingress::upstream::http1::Malformed;
use crate::model::manifest::Protocol;
use crate::model::policy::Policy;
use crate::routing::live::Claimed;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Bytes of an unread body that have most likely arrived with its head.
const UNREAD_MAX: u64 = 4 * 1024;

/// A request whose head is in, however it was read, fit for any replica.
struct Arrived {
    asked: Asked,
    found: Found,
    added: Added,
    outbound: Outbound,
    /// `None` where it has no body.
    source: Option<Source>,
}

/// What a request comes to.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) fields: Fields,
    pub(super) body: Body,
    /// The connection ends with it.
    pub(super) is_last: bool,
}

/// The fields of an answer.
pub(super) enum Fields {
    Map(HeaderMap),
    Lines(AnswerLines),
}

/// Answers a request that hyper has read.
pub(super) async fn handle(core: Rc<Core>, connection: Rc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let announced = request.body().size_hint().upper().unwrap_or(u64::MAX);
    let mut exchange = Exchange::begin(&core, &connection, request.version(), announced);
    match arrive(&mut exchange, request) {
        Ok(arrived) => respond(exchange, arrived).await,
        Err(error) => refuse(exchange, &error),
    }
    .into_response()
}

/// Answers a request that we have read.
pub(super) async fn handle_lines(
    core: Rc<Core>,
    connection: Rc<Connection>,
    request: Box<Lined>,
    client: &Rc<Client>,
) -> Answer {
    let mut exchange = Exchange::begin(&core, &connection, Version::HTTP_11, request.body_bytes);
    if exchange.is_described() {
        let target = Uri::try_from(request.lines.target()).unwrap_or_default();
        exchange.describe(&request.lines.method, target, &request.described());
    }
    let Lined { asked, found, said, lines, body_bytes, .. } = *request;
    let added = said.added(&asked, &connection, Version::HTTP_11, exchange.place());
    let source = (body_bytes > 0).then(|| Source::client(client));
    respond(exchange, Arrived { asked, found, added, outbound: Outbound::Lines(lines), source }).await
}

/// Reads a request's head and makes it fit for any replica.
fn arrive(exchange: &mut Exchange, mut request: Request<Incoming>) -> Result<Arrived, Error> {
    if exchange.is_described() {
        exchange.describe(request.method(), request.uri().clone(), request.headers());
    }
    exchange.note_grpc(request.headers());
    if request.version() == Version::HTTP_2 {
        exchange.count_stream()?;
    }
    let (asked, mut found) = identify(&request, exchange.core.config())?;
    // A protocol is not switched in the middle of a body.
    found.upgrade = found.upgrade.filter(|_| request.body().is_end_stream());
    exchange.upgrading = found.extended.then(|| hyper::upgrade::on(&mut request));
    let (parts, incoming) = request.into_parts();
    let received = parts.version;
    let (parts, said) = headers::prepare(parts, &asked, &found, exchange.connection.peer().is_trusted);
    let added = said.added(&asked, &exchange.connection, received, exchange.place());
    let source = (!incoming.is_end_stream()).then_some(Source::Hyper(incoming));
    Ok(Arrived { asked, found, added, outbound: Outbound::Map(parts), source })
}

async fn respond(mut exchange: Exchange, mut arrived: Arrived) -> Answer {
    match walk(&mut exchange, &mut arrived).await {
        Ok(sent) => answer(exchange, arrived.outbound, sent),
        Err(error) => {
            exchange.identified(&arrived.added);
            refuse(exchange, &error)
        }
    }
}

/// The walk of a request to a replica, up to the head of its answer.
async fn walk(exchange: &mut Exchange, arrived: &mut Arrived) -> Result<Sent, Error> {
    let Arrived { asked, found, added, outbound, source } = arrived;
    if !exchange.connection.may_ask(asked.address().host) {
        return Err(Error::Misdirected);
    }
    // Invariants 1 and 2: one table, read once; the claim precedes the first await.
    let claimed = exchange.core.claim(&asked.address())?;
    exchange.core.admit(&claimed)?;
    if exchange.is_described() {
        exchange.identified(added);
    }
    let is_safe = matches!(*outbound.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // Doing it twice is doing it once.
    let repeatable = is_safe && source.is_none() || found.idempotent;
    let sending = sending(&claimed, found, repeatable, added);
    exchange.claimed = Some(claimed);
    let body = take_body(exchange, found, &sending, source.take())?;
    forward(exchange, asked, &sending, outbound, body).await
}

fn sending<'a>(claimed: &Claimed, found: &Found, repeatable: bool, added: &'a Added) -> Sending<'a> {
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
fn pause_max(policy: &Policy, class: Class) -> u64 {
    match class {
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
    sending: &Sending<'_>,
    source: Option<Source>,
) -> Result<RequestBody, Error> {
    let Some(source) = source else { return Ok(RequestBody::empty()) };
    let ledger = Ledger::new(sending.repeatable || sending.repeatable_on_reuse || sending.may_be_refused);
    exchange.ledger = Some(Rc::clone(&ledger));
    if sending.body_max > 0 && source.size_hint().lower() > sending.body_max {
        return Err(Error::RequestTooLarge(sending.body_max));
    }
    let gate = found.expects.then(|| Gate::new(exchange.core.config().continue_timeout.duration()));
    // The streams of gRPC may pause for as long as both sides like.
    let stall_max = exchange.core.config().stall_limit().filter(|_| !exchange.is_grpc());
    Ok(RequestBody::new(source, ledger, sending.body_max, gate).within(stall_max))
}

/// Passes the replica's answer on. The exchange leaves with its body.
fn answer(mut exchange: Exchange, outbound: Outbound, sent: Sent) -> Answer {
    let Sent { mut status, lease } = sent;
    let upgrading = exchange.upgrading.take();
    if upgrading.is_some() && status.is_success() {
        // A client that asked for a tunnel would take this for one.
        return refuse(exchange, &Error::UpstreamInvalid(Malformed("it did not agree to the upgrade, nor refuse it")));
    }
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let Some(claimed) = &exchange.claimed else { return refuse(exchange, &Error::UpstreamReset(None)) };
    let origin = Origin::of(claimed);
    let (mut fields, class) = match outbound {
        Outbound::Map(mut parts) => {
            headers::answer(&mut parts.headers, switches, origin);
            let kind =
                parts.headers.get(header::CONTENT_TYPE).map_or(Class::Unary, |kind| headers::class(kind.as_bytes()));
            (Fields::Map(parts.headers), kind)
        }
        Outbound::Lines(Lines { mut answer, .. }) => {
            answer.name(origin);
            let class = answer.class;
            (Fields::Lines(answer), class)
        }
    };
    let pause_max = limit(pause_max(&claimed.environment().policy, class));
    if let (true, true, Fields::Map(fields)) = (switches, upgrading.is_some(), &mut fields) {
        status = headers::agree(fields);
    }
    exchange.answered(status);
    let is_last = is_last(&exchange) && !switches;
    if !switches {
        return Answer { status, fields, body: Body::replica(pause_max, stall(&exchange), lease, exchange), is_last };
    }
    let connection = Rc::clone(&exchange.connection);
    let Some(tunnel) = lease.into_tunnel(exchange) else { return plain(&Error::UpstreamReset(None), None) };
    match upgrading {
        Some(stream) => drop(tokio::task::spawn_local(tunnel.run_stream(stream))),
        None => connection.hand_over(tunnel),
    }
    Answer { status, fields, body: Body::made(Bytes::new()), is_last }
}

/// How long the client may leave its answer untaken.
fn stall(exchange: &Exchange) -> Option<Stall> {
    let limit = exchange.core.config().stall_limit()?;
    exchange.core.streams.current().map(|alarm| Stall { alarm, limit })
}

/// Answers with an error of our own.
fn refuse(mut exchange: Exchange, error: &Error) -> Answer {
    exchange.failed(error);
    let mut answer = match exchange.is_grpc() {
        true => Answer::from(error.grpc_answer()),
        false => plain(error, exchange.request_id()),
    };
    exchange.answered(answer.status);
    // A body that is not here yet is not waited for: the connection closes after the
    // answer, and the client had better know. What follows a request that could be
    // read in two ways could, too.
    // Who may not ask now need not keep others from connecting, either.
    let is_overload = matches!(error, Error::Overloaded | Error::EnvironmentOverloaded(_));
    let is_in_the_way = is_overload && exchange.core.limits.connections.is_scarce();
    let is_ambiguous = matches!(error, Error::BadRequest(_) | Error::RequestTimeout);
    let is_over = exchange.body_left() > UNREAD_MAX || is_ambiguous || is_in_the_way;
    answer.is_last = is_over && !exchange.is_http2() || is_last(&exchange);
    answer
}

/// While draining, each HTTP/1 answer says that it is the last on its connection;
/// over HTTP/2 that is GOAWAY's to say.
fn is_last(exchange: &Exchange) -> bool {
    exchange.connection.is_draining() && !exchange.is_http2()
}

fn plain(error: &Error, request_id: Option<&HeaderValue>) -> Answer {
    Answer::from(error.answer(request_id))
}

impl From<Response<Bytes>> for Answer {
    fn from(made: Response<Bytes>) -> Self {
        let (parts, body) = made.into_parts();
        Self { status: parts.status, fields: Fields::Map(parts.headers), body: Body::made(body), is_last: false }
    }
}

impl Answer {
    /// The same for hyper to write.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        match self.fields {
            Fields::Map(fields) => *response.headers_mut() = fields,
            Fields::Lines(_) => unreachable!("what hyper has read is kept in maps"),
        }
        if self.is_last {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        response
    }
}
