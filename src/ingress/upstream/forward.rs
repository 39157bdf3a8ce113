//! Forward: from a claimed request to the head of an answer, by way of as many
//! attempts as are safe.
//!
//! Each attempt chooses an endpoint, takes a connection and sends. Between two
//! attempts the address may resolve again: to any pool while nothing was sent
//! (invariant 10), to the newer view of the same pool afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::ingress::added::{Added, Origin, Ours};
use crate::ingress::error::Error;
use crate::ingress::exchange::Exchange;
use crate::ingress::headers;
use crate::ingress::identify::Asked;
use crate::ingress::outbound::Outbound;
use crate::ingress::request_body::{RequestBody, State};
use crate::ingress::upstream::Rules;
use crate::ingress::upstream::http1::Malformed;
use crate::ingress::upstream::link::Broken;
use crate::ingress::upstream::peer::Peer;
use crate::ingress::upstream::pool::Lease;
use crate::ingress::upstream::queue::{Held, Queue};
use crate::ingress::upstream::retry::{Facts, Verdict, verdict};
use crate::model::id::EndpointId;
use crate::model::manifest::Protocol;
use crate::routing::pool::EndpointRoute;

/// How a request is to be sent.
pub(in crate::ingress) struct Sending<'a> {
    /// What we say of it.
    pub(in crate::ingress) added: &'a Added,
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
    sending: &Sending<'_>,
    outbound: &mut Outbound,
    mut body: RequestBody,
) -> Result<Sent, Error> {
    exchange.core.upstream.budget.borrow_mut().request(exchange.started);
    let mut attempts = Attempts::default();
    loop {
        attempts.made += 1;
        let chosen = match choose(exchange, &attempts, outbound, false) {
            Choice::To(chosen) => Some(chosen),
            Choice::Nowhere => None,
            // Boxed, as all that is rare.
            Choice::Full(queue) => Box::pin(wait(exchange, asked, &attempts, outbound, queue)).await?,
        };
        match attempt(exchange, sending, &mut attempts, outbound, &mut body, chosen).await {
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
    sending: &Sending<'_>,
    attempts: &mut Attempts,
    outbound: &mut Outbound,
    body: &mut RequestBody,
    chosen: Option<Chosen>,
) -> Result<Sent, Box<Failure>> {
    let (Some(Chosen { id, peer, protocol, now }), Some(claimed)) = (chosen, &exchange.claimed) else {
        let error = attempts.refused.take().unwrap_or(Error::NoReadyEndpoint);
        return Err(Box::new(Failure { error, endpoint: None, reused: false, sent: How::Unconnected }));
    };
    let upstream = &exchange.core.upstream;
    let kept = if attempts.fresh || sending.upgrade { None } else { upstream.kept(&peer, protocol, now) };
    let mut lease = match kept {
        Some(lease) => lease,
        // Boxed: rare, and its state would make every request's larger.
        None => match Box::pin(upstream.open(&peer, protocol, sending.connect_timeout)).await {
            Ok(lease) => lease,
            Err(source) => {
                upstream.failed(&peer, now);
                let error = Error::Connect { endpoint: peer.address, source };
                return Err(Box::new(Failure { error, endpoint: Some(id), reused: false, sent: How::Unconnected }));
            }
        },
    };
    let reused = lease.reused;
    let ours = Ours::new(sending.added, Origin::of(claimed));
    let broken = match lease.exchange(outbound, ours, body, sending.response_start).await {
        // RFC 9110 §15.2.2: 101 answers a request to switch, and no other.
        Ok(StatusCode::SWITCHING_PROTOCOLS) if !sending.upgrade => {
            Broken::Malformed(Malformed("101 without being asked to switch"))
        }
        Ok(status) => {
            upstream.succeeded(&peer);
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
        upstream.failed(&peer, now);
    }
    Err(Box::new(Failure { error, endpoint: Some(id), reused, sent }))
}

/// Where an attempt goes.
struct Chosen {
    id: EndpointId,
    peer: Peer,
    protocol: Protocol,
    /// When it was chosen.
    now: Instant,
}

/// What a choice comes to.
enum Choice {
    To(Chosen),
    /// Endpoints are there, and each has as many requests as it takes.
    Full(Arc<Queue>),
    Nowhere,
}

/// Chooses an endpoint, takes the claim on it, and addresses the request to it.
/// Whoever has not waited waits behind those who do.
fn choose(exchange: &mut Exchange, attempts: &Attempts, outbound: &mut Outbound, has_waited: bool) -> Choice {
    let now = if attempts.made == 1 && !has_waited { exchange.started } else { Instant::now() };
    let core = &exchange.core;
    let Some(claimed) = exchange.claimed.as_ref() else { return Choice::Nowhere };
    let pool = &claimed.pool;
    let policy = &claimed.environment().policy;
    let rules =
        Rules { running_max: policy.endpoint_concurrency_max, slow_start: Duration::from_millis(policy.slow_start_ms) };
    let queue = (rules.running_max > 0).then(|| core.shared.queues.of(pool.key));
    if let Some(queue) = queue.as_ref().filter(|queue| !has_waited && queue.is_waited_in()) {
        return Choice::Full(Arc::clone(queue));
    }
    let other = core.upstream.choose(pool, core.index, &attempts.avoid, now, rules);
    let any = || match attempts.refused {
        // What refused a connection a moment ago refuses it again.
        Some(_) => None,
        None => core.upstream.choose(pool, core.index, &[], now, rules),
    };
    let held = other.or_else(any).map(|(at, claim)| (at, Held::new(claim, queue.clone())));
    // Two that took the last room at once both see it, and both step back.
    let fits = |at: usize| rules.running_max == 0 || pool.endpoint_load(at) <= rules.running_max;
    let Some((at, held)) = held.filter(|(at, _)| fits(*at)) else {
        let is_there = |endpoint: &EndpointRoute| !endpoint.draining;
        let is_full = attempts.refused.is_none() && pool.endpoints.iter().any(is_there);
        return queue.filter(|_| is_full).map_or(Choice::Nowhere, Choice::Full);
    };
    let endpoint = &pool.endpoints[at];
    if let Some(host) = headers::host_for(claimed, endpoint) {
        outbound.direct(host);
    }
    let chosen = Chosen { id: endpoint.id, peer: Peer::of(endpoint), protocol: pool.protocol, now };
    exchange.endpoint = Some(held);
    exchange.upstream = Some(chosen.peer.address);
    Choice::To(chosen)
}

/// Waits for an endpoint with room, without a claim: whenever it looks again it
/// resolves again, by the rules of a request that is sent again.
async fn wait(
    exchange: &mut Exchange,
    asked: &Asked,
    attempts: &Attempts,
    outbound: &mut Outbound,
    queue: Arc<Queue>,
) -> Result<Option<Chosen>, Error> {
    let Some(claimed) = &exchange.claimed else { return Ok(None) };
    let (mut key, policy) = (claimed.pool.key, Arc::clone(&claimed.environment().policy));
    let deadline = Instant::now() + Duration::from_millis(policy.queue_timeout_ms);
    let counters = Arc::clone(&exchange.core.counters);
    let mut ticket = queue.enter(policy.queue_max, &counters).ok_or(Error::QueueFull)?;
    exchange.endpoint = None;
    loop {
        if ticket.is_first() {
            match choose(exchange, attempts, outbound, true) {
                Choice::To(chosen) => return Ok(Some(chosen)),
                Choice::Nowhere => return Ok(None),
                Choice::Full(_) => {}
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::QueueTimeout);
        }
        exchange.claimed = None;
        ticket.rung(left).await;
        let claimed = exchange.core.claim(&asked.address())?;
        if claimed.pool.key != key {
            if attempts.lost > 0 {
                return Ok(None);
            }
            key = claimed.pool.key;
            let queue = exchange.core.shared.queues.of(key);
            ticket = queue.enter(policy.queue_max, &counters).ok_or(Error::QueueFull)?;
        }
        exchange.claimed = Some(claimed);
    }
}

/// What an attempt's end means.
fn why(exchange: &Exchange, sending: &Sending<'_>, broken: Broken) -> Error {
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
        sending: &Sending<'_>,
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
