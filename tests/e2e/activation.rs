//! An init system, played by the test: it binds sockets before the server is
//! there, and hears how the server is.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::support::http::{self, Client};
use super::support::server::{BINARY, Server, folder, signal};
use super::support::{DEADLINE, until};

/// A folder, and what listens to the servers in it.
struct Init {
    folder: TempDir,
    told: UnixDatagram,
}

/// A server that was started with two sockets; ended when dropped.
struct Unit {
    child: Child,
    folder: PathBuf,
}

impl Init {
    fn begin() -> Self {
        let folder = folder();
        let told = UnixDatagram::bind(folder.path().join("notify")).expect("a socket of ours");
        told.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
        Self { folder, told }
    }

    /// Starts a server the way an init system does: sockets from descriptor 3 on,
    /// their names and the process they are for in the environment. The shell
    /// puts them there and becomes the server.
    fn start(&self, sockets: [(&str, &TcpListener); 2], arguments: &[&str]) -> Unit {
        let path = |name: &str| self.folder.path().join(name);
        let passed = |listener: &TcpListener| Stdio::from(OwnedFd::from(listener.try_clone().expect("a descriptor")));
        let [(first_name, first), (second_name, second)] = sockets;
        let shell = "exec 3<&0 4<&2 2>>\"$LOG\" 0</dev/null >\"$SAID\"; LISTEN_PID=$$ exec \"$@\"";
        let child = Command::new("sh")
            .args(["-c", shell, "sh", BINARY])
            .args(arguments)
            .args(["--json", "--data-dir"])
            .arg(path("data"))
            .env("LOG", path("stderr.log"))
            .env("SAID", path("said"))
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", format!("{first_name}:{second_name}"))
            .env("NOTIFY_SOCKET", path("notify"))
            .env("WATCHDOG_USEC", "400000")
            .env("REPOINT_CONFIG_DIR", path("config"))
            .stdin(passed(first))
            .stderr(passed(second))
            .spawn()
            .expect("there is a shell");
        Unit { child, folder: self.folder.path().to_owned() }
    }

    /// Waits until the server says this.
    fn hears(&self, what: &str) {
        let mut bytes = [0; 4096];
        loop {
            let length = self.told.recv(&mut bytes).unwrap_or_else(|_| panic!("it says {what}"));
            if String::from_utf8_lossy(&bytes[..length]).lines().any(|line| line == what) {
                return;
            }
        }
    }

    /// Waits until the server says this of something, and answers of what.
    fn hears_of(&self, what: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let length = self.told.recv(&mut bytes).unwrap_or_else(|_| panic!("it says {what}"));
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if let Some(of) = said.lines().find_map(|line| line.strip_prefix(what)) {
                return of.to_owned();
            }
        }
    }

    fn heard_nothing_like(&self, what: &str) {
        self.told.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket takes a timeout");
        let mut bytes = [0; 4096];
        while let Ok(length) = self.told.recv(&mut bytes) {
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            assert!(said.lines().all(|line| line != what), "{said}");
        }
        self.told.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
    }
}

impl Unit {
    /// Where it says it listens.
    fn said(&self) -> Value {
        until("the server to say where it listens", || {
            let said = std::fs::read_to_string(self.folder.join("said")).ok()?;
            serde_json::from_str(said.lines().next()?).ok()
        })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr.log")).unwrap_or_default()
    }

