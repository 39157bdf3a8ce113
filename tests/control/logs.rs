//! What replicas wrote, through the API.

use std::time::Duration;

use repoint::model::id::EndpointId;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::plane::{LONG, Plane, pool_key};

/// Stands in for a replica: it prints this and ends.
async fn print(plane: &Plane, environment: &str, deployment: &str, text: &'static str) -> EndpointId {
    let replica: EndpointId = Uuid::now_v7().into();
    let writer = plane.logs.writer(pool_key(environment, deployment), replica).unwrap();
    writer.capture(text.as_bytes(), tokio::io::empty()).finish(LONG).await;
    replica
}

fn lines(body: &Value) -> Vec<Value> {
    let Some(text) = body.as_str() else { return vec![body.clone()] };
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_last_lines_are_shown_with_where_they_come_from() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.bundle_deployment(&project, "10s").await;
    for environment in [&project.preview, &project.staging] {
        plane.ready(environment, &deployment).await;
    }
    let first = print(&plane, &project.preview, &deployment, "one\ntwo\n").await;
    print(&plane, &project.staging, &deployment, "three\n").await;
    let path = format!("deployments/{deployment}/logs");
    let shown = plane.get(&path).await.ok();
    assert_eq!(shown.headers["content-type"], "application/x-ndjson");
    let printed = |body: &Value| -> Vec<(String, String)> {
        let lines = lines(body).into_iter().filter(|line| line["stream"] == "stdout");
        lines
            .map(|line| (line["environment"].as_str().unwrap().to_owned(), line["text"].as_str().unwrap().to_owned()))
            .collect()
    };
    let expected = [("preview", "one"), ("preview", "two"), ("staging", "three")];
    assert_eq!(printed(&shown.body), expected.map(|(at, text)| (at.to_owned(), text.to_owned())));
    let narrowed = plane.get(&format!("{path}?environment_id={}&tail=1", project.staging)).await.ok();
    assert_eq!(lines(&narrowed.body).len(), 1);
    let replica = plane.get(&format!("{path}?replica={first}")).await.ok();
    assert!(lines(&replica.body).iter().all(|line| line["endpoint_id"] == json!(first)));
    plane.get(&format!("{path}?tail=10001")).await.refused(400, "invalid_request");
    plane.get(&format!("{path}?environment_id={}", project.production)).await.refused(404, "deployment_not_found");
}

#[tokio::test]
async fn endpoints_that_something_else_runs_have_no_logs_here() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    plane.get(&format!("deployments/{deployment}/logs")).await.refused(409, "not_managed");
}

#[tokio::test]
async fn followed_lines_come_as_they_are_printed() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.bundle_deployment(&project, "10s").await;
    plane.ready(&project.preview, &deployment).await;
    print(&plane, &project.preview, &deployment, "before\n").await;
    let mut stream = TcpStream::connect(plane.address).await.unwrap();
    let (key, path) = (&plane.key, format!("/api/v1/deployments/{deployment}/logs?follow=true&tail=5"));
    let head = format!("GET {path} HTTP/1.1\r\nHost: api\r\nX-API-KEY: {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut followed = BufReader::new(stream).lines();
    let mut wait_for = async |text: &str| {
        let search =
            async { while !followed.next_line().await.unwrap().expect("the stream goes on").contains(text) {} };
        tokio::time::timeout(LONG, search).await.expect("the line comes in time");
    };
    wait_for("\"before\"").await;
    print(&plane, &project.preview, &deployment, "after\n").await;
    wait_for("\"after\"").await;
    tokio::time::timeout(Duration::from_secs(20), plane.restart()).await.expect("followers do not hold up the end");
}
