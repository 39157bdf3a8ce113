//! Forward: from a claimed request to the head of an answer, by way of as many
//! attempts as are safe.
//!
//! Each attempt chooses an endpoint, takes a connection and sends. Between two
//! attempts the address may resolve again: to any pool while nothing was sent
//! (invariant 10), to the newer view of the same pool afterwards.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use crate::ingress::error::Error;
use crate::ingress::exchange::Exchange;
use crate::ingress::headers;
use crate::ingress::identify::Asked;
use crate::ingress::request_body::{RequestBody, State};
use crate::ingress::upstream::pool::Lease;
use crate::ingress::upstream::retry::{Facts, Verdict, verdict};
use crate::model::id::EndpointId;

/// How a request is to be sent.
pub(in crate::ingress) struct Sending {
    /// Doing it twice is doing it once.
    pub(in crate::ingress) repeatable: bool,
    /// The deployment says so for requests on reused connections.
    pub(in crate::ingress) repeatable_on_reuse: bool,
    /// It asks to leave HTTP: it gets a connection of its own.
    pub(in crate::ingress) upgrade: bool,
    /// Longest wait for a connection.
    pub(in crate::ingress) connect_timeout: Duration,
    /// Longest wait for the head of the answer.
    pub(in crate::ingress) response_start: Option<Duration>,
    /// Largest body; 0 means no limit.
    pub(in crate::ingress) body_max: u64,
}

/// The head of an answer, and the connection its body comes on.
pub(in crate::ingress) struct Sent {
    pub(in crate::ingress) response: Response<Incoming>,
    pub(in crate::ingress) lease: Lease,
}

/// What the attempts so far have shown.
#[derive(Default)]
struct Attempts {
    made: u32,
    lost: u32,
    /// Kept connections are not to be trusted any more.
    fresh: bool,
    /// Endpoints that failed; tried again only if nothing else is there and
    /// they did accept the connection.
    avoid: Vec<EndpointId>,
    /// Why the last one failed, where no connection was accepted.
    refused: Option<Error>,
}

/// A failed attempt.
struct Failure {
    error: Error,
    endpoint: Option<EndpointId>,
    reused: bool,
    /// The request, where it was not sent.
    unsent: Option<Request<RequestBody>>,
    /// A copy of its head, where it may be sent twice.
    copy: Option<Head>,
    handed_back: bool,
}

/// What of a request is kept to send it again.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

/// Sends a request, and sends it again where that is safe.
pub(in crate::ingress) async fn forward(
    exchange: &mut Exchange,
    asked: &Asked,
    sending: &Sending,
    mut request: Request<RequestBody>,
) -> Result<Sent, Error> {
    exchange.core.upstream.budget.borrow_mut().request(exchange.started);
    let mut attempts = Attempts::default();
    loop {
        attempts.made += 1;
        match attempt(exchange, sending, &mut attempts, request).await {
            Ok(sent) => {
                if let Some(ledger) = &exchange.ledger {
                    ledger.settle();
                }
                return Ok(sent);
            }
            Err(failure) => request = attempts.next(exchange, asked, sending, *failure)?,
        }
    }
}

async fn attempt(
    exchange: &mut Exchange,
    sending: &Sending,
    attempts: &mut Attempts,
    request: Request<RequestBody>,
) -> Result<Sent, Box<Failure>> {
    let core = std::rc::Rc::clone(&exchange.core);
    let now = if attempts.made == 1 { exchange.started } else { Instant::now() };
    let (mut parts, body) = request.into_parts();
    let Some(chosen) = choose(exchange, attempts, &mut parts, now) else {
        let error = attempts.refused.take().unwrap_or(Error::NoReadyEndpoint);
        return Err(Failure::before_connection(error, None, Request::from_parts(parts, body)));
    };
    let (id, address) = chosen;
    let request = Request::from_parts(parts, body);
    let fresh = attempts.fresh || sending.upgrade;
    let mut lease = match core.upstream.lease(address, fresh, sending.connect_timeout, now).await {
        Ok(lease) => lease,
        Err(source) => {
            core.upstream.failed(address, now);
            let error = Error::Connect { endpoint: address, source };
            return Err(Failure::before_connection(error, Some(id), request));
        }
    };
    let reused = lease.reused;
    let repeatable = sending.repeatable || sending.repeatable_on_reuse && reused;
    let copy = repeatable.then(|| Head::of(&request));
    be_patient(exchange, sending, &lease);
    match lease.send(request).await {
        // RFC 9110 §15.2.2: 101 answers a request to switch, and no other.
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !sending.upgrade => {
            Err(Failure::final_one(Error::UpstreamInvalid(None)))
        }
        Ok(response) => {
            lease.patience(None);
            core.upstream.succeeded(address);
            Ok(Sent { response, lease })
        }
        Err(mut failed) => {
            let unsent = failed.as_mut().and_then(|failed| failed.take_message());
            let error = why(exchange, &lease, sending, failed.map(|failed| failed.into_error()));
            if !reused && matches!(error, Error::UpstreamReset(_)) {
                core.upstream.failed(address, now);
            }
            let handed_back = unsent.is_some();
            Err(Box::new(Failure { error, endpoint: Some(id), reused, unsent, copy, handed_back }))
        }
    }
}

