//! Identify: what a request asks for, and whether it means one thing only.
//!
//! One pass over the head. What is found is kept as handles on the bytes that
//! arrived; nothing is copied. Refuses what could mean one thing here and
//! another at the replica (RFC 9112 §3.2, §11.2). Resolves nothing.

use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use hyper::ext::Protocol;

use crate::ingress::added::{DEPLOYMENT_ID, ENVIRONMENT};
use crate::ingress::config::Config;
use crate::ingress::error::Error;
use crate::ingress::trace;
use crate::routing::address::Address;

/// What a request asks for. Outlives the request, so that one that was sent
/// nowhere yet may resolve again.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) authority: Host,
    pub(super) pin: Option<HeaderValue>,
    pub(super) project: Option<HeaderValue>,
    pub(super) environment: Option<HeaderValue>,
}

/// Where the host was said.
#[derive(Debug)]
pub(super) enum Host {
    Header(HeaderValue),
    Authority(Authority),
    /// HTTP/1.0 without one.
    None,
}

impl Asked {
    /// The address to resolve.
    pub(super) fn address(&self) -> Address<'_> {
        Address {
            host: match &self.authority {
                Host::Header(value) => value.as_bytes(),
                Host::Authority(authority) => authority.as_str().as_bytes(),
                Host::None => b"",
            },
            pin: self.pin.as_ref().map(HeaderValue::as_bytes),
            project: self.project.as_ref().map(HeaderValue::as_bytes),
            environment: self.environment.as_ref().map(HeaderValue::as_bytes),
        }
    }

    /// Takes out of a request's fields what chose its deployment, as we are to name
    /// that, and gives it a `Host` where only its target had one.
    pub(super) fn take_out(&self, headers: &mut HeaderMap) {
        if self.pin.is_some() {
            headers.remove(DEPLOYMENT_ID);
        }
        if self.environment.is_some() {
            headers.remove(ENVIRONMENT);
        }
        if let (Host::Authority(_), Some(host)) = (&self.authority, self.host()) {
            headers.insert(header::HOST, host);
        }
    }

    /// The host as a header.
    pub(super) fn host(&self) -> Option<HeaderValue> {
        match &self.authority {
            Host::Header(value) => Some(value.clone()),
            Host::Authority(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            Host::None => None,
        }
    }
}

/// What one pass over the head found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `Connection` is there.
    pub(super) connection: bool,
    /// Another header of this hop only is there.
    pub(super) hop: bool,
    /// `TE: trailers`.
    pub(super) te_trailers: bool,
    /// `Transfer-Encoding` is there.
    pub(super) transfer_encoding: bool,
    /// The protocol to switch to, where `Connection` says so too.
    pub(super) upgrade: Option<HeaderValue>,
    /// It came as an extended CONNECT over HTTP/2 (RFC 8441).
    pub(super) extended: bool,
    /// A forwarding header is there.
    pub(super) forwarded: bool,
    /// A header that some servers read as one of ours: `X_Forwarded_For`.
    pub(super) disguised: bool,
    /// `Expect: 100-continue`.
    pub(super) expects: bool,
    /// `Idempotency-Key`: the client says it may be sent twice.
    pub(super) idempotent: bool,
    /// How many `Cookie` fields there are; HTTP/2 may split them.
    pub(super) cookies: usize,
    /// A request id we can take over.
    pub(super) request_id: Given,
    /// A trace we can continue.
    pub(super) trace: Given,
}

/// What is there by a name that may stand once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// Nothing.
    #[default]
    Absent,
    /// One valid value.
    Valid,
    /// Something else.
    Invalid,
}

/// Reads the head once.
pub(super) fn identify<B>(request: &Request<B>, config: &Config) -> Result<(Asked, Found), Error> {
    check_line(request, config)?;
    let headers = request.headers();
    if headers.len() > config.fields_max {
        return Err(Error::HeadersTooLarge(config.fields_max));
    }
    let mut found = Found::default();
    let (mut host, mut pin, mut project, mut environment) = (None, None, None, None);
    for (name, value) in headers {
        match name.as_str() {
            "host" => once(&mut host, value, "more than one Host")?,
            "x-deployment-id" => once(&mut pin, value, "more than one X-Deployment-ID")?,
            "x-project" => once(&mut project, value, "more than one X-Project")?,
            "x-environment" => once(&mut environment, value, "more than one X-Environment")?,
            "transfer-encoding" => found.coding(value)?,
            _ => found.note(name, value),
        }
    }
    let is_http11 = request.version() == Version::HTTP_11;
    found.expects &= is_http11;
    found.upgrade = found.upgrade.take().filter(|to| is_http11 && is_tunnel(to) && has_token(headers, "upgrade"));
    if request.method() == Method::CONNECT {
        found.extended = true;
        found.upgrade = Some(extended(request)?);
    }
    let authority = authority(request, host)?;
    Ok((Asked { authority, pin, project, environment }, found))
}

