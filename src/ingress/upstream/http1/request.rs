//! A request's head as bytes, and how its body is framed. Pure.

use std::io::Write as _;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};

use crate::ingress::added::Ours;
use crate::ingress::outbound::Outbound;

/// How a body is told from what follows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ingress) enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Writes the head of a request, with what we say of it behind what its client
/// does. `body` is its exact length where that is known and `None` where there is
/// no body. A length the client announced counts.
pub(super) fn write_head(outbound: &Outbound, ours: Ours<'_>, body: Option<Option<u64>>, out: &mut Vec<u8>) -> Framing {
    let announced = match outbound {
        Outbound::Map(parts) => write_fields(parts, out),
        Outbound::Lines(lines) => {
            out.reserve(lines.request.len() + ROOM);
            out.extend_from_slice(&lines.request);
            write_field(b"host", &lines.host, out);
            lines.length
        }
    };
    ours.write(out);
    let framing = match body {
        None => Framing::Empty,
        Some(exact) => announced.or(exact).map_or(Framing::Chunked, Framing::Length),
    };
    match framing {
        // `content-length: 0` says of a POST that it has no body on purpose.
        Framing::Empty if announced == Some(0) => write_framing(Framing::Length(0), out),
        framing => write_framing(framing, out),
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// Bytes for what goes behind the client's lines.
const ROOM: usize = 768;

/// Writes a request line and fields; gives the length they announce. Where lengths
/// contradict each other it is none: chunks have one meaning.
fn write_fields(parts: &Parts, out: &mut Vec<u8>) -> Option<u64> {
    let mut announced = Ok(None);
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    out.extend_from_slice(if path.is_empty() { b"/" } else { path.as_bytes() });
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        // Framing is ours to say, once.
        if *name == header::CONTENT_LENGTH {
            announced = announced.and_then(|before| agreed(before, value.as_bytes()).map(Some));
        } else if *name != header::TRANSFER_ENCODING {
            write_field(name.as_str().as_bytes(), value, out);
        }
    }
    announced.unwrap_or_default()
}

/// Writes the field that says how the body is framed.
pub(in crate::ingress) fn write_framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // Writing to memory does not fail.
        Framing::Length(bytes) => drop(write!(out, "content-length: {bytes}\r\n")),
        Framing::Empty => {}
    }
}

/// Writes the end of a chunked body.
pub(super) fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        // RFC 9110 §6.5.1: framing does not belong into trailers.
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING && *name != header::HOST {
            write_field(name.as_str().as_bytes(), value, out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes what precedes a chunk.
pub(super) fn write_chunk_size(bytes: usize, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write!(out, "{bytes:x}\r\n");
}

pub(in crate::ingress) fn write_field(name: &[u8], value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The length in `value`, possibly said several times, if it agrees with `before`
/// (RFC 9110 §8.6).
pub(in crate::ingress) fn agreed(before: Option<u64>, value: &[u8]) -> Result<u64, ()> {
    let mut length = before;
    for part in value.split(|byte| *byte == b',') {
        let part = part.trim_ascii();
        if part.is_empty() {
            return Err(());
        }
        let digit = |total: u64, byte: &u8| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            total.checked_mul(10)?.checked_add(digit)
        };
        let said = part.iter().try_fold(0, digit).ok_or(())?;
        if *length.get_or_insert(said) != said {
            return Err(());
        }
    }
    length.ok_or(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::ingress::added::{Added, Origin};
    use crate::routing::pool::DeploymentText;

    /// The head without what we say, and how the body is framed.
    fn written(request: http::request::Builder, body: Option<Option<u64>>) -> (String, Framing) {
        let (mut out, mut said) = (Vec::new(), Vec::new());
        let value = HeaderValue::from_static;
        let added = Added {
            forwarded_for: value("192.0.2.1"),
            forwarded_proto: None,
            forwarded_host: None,
            via: "1.1 repoint",
            request_id: value("r"),
            traceparent: value("t"),
        };
        let origin = Origin { deployment: DeploymentText::of(uuid::Uuid::from_u128(1)), environment: b"staging" };
        let ours = Ours::new(&added, origin);
        ours.write(&mut said);
        let outbound = Outbound::Map(request.body(()).unwrap().into_parts().0);
        let framing = write_head(&outbound, ours, body, &mut out);
        let text = String::from_utf8(out).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(text.contains(&said), "{text}");
        (text.replacen(&said, "", 1), framing)
    }

    #[test]
    fn a_head_is_a_line_the_fields_and_an_empty_line() {
        let request = Request::get("/a?b=c").header("Host", "h").header("X-A", "1").header("x-a", "2");
        let expected = "GET /a?b=c HTTP/1.1\r\nhost: h\r\nx-a: 1\r\nx-a: 2\r\n\r\n";
        assert_eq!(written(request, None), (expected.to_owned(), Framing::Empty));
        assert!(written(Request::options("*"), None).0.starts_with("OPTIONS * HTTP/1.1\r\n"));
    }

    #[test]
    fn a_body_is_framed_once() {
        let post = |lengths: &[&str]| {
            let with = |request: http::request::Builder, length: &&str| request.header("content-length", *length);
            lengths.iter().fold(Request::post("/"), with)
        };
        let cases = [
            (post(&["5"]), Some(None), Framing::Length(5), "content-length: 5\r\n"),
            (post(&["5", "5"]), Some(None), Framing::Length(5), "content-length: 5\r\n"),
            (post(&["5, 5"]), Some(Some(5)), Framing::Length(5), "content-length: 5\r\n"),
            (post(&[]), Some(Some(7)), Framing::Length(7), "content-length: 7\r\n"),
            (post(&["5", "6"]), Some(None), Framing::Chunked, "transfer-encoding: chunked\r\n"),
            (post(&["x"]), Some(None), Framing::Chunked, "transfer-encoding: chunked\r\n"),
            (post(&[]), Some(None), Framing::Chunked, "transfer-encoding: chunked\r\n"),
            (post(&["0"]), None, Framing::Empty, "content-length: 0\r\n"),
            (post(&["5"]), None, Framing::Empty, ""),
            (post(&[]), None, Framing::Empty, ""),
        ];
        for (request, body, framing, line) in cases {
            assert_eq!(written(request, body), (format!("POST / HTTP/1.1\r\n{line}\r\n"), framing));
        }
    }

    #[test]
    fn lengths_agree_or_count_for_nothing() {
        for (value, length) in [("0", 0), ("18446744073709551615", u64::MAX), ("5,5", 5), (" 5 , 5 ", 5)] {
            assert_eq!(agreed(None, value.as_bytes()), Ok(length), "{value}");
        }
        for bad in ["", " ", "+5", "-5", "0x5", "5 5", "5,6", "5,", ",5", "18446744073709551616", "5.0"] {
            assert_eq!(agreed(None, bad.as_bytes()), Err(()), "{bad}");
        }
        assert_eq!(agreed(Some(4), b"5"), Err(()));
    }
}
