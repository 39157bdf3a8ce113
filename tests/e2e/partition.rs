//! Proxies that are cut off: nothing is concluded from their silence too soon,
//! and whoever is woken by it is told which one it is.

use serde_json::{Value, json};

use super::Story;
use super::support::api::text;
use super::support::http::{self, Client};
use super::support::relay::Relay;
use super::support::replica::Replica;
use super::support::server::{Server, signal};
use super::support::until;

/// A control plane with a proxy that is always there, and one on a line that a
/// test can cut.
struct Split {
    story: Story,
    near: Server,
    far: Server,
    line: Relay,
}

impl Split {
    fn begin(settings: &str) -> Self {
        let control = Server::control_with_settings(settings);
        let line = Relay::start(control.stream());
        let near = Server::proxy_named(&control, "near", control.stream());
        let far = Server::proxy_named(&control, "far", line.address());
        let story = Story::on(control);
        story.api.settled(2);
        Self { story, near, far, line }
    }

    fn proxy(&self, name: &str) -> Option<Value> {
        let proxies = self.story.api.get("/api/v1/proxies").ok();
        proxies["items"].as_array()?.iter().find(|proxy| proxy["proxy_id"] == name).cloned()
    }

    /// Waits until a proxy is shown like this.
    fn shows(&self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        until("a proxy to be shown otherwise", || self.proxy(name).filter(|proxy| is(proxy)))
    }

    /// A move that waits for proxies as long as given.
    fn promote(&self, deployment: &str, wait_ms: u64) -> Value {
        let environment = self.story.environment("production");
        let ask =
            json!({ "source_deployment_id": deployment, "target_environment_id": environment, "wait_ms": wait_ms });
        self.story.api.post("/api/v1/deployments/promote", &ask).ok()
    }

    /// The pool of a deployment in production.
    fn pool(&self, deployment: &str) -> Value {
        let status = self.story.api.get(&format!("/api/v1/deployments/{deployment}/status")).ok();
        let production = self.story.environment("production");
        let mut pools = status["pools"].as_array().expect("a list").iter();
        pools.find(|pool| pool["environment_id"] == production).expect("it has one there").clone()
    }

    fn get(&self, proxy: &Server) -> String {
        http::get(proxy.ingress(), &self.story.host("production"), "/").body
    }
}

#[test]
fn a_promote_right_after_a_restart_waits_for_the_proxy_that_has_not_come_back() {
    let mut split = Split::begin("");
    let (first, second) = (Replica::start("v1"), Replica::start("v2"));
    split.story.deploy_to(&first, "production");
    let new = split.story.deploy(&second);
    split.line.cut();
    split.story.server.kill();
    split.story.server.start_again();

    // The first answers may be that its replicas are not ready again.
    let moved =
        until("the move to be made", || Some(split.promote(&new, 500)).filter(|moved| moved["promotion"].is_object()));
    let propagation = &moved["propagation"];
    assert_eq!((&propagation["required"], &propagation["complete"]), (&json!(2), &json!(false)), "{moved}");
    split.shows("near", |proxy| proxy["connected"] == true && proxy["lag"] == 0);
    let path = format!("/api/v1/promotions/{}/propagation", text(&moved["promotion"]["id"]));
    let partly = split.story.api.get(&path).ok()["propagation"].clone();
    assert_eq!((&partly["required"], &partly["applied"]), (&json!(2), &json!(1)), "{partly}");
    let far = split.proxy("far").expect("it is remembered");
    assert_eq!((&far["state"], &far["connected"]), (&json!("suspect"), &json!(false)), "{far}");
    assert_eq!((split.get(&split.near), split.get(&split.far)), ("v2".into(), "v1".into()));

    split.line.mend();
    let followed = split.story.api.get(&format!("{path}?wait_ms=60000")).ok()["propagation"].clone();
    assert_eq!((&followed["applied"], &followed["complete"]), (&json!(2), &json!(true)), "{followed}");
    assert_eq!(split.get(&split.far), "v2");
}

#[test]
fn a_proxy_that_is_cut_off_blocks_a_stop_and_is_named() {
    let split = Split::begin("[fleet]\nlive = \"1s\"\nsuspect = \"2s\"");
    let story = &split.story;
    let policy = json!({ "policy": { "max_drain_ms": 100 } });
    story.api.put(&format!("/api/v1/environments/{}", story.environment("production")), &policy).ok();
    let (first, second) = (Replica::start("v1"), Replica::start("v2"));
    let (old, new) = (story.deploy_to(&first, "production"), story.deploy(&second));
    story.api.settled(2);
    let mut stream = Client::connect(split.far.ingress());
    stream.send("GET", &story.host("production"), "/stream", &[], b"").expect("sent");
    assert_eq!(stream.head().expect("it begins").0, 200);
    first.streams_open(1);

    split.line.cut();
    let moved = split.promote(&new, 60_000);
    assert_eq!(moved["propagation"]["unconfirmed"], 1, "it is gone, and may still serve the old one: {moved}");
    let ask = json!({ "environment_id": story.environment("production") });
    story.api.post(&format!("/api/v1/deployments/{old}/terminate"), &ask).ok();
    split.shows("far", |proxy| proxy["state"] == "gone");
    // Its time is over, and nobody knows whether it still sends requests there: it does.
    until("the alarm", || {
        let log = story.server.log();
        let alarm = log.lines().find(|line| line.contains("nothing can be stopped"))?;
        assert!(alarm.contains("proxy far (run "), "it names who is to be looked at: {alarm}");
        Some(())
    });
    let pool = split.pool(&old);
    let blocked = text(&pool["closing"]["blocked_by"][0]);
    assert_eq!(pool["state"], "closing", "{pool}");
    assert!(blocked.starts_with("proxy far (run ") && blocked.contains("has not applied"), "{blocked}");
    assert_eq!(pool["closing"]["blocked_by"].as_array().map(Vec::len), Some(1), "near does not block it: {pool}");
    assert_eq!((split.get(&split.near), split.get(&split.far)), ("v2".into(), "v1".into()));
    first.emit("still here");
    assert!(stream.chunk().expect("the stream goes on").is_some());

    first.finish_streams();
    assert_eq!(stream.chunk().expect("a proper end"), None);
    assert_eq!(split.pool(&old)["state"], "closing", "nobody here can know that");
    split.line.mend();
    until("the pool to be stopped", || (split.pool(&old)["state"] == "stopped").then_some(()));
    assert_eq!(split.get(&split.far), "v2");
    assert_eq!(split.pool(&old)["closing"], json!(null));
}

#[test]
fn a_proxy_that_is_gone_for_good_is_forgotten_on_request_only() {
    let mut split = Split::begin("[fleet]\nlive = \"1s\"\nsuspect = \"2s\"");
    let forget = |split: &Split, more: &[&str]| split.story.server.cli(&[&["proxies", "forget", "far"], more].concat());
    let refused = forget(&split, &["--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stop it first"), "{refused:?}");

    signal(split.far.pid(), "KILL");
    split.shows("far", |proxy| proxy["state"] == "gone");
    assert_eq!(forget(&split, &[]).status.code(), Some(2), "somebody has to say yes");
    let done = forget(&split, &["--yes"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(split.proxy("far"), None);
    let again = forget(&split, &["--yes"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is no proxy"), "{again:?}");
    // Nor does a restart bring it back; a proxy that takes its leave needs no such word.
    split.near.terminate();
    split.near.ended();
    until("near to have taken its leave", || split.proxy("near").is_none().then_some(()));
    split.story.server.kill();
    split.story.server.start_again();
    assert_eq!((split.proxy("near"), split.proxy("far")), (None, None));
}
