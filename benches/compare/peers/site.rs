//! What every peer is configured with, and how each is started.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Mode, NAMES, caddy, envoy, haproxy, host, nginx};

/// Clients that each peer admits at a time: those of the idle work, and room.
pub const CONNECTIONS_MAX: usize = 12_000;

/// What a configuration is made of.
pub struct Site<'a> {
    pub folder: &'a Path,
    pub port: u16,
    pub mode: Mode,
    pub environments: usize,
    pub replicas: &'a [u16],
    pub tls: &'a Tls,
}

/// What TLS is served with.
pub struct Tls {
    pub certificate: String,
    pub key: String,
}

impl Tls {
    pub fn make() -> Result<Self, String> {
        let hosts = ["*.example.test".to_owned()];
        let made = rcgen::generate_simple_self_signed(hosts).map_err(|error| format!("make a certificate: {error}"))?;
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }
}

impl Site<'_> {
    pub fn start(&self, name: &str, binary: &Path) -> Result<Child, String> {
        self.write("cert.pem", &self.tls.certificate)?;
        self.write("key.pem", &self.tls.key)?;
        self.write("both.pem", &format!("{}{}", self.tls.certificate, self.tls.key))?;
        let mut command = Command::new(binary);
        match name {
            "haproxy" => {
                self.write("haproxy.cfg", &haproxy::settings(self)?)?;
                command.arg("-db").arg("-f").arg(self.path("haproxy.cfg"));
            }
            "nginx" | "nginx-tuned" => {
                self.write("nginx.conf", &nginx::settings(self, name == "nginx-tuned")?)?;
                command.arg("-p").arg(self.folder).arg("-c").arg(self.path("nginx.conf"));
            }
            "envoy" => {
                self.write("envoy.json", &envoy::settings(self).to_string())?;
                command.arg("-c").arg(self.path("envoy.json"));
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
            }
            "caddy" => {
                self.write("Caddyfile", &caddy::settings(self))?;
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(self.path("Caddyfile"));
                // What it keeps for itself goes with the rest.
                command.env("GOMAXPROCS", "1").env("HOME", self.folder);
                command.env("XDG_DATA_HOME", self.folder).env("XDG_CONFIG_HOME", self.folder);
            }
            other => return Err(format!("{other} is not known; there are {}", NAMES.join(", "))),
        }
        let log = std::fs::File::create(self.path("log")).map_err(|error| format!("make a log: {error}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().map_err(|error| format!("start {}: {error}", binary.display()))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> Result<(), String> {
        super::write(&self.path(name), text)
    }

    /// A line for each environment: its host, and what it leads to.
    pub fn map(&self, end: &str) -> String {
        let line = |n| format!("{} dep{}{end}\n", host(n), n % self.replicas.len());
        (0..self.environments).map(line).collect()
    }
}
