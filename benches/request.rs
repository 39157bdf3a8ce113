//! One request, step by step: what Repoint's own part of it costs, without the kernel's.
//!
//! Each step calls what a request goes through in a running proxy
//! (`ingress::steps`), and two lines say what it could cost at least:
//!
//! - `copy the head`: the bytes of the head, copied once;
//! - `plain probe`: the host, looked up in a hash map that nobody changes;
//! - `resolve`: host → pool, by the routing table;
//! - `claim`: resolve, the claim on the pool, the limits, and the end of the claim;
//! - `read the head`: bytes → a request of which is known what it asks for, without
//!   what must not travel on;
//! - `write the head`: that request → the bytes for the replica, with the eight
//!   fields that we add;
//! - `prepare a map`: the same work for a request that hyper has read, as all over
//!   HTTP/2 are;
//! - `whole request`: from the client's bytes to the answer's 1 KiB on their way
//!   back, through `downstream`, `proxy` and `upstream`. Client and replica are
//!   memory and answer at once, so nothing is waited for and no system call made.
//!
//! Times are CPU time of the measuring thread; all steps are measured in each
//! round, in turns; medians over rounds, with the least and the most. Allocations
//! are counted by the allocator. Ends with 1 when a whole request was not answered
//! or a step that must not allocate did. `cargo bench --bench request`, a few seconds.

#![allow(unsafe_code, reason = "a counting allocator and the thread's CPU clock; nothing else is unsafe here")]

#[path = "resolve/clock.rs"]
mod clock;
#[allow(dead_code, reason = "the other bench that counts also asks for bytes")]
#[path = "resolve/memory.rs"]
mod memory;
#[allow(dead_code, reason = "the other bench with a table also moves pointers")]
#[path = "resolve/world.rs"]
mod world;

use std::collections::HashMap;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::Request;
use repoint::ingress::config::Config;
use repoint::ingress::steps::{Head, Steps};
use repoint::routing::address::Address;
use repoint::routing::live::{Claimed, Live};

use clock::{Spread, thread_ns};
use world::{Hosts, World};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

const ENVIRONMENTS: usize = 100;
const ROUNDS: usize = 21;
/// In each round, of each step. What a step takes is made before and what it gives is
/// dropped after, where neither is part of it.
const TIMES: usize = 10_000;
const ANSWER_BYTES: usize = 1024;

/// What a step has cost so far.
struct Step {
    name: &'static str,
    ns: Spread,
    allocations: u64,
    may_allocate: bool,
}

