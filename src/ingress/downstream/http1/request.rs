//! The head of a usual request of HTTP/1.1, in one pass over its fields.
//!
//! What it finds is what `identify` and `headers::prepare` find and make of a
//! request that hyper has read; `tests` holds one against the other. Whatever is
//! not usual is left to them: upgrades, expectations, HTTP/1.0, and all that is
//! wrong, so that there is one place that says how. Pure.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, header};
use httparse::{Header, Status};

use crate::ingress::added::TRACEPARENT;
use crate::ingress::config::Config;
use crate::ingress::headers::{Said, TRACESTATE};
use crate::ingress::identify::{Asked, Found, Host, is_disguised, is_host};
use crate::ingress::outbound::{AnswerLines, Lines};
use crate::ingress::trace;
use crate::ingress::upstream::http1::body::Body;
use crate::ingress::upstream::http1::chunks::Chunks;
use crate::ingress::upstream::http1::lines::{copy_lines, has_bare_lf};
use crate::ingress::upstream::http1::request::agreed;

/// A request whose head is in.
pub(in crate::ingress) struct Request {
    pub(in crate::ingress) asked: Asked,
    pub(in crate::ingress) found: Found,
    pub(in crate::ingress) said: Said,
    pub(in crate::ingress) lines: Lines,
    /// Bytes of its body as announced; `u64::MAX` when not.
    pub(in crate::ingress) body_bytes: u64,
    /// Whether another may follow it.
    pub(in crate::ingress) keeps: bool,
    tracestate: Option<HeaderValue>,
}

/// By what a head is read.
pub(in crate::ingress) struct Rules<'a> {
    pub(in crate::ingress) config: &'a Config,
    /// Whether what the client says of others is believed.
    pub(in crate::ingress) is_trusted: bool,
}

/// What a head comes to.
pub(in crate::ingress) enum Parsed {
    Request(Box<Request>, Body),
    /// Its end is not here.
    Part,
    Unusual,
}

/// Fields of a usual request; more are hyper's to count.
const FIELDS_MAX: usize = 64;

/// Takes the first head out of `bytes`, if it is a usual one.
pub(in crate::ingress) fn parse(bytes: &mut Bytes, rules: &Rules<'_>) -> Parsed {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let read = match request.parse_with_uninit_headers(bytes, &mut slots) {
        Ok(Status::Complete(read)) => read,
        Ok(Status::Partial) if bytes.len() <= rules.config.head_bytes_max as usize => return Parsed::Part,
        Ok(Status::Partial) | Err(_) => return Parsed::Unusual,
    };
    match usual(bytes, read, &request, rules) {
        Some((request, body)) => {
            bytes.advance(read);
            Parsed::Request(Box::new(request), body)
        }
        None => Parsed::Unusual,
    }
}

fn usual(
    bytes: &Bytes,
    read: usize,
    request: &httparse::Request<'_, '_>,
    rules: &Rules<'_>,
) -> Option<(Request, Body)> {
    let head = &bytes[..read];
    let is_small = read <= rules.config.head_bytes_max as usize && request.headers.len() <= rules.config.fields_max;
    if request.version != Some(1) || !is_small || has_bare_lf(head) {
        return None;
    }
    let target = request.path.filter(|target| is_usual_target(target.as_bytes(), rules.config.uri_bytes_max))?;
    let method = Method::from_bytes(request.method?.as_bytes()).ok().filter(|method| *method != Method::CONNECT)?;
    let mut fields = Fields { bytes, is_trusted: rules.is_trusted, keeps: true, ..Fields::new(bytes) };
    let mut is_usual = true;
    let mut lines = Vec::with_capacity(read);
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        lines.extend_from_slice(part.as_bytes());
    }
    let stays = |field: &Header<'_>| {
        let fate = fields.read(field);
        is_usual &= fate.is_some();
        fate == Some(Fate::Stays)
    };
    copy_lines(head, request.headers, stays, &mut lines);
    if !is_usual {
        return None;
    }
    fields.request(method, lines)
}

/// Bytes that mean themselves in a path and a query (RFC 3986 §3.3, §3.4).
fn is_usual_target(target: &[u8], max: usize) -> bool {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/?%&=+,:;@!$'()*".contains(byte);
    target.first() == Some(&b'/') && target.len() <= max && target.iter().all(is_usual)
}

/// What becomes of a field's line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It is ours to say, or belongs to this hop.
    Goes,
}

