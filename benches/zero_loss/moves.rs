//! Moves of a pointer between two deployments, and what they are between.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::checks::Tally;
use crate::support;
use crate::support::api::{Api, Project, text};
use crate::support::server::Server;
use crate::timeline::Timeline;

/// Odd moves promote the one that is not current, even ones roll back, so that
/// both walks are under load.
pub fn make_move(
    api: &Api,
    environment: &str,
    n: usize,
    [first, second]: [&String; 2],
    timeline: &Timeline,
    tally: &Tally,
) -> Duration {
    let (to, path, body) = if n.is_multiple_of(2) {
        let body = json!({ "environment_id": environment, "wait_ms": 30_000 });
        (first, "/api/v1/deployments/rollback", body)
    } else {
        let body = json!({ "source_deployment_id": second, "target_environment_id": environment, "wait_ms": 30_000 });
        (second, "/api/v1/deployments/promote", body)
    };
    timeline.begin(to);
    let asked = Instant::now();
    let answer = api.post(path, &body);
    let took = asked.elapsed();
    let complete = answer.status == 200 && answer.body["propagation"]["complete"] == true;
    if complete && answer.body["promotion"]["to_deployment_id"] == to.as_str() {
        timeline.settle();
    } else {
        tally.wrong(format!("move {n} was answered {} {}", answer.status, answer.body));
    }
    took
}

/// Deploys the built-in worker as a bundle, as `repoint deploy` would, and points
/// `environment` at it. `more` goes at the end of its manifest.
pub fn deploy(server: &Server, project: &Project, version: &str, environment: &str, more: &str) -> String {
    let folder = support::server::folder();
    let binary = support::server::BINARY;
    let manifest = format!(
        "project = \"{}\"\n[worker]\ncommand = [{binary:?}, \"demo-worker\", \"--version\", \"{version}\"]\nhealth_path = \"/healthz\"\n{more}",
        project.name
    );
    std::fs::write(folder.path().join("repoint.toml"), manifest).expect("a fresh folder takes a file");
    let path = folder.path().to_str().expect("temporary paths are UTF-8");
    let output = server.cli(&["deploy", path, "--env", environment, "--yes", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("--json answers JSON");
    let id = text(&answer["deployment"]["id"]);
    assert_eq!(server.api().current(project.environment(environment)).as_deref(), Some(id.as_str()));
    id
}
