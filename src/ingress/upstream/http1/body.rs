//! An answer's body, as it comes in: where it ends (RFC 9112 §6.3). Pure.

use bytes::Bytes;
use http::HeaderMap;

use crate::ingress::upstream::http1::Malformed;
use crate::ingress::upstream::http1::chunks::Chunks;

/// How a body is told from what follows it, and how far we are in it.
#[derive(Debug)]
pub(in crate::ingress) enum Body {
    /// So many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything, until the replica closes.
    UntilClose,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ingress) enum Step {
    /// Bytes of the body.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(HeaderMap),
    /// Nothing.
    End,
    /// What there is does not say.
    More,
}

impl Body {
    /// No body.
    pub(in crate::ingress) const EMPTY: Self = Self::Length(0);

    /// Takes the next step out of `bytes`; what is left in there behind the end
    /// does not belong to this answer.
    pub(in crate::ingress) fn step(&mut self, bytes: &mut Bytes) -> Result<Step, Malformed> {
        match self {
            Self::Length(0) => Ok(Step::End),
            Self::Chunked(chunks) => chunks.step(bytes),
            Self::Length(_) | Self::UntilClose if bytes.is_empty() => Ok(Step::More),
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(Step::Data(bytes.split_to(taken)))
            }
            Self::UntilClose => Ok(Step::Data(std::mem::take(bytes))),
        }
    }

    /// Whether the end has been seen.
    pub(in crate::ingress) fn is_end(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_done(),
            Self::UntilClose => false,
        }
    }

    /// Bytes still to come, where that is known.
    pub(in crate::ingress) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Data, trailers, what follows, and whether the end was seen.
    type Whole = (Vec<u8>, Option<HeaderMap>, Vec<u8>, bool);

    /// What a body comes to, fed in `pieces`.
    fn read(mut body: Body, pieces: &[&[u8]]) -> Result<Whole, Malformed> {
        let (mut data, mut trailers, mut rest) = (Vec::new(), None, Vec::new());
        for piece in pieces {
            let mut bytes = Bytes::copy_from_slice(piece);
            loop {
                match body.step(&mut bytes)? {
                    Step::Data(more) => data.extend_from_slice(&more),
                    Step::Trailers(fields) => trailers = Some(fields),
                    Step::End | Step::More => break,
                }
            }
            rest.extend_from_slice(&bytes);
        }
        Ok((data, trailers, rest, body.is_end()))
    }

    fn chunked() -> Body {
        Body::Chunked(Chunks::default())
    }

    /// The same bytes in pieces of the given sizes.
    fn cut<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        for size in sizes.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }

    fn encode(chunks: &[Vec<u8>], trailer: Option<&str>) -> Vec<u8> {
        let mut wire = Vec::new();
        for (at, chunk) in chunks.iter().enumerate() {
            let extension = if at % 3 == 1 { ";a=\"b\"" } else { "" };
            wire.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n");
        wire.extend_from_slice(trailer.map_or_else(String::new, |value| format!("X-Sum: {value}\r\n")).as_bytes());
        wire.extend_from_slice(b"\r\n");
        wire
    }

    proptest! {
        #[test]
        fn a_chunked_body_is_the_same_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..8),
            trailer in prop::option::of("[a-z]{1,9}"),
            sizes in prop::collection::vec(1usize..40, 1..8),
            behind in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut wire = encode(&chunks, trailer.as_deref());
            wire.extend_from_slice(&behind);
            let whole = read(chunked(), &[&wire]).unwrap();
            prop_assert_eq!(&whole.0, &chunks.concat());
            prop_assert_eq!(whole.1.as_ref().map(|fields| fields["x-sum"].to_str().unwrap()), trailer.as_deref());
            prop_assert_eq!((&whole.2, whole.3), (&behind, true));
            prop_assert_eq!(&read(chunked(), &cut(&wire, &sizes)).unwrap(), &whole);
            prop_assert_eq!(&read(chunked(), &cut(&wire, &[1])).unwrap(), &whole);
        }

        #[test]
        fn a_chunked_body_cut_short_never_ends(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..8),
            missing in 1usize..5,
        ) {
            let wire = encode(&chunks, None);
            prop_assert!(!read(chunked(), &[&wire[..wire.len() - missing]]).unwrap().3);
        }

        #[test]
        fn a_body_of_known_length_takes_no_byte_more(
            data in prop::collection::vec(any::<u8>(), 0..200),
            behind in prop::collection::vec(any::<u8>(), 0..9),
            sizes in prop::collection::vec(1usize..40, 1..8),
        ) {
            let wire = [data.clone(), behind.clone()].concat();
            let body = || Body::Length(data.len() as u64);
            prop_assert_eq!(read(body(), &cut(&wire, &sizes)).unwrap(), (data.clone(), None, behind, true));
        }

        #[test]
        fn noise_is_refused_or_read_and_never_a_panic(wire in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(chunked(), &[&wire]);
        }
    }

    #[test]
    fn fuzz_chunks() {
        crate::ingress::fuzz::fuzz("chunks", |input| {
            let whole = read(chunked(), &[input]);
            let sizes: Vec<usize> = input.iter().map(|byte| usize::from(byte % 9) + 1).collect();
            let slowly = read(chunked(), &cut(input, &sizes));
            match (whole, slowly) {
                (Ok(whole), Ok(slowly)) => {
                    assert_eq!(whole, slowly, "in pieces it is the same");
                    assert!(whole.0.len() + whole.2.len() <= input.len(), "nothing is made up");
                    format!("{} {} {}", whole.3, whole.1.is_some(), whole.0.len().min(3))
                }
                (Err(whole), Err(_)) => whole.to_string(),
                _ => panic!("in pieces it means something else"),
            }
        });
    }

    #[test]
    fn hostile_chunks_are_refused() {
        let long = format!("1;{}\r\n", "e".repeat(17 * 1024));
        let trailers = format!("0\r\nX: {}\r\n\r\n", "t".repeat(65 * 1024));
        let many = format!("0\r\n{}\r\n", "X: 1\r\n".repeat(200));
        let cases = [
            "zz\r\n",
            "\r\n",
            ";a\r\n",
            " 5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5 y\r\nhello\r\n",
            "0 y\r\n\r\n",
            "5\nhello\r\n",
            "5;a\nhello\r\n",
            "5\r\nhello!\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "10000000000000000\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n folded\r\n\r\n",
            "0\r\nX: 1\nY: 2\r\n\r\n",
            "0\r\nX: a\0b\r\n\r\n",
            &long,
            &trailers,
            &many,
        ];
        for wire in cases {
            let shown = &wire[..wire.len().min(40)];
            assert!(read(chunked(), &[wire.as_bytes()]).is_err(), "{shown:?}");
            assert!(read(chunked(), &cut(wire.as_bytes(), &[1])).is_err(), "{shown:?} byte by byte");
        }
    }

    #[test]
    fn until_close_everything_belongs_to_the_body() {
        let (data, _, rest, ended) = read(Body::UntilClose, &[b"a", b"b"]).unwrap();
        assert_eq!((data.as_slice(), rest.len(), ended), (&b"ab"[..], 0, false));
    }
}
