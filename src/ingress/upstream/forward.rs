//! Forward: from a claimed request to the head of an answer, by way of as many
//! attempts as are safe.
//!
//! Each attempt chooses an endpoint, takes a connection and sends. Between two
//! attempts the address may resolve again: to any pool while nothing was sent
//! (invariant 10), to the newer view of the same pool afterwards.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::request::Parts;

use crate::ingress::error::Error;
use crate::ingress::exchange::Exchange;
use crate::ingress::headers;
use crate::ingress::identify::Asked;
use crate::ingress::request_body::{RequestBody, State};
use crate::ingress::upstream::http1::Malformed;
use crate::ingress::upstream::link::Broken;
use crate::ingress::upstream::pool::Lease;
use crate::ingress::upstream::retry::{Facts, Verdict, verdict};
use crate::model::id::EndpointId;
use crate::model::manifest::Protocol;

/// How a request is to be sent.
pub(in crate::ingress) struct Sending {
    /// Doing it twice is doing it once.
    pub(in crate::ingress) repeatable: bool,
    /// The deployment says so for requests on reused connections.
    pub(in crate::ingress) repeatable_on_reuse: bool,
    /// A replica can say that it has not looked at it after some of it was sent.
    pub(in crate::ingress) may_be_refused: bool,
    /// It asks to leave HTTP: it gets a connection of its own.
    pub(in crate::ingress) upgrade: bool,
    /// Longest wait for a connection.
    pub(in crate::ingress) connect_timeout: Duration,
    /// Longest wait for the head of the answer.
    pub(in crate::ingress) response_start: Option<Duration>,
    /// Largest body; 0 means no limit.
    pub(in crate::ingress) body_max: u64,
}

/// The head of an answer, and the connection its body comes on. Its fields have
/// taken the place of the request's.
pub(in crate::ingress) struct Sent {
    pub(in crate::ingress) status: StatusCode,
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
    sent: How,
}

/// How far a request has come in an attempt that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// There was no connection for it.
    Unconnected,
    /// Not one byte of it was written.
    Unsent,
    /// The replica says that it has not looked at it.
    Refused,
    /// A replica may have seen it.
    Lost,
}

/// Sends a request, and sends it again where that is safe.
pub(in crate::ingress) async fn forward(
    exchange: &mut Exchange,
    asked: &Asked,
    sending: &Sending,
    parts: &mut Parts,
    mut body: RequestBody,
) -> Result<Sent, Error> {
    exchange.core.upstream.budget.borrow_mut().request(exchange.started);
    let mut attempts = Attempts::default();
    loop {
        attempts.made += 1;
        match attempt(exchange, sending, &mut attempts, parts, &mut body).await {
            Ok(sent) => {
                if let Some(ledger) = &exchange.ledger {
                    ledger.settle();
                }
                return Ok(sent);
            }
            Err(failure) => attempts.next(exchange, asked, sending, *failure, &mut body)?,
        }
    }
}

async fn attempt(
    exchange: &mut Exchange,
    sending: &Sending,
    attempts: &mut Attempts,
    parts: &mut Parts,
    body: &mut RequestBody,
) -> Result<Sent, Box<Failure>> {
    let now = if attempts.made == 1 { exchange.started } else { Instant::now() };
    let Some(Chosen { id, address, protocol }) = choose(exchange, attempts, parts, now) else {
        let error = attempts.refused.take().unwrap_or(Error::NoReadyEndpoint);
        return Err(Box::new(Failure { error, endpoint: None, reused: false, sent: How::Unconnected }));
    };
    let upstream = &exchange.core.upstream;
    let kept = if attempts.fresh || sending.upgrade { None } else { upstream.kept(address, protocol, now) };
    let mut lease = match kept {
        Some(lease) => lease,
        // Boxed: rare, and its state would make every request's larger.
        None => match Box::pin(upstream.open(address, protocol, sending.connect_timeout)).await {
            Ok(lease) => lease,
            Err(source) => {
                upstream.failed(address, now);
                let error = Error::Connect { endpoint: address, source };
                return Err(Box::new(Failure { error, endpoint: Some(id), reused: false, sent: How::Unconnected }));
            }
        },
    };
    let reused = lease.reused;
    let broken = match lease.exchange(parts, body, sending.response_start).await {
        // RFC 9110 §15.2.2: 101 answers a request to switch, and no other.
        Ok(StatusCode::SWITCHING_PROTOCOLS) if !sending.upgrade => {
            Broken::Malformed(Malformed("101 without being asked to switch"))
        }
        Ok(status) => {
            upstream.succeeded(address);
            return Ok(Sent { status, lease });
        }
        Err(broken) => broken,
    };
    let sent = match broken {
        Broken::Unsent(_) => How::Unsent,
        Broken::Refused => How::Refused,
        _ => How::Lost,
    };
    let error = why(exchange, sending, broken);
    if !reused && matches!(error, Error::UpstreamReset(_)) {
        upstream.failed(address, now);
    }
    Err(Box::new(Failure { error, endpoint: Some(id), reused, sent }))
}

