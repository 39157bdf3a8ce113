//! The access log as text: a line that readers of the combined log format take,
//! and behind it what that has no place for, as `name=value`.
//!
//! Whatever came from a client is escaped, so that nobody writes a line, a field
//! or a terminal's command of their own into it.

use std::io::Write;

use crate::ingress::access_log::Line;

/// Writes a line, without its end.
pub(super) fn write(into: &mut Vec<u8>, line: &Line<'_>) {
    let time = line.time.strftime("%d/%b/%Y:%H:%M:%S +0000");
    // Writing into memory does not fail, here and below.
    let _ = write!(into, "{} - - [{time}] \"", line.client);
    escape(into, line.method);
    into.push(b' ');
    escape(into, line.path);
    let _ = write!(into, " {}\" ", line.protocol);
    or_dash(into, line.status);
    // Neither referrer nor browser is kept.
    let _ = write!(into, " {} \"-\" \"-\"", line.bytes_out);
    field(into, "host", line.host);
    field(into, "project", line.project.unwrap_or_default());
    field(into, "environment", line.environment.unwrap_or_default());
    field(into, "deployment", line.deployment.unwrap_or_default());
    into.extend_from_slice(b" revision=");
    or_dash(into, line.revision);
    into.extend_from_slice(b" upstream=");
    or_dash(into, line.upstream);
    field(into, "error", line.error.unwrap_or_default());
    let _ = write!(into, " bytes_in={} answer_ms=", line.bytes_in);
    or_dash(into, line.answer_ms.map(Thousandths));
    let _ = write!(into, " duration_ms={} retries={}", Thousandths(line.duration_ms), line.retries);
    let _ = write!(into, " tunnel={}", u8::from(line.tunnel));
    field(into, "request_id", line.request_id);
    field(into, "trace_id", line.trace_id);
    if let Some(weight) = line.weight {
        let _ = write!(into, " weight={weight}");
    }
}

/// Milliseconds, to the microsecond.
struct Thousandths(f64);

impl std::fmt::Display for Thousandths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

fn field(into: &mut Vec<u8>, name: &str, value: &str) {
    let _ = write!(into, " {name}=");
    if value.is_empty() { into.push(b'-') } else { escape(into, value) }
}

fn or_dash(into: &mut Vec<u8>, value: Option<impl std::fmt::Display>) {
    match value {
        Some(value) => drop(write!(into, "{value}")),
        None => into.push(b'-'),
    }
}

/// Quotes, backslashes, spaces, and what is not visible ASCII as `\xHH`.
fn escape(into: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => drop(write!(into, "\\x{byte:02x}")),
            byte if byte.is_ascii_graphic() => into.push(byte),
            byte => drop(write!(into, "\\x{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::access_log::tests::line;

    fn text(line: &Line<'_>) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes, line);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_the_combined_format_and_fields_behind_it() {
        let line = Line {
            path: "/a",
            project: Some("support"),
            deployment: Some("d"),
            upstream: Some("127.0.0.1:9".parse().unwrap()),
            request_id: "r-1",
            ..line()
        };
        assert_eq!(
            text(&line),
            "127.0.0.1 - - [01/Jan/1970:00:00:00 +0000] \"GET /a HTTP/1.1\" 200 5 \"-\" \"-\" host=a.localhost \
             project=support environment=staging deployment=d revision=7 upstream=127.0.0.1:9 error=- bytes_in=0 \
             answer_ms=0.500 duration_ms=1.000 retries=0 tunnel=0 request_id=r-1 trace_id=-"
        );
    }

    #[test]
    fn nobody_writes_a_field_or_a_line_of_their_own() {
        let line = Line { path: "/\" 200 5\r\n\u{1b}[2Jä\\", host: "a b=c", request_id: "x y", ..line() };
        let text = text(&line);
        assert!(text.contains("\"GET /\\x22\\x20200\\x205\\x0d\\x0a\\x1b[2J\\xc3\\xa4\\x5c HTTP/1.1\""), "{text}");
        assert!(text.contains(" host=a\\x20b=c ") && text.contains(" request_id=x\\x20y "), "{text}");
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
    }
}
