//! Control plane and proxies on one thread, from a seed: the real server, fleet,
//! client, table and last-known-good over a network, a store and disks that fail
//! as the seed has it, with a checker that looks after every step.
//!
//! `REPOINT_SIM_SEEDS=1000 cargo test --locked --lib simulation` tries as many
//! seeds, `REPOINT_SIM_SEED=n` one of them. Nothing waits for a real clock, and a
//! seed leads to the same events every time; one that fails is printed with the
//! last of them.

use std::time::Duration;

use turmoil::{Builder, Sim};

use super::sabotage::{self, Sabotage};
use faults::Faults;
use world::{Lock, PROXIES, Promise, Seen, Shared, TICK, Violation};

mod checker;
mod control;
mod faults;
mod proxy;
mod state;
mod transport;
mod work;
mod world;

/// How long things go wrong.
const STORM: Duration = Duration::from_secs(60);
/// Time for everything to come to an end afterwards: the longest pause before a
/// reconnect, silence until nobody is waited for, and the longest request.
const CALM: Duration = Duration::from_secs(180);
/// Seeds that are tried where nobody asks for more.
const SEEDS: u64 = 8;

/// What became of a seed.
struct Outcome {
    broken: Option<Violation>,
    trace: Vec<String>,
    seen: Seen,
}

/// One simulation, until a promise is broken or everything has come to an end.
fn simulate(seed: u64, broken: Option<Sabotage>) -> Outcome {
    sabotage::with(broken, || {
        fastrand::seed(seed);
        let world = Lock::new(seed);
        let mut sim = build(seed, &world);
        let mut faults = Faults::new(seed, Shared::clone(&world));
        while sim.elapsed() < STORM && world.lock().broken.is_none() {
            faults.step(&mut sim);
            step(&mut sim, &world);
        }
        faults.end_all(&mut sim);
        world.lock().settle();
        while world.lock().broken.is_none() && !world.lock().is_at_rest() {
            step(&mut sim, &world);
            if sim.elapsed() > STORM + CALM {
                world.lock().never_rests();
            }
        }
        // The machines let go of what they hold before the world is looked into.
        drop(sim);
        let mut world = world.lock();
        Outcome { broken: world.broken.take(), trace: std::mem::take(&mut world.trace), seen: world.seen }
    })
}

fn build<'a>(seed: u64, world: &Shared) -> Sim<'a> {
    let latency = Duration::from_millis(10);
    let mut sim = Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(latency)
        .max_message_latency(latency)
        .tcp_capacity(1 << 16)
        .build();
    let control = Shared::clone(world);
    sim.host("control", move || control::run(Shared::clone(&control)));
    for proxy in 0..PROXIES {
        let world = Shared::clone(world);
        sim.host(proxy::name(proxy), move || proxy::run(Shared::clone(&world), proxy));
    }
    sim
}

fn step(sim: &mut Sim<'_>, world: &Shared) {
    if let Err(error) = sim.step() {
        world.lock().breaks(Promise::Liveness, format!("a machine failed: {error}"));
    }
    let mut world = world.lock();
    world.now = sim.elapsed();
    world.check();
}

/// Seeds to try.
fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number of seeds"));
    match number("REPOINT_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("REPOINT_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

/// The first seed that shows a broken promise.
fn caught(sabotage: Sabotage) -> Violation {
    let broken = (0..CAUGHT_WITHIN).find_map(|seed| simulate(seed, Some(sabotage)).broken);
    broken.unwrap_or_else(|| panic!("{sabotage:?} is not noticed in {CAUGHT_WITHIN} seeds"))
}

/// Seeds until a broken promise must have shown.
const CAUGHT_WITHIN: u64 = 10;

#[test]
fn simulation_of_a_seed_is_the_same_every_time() {
    let (first, second) = (simulate(1, None).trace, simulate(1, None).trace);
    let same = first.iter().zip(&second).take_while(|(first, second)| first == second).count();
    assert_eq!(first.get(same), second.get(same), "after {:#?}", &first[same.saturating_sub(10)..same]);
    assert_ne!(first, simulate(2, None).trace, "another seed is another story");
}

#[test]
fn simulation_notices_an_ack_before_the_table_is_published() {
    assert_eq!(caught(Sabotage::AckBeforePublish).promise, Promise::Invariant(6));
}

#[test]
fn simulation_notices_a_claim_that_comes_too_late() {
    assert_eq!(caught(Sabotage::ClaimAfterAwait).promise, Promise::Invariant(9));
}

#[test]
fn simulation_notices_what_is_said_to_be_durable_and_is_not_on_disk() {
    assert_eq!(caught(Sabotage::DurableBeforeJournal).promise, Promise::Invariant(6));
}

#[test]
fn simulation_notices_counters_that_are_older_than_their_revision() {
    assert_eq!(caught(Sabotage::CountersBeforeApplied).promise, Promise::Invariant(9));
}

#[test]
fn simulation_notices_revisions_that_are_not_in_the_order_of_the_commits() {
    assert_eq!(caught(Sabotage::RevisionFromSequence).promise, Promise::RevisionOrder);
}

#[test]
fn simulation_notices_a_busy_list_that_leaves_something_out() {
    assert_eq!(caught(Sabotage::BusyListCut).promise, Promise::Invariant(9));
}

#[test]
fn simulation_notices_a_control_plane_that_takes_its_own_silence_for_that_of_proxies() {
    assert_eq!(caught(Sabotage::OwnSilenceCounts).promise, Promise::Invariant(9));
}

#[test]
fn simulation_keeps_every_promise_under_any_faults() {
    for seed in seeds() {
        let Outcome { broken, trace, seen } = simulate(seed, None);
        println!("seed {seed}: {seen:?}");
        if let Some(broken) = broken {
            let last = trace.len().saturating_sub(80);
            panic!(
                "seed {seed}: {broken:?}\n{}\nagain: REPOINT_SIM_SEED={seed} cargo test --locked --lib simulation_keeps",
                trace[last..].join("\n")
            );
        }
    }
}
