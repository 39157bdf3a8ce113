//! Somebody else's control plane drives the real proxy: a small one in Python that
//! knows of us no more than the `.proto`.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use super::grpc::python;
use super::support::DEADLINE;
use super::support::http::{self, Client};
use super::support::replica::Replica;
use super::support::server::{Server, folder};

const CONTROL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/third_party.py");
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
const TOKEN: &str = "third-party-token-0123456789";
const HOST: &str = "shop.test";

/// The control plane; ends when dropped.
struct Control {
    child: Child,
    commands: ChildStdin,
    said: mpsc::Receiver<String>,
}

impl Drop for Control {
    fn drop(&mut self) {
        // Where it has ended already, that is fine too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Control {
    fn start(python: &str) -> Self {
        let mut command = Command::new(python);
        command.args([CONTROL, PROTO, TOKEN]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Python was just there");
        let commands = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, commands, said }
    }

    /// The next line it says.
    #[track_caller]
    fn line(&self) -> String {
        self.said.recv_timeout(DEADLINE).expect("it says something")
    }

    fn command(&mut self, line: &str) {
        writeln!(self.commands, "{line}").expect("it reads");
    }

    /// Waits until the proxy has said this; what came before is passed over.
    #[track_caller]
    fn hears(&self, expected: &str) {
        let mut before = Vec::new();
        while let Ok(line) = self.said.recv_timeout(DEADLINE) {
            if line == expected {
                return;
            }
            before.push(line);
        }
        panic!("waited for {expected:?}, heard {before:?}");
    }
}

/// A control plane in Python and where it listens; `None`, and a line that says so, where there is none to be had.
fn started() -> Option<(Control, SocketAddr)> {
    let Some(python) = python("grpc, grpc_tools") else {
        println!(
            "skipped: no Python with grpcio-tools here; `pip install grpcio grpcio-tools`, or name one in REPOINT_TEST_PYTHON"
        );
        return None;
    };
    let control = Control::start(&python);
    let stream = format!("127.0.0.1:{}", control.line()).parse().expect("it says its port");
    Some((control, stream))
}

#[test]
fn a_control_plane_made_from_the_proto_alone_drives_the_proxy() {
    let Some((mut control, stream)) = started() else { return };
    let (first, second) = (Replica::start("v1"), Replica::start("v2"));
    control.command(&format!("point v1 {}", first.address()));
    let folder = folder();
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN).expect("a file of ours");

    let mut proxy = Server::proxy_of(stream, &token);
    let served = |proxy: &Server| http::get(proxy.ingress(), HOST, "/").body;
    control.hears("applied 2");
    assert_eq!(served(&proxy), "v1", "from the snapshot");
    control.hears("durable 2");

    // A stream begins at v1; the pointer moves in a delta, and v1 is drained when the stream has ended.
    let mut client = Client::connect(proxy.ingress());
    client.send("GET", HOST, "/hold", &[], b"").expect("sent");
    first.holding(1);
    control.command(&format!("point v2 {}", second.address()));
    control.hears("applied 3");
    assert_eq!(served(&proxy), "v2");
    control.command("close v1");
    control.hears("busy v1 1");
    first.release();
    assert_eq!(client.read().expect("its answer").body, "v1");
    control.hears("drained v1");

    // What is refused changes nothing, and the net of what follows heals it.
    control.command("dangle");
    control.hears("refused 5 NACK_REASON_INVALID at 4");
    assert_eq!(served(&proxy), "v2");
    control.command(&format!("point v3 {}", first.address()));
    control.hears("applied 6");
    assert_eq!(served(&proxy), "v1", "v3 is the first replica again");

    // Sent away, it comes back with the position it has, and needs nothing anew.
    control.command("away");
    let name = "SYNC_MODE_RESUME";
    let again = std::iter::from_fn(|| Some(control.line())).find(|line| line.starts_with("hello"));
    assert!(again.is_some_and(|line| line.ends_with(name)), "it resumes");
    control.command(&format!("point v4 {}", second.address()));
    control.hears("applied 7");
    assert_eq!(served(&proxy), "v2");

    proxy.terminate();
    control.hears("goodbye");
    assert!(proxy.ended().success());
}

#[test]
fn a_proxy_without_its_token_gets_nothing_from_it() {
    let Some((mut control, stream)) = started() else { return };
    let replica = Replica::start("v1");
    control.command(&format!("point v1 {}", replica.address()));
    let folder = folder();
    let token = folder.path().join("token");
    std::fs::write(&token, "another-token-0123456789").expect("a file of ours");

    let proxy = Server::proxy_of(stream, &token);
    super::support::until("the refusal to be logged", || {
        proxy.log().contains("the token is missing or wrong").then_some(())
    });
    assert_eq!(super::known_good::ready(&proxy).status, 503);
    assert_eq!(
        http::get(proxy.ingress(), HOST, "/").status,
        503,
        "it knows nothing, and does not say that there is nothing"
    );
    assert_eq!(replica.requests(), 0);
}
