//! Replacing the binary of a proxy that runs: a successor takes its sockets and
//! its folder, and what was begun is finished where it began.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message};

use super::support::api::{Api, Project, text};
use super::support::http::{self, Client};
use super::support::replica::Replica;
use super::support::server::{BINARY, Server};
use super::support::{DEADLINE, until};

/// A control plane with one proxy, and a project that is served by `replica`.
pub(super) struct Scene {
    pub(super) control: Server,
    pub(super) proxy: Server,
    pub(super) api: Api,
    pub(super) project: Project,
    pub(super) replica: Replica,
    pub(super) deployment: String,
}

impl Scene {
    pub(super) fn begin(more: &[&str]) -> Self {
        // A control plane that has just started waits a while before it concludes anything.
        let control = Server::control_with_settings("[fleet]\nlive = \"2s\"\nsuspect = \"3s\"");
        let proxy = Server::proxy_with(&control, more);
        let api = control.api();
        let project = api.project("support");
        api.settled(1);
        let replica = Replica::start("v1");
        let body = api.deploy_endpoints(&project, &[replica.address()], Some("production")).ok();
        let deployment = text(&body["id"]);
        Self { control, proxy, api, project, replica, deployment }
    }

    pub(super) fn host(&self) -> String {
        self.project.host("production")
    }

    pub(super) fn served(&self) -> http::Response {
        http::get(self.proxy.ingress(), &self.host(), "/")
    }

    /// Every run of the proxy that the control plane remembers.
    pub(super) fn runs(&self) -> Vec<Value> {
        self.api.get("/api/v1/proxies").ok()["items"].as_array().expect("a list").clone()
    }

    #[track_caller]
    pub(super) fn until_runs(&self, count: usize) {
        until(&format!("{count} runs of the proxy"), || (self.runs().len() == count).then_some(()));
    }

    /// A stream of events that the test sends and ends.
    pub(super) fn stream(&self) -> Client {
        let mut client = Client::connect(self.proxy.ingress());
        client.send("GET", &self.host(), "/stream", &[], b"").expect("sent");
        assert_eq!(client.head().expect("a head").0, 200);
        client
    }

    /// The deployment's pool in production.
    pub(super) fn pool(&self) -> Value {
        let status = self.api.get(&format!("/api/v1/deployments/{}/status", self.deployment)).ok();
        let production = self.project.environment("production");
        let mut pools = status["pools"].as_array().expect("its pools").iter();
        pools.find(|pool| pool["environment_id"] == production).expect("it has one there").clone()
    }

    /// Asks for the end of the deployment's pool in production, which points elsewhere.
    pub(super) fn terminate(&self) {
        let ask = json!({ "environment_id": self.project.environment("production") });
        self.api.post(&format!("/api/v1/deployments/{}/terminate", self.deployment), &ask).ok();
    }

    /// Waits until all that was applied is on the disk of a run.
    fn durable(&self) {
        until("the table to be on disk", || {
            let head = self.api.get("/api/v1/proxies").ok()["head_revision"].clone();
            self.runs().iter().any(|run| run["durable_revision"] == head).then_some(())
        });
    }

    fn door(&self) -> PathBuf {
        self.proxy.data_dir().join("proxy/handover.sock")
    }

    /// Waits until a successor could knock.
    fn door_is_open(&self) {
        until("the door to be open", || UnixStream::connect(self.door()).is_ok().then_some(()));
    }
}

