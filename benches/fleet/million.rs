//! One `repoint proxy` with very many environments: how long until it is ready, and what that takes of memory.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::control::number;
use crate::feed;
use crate::process;
use crate::support::http;
use crate::support::server::{Server, folder};
use crate::support::within;

/// Longest wait for a table.
const READY_MAX: Duration = Duration::from_secs(60);

/// Loads so many environments from a control plane, anew beside those that serve, and from disk.
pub fn run(environments: usize) -> Result<(), String> {
    let token = folder();
    let token = token.path().join("stream.token");
    let feed = Feed::start(environments, 1, SocketAddr::from(([127, 0, 0, 1], 0)), &token)?;
    let began = Instant::now();
    let mut proxy = Server::proxy_of(feed.address, &token);
    let ready = wait_ready(&proxy, began)?;
    wait_kept(&proxy, 1)?;
    let kept = began.elapsed();
    let peak = process::memory_peak_of(proxy.pid());
    std::thread::sleep(Duration::from_secs(3));
    let steady = process::memory_of(proxy.pid());
    println!(
        "{environments} environments from a control plane: ready after {:.1} s, on disk after {:.1} s; {} MiB steady \
         (wanted: 429), {} at most while it loaded (wanted: 858)",
        ready.as_secs_f64(),
        kept.as_secs_f64(),
        mib(steady),
        mib(peak)
    );

    // Another history with the same environments: a whole table beside the one that serves.
    let address = feed.address;
    drop(feed);
    process::reset_memory_peak_of(proxy.pid())?;
    let again = Instant::now();
    let feed = Feed::start(environments, 2, address, &token)?;
    wait_snapshots(&proxy, 2)?;
    wait_kept(&proxy, 2)?;
    println!(
        "  a whole snapshot beside the table that serves: {:.1} s with the wait for the control plane, {} MiB at most, \
         {} afterwards",
        again.elapsed().as_secs_f64(),
        mib(process::memory_peak_of(proxy.pid())),
        mib(process::memory_of(proxy.pid()))
    );

    drop(feed);
    proxy.kill();
    let began = Instant::now();
    proxy.start_again();
    let ready = wait_ready(&proxy, began)?;
    let peak = process::memory_peak_of(proxy.pid());
    std::thread::sleep(Duration::from_secs(3));
    println!(
        "  from disk, without a control plane: ready after {:.1} s (wanted: 5); {} MiB steady, {} at most while it loaded",
        ready.as_secs_f64(),
        mib(process::memory_of(proxy.pid())),
        mib(peak)
    );
    Ok(())
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn wait_ready(proxy: &Server, began: Instant) -> Result<Duration, String> {
    let is_ready = || (http::get(proxy.admin(), "admin", "/readyz").status == 200).then(|| began.elapsed());
    within(READY_MAX, is_ready).ok_or(format!("the proxy is not ready after {READY_MAX:?}"))
}

fn wait_snapshots(proxy: &Server, count: u64) -> Result<(), String> {
    wait_metric(proxy, "stream_client_snapshots_total", count)
}

/// Waits until its disk has this revision.
fn wait_kept(proxy: &Server, revision: u64) -> Result<(), String> {
    wait_metric(proxy, "last_known_good_durable_revision", revision)
}

fn wait_metric(proxy: &Server, name: &str, least: u64) -> Result<(), String> {
    let has = || {
        let metrics = http::get(proxy.admin(), "admin", "/metrics").body;
        (number(&metrics, name) >= least).then_some(())
    };
    within(READY_MAX, has).ok_or(format!("{name} of the proxy is not {least} after {READY_MAX:?}"))
}

/// The process that feeds; ends when dropped.
struct Feed {
    child: Child,
    address: SocketAddr,
}

impl Feed {
    fn start(environments: usize, lineage: u32, address: SocketAddr, token: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("start a control plane: {error}");
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args([feed::ARGUMENT, &environments.to_string(), &lineage.to_string(), &address.to_string()])
            .arg(token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).map_err(failed)?;
        let address = line.trim().parse().map_err(|_| format!("start a control plane: it said {line:?}"))?;
        Ok(Self { child, address })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // Its standard input is closed with this; it ends by itself, and at once.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
