//! Side by side: Repoint and whichever of HAProxy, NGINX and Envoy is here, at equal work.
//!
//! Each proxy routes by `Host` over the same environments to the same replicas, over kept connections, without an
//! access log, and adds `X-Forwarded-For`, `X-Forwarded-Proto`, `Via` and `X-Request-Id`. Each has the first core to
//! itself, the load and the replicas the second. Rounds go A B C, C B A, and so on, because a machine changes while
//! one looks; ratios are those of neighbours, and their medians count. The figure is the processor time of all
//! processes and threads of a proxy, by the scheduler's own account, for each request. Every answer is checked: its
//! status, its length, and that it comes from the right deployment. One wrong answer fails the run.
//!
//! ```text
//! cargo build --profile dist --bin repoint
//! cargo bench --bench compare -- --works ka1k,ka64k --rounds 5
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "compare/load.rs"]
mod load;
#[path = "compare/machine.rs"]
mod machine;
#[path = "compare/peers.rs"]
mod peers;
#[path = "compare/replicas.rs"]
mod replicas;
#[path = "compare/report.rs"]
mod report;
#[path = "compare/works.rs"]
mod works;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use peers::{Mode, Peer};
use report::Row;
use works::Work;

/// What a run is asked for.
struct Ask {
    works: Vec<&'static Work>,
    peers: Vec<String>,
    rounds: usize,
    seconds: f64,
    environments: usize,
    repoint: PathBuf,
    out: PathBuf,
}

impl Ask {
    fn parse() -> Result<Self, String> {
        let root = PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
        let mut ask = Self {
            works: works::ALL.iter().collect(),
            peers: peers::NAMES.map(str::to_owned).to_vec(),
            rounds: 5,
            seconds: 2.0,
            environments: 100,
            repoint: root.join("dist/repoint"),
            out: root.join("compare"),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            // Cargo adds it to every bench.
            if argument == "--bench" {
                continue;
            }
            let value = arguments.next().ok_or(format!("{argument} takes a value"))?;
            let number = || value.parse::<f64>().map_err(|_| format!("{argument} takes a number, not {value}"));
            match argument.as_str() {
                "--works" => ask.works = value.split(',').map(works::named).collect::<Result<_, _>>()?,
                "--peers" => ask.peers = value.split(',').map(str::to_owned).collect(),
                "--rounds" => ask.rounds = (number()? as usize).clamp(1, 99),
                "--seconds" => ask.seconds = number()?.clamp(0.2, 60.0),
                "--environments" => ask.environments = (number()? as usize).clamp(1, 1_000_000),
                "--repoint" => ask.repoint = value.into(),
                "--out" => ask.out = value.into(),
                other => {
                    return Err(format!(
                        "{other}: give --works, --peers, --rounds, --seconds, --environments, --repoint, --out"
                    ));
                }
            }
        }
        if !ask.repoint.is_file() {
            let path = ask.repoint.display();
            return Err(format!(
                "{path} is not there: run `cargo build --profile dist --bin repoint`, or name one with --repoint"
            ));
        }
        Ok(ask)
    }
}

fn main() -> ExitCode {
    match Ask::parse().and_then(|ask| run(&ask)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(ask: &Ask) -> Result<(), String> {
    machine::raise_descriptors();
    machine::pin_to(machine::LOAD_CORE)?;
    let replicas = replicas::Replicas::start();
    let mut rows = Vec::new();
    for mode in [Mode::Http1, Mode::Tls, Mode::H2c] {
        let works: Vec<_> = ask.works.iter().copied().filter(|work| work.mode == mode).collect();
        if works.is_empty() {
            continue;
        }
        let peers = peers::start(ask, mode, &replicas.ports)?;
        for work in works {
            eprintln!("{}: {}", work.name, work.says);
            rows.extend(measure(ask, work, &peers)?);
        }
    }
    print!("{}", report::tables(&rows));
    report::write(&ask.out, &rows).map_err(|error| format!("write into {}: {error}", ask.out.display()))?;
    eprintln!("results and plot are in {}", ask.out.display());
    let errors: u64 = rows.iter().map(|row| row.errors).sum();
    if errors > 0 { Err(format!("{errors} answers were wrong or missing: the figures mean nothing")) } else { Ok(()) }
}

/// All rounds of one work.
fn measure(ask: &Ask, work: &'static Work, peers: &[Peer]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let rate = works::rate_of(work, peers, ask.environments)?;
    for peer in peers {
        // Warm, and not counted.
        load::run(work, peer, ask.environments, Duration::from_millis(500), rate)?;
    }
    for round in 0..ask.rounds {
        let mut order: Vec<&Peer> = peers.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for peer in order {
            let before = peer.cpu();
            let tally = load::run(work, peer, ask.environments, Duration::from_secs_f64(ask.seconds), rate)?;
            rows.push(Row::new(work, &peer.name, round, peer.cpu() - before, tally));
        }
    }
    Ok(rows)
}
