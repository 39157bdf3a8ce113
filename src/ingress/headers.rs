//! Header hygiene, both ways, and the headers Repoint adds.
//!
//! What belongs to one hop ends here (RFC 9110 §7.6.1), forwarding headers say
//! what we saw, and the deployment and environment are named by us alone. Knows
//! nothing of connections or bodies.

use http::header::{self, HeaderName};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request};

use crate::ingress::added::{Added, FORWARDED_HOST, FORWARDED_PROTO, Origin, REQUEST_ID, TRACEPARENT, via};
use crate::ingress::downstream::Connection;
use crate::ingress::identify::{Asked, Found, Given, is_disguised};
use crate::ingress::span::Place;
use crate::ingress::trace;
use crate::model::deployment::HostHeader;
use crate::routing::live::Claimed;
use crate::routing::pool::EndpointRoute;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What vendors add to it.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Makes a request fit for any replica: HTTP/1.1, origin form, without what
/// belongs to the client's hop and without what is ours to say.
pub(super) fn prepare(
    mut parts: request::Parts,
    asked: &Asked,
    found: &Found,
    is_trusted: bool,
) -> (request::Parts, Said) {
    let received = std::mem::replace(&mut parts.version, Version::HTTP_11);
    if parts.uri.authority().is_some() || parts.uri.scheme().is_some() {
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    let headers = &mut parts.headers;
    strip_hop(headers, found);
    if let Some(protocol) = &found.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
        if found.extended {
            // RFC 8441 §5: what RFC 6455 asks of HTTP/1.1 and HTTP/2 leaves out.
            parts.method = Method::GET;
            headers.insert(header::SEC_WEBSOCKET_KEY, websocket_key());
        }
    } else if found.te_trailers {
        // RFC 9110 §10.1.4: TE goes with the connection option of its name.
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if received != Version::HTTP_11 {
        // HTTP/1.0 does not know it, and hyper's HTTP/2 server cannot pass a 100 on.
        headers.remove(header::EXPECT);
    }
    if found.cookies > 1 && received == Version::HTTP_2 {
        join_cookies(headers);
    }
    let said = Said::take(headers, found, is_trusted);
    asked.take_out(headers);
    (parts, said)
}

/// A nonce of 16 bytes in base64 (RFC 6455 §4.1): 126 random bits, two of zero.
fn websocket_key() -> HeaderValue {
    let key: String = (0..21).map(|_| fastrand::alphanumeric()).chain("A==".chars()).collect();
    HeaderValue::try_from(key).unwrap_or_else(|_| HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

fn strip_hop(headers: &mut HeaderMap, found: &Found) {
    if found.connection {
        strip_named(headers);
    }
    if found.hop {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, header::TE, header::UPGRADE] {
            headers.remove(name);
        }
    }
    if found.transfer_encoding {
        strip_framing(headers);
    }
}

/// RFC 9112 §6.3: Transfer-Encoding overrides Content-Length, which must not
/// travel on beside the framing we choose.
fn strip_framing(headers: &mut HeaderMap) {
    if headers.remove(header::TRANSFER_ENCODING).is_some() {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// RFC 9110 §7.6.1: headers named by Connection belong to this hop only. Left in
/// place they would let a client strip our own headers at the replica.
fn strip_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        // As bytes: one that is no text must not hide the others.
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // Meant for every recipient: naming them is a mistake or an attack.
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE)
        .collect();
    headers.remove(header::CONNECTION);
    for name in named {
        headers.remove(name);
    }
}

/// RFC 9113 §8.2.3: crumbs are put together again before they leave HTTP/2.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// What a client, or a proxy that we trust, has said already.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) forwarded_proto: bool,
    pub(super) forwarded_host: bool,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) traceparent: Option<HeaderValue>,
}

