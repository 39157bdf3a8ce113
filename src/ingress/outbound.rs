//! A request on its way to a replica, and the head of its answer on the way back.
//!
//! Either as maps of fields, as hyper and h2 have them, or as lines of HTTP/1: what
//! comes over HTTP/1 and leaves over HTTP/1 is copied in runs, and no field of it
//! is hashed, stored and looked up in between. Whoever reads a head takes out what
//! belongs to one hop; `added` says what is put behind it. Decides nothing.

use http::uri::Uri;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request};

use crate::ingress::added::Origin;
use crate::ingress::headers::Class;

/// A request's head; once it is answered, the answer's.
pub(super) enum Outbound {
    /// The fields of the answer take the place of the request's.
    Map(request::Parts),
    Lines(Lines),
}

/// A head of HTTP/1 that is passed on as it came.
pub(super) struct Lines {
    pub(super) method: Method,
    /// The request line and the fields, without `Host`, framing, and what is not
    /// to be passed on.
    pub(super) request: Vec<u8>,
    /// What goes into `Host`.
    pub(super) host: HeaderValue,
    /// The length of the body, where one was announced.
    pub(super) length: Option<u64>,
    pub(super) answer: AnswerLines,
}

/// The head of an answer: its status line and its fields, without framing and
/// what is not to be passed on.
#[derive(Default)]
pub(super) struct AnswerLines {
    pub(super) bytes: Vec<u8>,
    /// What it says of the length of its body, which need not be there: RFC 9110 §9.3.2.
    pub(super) length: Option<u64>,
    pub(super) class: Class,
    pub(super) has_date: bool,
}

/// Where the fields of an answer are to be put.
pub(super) enum Fields<'a> {
    Map(&'a mut HeaderMap),
    Lines(&'a mut AnswerLines),
}

impl Outbound {
    /// The method.
    pub(super) fn method(&self) -> &Method {
        match self {
            Self::Map(parts) => &parts.method,
            Self::Lines(lines) => &lines.method,
        }
    }

    /// Names the host it goes to.
    pub(super) fn direct(&mut self, host: HeaderValue) {
        match self {
            Self::Map(parts) => drop(parts.headers.insert(header::HOST, host)),
            Self::Lines(lines) => lines.host = host,
        }
    }

    /// Where its answer goes.
    pub(super) fn answer(&mut self) -> Fields<'_> {
        match self {
            Self::Map(parts) => Fields::Map(&mut parts.headers),
            Self::Lines(lines) => Fields::Lines(&mut lines.answer),
        }
    }

    /// Its maps, for who speaks no HTTP/1; made where there are none.
    pub(super) fn map(&mut self) -> &mut request::Parts {
        if let Self::Lines(lines) = self {
            *self = Self::Map(lines.parts());
        }
        match self {
            Self::Map(parts) => parts,
            Self::Lines(_) => unreachable!("lines have just become maps"),
        }
    }
}

impl Lines {
    /// The target of the request, as it came.
    pub(super) fn target(&self) -> &[u8] {
        self.request.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
    }

    /// The same as maps.
    fn parts(&self) -> request::Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = Uri::try_from(self.target()).unwrap_or_default();
        parts.headers.insert(header::HOST, self.host.clone());
        if let Some(length) = self.length {
            parts.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        for line in self.request.split(|byte| *byte == b'\n').skip(1) {
            let mut halves = line.splitn(2, |byte| *byte == b':');
            let (Some(name), Some(value)) = (halves.next(), halves.next()) else { continue };
            // Both were looked at when they were read.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
                parts.headers.append(name, value);
            }
        }
        parts
    }
}

impl AnswerLines {
    /// Begins with the status line; `fields` bytes are to follow, and then `behind`.
    pub(super) fn begin(&mut self, status: StatusCode, room: usize) {
        self.bytes = Vec::with_capacity(room);
        self.bytes.extend_from_slice(b"HTTP/1.1 ");
        self.bytes.extend_from_slice(status.as_str().as_bytes());
        self.bytes.push(b' ');
        self.bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Says who answers.
    pub(super) fn name(&mut self, origin: Origin<'_>) {
        origin.write(&mut self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_maps_that_say_the_same() {
        let lines = Lines {
            method: Method::POST,
            request: b"POST /a?b=c HTTP/1.1\r\nX-A: 1\r\nx-b:  2 : 3 \r\nX-A: 4\r\n".to_vec(),
            host: HeaderValue::from_static("h"),
            length: Some(7),
            answer: AnswerLines::default(),
        };
        let mut outbound = Outbound::Lines(lines);
        let parts = outbound.map();
        assert_eq!((parts.method.as_str(), parts.uri.to_string().as_str()), ("POST", "/a?b=c"));
        let field = |name| parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((field("x-a"), field("x-b")), (vec!["1", "4"], vec!["2 : 3"]));
        assert_eq!((field("host"), field("content-length"), parts.headers.len()), (vec!["h"], vec!["7"], 5));
    }
}
