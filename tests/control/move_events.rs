//! One move, as it happens: its event stream from the request to the drained pool.

use std::time::Duration;

use jiff::Timestamp;
use repoint::fleet;
use repoint::fleet::member::{Greeting, Reason, Refused, Report};
use repoint::fleet::members::Session;
use repoint::model::revision::Revision;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::plane::{LONG, Plane, Project, pool_key};

/// The event stream of a move.
struct Told(Lines<BufReader<TcpStream>>);

impl Told {
    async fn open(plane: &Plane, path: &str) -> Self {
        let mut stream = TcpStream::connect(plane.address).await.unwrap();
        let head = format!("GET /api/v1/{path}/events HTTP/1.1\r\nHost: api\r\nX-API-KEY: {}\r\n\r\n", plane.key);
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(BufReader::new(stream).lines())
    }

    /// The next event; `None` at the end of the stream.
    async fn any(&mut self) -> Option<(String, Value)> {
        let search = async {
            let mut name = None;
            loop {
                let line = self.0.next_line().await.unwrap()?;
                if line == "0" {
                    return None;
                }
                if let Some(event) = line.strip_prefix("event: ") {
                    name = Some(event.to_owned());
                }
                if let Some(data) = line.strip_prefix("data: ") {
                    let data: Value = serde_json::from_str(data).unwrap();
                    assert_eq!(data["event"].as_str(), name.as_deref(), "the name is in both places");
                    return Some((name?, data));
                }
            }
        };
        timeout(LONG, search).await.expect("an event or the end comes in time")
    }

    /// The next event, which is to be this one.
    async fn next(&mut self, wanted: &str) -> Value {
        match self.any().await {
            Some((name, data)) if name == wanted => data,
            other => panic!("not {wanted}: {other:?}"),
        }
    }

    /// The first such event from here on that shows something.
    async fn until(&mut self, wanted: &str, shows: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.any().await {
                Some((name, data)) if name == wanted && shows(&data) => return data,
                Some(_) => {}
                None => panic!("the stream ended before {wanted}"),
            }
        }
    }

    async fn ends(&mut self) {
        assert_eq!(self.any().await, None);
    }
}

/// A control plane that has been up for long enough to conclude.
async fn settled() -> Plane {
    let config = fleet::Config { settle: Duration::ZERO, ..fleet::Config::default() };
    Plane::start_in(tempfile::tempdir().unwrap(), config).await
}

fn hello(plane: &Plane, name: &str) -> Session {
    let applied = Some(plane.store.head().revision);
    plane
        .fleet
        .hello(Greeting { applied, ..Greeting::new(name, Uuid::now_v7().into(), "127.0.0.1:1".parse().unwrap()) })
}

/// A move from one deployment to another, not applied by anybody yet.
async fn moved(plane: &Plane, project: &Project, more: Value) -> (String, Value) {
    let deployment = plane.deployment(project).await;
    plane.ready(&project.staging, &deployment).await;
    let ask = crate::plane::merged(json!({ "wait_ms": 0 }), more);
    let moved = plane.promote(&deployment, &project.staging, ask).await.ok().body;
    (format!("promotions/{}", moved["promotion"]["id"].as_str().unwrap()), moved)
}

fn revision(moved: &Value) -> Option<Revision> {
    moved["revision"].as_u64().map(Revision)
}

#[tokio::test]
async fn a_move_is_told_from_the_request_to_the_last_proxy() {
    let plane = settled().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    let pending = plane.promote(&deployment, &project.staging, json!({ "wait_ms": 0 })).await.ok().body;
    let (quick, slow) = (hello(&plane, "quick"), hello(&plane, "slow"));
    let mut told = Told::open(&plane, &format!("moves/{}", pending["move"]["id"])).await;
    assert_eq!(told.next("waiting").await["move"], pending["move"]);

    plane.ready(&project.staging, &deployment).await;
    let committed = told.next("committed").await;
    assert_eq!(committed["promotion"]["to_deployment_id"], json!(deployment));
    let revision = revision(&committed["promotion"]);
    let first = told.next("applying").await;
    assert_eq!((&first["required"], &first["applied"], &first["lagging_count"]), (&json!(2), &json!(0), &json!(2)));

    plane.fleet.ack(&quick, revision, None);
    let partly = told.until("applying", |told| told["applied"] == 1).await;
    let [lagging] = partly["lagging"].as_array().unwrap().as_slice() else { panic!("{partly}") };
    assert_eq!((&lagging["proxy_id"], &lagging["state"]), (&json!("slow"), &json!("live")));
    assert!(lagging["applied_revision"].as_u64() < committed["promotion"]["revision"].as_u64(), "{lagging}");

    plane.fleet.ack(&slow, revision, None);
    let applied = told.next("applied").await;
    assert_eq!((&applied["required"], &applied["unconfirmed"]), (&json!(2), &json!(0)));
    let time = |name: &str| applied[name].as_f64().unwrap();
    assert!(time("p50_ms") <= time("p99_ms") && time("p99_ms") <= time("all_ms"), "{applied}");
    // Nothing was served before: there is nothing more to tell.
    told.ends().await;
}

