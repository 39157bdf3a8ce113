//! A control plane that is killed and started again, on one data directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;

use serde_json::Value;
use tempfile::TempDir;

use super::page::Page;
use super::support::api::Api;
use super::support::server::{Server, folder, start};
use super::support::until;

/// A `repoint control` under the killer.
pub struct Plane {
    child: Child,
    addresses: Value,
    command: Vec<String>,
    pub page: Page,
    data_dir: PathBuf,
    // Declared last: removed after the process has ended.
    folder: TempDir,
}

impl Plane {
    /// One on ports of its own, in a data directory of its own. `None` where
    /// nothing can be put in front of libc; says so.
    pub fn control() -> Option<Self> {
        let folder = folder();
        Self::start_in(folder.path().join("data"), folder, &["control"])
    }

    /// `repoint up`, for stories about replicas: it need not wait for proxies that may still come back.
    pub fn up() -> Option<Self> {
        let folder = folder();
        Self::start_in(folder.path().join("data"), folder, &["up", "--ingress", "127.0.0.1:0"])
    }

    /// This, in this data directory; `folder` keeps its log.
    pub fn start_in(data_dir: PathBuf, folder: TempDir, what: &[&str]) -> Option<Self> {
        if !cfg!(target_os = "linux") {
            eprintln!("skipped: LD_PRELOAD as used here is Linux's");
            return None;
        }
        let page = Page::new(&folder.path().join("page"));
        let data = data_dir.to_str().expect("temporary paths are UTF-8");
        let any = ["--api", "127.0.0.1:0", "--stream", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let command = [what, &any, &["--json", "--data-dir", data]].concat();
        let mut command: Vec<_> = command.into_iter().map(str::to_owned).collect();
        let (child, addresses) = launch(&command, &page, folder.path());
        let addresses = addresses.unwrap_or_else(|| panic!("it starts: {}", log(folder.path())));
        if !page.is_loaded() {
            eprintln!("skipped: this binary does not load what LD_PRELOAD names");
            return None;
        }
        // From now on on these ports.
        for name in ["ingress", "api", "stream", "admin"] {
            if let Some(at) = command.iter().position(|argument| *argument == format!("--{name}")) {
                command[at + 1] = address(&addresses, name).to_string();
            }
        }
        Some(Self { child, addresses, command, page, data_dir, folder })
    }

    /// Where requests arrive.
    pub fn ingress(&self) -> SocketAddr {
        address(&self.addresses, "ingress")
    }

    /// A proxy of it, which is not under the killer.
    pub fn proxy(&self) -> Server {
        Server::proxy_of(address(&self.addresses, "stream"), &self.data_dir.join("stream.token"))
    }

    /// Its API. A new one for each run: connections do not outlive a process.
    pub fn api(&self) -> Api {
        let key = std::fs::read_to_string(self.data_dir.join("admin.key")).expect("the first start makes a key");
        Api::new(address(&self.addresses, "api"), key.trim())
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether it has ended.
    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Kills it unless it is dead already.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        self.page.disarm();
    }

    /// Starts it again, on the ports it had. Answers whether it came so far as
    /// to say where it listens; only a kill may keep it from that.
    pub fn start_again(&mut self) -> bool {
        assert!(self.is_dead(), "one at a time");
        until("it to start", || {
            let (child, addresses) = launch(&self.command, &self.page, self.folder.path());
            self.child = child;
            if addresses.is_none() {
                self.child.wait().expect("it is our child");
            }
            // One that was killed between fork and exec of a worker leaves a child that holds its sockets for another
            // moment. Whoever restarts a server tries again.
            (addresses.is_some() || self.page.may_kill()).then_some(addresses.is_some())
        })
    }

    /// What it has logged, over all its runs.
    pub fn log(&self) -> String {
        log(self.folder.path())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // Its workers end with it: that is one of the things under test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("stderr.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn address(addresses: &Value, name: &str) -> SocketAddr {
    let text = addresses[name].as_str().or_else(|| addresses[name][0].as_str());
    let text = text.unwrap_or_else(|| panic!("no {name} address in {addresses}"));
    text.trim_start_matches("http://").parse().expect("a bound address")
}

fn launch(command: &[String], page: &Page, folder: &Path) -> (Child, Option<Value>) {
    let (child, said) = start(command, folder, page.variables());
    (child, serde_json::from_str(&said).ok())
}
