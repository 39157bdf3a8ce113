//! Pools that close: nothing is stopped that somebody still uses, and what went
//! to sleep comes back.

use std::path::Path;

use serde_json::{Value, json};

use super::support::http::{self, Client};
use super::support::replica::Replica;
use super::support::server::folder;
use super::support::until;
use super::workers::deploy;
use super::{Story, text};

/// Deployments of the built-in worker in preview, one after the other.
impl Story {
    fn deploy_worker(&self, version: &str, more: &[&str]) -> String {
        text(&deploy(&self.server, folder().path(), version, more)["id"])
    }

    fn closes_previous(&self, deployment: &str) -> Value {
        let body = json!({
            "source_deployment_id": deployment, "target_environment_id": self.environment("preview"),
            "scale_previous_to_zero": true, "wait_ms": 60_000,
        });
        self.api.post("/api/v1/deployments/promote", &body).ok()
    }

    fn policy(&self, policy: &Value) {
        let path = format!("/api/v1/environments/{}", self.environment("preview"));
        self.api.put(&path, &json!({ "policy": policy })).ok();
    }

    /// The deployment's pool in preview, as its status shows it.
    fn pool(&self, deployment: &str) -> Value {
        let status = self.api.get(&format!("/api/v1/deployments/{deployment}/status")).ok();
        let pools = status["pools"].as_array().expect("its pools").clone();
        let here = pools.into_iter().find(|pool| pool["environment_id"] == *self.environment("preview"));
        here.unwrap_or_else(|| panic!("no pool in preview: {status}"))
    }

    fn pid(&self, deployment: &str) -> u64 {
        let pool = self.pool(deployment);
        pool["endpoints"][0]["pid"].as_u64().unwrap_or_else(|| panic!("no process in {pool}"))
    }

    #[track_caller]
    fn until_state(&self, deployment: &str, state: &str) {
        until(&format!("the pool to be {state}"), || (self.pool(deployment)["state"] == state).then_some(()));
    }

    /// A stream of so many tokens, a tenth of a second each.
    fn stream(&self, tokens: u32) -> Client {
        let mut client = Client::connect(self.server.ingress());
        let path = format!("/stream?tokens={tokens}&delay_ms=100");
        client.send("GET", &self.host("preview"), &path, &[], b"").expect("sent");
        assert_eq!(client.head().expect("a head").0, 200);
        client
    }

    fn newest(&self) -> Value {
        self.api.history(self.environment("preview"))[0].clone()
    }
}

fn runs(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn events(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).matches("data: ").count()
}

/// The number of the token in a line of a stream.
fn token(line: &str) -> Option<u64> {
    let event: Value = serde_json::from_str(line.strip_prefix("data: ")?).expect("an event is JSON");
    event["token"].as_u64()
}

