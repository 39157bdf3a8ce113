//! Seen from outside: a real client, the access log, the counters.

use std::process::Command;

use repoint::ingress::config::{AccessLog, LogFormat};
use repoint::model::change::PoolRecordState;

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
    assert_eq!(lines[0]["upstream"], replica.address.to_string());
    assert!(lines[0]["duration_ms"].as_f64().unwrap() >= lines[0]["answer_ms"].as_f64().unwrap());
    assert!(lines[0]["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!((&lines[1]["error"], &lines[1]["status"]), (&"environment_not_found".into(), &404.into()));
    assert!(!text.contains("secret"), "the query is left out");
}

#[tokio::test]
async fn a_line_of_text_holds_nothing_that_a_client_made_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let replica = Replica::listen().await;
    let mut stage = Stage::with(|config| {
        config.access_log = AccessLog::File(path.clone());
        config.access_log_format = LogFormat::Text;
    });
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]).publish();
    let mut client = stage.send(&get("/a\"b?token=secret", &["X-Request-ID: \"r\\1"])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("answer")).await;
    client.message().await;
    drop(client);
    assert_eq!(stage.running.drain(LIMIT).await, 0);
    drop(stage);

    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("] \"GET /a\\x22b HTTP/1.1\" 200 6 \"-\" \"-\" host=support-production.localhost "),
        "{text}"
    );
    let upstream = format!(
        " project=support environment=production deployment={} revision=1 upstream={} error=- ",
        deployment(1),
        replica.address
    );
    assert!(text.contains(&upstream), "{text}");
    assert!(text.contains(" request_id=\\x22r\\x5c1 ") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_sampled_log_has_every_answer_that_went_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let mut stage = Stage::with(|config| {
        config.access_log = AccessLog::File(path.clone());
        config.access_log_sample = u32::MAX.try_into().unwrap();
    });
    let replica = Replica::listen().await;
    stage.environment("production", Some(1)).pool("production", 1, &[&replica]);
    stage.environment("empty", None).publish();
    let mut client = stage.connect().await;
    for _ in 0..20 {
        for name in ["nowhere.localhost", "support-empty.localhost"] {
            client.say(&head("GET", "/", name, &[])).await;
            client.message().await;
        }
    }
    client.say(&get("/cut", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart").await;
    drop(upstream);
    // Whether the part that came was passed on before the end is chance.
    client.rest().await;
    drop(client);
    stage.running.drain(LIMIT).await;
    drop(stage);
    let text = std::fs::read_to_string(&path).unwrap();
    let count = |part: &str| text.lines().filter(|line| line.contains(part) && line.contains("\"weight\":1}")).count();
    assert_eq!((count("environment_empty"), count("upstream_reset"), text.lines().count()), (20, 1, 21), "{text}");
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
    assert_eq!(stage.metric("repoint_ingress_request_duration_seconds_count{class=\"2xx\"}"), 3.0);
    assert_eq!(stage.metric("repoint_ingress_answer_start_seconds_count"), 3.0);
    assert_eq!(stage.metric("repoint_ingress_connections_accepted_total"), 1.0);
    assert_eq!(stage.metric("repoint_ingress_environments"), 1.0);
    client.say(&head("GET", "/", "nowhere.localhost", &[])).await;
    client.message().await;
    until(|| stage.metric("repoint_ingress_request_duration_seconds_count{class=\"4xx\"}") == 1.0).await;
    assert_eq!(stage.metric("repoint_ingress_errors_total{code=\"environment_not_found\"}"), 1.0);
}

#[tokio::test]
async fn what_still_runs_where_nothing_new_goes_is_counted() {
    let replica = Replica::listen().await;
    let mut stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/slow", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    assert_eq!(stage.metric("repoint_ingress_closing_pool_requests"), 0.0);
    stage.change_pool(|pool| pool.state = PoolRecordState::Closing).environment("production", None).publish();
    assert_eq!(stage.metric("repoint_ingress_closing_pools"), 1.0);
    assert_eq!(stage.metric("repoint_ingress_closing_pool_requests"), 1.0);
    upstream.say(&ok("done")).await;
    client.message().await;
    until(|| stage.metric("repoint_ingress_closing_pool_requests") == 0.0).await;
    assert_eq!(stage.metric("repoint_ingress_draining"), 0.0);
    stage.running.drain(LIMIT).await;
    assert_eq!(stage.metric("repoint_ingress_draining"), 1.0);
}

#[tokio::test]
async fn a_replica_that_is_left_out_is_counted_once() {
    let (down, up) = (nobody().await, Replica::listen().await.always("up"));
    let mut stage = Stage::with(|config| config.threads = Some(1.try_into().unwrap()));
    stage.environment("production", Some(1)).pool_at("production", 1, &[down, up]).publish();
    let mut client = stage.connect().await;
    let ejections = || stage.metric("repoint_ingress_upstream_ejections_total");
    soon(async {
        while ejections() == 0.0 {
            client.say(&get("/", &[])).await;
            assert_eq!(client.message().await.body, "up");
        }
    })
    .await;
    assert_eq!(ejections(), 1.0);
    until(|| stage.metric("repoint_ingress_upstream_ejected") == 1.0).await;
}

/// How many series a scrape shows.
fn series(stage: &Stage) -> usize {
    stage.metrics.text().unwrap().lines().filter(|line| !line.starts_with('#')).count()
}

/// Asks each of these environments once.
async fn ask_all(stage: &Stage, count: usize) {
    let mut client = stage.connect().await;
    for n in 0..count {
        client.say(&head("GET", "/", &format!("support-e-{n}.localhost"), &[])).await;
        assert_eq!(client.message().await.body, "hello");
    }
}

#[tokio::test]
async fn series_do_not_grow_with_environments() {
    let address = Replica::listen().await.always("hello");
    let mut stage = Stage::open();
    stage.environments(1, address).publish();
    ask_all(&stage, 1).await;
    let before = series(&stage);
    stage.environments(10_000, address).publish();
    ask_all(&stage, 10_000).await;
    assert_eq!(stage.metric("repoint_ingress_environments"), 10_000.0);
    assert_eq!(series(&stage), before);
    assert!(!stage.metrics.text().unwrap().contains("e-1"), "no name is a label unless asked");
}

#[tokio::test]
async fn environments_that_are_named_have_metrics_of_their_own() {
    let address = Replica::listen().await.always("hello");
    let watched = ["support/e-7", "other/*"].map(|pattern| pattern.parse().unwrap());
    let mut stage = Stage::with(|config| config.metrics_environments = watched.to_vec());
    stage.environments(20, address).pool_at("e-7", 1, &[nobody().await]).publish();
    let before = series(&stage);
    ask_all(&stage, 7).await;
    assert_eq!(series(&stage), before);
    let mut client = stage.send(&head("GET", "/", "support-e-7.localhost", &[])).await;
    assert_eq!(client.message().await.code(), "connect_failed");
    let labels = "project=\"support\",environment=\"e-7\"";
    let requests = format!("repoint_ingress_environment_requests_total{{{labels},class=\"5xx\"}}");
    until(|| stage.metrics.text().unwrap().contains(&requests) && stage.metric(&requests) == 1.0).await;
    assert_eq!(stage.metric(&format!("repoint_ingress_environment_errors_total{{{labels}}}")), 1.0);
    let took = format!("repoint_ingress_environment_request_duration_seconds_count{{{labels}}}");
    assert_eq!(stage.metric(&took), 1.0);
    assert_eq!(series(&stage), before + 24);
}

#[tokio::test]
async fn watched_environments_are_a_hundred_at_most() {
    let address = Replica::listen().await.always("hello");
    let mut stage = Stage::with(|config| config.metrics_environments = vec!["*/e-*".parse().unwrap()]);
    stage.environments(150, address).publish();
    let before = series(&stage);
    ask_all(&stage, 150).await;
    until(|| stage.metric("repoint_ingress_environment_metrics_over_limit_total") == 50.0).await;
    assert_eq!(series(&stage), before + 100 * 24);
    ask_all(&stage, 150).await;
    until(|| stage.metric("repoint_ingress_environment_metrics_over_limit_total") == 100.0).await;
    assert_eq!(series(&stage), before + 100 * 24);
}
