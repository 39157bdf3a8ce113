//! Ports and users that replicas are given, one each.
//!
//! Pure but for one look at whether a port is free. What was given back rests
//! for a while, so that a stale routing table never reaches a stranger, and what
//! a replica left running under its user never meets the next one.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Numbers of a range, each with one holder at a time.
#[derive(Debug)]
pub(super) struct Numbers {
    range: RangeInclusive<u32>,
    pause: Duration,
    next: u32,
    /// Held (`None`), or given back at that time.
    taken: HashMap<u32, Option<Instant>>,
}

impl Numbers {
    pub fn new(range: RangeInclusive<u32>, pause: Duration) -> Self {
        Self { next: *range.start(), range, pause, taken: HashMap::new() }
    }

    /// The next number that nobody holds or held a moment ago and that `is_free`; `None` if there is none.
    pub fn take(&mut self, now: Instant, is_free: impl Fn(u32) -> bool) -> Option<u32> {
        let rests = |back: &Instant| now.saturating_duration_since(*back) < self.pause;
        self.taken.retain(|_, back| back.as_ref().is_none_or(rests));
        for _ in self.range.clone() {
            let number = self.next;
            self.next = if number == *self.range.end() { *self.range.start() } else { number + 1 };
            if !self.taken.contains_key(&number) && is_free(number) {
                self.taken.insert(number, None);
                return Some(number);
            }
        }
        None
    }

    /// Its holder is gone. One that was held in an earlier run may be given back too.
    pub fn give_back(&mut self, number: u32, now: Instant) {
        if self.range.contains(&number) {
            self.taken.insert(number, Some(now));
        }
    }
}

/// Whether nobody listens on `port`, on any address of this machine.
pub(super) fn is_port_free(port: u16) -> bool {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => false,
        // A machine without IPv6.
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_held_once_and_rests_after_it_was_given_back() {
        let start = Instant::now();
        let mut ports = Numbers::new(20_000..=20_002, Duration::from_secs(60));
        let mut take = |after, back: Option<u32>| {
            let now = start + Duration::from_secs(after);
            if let Some(number) = back {
                ports.give_back(number, now);
            }
            ports.take(now, |_| true)
        };
        assert_eq!([take(0, None), take(0, None), take(0, None)], [Some(20_000), Some(20_001), Some(20_002)]);
        assert_eq!(take(0, None), None);
        assert_eq!(take(10, Some(20_001)), None, "it rests");
        assert_eq!(take(69, None), None);
        assert_eq!(take(70, None), Some(20_001));
    }

    #[test]
    fn numbers_in_use_elsewhere_are_passed_over() {
        let mut ports = Numbers::new(20_000..=20_002, Duration::ZERO);
        assert_eq!(ports.take(Instant::now(), |port| port != 20_000), Some(20_001));
        assert_eq!(ports.take(Instant::now(), |port| port != 20_000), Some(20_002));
        assert_eq!(ports.take(Instant::now(), |port| port != 20_000), None);
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_free() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert!(!is_port_free(port), "{address}");
            drop(listener);
            assert!(is_port_free(port), "{address}");
        }
    }
}