#[test]
fn invariant_9_a_long_stream_is_never_cut_while_its_pool_closes() {
    let story = Story::begin();
    let old = story.deploy_worker("v1", &[]);
    let new = story.deploy_worker("v2", &["--env", "staging"]);
    let pid = story.pid(&old);
    // A minute: it stands for the hours that agents think.
    let mut stream = story.stream(600);

    let moved = story.closes_previous(&new);
    assert_eq!((&moved["changed"], &moved["previous"]["state"]), (&json!(true), &json!("closing")), "{moved}");
    let pinned = || {
        let mut client = Client::connect(story.server.ingress());
        client.request("GET", &story.host("preview"), "/", &[("x-deployment-id", &old)], b"").expect("an answer")
    };
    let (mut received, mut looks) = (Vec::new(), 0);
    while let Some(bytes) = stream.chunk().expect("the stream is never cut") {
        received.extend(bytes);
        // Looking takes its time, and the last tokens come whether they are waited for or not.
        if events(&received) > looks * 150 && looks < 4 {
            looks += 1;
            let pool = story.pool(&old);
            assert_eq!((&pool["state"], &pool["ready"]), (&json!("closing"), &json!(1)), "{pool}");
            assert!(pool["closing"]["since"].is_string() && runs(pid), "{pool}");
            assert_eq!(pinned().status, 404, "pins included");
            assert!(story.served("preview").contains("hello from v2"));
        }
    }
    assert_eq!((events(&received), looks), (600, 4));
    let tokens: Vec<_> = String::from_utf8_lossy(&received).lines().filter_map(token).collect();
    assert!(tokens.windows(2).all(|pair| pair[1] == pair[0] + 1), "every token, in order: {tokens:?}");
    story.until_state(&old, "idle");
    until("its replica to end", || (!runs(pid)).then_some(()));
    assert_eq!(pinned().status, 404, "proxies hold no record of it");
    let row = story.newest();
    assert!(row["previous_drained_at"].is_string() && row["streams_cut"] == 0, "{row}");
    let shown = story.server.cli(&["history", "preview", "--project", "support"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("DRAINED"));
}

#[test]
fn max_drain_cuts_a_stream_and_the_history_counts_it() {
    let story = Story::begin();
    let old = story.deploy_worker("v1", &[]);
    let new = story.deploy_worker("v2", &["--env", "staging"]);
    story.policy(&json!({ "max_drain_ms": 1_000 }));
    let pid = story.pid(&old);
    let mut stream = story.stream(1_000_000);
    story.closes_previous(&new);
    story.until_state(&old, "idle");
    while let Ok(Some(_)) = stream.chunk() {}
    until("its replica to end", || (!runs(pid)).then_some(()));
    let row = story.newest();
    assert!(row["previous_drained_at"].is_string() && row["streams_cut"] == 1, "{row}");
    let shown = story.server.cli(&["history", "preview", "--project", "support"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("1 cut"));
    assert!(story.served("preview").contains("hello from v2"));
}

#[test]
fn what_nothing_needs_goes_to_sleep_and_a_rollback_starts_it_again() {
    let story = Story::begin();
    story.policy(&json!({ "keep_previous_warm_ms": 1_000 }));
    let deployments = ["v1", "v2", "v3"].map(|version| story.deploy_worker(version, &[]));
    let [first, second, third] = &deployments;
    story.until_state(first, "idle");
    let pool = story.pool(second);
    assert_eq!((&pool["state"], &pool["ready"]), (&json!("running"), &json!(1)), "the rollback target stays warm");

    story.rollback("preview");
    assert!(story.served("preview").contains("hello from v2"), "at once");
    story.until_state(third, "idle");
    let body = json!({ "environment_id": story.environment("preview"), "wait_ms": 60_000 });
    let moved = story.api.post("/api/v1/deployments/rollback", &body).ok();
    assert_eq!((&moved["changed"], &moved["promotion"]["to_deployment_id"]), (&json!(true), &json!(first)), "{moved}");
    assert!(story.served("preview").contains("hello from v1"), "it was started for that");
}

#[test]
fn a_rollback_to_a_closing_pool_opens_it_at_once() {
    let story = Story::begin();
    let old = story.deploy_worker("v1", &[]);
    let new = story.deploy_worker("v2", &["--env", "staging"]);
    let pid = story.pid(&old);
    let mut stream = story.stream(60);
    story.closes_previous(&new);
    assert_eq!(story.pool(&old)["state"], "closing");
    story.rollback("preview");
    assert_eq!((story.pid(&old), &story.pool(&old)["state"]), (pid, &json!("running")));
    assert!(story.served("preview").contains("hello from v1"));
    // And closed again: what was proved of the first closing stops nothing.
    story.closes_previous(&new);
    let mut received = Vec::new();
    while let Some(bytes) = stream.chunk().expect("the stream is never cut") {
        received.extend(bytes);
    }
    assert_eq!(events(&received), 60);
    story.until_state(&old, "idle");
}

#[test]
fn a_deadline_that_passes_while_the_control_plane_is_dead_ends_its_move() {
    let mut story = Story::begin();
    let serving = Replica::start("v1");
    let current = story.deploy(&serving);
    let bundle = folder();
    let manifest = "project = \"support\"\n[worker]\ncommand = [\"sleep\", \"1000\"]\nready_timeout = \"3s\"\n";
    std::fs::write(bundle.path().join("repoint.toml"), manifest).expect("a folder takes a file");
    let path = bundle.path().to_str().expect("UTF-8");
    let show = |story: &Story, number: u32| story.api.get(&format!("/api/v1/moves/{number}")).body["move"].clone();
    let (number, before) = std::thread::scope(|scope| {
        // It waits for the move, until its server is killed under it.
        scope.spawn(|| story.server.cli(&["deploy", path, "--yes"]));
        let waiting = until("the move to wait", || {
            (1..9).map(|number| (number, show(&story, number))).find(|(_, shown)| shown["state"] == "waiting")
        });
        super::support::server::signal(story.server.pid(), "KILL");
        waiting
    });
    assert_eq!(before["ended_at"], Value::Null, "{before}");
    story.server.kill();
    let time = |of: &Value| of.as_str().expect("a time").parse::<jiff::Timestamp>().expect("RFC 3339");
    let deadline = time(&before["deadline"]);
    until("the deadline to pass", || (jiff::Timestamp::now() > deadline).then_some(()));
    story.server.start_again();
    let ended = until("the move to end", || Some(show(&story, number)).filter(|shown| shown["state"] != "waiting"));
    assert_eq!(ended["state"], "target_not_ready", "{ended}");
    assert!(ended["detail"].is_string() && time(&ended["ended_at"]) > deadline, "{ended}");
    assert_eq!(story.api.current(story.environment("preview")).as_deref(), Some(current.as_str()));
    until("what was served to be served", || (story.get("preview").body == "v1").then_some(()));
    assert_eq!(story.api.history(story.environment("preview")).len(), 1, "no row");
}

#[test]
fn a_waiting_move_survives_a_crash_and_a_late_one_moves_nothing() {
    let mut story = Story::begin();
    let serving = Replica::start("v1");
    story.deploy(&serving);
    let (late, later) = (Replica::not_ready("v2"), Replica::not_ready("v3"));
    let begin = |story: &Story, replica: &Replica| {
        let body = json!({
            "project_id": story.project.id, "environment_id": story.environment("preview"), "wait_ms": 0,
            "source": { "kind": "endpoints", "endpoints": [format!("http://{}", replica.address())],
                        "health_path": "/healthz" },
        });
        story.api.post("/api/v1/deployments", &body).ok()["move"]["id"].clone()
    };
    let show = |story: &Story, number: &Value| story.api.get(&format!("/api/v1/moves/{number}")).ok()["move"].clone();

    let superseded = begin(&story, &late);
    let waiting = begin(&story, &later);
    let before = show(&story, &waiting);
    assert_eq!(before["state"], "waiting");
    story.server.kill();
    story.server.start_again();
    assert_eq!(show(&story, &waiting), before, "with its times");
    assert_eq!(show(&story, &superseded)["state"], "superseded");
    later.make_ready();
    until("the move", || (show(&story, &waiting)["state"] == "committed").then_some(()));
    let row = story.newest();
    assert_eq!(row["id"], show(&story, &waiting)["promotion_id"]);

    late.make_ready();
    let third = begin(&story, &Replica::not_ready("v4"));
    story.server.kill();
    story.server.start_again();
    story.rollback("preview");
    until("the rollback", || {
        (http::get(story.server.ingress(), &story.host("preview"), "/").body == "v1").then_some(())
    });
    assert_eq!(show(&story, &third)["state"], "superseded", "a rollback waits behind nobody");
    assert_eq!(story.api.history(story.environment("preview")).len(), 3, "the late ones moved nothing");
}
