//! The soak: a bounded time of everything at once, and nothing may be lost or grow.
//!
//! Starts the real control plane and a real proxy. Clients of many kinds ask at
//! the same time: GET, POST and event streams as in the zero-loss run, calls with
//! trailers as gRPC makes them, WebSockets, clients that read, send or ask slowly.
//! Pointers move under all of them, and the replicas of one deployment are killed
//! now and then. The run fails
//!
//! - if an answer is wrong, by the checks of the zero-loss run, or lost: of the
//!   requests to replicas that are killed those alone may be that were in flight
//!   at the one that died, which the proxy's access log says;
//! - if a claim or a tunnel is left when all clients are gone;
//! - if memory, descriptors or threads of a server process have grown from the
//!   first half of the run to the second by more than what is printed beside them.
//!
//! Nothing depends on how fast it is. `cargo bench --bench soak -- --seconds 300`.

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

#[path = "soak/grpc.rs"]
mod grpc;
#[path = "soak/replicas.rs"]
mod replicas;
#[path = "soak/samples.rs"]
mod samples;
#[path = "soak/site.rs"]
mod site;
#[path = "soak/slow.rs"]
mod slow;
#[path = "soak/victims.rs"]
mod victims;
#[path = "soak/websockets.rs"]
mod websockets;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use moves::{deploy, make_move};
use replicas::LABELS;
use samples::Watched;
use site::{Shared, Site};
use support::api::{Api, Project, text};
use support::server::Server;
use timeline::Timeline;
use victims::Victims;

/// What a run is asked for.
struct Ask {
    seconds: u64,
    connections: usize,
    streams: usize,
}

impl Ask {
    fn parse() -> Self {
        let mut ask = Self { seconds: 300, connections: 8, streams: 4 };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().and_then(|value| value.parse::<u64>().ok());
            match argument.as_str() {
                "--seconds" => ask.seconds = number().expect("--seconds takes a number"),
                "--connections" => ask.connections = number().expect("--connections takes a number") as usize,
                "--streams" => ask.streams = number().expect("--streams takes a number") as usize,
                // Cargo adds it to every bench.
                "--bench" => {}
                other => panic!("{other}: give --seconds N, --connections N, --streams N"),
            }
        }
        ask
    }
}

/// Between the beginnings of two moves.
const BETWEEN_MOVES: Duration = Duration::from_millis(150);
/// Between two kills, where the one before has been replaced.
const BETWEEN_KILLS: Duration = Duration::from_secs(5);
/// Between two samples.
const BETWEEN_SAMPLES: Duration = Duration::from_secs(2);
/// Successful requests for each line of the access log; what goes wrong is always in it.
const LOG_SAMPLE: &str = "10000";

/// An environment whose pointer moves between two deployments.
struct Moving {
    environment: String,
    deployments: [String; 2],
    timeline: Arc<Timeline>,
    host: String,
}

/// Everything that is set up before the clock runs.
struct Scene {
    control: Server,
    proxy: Server,
    log: tempfile::TempDir,
    plain: Moving,
    grpc: Moving,
    websockets: Moving,
    victim: (String, String),
}

fn main() -> ExitCode {
    let ask = Ask::parse();
    let scene = Scene::build();
    let shared = Arc::new(Shared::default());
    let victims = Arc::new(Victims::default());
    let load = load::start(&ask, scene.proxy.ingress(), &scene.plain.host, &scene.plain.timeline, &shared.tally);
    let clients = scene.clients(&shared, &victims);
    let mut watched = [Watched::new("control", scene.control.pid()), Watched::new("proxy", scene.proxy.pid())];
    let moves = scene.soak(&ask, &shared, &victims, &mut watched);
    let grew = watched.each_ref().map(|watched| !watched.report()).contains(&true);
    shared.done.store(true, Ordering::SeqCst);
    load.stop();
    clients.join().expect("the clients do not panic");
    scene.left_over(&shared);
    report(&scene, &shared, &victims, moves, grew)
}

impl Scene {
    fn build() -> Self {
        let control = Server::control();
        let log = support::server::folder();
        let file = log.path().join("access.log");
        let file = file.to_str().expect("temporary paths are UTF-8");
        let proxy = Server::proxy_with(&control, &["--access-log", file, "--access-log-sample", LOG_SAMPLE]);
        let api = control.api();
        let (plain, other, killed) = (api.project("plain"), api.project("other"), api.project("killed"));
        api.settled(1);
        let first = deploy(&control, &plain, "v1", "production", "");
        let second = deploy(&control, &plain, "v2", "preview", "");
        let victim = deploy(&control, &killed, "v1", "production", "[deploy]\nmin_replicas = 2\nmax_replicas = 2\n");
        let replicas = replicas::start();
        let grpc = replicas.grpc.map(|address| endpoint(&api, &other, address, "h2c"));
        let websockets = replicas.websockets.map(|address| endpoint(&api, &other, address, "http1"));
        Self {
            plain: Moving::begin(&api, &plain, "production", [first, second]),
            grpc: Moving::begin(&api, &other, "production", grpc),
            websockets: Moving::begin(&api, &other, "preview", websockets),
            victim: (victim, killed.host("production")),
            control,
            proxy,
            log,
        }
    }