#[test]
fn a_hand_over_loses_neither_a_connection_nor_a_stream() {
    let scene = Scene::begin(&[]);
    let host = scene.host();
    let mut kept = Client::connect(scene.proxy.ingress());
    assert_eq!(kept.request("GET", &host, "/", &[], b"").expect("an answer").header("connection"), None);
    let mut fresh = Client::connect(scene.proxy.ingress());
    let mut held = Client::connect(scene.proxy.ingress());
    held.send("GET", &host, "/hold", &[], b"").expect("sent");
    scene.replica.holding(1);
    let mut stream = scene.stream();
    scene.replica.streams_open(1);
    let tunnel = TcpStream::connect(scene.proxy.ingress()).expect("the ingress accepts");
    tunnel.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
    let (mut socket, upgraded) = tungstenite::client(format!("ws://{host}/ws"), tunnel).expect("an upgrade");
    assert_eq!(upgraded.status(), 101);

    let mut successor = scene.proxy.successor();
    assert_eq!((successor.ingress(), successor.admin()), (scene.proxy.ingress(), scene.proxy.admin()));
    until("the first one to accept nothing any more", || {
        let answer = scene.served();
        assert_eq!(answer.body, "v1");
        answer.header("connection").is_none().then_some(())
    });
    // The first one finishes what it has: each connection with an answer that says so.
    for client in [&mut kept, &mut fresh] {
        until("the connection to be told of its end", || {
            let answer = client.request("GET", &host, "/", &[], b"").expect("an answer");
            assert_eq!(answer.body, "v1");
            answer.header("connection").map(drop)
        });
    }
    scene.replica.release();
    assert_eq!(held.read().expect("an answer").body, "v1");
    drop(held);
    socket.send(Message::text("still")).expect("the tunnel goes on");
    assert_eq!(socket.read().expect("the tunnel goes on"), Message::text("v1:still"));
    socket.close(None).expect("it closes");
    drop(socket);
    scene.replica.emit("later");
    assert!(stream.chunk().expect("it goes on").is_some());
    assert_eq!(http::get(successor.admin(), "localhost", "/readyz").status, 200);
    scene.until_runs(2);
    let names: Vec<_> = scene.runs().iter().map(|run| run["proxy_id"].clone()).collect();
    assert_eq!(names[0], names[1], "two runs of one proxy");

    let mut first = scene.proxy;
    assert!(first.is_running());
    scene.replica.finish_streams();
    assert_eq!(stream.chunk().expect("a proper end"), None);
    // Its answer could not say that it was the last: the connection waits for its client.
    drop(stream);
    assert!(first.ended().success());
    until("one run of the proxy", || {
        (scene.api.get("/api/v1/proxies").ok()["items"].as_array()?.len() == 1).then_some(())
    });
    assert_eq!(http::get(successor.ingress(), &host, "/").body, "v1");
    // It owns all of it: its table goes to disk, and it is stopped like any other.
    let head = scene.api.get("/api/v1/proxies").ok();
    until("its table to be on disk", || {
        let body = scene.api.get("/api/v1/proxies").ok();
        (body["items"][0]["durable_revision"] == head["head_revision"]).then_some(())
    });
    successor.terminate();
    assert!(successor.ended().success());
}

#[test]
fn invariant_9_a_pool_is_not_stopped_while_an_old_instance_carries_a_request_of_it() {
    let scene = Scene::begin(&[]);
    let mut stream = scene.stream();
    scene.replica.streams_open(1);
    let mut second = scene.proxy.successor();
    let other = Replica::start("v2");
    scene.api.deploy_endpoints(&scene.project, &[other.address()], Some("production")).ok();
    scene.terminate();
    assert_eq!(scene.served().body, "v2");
    let blocked = || {
        let pool = scene.pool();
        assert_eq!(pool["state"], "closing", "{pool}");
        pool["closing"]["blocked_by"].as_array().expect("a list").iter().map(text).collect::<Vec<_>>()
    };
    let is_held_by_the_first = || {
        let blocked = blocked();
        (blocked.len() == 1 && blocked[0].contains("carries a request")).then_some(())
    };
    until("nothing but the stream to be waited for", is_held_by_the_first);

    // A successor that crashes says nothing of the first one's end, nor does its next start.
    second.kill();
    let third = scene.proxy.successor();
    until("the crashed run to be known as ended", || (scene.runs().len() == 2).then_some(()));
    until("nothing but the stream to be waited for", is_held_by_the_first);
    assert_eq!(http::get(third.ingress(), &scene.host(), "/").body, "v2");
    scene.replica.emit("still here");
    assert!(stream.chunk().expect("it goes on").is_some());

    scene.replica.finish_streams();
    assert_eq!(stream.chunk().expect("a proper end"), None);
    until("the pool to be stopped", || (scene.pool()["state"] == "stopped").then_some(()));
    drop(stream);
    scene.until_runs(1);
}

