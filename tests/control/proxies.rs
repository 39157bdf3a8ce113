//! Proxies as the API shows them, and forgetting one.

use std::time::Duration;

use repoint::fleet;
use repoint::fleet::member::{Greeting, Report};
use repoint::model::id::InstanceId;
use repoint::model::member::{MemberKey, StoredMember};
use repoint::model::revision::Revision;
use repoint::store::MembersChange;
use serde_json::json;
use uuid::Uuid;

use crate::plane::{Plane, pool_key, until};

fn greeting(name: &str, instance: InstanceId) -> Greeting {
    Greeting::new(name, instance, "127.0.0.1:1".parse().unwrap())
}

/// A control plane to which nobody is live for longer than a moment.
async fn impatient() -> Plane {
    let live = Duration::from_millis(1);
    Plane::start_in(tempfile::tempdir().unwrap(), fleet::Config { live, ..fleet::Config::default() }).await
}

fn stored(name: &str, instance: InstanceId) -> StoredMember {
    StoredMember {
        key: MemberKey { proxy_id: name.into(), instance_id: instance },
        build: "repoint/test".into(),
        zone: String::new(),
        address: "127.0.0.1:1".parse().unwrap(),
        keeps_table: false,
        embedded: false,
        last_heard: jiff::Timestamp::now(),
        durable: None,
    }
}

#[tokio::test]
async fn a_proxy_is_shown_with_everything_that_matters_at_night() {
    let plane = Plane::start().await;
    let instance = Uuid::now_v7().into();
    let session =
        plane.fleet.hello(Greeting { keeps_table: true, applied: Some(Revision(1)), ..greeting("eu-1", instance) });
    plane.fleet.ack(&session, Some(Revision(1)), Some(Revision(1)));
    let shown = plane.get("proxies").await.ok().body["items"][0].clone();
    assert_eq!(shown["instance_id"], json!(instance));
    for (field, value) in [
        ("state", json!("live")),
        ("connected", json!(true)),
        ("applied_revision", json!(1)),
        ("durable_revision", json!(1)),
        ("keeps_table", json!(true)),
        ("refused", json!(null)),
        ("ahead", json!(false)),
    ] {
        assert_eq!(shown[field], value, "{field}: {shown}");
    }
    assert!(shown["silent_for_ms"].as_u64().unwrap() < 60_000, "{shown}");
    plane.fleet.lost(&session);
    assert_eq!(plane.get("proxies").await.ok().body["items"][0]["connected"], false);
}

#[tokio::test]
async fn a_live_proxy_is_not_forgotten() {
    let plane = Plane::start().await;
    plane.fleet.hello(greeting("eu-1", Uuid::now_v7().into()));
    let refused = plane.delete("proxies/eu-1").await.refused(409, "proxy_live");
    assert!(refused.message().contains("stop it first"), "{}", refused.message());
    let near = plane.delete("proxies/eu-2").await.refused(404, "proxy_not_found");
    assert!(near.message().contains("eu-1"), "{}", near.message());
    plane.delete("proxies/eu-1?instance_id=x").await.refused(400, "invalid_request");
    plane.delete("proxies/eu-1?colour=red").await.refused(400, "invalid_request");
    assert_eq!(plane.fleet.proxies().len(), 1, "refusals change nothing");
}

#[tokio::test]
async fn nothing_waits_for_a_forgotten_proxy() {
    let plane = impatient().await;
    let project = plane.project("support").await;
    let (one, two): (InstanceId, InstanceId) = (Uuid::now_v7().into(), Uuid::now_v7().into());
    let arrived = vec![stored("eu-1", one), stored("eu-1", two)];
    plane.store.keep_members(&MembersChange { arrived, ..MembersChange::default() }).await.unwrap();
    plane.fleet.hello(greeting("eu-1", one));
    until("it to be silent", || async {
        (plane.get("proxies").await.ok().body["items"][0]["state"] == "suspect").then_some(())
    })
    .await;
    let deployment = plane.deployment(&project).await;
    plane.ready(&project.staging, &deployment).await;
    let moved = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    assert_eq!(moved["propagation"]["required"], 1);

    let asked = format!("proxies/eu-1?instance_id={one}");
    assert_eq!(plane.delete(&asked).await.ok().body["forgotten"], json!([one]));
    plane.delete(&asked).await.refused(404, "proxy_not_found");
    let path = format!("promotions/{}/propagation", moved["promotion"]["id"].as_str().unwrap());
    assert_eq!(plane.get(&path).await.ok().body["propagation"]["complete"], true);
    // Rows without a member go, too: an earlier attempt may have ended between the two.
    assert_eq!(plane.delete("proxies/eu-1").await.ok().body["forgotten"], json!([two]));
    assert!(plane.store.take_over_members().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_closing_pool_names_who_keeps_it() {
    let plane = Plane::start_in(
        tempfile::tempdir().unwrap(),
        fleet::Config { settle: Duration::ZERO, ..fleet::Config::default() },
    )
    .await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    plane.ready(&project.staging, &deployment).await;
    let session = plane.fleet.hello(greeting("eu-1", Uuid::now_v7().into()));
    let ask = json!({ "environment_id": project.staging });
    let closed = plane.post(&format!("deployments/{deployment}/terminate"), ask).await.ok().body;
    let told = closed["pools"][0]["closing"]["blocked_by"][0].as_str().unwrap().to_owned();
    assert!(told.starts_with("proxy eu-1 (run ") && told.contains("has not applied"), "{told}");
    let head = plane.store.head().revision;
    plane.fleet.ack(&session, Some(head), None);
    let busy_pools = vec![(pool_key(&project.staging, &deployment), 3)];
    plane.fleet.status(&session, Report { applied: Some(head), busy_pools, ..Report::default() });
    let status = plane.get(&format!("deployments/{deployment}/status")).await.ok().body;
    let told = status["pools"][0]["closing"]["blocked_by"][0].as_str().unwrap().to_owned();
    assert!(told.ends_with("carries 3 requests of it"), "{told}");
}

#[tokio::test]
async fn however_many_keep_a_closing_pool_twenty_are_named_and_all_are_counted() {
    let config = fleet::Config { settle: Duration::ZERO, ..fleet::Config::default() };
    let plane = Plane::start_in(tempfile::tempdir().unwrap(), config).await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    plane.ready(&project.staging, &deployment).await;
    for n in 0..1_000 {
        plane.fleet.hello(greeting(&format!("eu-{n:04}"), Uuid::now_v7().into()));
    }
    let ask = json!({ "environment_id": project.staging });
    let closed = plane.post(&format!("deployments/{deployment}/terminate"), ask).await.ok().body;
    let closing = &closed["pools"][0]["closing"];
    let named = closing["blocked_by"].as_array().unwrap();
    assert_eq!((named.len(), &closing["blocked_by_count"]), (20, &json!(1_000)));
    assert!(named[19].as_str().unwrap().starts_with("proxy eu-0019 (run "), "{named:?}");
}
