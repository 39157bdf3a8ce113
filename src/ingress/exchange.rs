//! An exchange: one request and its answer, from the first step to the record.
//!
//! Holds what lasts as long as the answer does: the claims, the counts, the
//! access-log entry. It rides in the answer's body (or in a tunnel) and is
//! dropped with it, whatever way that ends; dropping it records. Decides nothing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use hyper::upgrade::OnUpgrade;
use jiff::{SignedDuration, Timestamp};

use crate::ingress::access_log::{Head, Line, Writer, protocol, text};
use crate::ingress::added::Added;
use crate::ingress::core::Core;
use crate::ingress::downstream::Connection;
use crate::ingress::error::{Code, Error};
use crate::ingress::limits::Permit;
use crate::ingress::metrics;
use crate::ingress::request_body::Ledger;
use crate::ingress::span::{Finished, Ids, Place, Served, cut};
use crate::ingress::upstream::queue::Held;
use crate::routing::live::Claimed;

/// One request and its answer.
pub(super) struct Exchange {
    pub(super) core: Rc<Core>,
    pub(super) connection: Rc<Connection>,
    /// When its head was in.
    pub(super) started: Instant,
    /// The hold on the pool. Invariant 2: from before the first await after
    /// resolve until the exchange ends.
    pub(super) claimed: Option<Claimed>,
    /// The hold on the endpoint it was sent to.
    pub(super) endpoint: Option<Held>,
    /// Where it was sent last.
    pub(super) upstream: Option<SocketAddr>,
    /// The stream that leaves HTTP when the replica agrees, for an extended CONNECT.
    pub(super) upgrading: Option<OnUpgrade>,
    /// What is known of the request's body, where it has one.
    pub(super) ledger: Option<Rc<Ledger>>,
    /// How often it was sent again.
    pub(super) retries: u32,
    /// Body bytes passed on to the client; both ways for a tunnel.
    pub(super) bytes_out: u64,
    /// Bytes a tunnel carried to the replica.
    pub(super) tunnel_in: Option<u64>,
    version: Version,
    /// The client speaks gRPC, and is to be answered in it.
    is_grpc: bool,
    /// Bytes of the request's body, as announced; `u64::MAX` when not.
    body_bytes: u64,
    request_id: Option<HeaderValue>,
    answered: Option<(Instant, StatusCode)>,
    code: Option<Code>,
    head: Option<Box<Head>>,
    /// Where it is in its trace, where we record any.
    place: Option<Box<Place>>,
    stream: Option<Permit>,
}

impl Exchange {
    /// A request whose head is in; `body_bytes` are announced, `u64::MAX` when it
    /// is not said how many.
    pub(super) fn begin(core: &Rc<Core>, connection: &Rc<Connection>, version: Version, body_bytes: u64) -> Self {
        connection.begin_request();
        core.counters.in_flight.one();
        Self {
            core: Rc::clone(core),
            connection: Rc::clone(connection),
            started: Instant::now(),
            claimed: None,
            endpoint: None,
            upstream: None,
            upgrading: None,
            ledger: None,
            retries: 0,
            bytes_out: 0,
            tunnel_in: None,
            version,
            is_grpc: false,
            body_bytes,
            request_id: None,
            answered: None,
            code: None,
            head: None,
            place: None,
            stream: None,
        }
    }

    /// Whether anybody wants to know what was asked, beside who serves it.
    pub(super) fn is_described(&self) -> bool {
        self.core.access_log.is_some() || self.core.spans.is_some()
    }

    /// Keeps of what was asked what logs and traces say of it.
    pub(super) fn describe(&mut self, method: &Method, uri: Uri, headers: &HeaderMap) {
        self.place = self.core.spans.as_ref().and_then(|spans| spans.place(headers)).map(Box::new);
        let is_recorded = self.place.as_ref().is_some_and(|place| place.recorded.is_some());
        if self.core.access_log.is_some() || is_recorded {
            self.head = Some(Box::new(Head {
                method: method.clone(),
                uri,
                host: headers.get(header::HOST).cloned(),
                traceparent: None,
                tracestate: self.place.as_ref().and_then(|place| place.trace_state(headers)),
            }));
        }
    }

    /// The client speaks gRPC, where the fields of an HTTP/2 request say so.
    pub(super) fn note_grpc(&mut self, headers: &HeaderMap) {
        self.is_grpc = self.is_http2() && is_grpc(headers);
    }

    /// Counts this request against the limit of HTTP/2 requests.
    pub(super) fn count_stream(&mut self) -> Result<(), Error> {
        self.stream = Some(self.core.limits.streams.take().ok_or(Error::Overloaded)?);
        Ok(())
    }

    /// Remembers what the replica is told of this request.
    pub(super) fn identified(&mut self, added: &Added) {
        self.request_id = Some(added.request_id.clone());
        if let Some(head) = &mut self.head {
            head.traceparent = Some(added.traceparent.clone());
        }
    }

