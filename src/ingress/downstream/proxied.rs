//! The PROXY protocol, versions 1 and 2: who is behind a balancer that passes
//! bytes on.
//!
//! From the networks of `proxy_protocol_from` each connection begins with such a
//! header (HAProxy, "The PROXY protocol", §2), before TLS and before HTTP; from
//! any other network none is read, and what looks like one is no HTTP. It is read
//! exactly: not a byte behind it is taken. Extensions (TLVs) are passed over.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::ingress::core::Core;
use crate::ingress::downstream::{Connection, Peer};
use crate::ingress::metrics::ProxyHeaderFailure as Failure;

/// What version 1 begins with.
const TEXT: &[u8] = b"PROXY ";

/// What version 2 begins with.
const BINARY: &[u8] = ppp::v2::PROTOCOL_PREFIX;

/// The longest version 1 there is (§2.1: 107 bytes with its CRLF).
const TEXT_MAX: usize = 107;

/// The fixed part of version 2, up to and with its length.
const BINARY_FIXED: usize = 16;

/// The longest version 2 that is taken. 4 KiB: addresses need 216 bytes at most,
/// and what balancers add (names, ids, a client certificate's names) a few hundred.
const BINARY_MAX: usize = 4 * 1024;

/// Version 2's command LOCAL: the balancer speaks for itself (§2.2).
const LOCAL: u8 = 0x20;

/// Reads the header where one has to come. `false`: the connection is over, and
/// counted.
pub(super) async fn identify(core: &Core, connection: &Connection, stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let from = connection.peer().address();
    if !core.config().proxy_protocol_from.iter().any(|network| network.contains(from)) {
        return true;
    }
    let mut reading = pin!(read(stream));
    let ended = poll_fn(|cx| {
        if let Poll::Ready(result) = reading.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        if !connection.is_told_to_end(cx) {
            return Poll::Pending;
        }
        Poll::Ready(Err(if connection.is_draining() { Failure::Draining } else { Failure::Timeout }))
    });
    match ended.await {
        Ok(source) => {
            if let Some(source) = source {
                // Set once: this is called once, before the first request.
                let _ = connection.proxied.set(Peer::new(source, core));
            }
            true
        }
        Err(failure) => {
            tracing::debug!(reason = failure.as_str(), peer = %from, "no PROXY header");
            core.counters.proxy_header_failures[failure as usize].one();
            false
        }
    }
}

/// Reads a header, and nothing behind it. `None`: it names nobody, and the
/// socket's address stands.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, Failure> {
    // Most headers fit; what a longer one announces is bounded by `missing`.
    let mut bytes = Vec::with_capacity(128);
    loop {
        let missing = missing(&bytes)?;
        if missing == 0 {
            return source(&bytes);
        }
        let read: io::Result<usize> = (&mut *stream).take(missing as u64).read_buf(&mut bytes).await;
        if !read.is_ok_and(|read| read > 0) {
            return Err(Failure::Closed);
        }
    }
}

/// How many bytes a header that begins with `bytes` lacks at least; 0: it is whole.
fn missing(bytes: &[u8]) -> Result<usize, Failure> {
    let agrees = |prefix: &[u8]| bytes.iter().zip(prefix).all(|(have, want)| have == want);
    let is_binary = agrees(BINARY);
    if !is_binary && !agrees(TEXT) {
        return Err(Failure::Missing);
    }
    // Either version is longer than this.
    if bytes.len() < BINARY.len() {
        return Ok(BINARY.len() - bytes.len());
    }
    if is_binary {
        let Some(fixed) = bytes.get(..BINARY_FIXED) else { return Ok(BINARY_FIXED - bytes.len()) };
        let whole = BINARY_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        return if whole > BINARY_MAX { Err(Failure::TooLong) } else { Ok(whole - bytes.len()) };
    }
    if bytes.ends_with(b"\r\n") {
        return Ok(0);
    }
    if bytes.len() < TEXT_MAX { Ok(1) } else { Err(Failure::TooLong) }
}