impl Said {
    /// Takes it out of a request's fields, and with it what only we may say.
    fn take(headers: &mut HeaderMap, found: &Found, is_trusted: bool) -> Self {
        strip_forged(headers, found, is_trusted);
        // What is left of these was said by a proxy that we trust.
        let has = |name| found.forwarded && headers.contains_key(name);
        let (forwarded_proto, forwarded_host) = (has(FORWARDED_PROTO), has(FORWARDED_HOST));
        if found.trace == Given::Invalid {
            // W3C Trace Context §3.3: without its parent, tracestate means nothing.
            headers.remove(TRACESTATE);
        }
        let mut take = |name, given| {
            let value = if given == Given::Absent { None } else { headers.remove(name) };
            value.filter(|_| given == Given::Valid)
        };
        let request_id = take(REQUEST_ID, found.request_id);
        Self { forwarded_proto, forwarded_host, request_id, traceparent: take(TRACEPARENT, found.trace) }
    }

    /// What we say then. A trace is continued by the replica itself where we report
    /// no span of our own for it to hang on.
    pub(super) fn added(
        self,
        asked: &Asked,
        connection: &Connection,
        received: Version,
        place: Option<&Place>,
    ) -> Added {
        let proto = if connection.is_secure() { "https" } else { "http" };
        Added {
            forwarded_for: connection.peer().forwarded.clone(),
            forwarded_proto: (!self.forwarded_proto).then_some(proto),
            forwarded_host: if self.forwarded_host { None } else { asked.host() },
            via: via(received),
            request_id: self.request_id.unwrap_or_else(trace::new_request_id),
            traceparent: match place {
                Some(place) => place.traceparent.clone(),
                None => self.traceparent.unwrap_or_else(trace::new_traceparent),
            },
        }
    }
}

/// What a client must not say of itself, unless it is a proxy we trust.
fn strip_forged(headers: &mut HeaderMap, found: &Found, is_trusted: bool) {
    if found.forwarded && !is_trusted {
        strip_matching(headers, |name| name == "forwarded" || name.starts_with("x-forwarded-"));
    }
    if found.disguised {
        strip_matching(headers, is_disguised);
    }
}

fn strip_matching(headers: &mut HeaderMap, matches: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| matches(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The `Host` that the pool of a replica wants to which a request is about to
/// go, where it is not the client's.
pub(super) fn host_for(claimed: &Claimed, endpoint: &EndpointRoute) -> Option<HeaderValue> {
    let own = match (claimed.pool.host, &endpoint.authority) {
        (HostHeader::Endpoint, Some(authority)) => HeaderValue::from_str(authority),
        (HostHeader::Endpoint, None) => HeaderValue::from_str(&endpoint.address.to_string()),
        _ => return None,
    };
    own.ok()
}

/// What agrees to an upgrade over HTTP/1.1, as an extended CONNECT is agreed to:
/// RFC 8441 §5.
pub(super) fn agree(fields: &mut HeaderMap) -> StatusCode {
    for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
        fields.remove(name);
    }
    StatusCode::OK
}

/// Makes an answer fit for the client; one that `switches` protocols says to which.
pub(super) fn answer(headers: &mut HeaderMap, switches: bool, origin: Origin<'_>) {
    // One pass instead of a search for each of them: most answers have none.
    let has_hop = headers.keys().any(is_of_hop);
    let upgrade = switches.then(|| headers.remove(header::UPGRADE));
    if has_hop {
        strip_named(headers);
        for name in [KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE] {
            headers.remove(name);
        }
        strip_framing(headers);
    }
    if let Some(protocol) = upgrade.flatten() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    origin.name(headers);
}

/// Whether it says something of this connection alone.
fn is_of_hop(name: &HeaderName) -> bool {
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION].contains(name)
}

/// The seconds a replica keeps an idle connection, as `Keep-Alive` says it.
pub(super) fn keep_alive_seconds(value: &[u8]) -> Option<u64> {
    let tokens = std::str::from_utf8(value).ok()?.split(',').map(str::trim);
    tokens.filter_map(|token| token.strip_prefix("timeout=")?.trim().parse().ok()).next()
}

