//! How far a move has got, with members fed by hand.

use repoint::fleet::member::{Greeting, Reason, Refused};
use repoint::fleet::members::Session;
use repoint::model::revision::Revision;
use serde_json::json;
use uuid::Uuid;

use crate::plane::{Plane, until};

fn hello(plane: &Plane, name: &str, applied: Revision) -> Session {
    plane.fleet.hello(Greeting {
        build: "repoint/test".into(),
        applied: Some(applied),
        ..Greeting::new(name, Uuid::now_v7().into(), "127.0.0.1:1".parse().unwrap())
    })
}

#[tokio::test]
async fn a_promote_waits_until_every_proxy_has_applied_it() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    plane.ready(&project.staging, &deployment).await;
    let before = plane.store.head().revision;
    let (one, two) = (hello(&plane, "one", before), hello(&plane, "two", before));
    let (moved, ()) = tokio::join!(plane.promote(&deployment, &project.staging, json!({ "wait_ms": 30000 })), async {
        let revision =
            until("the move", || async { Some(plane.store.head().revision).filter(|now| *now > before) }).await;
        plane.fleet.ack(&one, Some(revision), None);
        plane.fleet.ack(&two, Some(revision), None);
    });
    let moved = moved.ok().body;
    let propagation = &moved["propagation"];
    assert_eq!((&propagation["required"], &propagation["applied"]), (&json!(2), &json!(2)));
    assert_eq!(propagation["complete"], true);
    until("applied_at in the history", || async {
        plane.history(&project.staging).await[0]["applied_at"].as_str().map(str::to_owned)
    })
    .await;
}

#[tokio::test]
async fn a_promote_that_is_not_applied_everywhere_says_so_and_can_be_followed() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    plane.ready(&project.staging, &deployment).await;
    let before = plane.store.head().revision;
    let (quick, slow) = (hello(&plane, "quick", before), hello(&plane, "slow", before));
    let moved = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    assert_eq!((&moved["changed"], &moved["propagation"]["complete"]), (&json!(true), &json!(false)));
    let revision = Revision(moved["revision"].as_u64().unwrap());
    plane.fleet.ack(&quick, Some(revision), None);

    let path = format!("promotions/{}/propagation", moved["promotion"]["id"].as_str().unwrap());
    let partly = plane.get(&path).await.ok().body["propagation"].clone();
    assert_eq!((&partly["applied"], &partly["complete"]), (&json!(1), &json!(false)));
    let waiting = format!("{path}?wait_ms=30000");
    let (followed, ()) = tokio::join!(plane.get(&waiting), async {
        plane.fleet.ack(&slow, Some(revision), None);
    });
    assert_eq!(followed.ok().body["propagation"]["complete"], true);
    let again = plane.promote(&deployment, &project.staging, json!({})).await.ok().body;
    assert_eq!((&again["changed"], &again["propagation"]["applied"]), (&json!(false), &json!(2)));
    plane.get(&path.replace("promotions/0", "promotions/f")).await.refused(404, "promotion_not_found");
}

#[tokio::test]
async fn a_refusal_is_reported_with_proxy_and_reason() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    plane.ready(&project.staging, &deployment).await;
    let before = plane.store.head().revision;
    let old = hello(&plane, "old", before);
    let (moved, ()) = tokio::join!(plane.promote(&deployment, &project.staging, json!({ "wait_ms": 30000 })), async {
        let revision =
            until("the move", || async { Some(plane.store.head().revision).filter(|now| *now > before) }).await;
        plane.fleet.nack(&old, Refused { revision, reason: Reason::Unsupported, detail: "newer".into() });
    });
    let propagation = moved.ok().body["propagation"].clone();
    assert_eq!(propagation["refused"], json!([{ "proxy_id": "old", "reason": "unsupported" }]));
    assert_eq!(propagation["complete"], false);
}

#[tokio::test]
async fn proxies_are_shown_against_the_newest_revision() {
    let plane = Plane::start().await;
    plane.project("support").await;
    let head = plane.store.head().revision;
    hello(&plane, "one", head);
    hello(&plane, "two", Revision(head.0 - 1));
    let shown = plane.get("proxies").await.ok().body;
    assert_eq!(shown["head_revision"], json!(head));
    let lags: Vec<_> =
        shown["items"].as_array().unwrap().iter().map(|proxy| (&proxy["proxy_id"], &proxy["lag"])).collect();
    assert_eq!(lags, [(&json!("one"), &json!(0)), (&json!("two"), &json!(1))]);
    assert_eq!((&shown["items"][0]["state"], &shown["items"][0]["version"]), (&json!("live"), &json!("repoint/test")));
}
