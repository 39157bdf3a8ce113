//! A proxy and its table on disk: restarts without a control plane, crashes,
//! damage, a second owner, no disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::support::api::{Api, Project, text};
use super::support::http;
use super::support::replica::Replica;
use super::support::server::Server;
use super::support::until;

/// A control plane, one proxy, and a project with two deployments, `v1` in
/// production.
pub(super) struct Scene {
    pub(super) control: Server,
    pub(super) proxy: Server,
    pub(super) api: Api,
    pub(super) project: Project,
    pub(super) deployments: [String; 2],
    _replicas: [Replica; 2],
}

impl Scene {
    pub(super) fn begin(more: &[&str]) -> Self {
        Self::under(Server::control(), more)
    }

    /// The same, with a control plane of its own kind.
    pub(super) fn under(control: Server, more: &[&str]) -> Self {
        let proxy = Server::proxy_with(&control, more);
        let api = control.api();
        let project = api.project("support");
        api.settled(1);
        let replicas = [Replica::start("v1"), Replica::start("v2")];
        let deployments = ["v2", "v1"].map(|label| {
            let replica = &replicas[usize::from(label == "v2")];
            let body = api.deploy_endpoints(&project, &[replica.address()], Some("production")).ok();
            text(&body["id"])
        });
        let [second, first] = deployments;
        Self { control, proxy, api, project, deployments: [first, second], _replicas: replicas }
    }

    pub(super) fn promote(&self, deployment: usize) {
        let production = self.project.environment("production");
        let body = self.api.promote(&self.deployments[deployment], production).ok();
        assert_eq!(body["propagation"]["complete"], true, "{body}");
    }

    pub(super) fn served(&self) -> http::Response {
        http::get(self.proxy.ingress(), &self.project.host("production"), "/")
    }

    /// Waits until the newest change is on the proxy's disk, and the control
    /// plane knows. Runs of the proxy that ended are listed, too.
    pub(super) fn durable(&self) {
        until("the table to be on disk", || {
            let body = self.api.get("/api/v1/proxies").ok();
            let head = &body["head_revision"];
            let is_there = |proxy: &&Value| {
                proxy["state"] == "live" && &proxy["applied_revision"] == head && &proxy["durable_revision"] == head
            };
            body["items"].as_array()?.iter().find(is_there)?;
            let durable = metric(&self.proxy, "repoint_last_known_good_durable_revision");
            (Some(durable) == head.as_f64()).then_some(())
        });
    }

    /// Waits until the proxy that runs now has the newest table.
    pub(super) fn caught_up(&self) {
        until("the proxy to be at the head", || {
            let head = self.api.get("/api/v1/proxies").ok()["head_revision"].as_f64();
            let applied = metric(&self.proxy, "repoint_stream_client_applied_revision");
            (Some(applied) == head).then_some(())
        });
    }

    fn state(&self) -> PathBuf {
        self.proxy.data_dir().join("proxy")
    }
}

pub(super) fn ready(proxy: &Server) -> http::Response {
    http::get(proxy.admin(), "localhost", "/readyz")
}

/// The value of a metric without labels.
pub(super) fn metric(proxy: &Server, name: &str) -> f64 {
    let text = http::get(proxy.admin(), "localhost", "/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn files(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is there").flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))).collect()
}

#[test]
fn invariant_7_a_restarted_proxy_serves_without_a_control_plane() {
    let mut scene = Scene::begin(&[]);
    scene.durable();
    scene.control.kill();
    scene.proxy.terminate();
    assert!(scene.proxy.ended().success());
    scene.proxy.start_again();
    assert_eq!(scene.served().body, "v1", "from the first request on");
    assert_eq!(ready(&scene.proxy).status, 200);
    assert!(metric(&scene.proxy, "repoint_last_known_good_load_seconds") > 0.0);
    let heard = metric(&scene.proxy, "repoint_stream_client_heard_timestamp_seconds");
    assert!(heard > 1e9, "its age is told: {heard}");
    assert_eq!(metric(&scene.proxy, "repoint_stream_client_connected"), 0.0);

    scene.control.start_again();
    scene.api = scene.control.api();
    // Its earlier run could not say goodbye and is still waited for, so that the
    // move is not complete for a while.
    let body = json!({
        "source_deployment_id": scene.deployments[1],
        "target_environment_id": scene.project.environment("production"),
        "wait_ms": 0,
    });
    scene.api.post("/api/v1/deployments/promote", &body).ok();
    until("the move to arrive", || (scene.served().body == "v2").then_some(()));
    assert_eq!(metric(&scene.proxy, "repoint_stream_client_snapshots_total"), 0.0, "it resumed where it was");
}

