//! Every client command against the real server.

use serde_json::Value;

use super::support::http;
use super::support::replica::Replica;
use super::support::server::Server;
use super::text;

/// Runs a command that must end with `code`; answers both outputs.
#[track_caller]
fn run(server: &Server, code: i32, line: &str) -> (String, String) {
    let words: Vec<_> = line.split(' ').collect();
    let output = server.cli(&words);
    let both = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(output.status.code(), Some(code), "{line}: {both:?}");
    both.into()
}

#[track_caller]
fn json(server: &Server, line: &str) -> Value {
    let (out, _) = run(server, 0, &format!("{line} --json"));
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{line} answers JSON: {out}"))
}

#[test]
fn projects_and_environments_are_made_changed_and_removed() {
    let server = Server::up();
    run(&server, 0, "project create support");
    let (_, said) = run(&server, 1, "project create support");
    assert!(said.contains("support"), "{said}");
    run(&server, 2, "project create Bad_Name");
    assert!(run(&server, 0, "project list").0.contains("preview, staging, production"));

    run(&server, 0, "env create canary -p support --hosts canary.example.com");
    let canary = json(&server, "env show canary -p support");
    assert_eq!((&canary["name"], &canary["current_deployment_id"]), (&"canary".into(), &Value::Null));
    run(&server, 0, "env set canary -p support --pins off --max-drain 60s");
    let shown = json(&server, "env show canary -p support");
    assert_eq!((&shown["policy"]["pins"], &shown["policy"]["max_drain_ms"]), (&"off".into(), &60_000.into()));
    assert_eq!(shown["hosts"], canary["hosts"], "what is not named stays");
    let (_, said) = run(&server, 1, "env create other -p support --hosts canary.example.com");
    assert!(said.contains("canary"), "it names the owner: {said}");
    run(&server, 0, "env delete canary -p support");
    let (_, said) = run(&server, 1, "env delete staging -p support");
    assert!(said.contains("staging"), "{said}");
    run(&server, 0, "project delete support --yes");
    assert_eq!(json(&server, "project list")["items"], Value::Array(Vec::new()));
}

#[test]
fn a_lock_stops_promotes_and_never_a_rollback() {
    let server = Server::up();
    let api = server.api();
    let project = api.project("support");
    let (first, second) = (Replica::start("v1"), Replica::start("v2"));
    for replica in [&first, &second] {
        api.deploy_endpoints(&project, &[replica.address()], Some("staging")).ok();
    }
    let list = json(&server, "deployment list -p support");
    let newest = text(&list["items"][0]["ref"]);
    run(&server, 0, "env lock staging -p support --reason freeze");
    run(&server, 0, "rollback staging -p support");
    assert_eq!(http::get(server.ingress(), &project.host("staging"), "/").body, "v1");
    let (_, said) = run(&server, 1, &format!("promote {newest} --to staging -p support"));
    assert!(said.contains("freeze") && said.contains("unlock"), "{said}");
    run(&server, 0, "env unlock staging -p support");
    run(&server, 0, &format!("promote {newest} --to staging -p support"));
    assert_eq!(http::get(server.ingress(), &project.host("staging"), "/").body, "v2");
    let history = run(&server, 0, "history staging -p support").0;
    assert_eq!(history.lines().count(), 5, "{history}");
}

#[test]
fn deployments_are_looked_at_and_endpoints_are_not_ours_to_start() {
    let server = Server::up();
    let api = server.api();
    let project = api.project("support");
    let replica = Replica::start("v1");
    api.deploy_endpoints(&project, &[replica.address()], Some("preview")).ok();
    assert!(run(&server, 0, "deployment status -p support").0.contains("running"));
    run(&server, 0, "deployment errors -p support");
    let (_, said) = run(&server, 1, "deployment start -p support");
    assert!(said.contains("start"), "{said}");
    let (_, said) = run(&server, 1, "deployment scale --min-replicas 2 -p support");
    assert!(!said.is_empty());
    let (_, said) = run(&server, 1, "deployment status zzzzzzzz -p support");
    assert!(said.contains("zzzzzzzz"), "{said}");
    let proxies = json(&server, "proxies");
    assert_eq!(proxies["items"][0]["state"], "live");
    run(&server, 2, "promote");
    run(&server, 2, "deployment terminate --force -p support");
    run(&server, 0, "deployment terminate --force --yes -p support");
    super::support::until("it to be terminated", || {
        let body = http::get(server.ingress(), &project.host("preview"), "/").body;
        body.contains("deployment_terminated").then_some(())
    });
}