    /// Starts the clients that the zero-loss load does not have, on a thread of their own.
    fn clients(&self, shared: &Arc<Shared>, victims: &Arc<Victims>) -> std::thread::JoinHandle<()> {
        let address = self.proxy.ingress();
        let site = |moving: &Moving| moving.site(address, shared);
        let (plain, grpc, websockets) = (site(&self.plain), site(&self.grpc), site(&self.websockets));
        let (host, shared, victims) = (self.victim.1.clone(), Arc::clone(shared), Arc::clone(victims));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let mut tasks = JoinSet::new();
                for n in 0..4 {
                    tasks.spawn(grpc::run(Arc::clone(&grpc)));
                    tasks.spawn(websockets::run(Arc::clone(&websockets), n == 0));
                    tasks.spawn(slow::readers(Arc::clone(&plain)));
                    tasks.spawn(slow::heads(Arc::clone(&plain)));
                    tasks.spawn(slow::bodies(Arc::clone(&plain)));
                    tasks.spawn(Arc::clone(&victims).load(n, address, host.clone(), Arc::clone(&shared)));
                }
                tasks.join_all().await;
            });
        })
    }

    /// Moves, kills and samples until the time is over; answers how often it moved.
    fn soak(&self, ask: &Ask, shared: &Shared, victims: &Victims, watched: &mut [Watched]) -> usize {
        let api = self.control.api();
        let (began, mut killed, mut sampled) = (Instant::now(), Instant::now(), Instant::now());
        let mut moves = 0;
        while began.elapsed() < Duration::from_secs(ask.seconds) {
            let turn = Instant::now();
            let moving = [&self.plain, &self.grpc, &self.websockets][moves % 3];
            let [first, second] = &moving.deployments;
            make_move(&api, &moving.environment, moves / 3, [first, second], &moving.timeline, &shared.tally);
            moves += 1;
            if killed.elapsed() >= BETWEEN_KILLS {
                killed = Instant::now();
                victims.kill_one(&api, &self.victim.0);
            }
            if sampled.elapsed() >= BETWEEN_SAMPLES {
                sampled = Instant::now();
                watched.iter_mut().for_each(Watched::sample);
            }
            std::thread::sleep(BETWEEN_MOVES.saturating_sub(turn.elapsed()));
        }
        moves
    }

    /// Says what is wrong when requests or tunnels are left although all clients are gone.
    fn left_over(&self, shared: &Shared) {
        for name in ["repoint_ingress_requests_in_flight", "repoint_ingress_tunnels"] {
            let gone = support::within(support::DEADLINE, || {
                let text = support::http::get(self.proxy.admin(), "localhost", "/metrics").body;
                text.lines().any(|line| line == format!("{name} 0")).then_some(())
            });
            if gone.is_none() {
                shared.tally.wrong(format!("{name} is not 0 with all clients gone"));
            }
        }
    }
}

impl Moving {
    /// Points `environment` at the first, then at the second, so that both have a pool there.
    fn begin(api: &Api, project: &Project, environment: &str, deployments: [String; 2]) -> Self {
        let id = project.environment(environment).to_owned();
        for deployment in &deployments {
            if api.current(&id).as_deref() != Some(deployment) {
                api.promote(deployment, &id).ok();
            }
        }
        let timeline = Arc::new(Timeline::new(deployments[1].clone()));
        Self { environment: id, deployments, timeline, host: project.host(environment) }
    }

    fn site(&self, address: SocketAddr, shared: &Arc<Shared>) -> Arc<Site> {
        Arc::new(Site {
            address,
            host: self.host.clone(),
            timeline: Arc::clone(&self.timeline),
            labels: self.deployments.iter().cloned().zip(LABELS).collect(),
            shared: Arc::clone(shared),
        })
    }
}

/// A deployment of a replica that runs already.
fn endpoint(api: &Api, project: &Project, address: SocketAddr, protocol: &str) -> String {
    let source = json!({ "kind": "endpoints", "endpoints": [format!("http://{address}")], "protocol": protocol });
    let body = json!({ "project_id": project.id, "source": source, "wait_ms": 30_000 });
    text(&api.post("/api/v1/deployments", &body).ok()["id"])
}

fn report(scene: &Scene, shared: &Shared, victims: &Victims, moves: usize, grew: bool) -> ExitCode {
    let log = std::fs::read_to_string(scene.log.path().join("access.log")).expect("the proxy writes it");
    let unexcused = victims.unexcused(&log);
    for line in &unexcused {
        shared.tally.wrong(line.clone());
    }
    let (kills, lost) = victims.counts();
    let counts = shared.tally.counts();
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!("moves                     {moves}");
    println!("answers                   {}", counts.answers);
    println!("  GET / POST / streams    {} / {} / {}", counts.gets, counts.posts, counts.streams);
    println!("  tokens of long streams  {}", counts.tokens);
    println!("  between moves (exact)   {}", counts.exact);
    println!("calls, unary / streaming  {} / {}", of(&shared.unary), of(&shared.streaming));
    println!("WebSockets / messages     {} / {}", of(&shared.websockets), of(&shared.messages));
    let slow = [&shared.slow_readers, &shared.slow_heads, &shared.slow_bodies].map(of);
    println!("slow: read / head / body  {} / {} / {}", slow[0], slow[1], slow[2]);
    println!("replicas killed           {kills}");
    println!("  requests answered       {}", of(&victims.answered));
    println!("  lost with a replica     {}", lost - unexcused.len());
    println!("wrong                     {}", counts.wrong);
    for line in shared.tally.first_wrong() {
        println!("  {line}");
    }
    let all = [counts.exact, of(&shared.unary), of(&shared.streaming), of(&shared.websockets), of(&victims.answered)];
    let idle = all.contains(&0);
    if idle {
        println!("a kind of client was not served once");
    }
    let passed = counts.wrong == 0 && !grew && !idle;
    println!("{} passed, {} failed", u8::from(passed), u8::from(!passed));
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
