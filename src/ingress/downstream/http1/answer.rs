//! The head of an answer to a request that we have read ourselves. Pure.

use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body::Body as _;

use crate::ingress::outbound::AnswerLines;
use crate::ingress::proxy::{Answer, Fields};
use crate::ingress::upstream::http1::request::{Framing, write_field, write_framing};

/// What is to be known beside the answer.
pub(super) struct Facts<'a> {
    /// It answers HEAD.
    pub(super) to_head: bool,
    /// No other follows it.
    pub(super) is_last: bool,
    /// The time, where it does not say it: RFC 9110 §6.6.1.
    pub(super) date: &'a [u8],
}

/// Writes it, and says how the body is framed.
pub(super) fn write_head(answer: &mut Answer, facts: &Facts<'_>) -> (Vec<u8>, Framing) {
    let AnswerLines { mut bytes, length, has_date, .. } = match &mut answer.fields {
        Fields::Lines(lines) => std::mem::take(lines),
        Fields::Map(map) => lines(answer.status, map),
    };
    if !has_date {
        for part in [b"date: ", facts.date, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    if facts.is_last {
        bytes.extend_from_slice(b"connection: close\r\n");
    }
    let framing = framing(answer, facts.to_head);
    match framing {
        // RFC 9110 §8.6: what the answer to GET would have. A 204 says nothing of it.
        Framing::Empty if answer.status != StatusCode::NO_CONTENT && !answer.status.is_informational() => {
            write_framing(length.map_or(Framing::Empty, Framing::Length), &mut bytes);
        }
        framing => write_framing(framing, &mut bytes),
    }
    bytes.extend_from_slice(b"\r\n");
    (bytes, framing)
}

fn framing(answer: &Answer, to_head: bool) -> Framing {
    let has_none = to_head
        || answer.status.is_informational()
        || answer.status == StatusCode::NO_CONTENT
        || answer.status == StatusCode::NOT_MODIFIED;
    match answer.body.size_hint().exact() {
        _ if has_none => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// Fields as lines; framing and the connection are told anew.
fn lines(status: StatusCode, fields: &HeaderMap) -> AnswerLines {
    let mut lines = AnswerLines::default();
    lines.begin(status, 512);
    for (name, value) in fields {
        if *name == header::CONTENT_LENGTH {
            lines.length = value.to_str().ok().and_then(|length| length.parse().ok());
        } else if !is_of_hop(name) {
            lines.has_date |= *name == header::DATE;
            write_field(name.as_str().as_bytes(), value, &mut lines.bytes);
        }
    }
    lines
}

fn is_of_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION || *name == header::TRANSFER_ENCODING
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;

    use super::*;
    use crate::ingress::body::Body;

    fn written(status: u16, fields: &[(&'static str, &'static str)], body: &'static str, facts: &Facts<'_>) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let body = Body::made(Bytes::from_static(body.as_bytes()));
        let mut answer = Answer { status, fields: Fields::Map(map), body, is_last: false };
        String::from_utf8(write_head(&mut answer, facts).0).unwrap()
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_when_it_was_made() {
        let facts = |to_head, is_last| Facts { to_head, is_last, date: b"now" };
        let fields = [("content-length", "5"), ("x-a", "1"), ("connection", "x-b")];
        let got = written(200, &fields, "hello", &facts(false, false));
        assert_eq!(got, "HTTP/1.1 200 OK\r\nx-a: 1\r\ndate: now\r\ncontent-length: 5\r\n\r\n");
        let got = written(200, &fields, "", &facts(true, true));
        let expected = "HTTP/1.1 200 OK\r\nx-a: 1\r\ndate: now\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
        assert_eq!(got, expected);
        assert_eq!(
            written(204, &[("date", "then")], "", &facts(false, false)),
            "HTTP/1.1 204 No Content\r\ndate: then\r\n\r\n"
        );
        let got = written(200, &[("date", "then")], "", &facts(false, false));
        assert_eq!(got, "HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 0\r\n\r\n");
    }
}
