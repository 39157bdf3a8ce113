//! Ports and users that replicas are given, one each.
//!
//! What was given back rests for a while, so that a stale routing table never
//! reaches a stranger, and what a replica left running under its user never
//! meets the next one. Several supervisors on one machine share the ranges: each
//! claims what it gives, because a port is free until its replica has bound it,
//! and a probe cannot tell whose worker answers.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Numbers of a range, each with one holder at a time.
#[derive(Debug)]
pub(super) struct Numbers {
    range: RangeInclusive<u32>,
    pause: Duration,
    next: u32,
    taken: HashMap<u32, Taken>,
}

/// A number that is held, or was until a moment ago.
#[derive(Debug)]
struct Taken {
    /// When it was given back.
    back: Option<Instant>,
    /// Dropped when it is free again. Absent where another supervisor has it.
    _claim: Option<Claim>,
}

impl Numbers {
    pub fn new(range: RangeInclusive<u32>, pause: Duration) -> Self {
        Self { next: *range.start(), range, pause, taken: HashMap::new() }
    }

    /// The next number that nobody holds or held a moment ago and that can be claimed; `None` if there is none.
    pub fn take(&mut self, now: Instant, claim: impl Fn(u32) -> Option<Claim>) -> Option<u32> {
        let rests = |back: &Instant| now.saturating_duration_since(*back) < self.pause;
        self.taken.retain(|_, taken| taken.back.as_ref().is_none_or(rests));
        for _ in self.range.clone() {
            let number = self.next;
            self.next = if number == *self.range.end() { *self.range.start() } else { number + 1 };
            if self.taken.contains_key(&number) {
                continue;
            }
            if let Some(claim) = claim(number) {
                self.taken.insert(number, Taken { back: None, _claim: Some(claim) });
                return Some(number);
            }
        }
        None
    }

    /// Its holder is gone. It rests with its claim, so that it rests for everybody.
    pub fn give_back(&mut self, number: u32, now: Instant) {
        if let Some(taken) = self.taken.get_mut(&number) {
            taken.back = Some(now);
        }
    }

    /// A number that was held in an earlier run rests too.
    pub fn rest(&mut self, number: u32, now: Instant, claim: impl Fn(u32) -> Option<Claim>) {
        if self.range.contains(&number) {
            self.taken.insert(number, Taken { back: Some(now), _claim: claim(number) });
        }
    }
}

/// Keeps a number from every other supervisor on this machine, until it is dropped or the process ends.
///
/// A socket with an abstract name (unix(7)): taken at once or not at all, gone with its owner however that ends, and
/// known in exactly the network namespace whose ports are meant.
#[derive(Debug)]
pub(super) struct Claim {
    _socket: Option<UnixDatagram>,
}

impl Claim {
    /// Claims a port that nobody listens on.
    pub fn port(number: u32) -> Option<Self> {
        // Claimed first: only then nobody else gives it away between the look and the start.
        let claim = Self::named("port", number)?;
        u16::try_from(number).is_ok_and(is_port_free).then_some(claim)
    }

    /// Claims a user.
    pub fn user(number: u32) -> Option<Self> {
        Self::named("user", number)
    }

    fn named(kind: &str, number: u32) -> Option<Self> {
        let address = SocketAddr::from_abstract_name(format!("repoint-{kind}-{number}"));
        match address.and_then(|address| UnixDatagram::bind_addr(&address)) {
            Ok(socket) => Some(Self { _socket: Some(socket) }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            // A machine without such sockets: then only supervisors that are careful share it.
            Err(_) => Some(Self { _socket: None }),
        }
    }
}

/// Whether nobody listens on `port`, on any address of this machine.
fn is_port_free(port: u16) -> bool {
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

    fn any(_: u32) -> Option<Claim> {
        Some(Claim { _socket: None })
    }

    #[test]
    fn a_number_is_held_once_and_rests_after_it_was_given_back() {
        let start = Instant::now();
        let mut ports = Numbers::new(20_000..=20_002, Duration::from_secs(60));
        let mut take = |after, back: Option<u32>| {
            let now = start + Duration::from_secs(after);
            if let Some(number) = back {
                ports.give_back(number, now);
            }
            ports.take(now, any)
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
        let but_one = |port| any(port).filter(|_| port != 20_000);
        assert_eq!(ports.take(Instant::now(), but_one), Some(20_001));
        assert_eq!(ports.take(Instant::now(), but_one), Some(20_002));
        assert_eq!(ports.take(Instant::now(), but_one), None);
    }

    #[test]
    fn numbers_of_an_earlier_run_rest() {
        let now = Instant::now();
        let mut ports = Numbers::new(20_000..=20_001, Duration::from_secs(60));
        ports.rest(20_000, now, any);
        ports.rest(9_999, now, any);
        assert_eq!([ports.take(now, any), ports.take(now, any)], [Some(20_001), None]);
    }

    #[test]
    fn two_supervisors_never_give_the_same_number() {
        let (now, range) = (Instant::now(), 4_000_000_000..=4_000_000_001);
        let mut one = Numbers::new(range.clone(), Duration::from_secs(60));
        let mut two = Numbers::new(range, Duration::from_secs(60));
        assert_eq!(one.take(now, Claim::user), Some(4_000_000_000));
        assert_eq!(two.take(now, Claim::user), Some(4_000_000_001));
        assert_eq!((one.take(now, Claim::user), two.take(now, Claim::user)), (None, None));
        one.give_back(4_000_000_000, now);
        assert_eq!(two.take(now, Claim::user), None, "it rests for everybody");
        drop(one);
        assert_eq!(two.take(now, Claim::user), Some(4_000_000_000));
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
