//! A running `repoint`: its process, its addresses, its data directory.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::api::Api;
use super::until;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_repoint");

/// A folder that others than its owner may pass through: workers run as a user
/// of their own where the tests run as root.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("its mode is ours");
    folder
}

/// A server process and where it listens.
pub struct Server {
    child: Child,
    command: Vec<String>,
    addresses: Value,
    data_dir: PathBuf,
    // Declared last: removed after the process has ended.
    folder: Arc<TempDir>,
}

impl Server {
    /// `repoint up` on ports of its own in a fresh data directory.
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// The same, with further arguments.
    pub fn up_with(more: &[&str]) -> Self {
        let arguments = ["up", "--ingress", "127.0.0.1:0", "--api", "127.0.0.1:0", "--stream", "127.0.0.1:0"];
        Self::start_in(folder(), &[&arguments[..], more].concat())
    }

    /// The same, with further arguments, by another binary.
    pub fn up_from(binary: &Path, more: &[&str]) -> Self {
        let arguments = ["up", "--ingress", "127.0.0.1:0", "--api", "127.0.0.1:0", "--stream", "127.0.0.1:0"];
        Self::start_from(binary, folder(), &[&arguments[..], more].concat())
    }

    /// `repoint control` on ports of its own in a fresh data directory.
    pub fn control() -> Self {
        Self::start_in(folder(), &["control", "--api", "127.0.0.1:0", "--stream", "127.0.0.1:0"])
    }

    /// The same, with its data there.
    pub fn control_in(data_dir: &Path) -> Self {
        let data_dir = data_dir.to_str().expect("temporary paths are UTF-8");
        let arguments = ["control", "--api", "127.0.0.1:0", "--stream", "127.0.0.1:0", "--data-dir", data_dir];
        Self::start_in(folder(), &arguments)
    }

