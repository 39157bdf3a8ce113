//! Bundles that Repoint runs itself, through the command line.

use std::path::Path;

use serde_json::Value;

use super::support::http;
use super::support::server::{BINARY, Server, folder};
use super::support::until;
use super::text;

/// Writes a bundle of the built-in worker and deploys it with the command line.
pub(super) fn deploy(server: &Server, folder: &Path, version: &str, more: &[&str]) -> Value {
    let manifest = format!(
        "project = \"support\"\n[worker]\ncommand = [{BINARY:?}, \"demo-worker\", \"--version\", \"{version}\"]\n\
         health_path = \"/healthz\"\n"
    );
    std::fs::write(folder.join("repoint.toml"), manifest).expect("a folder takes a file");
    let path = folder.to_str().expect("UTF-8");
    let output = server.cli(&[&["deploy", path, "--yes", "--json"], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("--json answers JSON");
    answer["deployment"].clone()
}

fn cli(server: &Server, arguments: &[&str]) -> Value {
    let output = server.cli(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--json answers JSON")
}

#[test]
fn a_developer_deploys_promotes_and_rolls_back_from_the_command_line() {
    let server = Server::up();
    let folder = folder();
    let first = deploy(&server, folder.path(), "v1", &["--message", "first"]);
    let served = |environment: &str| http::get(server.ingress(), &format!("support-{environment}.localhost"), "/").body;
    assert!(served("preview").contains("hello from v1"), "{}", served("preview"));

    let reference = text(&first["ref"]);
    cli(&server, &["promote", &reference, "--to", "production", "--project", "support", "--yes"]);
    assert!(served("production").contains("hello from v1"));
    let second = deploy(&server, folder.path(), "v2", &[]);
    assert!(served("preview").contains("hello from v2"));
    assert!(served("production").contains("hello from v1"), "production did not move");

    cli(&server, &["promote", &text(&second["ref"]), "--to", "production", "--project", "support", "--yes"]);
    assert!(served("production").contains("hello from v2"));
    cli(&server, &["rollback", "production", "--project", "support", "--yes"]);
    assert!(served("production").contains("hello from v1"));
    let history = cli(&server, &["history", "production", "--project", "support"]);
    assert_eq!(history["items"].as_array().map(Vec::len), Some(3));
}

#[test]
fn invariant_11_environments_never_share_a_replica() {
    let server = Server::up();
    let folder = folder();
    let deployment = deploy(&server, folder.path(), "v1", &[]);
    cli(&server, &["promote", &text(&deployment["ref"]), "--to", "staging", "--project", "support"]);
    let status = server.api().get(&format!("/api/v1/deployments/{}/status", text(&deployment["id"]))).ok();
    let pools = status["pools"].as_array().expect("its pools");
    assert_eq!(pools.len(), 2, "{status}");
    let pids: Vec<_> = pools.iter().map(|pool| pool["endpoints"][0]["pid"].as_u64().expect("a process")).collect();
    assert_ne!(pids[0], pids[1], "each environment has its own");
}

#[test]
fn a_replica_that_is_killed_comes_back() {
    let server = Server::up();
    let folder = folder();
    let deployment = deploy(&server, folder.path(), "v1", &[]);
    let path = format!("/api/v1/deployments/{}/status", text(&deployment["id"]));
    let pid = || server.api().get(&path).ok()["pools"][0]["endpoints"][0]["pid"].as_u64();
    let before = pid().expect("it runs");
    super::support::server::signal(u32::try_from(before).expect("a process id"), "KILL");
    until("another replica to be ready", || {
        let status = server.api().get(&path).ok();
        let replica = &status["pools"][0]["endpoints"][0];
        (replica["pid"].as_u64().is_some_and(|pid| pid != before) && status["pools"][0]["ready"] == 1).then_some(())
    });
    until("it to serve", || {
        (http::get(server.ingress(), "support-preview.localhost", "/").status == 200).then_some(())
    });
}

#[test]
fn a_worker_that_cannot_start_says_why_and_nothing_moves() {
    let server = Server::up();
    let folder = folder();
    deploy(&server, folder.path(), "v1", &[]);
    std::fs::write(
        folder.path().join("repoint.toml"),
        "project = \"support\"\n[worker]\ncommand = [\"sh\", \"-c\", \"echo no model found; exit 3\"]\nready_timeout = \"5s\"\n",
    )
    .expect("a folder takes a file");
    let output = server.cli(&["deploy", folder.path().to_str().expect("UTF-8"), "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("repoint deployment errors"), "{said}");
    let errors = server.cli(&["deployment", "errors", "--project", "support"]);
    let errors = String::from_utf8_lossy(&errors.stdout).into_owned();
    assert!(errors.contains("CrashLoop") && errors.contains("no model found"), "{errors}");
    let served = http::get(server.ingress(), "support-preview.localhost", "/").body;
    assert!(served.contains("hello from v1"), "{served}");
}

#[test]
fn no_worker_outlives_a_server_that_was_killed() {
    let mut server = Server::up();
    let folder = folder();
    let deployment = deploy(&server, folder.path(), "v1", &[]);
    let path = format!("/api/v1/deployments/{}/status", text(&deployment["id"]));
    let pid = server.api().get(&path).ok()["pools"][0]["endpoints"][0]["pid"].as_u64().expect("it runs");
    server.kill();
    until("its worker to be gone", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    server.start_again();
    until("a new worker to serve", || {
        (http::get(server.ingress(), "support-preview.localhost", "/").status == 200).then_some(())
    });
}

#[test]
fn production_asks_where_there_is_nobody_to_ask() {
    let server = Server::up();
    let folder = folder();
    let deployment = deploy(&server, folder.path(), "v1", &[]);
    let reference = text(&deployment["ref"]);
    let output = server.cli(&["promote", &reference, "--to", "production", "--project", "support"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--yes"));
    let near = server.cli(&["promote", &reference, "--to", "produktion", "--project", "support", "--yes"]);
    assert_eq!(near.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&near.stderr).contains("production"), "it names the near one");
}

#[test]
fn terminating_what_is_current_is_refused_unless_forced() {
    let server = Server::up();
    let folder = folder();
    let deployment = deploy(&server, folder.path(), "v1", &[]);
    let id = text(&deployment["id"]);
    let api = server.api();
    let refused = api.post(&format!("/api/v1/deployments/{id}/terminate"), &serde_json::json!({})).refused();
    assert_eq!(refused, (409, "deployment_serving".into()));
    let get = || http::get(server.ingress(), "support-preview.localhost", "/");
    assert_eq!(get().status, 200);
    api.post(&format!("/api/v1/deployments/{id}/terminate"), &serde_json::json!({ "force": true })).ok();
    until("it to be terminated", || get().body.contains("deployment_terminated").then_some(()));
    let path = format!("/api/v1/deployments/{id}/status");
    until("its replica to be stopped", || (api.get(&path).ok()["pools"][0]["state"] == "stopped").then_some(()));
    cli(&server, &["deployment", "start", &text(&deployment["ref"]), "--project", "support"]);
    until("it to serve again", || (get().status == 200).then_some(()));
}
