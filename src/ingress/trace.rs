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
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    // All-zero ids are invalid (§3.2.2.3).
    hex(&fastrand::u128(1..).to_be_bytes(), &mut text[3..35]);
    hex(&fastrand::u64(1..).to_be_bytes(), &mut text[36..52]);
    HeaderValue::from_bytes(&text).expect("hex digits and dashes are visible ASCII")
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