    /// The same as `control`, with settings of a file: `[fleet]` is in no flag.
    pub fn control_with_settings(settings: &str) -> Self {
        let folder = folder();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, settings).expect("a file of ours");
        let file = file.to_str().expect("temporary paths are UTF-8").to_owned();
        let arguments = ["control", "--api", "127.0.0.1:0", "--stream", "127.0.0.1:0", "--config", &file];
        Self::start_in(folder, &arguments)
    }

    /// A proxy of that control plane with a name of its own, which reaches its
    /// stream at `stream`.
    pub fn proxy_named(control: &Self, name: &str, stream: SocketAddr) -> Self {
        let url = format!("http://{stream}");
        let token = control.data_dir.join("stream.token");
        let token = token.to_str().expect("temporary paths are UTF-8");
        let arguments =
            ["proxy", "--ingress", "127.0.0.1:0", "--proxy-id", name, "--control", &url, "--token-file", token];
        Self::start_in(folder(), &arguments)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr.log")).expect("it logs there")
    }

    /// `repoint proxy` of that control plane.
    pub fn proxy(control: &Self) -> Self {
        Self::proxy_with(control, &[])
    }

    /// The same, with further arguments.
    pub fn proxy_with(control: &Self, more: &[&str]) -> Self {
        let arguments = proxy_arguments(control.stream(), &control.data_dir.join("stream.token"));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Self::start_in(folder(), &arguments)
    }

    /// `repoint proxy` of the control plane that listens there.
    pub fn proxy_of(stream: SocketAddr, token: &Path) -> Self {
        Self::start_in(folder(), &proxy_arguments(stream, token).each_ref().map(String::as_str))
    }

    /// The same, with further arguments, by another binary.
    pub fn proxy_from(binary: &Path, stream: SocketAddr, token: &Path, more: &[&str]) -> Self {
        let arguments = proxy_arguments(stream, token);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Self::start_from(binary, folder(), &arguments)
    }

    /// What a proxy says that must not start.
    pub fn refused_proxy(control: &Self, more: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(proxy_arguments(control.stream(), &control.data_dir.join("stream.token")));
        command.args(["--admin", "127.0.0.1:0"]).args(more);
        command.stdin(Stdio::null()).output().expect("the binary under test runs")
    }

    fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        Self::start_from(Path::new(BINARY), folder, arguments)
    }

    fn start_from(binary: &Path, folder: TempDir, arguments: &[&str]) -> Self {
        let given = arguments.iter().position(|argument| *argument == "--data-dir");
        let data_dir = given.map_or_else(|| folder.path().join("data"), |at| PathBuf::from(arguments[at + 1]));
        let data = data_dir.to_str().expect("temporary paths are UTF-8");
        let mut common = vec!["--admin", "127.0.0.1:0", "--json"];
        if given.is_none() {
            common.extend(["--data-dir", data]);
        }
        let command: Vec<_> = arguments.iter().chain(&common).map(|argument| (*argument).to_owned()).collect();
        let (child, addresses) = launch(binary, &command, folder.path());
        Self { child, command, addresses, data_dir, folder: Arc::new(folder) }
    }

    /// Where requests arrive.
    pub fn ingress(&self) -> SocketAddr {
        self.address("ingress")
    }

    /// Where proxies connect.
    pub fn stream(&self) -> SocketAddr {
        self.address("stream")
    }

    /// Where metrics and health checks answer.
    pub fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    /// The REST API, with the admin key.
    pub fn api(&self) -> Api {
        let key = std::fs::read_to_string(self.data_dir.join("admin.key")).expect("the first start makes a key");
        Api::new(self.address("api"), key.trim())
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The command line, against this server with its admin key.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with(arguments, &[])
    }

    /// The same, with further environment variables.
    pub fn cli_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let key = std::fs::read_to_string(self.data_dir.join("admin.key")).expect("the first start makes a key");
        let server = format!("http://{}", self.address("api"));
        Command::new(BINARY)
            .args(arguments)
            .env("REPOINT_SERVER", server)
            .env("REPOINT_API_KEY", key.trim())
            .env("REPOINT_CONFIG_DIR", &self.data_dir)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("the binary under test runs")
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Asks it to end, as an init system would.
    pub fn terminate(&mut self) {
        signal(self.child.id(), "TERM");
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> ExitStatus {
        until("the server to end", || self.child.try_wait().expect("it is our child"))
    }

    /// Starts it again, on the ports it had, with the data it has.
    pub fn start_again(&mut self) {
        let mut command = self.command.clone();
        for (flag, name) in [("--ingress", "ingress"), ("--api", "api"), ("--stream", "stream"), ("--admin", "admin")] {
            if let Some(at) = command.iter().position(|argument| argument == flag) {
                command[at + 1] = self.address(name).to_string();
            }
        }
        (self.child, self.addresses) = launch(Path::new(BINARY), &command, self.folder.path());
        self.command = command;
    }

    /// A proxy that takes over from this one, started the same way.
    pub fn successor(&self) -> Self {
        let mut command = self.command.clone();
        if !command.iter().any(|argument| argument == "--take-over") {
            command.push("--take-over".to_owned());
        }
        let (child, addresses) = launch(Path::new(BINARY), &command, self.folder.path());
        Self { child, command, addresses, data_dir: self.data_dir.clone(), folder: Arc::clone(&self.folder) }
    }

    /// What a successor of this one says that must not succeed, with further
    /// arguments, and how it ends.
    pub fn failed_successor(&self, more: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(&self.command).arg("--take-over").args(more);
        command.stdin(Stdio::null()).output().expect("the binary under test runs")
    }

    /// The arguments it was started with.
    pub fn command(&self) -> &[String] {
        &self.command
    }

    /// Whether its process is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Leaves an argument and its value out from the next start on.
    pub fn forget_argument(&mut self, flag: &str) {
        let at = self.command.iter().position(|argument| argument == flag).expect("it was given");
        self.command.drain(at..at + 2);
    }

    /// Whether it listens for this.
    pub fn has(&self, name: &str) -> bool {
        !self.addresses[name].is_null()
    }

    /// Where it listens for this.
    pub fn address_of(&self, name: &str) -> SocketAddr {
        self.address(name)
    }

    fn address(&self, name: &str) -> SocketAddr {
        let value = &self.addresses[name];
        let text = value.as_str().or_else(|| value[0].as_str());
        let text = text.unwrap_or_else(|| panic!("no {name} address in {}", self.addresses));
        text.trim_start_matches("http://").parse().expect("a bound address")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Asked first, so that its workers are ended by it; then insisted.
            signal(self.child.id(), "TERM");
            let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < end {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn proxy_arguments(stream: SocketAddr, token: &Path) -> [String; 7] {
    let url = format!("http://{stream}");
    let token = token.to_str().expect("temporary paths are UTF-8");
    ["proxy", "--ingress", "127.0.0.1:0", "--control", &url, "--token-file", token].map(str::to_owned)
}

/// Sends a signal by name to a process this run started.
pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    done.expect("kill runs");
}

fn launch(binary: &Path, command: &[String], folder: &Path) -> (Child, Value) {
    let (child, said) = start_binary(binary, command, folder, []);
    let addresses = serde_json::from_str(&said).unwrap_or_else(|_| {
        let log = std::fs::read_to_string(folder.join("stderr.log")).unwrap_or_default();
        panic!("{command:?} did not say where it listens: {said:?}\n{log}")
    });
    (child, addresses)
}

/// Starts the binary with these arguments and, besides its own, these variables; its log and its context go into
/// `folder`. Answers the first line that it says.
pub fn start(
    command: &[String],
    folder: &Path,
    variables: impl IntoIterator<Item = (&'static str, PathBuf)>,
) -> (Child, String) {
    start_binary(Path::new(BINARY), command, folder, variables)
}

fn start_binary(
    binary: &Path,
    command: &[String],
    folder: &Path,
    variables: impl IntoIterator<Item = (&'static str, PathBuf)>,
) -> (Child, String) {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("stderr.log")).expect("a log");
    let mut child = Command::new(binary)
        .args(command)
        .env("REPOINT_CONFIG_DIR", folder.join("config"))
        .env_remove("REPOINT_SERVER")
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the binary under test runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("its output is text");
    (child, line)
}
