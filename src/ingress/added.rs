//! What we say of a request to its replica, beside what its client says.
//!
//! Eight fields that most requests have none of. Put into the map of fields, each
//! would be hashed and looked for there only to be written out a moment later; so
//! they are kept beside it and written behind it. The map must not hold one of
//! the same name then: `headers` has taken out what the client said. Knows
//! nothing of requests.

use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Version};

use crate::routing::live::Claimed;
use crate::routing::pool::DeploymentText;

pub(super) const DEPLOYMENT_ID: HeaderName = HeaderName::from_static("x-deployment-id");
pub(super) const ENVIRONMENT: HeaderName = HeaderName::from_static("x-environment");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Tells one request from another, in logs on both sides.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What is the same wherever a request goes. `None`: a proxy that we trust, or
/// the client, has said it.
pub(super) struct Added {
    pub(super) forwarded_for: HeaderValue,
    pub(super) forwarded_proto: Option<&'static str>,
    pub(super) forwarded_host: Option<HeaderValue>,
    pub(super) via: &'static str,
    pub(super) request_id: HeaderValue,
    pub(super) traceparent: HeaderValue,
}

/// That, and who is to answer.
#[derive(Clone, Copy)]
pub(super) struct Ours<'a> {
    added: &'a Added,
    origin: Origin<'a>,
}

/// Which deployment answers, in which environment.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) deployment: DeploymentText,
    /// Visible ASCII.
    pub(super) environment: &'a [u8],
}

impl<'a> Origin<'a> {
    /// Of what was claimed.
    pub(super) fn of(claimed: &'a Claimed) -> Self {
        Self { deployment: claimed.pool.deployment_text(), environment: claimed.environment().name_bytes() }
    }

    /// Writes it as fields of HTTP/1.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let (deployment, environment) = (self.deployment.as_bytes(), self.environment);
        for part in [b"x-deployment-id: ", deployment, b"\r\nx-environment: ", environment, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }

    /// Overwrites whatever the other side said.
    pub(super) fn name(self, fields: &mut HeaderMap) {
        fields.insert(DEPLOYMENT_ID, value(self.deployment.as_bytes()));
        fields.insert(ENVIRONMENT, value(self.environment));
    }
}

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("ids and names are visible ASCII")
}

impl<'a> Ours<'a> {
    /// Of a request that was claimed.
    pub(super) fn new(added: &'a Added, origin: Origin<'a>) -> Self {
        Self { added, origin }
    }

    /// Writes them as fields of HTTP/1.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let Self { added, origin } = self;
        // One look at the room for all of them.
        out.reserve(512);
        let mut field = |start: &[u8], value: &[u8]| {
            out.extend_from_slice(start);
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        };
        field(b"x-forwarded-for: ", added.forwarded_for.as_bytes());
        if let Some(proto) = added.forwarded_proto {
            field(b"x-forwarded-proto: ", proto.as_bytes());
        }
        if let Some(host) = &added.forwarded_host {
            field(b"x-forwarded-host: ", host.as_bytes());
        }
        field(b"via: ", added.via.as_bytes());
        field(b"x-request-id: ", added.request_id.as_bytes());
        field(b"traceparent: ", added.traceparent.as_bytes());
        origin.write(out);
    }

    /// Adds them to a map.
    pub(super) fn put(self, fields: &mut HeaderMap) {
        let Self { added, origin } = self;
        fields.append(FORWARDED_FOR, added.forwarded_for.clone());
        if let Some(proto) = added.forwarded_proto {
            fields.append(FORWARDED_PROTO, HeaderValue::from_static(proto));
        }
        if let Some(host) = &added.forwarded_host {
            fields.append(FORWARDED_HOST, host.clone());
        }
        fields.append(REQUEST_ID, added.request_id.clone());
        fields.append(TRACEPARENT, added.traceparent.clone());
        fields.append(header::VIA, HeaderValue::from_static(added.via));
        origin.name(fields);
    }
}

/// RFC 9110 §7.6.3: the version in which we received it, and a name for us.
pub(super) fn via(received: Version) -> &'static str {
    match received {
        Version::HTTP_2 => "2.0 repoint",
        Version::HTTP_10 => "1.0 repoint",
        _ => "1.1 repoint",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_put_into_a_map() {
        let value = HeaderValue::from_static;
        let origin = Origin { deployment: DeploymentText::of(uuid::Uuid::from_u128(1)), environment: b"staging" };
        let all = Added {
            forwarded_for: value("192.0.2.1"),
            forwarded_proto: Some("https"),
            forwarded_host: Some(value("a.example.com")),
            via: via(Version::HTTP_2),
            request_id: value("r"),
            traceparent: value("t"),
        };
        let few = Added {
            forwarded_proto: None,
            forwarded_host: None,
            request_id: value("r"),
            traceparent: value("t"),
            forwarded_for: value("192.0.2.1"),
            via: via(Version::HTTP_11),
        };
        for (added, count) in [(&all, 8), (&few, 6)] {
            let (mut written, mut map) = (Vec::new(), HeaderMap::new());
            let ours = Ours::new(added, origin);
            ours.write(&mut written);
            ours.put(&mut map);
            let written = String::from_utf8(written).unwrap();
            let mut lines: Vec<_> = written.split_terminator("\r\n").map(str::to_owned).collect();
            let mut fields: Vec<_> =
                map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            lines.sort();
            fields.sort();
            assert_eq!(lines, fields);
            assert_eq!(lines.len(), count);
        }
    }
}