/// A slow upload is the client's doing: the replica's time begins with its end.
fn be_patient(exchange: &Exchange, sending: &Sending, lease: &Lease) {
    match (sending.response_start, &exchange.ledger) {
        (Some(limit), Some(ledger)) if !ledger.is_done() => ledger.when_done(lease.later_patience(limit)),
        (limit, _) => lease.patience(limit),
    }
}

/// Chooses an endpoint, takes the claim on it, and addresses the request to it.
fn choose(
    exchange: &mut Exchange,
    attempts: &Attempts,
    parts: &mut http::request::Parts,
    now: Instant,
) -> Option<(EndpointId, std::net::SocketAddr)> {
    let core = &exchange.core;
    let claimed = exchange.claimed.as_ref()?;
    let pool = &claimed.pool;
    let other = core.upstream.choose(pool, core.index, &attempts.avoid, now);
    let any = || match attempts.refused {
        // What refused a connection a moment ago refuses it again.
        Some(_) => None,
        None => core.upstream.choose(pool, core.index, &[], now),
    };
    let (at, claim) = other.or_else(any)?;
    let endpoint = &pool.endpoints[at];
    headers::direct(parts, claimed, endpoint, &core.origin(claimed));
    let chosen = (endpoint.id, endpoint.address);
    exchange.endpoint = Some(claim);
    Some(chosen)
}

/// What an attempt's end means.
fn why(exchange: &Exchange, lease: &Lease, sending: &Sending, error: Option<hyper::Error>) -> Error {
    match exchange.ledger.as_ref().map(|ledger| ledger.state()) {
        Some(State::TooLarge) => return Error::RequestTooLarge(sending.body_max),
        Some(State::ClientGone) => return Error::ClientGone,
        Some(State::Open | State::Done) | None => {}
    }
    if lease.is_overdue() {
        return Error::ResponseTimeout;
    }
    match error {
        Some(error) if error.is_parse() => Error::UpstreamInvalid(Some(error)),
        error => Error::UpstreamReset(error),
    }
}

impl Attempts {
    /// The request for the next attempt, or why there is none.
    fn next(
        &mut self,
        exchange: &mut Exchange,
        asked: &Asked,
        sending: &Sending,
        failure: Failure,
    ) -> Result<Request<RequestBody>, Error> {
        let Failure { error, endpoint, reused, unsent, copy, handed_back } = failure;
        self.lost += u32::from(unsent.is_none());
        let facts = Facts {
            made: self.made,
            handed_back,
            reused,
            lost: self.lost,
            repeatable: sending.repeatable,
            repeatable_on_reuse: sending.repeatable_on_reuse,
        };
        let upstream = &exchange.core.upstream;
        let go = match verdict(&error, facts, upstream.attempts_max) {
            Verdict::Free => true,
            Verdict::Budgeted => upstream.budget.borrow_mut().retry(Instant::now()),
            Verdict::GiveUp => false,
        };
        if !go {
            return Err(error);
        }
        let again = match (unsent, copy) {
            (Some(request), _) => Some(request),
            (None, Some(copy)) => copy.with_body(exchange, sending),
            (None, None) => None,
        };
        let Some(request) = again else { return Err(error) };
        self.fresh = true;
        self.avoid.extend(endpoint.filter(|_| !handed_back));
        tracing::debug!(error = &error as &dyn std::error::Error, attempt = self.made, "sending again");
        self.resolve_again(exchange, asked, error)?;
        exchange.retries += 1;
        exchange.core.counters.retries.one();
        Ok(request)
    }

    /// Invariant 10: before any byte was sent it may resolve again, to wherever
    /// the pointer leads now. After that, only to what is new of the same pool.
    fn resolve_again(&mut self, exchange: &mut Exchange, asked: &Asked, error: Error) -> Result<(), Error> {
        let before = exchange.claimed.as_ref().map(|claimed| (claimed.pool.key, claimed.revision));
        let now = exchange.core.claim(&asked.address());
        if self.lost == 0 {
            let now = now?;
            if matches!(error, Error::NoReadyEndpoint) && before == Some((now.pool.key, now.revision)) {
                return Err(error);
            }
            exchange.claimed = Some(now);
        } else if let Ok(now) = now
            && before.is_some_and(|(key, _)| key == now.pool.key)
        {
            exchange.claimed = Some(now);
        }
        self.refused = matches!(error, Error::Connect { .. }).then_some(error);
        Ok(())
    }
}

impl Failure {
    fn final_one(error: Error) -> Box<Self> {
        Box::new(Self { error, endpoint: None, reused: false, unsent: None, copy: None, handed_back: false })
    }

    fn before_connection(error: Error, endpoint: Option<EndpointId>, request: Request<RequestBody>) -> Box<Self> {
        Box::new(Self { error, endpoint, reused: false, unsent: Some(request), copy: None, handed_back: false })
    }
}

impl Head {
    fn of(request: &Request<RequestBody>) -> Self {
        Self { method: request.method().clone(), uri: request.uri().clone(), headers: request.headers().clone() }
    }

    /// The whole request again; `None` where its body is gone.
    fn with_body(self, exchange: &Exchange, sending: &Sending) -> Option<Request<RequestBody>> {
        let body = match &exchange.ledger {
            Some(ledger) => RequestBody::again(ledger, sending.body_max)?,
            None => RequestBody::empty(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        Some(request)
    }
}