/// What kind of answer it is: how long it may pause goes by that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Class {
    #[default]
    Unary,
    /// Server-sent events.
    Events,
    Grpc,
}

/// The class of an answer with this `Content-Type`.
pub(super) fn class(kind: &[u8]) -> Class {
    let starts = |prefix: &[u8]| kind.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if starts(b"text/event-stream") {
        Class::Events
    } else if starts(b"application/grpc") {
        Class::Grpc
    } else {
        Class::Unary
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::ingress::config::Config;
    use crate::ingress::fuzz::fuzz;
    use crate::ingress::identify::{identify, tokens};

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    /// A request from its head, as a parser makes it that knows nothing of us.
    fn request(head: &[u8]) -> Option<Request<()>> {
        let mut slots = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut slots);
        parsed.parse(head).ok().filter(httparse::Status::is_complete)?;
        let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut request = Request::builder().method(parsed.method?).uri(parsed.path?).version(version);
        for field in parsed.headers.iter() {
            request = request.header(field.name, field.value);
        }
        request.body(()).ok()
    }

    #[test]
    fn fuzz_request_heads() {
        let config = Config::default();
        fuzz("request_heads", |input| {
            let Some(request) = request(input) else { return "no head".to_owned() };
            let (asked, found) = match identify(&request, &config) {
                Ok(identified) => identified,
                Err(error) => return error.to_string(),
            };
            let said = request.headers();
            let named: Vec<String> =
                said.get_all(header::CONNECTION).iter().flat_map(tokens).map(str::to_ascii_lowercase).collect();
            let mut headers = said.clone();
            strip_hop(&mut headers, &found);
            strip_forged(&mut headers, &found, false);
            for name in headers.keys().map(HeaderName::as_str) {
                let is_hop = ["connection", "keep-alive", "proxy-connection", "te", "upgrade", "transfer-encoding"];
                assert!(!is_hop.contains(&name), "{name} belongs to this hop");
                assert!(name != "forwarded" && !name.starts_with("x-forwarded-") && !is_disguised(name), "{name}");
                let stays = ["host", "content-length", "content-type"].contains(&name);
                assert!(stays || !named.iter().any(|named| named == name), "{name} was named by Connection");
            }
            let host = asked.address().host;
            assert!(!host.iter().any(|byte| byte.is_ascii_whitespace() || b"/@?#,".contains(byte)));
            format!("{found:?}").replace(|c: char| c.is_ascii_digit(), "")
        });
    }

    #[test]
    fn what_connection_names_goes_and_what_everyone_needs_stays() {
        let mut headers = headers(&[
            ("connection", "close, x-a"),
            ("connection", "X-B,, host , content-length"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("host", "a"),
            ("content-length", "0"),
        ]);
        strip_named(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-c"]);
    }

    #[test]
    fn a_replica_may_say_how_long_it_keeps_connections() {
        let seconds = |value: &str| keep_alive_seconds(value.as_bytes());
        assert_eq!(seconds("timeout=5, max=100"), Some(5));
        assert_eq!(seconds("max=100, timeout=75"), Some(75));
        assert_eq!((seconds("timeout=soon"), seconds("")), (None, None));
    }

    #[test]
    fn answers_are_classed_by_their_content_type() {
        let cases = [
            ("text/event-stream", Class::Events),
            ("Text/Event-Stream; charset=utf-8", Class::Events),
            ("application/grpc+proto", Class::Grpc),
            ("text/html", Class::Unary),
            ("text/event", Class::Unary),
            ("", Class::Unary),
        ];
        for (kind, expected) in cases {
            assert_eq!(class(kind.as_bytes()), expected, "{kind}");
        }
    }

    #[test]
    fn cookie_crumbs_are_put_together() {
        let mut headers = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
