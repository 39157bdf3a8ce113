//! The routing table: what a resolve, a pointer move and an environment cost.
//!
//! Beside it, in the same run and in turns, the probe of a plain immutable hash
//! map with the same keys, which is what a table could cost at least if pointers
//! never moved. Times are CPU time of the measuring thread, so that what else
//! the machine does adds noise but no waiting; medians over rounds, with the
//! least and the most.
//!
//! - `resolve`: host → pool, ours (`Table::resolve`, with folding, doors and the
//!   check for a newer table) and plain, for uniform and Zipf-distributed hosts,
//!   idle and while 1,000 pointers a second move;
//! - `move`: `Live::apply_delta` of one pointer move, digests and swap included;
//! - `bytes`: what an environment with one pool and one endpoint holds, by a
//!   counting allocator, without its host's own bytes.
//!
//! Ends with 1 when a resolve allocated, and with 0 else: how fast is fast
//! enough is for who reads it. `cargo bench --bench resolve`, about a minute;
//! `-- --environments 1000000` for one size alone.

#![allow(unsafe_code, reason = "a counting allocator and the thread's CPU clock; nothing else is unsafe here")]

#[path = "resolve/clock.rs"]
mod clock;
#[path = "resolve/memory.rs"]
mod memory;
#[path = "resolve/world.rs"]
mod world;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use repoint::routing::address::Address;
use repoint::routing::live::Live;

use clock::{Spread, thread_ns};
use world::{Draw, Hosts, World};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

const SIZES: [usize; 3] = [100, 10_000, 1_000_000];
const ROUNDS: usize = 15;
const LOOKUPS: usize = 100_000;
const MOVES: usize = 5_000;
const MOVES_PER_SECOND: u32 = 1_000;

/// The plain map: host → pool, each pool on the heap as a table must have it.
type Plain = HashMap<Box<str>, Arc<PlainPool>, RandomState>;

/// As large as what a request needs of a pool.
struct PlainPool {
    deployment: u128,
    _rest: [u8; 112],
}

fn main() -> ExitCode {
    let sizes = asked_sizes();
    let mut allocated = 0;
    for n in sizes {
        println!("{n} environments");
        let (world, live) = fill(n);
        let plain: Plain = (0..n).map(|at| (world.host(at).into(), pool(&world, at))).collect();
        for draw in [Draw::Uniform, Draw::Zipf] {
            allocated += resolves(&format!("  resolve, {draw}"), n, draw, &live, &plain, &world);
        }
        let (mut world, done) = (world, AtomicBool::new(false));
        world.second_pools(&live, MOVES.min(n));
        let hosts = world.hosts();
        std::thread::scope(|scope| {
            scope.spawn(|| keep_moving(&mut world, &live, &done));
            let draw = Draw::Uniform;
            allocated += resolves(
                &format!("  resolve, {draw}, {MOVES_PER_SECOND} moves a second"),
                n,
                draw,
                &live,
                &plain,
                &hosts,
            );
            done.store(true, Ordering::Relaxed);
        });
        moves(&mut world, &live);
    }
    if allocated == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn asked_sizes() -> Vec<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--environments").skip(1);
    match arguments.next() {
        Some(n) => vec![n.parse().expect("--environments takes a number")],
        None => SIZES.to_vec(),
    }
}

fn pool(world: &World, at: usize) -> Arc<PlainPool> {
    Arc::new(PlainPool { deployment: world.first_deployment(at).uuid().as_u128(), _rest: [0; 112] })
}

/// A live table with `n` environments from one snapshot, and what it cost.
fn fill(n: usize) -> (World, Arc<Live>) {
    let mut world = World::new(n);
    let live = Live::new(2);
    let before = memory::bytes();
    let records = world.snapshot();
    let with_records = memory::reset_peak();
    let began = thread_ns();
    live.apply_snapshot(world.position(), records).expect("the snapshot holds");
    let took = (thread_ns() - began) / 1_000_000;
    let held = (memory::bytes() - before).saturating_sub(world.host_bytes());
    println!("  bytes for each, beside its host: {}", held / n);
    let peak = memory::peak().saturating_sub(with_records) / n;
    println!("  snapshot: applied in {took} ms, at most {peak} bytes for each beside its records");
    (world, live)
}

/// Measures both in turns; answers how often ours allocated.
fn resolves(title: &str, n: usize, draw: Draw, live: &Live, plain: &Plain, hosts: &impl Hosts) -> u64 {
    let (mut ours, mut theirs, mut allocated) = (Spread::default(), Spread::default(), 0);
    let mut reader = live.reader();
    for round in 0..ROUNDS {
        let keys = draw.keys(n, LOOKUPS, hosts);
        let mut probe = || theirs.add(per_key(&keys, |host| plain[host].deployment as u64));
        let mut resolve = || {
            let before = memory::allocations_of_this_thread();
            let ns = per_key(&keys, |host| {
                let address = Address { host: host.as_bytes(), ..Address::default() };
                let resolved = reader.current().resolve(&address).expect("every host is in the table");
                resolved.pool.key.deployment.uuid().as_u128() as u64
            });
            allocated += memory::allocations_of_this_thread() - before;
            ours.add(ns);
        };
        if round % 2 == 0 {
            probe();
            resolve();
        } else {
            resolve();
            probe();
        }
    }
    println!(
        "{title}: plain {theirs} ns, ours {ours} ns, ratio {:.2}, allocations {allocated}",
        ours.median() / theirs.median()
    );
    allocated
}

/// CPU time for each key, in nanoseconds.
fn per_key(keys: &world::Keys, mut lookup: impl FnMut(&str) -> u64) -> f64 {
    let before = thread_ns();
    // Each host on its own through `black_box` would wait until the look-up before
    // it is over: it goes through memory in two halves and is read back as a whole.
    let sum = keys.iter().fold(0u64, |sum, host| sum.wrapping_add(lookup(host)));
    std::hint::black_box(sum);
    (thread_ns() - before) as f64 / keys.len() as f64
}

fn keep_moving(world: &mut World, live: &Live, done: &AtomicBool) {
    let (began, mut moved) = (Instant::now(), 0);
    while !done.load(Ordering::Relaxed) {
        world.move_pointer(live, |apply| apply());
        moved += 1;
        let due = Duration::from_secs(1) / MOVES_PER_SECOND * moved;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
}

fn moves(world: &mut World, live: &Live) {
    let mut times = Spread::default();
    for _ in 0..MOVES {
        world.move_pointer(live, |apply| {
            let before = thread_ns();
            apply();
            times.add((thread_ns() - before) as f64 / 1_000.0);
        });
    }
    let (half, most) = (times.quantile(0.5), times.quantile(0.99));
    println!("  move: p50 {half:.1} µs, p99 {most:.1} µs, CPU time");
}