    /// Where it is in its trace, where we record any.
    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_deref()
    }

    /// What the request is told by.
    pub(super) fn request_id(&self) -> Option<&HeaderValue> {
        self.request_id.as_ref()
    }

    /// Whether it came over HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// Whether the client speaks gRPC, which is over HTTP/2 alone.
    pub(super) fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// Bytes of its body that were announced and not passed on.
    pub(super) fn body_left(&self) -> u64 {
        match &self.ledger {
            Some(ledger) if ledger.is_done() => 0,
            Some(ledger) => self.body_bytes.saturating_sub(ledger.bytes()),
            None => self.body_bytes,
        }
    }

    /// The head of the answer is on its way to the client.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.answered = Some((Instant::now(), status));
    }

    /// Whether the answer says that the request was accepted.
    pub(super) fn is_accepted(&self) -> bool {
        self.answered.is_some_and(|(_, status)| status.is_success())
    }

    /// It ends, or ended, badly. The first reason counts.
    pub(super) fn failed(&mut self, error: &Error) {
        self.code.get_or_insert(error.code());
        tracing::debug!(
            code = error.code().as_str(),
            fault = ?error.fault(),
            error = error as &dyn std::error::Error,
            "request failed"
        );
    }

    fn record(&mut self) {
        let now = Instant::now();
        let counters = &self.core.counters;
        let bytes_in = self.tunnel_in.or_else(|| self.ledger.as_ref().map(|ledger| ledger.bytes())).unwrap_or(0);
        counters.in_flight.less();
        let class = metrics::class(self.answered.map(|(_, status)| status.as_u16()));
        counters.requests[class].one();
        counters.durations[class].observe(now - self.started);
        if let Some((at, _)) = self.answered {
            counters.answer_starts.observe(at - self.started);
        }
        counters.received.add(bytes_in);
        counters.sent.add(self.bytes_out);
        if self.answered.is_none() {
            self.code.get_or_insert(Code::ClientGone);
        }
        if let Some(code) = self.code {
            counters.errors[code as usize].one();
        }
        if let (Some(watcher), Some(claimed)) = (&self.core.watcher, &self.claimed) {
            watcher.record(claimed.environment(), class, self.code.is_some(), now - self.started);
        }
        if let (Some(head), Some(writer)) = (&self.head, &self.core.access_log) {
            self.log(head, &mut writer.borrow_mut(), now, bytes_in);
        }
        if let (Some(spans), Some(place)) = (&self.core.spans, &self.place)
            && let (Some(ids), Some(head)) = (place.recorded, &self.head)
        {
            spans.queue.push(self.finished(ids, head, now, bytes_in));
        }
    }

    fn log(&self, head: &Head, writer: &mut Writer, now: Instant, bytes_in: u64) {
        let Some(weight) = writer.weight(self.went_wrong()) else { return };
        let deployment = self.claimed.as_ref().map(|claimed| claimed.pool.deployment_text());
        let weight = writer.is_sampled().then_some(weight);
        writer.write(&Line { deployment: deployment.as_deref(), weight, ..self.line(head, now, bytes_in) });
    }

    fn finished(&self, ids: Ids, head: &Head, now: Instant, bytes_in: u64) -> Finished {
        let served = self.claimed.as_ref().map(|claimed| Served {
            project: claimed.environment().project().to_owned(),
            environment: claimed.environment().name().to_owned(),
            deployment: claimed.pool.deployment_text().to_string(),
            revision: claimed.revision.0,
        });
        Finished {
            ids,
            trace_state: text(&head.tracestate).to_owned(),
            ended: SystemTime::now(),
            took: now - self.started,
            method: head.method.clone(),
            path: cut(head.uri.path()),
            authority: cut(head.authority()),
            version: self.version,
            is_secure: self.connection.is_secure(),
            client: self.connection.peer().address(),
            status: self.answered.map(|(_, status)| status),
            answer_start: self.answered.map(|(at, _)| at - self.started),
            error: self.code.map(Code::as_str),
            went_wrong: self.went_wrong(),
            bytes_in,
            bytes_out: self.bytes_out,
            retries: self.retries,
            upstream: self.upstream,
            served,
        }
    }

    /// Whether somebody but the client is to look into it: a status of 5xx, or an
    /// answer that began well and did not end.
    fn went_wrong(&self) -> bool {
        let Some((_, status)) = self.answered else { return false };
        let is_cut = self.code.is_some_and(|code| code != Code::ClientGone) && !status.is_client_error();
        status.is_server_error() || is_cut
    }

    fn line<'a>(&'a self, head: &'a Head, now: Instant, bytes_in: u64) -> Line<'a> {
        let ms = |until: Instant| (until - self.started).as_secs_f64() * 1_000.0;
        let claimed = self.claimed.as_ref();
        let duration = SignedDuration::try_from(now - self.started).unwrap_or_default();
        Line {
            time: Timestamp::now().checked_sub(duration).unwrap_or_default(),
            project: claimed.map(|claimed| claimed.environment().project()),
            environment: claimed.map(|claimed| claimed.environment().name()),
            deployment: None,
            revision: claimed.map(|claimed| claimed.revision.0),
            client: self.connection.peer().text(),
            protocol: protocol(self.version),
            method: head.method.as_str(),
            host: head.authority(),
            path: head.uri.path(),
            status: self.answered.map(|(_, status)| status.as_u16()),
            upstream: self.upstream,
            error: self.code.map(Code::as_str),
            bytes_in,
            bytes_out: self.bytes_out,
            answer_ms: self.answered.map(|(at, _)| ms(at)),
            duration_ms: ms(now),
            retries: self.retries,
            tunnel: self.tunnel_in.is_some(),
            request_id: text(&self.request_id),
            trace_id: text(&head.traceparent).get(3..35).unwrap_or_default(),
            weight: None,
        }
    }
}

/// gRPC over HTTP/2, "Requests": `application/grpc`, or that and `+` or `;`.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.record();
        self.connection.end_request(self.body_left() == 0);
    }
}
