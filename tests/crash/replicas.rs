//! Replicas that Repoint runs: after a crash none of the dead run's is left, and
//! as many run as are wanted, whatever was being done to them.

use serde_json::json;

use super::audit::{Facts, audit};
use super::plane::Plane;
use super::support::api::{Answer, Api, text};
use super::support::http;
use super::support::until;
use super::walk::{Crash, Step, evenly, walk};
use super::workers::Workers;

fn begin() -> Option<(Plane, Workers)> {
    let plane = Plane::up()?;
    let project = plane.api().project("support");
    Some((plane, Workers::of(project)))
}

/// The next run has no part of the one before, and does what the store says.
fn recover(crash: Crash<'_>, workers: &Workers) -> Facts {
    let orphans = workers.alive();
    assert!(crash.plane.start_again(), "{}", crash.plane.log());
    until("everybody of the run before to be gone", || workers.alive().is_disjoint(&orphans).then_some(()));
    serves_what_it_says(crash.plane, workers);
    crash.facts
}

fn serves_what_it_says(plane: &Plane, workers: &Workers) {
    let api = plane.api();
    workers.settle(&api);
    for name in ["preview", "staging"] {
        let Some(current) = api.current(workers.environment(name)) else { continue };
        until("the pointer to be served", || {
            let response = http::get(plane.ingress(), &workers.host(name), "/");
            (response.status == 200 && response.deployment() == current).then_some(())
        });
    }
}

fn post(api: &Api, path: &str, body: &serde_json::Value) -> Option<Answer> {
    api.try_send("POST", path, body.to_string().as_bytes())
}

/// Whether an environment points there.
fn points_at(api: &Api, environment: &str, deployment: &str) -> Option<bool> {
    let shown = api.try_get(&format!("/api/v1/environments/{environment}"))?;
    Some(shown.body["current_deployment_id"] == *deployment)
}

#[test]
fn a_deploy_that_is_killed_leaves_no_worker_behind() {
    let Some((mut plane, workers)) = begin() else { return };
    let workers = workers.deaf();
    let mut version = 0;
    let step = Step {
        name: "a deploy of a bundle",
        points: 9,
        prepare: &mut |api| {
            // One worker at a time: what is not current is not needed any more.
            for pool in workers.pools(api).expect("it lives") {
                if pool["current"] == false {
                    let path = format!("/api/v1/deployments/{}/terminate", text(&pool["deployment_id"]));
                    api.post(&path, &json!({})).ok();
                }
            }
            workers.settle(api);
        },
        act: &mut |api| {
            version += 1;
            workers.deploy(api, &format!("v{version}"))
        },
        through: &mut |api| workers.are_settled(api),
        echo: &mut |_| Some(true),
    };
    walk(&mut plane, step, &mut |crash| {
        let answer = crash.answer.clone();
        let facts = recover(crash, &workers);
        if let Some(answer) = answer.map(Answer::ok) {
            let (preview, _) = facts.environment(workers.environment("preview"));
            assert_eq!(json!(preview.pointer), answer["id"]);
        }
    });
    drop(plane);
    workers.are_gone();
}

#[test]
fn scaling_that_is_killed_doubles_and_forgets_nobody() {
    let Some((mut plane, workers)) = begin() else { return };
    let workers = workers.deaf();
    let deployment = workers.deployed(&plane.api(), "v1");
    let scale = |api: &Api, way: &str, min: u64| {
        let path = format!("/api/v1/deployments/{deployment}/scale-{way}");
        post(api, &path, &json!({ "min_replicas": min }))
    };
    for (way, back, from, to) in [("up", "down", 1, 3), ("down", "up", 3, 1)] {
        let step = Step {
            name: &format!("scaling {way}"),
            points: 6,
            prepare: &mut |api| {
                if workers.pools(api).expect("it lives")[0]["min_replicas"] != from {
                    scale(api, back, from).expect("it lives").ok();
                }
                workers.settle(api);
            },
            act: &mut |api| scale(api, way, to),
            through: &mut |api| workers.are_settled(api),
            echo: &mut |_| Some(true),
        };
        walk(&mut plane, step, &mut |crash| {
            let answered = crash.answer.is_some();
            let bounds = recover(crash, &workers).pool(&deployment).bounds;
            assert!(u64::from(bounds.min) == to || !answered && u64::from(bounds.min) == from, "{bounds:?}");
        });
    }
    drop(plane);
    workers.are_gone();
}

#[test]
fn a_promotion_that_starts_one_pool_and_stops_another_is_carried_through() {
    let Some((mut plane, workers)) = begin() else { return };
    let [first, second] = ["v1", "v2"].map(|version| workers.deployed(&plane.api(), version));
    let staging = workers.environment("staging").to_owned();
    let promote = |deployment: &str| {
        json!({
            "source_deployment_id": deployment, "target_environment_id": staging, "wait_ms": 60_000,
            "scale_previous_to_zero": true, "start": true,
        })
    };
    let step = Step {
        name: "a promotion that starts one pool and stops another",
        points: 5,
        prepare: &mut |api| {
            post(api, "/api/v1/deployments/promote", &promote(&first)).expect("it lives").ok();
            until("the pointer to be there", || points_at(api, &staging, &first).filter(|there| *there));
            workers.settle(api);
        },
        act: &mut |api| post(api, "/api/v1/deployments/promote", &promote(&second)),
        through: &mut |api| Some(points_at(api, &staging, &second)? && workers.are_settled(api)?),
        echo: &mut |_| Some(true),
    };
    walk(&mut plane, step, &mut |crash| {
        let answered = crash.answer.is_some();
        let api = crash.plane.api();
        let waits = !recover(crash, &workers).waiting.is_empty();
        if answered || waits {
            until("the move to be carried out", || points_at(&api, &staging, &second).filter(|there| *there));
        }
    });
    drop(plane);
    workers.are_gone();
}

#[test]
fn a_start_that_is_killed_is_followed_by_one_that_comes_through() {
    let Some((mut plane, workers)) = begin() else { return };
    let api = plane.api();
    let deployment = workers.deployed(&api, "v1");
    let more = json!({ "min_replicas": 2 });
    post(&api, &format!("/api/v1/deployments/{deployment}/scale-up"), &more).expect("it lives").ok();
    workers.settle(&api);
    plane.kill();

    plane.page.arm(u64::MAX);
    assert!(plane.start_again());
    plane.page.answered();
    workers.settle(&plane.api());
    let calls = plane.page.count();
    let mut places = evenly(&plane.page.turning_points(), 5);
    places.extend(evenly(&(1..=calls).collect::<Vec<_>>(), 5));
    let mut head = audit_after(&mut plane);
    for place in places {
        plane.page.arm(place);
        if plane.start_again() {
            plane.page.answered();
            let api = plane.api();
            until("it to die or to settle", || {
                (plane.is_dead() || workers.are_settled(&api) == Some(true)).then_some(())
            });
        }
        println!("a start killed at call {place} of {calls}: {}", plane.page.what());
        let after = audit_after(&mut plane);
        assert!(after >= head, "nothing that was committed is lost");
        head = after;
    }
    let orphans = workers.alive();
    assert!(plane.start_again(), "{}", plane.log());
    until("everybody of the runs before to be gone", || workers.alive().is_disjoint(&orphans).then_some(()));
    serves_what_it_says(&plane, &workers);
    drop(plane);
    workers.are_gone();
}

fn audit_after(plane: &mut Plane) -> u64 {
    plane.kill();
    audit(plane.data_dir()).head.0
}
