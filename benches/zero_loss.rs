//! The zero-loss run: pointers move under full load, and nothing may be lost.
//!
//! Starts the real binary with two deployments of the built-in worker, sends
//! mixed requests (GET, POST with a body, event streams) on kept connections as
//! fast as they are answered, holds long event streams open throughout, and
//! promotes and rolls back between the two deployments meanwhile. Every answer
//! is checked:
//!
//! - no transport error, no status but 200;
//! - `X-Deployment-ID` equals the deployment that wrote the body;
//! - a request sent after a move was answered `complete: true`, and answered
//!   before the next move began, was served by the deployment moved to;
//! - a stream stays on the deployment it began on, to its last token.
//!
//! `cargo bench --bench zero_loss -- --moves 1000`. Bounded in moves and time,
//! on loopback, and exits with 1 when anything was lost.

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "zero_loss/checks.rs"]
mod checks;
#[path = "zero_loss/load.rs"]
mod load;
#[path = "zero_loss/moves.rs"]
mod moves;
#[path = "zero_loss/timeline.rs"]
mod timeline;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checks::Tally;
use moves::{deploy, make_move};
use support::api::Api;
use support::server::Server;
use timeline::Timeline;

/// What a run is asked for.
struct Ask {
    moves: usize,
    connections: usize,
    streams: usize,
    rate_min: f64,
    between: Duration,
}

impl Ask {
    fn parse() -> Self {
        let mut ask = Self { moves: 1_000, connections: 32, streams: 8, rate_min: 0.0, between: BETWEEN_MOVES };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().and_then(|value| value.parse().ok());
            match argument.as_str() {
                "--moves" => ask.moves = number().expect("--moves takes a number") as usize,
                "--connections" => ask.connections = number().expect("--connections takes a number") as usize,
                "--streams" => ask.streams = number().expect("--streams takes a number") as usize,
                "--rate-min" => ask.rate_min = number().expect("--rate-min takes requests a second"),
                "--between-ms" => {
                    ask.between = Duration::from_millis(number().expect("--between-ms takes milliseconds") as u64);
                }
                // Cargo adds it to every bench.
                "--bench" => {}
                other => panic!("{other}: give --moves N, --connections N, --streams N, --rate-min N, --between-ms N"),
            }
        }
        ask
    }
}

/// At least this long between the beginnings of two moves unless asked, so that most requests fall between
/// moves and their deployment is known exactly.
const BETWEEN_MOVES: Duration = Duration::from_millis(15);

/// Longest run, whatever was asked for.
const RUN_MAX: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let ask = Ask::parse();
    let server = Server::up();
    let api = server.api();
    let project = api.project("zero-loss");
    api.settled(1);
    let first = deploy(&server, &project, "v1", "production", "");
    let second = deploy(&server, &project, "v2", "preview", "");
    let production = project.environment("production").to_owned();
    // The second deployment's pool in production is started before the clock.
    api.promote(&second, &production).ok();

    let timeline = Arc::new(Timeline::new(second.clone()));
    let tally = Arc::new(Tally::default());
    let load = load::start(&ask, server.ingress(), &project.host("production"), &timeline, &tally);
    let began = Instant::now();
    let mut delays = Vec::new();
    for n in 0..ask.moves {
        assert!(began.elapsed() < RUN_MAX, "the run took more than {RUN_MAX:?}");
        let pause = Instant::now();
        delays.push(make_move(&api, &production, n, [&first, &second], &timeline, &tally));
        std::thread::sleep(ask.between.saturating_sub(pause.elapsed()));
    }
    let elapsed = began.elapsed();
    load.stop();
    let applied = applied_after_commit(&api, &production, ask.moves);
    report(&ask, &tally, elapsed, &mut delays, applied)
}

/// Commit to applied of the run's moves as the control plane recorded them.
fn applied_after_commit(api: &Api, production: &str, moves: usize) -> Vec<Duration> {
    let mut delays = Vec::new();
    let mut cursor = String::new();
    while delays.len() < moves {
        let path = format!("/api/v1/environments/{production}/promotion-history?limit=100{cursor}");
        let page = api.get(&path).ok();
        for row in page["items"].as_array().expect("a list") {
            let at = |name: &str| row[name].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            if let (Some(committed), Some(applied)) = (at("committed_at"), at("applied_at")) {
                delays.push(applied.duration_since(committed).unsigned_abs());
            }
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    delays.truncate(moves);
    delays
}

fn report(
    ask: &Ask,
    tally: &Tally,
    elapsed: Duration,
    delays: &mut [Duration],
    mut applied: Vec<Duration>,
) -> ExitCode {
    let counts = tally.counts();
    let rate = counts.answers as f64 / elapsed.as_secs_f64();
    println!("moves                     {} in {:.1} s", delays.len(), elapsed.as_secs_f64());
    println!("answers                   {} ({rate:.0} a second)", counts.answers);
    println!("  GET / POST / streams    {} / {} / {}", counts.gets, counts.posts, counts.streams);
    println!("  long streams held       {}, {} tokens", ask.streams, counts.tokens);
    println!("  between moves (exact)   {}", counts.exact);
    println!("commit to applied         {}", distribution(&mut applied));
    println!("promote call, round trip  {}", distribution(delays));
    println!("wrong                     {}", counts.wrong);
    for line in tally.first_wrong() {
        println!("  {line}");
    }
    let slow = rate < ask.rate_min;
    if slow {
        println!("the rate is below the {} a second that were asked for", ask.rate_min);
    }
    let passed = counts.wrong == 0 && counts.exact > 0 && !slow;
    println!("{} passed, {} failed", u8::from(passed), u8::from(!passed));
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn distribution(delays: &mut [Duration]) -> String {
    if delays.is_empty() {
        return "nothing recorded".to_owned();
    }
    delays.sort();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms ({} moves)", at(0.5), at(0.99), at(1.0), delays.len())
}