/// Whom a whole header names.
fn source(bytes: &[u8]) -> Result<Option<IpAddr>, Failure> {
    if !bytes.starts_with(BINARY) {
        let header = ppp::v1::Header::try_from(bytes).map_err(|_| Failure::Malformed)?;
        // It ends where its line does, and so did we.
        return if header.header.len() == bytes.len() { Ok(text_source(&header)) } else { Err(Failure::Malformed) };
    }
    // §2.2: whatever else such a header says is not looked at.
    if bytes[BINARY.len()] == LOCAL {
        return Ok(None);
    }
    let header = ppp::v2::Header::try_from(bytes).map_err(|_| Failure::Malformed)?;
    let is_stream = header.protocol == ppp::v2::Protocol::Stream;
    Ok(match header.addresses {
        ppp::v2::Addresses::IPv4(ip) if is_stream => Some(ip.source_address.into()),
        ppp::v2::Addresses::IPv6(ip) if is_stream => Some(ip.source_address.into()),
        // Datagrams, paths of sockets, nothing: no address that HTTP came from.
        _ => None,
    })
}

fn text_source(header: &ppp::v1::Header<'_>) -> Option<IpAddr> {
    match header.addresses {
        ppp::v1::Addresses::Tcp4(ip) => Some(ip.source_address.into()),
        ppp::v1::Addresses::Tcp6(ip) => Some(ip.source_address.into()),
        ppp::v1::Addresses::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::ingress::fuzz::fuzz;

    const V1: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 443\r\n";

    /// Version 2 of `command` and `family`, with `rest` behind its fixed part.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [BINARY, &[0x20 | command, family], &length, rest].concat()
    }

    fn ipv4() -> Vec<u8> {
        v2(1, 0x11, &[203, 0, 113, 9, 192, 0, 2, 1, 0xc7, 0x38, 1, 0xbb])
    }

    /// What comes of `bytes` that arrive in pieces of these sizes, and what is
    /// left of them.
    fn outcome(bytes: &[u8], sizes: &[usize]) -> (Result<Option<IpAddr>, Failure>, usize) {
        let mut script = in_pieces(bytes, sizes);
        let read = read(&mut script).now_or_never().expect("nothing is waited for");
        (read, script.0.iter().map(Vec::len).sum())
    }

    /// Pieces that are read one at a time.
    struct Pieces(std::collections::VecDeque<Vec<u8>>);

    fn in_pieces(mut bytes: &[u8], sizes: &[usize]) -> Pieces {
        let mut pieces = Pieces(std::collections::VecDeque::new());
        for size in sizes {
            let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
            pieces.0.push_back(piece.to_vec());
            bytes = rest;
        }
        pieces.0.push_back(bytes.to_vec());
        pieces.0.retain(|piece| !piece.is_empty());
        pieces
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Some(mut piece) = self.0.pop_front() else { return Poll::Ready(Ok(())) };
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
            Poll::Ready(Ok(()))
        }
    }

    fn read_whole(bytes: &[u8]) -> Result<Option<IpAddr>, Failure> {
        outcome(bytes, &[]).0
    }

    #[test]
    fn both_versions_name_the_client() {
        let client = Ok(Some("203.0.113.9".parse().unwrap()));
        assert_eq!(read_whole(V1), client);
        assert_eq!(read_whole(&ipv4()), client);
        let mut extended = ipv4();
        extended.extend([4, 0, 1, 42]);
        extended[15] += 4;
        assert_eq!(read_whole(&extended), client);
        let ipv6 = [[0x20, 1, 13, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]; 2].concat();
        let ipv6 = v2(1, 0x21, &[&ipv6[..], &[0, 1, 0, 2]].concat());
        assert_eq!(read_whole(&ipv6), Ok(Some("2001:db8::9".parse().unwrap())));
        assert_eq!(read_whole(b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n"), Ok(Some("2001:db8::9".parse().unwrap())));
    }

    #[test]
    fn a_header_that_names_nobody_leaves_the_sockets_address() {
        assert_eq!(read_whole(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(read_whole(b"PROXY UNKNOWN ::1 ::2 1 2\r\n"), Ok(None));
        assert_eq!(read_whole(&v2(0, 0, b"")), Ok(None));
        assert_eq!(read_whole(&v2(0, 0x11, b"less")), Ok(None), "what LOCAL says besides is not looked at");
        assert_eq!(read_whole(&v2(1, 0, b"")), Ok(None));
        assert_eq!(read_whole(&v2(1, 0x12, &ipv4()[16..])), Ok(None), "a datagram's");
        assert_eq!(read_whole(&v2(1, 0x31, &[7; 216])), Ok(None), "a path");
    }

    #[test]
    fn what_is_no_header_is_told_apart() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200], b"\r\n"].concat();
        for (bytes, why) in [
            (b"GET / HTTP/1.1\r\n".as_slice(), Failure::Missing),
            (b"\x16\x03\x01", Failure::Missing),
            (b"PROXYTCP4", Failure::Missing),
            (b"PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n", Failure::Malformed),
            (b"PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n", Failure::Malformed),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", Failure::Malformed),
            (b"PROXY TCP4 ::1 ::1 1 1\r\n", Failure::Malformed),
            (b"PROXY UNKNOWN\rx\r\n", Failure::Malformed),
            (&long, Failure::TooLong),
            (&v2(1, 0x11, &[0; 11]), Failure::Malformed),
            (&v2(7, 0x11, &[0; 12]), Failure::Malformed),
            (&v2(1, 0x11, &[0; 5000]), Failure::TooLong),
            (&V1[..20], Failure::Closed),
            (&ipv4()[..20], Failure::Closed),
            (b"", Failure::Closed),
        ] {
            assert_eq!(read_whole(bytes), Err(why), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let any_v2 = (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300));
        prop_oneof![
            Just(V1.to_vec()),
            Just(ipv4()),
            any_v2.prop_map(|(command, family, rest)| v2(command & 1, family, &rest)),
            "PROXY (TCP4|TCP6|UNKNOWN|TCP) [0-9a-f:. ]{0,90}\r\n".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..200),
        ]
    }

    proptest! {
        #[test]
        fn a_damaged_header_never_panics_and_any_split_of_it_reads_the_same(
            mut bytes in headers(),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            sizes in prop::collection::vec(1usize..20, 0..40),
        ) {
            if let Some((at, byte)) = damage.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(b"GET / HTTP/1.1");
            let (whole, split) = (outcome(&bytes, &[]), outcome(&bytes, &sizes));
            prop_assert_eq!(&whole.0, &split.0);
            if whole.0.is_ok() {
                prop_assert_eq!(whole.1, split.1, "it takes the same bytes");
            }
        }
    }

    #[test]
    fn fuzz_proxy_headers() {
        fuzz("proxy_headers", |input| {
            let whole = outcome(input, &[]);
            let split = outcome(input, &input.iter().map(|byte| usize::from(byte % 16) + 1).collect::<Vec<_>>());
            assert_eq!(whole.0, split.0, "any split reads the same");
            assert!(whole.0.is_err() || whole.1 == split.1, "and takes the same bytes");
            format!("{:?} {}", whole.0.map(|source| source.map(|source| source.is_ipv4())), whole.1 > 0)
        });
    }

    #[test]
    fn not_a_byte_behind_the_header_is_taken() {
        for header in [V1, &ipv4(), b"PROXY UNKNOWN\r\n"] {
            let (read, left) = outcome(&[header, b"\r\nbehind"].concat(), &[]);
            assert!(read.is_ok());
            assert_eq!(left, "\r\nbehind".len());
        }
    }
}
