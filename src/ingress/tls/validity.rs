//! From when until when a certificate is good.
//!
//! webpki checks the validity of what it verifies and keeps it to itself; a
//! server verifies nothing of its own. So these two fields are read here, from
//! bytes that webpki has found to be a certificate.

use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;

/// From when until when a certificate is good (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Never earlier than this: long enough to act on, short enough to be believed.
const WARNED_BEFORE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

impl Validity {
    /// Reads it from a certificate (RFC 5280 §4.1): the fifth field of the part
    /// that is signed, or the fourth where there is no version.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (signed, _) = inside(certificate, SEQUENCE)?;
        let (mut fields, _) = inside(signed, SEQUENCE)?;
        if let Some((_, rest)) = inside(fields, VERSION) {
            fields = rest;
        }
        for skipped in [INTEGER, SEQUENCE, SEQUENCE] {
            fields = inside(fields, skipped)?.1;
        }
        let (times, _) = inside(fields, SEQUENCE)?;
        let (not_before, times) = time(times)?;
        let (not_after, _) = time(times)?;
        Some(Self { not_before, not_after })
    }

    /// Whether somebody should be told that it ends: with a sixth of its life
    /// left, which is after every ACME client has renewed it (two thirds are the
    /// custom), and 14 days at most.
    pub(super) fn ends_soon(&self, now: Timestamp) -> bool {
        let life = Duration::try_from(self.not_before.until(self.not_after).unwrap_or_default()).unwrap_or_default();
        let early = (life / 6).min(WARNED_BEFORE_MAX);
        now.checked_add(early).is_ok_and(|then| then >= self.not_after)
    }
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;

/// What is inside a value of this tag, and what follows it (X.690 §8.1).
fn inside(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(length) {
        short @ 0..0x80 => (short, rest),
        long => {
            // Certificates are shorter than 16 MiB: three bytes of length are enough.
            let (bytes, rest) = rest.split_at_checked(long - 0x80).filter(|(bytes, _)| bytes.len() <= 3)?;
            (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
    };
    rest.split_at_checked(length)
}

/// A time and what follows it. Both forms end in `Z` and have seconds (RFC 5280
/// §4.1.2.5.1, §4.1.2.5.2).
fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (text, year_digits, rest) = match inside(der, UTC_TIME) {
        Some((text, rest)) => (text, 2, rest),
        None => inside(der, GENERALIZED_TIME).map(|(text, rest)| (text, 4, rest))?,
    };
    let (year, text) = text.split_at_checked(year_digits)?;
    let year: i16 = number(year)?;
    let year = match year_digits {
        // Two digits stand for 1950 to 2049.
        2 if year < 50 => 2000 + year,
        2 => 1900 + year,
        _ => year,
    };
    if text.len() != 11 || text[10] != b'Z' {
        return None;
    }
    let two = |at: Range<usize>| number::<i8>(&text[at]);
    let (month, day, hour, minute, second) = (two(0..2)?, two(2..4)?, two(4..6)?, two(6..8)?, two(8..10)?);
    let time = Time::new(hour, minute, second, 0).ok()?;
    let day = Date::new(year, month, day).ok()?;
    Some((Offset::UTC.to_timestamp(DateTime::from_parts(day, time)).ok()?, rest))
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all_digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(from: (i32, u8, u8), to: (i32, u8, u8)) -> Option<Validity> {
        let mut params = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        let key = rcgen::KeyPair::generate().unwrap();
        Validity::of(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn both_times_are_read_in_either_form() {
        let times = |validity: Option<Validity>| {
            let validity = validity.unwrap();
            (validity.not_before.to_string(), validity.not_after.to_string())
        };
        let expected = |from: &str, to: &str| (format!("{from}T00:00:00Z"), format!("{to}T00:00:00Z"));
        assert_eq!(times(made((2026, 11, 24), (2027, 2, 28))), expected("2026-11-24", "2027-02-28"));
        assert_eq!(times(made((1975, 1, 1), (4096, 12, 31))), expected("1975-01-01", "4096-12-31"));
        assert_eq!(times(made((2049, 12, 31), (2050, 1, 1))), expected("2049-12-31", "2050-01-01"));
    }

    #[test]
    fn what_is_no_certificate_has_no_validity() {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let whole = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        for end in 0..whole.der().len() {
            assert_eq!(Validity::of(&whole.der()[..end]), None, "cut at {end}");
        }
        for first in 0..=255 {
            assert_eq!(Validity::of(&[first; 40]), None);
        }
    }

    #[test]
    fn the_end_is_told_of_with_a_sixth_left_and_at_most_14_days() {
        let ninety_days = made((2026, 1, 1), (2026, 4, 1)).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(!ninety_days.ends_soon(at("2026-03-17T23:59:59Z")));
        assert!(ninety_days.ends_soon(at("2026-03-18T00:00:00Z")));
        assert!(ninety_days.ends_soon(at("2027-01-01T00:00:00Z")), "also when it has ended");
        let six_days = made((2026, 1, 1), (2026, 1, 7)).unwrap();
        assert!(!six_days.ends_soon(at("2026-01-05T23:59:59Z")));
        assert!(six_days.ends_soon(at("2026-01-06T00:00:00Z")));
    }
}
