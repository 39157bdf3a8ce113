//! Pointers that move between workers which run elsewhere: the replicas are the
//! test's own, so whatever happens to a request is the control plane's doing.

use std::cell::RefCell;

use serde_json::{Value, json};

use super::audit::{Facts, rollback_target};
use super::plane::Plane;
use super::support::api::{Answer, Api, Project, text};
use super::support::http;
use super::support::replica::Replica;
use super::support::server::Server;
use super::support::until;
use super::traffic::{Load, Stream};
use super::walk::{Crash, Step, walk};

/// Two deployments that are ready in one environment. A stream is open on the
/// first, and requests arrive all the time, at a proxy that is left alone: after
/// some crashes it takes its time to come back, and serves what it has. A second
/// one is started anew after each crash and shows what the control plane sends.
struct Stage {
    // Dropped in this order: users, proxies, replicas.
    load: Load,
    stream: RefCell<Stream>,
    _left_alone: Server,
    fresh: RefCell<Server>,
    project: Project,
    first: Replica,
    second: Replica,
    old: String,
    new: String,
}

impl Stage {
    fn begin() -> Option<(Plane, Self)> {
        let plane = Plane::control()?;
        let (left_alone, fresh, api) = (plane.proxy(), plane.proxy().into(), plane.api());
        let project = api.project("support");
        let (first, second) = (Replica::start("v1"), Replica::start("v2"));
        let [new, old] = [&second, &first].map(|replica| {
            let body = api.deploy_endpoints(&project, &[replica.address()], Some("production")).ok();
            assert_eq!(body["promotion"]["to_deployment_id"], body["id"], "{body}");
            text(&body["id"])
        });
        let host = project.host("production");
        let served = || http::get(left_alone.ingress(), &host, "/");
        until("the proxy to have its table", || (served().body == "v1").then_some(()));
        let stream = Stream::open(left_alone.ingress(), &host, &first).into();
        let load = Load::begin(left_alone.ingress(), &host);
        Some((plane, Self { load, stream, _left_alone: left_alone, fresh, project, first, second, old, new }))
    }

    fn production(&self) -> &str {
        self.project.environment("production")
    }

    fn promote(&self, deployment: &str) -> Value {
        let (environment, wait_ms) = (self.production(), WAIT_MS);
        json!({ "source_deployment_id": deployment, "target_environment_id": environment, "wait_ms": wait_ms })
    }

    /// Brings the pointer to a deployment, whatever became of the one before.
    #[track_caller]
    fn point_at(&self, api: &Api, deployment: &str) {
        let mut body = self.promote(deployment);
        body["start"] = true.into();
        api.post("/api/v1/deployments/promote", &body).ok();
        until("the pointer to be there", || self.points_at(api, deployment).filter(|there| *there));
    }

    fn points_at(&self, api: &Api, deployment: &str) -> Option<bool> {
        let shown = api.try_get(&format!("/api/v1/environments/{}", self.production()))?;
        Some(shown.body["current_deployment_id"] == *deployment)
    }

    /// Whether nothing is left to be noted about the newest move.
    fn is_applied(&self, api: &Api) -> Option<bool> {
        let history = api.try_get(&format!("/api/v1/environments/{}/promotion-history?limit=1", self.production()))?;
        Some(!history.body["items"][0]["applied_at"].is_null())
    }

