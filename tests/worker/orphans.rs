//! No orphans, whatever becomes of the supervisor.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use repoint::fleet::{self, Fleet};
use repoint::logs::{self, LogFolder};
use repoint::store::{self, Store};
use repoint::telemetry::metrics::Metrics;
use repoint::worker::Supervisor;
use rustix::process::Signal;

use crate::bench::{Bench, PORTS, config, first_port, is_alive, kill, printed, until};

/// Names the data directory for the process that [`somebody_elses_supervisor`] runs in.
const VARIABLE: &str = "REPOINT_TEST_SUPERVISE";

/// A worker with a child of its own, both deaf to SIGTERM.
const DEAF: &str = r#"
import os, signal, socket, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
child = subprocess.Popen(["sleep", "1000"])
print("worker", os.getpid(), flush=True)
print("child", child.pid, flush=True)
while True:
    listener.accept()[0].close()
"#;

/// Not a test but a program: in a process of its own it supervises until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_supervisor() {
    let Some(dir) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return };
    let (data_dir, base_domain) = (dir.clone(), "localhost".parse().unwrap());
    let shared_hosts = Vec::new();
    let store = Store::open(&store::Config { data_dir, base_domain, shared_hosts }).await.unwrap();
    let logs = LogFolder::open(dir.join("logs"), logs::Config::default()).unwrap();
    let fleet = Fleet::new(fleet::Config::default());
    let _running = Supervisor::start(config(&dir, |_| {}), store, fleet, logs, &Metrics::default()).await.unwrap();
    std::future::pending::<()>().await;
}

/// The processes of a supervisor that runs elsewhere.
struct Elsewhere {
    bench: Bench,
    supervisor: Child,
    key: repoint::model::pool::PoolKey,
}

impl Elsewhere {
    async fn start() -> Self {
        let mut bench = Bench::without_supervisor().await;
        let manifest = "[worker]\ncommand = [\"python3\", \"worker.py\"]\n";
        let key = bench.deploy(manifest, &[("worker.py", DEAF)], 2).await;
        let dir = bench.dir.path().to_owned();
        // The data directory has one owner.
        bench.store.close().await;
        bench.store = crate::bench::open(tempfile::tempdir().unwrap().path()).await.0;
        let supervisor = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "orphans::somebody_elses_supervisor", "--nocapture"])
            .env(VARIABLE, dir)
            .env(PORTS, first_port())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let elsewhere = Self { bench, supervisor, key };
        until("four processes", || elsewhere.pids().len() == 4).await;
        elsewhere
    }

    fn pids(&self) -> Vec<u32> {
        ["worker", "child"].iter().flat_map(|word| printed(&self.bench.logs, self.key, word)).collect()
    }

    /// The guard: the supervisor's child that is no worker.
    fn guard(&self) -> Option<u32> {
        let children = format!("/proc/{0}/task", self.supervisor.id());
        let children = std::fs::read_dir(children)
            .ok()?
            .flatten()
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        let pids: Vec<u32> =
            children.flat_map(|pids| pids.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
        pids.into_iter().find(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.contains("worker-guard")
        })
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_supervisor_that_is_killed() {
    let mut elsewhere = Elsewhere::start().await;
    let pids = elsewhere.pids();
    let guard = elsewhere.guard().expect("a guard");
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    elsewhere.supervisor.kill().unwrap();
    elsewhere.supervisor.wait().unwrap();
    until("everybody to end, the guard last", || !pids.iter().any(|pid| is_alive(*pid)) && !is_alive(guard)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_is_deaf_to_a_terminal_and_replaced_when_it_is_killed() {
    let mut elsewhere = Elsewhere::start().await;
    let pids = elsewhere.pids();
    let first = elsewhere.guard().expect("a guard");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        kill(first, signal);
    }
    kill(first, Signal::KILL);
    until("another guard", || elsewhere.guard().is_some_and(|guard| guard != first)).await;
    assert!(pids.iter().all(|pid| is_alive(*pid)), "replicas do not notice");
    elsewhere.supervisor.kill().unwrap();
    elsewhere.supervisor.wait().unwrap();
    until("everybody to end", || !pids.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_dropped_without_a_word_leaves_nothing() {
    let bench = Bench::without_supervisor().await;
    let key = bench.deploy("[worker]\ncommand = [\"python3\", \"worker.py\"]\n", &[("worker.py", DEAF)], 1).await;
    let (dir, store) = (bench.dir.path().to_owned(), bench.store.clone());
    let logs = bench.logs.clone();
    // A runtime of its own that ends in the middle of everything, as after a panic.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fleet = Fleet::new(fleet::Config::default());
    let _running = runtime.spawn(async move {
        Supervisor::start(config(&dir, |_| {}), store, fleet, logs, &Metrics::default()).await.unwrap()
    });
    until("two processes", || ["worker", "child"].iter().all(|word| printed(&bench.logs, key, word).len() == 1)).await;
    let pids: Vec<u32> = ["worker", "child"].iter().flat_map(|word| printed(&bench.logs, key, word)).collect();
    runtime.shutdown_background();
    until("everybody to end", || !pids.iter().any(|pid| is_alive(*pid))).await;
}
