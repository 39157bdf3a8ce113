//! Fuzzing on stable Rust: what reads bytes of others is given bytes that nobody
//! would send, for a bounded time.
//!
//! Starts from the seeds in `tests/ingress/corpus/fuzz/`, one to a line and
//! escaped, and changes them at random. Without the compiler's coverage the only
//! guide is what comes of an input: one that leads to something new is changed
//! further. A target runs for `REPOINT_FUZZ_MS` (200 where that is not set) and
//! says its number; `REPOINT_FUZZ_SEED` repeats it. An input that fails is printed
//! as a line for the corpus, where it is tried first from then on.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::model::host::HostPattern;
use crate::routing::address::{DeploymentHost, Folded};

/// Pieces of which the formats are made, so that changes are not noise alone.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b".",
    b"_",
    b"--",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"chunked",
    b"Connection: close, x-a\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"X-Forwarded-For: 192.0.2.1\r\n",
    b"X_Forwarded_For: 192.0.2.1\r\n",
    b"Host: a\r\n",
];

/// Longest input: what is longer finds nothing that this does not, more slowly.
const LENGTH_MAX: usize = 2_000;

/// Most inputs kept to be changed further.
const KEPT_MAX: usize = 5_000;

/// Gives `check` the target's seeds, and then what random changes make of them.
/// It panics where something is wrong, and says in a few words what came of it.
pub(in crate::ingress) fn fuzz(target: &str, check: impl Fn(&[u8]) -> String) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/ingress/corpus/fuzz/{target}.txt"));
    let text = std::fs::read_to_string(&file).unwrap();
    let mut kept: Vec<Vec<u8>> = text.lines().filter(|line| !line.starts_with('#')).map(unescape).collect();
    let tell = |input: &[u8]| {
        catch_unwind(AssertUnwindSafe(|| check(input))).unwrap_or_else(|panic| {
            eprintln!("{target} fails on this input; put it into {}:\n{}", file.display(), input.escape_ascii());
            resume_unwind(panic)
        })
    };
    let mut outcomes: HashSet<String> = kept.iter().map(|seed| tell(seed)).collect();
    let number = set("REPOINT_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let (mut random, mut runs) = (Rng::with_seed(number), 0_u64);
    let until = Instant::now() + Duration::from_millis(set("REPOINT_FUZZ_MS").unwrap_or(200));
    while Instant::now() < until {
        let input = changed(&mut random, &kept);
        runs += 1;
        if outcomes.insert(tell(&input)) && kept.len() < KEPT_MAX {
            kept.push(input);
        }
    }
    println!("{target}: {runs} inputs, {} outcomes, seed {number}", outcomes.len());
}

fn set(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// One of `kept`, changed in a few places.
fn changed(random: &mut Rng, kept: &[Vec<u8>]) -> Vec<u8> {
    let mut input = kept[random.usize(..kept.len())].clone();
    for _ in 0..random.usize(1..6) {
        let (at, end) = (random.usize(..=input.len()), random.usize(..=input.len()));
        let (from, to) = (at.min(end), at.max(end));
        match random.u8(..8) {
            0 if !input.is_empty() => input[at % end.max(1).min(at + 1)] ^= 1 << random.u8(..8),
            1 => drop(input.splice(at..at, [random.u8(..)])),
            2 => drop(input.splice(at..at, WORDS[random.usize(..WORDS.len())].iter().copied())),
            3 => drop(input.drain(from..to.min(from + 8))),
            4 => drop(input.splice(at..at, input[from..to].to_vec())),
            5 => {
                let other = &kept[random.usize(..kept.len())];
                let begin = random.usize(..=other.len());
                drop(input.splice(at.., other[begin..].iter().copied()));
            }
            6 => input.truncate(at),
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = random.u8(..);
                }
            }
        }
        input.truncate(LENGTH_MAX);
    }
    input
}

/// A line of the corpus: as `escape_ascii` writes.
fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'x') => {
                    let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).unwrap();
                    u8::try_from(digit() * 16 + digit()).unwrap()
                }
                other => other.unwrap(),
            },
            plain => plain,
        });
    }
    bytes
}

#[test]
fn a_line_of_the_corpus_is_what_escaping_writes() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(unescape(&bytes.escape_ascii().to_string()), bytes);
}

#[test]
#[should_panic(expected = "found")]
fn a_fault_is_found() {
    fuzz("chunks", |input| {
        assert!(!input.windows(3).any(|part| part == b"0\r\n") || input.len() % 7 != 3, "found");
        String::new()
    });
}

#[test]
fn fuzz_hosts() {
    fuzz("hosts", |input| {
        let Some(folded) = Folded::host(input) else { return format!("too long: {}", input.len() > 253) };
        let host = folded.as_bytes();
        assert!(host.len() <= 253 && host.len() <= input.len());
        assert!(!host.iter().any(u8::is_ascii_uppercase));
        let named = DeploymentHost::parse(host, b"localhost");
        if let Some(named) = named {
            let label = [named.project, b"--", named.reference].concat();
            assert!(host.starts_with(&label), "the names are those that are there");
        }
        let wildcard = folded.wildcard();
        assert!(wildcard.as_ref().is_none_or(|wildcard| wildcard.as_bytes().starts_with(b"*.")));
        let pattern = std::str::from_utf8(input).ok().and_then(|text| HostPattern::from_str(text).ok());
        if let Some(pattern) = &pattern {
            let text = pattern.as_str();
            assert_eq!(HostPattern::from_str(text).as_ref(), Ok(pattern), "what is built is valid");
            let asked = [text.to_ascii_uppercase().as_bytes(), b".:8080"].concat();
            if let Some(folded) = Folded::host(&asked) {
                assert_eq!(folded.as_bytes(), text.as_bytes(), "a route and a request agree on what a host is");
            }
        }
        let dots = host.iter().filter(|byte| **byte == b'.').count().min(4);
        format!("{} {} {} {dots} {}", named.is_some(), wildcard.is_some(), pattern.is_some(), host.len() == input.len())
    });
}