    /// Users notice nothing of a control plane that is dead, nor of its return;
    /// then what it says, what it has and what proxies do agree.
    fn recover(&self, crash: Crash<'_>) -> Facts {
        self.notices_nothing();
        let before = crash.facts;
        if let Some(answer) = crash.answer.filter(|answer| answer.body["promotion"].is_object()) {
            // Invariant 4: what was answered is there.
            let row = &answer.body["promotion"];
            let (_, history) = before.environment(self.production());
            let found = history.iter().find(|promotion| row["id"] == promotion.id.to_string());
            assert_eq!(found.map(|promotion| promotion.revision.0), row["revision"].as_u64(), "{row}");
        }
        assert!(crash.plane.start_again(), "{}", crash.plane.log());
        let api = crash.plane.api();
        self.notices_nothing();
        if before.waiting.is_empty() {
            let (environment, history) = before.environment(self.production());
            let shown = api.get(&format!("/api/v1/environments/{}", self.production())).ok();
            assert_eq!(shown["current_deployment_id"], json!(environment.pointer), "{shown}");
            assert_eq!(shown["rollback_target"], json!(rollback_target(history)), "{shown}");
            assert_eq!(api.history(self.production()).len(), history.len());
        }
        self.fresh.borrow_mut().kill();
        self.fresh.borrow_mut().start_again();
        until("a proxy to do what the control plane says", || {
            let current = api.current(self.production());
            current.is_some_and(|current| self.serves(&current)).then_some(())
        });
        before
    }

    fn notices_nothing(&self) {
        self.stream.borrow_mut().goes_on(&self.first);
        self.load.goes_on();
    }

    /// Whether requests at the second proxy get to this deployment.
    fn serves(&self, deployment: &str) -> bool {
        let response = http::get(self.fresh.borrow().ingress(), &self.project.host("production"), "/");
        response.status == 200 && response.deployment() == deployment
    }
}

/// How long a move is waited for in one request: long enough for proxies that
/// are there, not for one that takes its time.
const WAIT_MS: u64 = 100;

fn post(api: &Api, path: &str, body: &Value) -> Option<Answer> {
    api.try_send("POST", path, body.to_string().as_bytes())
}

#[test]
fn a_promotion_that_is_killed_happened_or_did_not() {
    let Some((mut plane, stage)) = Stage::begin() else { return };
    let mut moved = 0;
    let step = Step {
        name: "a promotion",
        // All of them.
        points: 60,
        prepare: &mut |api| stage.point_at(api, &stage.old),
        act: &mut |api| post(api, "/api/v1/deployments/promote", &stage.promote(&stage.new)),
        through: &mut |api| stage.points_at(api, &stage.new),
        echo: &mut |api| stage.is_applied(api),
    };
    walk(&mut plane, step, &mut |crash| {
        let facts = stage.recover(crash);
        let (environment, _) = facts.environment(stage.production());
        let pointer = environment.pointer.expect("it has one").to_string();
        assert!([&stage.old, &stage.new].contains(&&pointer), "{pointer}");
        moved += usize::from(pointer == stage.new);
    });
    assert!(moved > 1, "some of the kills come after the commit");
    stage.load.end();
}

#[test]
fn a_rollback_that_is_killed_happened_or_did_not() {
    let Some((mut plane, stage)) = Stage::begin() else { return };
    let body = json!({ "environment_id": stage.production(), "wait_ms": WAIT_MS });
    let step = Step {
        name: "a rollback",
        points: 8,
        prepare: &mut |api| [&stage.new, &stage.old].iter().for_each(|deployment| stage.point_at(api, deployment)),
        act: &mut |api| post(api, "/api/v1/deployments/rollback", &body),
        through: &mut |api| stage.points_at(api, &stage.new),
        echo: &mut |api| stage.is_applied(api),
    };
    walk(&mut plane, step, &mut |crash| drop(stage.recover(crash)));
    stage.load.end();
}

#[test]
fn closing_what_was_served_before_cuts_nobody_whenever_it_is_killed() {
    let Some((mut plane, stage)) = Stage::begin() else { return };
    let mut body = stage.promote(&stage.new);
    body["scale_previous_to_zero"] = true.into();
    let step = Step {
        name: "a promotion that closes what was served before",
        points: 10,
        prepare: &mut |api| stage.point_at(api, &stage.old),
        act: &mut |api| post(api, "/api/v1/deployments/promote", &body),
        through: &mut |api| stage.points_at(api, &stage.new),
        echo: &mut |api| stage.is_applied(api),
    };
    walk(&mut plane, step, &mut |crash| {
        let facts = stage.recover(crash);
        let (environment, _) = facts.environment(stage.production());
        // The pool closes in the change that moves the pointer, and stays while the stream is on it.
        let old = facts.pool(&stage.old);
        let moved = environment.pointer.is_some_and(|pointer| pointer.to_string() == stage.new);
        assert_eq!(old.state.as_str() == "closing", moved, "{old:?}");
    });
    stage.load.end();
}