/// Where an attempt goes.
struct Chosen {
    id: EndpointId,
    address: SocketAddr,
    protocol: Protocol,
}

/// Chooses an endpoint, takes the claim on it, and addresses the request to it.
fn choose(exchange: &mut Exchange, attempts: &Attempts, parts: &mut Parts, now: Instant) -> Option<Chosen> {
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
    let chosen = Chosen { id: endpoint.id, address: endpoint.address, protocol: pool.protocol };
    exchange.endpoint = Some(claim);
    exchange.upstream = Some(chosen.address);
    Some(chosen)
}

/// What an attempt's end means.
fn why(exchange: &Exchange, sending: &Sending, broken: Broken) -> Error {
    match exchange.ledger.as_ref().map(|ledger| ledger.state()) {
        Some(State::TooLarge) => return Error::RequestTooLarge(sending.body_max),
        Some(State::ClientGone) => return Error::ClientGone,
        Some(State::Stalled) => return Error::RequestTimeout,
        Some(State::Malformed) => return Error::BadRequest("the body's chunks are not chunks"),
        Some(State::Open | State::Done) | None => {}
    }
    match broken {
        Broken::Overdue => Error::ResponseTimeout,
        Broken::Malformed(malformed) => Error::UpstreamInvalid(malformed),
        Broken::Unsent(error) => Error::UpstreamReset(Some(error)),
        Broken::Refused => Error::UpstreamReset(None),
        Broken::Closed(error) => Error::UpstreamReset(error),
        Broken::Cut => Error::BadRequest("the body is not as long as it was announced"),
    }
}

impl Attempts {
    /// Prepares the next attempt, or says why there is none.
    fn next(
        &mut self,
        exchange: &mut Exchange,
        asked: &Asked,
        sending: &Sending,
        failure: Failure,
        body: &mut RequestBody,
    ) -> Result<(), Error> {
        let Failure { error, endpoint, reused, sent } = failure;
        self.lost += u32::from(sent == How::Lost);
        let facts = Facts {
            made: self.made,
            handed_back: matches!(sent, How::Unsent | How::Refused),
            reused,
            lost: self.lost,
            repeatable: sending.repeatable,
            repeatable_on_reuse: sending.repeatable_on_reuse,
        };
        let upstream = &exchange.core.upstream;
        let go = match verdict(&error, facts, upstream.attempts_max) {
            Verdict::Free => true,
            Verdict::Budgeted => {
                let may = upstream.budget.borrow_mut().retry(Instant::now());
                if !may {
                    exchange.core.counters.retries_refused.one();
                }
                may
            }
            Verdict::GiveUp => false,
        };
        // What was written has to be written once more; the rest is still here.
        if !go || matches!(sent, How::Lost | How::Refused) && !body.rewind() {
            return Err(error);
        }
        self.fresh = true;
        self.avoid.extend(endpoint.filter(|_| sent != How::Unsent));
        tracing::debug!(error = &error as &dyn std::error::Error, attempt = self.made, "sending again");
        self.resolve_again(exchange, asked, error)?;
        exchange.retries += 1;
        exchange.core.counters.retries.one();
        Ok(())
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