fn once(place: &mut Option<HeaderValue>, value: &HeaderValue, refusal: &'static str) -> Result<(), Error> {
    match place.replace(value.clone()) {
        None => Ok(()),
        Some(_) => Err(Error::BadRequest(refusal)),
    }
}

impl Found {
    /// RFC 9112 §6.1. hyper takes off the chunks and would leave a coding behind
    /// that nobody names any more.
    fn coding(&mut self, value: &HeaderValue) -> Result<(), Error> {
        let is_chunked = value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if std::mem::replace(&mut self.transfer_encoding, true) || !is_chunked {
            return Err(Error::BadRequest(
                "Transfer-Encoding is not chunked, said once; send the body in chunks alone",
            ));
        }
        Ok(())
    }

    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        match name.as_str() {
            "connection" => self.connection = true,
            "keep-alive" | "proxy-connection" | "http2-settings" => self.hop = true,
            "te" => {
                self.hop = true;
                self.te_trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case("trailers"));
            }
            "upgrade" => {
                self.hop = true;
                self.upgrade = Some(value.clone());
            }
            "expect" => self.expects |= value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            "idempotency-key" => self.idempotent = true,
            "cookie" => self.cookies += 1,
            "forwarded" => self.forwarded = true,
            "x-request-id" => self.request_id = self.request_id.and(trace::is_request_id(value.as_bytes())),
            "traceparent" => self.trace = self.trace.and(trace::is_traceparent(value.as_bytes())),
            other if other.starts_with("x-forwarded-") => self.forwarded = true,
            other if other.contains('_') => self.disguised |= is_disguised(other),
            _ => {}
        }
    }
}

impl Given {
    /// Two of them are none.
    fn and(self, valid: bool) -> Self {
        if self == Self::Absent && valid { Self::Valid } else { Self::Invalid }
    }
}

/// CGI and its heirs turn `-` into `_`, so that `X_Forwarded_For` arrives as
/// `X-Forwarded-For` does. Ours must not be forged that way.
pub(super) fn is_disguised(name: &str) -> bool {
    const OURS: [&str; 9] = [
        "x-deployment-id",
        "x-environment",
        "x-request-id",
        "traceparent",
        "forwarded",
        "via",
        "x-project",
        // Framing is ours to say, too.
        "content-length",
        "transfer-encoding",
    ];
    let plain = name.replace('_', "-");
    name.contains('_') && (plain.starts_with("x-forwarded-") || OURS.contains(&plain.as_str()))
}

/// The comma-separated tokens of a header value.
pub(super) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Other versions of HTTP, and TLS, are between the client and us; what remains
/// is for the replica to agree to.
fn is_tunnel(protocol: &HeaderValue) -> bool {
    let ours = |token: &str| {
        let name = token.split('/').next().unwrap_or_default();
        ["h2c", "h2", "http", "tls"].iter().any(|ours| ours.eq_ignore_ascii_case(name))
    };
    tokens(protocol).next().is_some() && !tokens(protocol).any(ours)
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    headers.get_all(header::CONNECTION).iter().flat_map(tokens).any(|named| named.eq_ignore_ascii_case(token))
}

/// The protocol of an extended CONNECT (RFC 8441 §4), which is a request for a path.
fn extended<B>(request: &Request<B>) -> Result<HeaderValue, Error> {
    let protocol = request.extensions().get::<Protocol>();
    let protocol = protocol.and_then(|protocol| HeaderValue::from_str(protocol.as_str()).ok());
    protocol.filter(is_tunnel).ok_or(Error::BadRequest(
        "CONNECT is not served: this is no forward proxy, and WebSockets name their :protocol",
    ))
}

fn check_line<B>(request: &Request<B>, config: &Config) -> Result<(), Error> {
    if request.method() == Method::CONNECT {
        extended(request)?;
    }
    let uri = request.uri();
    if uri.path_and_query().map(PathAndQuery::as_str).map_or(0, str::len) > config.uri_bytes_max {
        return Err(Error::UriTooLong(config.uri_bytes_max));
    }
    if uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Error::BadRequest("the request target's scheme is not http"));
    }
    let is_target = uri.path().starts_with('/') || uri.path().is_empty() && uri.authority().is_some();
    if is_target || (uri.path() == "*" && request.method() == Method::OPTIONS) {
        Ok(())
    } else {
        Err(Error::BadRequest("the request target is not a path"))
    }
}