#[test]
fn a_deploy_that_is_killed_leaves_all_of_a_deployment_or_nothing() {
    let Some((mut plane, stage)) = Stage::begin() else { return };
    let endpoint = format!("http://{}", stage.second.address());
    let body = json!({
        "project_id": stage.project.id,
        "source": { "kind": "endpoints", "endpoints": [endpoint], "health_path": "/healthz" },
        "environment_id": stage.production(), "wait_ms": 30_000,
    });
    let step = Step {
        name: "a deploy",
        points: 14,
        prepare: &mut |api| stage.point_at(api, &stage.old),
        act: &mut |api| post(api, "/api/v1/deployments", &body),
        through: &mut |api| Some(!stage.points_at(api, &stage.old)?),
        echo: &mut |api| stage.is_applied(api),
    };
    walk(&mut plane, step, &mut |crash| {
        let answer = crash.answer.clone();
        let facts = stage.recover(crash);
        if let Some(waiting) = facts.waiting.first() {
            let wanted = waiting.deployment.to_string();
            until("the move to be carried out", || stage.serves(&wanted).then_some(()));
        }
        if let Some(answer) = answer {
            assert!(facts.waiting.is_empty(), "it was answered when it had moved");
            assert!(stage.serves(&text(&answer.ok()["id"])));
        }
    });
    stage.load.end();
}

#[test]
fn a_move_that_waits_is_carried_out_by_whoever_comes_after() {
    let Some((mut plane, stage)) = Stage::begin() else { return };
    let late: RefCell<Vec<(String, Replica)>> = RefCell::default();
    let wanted = || late.borrow().last().expect("it is prepared").0.clone();
    let step = Step {
        name: "a move that waits",
        points: 14,
        prepare: &mut |api| {
            stage.point_at(api, &stage.old);
            let replica = Replica::not_ready("late");
            let body = api.deploy_endpoints(&stage.project, &[replica.address()], None).ok();
            late.borrow_mut().push((text(&body["id"]), replica));
        },
        act: &mut |api| {
            let answer = post(api, "/api/v1/deployments/promote", &stage.promote(&wanted()));
            late.borrow().last().expect("it is prepared").1.make_ready();
            answer
        },
        through: &mut |api| stage.points_at(api, &wanted()),
        echo: &mut |api| stage.is_applied(api),
    };
    walk(&mut plane, step, &mut |crash| {
        let answered = crash.answer.is_some();
        let waits = !stage.recover(crash).waiting.is_empty();
        if answered || waits {
            until("the move to be carried out", || stage.serves(&wanted()).then_some(()));
        }
    });
    stage.load.end();
}

#[test]
fn terminating_is_carried_through_whenever_it_is_killed() {
    let Some((mut plane, stage)) = Stage::begin() else { return };
    let path = format!("/api/v1/deployments/{}/terminate", stage.new);
    let step = Step {
        name: "terminating",
        points: 8,
        prepare: &mut |api| [&stage.new, &stage.old].iter().for_each(|deployment| stage.point_at(api, deployment)),
        act: &mut |api| post(api, &path, &json!({})),
        through: &mut |_| Some(true),
        echo: &mut |_| Some(true),
    };
    walk(&mut plane, step, &mut |crash| {
        let answered = crash.answer.is_some();
        let facts = stage.recover(crash);
        let pool = facts.pool(&stage.new);
        assert!(!answered || !pool.state.is_wanted(), "it was answered: {pool:?}");
    });
    stage.load.end();
}
