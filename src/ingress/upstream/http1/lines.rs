//! Lines of a head, copied as they came. Pure.

use httparse::Header;

/// RFC 9112 §2.2 lets a reader take LF alone for the end of a line. Where one does
/// and the next does not, a value becomes a field, so nobody gets to.
pub(in crate::ingress) fn has_bare_lf(head: &[u8]) -> bool {
    // Without a branch, so that it is done for many bytes at a time.
    let pairs = head.iter().zip(head.iter().skip(1));
    pairs.fold(false, |found, (before, byte)| found | ((*byte == b'\n') & (*before != b'\r')))
}

/// Copies the lines of the fields that stay, neighbours together. `head` is what
/// they were parsed from, without bare LF: each line ends where the next begins.
pub(in crate::ingress) fn copy_lines(
    head: &[u8],
    fields: &[Header<'_>],
    mut stays: impl FnMut(&Header<'_>) -> bool,
    out: &mut Vec<u8>,
) {
    let at = |field: &Header<'_>| field.name.as_ptr() as usize - head.as_ptr() as usize;
    // The empty line ends the head.
    let end = head.len() - 2;
    let mut begin = None;
    for field in fields {
        match (stays(field), begin) {
            (true, None) => begin = Some(at(field)),
            (false, Some(from)) => {
                out.extend_from_slice(&head[from..at(field)]);
                begin = None;
            }
            _ => {}
        }
    }
    if let Some(from) = begin {
        out.extend_from_slice(&head[from..end]);
    }
}

/// The fields that `Connection` names, beside those that everyone needs: naming
/// them is a mistake or an attack.
pub(in crate::ingress) fn named<'a>(fields: &[Header<'a>]) -> Vec<&'a [u8]> {
    let connections = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
    let tokens = connections.flat_map(|field| field.value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let stays = |token: &[u8]| {
        [&b"host"[..], b"content-length", b"content-type"].iter().any(|name| token.eq_ignore_ascii_case(name))
    };
    tokens.filter(|token| !token.is_empty() && !stays(token)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(head: &str, stays: &[&str]) -> String {
        let mut slots = [httparse::EMPTY_HEADER; 8];
        let mut parsed = httparse::Response::new(&mut slots);
        assert!(parsed.parse(head.as_bytes()).unwrap().is_complete());
        let mut out = Vec::new();
        copy_lines(head.as_bytes(), parsed.headers, |field| stays.contains(&field.name), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_copied_as_they_came() {
        let head = "HTTP/1.1 200 OK\r\nA:1\r\nB:  2 \r\nC: 3\r\nD:\r\n\r\n";
        assert_eq!(copied(head, &["A", "B", "C", "D"]), "A:1\r\nB:  2 \r\nC: 3\r\nD:\r\n");
        assert_eq!(copied(head, &["A", "D"]), "A:1\r\nD:\r\n");
        assert_eq!(copied(head, &["B", "C"]), "B:  2 \r\nC: 3\r\n");
        assert_eq!(copied(head, &[]), "");
        assert_eq!(copied("HTTP/1.1 200 OK\r\n\r\n", &[]), "");
    }

    #[test]
    fn what_connection_names_is_found() {
        let fields = [
            Header { name: "Connection", value: b"close, x-a" },
            Header { name: "X-A", value: b"1" },
            Header { name: "connection", value: b" Host,,X-B " },
        ];
        assert_eq!(named(&fields), [&b"close"[..], b"x-a", b"X-B"]);
    }
}
