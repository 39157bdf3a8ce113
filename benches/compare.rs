//! Side by side: Repoint and whichever of HAProxy, NGINX, Envoy and Caddy is here, at equal work.
//!
//! Each proxy routes by `Host` over the same environments to the same replicas, over kept connections, without an
//! access log, and adds `X-Forwarded-For`, `X-Forwarded-Proto`, `Via` and `X-Request-Id`. Each has the first core to
//! itself, the load and the replicas the second. Rounds go A B C, C B A, and so on, because a machine changes while
//! one looks; ratios are those of neighbours, and their medians count. The figure is the processor time of all
//! processes and threads of a proxy, by the scheduler's own account, for each request. Every answer is checked: its
//! status, its length, and that it comes from the right deployment. One wrong answer fails the run.
//!
//! Four works are of another kind. `half` sends at one rate to all, half of what HAProxy reaches, and to the replicas
//! without a proxy: beside the processor time it says what latency each adds to that. `idle` asks what memory a
//! connection takes whose client waits. In `moves` and `million` Repoint is beside itself, fed by a control plane in
//! this process: with 1,000 moves of pointers each second and without, with 1,000,000 environments and with 100.
//!
//! ```text
//! cargo build --profile dist --bin repoint
//! cargo bench --bench compare -- --works ka1k,ka64k --rounds 5
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "compare/idle.rs"]
mod idle;
#[path = "compare/itself.rs"]
mod itself;
#[path = "compare/load.rs"]
mod load;
#[path = "compare/machine.rs"]
mod machine;
#[path = "compare/peers.rs"]
mod peers;
#[path = "compare/plane.rs"]
mod plane;
#[path = "compare/pointers.rs"]
mod pointers;
#[path = "compare/records.rs"]
mod records;
#[path = "compare/replicas.rs"]
mod replicas;
#[path = "compare/report.rs"]
mod report;
#[path = "compare/rounds.rs"]
mod rounds;
#[path = "compare/works.rs"]
mod works;

use std::path::PathBuf;
use std::process::ExitCode;

use peers::Mode;
use works::{Kind, Work};

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
    let replicas = replicas::Replicas::start().ports;
    let mut rows = Vec::new();
    let all = || ask.works.iter().copied();
    for mode in [Mode::Http1, Mode::Tls, Mode::H2c] {
        let shared: Vec<_> = all().filter(|work| work.mode == mode && work.shares_proxies()).collect();
        if shared.is_empty() {
            continue;
        }
        let peers = peers::start(ask, &peers::here(ask), mode, &replicas)?;
        for work in shared {
            announce(work);
            rows.extend(rounds::measure(ask, work, &peers, &replicas)?);
        }
    }
    for work in all().filter(|work| !work.shares_proxies()) {
        announce(work);
        rows.extend(match work.kind {
            Kind::Idle => idle::measure(ask, work, &replicas)?,
            Kind::Moves => itself::moves(ask, work, &replicas)?,
            _ => itself::million(ask, work, &replicas)?,
        });
    }
    print!("{}", report::tables(&rows));
    report::write(&ask.out, &rows).map_err(|error| format!("write into {}: {error}", ask.out.display()))?;
    eprintln!("results and plot are in {}", ask.out.display());
    let errors: u64 = rows.iter().map(|row| row.errors).sum();
    if errors > 0 { Err(format!("{errors} answers were wrong or missing: the figures mean nothing")) } else { Ok(()) }
}

fn announce(work: &Work) {
    eprintln!("{}: {}", work.name, work.says);
}
