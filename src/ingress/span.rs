//! A request as a span: what is kept of it until it ends, and what a collector
//! is told, by OpenTelemetry's semantic conventions for HTTP servers (stable
//! since 1.23).
//!
//! A core copies what it needs, cut to a length: handles on a request's head would
//! keep all of it in memory while a span waits. The rest is made on the exporter's
//! thread. The query is left out, because tokens travel in it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::ingress::added::TRACEPARENT;
use crate::ingress::headers::TRACESTATE;
use crate::ingress::trace::{self, Parent};
use crate::telemetry::otlp::Queue;
use crate::telemetry::otlp::message::{
    FLAG_REMOTE, FLAG_REMOTE_KNOWN, KIND_SERVER, KeyValue, STATUS_ERROR, Span, Status,
};

/// Where spans go in, and which requests become one.
#[derive(Clone)]
pub(super) struct Spans {
    pub(super) queue: Queue<Finished>,
    /// How many of the traces that begin here are recorded: 0 to 1.
    pub(super) ratio: f64,
}

/// A request's place in its trace.
pub(super) struct Place {
    /// What the replica is told.
    pub(super) traceparent: HeaderValue,
    /// Its own span, where it is recorded.
    pub(super) recorded: Option<Ids>,
}

impl Place {
    /// What vendors have added to the trace that is continued, where it is recorded.
    pub(super) fn trace_state(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        self.recorded?.parent?;
        headers.get(TRACESTATE).filter(|value| value.len() <= TRACE_STATE_BYTES_MAX).cloned()
    }
}

/// The ids of a span.
#[derive(Clone, Copy)]
pub(super) struct Ids {
    trace: [u8; 16],
    own: [u8; 8],
    parent: Option<[u8; 8]>,
    flags: u8,
}

impl Spans {
    /// The place of a request with these headers. A trace that is there is
    /// continued, and recorded where its sampled flag says so; one that begins
    /// here is recorded by lot, and the replica is told which. `None`: the client's
    /// own `traceparent` is passed on as it is.
    pub(super) fn place(&self, headers: &HeaderMap) -> Option<Place> {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let parent = given.next().and_then(|value| Parent::read(value.as_bytes()));
        let ids = match parent.filter(|_| given.next().is_none()) {
            Some(parent) if !parent.is_sampled() => return None,
            Some(Parent { trace, span, flags }) => Ids { trace, own: trace::new_span_id(), parent: Some(span), flags },
            None => {
                let flags = u8::from(fastrand::f64() < self.ratio);
                Ids { trace: trace::new_trace_id(), own: trace::new_span_id(), parent: None, flags }
            }
        };
        let traceparent = trace::traceparent(&ids.trace, &ids.own, ids.flags);
        Some(Place { traceparent, recorded: (ids.flags & trace::SAMPLED != 0).then_some(ids) })
    }
}

/// A request that has ended.
pub(super) struct Finished {
    pub(super) ids: Ids,
    pub(super) trace_state: String,
    pub(super) ended: SystemTime,
    pub(super) took: Duration,
    pub(super) method: Method,
    pub(super) path: String,
    /// The host that was asked for, and its port where it was said.
    pub(super) authority: String,
    pub(super) version: Version,
    pub(super) is_secure: bool,
    pub(super) client: IpAddr,
    /// The head of the answer; `None` when the client left before.
    pub(super) status: Option<StatusCode>,
    pub(super) answer_start: Option<Duration>,
    pub(super) error: Option<&'static str>,
    pub(super) went_wrong: bool,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) retries: u32,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) served: Option<Served>,
}

/// Who was to serve it.
pub(super) struct Served {
    pub(super) project: String,
    pub(super) environment: String,
    pub(super) deployment: String,
    pub(super) revision: u64,
}

/// Bytes of a text that a client chose: whole in practice, and a batch of the
/// longest stays below what a collector takes at once (4 MiB).
const TEXT_BYTES_MAX: usize = 1024;
/// W3C Trace Context §3.3.1.5: so much is to be passed on, if any is.
const TRACE_STATE_BYTES_MAX: usize = 512;

/// A copy of a text that a client chose, cut.
pub(super) fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

impl From<Finished> for Span {
    fn from(finished: Finished) -> Self {
        let began = finished.ended.checked_sub(finished.took).unwrap_or(UNIX_EPOCH);
        let status = finished
            .went_wrong
            .then(|| Status { message: finished.error.unwrap_or_default().to_owned(), code: STATUS_ERROR });
        let remote = if finished.ids.parent.is_some() { FLAG_REMOTE } else { 0 };
        Self {
            trace_id: finished.ids.trace.to_vec(),
            span_id: finished.ids.own.to_vec(),
            parent_span_id: finished.ids.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            flags: u32::from(finished.ids.flags) | FLAG_REMOTE_KNOWN | remote,
            // There is no route of few values to add: paths are the workers' own.
            name: known(&finished.method).unwrap_or("HTTP").to_owned(),
            kind: KIND_SERVER,
            start_time_unix_nano: nanoseconds(began),
            end_time_unix_nano: nanoseconds(finished.ended),
            attributes: finished.attributes(),
            trace_state: finished.trace_state,
            status,
        }
    }
}

impl Finished {
    fn attributes(&self) -> Vec<KeyValue> {
        let method = known(&self.method);
        let version = match self.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        let mut all = vec![
            KeyValue::text("http.request.method", method.unwrap_or("_OTHER")),
            KeyValue::text("url.path", self.path.as_str()),
            KeyValue::text("url.scheme", if self.is_secure { "https" } else { "http" }),
            KeyValue::text("network.protocol.version", version),
            KeyValue::text("network.peer.address", self.client.to_string()),
            KeyValue::text("client.address", self.client.to_string()),
            KeyValue::number("http.request.body.size", self.bytes_in),
            KeyValue::number("http.response.body.size", self.bytes_out),
            KeyValue::number("repoint.retries", self.retries),
        ];
        if method.is_none() {
            all.push(KeyValue::text("http.request.method_original", cut(self.method.as_str())));
        }
        all.extend(self.server());
        all.extend(self.status.map(|status| KeyValue::number("http.response.status_code", status.as_u16())));
        all.extend(self.answer_start.map(|after| KeyValue::number("repoint.answer_start_us", after.as_micros())));
        let status = self.status.filter(|_| self.went_wrong);
        let failed = self.error.map(str::to_owned).or_else(|| status.map(|status| status.as_str().to_owned()));
        all.extend(failed.map(|error| KeyValue::text("error.type", error)));
        all.extend(self.upstream.map(|address| KeyValue::text("repoint.upstream.address", address.to_string())));
        if let Some(served) = &self.served {
            all.push(KeyValue::text("repoint.project", served.project.as_str()));
            all.push(KeyValue::text("repoint.environment", served.environment.as_str()));
            all.push(KeyValue::text("repoint.deployment.id", served.deployment.as_str()));
            all.push(KeyValue::number("repoint.revision", served.revision));
        }
        all
    }

    /// The host that was asked for, and its port where it was said.
    fn server(&self) -> Vec<KeyValue> {
        let Ok(authority) = self.authority.parse::<Authority>() else { return Vec::new() };
        let port = authority.port_u16().map(|port| KeyValue::number("server.port", port));
        [KeyValue::text("server.address", authority.host())].into_iter().chain(port).collect()
    }
}

/// Methods that anybody may make up are not names (RFC 9110 §9, RFC 5789).
fn known(method: &Method) -> Option<&str> {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    known.contains(method).then(|| method.as_str())
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