    fn ends(&mut self) -> bool {
        until("the server to end", || self.child.try_wait().expect("it is our child")).success()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

#[test]
fn a_proxy_takes_passed_sockets_and_answers_who_came_before_it() {
    let control = Server::control();
    let init = Init::begin();
    let (ingress, admin) = (listener(), listener());
    let (address, probes) = (ingress.local_addr().expect("bound"), admin.local_addr().expect("bound"));
    let mut early = Client::connect(address);
    early.send("GET", "nowhere.localhost", "/", &[], b"").expect("it waits in the queue");

    let stream = format!("http://{}", control.stream());
    let token = control.data_dir().join("stream.token");
    let arguments = ["proxy", "--control", &stream, "--token-file", token.to_str().expect("UTF-8")];
    let mut unit = init.start([("ingress", &ingress), ("admin", &admin)], &arguments);
    let said = unit.said();
    assert_eq!(said["ingress"], serde_json::json!([address.to_string()]), "and nothing beside it");
    assert_eq!(said["admin"], format!("http://{probes}"));
    init.hears("READY=1");
    assert_eq!(http::get(probes, "localhost", "/readyz").status, 200, "ready is said when it is");
    let answer = early.read().expect("an answer");
    assert!([404, 503].contains(&answer.status), "it came before the table, or not: {answer:?}");
    init.hears("WATCHDOG=1");

    signal(unit.child.id(), "TERM");
    init.hears("STOPPING=1");
    assert!(unit.ends());
    // The init system has the socket still: whoever comes now waits for the next start.
    let mut late = Client::connect(address);
    late.send("GET", "nowhere.localhost", "/", &[], b"").expect("it waits in the queue");
    let _next = init.start([("ingress", &ingress), ("admin", &admin)], &arguments);
    assert_eq!(late.read().expect("an answer").status, 404, "from the table on disk");
}

#[test]
fn a_signal_replaces_a_proxy_and_the_init_system_follows() {
    let control = Server::control();
    let init = Init::begin();
    let (ingress, admin) = (listener(), listener());
    let address = ingress.local_addr().expect("bound");
    let stream = format!("http://{}", control.stream());
    let token = control.data_dir().join("stream.token");
    let arguments = ["proxy", "--control", &stream, "--token-file", token.to_str().expect("UTF-8")];
    let mut unit = init.start([("ingress", &ingress), ("admin", &admin)], &arguments);
    init.hears("READY=1");
    let mut kept = Client::connect(address);
    assert_eq!(kept.request("GET", "nowhere.localhost", "/", &[], b"").expect("an answer").status, 404);

    signal(unit.child.id(), "USR2");
    init.hears("RELOADING=1");
    let successor: u32 = init.hears_of("MAINPID=").parse().expect("a process");
    assert_ne!(successor, unit.child.id());
    until("the kept connection to be told of its end", || {
        let answer = kept.request("GET", "nowhere.localhost", "/", &[], b"").expect("an answer");
        assert_eq!(answer.status, 404);
        answer.header("connection").map(drop)
    });
    assert!(unit.ends(), "it has finished what it had");
    init.hears("WATCHDOG=1");
    assert_eq!(http::get(address, "nowhere.localhost", "/").status, 404, "on the sockets of the init system");
    let probes = admin.local_addr().expect("bound");
    assert_eq!(http::get(probes, "localhost", "/readyz").status, 200);

    // The successor is replaced the same way.
    signal(successor, "USR2");
    let next: u32 = init.hears_of("MAINPID=").parse().expect("a process");
    until("the successor to end", || (!runs(successor)).then_some(()));
    assert_eq!(http::get(address, "nowhere.localhost", "/").status, 404);
    signal(next, "TERM");
    init.hears("STOPPING=1");
    until("the last one to end", || (!runs(next)).then_some(()));
}

/// Whether a process is there that is no child of ours: one that waits to be
/// reaped by whoever adopted it is not.
fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

#[test]
fn a_signal_that_leads_to_no_successor_changes_nothing() {
    let control = Server::control();
    let init = Init::begin();
    let (ingress, admin) = (listener(), listener());
    let stream = format!("http://{}", control.stream());
    // A file that is gone when the successor reads it.
    let token = init.folder.path().join("token");
    std::fs::copy(control.data_dir().join("stream.token"), &token).expect("a copy");
    let arguments = ["proxy", "--control", &stream, "--token-file", token.to_str().expect("UTF-8")];
    let mut unit = init.start([("ingress", &ingress), ("admin", &admin)], &arguments);
    init.hears("READY=1");
    std::fs::remove_file(&token).expect("it is ours");
    signal(unit.child.id(), "USR2");
    init.hears("RELOADING=1");
    init.hears("STATUS=serving; the successor has failed");
    assert!(unit.child.try_wait().expect("it is our child").is_none());
    let address = ingress.local_addr().expect("bound");
    assert_eq!(http::get(address, "nowhere.localhost", "/").status, 404);
}

#[test]
fn a_proxy_without_a_table_is_not_ready() {
    let init = Init::begin();
    let (ingress, admin) = (listener(), listener());
    let token = init.folder.path().join("token");
    std::fs::write(&token, "00".repeat(32)).expect("a file of ours");
    let nobody = format!("http://{}", TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port"));
    let arguments = ["proxy", "--control", &nobody, "--token-file", token.to_str().expect("UTF-8")];
    let unit = init.start([("ingress", &ingress), ("admin", &admin)], &arguments);
    unit.said();
    init.hears("STATUS=waiting for the routing table");
    init.hears("WATCHDOG=1");
    assert_eq!(http::get(admin.local_addr().expect("bound"), "localhost", "/readyz").status, 503);
    init.heard_nothing_like("READY=1");
}

#[test]
fn up_takes_passed_sockets_for_ingress_and_api() {
    let init = Init::begin();
    let (ingress, api) = (listener(), listener());
    let arguments = ["up", "--stream", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let unit = init.start([("ingress", &ingress), ("api", &api)], &arguments);
    let said = unit.said();
    let (ingress, api) = (ingress.local_addr().expect("bound"), api.local_addr().expect("bound"));
    assert_eq!(said["ingress"], serde_json::json!([ingress.to_string()]));
    assert_eq!(said["api"], format!("http://{api}"));
    init.hears("READY=1");
    assert_eq!(http::get(ingress, "nowhere.localhost", "/").status, 404);
    assert_eq!(http::get(api, "localhost", "/api/v1/projects").status, 401, "nobody without a key");
}

#[test]
fn a_passed_socket_that_nothing_listens_on_is_refused() {
    for (names, said) in [(["ingress", "web"], "FileDescriptorName="), (["admin", "api"], "nothing here listens on it")]
    {
        let init = Init::begin();
        let (first, second) = (listener(), listener());
        let token = init.folder.path().join("token");
        std::fs::write(&token, "00".repeat(32)).expect("a file of ours");
        let token: &Path = &token;
        let arguments = ["proxy", "--control", "http://127.0.0.1:1", "--token-file", token.to_str().expect("UTF-8")];
        let arguments = [&arguments[..], &["--ingress", "127.0.0.1:0"]].concat();
        let mut unit = init.start([(names[0], &first), (names[1], &second)], &arguments);
        assert!(!unit.ends());
        assert!(unit.log().contains(said) && unit.log().contains(names[1]), "{}", unit.log());
        init.heard_nothing_like("READY=1");
    }
}

#[test]
fn the_unit_files_name_what_there_is() {
    let file = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd").join(name);
        std::fs::read_to_string(path).expect("it is there")
    };
    let (service, socket) = (file("repoint-proxy.service"), file("repoint-proxy.socket"));
    let help = Command::new(BINARY).args(["proxy", "--help"]).output().expect("the binary under test runs");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let flags: Vec<_> = service.split_whitespace().filter(|word| word.starts_with("--")).collect();
    assert!(flags.contains(&"--take-over"), "{flags:?}");
    for flag in flags {
        assert!(help.contains(flag.trim_end_matches([',', '.'])), "{flag} is no flag of the proxy");
    }
    assert!(service.contains("\nReloadSignal=SIGUSR2\n") && socket.contains("\nFileDescriptorName=ingress\n"));
}