/// RFC 9112 §3.2.2 lets the target's authority win over `Host`; where they
/// differ somebody is mistaken or lying, and either way we do not guess.
fn authority<B>(request: &Request<B>, host: Option<HeaderValue>) -> Result<Host, Error> {
    let found = match (request.uri().authority(), host) {
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(Error::BadRequest("Host differs from the request target's authority"));
        }
        (Some(authority), None) => Host::Authority(authority.clone()),
        (_, Some(host)) => Host::Header(host),
        (None, None) if request.version() == Version::HTTP_10 => Host::None,
        (None, None) => return Err(Error::BadRequest("Host is missing")),
    };
    let bytes = match &found {
        Host::Header(value) => value.as_bytes(),
        Host::Authority(authority) => authority.as_str().as_bytes(),
        Host::None => b"",
    };
    if is_host(bytes) { Ok(found) } else { Err(Error::BadRequest("Host is not a host")) }
}

/// RFC 3986 §3.2.2, without user information.
pub(super) fn is_host(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str, headers: &[(&str, &str)]) -> Request<()> {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn identified(line: &str, headers: &[(&str, &str)]) -> Result<(Asked, Found), Error> {
        identify(&request(line, headers), &Config::default())
    }

    #[test]
    fn one_pass_finds_the_address() {
        let headers = [("host", "a.localhost:80"), ("x-deployment-id", "d1"), ("x-project", "p")];
        let (asked, _) = identified("GET /", &headers).unwrap();
        let address = asked.address();
        assert_eq!(address.host, b"a.localhost:80");
        assert_eq!((address.pin, address.project, address.environment), (Some(&b"d1"[..]), Some(&b"p"[..]), None));
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("GET /", &[]),
            ("GET /", &[("host", "a"), ("host", "a")]),
            ("GET http://a/", &[("host", "b")]),
            ("GET /", &[("host", "a b")]),
            ("GET /", &[("host", "a/b")]),
            ("GET /", &[("host", "user@a")]),
            ("GET /", &[("host", "a"), ("x-deployment-id", "1"), ("x-deployment-id", "2")]),
            ("GET ftp://a/", &[]),
            ("CONNECT a:80", &[("host", "a:80")]),
            ("GET *", &[("host", "a")]),
        ];
        for (line, headers) in cases {
            let refused = identified(line, headers);
            assert!(matches!(refused, Err(Error::BadRequest(_))), "{line} {headers:?}: {refused:?}");
        }
        assert!(identified("GET http://a/", &[("host", "A")]).is_ok());
        assert!(identified("OPTIONS *", &[("host", "a")]).is_ok());
    }

    #[test]
    fn too_much_is_refused() {
        let fields = vec![("x-a", "b"); 129];
        assert!(matches!(identified("GET /", &fields), Err(Error::HeadersTooLarge(128))));
        let path = format!("GET /{}", "a".repeat(16 * 1024));
        assert!(matches!(identified(&path, &[("host", "a")]), Err(Error::UriTooLong(_))));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let upgrade = |headers: &[(&str, &str)]| identified("GET /", headers).unwrap().1.upgrade.is_some();
        assert!(upgrade(&[("host", "a"), ("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]));
        assert!(!upgrade(&[("host", "a"), ("upgrade", "websocket")]));
        assert!(!upgrade(&[("host", "a"), ("upgrade", "h2c"), ("connection", "upgrade, http2-settings")]));
        assert!(!upgrade(&[("host", "a"), ("connection", "upgrade")]));
    }

    #[test]
    fn headers_that_servers_read_as_ours_are_noticed() {
        for name in ["x_forwarded_for", "x-forwarded_proto", "x_deployment_id", "x-request_id"] {
            assert!(is_disguised(name), "{name}");
        }
        for name in ["x-forwarded-for", "x_other", "my_via"] {
            assert!(!is_disguised(name), "{name}");
        }
    }

    #[test]
    fn two_traces_are_none() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = |headers: &[(&str, &str)]| identified("GET /", headers).unwrap().1.trace;
        assert_eq!(trace(&[("host", "a"), ("traceparent", valid)]), Given::Valid);
        assert_eq!(trace(&[("host", "a"), ("traceparent", valid), ("traceparent", valid)]), Given::Invalid);
        assert_eq!(trace(&[("host", "a")]), Given::Absent);
    }
}
