//! The proxies: Repoint and its peers, their processes, and what is known of each.
//!
//! How a peer is configured is the business of the file named after it.

#[path = "peers/caddy.rs"]
mod caddy;
#[path = "peers/envoy.rs"]
mod envoy;
#[path = "peers/haproxy.rs"]
mod haproxy;
#[path = "peers/nginx.rs"]
mod nginx;
#[path = "peers/repoint.rs"]
mod repoint;
#[path = "peers/site.rs"]
mod site;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use site::{CONNECTIONS_MAX, Tls};

use crate::pointers::Expected;
use crate::support::server::Server;
use crate::support::until;
use crate::{Ask, machine};
use site::Site;

/// What is spoken to clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Http1,
    Tls,
    H2c,
}

/// What `--peers` may name.
pub const NAMES: [&str; 5] = ["haproxy", "nginx", "nginx-tuned", "envoy", "caddy"];
/// The name of the way without a proxy.
pub const DIRECT: &str = "direct";

/// A running proxy.
pub struct Peer {
    pub name: String,
    /// Where it listens; of the direct way the replicas.
    pub addresses: Vec<SocketAddr>,
    pub environments: usize,
    /// Whose turn it is, while environments are asked one after the other and not at random.
    pub turn: Option<Arc<AtomicUsize>>,
    pub expected: Expected,
    /// Whom TLS clients are to trust.
    pub authority: Option<Arc<str>>,
    process: Process,
    // Removed after the process has ended.
    _folder: Option<TempDir>,
}

enum Process {
    Repoint(Box<Server>),
    Other(Child),
    None,
}

impl Peer {
    /// No proxy: clients go to the replicas themselves.
    pub fn direct(environments: usize, replicas: &[u16]) -> Self {
        Self {
            name: DIRECT.to_owned(),
            addresses: replicas.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect(),
            environments,
            turn: None,
            expected: Expected::Still,
            authority: None,
            process: Process::None,
            _folder: None,
        }
    }

    /// A Repoint that was started elsewhere.
    pub fn repoint(name: &str, server: Server, environments: usize, expected: Expected) -> Self {
        Self {
            name: name.to_owned(),
            addresses: vec![server.ingress()],
            environments,
            turn: None,
            expected,
            authority: None,
            process: Process::Repoint(Box::new(server)),
            _folder: None,
        }
    }

    /// Nanoseconds of processor time so far; none where there is no process.
    pub fn cpu(&self) -> Option<u64> {
        self.pid().map(machine::cpu_of)
    }

    /// Bytes of memory of its own.
    pub fn memory(&self) -> u64 {
        self.pid().map_or(0, machine::memory_of)
    }

    fn pid(&self) -> Option<u32> {
        match &self.process {
            Process::Repoint(server) => Some(server.pid()),
            Process::Other(child) => Some(child.id()),
            Process::None => None,
        }
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.process {
            Process::Repoint(server) => !server.is_running(),
            Process::Other(child) => !matches!(child.try_wait(), Ok(None)),
            Process::None => false,
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Process::Other(child) = &mut self.process {
            // NGINX's master ends its workers when it is asked to.
            crate::support::server::signal(child.id(), "TERM");
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            // It is ours, whatever it did.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The host of an environment, and the replica behind it.
pub fn host(environment: usize) -> String {
    format!("env-{environment:07}.example.test")
}

/// Those of the proxies asked for that are here, Repoint last. Says which are not.
pub fn here(ask: &Ask) -> Vec<String> {
    let (here, missing): (Vec<_>, Vec<_>) = ask.peers.iter().cloned().partition(|name| binary_of(name).is_some());
    for name in missing {
        eprintln!("{name} is not here, and is left out");
    }
    here.into_iter().chain(["repoint".to_owned()]).collect()
}

/// Starts these proxies.
pub fn start(ask: &Ask, names: &[String], mode: Mode, replicas: &[u16]) -> Result<Vec<Peer>, String> {
    let tls = Tls::make()?;
    machine::pin_to(machine::PROXY_CORE)?;
    let peers = names.iter().map(|name| start_one(ask, name, mode, replicas, &tls)).collect();
    machine::pin_to(machine::LOAD_CORE)?;
    peers
}

fn start_one(ask: &Ask, name: &str, mode: Mode, replicas: &[u16], tls: &Tls) -> Result<Peer, String> {
    if name == "repoint" {
        return repoint::start(ask, mode, replicas, tls);
    }
    let binary = binary_of(name).ok_or(format!("{name} is not here"))?;
    let folder = tempfile::tempdir().map_err(|error| format!("make a folder: {error}"))?;
    let port = free_port();
    let site = Site { folder: folder.path(), port, mode, environments: ask.environments, replicas, tls };
    let child = site.start(name, &binary)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let log = site.path("log");
    let mut peer = Peer {
        name: name.to_owned(),
        addresses: vec![address],
        environments: ask.environments,
        turn: None,
        expected: Expected::Still,
        authority: Some(tls.certificate.as_str().into()),
        process: Process::Other(child),
        _folder: Some(folder),
    };
    let listens = until(&format!("{name} to listen or to end"), || match TcpStream::connect(address) {
        Ok(_) => Some(true),
        Err(_) if peer.has_ended() => Some(false),
        Err(_) => None,
    });
    if !listens {
        return Err(format!("{name} ended: {}", std::fs::read_to_string(log).unwrap_or_default()));
    }
    Ok(peer)
}

fn free_port() -> u16 {
    // Free a moment ago; peers cannot be given a socket.
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port on loopback").port()
}

fn binary_of(name: &str) -> Option<PathBuf> {
    let binary = name.split('-').next().unwrap_or(name);
    let own = std::env::var_os(binary.to_ascii_uppercase()).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    own.into_iter().chain(folders.map(|folder| folder.join(binary))).find(|path| path.is_file())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("write {}: {error}", path.display()))
}
