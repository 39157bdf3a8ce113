//! Sizes: a thousand and ten thousand proxies on one control plane, and a million environments in one proxy.
//!
//! The control plane is a `repoint control` process. The proxies are those of `repoint proxy` as far as the control
//! stream goes (the client, and a table that applies what comes), without listeners and without files, all of them in a
//! process of their own: this binary, started again. Everything is on loopback, in plaintext. Measured are
//!
//! - moves: from the commit until the last proxy has it, by the control plane's own account, and over all moves the
//!   median and the 99th percentile; processor time of the control plane, and bytes over loopback, for each move, after
//!   what an idle fleet costs is taken off;
//! - the storm after the control plane was killed and started again, until every proxy is back at the head;
//! - memory of the control plane for each idle stream;
//! - with `--environments`, one `repoint proxy` with as many: how long until it is ready from a control plane and from
//!   disk, and what memory it takes, steady and while a snapshot loads.
//!
//! Nothing is asserted: a figure that misses what is wanted is printed beside it. Every wait has an end.
//!
//! ```text
//! cargo bench --bench fleet -- --proxies 1000 --moves 300
//! cargo bench --bench fleet -- --proxies 10000 --moves 100
//! cargo bench --bench fleet -- --environments 1000000
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "compare/machine.rs"]
#[allow(dead_code, reason = "the side-by-side runs use the rest of it")]
mod machine;

#[path = "fleet/control.rs"]
mod control;
#[path = "fleet/feed.rs"]
mod feed;
#[path = "fleet/million.rs"]
mod million;
#[path = "fleet/process.rs"]
mod process;
#[path = "fleet/proxies.rs"]
mod proxies;
#[path = "fleet/samples.rs"]
mod samples;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use control::Control;
use proxies::Proxies;
use samples::{Samples, millis};

/// What a run is asked for.
#[derive(Clone, Copy)]
struct Ask {
    proxies: usize,
    moves: usize,
    storms: usize,
    environments: usize,
}

impl Ask {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut ask = Self { proxies: 1_000, moves: 300, storms: 1, environments: 0 };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            // Cargo adds it to every bench.
            if argument == "--bench" {
                continue;
            }
            let value = arguments.next().and_then(|value| value.parse::<usize>().ok());
            let number = value.ok_or(format!("{argument} takes a number"))?;
            match argument.as_str() {
                "--proxies" => ask.proxies = number.clamp(1, 15_000),
                "--moves" => ask.moves = number.clamp(1, 2_000),
                "--storms" => ask.storms = number.min(5),
                "--environments" => ask.environments = number.min(4_000_000),
                other => return Err(format!("{other}: give --proxies N, --moves N, --storms N, or --environments N")),
            }
        }
        Ok(ask)
    }
}

/// The whole run ends by then, whatever happens.
const RUN_MAX: Duration = Duration::from_secs(280);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == proxies::ARGUMENT => proxies::run(rest),
        Some((first, rest)) if first == feed::ARGUMENT => feed::run(rest),
        _ => Ask::parse(&arguments)
            .and_then(|ask| if ask.environments > 0 { million::run(ask.environments) } else { run(ask) }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(ask: Ask) -> Result<(), String> {
    process::require_descriptors(ask.proxies + 200)?;
    let ends = Instant::now() + RUN_MAX;
    let mut control = Control::start()?;
    let bare = control.memory();
    let began = Instant::now();
    let proxies = Proxies::start(ask.proxies, &control)?;
    control.wait_back(ask.proxies, ends)?;
    println!("{} proxies joined in {:.1} s", ask.proxies, began.elapsed().as_secs_f64());

    control.rest();
    let idle = control.idle();
    let memory = control.memory();
    let each = memory.saturating_sub(bare) as f64 / ask.proxies as f64;
    println!(
        "idle: {:.1} % of a core, {:.0} kB/s over loopback; {:.1} KiB of the control plane for each stream \
         (wanted: 64), {:.0} MiB in all",
        idle.cpu * 100.0,
        idle.bytes / 1_000.0,
        each / 1_024.0,
        memory as f64 / 1_048_576.0
    );
    moves(ask, &control, idle, ends)?;
    for _ in 0..ask.storms {
        storm(ask, &mut control, ends)?;
    }
    drop(proxies);
    Ok(())
}

fn moves(ask: Ask, control: &Control, idle: control::Idle, ends: Instant) -> Result<(), String> {
    let (before, began) = (control.spent(), Instant::now());
    let (mut all, mut p50, mut p99) = (Samples::default(), Samples::default(), Samples::default());
    for n in 0..ask.moves {
        if Instant::now() >= ends {
            return Err(format!("only {n} of {} moves were made in time", ask.moves));
        }
        let told = control.moves(n)?;
        all.add(told.all);
        p50.add(told.p50);
        p99.add(told.p99);
    }
    let (spent, took) = (control.spent().since(before), began.elapsed().as_secs_f64());
    let moves = ask.moves as f64;
    println!(
        "{} moves, commit to the last of {} proxies: p50 {}, p99 {}, max {} (wanted with 1,000: p99 of 100 ms)",
        ask.moves,
        ask.proxies,
        millis(all.percentile(50)),
        millis(all.percentile(99)),
        millis(all.percentile(100)),
    );
    println!(
        "  of the proxies, in the median move: half within {}, 99 in a hundred within {}",
        millis(p50.percentile(50)),
        millis(p99.percentile(50))
    );
    println!(
        "  each move: {:.2} ms of processor time of the control plane, {:.1} kB over loopback, {:.0} bytes a proxy",
        (spent.cpu - idle.cpu * took) / moves * 1_000.0,
        (spent.bytes - idle.bytes * took) / moves / 1_000.0,
        (spent.bytes - idle.bytes * took) / moves / ask.proxies as f64,
    );
    Ok(())
}

fn storm(ask: Ask, control: &mut Control, ends: Instant) -> Result<(), String> {
    let spread = control.reconnect_spread(ask.proxies);
    control.kill();
    let killed = Instant::now();
    control.start_again();
    let started = killed.elapsed();
    let back = control.wait_back(ask.proxies, ends)?;
    println!(
        "killed; serving again after {:.2} s; back at the head after {:.1} s: half of them {:.1} s after the kill, 99 in \
         a hundred {:.1} s (wanted: within the spread of {:.1} s and 15 s)",
        started.as_secs_f64(),
        killed.elapsed().as_secs_f64(),
        (started + back.half).as_secs_f64(),
        (started + back.most).as_secs_f64(),
        spread.as_secs_f64(),
    );
    Ok(())
}