#[test]
fn a_proxy_killed_under_moves_begins_with_a_table_that_was_there_and_ends_right() {
    // Checkpoints come often, so that some are under way when it dies.
    let mut scene = Scene::begin(&["--checkpoint-bytes", "2000"]);
    scene.durable();
    for round in 0..3 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (api, project, deployments) = (&scene.api, &scene.project, &scene.deployments);
            let moving = scope.spawn(|| {
                let production = project.environment("production");
                let mut moves = 0;
                while !done.load(Ordering::SeqCst) {
                    // Not waited for: the proxy is killed meanwhile.
                    let body = json!({
                        "source_deployment_id": deployments[moves % 2], "target_environment_id": production, "wait_ms": 0,
                    });
                    api.post("/api/v1/deployments/promote", &body);
                    moves += 1;
                }
            });
            let before = metric(&scene.proxy, "repoint_stream_client_applied_revision");
            until("moves to arrive", || {
                (metric(&scene.proxy, "repoint_stream_client_applied_revision") > before + 20.0).then_some(())
            });
            scene.proxy.kill();
            done.store(true, Ordering::SeqCst);
            moving.join().expect("it does not panic");
        });
        scene.proxy.start_again();
        let served = scene.served();
        assert_eq!(served.status, 200, "round {round}: served from disk: {served:?}");
        scene.caught_up();
        assert_eq!(
            metric(&scene.proxy, "repoint_stream_client_snapshots_total"),
            0.0,
            "round {round}: resumed with what it lacked"
        );
        let current = scene.api.current(scene.project.environment("production"));
        assert_eq!(Some(scene.served().deployment()), current.as_deref(), "round {round}");
        let runs = scene.api.get("/api/v1/proxies").ok()["items"].as_array().map(Vec::len);
        assert_eq!(runs, Some(1), "round {round}: nobody waits for the run that was killed");
    }
}

#[test]
fn a_damaged_table_is_not_served_and_a_new_one_is_fetched() {
    let mut scene = Scene::begin(&[]);
    scene.durable();
    scene.proxy.kill();
    for file in files(&scene.state(), "checkpoint") {
        let mut bytes = std::fs::read(&file).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&file, bytes).expect("it is ours");
    }
    scene.control.kill();
    scene.proxy.start_again();
    assert_eq!(ready(&scene.proxy).status, 503);
    let refused = scene.served();
    assert_eq!(refused.status, 503, "never a 404 out of ignorance: {refused:?}");

    scene.control.start_again();
    scene.api = scene.control.api();
    until("the table to arrive", || (scene.served().status == 200).then_some(()));
    assert_eq!(scene.served().body, "v1");
    scene.durable();
    scene.control.kill();
    scene.proxy.kill();
    scene.proxy.start_again();
    assert_eq!(scene.served().body, "v1", "the new one is kept");
}

#[test]
fn a_torn_journal_is_used_as_far_as_it_goes() {
    let mut scene = Scene::begin(&[]);
    scene.promote(1);
    scene.durable();
    scene.proxy.kill();
    let [journal] = &files(&scene.state(), "journal")[..] else { panic!("one journal") };
    let length = std::fs::metadata(journal).expect("it is there").len();
    let file = std::fs::File::options().write(true).open(journal).expect("it is ours");
    file.set_len(length - 3).expect("it is ours");
    scene.control.kill();
    scene.proxy.start_again();
    assert_eq!(scene.served().body, "v1", "all but the last move");
    scene.control.start_again();
    scene.api = scene.control.api();
    scene.caught_up();
    assert_eq!(scene.served().body, "v2");
    scene.durable();
}

#[test]
fn a_second_proxy_on_one_folder_is_refused_and_told_what_to_do() {
    let scene = Scene::begin(&[]);
    let (data, pid) = (scene.proxy.data_dir().to_str().expect("UTF-8"), scene.proxy.pid().to_string());
    let output = Server::refused_proxy(&scene.control, &["--data-dir", data]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&pid) && said.contains("--data-dir") && said.contains("--no-state"), "{said}");
    assert_eq!(scene.served().body, "v1", "the first goes on");
}

#[test]
fn a_proxy_that_keeps_nothing_says_so_and_waits_for_the_control_plane() {
    let unusable = Path::new("/proc/repoint");
    for more in [&["--no-state"][..], &["--data-dir", unusable.to_str().expect("UTF-8")]] {
        let mut scene = Scene::begin(more);
        scene.promote(1);
        assert_eq!(scene.served().body, "v2");
        let body = scene.api.get("/api/v1/proxies").ok();
        assert_eq!(body["items"][0]["durable_revision"], 0, "nothing is claimed: {body}");
        assert!(!scene.state().exists());
        scene.control.kill();
        scene.proxy.kill();
        scene.proxy.start_again();
        assert_eq!((ready(&scene.proxy).status, scene.served().status), (503, 503));
        scene.control.start_again();
        until("the table to arrive", || (scene.served().status == 200).then_some(()));
    }
}

#[test]
fn a_proxy_keeps_its_name_over_restarts() {
    let mut scene = Scene::begin(&["--proxy-id", "edge-7"]);
    scene.durable();
    let named = |scene: &Scene| {
        let body = scene.api.get("/api/v1/proxies").ok();
        body["items"].as_array().expect("a list").iter().all(|proxy| proxy["proxy_id"] == "edge-7")
    };
    assert!(named(&scene));
    scene.proxy.terminate();
    scene.proxy.ended();
    scene.proxy.forget_argument("--proxy-id");
    scene.proxy.start_again();
    scene.durable();
    assert!(named(&scene));
}

#[test]
fn up_keeps_no_table_beside_its_store() {
    let server = Server::up();
    server.api().settled(1);
    assert!(!server.data_dir().join("proxy").exists());
}
