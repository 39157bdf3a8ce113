//! Bad input: each a clear error that names the remedy, and nothing half-done.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Story;
use super::support::replica::Replica;
use super::support::server::{BINARY, Server, folder};

#[test]
fn what_the_api_cannot_read_is_refused_with_its_reason() {
    let story = Story::begin();
    let head = || story.api.get("/api/v1/proxies").ok()["head_revision"].clone();
    let before = head();
    let huge = format!("{{\"name\":\"{}\"}}", "a".repeat(2 << 20));
    let cases: [(&str, &str, &str, u16); 9] = [
        ("/api/v1/projects", "{\"name\":", "line 1", 400),
        ("/api/v1/projects", "{\"name\":\"other\",\"colour\":1}", "colour", 400),
        ("/api/v1/projects", "{\"name\":7}", "name", 400),
        ("/api/v1/projects", "{\"name\":\"Bad Name\"}", "lower-case", 400),
        ("/api/v1/projects", "{\"name\":\"support\"}", "support", 409),
        ("/api/v1/projects", &huge, "bytes", 413),
        ("/api/v1/deployments", "{}", "project_id", 400),
        ("/api/v1/deployments/promote", "{\"source_deployment_id\":\"x\"}", "source_deployment_id", 400),
        ("/api/v1/nothing", "{}", "/api/v1", 404),
    ];
    for (path, body, named, status) in cases {
        let answer = story.api.send("POST", path, body.as_bytes());
        let message = answer.body["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(answer.status, status, "{path} {}", answer.body);
        assert!(message.contains(named), "{path}: {message:?} names {named:?}");
    }
    let method = story.api.send("DELETE", "/api/v1/projects", b"").refused();
    assert_eq!(method.0, 405);
    assert_eq!(head(), before, "a refusal changes nothing");
}

#[test]
fn a_wrong_key_is_refused_and_told_where_the_right_one_is() {
    let story = Story::begin();
    let server = story.server.address_of("api");
    let answer = super::support::api::Api::new(server, "rpt_wrong").get("/api/v1/projects");
    assert_eq!(answer.status, 401);
    let message = answer.body["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("admin.key"), "{message}");
    let output = story.server.cli_with(&["project", "list"], &[("REPOINT_API_KEY", "rpt_wrong")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("key"));
}

#[test]
fn bad_hosts_and_names_are_refused_before_they_reach_a_table() {
    let story = Story::begin();
    let production = format!("/api/v1/environments/{}", story.environment("production"));
    for host in ["http://x", "a b", "x:80", "-a.example.com", "*.*.example.com", "localhost", "a--b.localhost"] {
        let answer = story.api.put(&production, &json!({ "hosts": [host] }));
        assert_eq!(answer.status, 400, "{host}: {}", answer.body);
    }
    let taken = json!({ "hosts": [story.host("staging")] });
    assert_eq!(story.api.put(&production, &taken).refused(), (409, "host_taken".into()));
    story.api.put(&production, &json!({ "hosts": ["agents.example.com"] })).ok();
    let replica = Replica::start("v1");
    story.deploy_to(&replica, "production");
    let response = super::support::http::get(story.server.ingress(), "agents.example.com", "/");
    assert_eq!(response.body, "v1");
}

#[test]
fn a_bundle_whose_digest_lies_is_not_kept() {
    let story = Story::begin();
    let lie = format!("sha256:{}", "0".repeat(64));
    let refused = story.api.send("PUT", &format!("/api/v1/bundles/{lie}"), b"not what it says").refused();
    assert_eq!(refused, (400, "bundle_digest_mismatch".into()));
    let source = json!({ "project_id": story.project.id, "source": { "kind": "bundle", "digest": lie } });
    assert_eq!(story.api.post("/api/v1/deployments", &source).refused().0, 404);
    let kept: Vec<_> = files(&story.server.data_dir().join("bundles"));
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn a_second_up_on_one_data_directory_names_the_owner() {
    let server = Server::up();
    let data = server.data_dir().to_str().expect("UTF-8").to_owned();
    let (status, message) = refused_start(&["up", "--data-dir", &data]);
    assert_eq!(status, Some(1));
    assert!(message.contains(&data) && message.contains("--data-dir"), "{message}");
    assert_eq!(server.api().get("/api/v1/projects").status, 200, "the first goes on");
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let server = Server::up();
    let taken = folder();
    let data = taken.path().join("data");
    let ingress = server.ingress().to_string();
    let (status, message) = refused_start(&["up", "--ingress", &ingress, "--data-dir", data.to_str().expect("UTF-8")]);
    assert_eq!(status, Some(1));
    assert!(message.contains(&ingress) && message.contains("--ingress"), "{message}");
}

#[test]
fn an_unusable_data_directory_is_a_clear_error() {
    let folder = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").expect("a file");
    let below = file.join("data");
    let (status, message) = refused_start(&["up", "--data-dir", below.to_str().expect("UTF-8")]);
    assert_eq!(status, Some(1));
    assert!(message.contains("--data-dir"), "{message}");
}

#[test]
fn the_admin_key_is_for_its_owner_only() {
    let server = Server::up();
    for file in ["admin.key", "stream.token", "repoint.db"] {
        let mode = std::fs::metadata(server.data_dir().join(file)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

/// Starts a server that must not start; answers its exit code and what it said.
fn refused_start(arguments: &[&str]) -> (Option<i32>, String) {
    let free = ["--api", "127.0.0.1:0", "--stream", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut command = Command::new(BINARY);
    command.args(arguments).args(free).stdin(Stdio::null());
    if !arguments.contains(&"--ingress") {
        command.args(["--ingress", "127.0.0.1:0"]);
    }
    let output = command.output().expect("the binary under test runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn files(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.path().is_file()).map(|e| e.file_name().to_string_lossy().into()).collect()
}

#[test]
fn errors_have_one_shape_at_the_ingress_too() {
    let story = Story::begin();
    let cases =
        [("nobody.localhost", 404, "environment_not_found"), (&story.host("staging"), 503, "environment_empty")];
    for (host, status, code) in cases {
        let response = super::support::http::get(story.server.ingress(), host, "/");
        let body: Value = serde_json::from_str(&response.body).expect("JSON");
        assert_eq!((response.status, body["error"]["code"].as_str()), (status, Some(code)));
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 10));
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
}
