//! Seen from outside: a real client, the access log, the counters.

use std::process::Command;

use repoint::ingress::config::AccessLog;

use crate::support::*;

#[tokio::test]
async fn curl_is_served_over_both_versions() {
    let address = Replica::listen().await.always("hello");
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    let port = stage.address().port();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = format!("http://support-production.localhost:{port}/");
        let resolve = format!("support-production.localhost:{port}:127.0.0.1");
        let run = move || Command::new("curl").args(["-sS", version, "--resolve", &resolve, &url]).output();
        match tokio::task::spawn_blocking(run).await.unwrap() {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "hello", "{output:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "curl is not installed here"),
        }
    }
}

#[tokio::test]
async fn every_request_has_its_line_in_the_access_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| config.access_log = AccessLog::File(path.clone()));
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let lines = [
        "X-Request-ID: r-1",
        "Content-Length: 4",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ];
    let mut client = stage.send(&(post("/a?token=secret", &lines) + "body")).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("answer")).await;
    client.message().await;
    client.say(&head("GET", "/b", "nowhere.localhost", &[])).await;
    client.message().await;
    drop(client);
    assert_eq!(stage.running.drain(LIMIT).await, 0);
    drop(stage);

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    let served = serde_json::json!({
        "project": "support", "environment": "production", "deployment": deployment(1).to_string(), "revision": 1,
        "client": "127.0.0.1", "protocol": "HTTP/1.1", "method": "POST", "host": "support-production.localhost",
        "path": "/a", "status": 200, "bytes_in": 4, "bytes_out": 6, "retries": 0, "tunnel": false,
        "request_id": "r-1", "trace_id": "0af7651916cd43dd8448eb211c80319c",
    });
    for (name, value) in served.as_object().unwrap() {
        assert_eq!(&lines[0][name], value, "{name}");
    }
    assert!(lines[0]["duration_ms"].as_f64().unwrap() >= lines[0]["answer_ms"].as_f64().unwrap());
    assert!(lines[0]["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!((&lines[1]["error"], &lines[1]["status"]), (&"environment_not_found".into(), &404.into()));
    assert!(!text.contains("secret"), "the query is left out");
}

#[tokio::test]
async fn counters_tell_what_happened() {
    let address = Replica::listen().await.always("hello");
    let mut stage = Stage::open();
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    let mut client = stage.connect().await;
    for _ in 0..3 {
        client.say(&(post("/", &["Content-Length: 4"]) + "body")).await;
        client.message().await;
    }
    until(|| stage.metric("repoint_ingress_requests_total{class=\"2xx\"}") == 3.0).await;
    assert_eq!(stage.metric("repoint_ingress_requests_in_flight"), 0.0);
    assert_eq!(stage.metric("repoint_ingress_upstream_connects_total"), 1.0);
    assert_eq!(stage.metric("repoint_ingress_upstream_reuses_total"), 2.0);
    assert_eq!(stage.metric("repoint_ingress_received_bytes_total"), 12.0);
    assert_eq!(stage.metric("repoint_ingress_sent_bytes_total"), 15.0);
    assert_eq!(stage.metric("repoint_ingress_request_duration_seconds_count"), 3.0);
    assert_eq!(stage.metric("repoint_ingress_connections_accepted_total"), 1.0);
}
