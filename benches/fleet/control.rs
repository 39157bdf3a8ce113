//! The control plane of a run: a `repoint control` process, with what is asked of it.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::machine;
use crate::process;
use crate::support::api::{Api, text};
use crate::support::http;
use crate::support::server::Server;

/// A running control plane with one environment and two deployments to move between.
pub struct Control {
    server: Server,
    api: Api,
    environment: String,
    deployments: [String; 2],
    _replica: TcpListener,
}

/// What one move took, from its commit on.
pub struct Told {
    pub p50: Duration,
    pub p99: Duration,
    pub all: Duration,
}

/// When proxies were back.
#[derive(Default)]
pub struct Back {
    pub half: Duration,
    pub most: Duration,
}

/// What was spent so far.
#[derive(Clone, Copy)]
pub struct Spent {
    /// Seconds of processor time of the control plane.
    pub cpu: f64,
    /// Bytes over loopback, of everybody.
    pub bytes: f64,
}

/// What an idle second costs.
pub type Idle = Spent;

impl Spent {
    pub fn since(self, before: Self) -> Self {
        Self { cpu: self.cpu - before.cpu, bytes: self.bytes - before.bytes }
    }
}

/// Idle time that is measured.
const IDLE: Duration = Duration::from_secs(10);
/// Between two looks at how many are back.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Control {
    pub fn start() -> Result<Self, String> {
        let server = Server::control();
        let api = server.api();
        let project = api.project("fleet");
        // Whoever connects is ready: no request is ever sent there.
        let replica = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("bind a replica's port: {error}"))?;
        let address = replica.local_addr().map_err(|error| format!("bind a replica's port: {error}"))?;
        let deploy = || {
            let source = json!({ "kind": "endpoints", "endpoints": [format!("http://{address}")] });
            let body = json!({ "project_id": project.id, "source": source,
                               "environment_id": project.environment("staging"), "wait_ms": 30_000 });
            text(&api.post("/api/v1/deployments", &body).ok()["id"])
        };
        let deployments = [deploy(), deploy()];
        let environment = project.environment("staging").to_owned();
        Ok(Self { server, api, environment, deployments, _replica: replica })
    }

    pub fn stream(&self) -> SocketAddr {
        self.server.stream()
    }

    pub fn token_file(&self) -> PathBuf {
        self.server.data_dir().join("stream.token")
    }

    /// Bytes of memory that are in use.
    pub fn memory(&self) -> u64 {
        process::memory_of(self.server.pid())
    }

    pub fn spent(&self) -> Spent {
        Spent { cpu: machine::cpu_of(self.server.pid()) as f64 / 1e9, bytes: process::loopback_bytes() as f64 }
    }

    /// Lets what came with the last proxies settle.
    pub fn rest(&self) {
        std::thread::sleep(Duration::from_secs(3));
    }

    /// What a second costs in which nothing moves.
    pub fn idle(&self) -> Idle {
        let (before, began) = (self.spent(), Instant::now());
        std::thread::sleep(IDLE);
        let (spent, took) = (self.spent().since(before), began.elapsed().as_secs_f64());
        Spent { cpu: spent.cpu / took, bytes: spent.bytes / took }
    }

    /// Makes a move and waits until every proxy has it.
    pub fn moves(&self, n: usize) -> Result<Told, String> {
        let body = json!({ "source_deployment_id": self.deployments[n % 2],
                           "target_environment_id": self.environment, "wait_ms": 0 });
        let moved = self.api.post("/api/v1/deployments/promote", &body).ok();
        let path = format!("/api/v1/promotions/{}/events", text(&moved["promotion"]["id"]));
        let events = self.api.events(&path);
        let applied = events.iter().find(|event| event["event"] == "applied");
        let applied = applied.ok_or(format!("move {n} was not applied: {events:?}"))?;
        let time = |name: &str| applied[name].as_f64().map(|millis| Duration::from_secs_f64(millis / 1_000.0));
        match (time("p50_ms"), time("p99_ms"), time("all_ms")) {
            (Some(p50), Some(p99), Some(all)) => Ok(Told { p50, p99, all }),
            _ => Err(format!("move {n} has no times: {applied}")),
        }
    }

    /// The time over which so many are asked to come back.
    pub fn reconnect_spread(&self, proxies: usize) -> Duration {
        (Duration::from_millis(500) + Duration::from_millis(1) * proxies as u32).min(Duration::from_secs(20))
    }

    pub fn kill(&mut self) {
        self.server.kill();
    }

    pub fn start_again(&mut self) {
        self.server.start_again();
    }

    /// Waits until all have a stream and the newest revision.
    pub fn wait_back(&self, proxies: usize, ends: Instant) -> Result<Back, String> {
        let (began, mut back) = (Instant::now(), Back::default());
        let head = self.head();
        loop {
            let metrics = http::get(self.server.admin(), "admin", "/metrics").body;
            let (streams, applied) =
                (number(&metrics, "stream_server_streams"), number(&metrics, "fleet_applied_revision_min"));
            let took = began.elapsed();
            let note = |at: &mut Duration, is_so: bool| {
                if is_so && at.is_zero() {
                    *at = took;
                }
            };
            note(&mut back.half, streams * 2 >= proxies as u64);
            note(&mut back.most, streams * 100 >= proxies as u64 * 99);
            if streams >= proxies as u64 && applied >= head {
                return Ok(back);
            }
            if Instant::now() >= ends {
                return Err(format!(
                    "{streams} of {proxies} proxies are there, and the last one is at {applied} of {head}"
                ));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn head(&self) -> u64 {
        self.api.get("/api/v1/proxies").ok()["head_revision"].as_u64().unwrap_or_default()
    }
}

/// A metric without labels, whatever prefix all of them have.
pub fn number(metrics: &str, name: &str) -> u64 {
    let value = |line: &str| {
        let (metric, value) = line.split_once(' ')?;
        metric.ends_with(name).then(|| value.parse::<f64>().ok()).flatten()
    };
    metrics.lines().filter(|line| !line.starts_with('#')).find_map(value).unwrap_or_default() as u64
}