#[tokio::test]
async fn a_pool_that_closes_is_told_with_its_counts_until_it_has_drained() {
    let plane = settled().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    let proxy = hello(&plane, "one");
    let (path, moved) = moved(&plane, &project, json!({ "scale_previous_to_zero": true })).await;
    let applied = revision(&moved);
    plane.fleet.ack(&proxy, applied, None);
    let pool = pool_key(&project.staging, &old);
    let busy = |count| Report { applied, busy_pools: vec![(pool, count)], ..Report::default() };
    plane.fleet.status(&proxy, busy(3));

    let mut told = Told::open(&plane, &path).await;
    told.next("committed").await;
    told.next("applied").await;
    let closing = told.next("closing").await;
    assert_eq!((&closing["deployment_id"], &closing["in_flight"]), (&json!(old), &json!(3)));
    assert!(closing["blocked_by"][0].as_str().unwrap().contains("carries 3 requests"), "{closing}");
    // A count that falls rings no bell, and is told all the same.
    plane.fleet.status(&proxy, busy(1));
    told.until("closing", |told| told["in_flight"] == 1).await;

    plane.stopped(&project.staging, &old).await;
    let mut tx = plane.store.write().await.unwrap();
    tx.set_drained(pool, Timestamp::now(), 2).await.unwrap();
    tx.commit().await.unwrap();
    let drained = told.until("drained", |_| true).await;
    assert_eq!((&drained["deployment_id"], &drained["streams_cut"]), (&json!(old), &json!(2)));
    told.ends().await;
    // Who asks late is told the same, without the counts in between.
    let mut late = Told::open(&plane, &path).await;
    for name in ["committed", "applied", "drained"] {
        late.next(name).await;
    }
    late.ends().await;
}

#[tokio::test]
async fn what_was_served_before_and_is_not_closed_is_kept() {
    let plane = settled().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    let (path, _) = moved(&plane, &project, json!({})).await;
    let mut told = Told::open(&plane, &path).await;
    told.next("committed").await;
    told.next("applied").await;
    let kept = told.next("kept").await;
    assert_eq!((&kept["deployment_id"], &kept["state"]), (&json!(old), &json!("running")));
    told.ends().await;
}

#[tokio::test]
async fn a_closing_that_a_rollback_takes_back_ends_as_kept() {
    let plane = settled().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    let proxy = hello(&plane, "one");
    let (path, moved) = moved(&plane, &project, json!({ "scale_previous_to_zero": true })).await;
    plane.fleet.ack(&proxy, revision(&moved), None);
    let mut told = Told::open(&plane, &path).await;
    told.until("closing", |_| true).await;
    plane.rollback(&project.staging, json!({ "wait_ms": 0 })).await.ok();
    let kept = told.until("kept", |_| true).await;
    assert_eq!(kept["deployment_id"], json!(old));
    told.ends().await;
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_reason() {
    let plane = settled().await;
    let project = plane.project("support").await;
    let proxy = hello(&plane, "old");
    let (path, moved) = moved(&plane, &project, json!({})).await;
    let refused = Refused { revision: revision(&moved).unwrap(), reason: Reason::Unsupported, detail: "newer".into() };
    plane.fleet.nack(&proxy, refused);
    let mut told = Told::open(&plane, &path).await;
    let applying = told.until("applying", |_| true).await;
    assert_eq!((&applying["lagging_count"], &applying["refusing_count"]), (&json!(1), &json!(1)));
    let refused = &applying["lagging"][0]["refused"];
    assert_eq!((&refused["reason"], &refused["detail"]), (&json!("unsupported"), &json!("newer")));
}

#[tokio::test]
async fn moves_that_end_without_moving_say_how_and_are_over() {
    let plane = settled().await;
    let project = plane.project("support").await;
    let asked = |deployment: String, environment: String| {
        let plane = &plane;
        async move {
            let asked = plane.promote(&deployment, &environment, json!({ "wait_ms": 0 })).await.ok().body;
            Told::open(plane, &format!("moves/{}", asked["move"]["id"])).await
        }
    };
    let first = plane.deployment(&project).await;
    let mut superseded = asked(first, project.staging.clone()).await;
    superseded.next("waiting").await;
    let second = plane.deployment(&project).await;
    let mut refused = asked(second.clone(), project.staging.clone()).await;
    assert_eq!(superseded.next("superseded").await["move"]["state"], "superseded");
    superseded.ends().await;

    plane.post(&format!("deployments/{second}/terminate"), json!({})).await.ok();
    let told = refused.until("refused", |_| true).await;
    assert!(told["move"]["detail"].as_str().unwrap().contains("terminated"), "{told}");
    refused.ends().await;

    let never = plane.bundle_deployment(&project, "1s").await;
    let mut not_ready = asked(never, project.preview.clone()).await;
    let told = not_ready.until("target_not_ready", |_| true).await;
    assert!(told["move"]["ended_at"].is_string(), "{told}");
    not_ready.ends().await;
}

#[tokio::test]
async fn a_move_that_nobody_asked_for_has_no_stream() {
    let plane = Plane::start().await;
    plane.get("moves/7/events").await.refused(404, "move_not_found");
    plane.get(&format!("promotions/{}/events", Uuid::now_v7())).await.refused(404, "promotion_not_found");
    let headers = [("x-api-key", "wrong")];
    plane.send_with("GET", "moves/7/events", &headers, None).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_watched_move_does_not_hold_up_the_end() {
    let plane = settled().await;
    let project = plane.project("support").await;
    hello(&plane, "silent");
    let (path, _) = moved(&plane, &project, json!({})).await;
    let mut told = Told::open(&plane, &path).await;
    told.until("applying", |_| true).await;
    let plane = plane.restart().await;
    told.ends().await;
    plane.get(&path.replace("promotions", "projects")).await.refused(404, "project_not_found");
}