fn main() -> ExitCode {
    let mut bench = Bench::new();
    let mut steps = [
        ("copy the head", false),
        ("plain probe", false),
        ("resolve", false),
        ("claim", false),
        ("read the head", true),
        ("write the head", true),
        ("prepare a map", true),
        ("whole request", true),
    ]
    .map(|(name, may_allocate)| Step { name, ns: Spread::default(), allocations: 0, may_allocate });
    let mut answered = true;
    // The first round fills caches and buffers, and is not counted.
    for round in 0..=ROUNDS {
        for turn in 0..steps.len() {
            let at = (turn + round) % steps.len();
            let (ns, allocations) = bench.run(at, &mut answered);
            if round > 0 {
                steps[at].ns.add(ns);
                steps[at].allocations += allocations;
            }
        }
    }
    println!("a head of {} bytes, {ENVIRONMENTS} environments, {ROUNDS} rounds of {TIMES}", bench.head.len());
    for step in &steps {
        let each = step.allocations as f64 / (ROUNDS * TIMES) as f64;
        println!("{:<16}{} ns, allocations {each:.2}", step.name, step.ns);
    }
    let is_lean = steps.iter().all(|step| step.may_allocate || step.allocations == 0);
    if answered && is_lean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is measured, and what it is measured with.
struct Bench {
    steps: Steps,
    live: Arc<Live>,
    plain: HashMap<Box<str>, u64, RandomState>,
    host: String,
    head: Bytes,
    copied: Vec<u8>,
    claimed: Claimed,
}

impl Bench {
    fn new() -> Self {
        let mut world = World::new(ENVIRONMENTS);
        let config = Config { threads: Some(NonZeroUsize::MIN), ..Config::default() };
        let live = Live::new(config.cores());
        let records = world.snapshot();
        live.apply_snapshot(world.position(), records).expect("the snapshot holds");
        let steps = Steps::new(config, Arc::clone(&live)).expect("no setting is in the way");
        let host = world.host(ENVIRONMENTS / 2);
        let head = head(&host);
        let first = steps.read(&mut head.clone()).expect("a usual request");
        let claimed = steps.claim(&first).expect("the host is in the table");
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {ANSWER_BYTES}\r\n\r\n");
        answer.extend(std::iter::repeat_n('x', ANSWER_BYTES));
        steps.answer(&claimed, &Bytes::from(answer));
        let plain = (0..ENVIRONMENTS).map(|at| (world.host(at).into(), at as u64)).collect();
        Self { steps, live, plain, host, copied: Vec::with_capacity(head.len()), head, claimed }
    }

    /// Runs the step at this place in the list; its nanoseconds for each time, and
    /// how often it allocated in all.
    fn run(&mut self, step: usize, answered: &mut bool) -> (f64, u64) {
        match step {
            0 => measured(|| (0..TIMES).for_each(|_| self.copy())),
            1 => measured(|| {
                for _ in 0..TIMES {
                    black_box(self.plain.get(black_box(self.host.as_str())));
                }
            }),
            2 => self.resolve(),
            3 => {
                let head = self.read();
                measured(|| (0..TIMES).for_each(|_| drop(black_box(self.steps.claim(black_box(&head))))))
            }
            4 => {
                let mut heads = Vec::with_capacity(TIMES);
                measured(|| heads.extend((0..TIMES).map(|_| self.read())))
            }
            5 => {
                let heads: Vec<_> = (0..TIMES).map(|_| self.read()).collect();
                measured(|| {
                    for head in heads {
                        black_box(self.steps.write(head, &self.claimed));
                    }
                })
            }
            6 => {
                let requests: Vec<_> = (0..TIMES).map(|_| map(&self.host)).collect();
                measured(|| {
                    for request in requests {
                        black_box(self.steps.prepare(request));
                    }
                })
            }
            _ => measured(|| *answered &= self.steps.serve(&self.head, TIMES as u64) == TIMES as u64),
        }
    }

    fn copy(&mut self) {
        self.copied.clear();
        self.copied.extend_from_slice(black_box(&self.head));
        black_box(&self.copied);
    }

    fn resolve(&self) -> (f64, u64) {
        let mut reader = self.live.reader();
        measured(|| {
            for _ in 0..TIMES {
                let address = Address { host: black_box(self.host.as_bytes()), ..Address::default() };
                let resolved = reader.current().resolve(&address).expect("the host is in the table");
                black_box(resolved.pool.key);
            }
        })
    }

    fn read(&self) -> Head {
        self.steps.read(&mut black_box(self.head.clone())).expect("a usual request")
    }
}

/// CPU time of this thread for each time, and its allocations in all.
fn measured(work: impl FnOnce()) -> (f64, u64) {
    let (before, began) = (memory::allocations_of_this_thread(), thread_ns());
    work();
    let ns = (thread_ns() - began) as f64 / TIMES as f64;
    (ns, memory::allocations_of_this_thread() - before)
}

/// What a browser behind a cookie or two says.
const FIELDS: [(&str, &str); 8] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "session=4f0c2e7a9b1d4c6f8e3a5b7d9c1e2f4a; theme=dark"),
    ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
    ("x-forwarded-for", "203.0.113.7"),
    ("cache-control", "no-cache"),
];

fn head(host: &str) -> Bytes {
    let mut head = format!("GET /v1/items/42?page=2 HTTP/1.1\r\nhost: {host}\r\nconnection: keep-alive\r\n");
    for (name, value) in FIELDS {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    Bytes::from(head)
}

fn map(host: &str) -> Request<()> {
    let request = Request::get(format!("http://{host}/v1/items/42?page=2")).version(http::Version::HTTP_2);
    let with =
        |request: http::request::Builder, (name, value): (&'static str, &'static str)| request.header(name, value);
    FIELDS.into_iter().fold(request, with).body(()).expect("a valid request")
}