/// What the fields say.
struct Fields<'a> {
    bytes: &'a Bytes,
    is_trusted: bool,
    host: Option<HeaderValue>,
    pin: Option<HeaderValue>,
    project: Option<HeaderValue>,
    environment: Option<HeaderValue>,
    tracestate: Option<HeaderValue>,
    said: Said,
    length: Option<u64>,
    chunked: bool,
    keeps: bool,
    idempotent: bool,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a Bytes) -> Self {
        Self {
            bytes,
            is_trusted: false,
            host: None,
            pin: None,
            project: None,
            environment: None,
            tracestate: None,
            said: Said::default(),
            length: None,
            chunked: false,
            keeps: true,
            idempotent: false,
        }
    }

    /// Notes a field. `None`: this request is not a usual one.
    fn read(&mut self, field: &Header<'_>) -> Option<Fate> {
        let name = field.name.as_bytes();
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match (name.len(), name.first()?.to_ascii_lowercase()) {
            (4, b'h') if is(b"host") => self.host(field.value),
            (2, b't') if is(b"te") => None,
            (6, b'e') if is(b"expect") => None,
            (7, b'u') if is(b"upgrade") => None,
            (9, b'x') if is(b"x-project") => {
                self.project = once(&self.project, self.value(field.value)?)?;
                Some(Fate::Stays)
            }
            (9, b'f') if is(b"forwarded") => Some(self.forwarded()),
            (10, b'c') if is(b"connection") => self.connection(field.value),
            (10, b'k') if is(b"keep-alive") => Some(Fate::Goes),
            (10, b't') if is(b"tracestate") => {
                self.tracestate = once(&self.tracestate, self.value(field.value)?)?;
                Some(Fate::Stays)
            }
            (11, b't') if is(b"traceparent") => self.traceparent(field.value),
            (12, b'x') if is(b"x-request-id") => self.request_id(field.value),
            (13, b'x') if is(b"x-environment") => {
                self.environment = once(&self.environment, self.value(field.value)?)?;
                Some(Fate::Goes)
            }
            (14, b'c') if is(b"content-length") => self.length(field.value),
            (14, b'h') if is(b"http2-settings") => None,
            (15, b'i') if is(b"idempotency-key") => {
                self.idempotent = true;
                Some(Fate::Stays)
            }
            (15, b'x') if is(b"x-deployment-id") => {
                self.pin = once(&self.pin, self.value(field.value)?)?;
                Some(Fate::Goes)
            }
            (16, b'p') if is(b"proxy-connection") => Some(Fate::Goes),
            (17, b't') if is(b"transfer-encoding") => self.coding(field.value),
            (12.., b'x') if name[..12].eq_ignore_ascii_case(b"x-forwarded-") => Some(self.forwarding(&name[12..])),
            _ if name.contains(&b'_') && is_disguised(&field.name.to_ascii_lowercase()) => None,
            _ => Some(Fate::Stays),
        }
    }

    /// Shares the bytes that were read.
    fn value(&self, value: &[u8]) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.bytes.slice_ref(value)).ok()
    }

    fn host(&mut self, value: &[u8]) -> Option<Fate> {
        let host = self.value(value).filter(|_| is_host(value))?;
        self.host = once(&self.host, host)?;
        Some(Fate::Goes)
    }

    /// What only a proxy that we trust may say.
    fn forwarded(&self) -> Fate {
        if self.is_trusted { Fate::Stays } else { Fate::Goes }
    }

    fn forwarding(&mut self, what: &[u8]) -> Fate {
        self.said.forwarded_proto |= self.is_trusted && what.eq_ignore_ascii_case(b"proto");
        self.said.forwarded_host |= self.is_trusted && what.eq_ignore_ascii_case(b"host");
        self.forwarded()
    }

    /// Fields that it names are rare, and for `headers` to take out.
    fn connection(&mut self, value: &[u8]) -> Option<Fate> {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let is_close = token.eq_ignore_ascii_case(b"close");
            self.keeps &= !is_close;
            if !is_close && !token.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
        }
        Some(Fate::Goes)
    }

    fn traceparent(&mut self, value: &[u8]) -> Option<Fate> {
        let given = trace::is_traceparent(value).then(|| HeaderValue::from_bytes(value).ok()).flatten()?;
        self.said.traceparent = once(&self.said.traceparent, given)?;
        Some(Fate::Goes)
    }

    /// Copied, as it lasts as long as the answer does: it would keep hold of all
    /// that was read with it.
    fn request_id(&mut self, value: &[u8]) -> Option<Fate> {
        let given = trace::is_request_id(value).then(|| HeaderValue::from_bytes(value).ok()).flatten()?;
        self.said.request_id = once(&self.said.request_id, given)?;
        Some(Fate::Goes)
    }

    fn length(&mut self, value: &[u8]) -> Option<Fate> {
        let length = agreed(None, value).ok().filter(|_| value.iter().all(u8::is_ascii_digit))?;
        self.length = once(&self.length, length)?;
        Some(Fate::Goes)
    }

    fn coding(&mut self, value: &[u8]) -> Option<Fate> {
        let is_first = !std::mem::replace(&mut self.chunked, true);
        (is_first && value.eq_ignore_ascii_case(b"chunked")).then_some(Fate::Goes)
    }

    fn request(self, method: Method, lines: Vec<u8>) -> Option<(Request, Body)> {
        let host = self.host?;
        let (body, body_bytes) = match (self.chunked, self.length) {
            (false, None) => (Body::EMPTY, 0),
            (false, Some(length)) => (Body::Length(length), length),
            (true, None) => (Body::Chunked(Chunks::default()), u64::MAX),
            // RFC 9112 §6.3: one of them lies.
            (true, Some(_)) => return None,
        };
        let asked = Asked {
            authority: Host::Header(host.clone()),
            pin: self.pin,
            project: self.project,
            environment: self.environment,
        };
        let found = Found { idempotent: self.idempotent, ..Found::default() };
        let lines = Lines { method, request: lines, host, length: self.length, answer: AnswerLines::default() };
        let (said, keeps, tracestate) = (self.said, self.keeps, self.tracestate);
        Some((Request { asked, found, said, lines, body_bytes, keeps, tracestate }, body))
    }
}

/// What may be said once.
fn once<T>(before: &Option<T>, value: T) -> Option<Option<T>> {
    before.is_none().then_some(Some(value))
}

impl Request {
    /// What logs and traces want of its fields. Copied, as they last as long as the
    /// answer does: they would keep hold of all that was read with them.
    pub(in crate::ingress) fn described(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        let host = Some(&self.lines.host);
        let [trace, state] = [&self.said.traceparent, &self.tracestate].map(Option::as_ref);
        for (name, value) in [(header::HOST, host), (TRACEPARENT, trace), (TRACESTATE, state)] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok()) {
                fields.insert(name, value);
            }
        }
        fields
    }
}
