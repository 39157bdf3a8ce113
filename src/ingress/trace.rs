//! Request ids and trace contexts: which ones are taken over, and new ones.

use http::HeaderValue;

/// Whether a client's `X-Request-ID` is taken over: 1–128 visible ASCII.
pub(super) fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// Whether a `traceparent` can be continued (W3C Trace Context §3.2): a version
/// other than ff, non-zero ids, lower-case hex. Later versions may append.
pub(super) fn is_traceparent(value: &[u8]) -> bool {
    let Some((known, rest)) = value.split_at_checked(55) else { return false };
    let dashes = [2, 35, 52];
    let is_shaped = known.iter().enumerate().all(|(at, b)| match dashes.contains(&at) {
        true => *b == b'-',
        false => b.is_ascii_digit() || (b'a'..=b'f').contains(b),
    });
    let version = &known[..2];
    let is_zero = |range: std::ops::Range<usize>| known[range].iter().all(|b| *b == b'0');
    let ends_well = rest.is_empty() || version != b"00" && rest[0] == b'-';
    is_shaped && version != b"ff" && ends_well && !is_zero(3..35) && !is_zero(36..52)
}

/// A new request id: 32 hex digits.
pub(super) fn new_request_id() -> HeaderValue {
    let mut text = [0; 32];
    hex(&fastrand::u128(..).to_be_bytes(), &mut text);
    HeaderValue::from_bytes(&text).expect("hex digits are visible ASCII")
}

/// A new trace context. Sampled: a replica that leaves the choice to its parent,
/// as OpenTelemetry does by default, records as it would without us.
pub(super) fn new_traceparent() -> HeaderValue {
    traceparent(&new_trace_id(), &new_span_id(), SAMPLED)
}

/// The flag of traces that are recorded (W3C Trace Context §3.2.2.5.1).
pub(super) const SAMPLED: u8 = 1;
/// Flags that are passed on: the one above, and that ids are random (level 2).
const FLAGS: u8 = 3;

/// The span that a request comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) flags: u8,
}

impl Parent {
    /// Reads a `traceparent` that can be continued.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        if !is_traceparent(value) {
            return None;
        }
        let (mut trace, mut span, mut flags) = ([0; 16], [0; 8], [0; 1]);
        unhex(&value[3..35], &mut trace);
        unhex(&value[36..52], &mut span);
        unhex(&value[53..55], &mut flags);
        Some(Self { trace, span, flags: flags[0] & FLAGS })
    }

    /// Whether it is recorded.
    pub(super) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// The id of a new trace. All-zero ids are invalid (§3.2.2.3), here and below.
pub(super) fn new_trace_id() -> [u8; 16] {
    fastrand::u128(1..).to_be_bytes()
}

/// The id of a new span.
pub(super) fn new_span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// A trace context with these ids.
pub(super) fn traceparent(trace: &[u8; 16], span: &[u8; 8], flags: u8) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    hex(trace, &mut text[3..35]);
    hex(span, &mut text[36..52]);
    hex(&[flags], &mut text[53..55]);
    HeaderValue::from_bytes(&text).expect("hex digits and dashes are visible ASCII")
}

/// Only for what was found to be hex digits.
fn unhex(text: &[u8], into: &mut [u8]) {
    let digit = |byte: u8| if byte.is_ascii_digit() { byte - b'0' } else { byte.wrapping_sub(b'a') + 10 };
    for (pair, byte) in text.chunks_exact(2).zip(into) {
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
}

fn hex(bytes: &[u8], into: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(into.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_make_is_what_we_take() {
        for _ in 0..100 {
            assert!(is_traceparent(new_traceparent().as_bytes()));
            assert!(is_request_id(new_request_id().as_bytes()));
        }
        assert_ne!(new_request_id(), new_request_id());
    }

    #[test]
    fn what_was_written_is_read_back() {
        let text = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = Parent::read(text).unwrap();
        assert_eq!(parent.trace[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!((parent.span[7], parent.is_sampled()), (0x31, true));
        assert_eq!(traceparent(&parent.trace, &parent.span, parent.flags).as_bytes(), text);
        let later = Parent::read(b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe-more").unwrap();
        assert_eq!((later.flags, later.is_sampled()), (2, false), "flags that nobody knows are not passed on");
        assert_eq!(Parent::read(b"00-x"), None);
    }

    #[test]
    fn request_ids_are_short_and_visible() {
        assert!(is_request_id(b"a") && is_request_id(&[b'~'; 128]));
        for bad in [&b""[..], b"a b", b"a\tb", "ä".as_bytes(), &[b'a'; 129]] {
            assert!(!is_request_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn traces_are_continued_when_valid() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(valid.as_bytes()));
        assert!(is_traceparent(format!("01{}-more", &valid[2..]).as_bytes()));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }
}