/// Takes part in a hand-over like a successor, up to its offer.
fn knock(scene: &Scene) -> UnixStream {
    let mut stream = UnixStream::connect(scene.door()).expect("the door is open");
    let hello = br#"{"says":"hello","protocol":1,"build":"a test"}"#;
    stream.write_all(&u32::try_from(hello.len()).expect("short").to_be_bytes()).expect("sent");
    stream.write_all(hello).expect("sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut offer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut offer).expect("an offer");
    let offer: Value = serde_json::from_slice(&offer).expect("JSON");
    assert_eq!(offer["says"], "offer", "{offer}");
    stream
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_successor_that_fails_leaves_the_old_one_serving() {
    let mut scene = Scene::begin(&["--handover-deadline", "2"]);
    let goes_on = |scene: &mut Scene, round: usize| {
        let name = format!("more{round}");
        scene.api.project(&name);
        let answer = scene.served();
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("v1", None));
        scene.durable();
        assert!(scene.proxy.is_running());
    };
    scene.door_is_open();
    let settings = scene.proxy.data_dir().join("bad.toml");
    std::fs::write(&settings, "[tls]\nlisten = [\"127.0.0.1:0\"]").expect("a file of ours");
    let output = scene.proxy.failed_successor(&["--config", settings.to_str().expect("UTF-8")]);
    assert!(!output.status.success() && stderr(&output).contains("certificates"), "{}", stderr(&output));
    goes_on(&mut scene, 1);

    // One that dies on the way.
    drop(knock(&scene));
    goes_on(&mut scene, 2);

    // One that is never ready, because nobody is there to follow.
    let mut command: Vec<_> = scene.proxy.command().to_vec();
    let at = command.iter().position(|argument| argument == "--control").expect("it has one");
    command[at + 1] = "http://127.0.0.1:1".to_owned();
    let output = Command::new(BINARY).args(&command).arg("--take-over").stdin(Stdio::null()).output().expect("it runs");
    assert!(!output.status.success() && stderr(&output).contains("not ready within 2 s"), "{}", stderr(&output));
    goes_on(&mut scene, 3);
    assert_eq!(scene.runs().len(), 1, "nobody else is waited for");

    // After all that one succeeds.
    let second = scene.proxy.successor();
    assert!(scene.proxy.ended().success());
    assert_eq!(http::get(second.ingress(), &scene.host(), "/").body, "v1");
}

#[test]
fn a_second_successor_is_refused_while_one_prepares() {
    let mut scene = Scene::begin(&[]);
    scene.door_is_open();
    let first = knock(&scene);
    let output = scene.proxy.failed_successor(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another successor prepares already"), "{}", stderr(&output));
    drop(first);
    // And one that does not ask for it is told whose the folder is, as ever.
    let plain = Command::new(BINARY).args(scene.proxy.command()).stdin(Stdio::null()).output().expect("it runs");
    assert!(stderr(&plain).contains(&scene.proxy.pid().to_string()), "{}", stderr(&plain));
    assert!(scene.proxy.is_running());
    assert_eq!(scene.served().body, "v1");
}

#[test]
fn nobody_but_the_same_user_takes_over() {
    let mut scene = Scene::begin(&[]);
    scene.door_is_open();
    let mode = |path: PathBuf| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(scene.door()), mode(scene.proxy.data_dir().join("proxy"))), (0o600, 0o700));
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped in part: only root can try it as somebody else");
        return;
    }
    // Even where modes would let somebody in.
    let open = |path: PathBuf| std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("ours");
    open(scene.proxy.data_dir().join("proxy"));
    open(scene.door());
    let token = scene.proxy.data_dir().join("token");
    std::fs::copy(scene.control.data_dir().join("stream.token"), &token).expect("a copy");
    open(token.clone());
    let mut command = scene.proxy.command().to_vec();
    let at = command.iter().position(|argument| argument == "--token-file").expect("it has one");
    command[at + 1] = token.to_str().expect("UTF-8").to_owned();
    let nobody = 65_534;
    let output = Command::new(BINARY)
        .args(&command)
        .arg("--take-over")
        .uid(nobody)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert!(stderr(&output).contains("run by another user"), "{}", stderr(&output));
    until("the attempt to be logged", || scene.proxy.log().contains("run by another user (uid 65534)").then_some(()));
    assert!(scene.proxy.is_running());
    assert_eq!(scene.served().body, "v1");
}

#[test]
fn taking_over_where_nobody_runs_is_a_start_like_any_other() {
    let mut scene = Scene::begin(&["--take-over"]);
    assert_eq!(scene.served().body, "v1");
    scene.proxy.kill();
    let second = scene.proxy.successor();
    assert_eq!(http::get(second.ingress(), &scene.host(), "/").body, "v1", "what a crash left is no obstacle");
}

#[test]
fn what_still_runs_is_cut_where_somebody_asks_for_that() {
    // After a while, by the settings, or with the first signal to the older run.
    for (limit, asks) in [("--handover-drain", false), ("--stop-timeout", true)] {
        let mut scene = Scene::begin(&[limit, "1"]);
        let mut stream = scene.stream();
        scene.replica.streams_open(1);
        let successor = scene.proxy.successor();
        scene.replica.emit("still here");
        assert!(stream.chunk().expect("it goes on").is_some());
        if asks {
            scene.proxy.terminate();
        }
        assert!(scene.proxy.ended().success(), "{limit}");
        assert!(stream.chunk().is_err(), "{limit}: it is cut, and shows it");
        assert!(scene.proxy.log().contains("cut requests that were still running"));
        assert_eq!(http::get(successor.ingress(), &scene.host(), "/").body, "v1");
        scene.until_runs(1);
    }
}
