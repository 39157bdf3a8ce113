//! Importing and exporting with the real command line, and pointers that move together.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use super::support::http;
use super::support::replica::Replica;
use super::support::server::{Server, folder};
use super::support::until;
use super::{Story, text};

/// Environments of the large file: enough for several statements, pages and chunks of each kind.
const MANY: usize = 2_000;

/// A file with so many environments, which all point at one deployment each of the same address.
fn file(environments: usize, address: &str) -> String {
    let mut lines = String::from("{\"kind\":\"project\",\"name\":\"fleet\"}\n");
    for n in 0..environments {
        let reference = reference(n);
        lines += &format!(
            "{{\"kind\":\"deployment\",\"project\":\"fleet\",\"ref\":\"{reference}\",\"source\":{{\"kind\":\"endpoints\",\"endpoints\":[\"http://{address}\"]}}}}\n\
             {{\"kind\":\"environment\",\"project\":\"fleet\",\"name\":\"e{n}\",\"hosts\":[\"h{n}.example.com\"]}}\n\
             {{\"kind\":\"pointer\",\"project\":\"fleet\",\"environment\":\"e{n}\",\"ref\":\"{reference}\"}}\n",
        );
    }
    lines
}

fn reference(n: usize) -> String {
    format!("{n:08}").replace('0', "b").replace('1', "c")
}

#[track_caller]
fn run(server: &Server, code: i32, words: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = server.cli(words);
    let both = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(status.code(), Some(code), "{words:?}: {both:?}");
    both.into()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("temporary paths are UTF-8").to_owned()
}

#[test]
fn thousands_of_environments_are_imported_served_and_exported() {
    let (server, replica, folder) = (Server::up(), Replica::start("v1"), folder());
    let (one, two, three) = ("one.ndjson", "two.ndjson", "three.ndjson");
    let [one, two, three] = [one, two, three].map(|name| path(folder.path(), name));
    std::fs::write(&one, file(MANY, &replica.address().to_string())).expect("room for a file");
    server.api().settled(1);

    let (out, said) = run(&server, 0, &["import", &one]);
    assert!(out.contains(&format!("{} new, 0 changed", MANY + 3)), "{out}");
    assert!(said.contains("sending") && said.contains("writing"), "progress in plain lines: {said}");
    for n in [0, MANY / 2, MANY - 1] {
        let answer = http::get(server.ingress(), &format!("h{n}.example.com"), "/");
        assert_eq!((answer.status, answer.body.as_str()), (200, "v1"), "applied when the command ends");
    }
    let bytes = |name: &str| std::fs::metadata(server.data_dir().join(name)).expect("it is there").len();
    until("what was written ahead to be given back", || {
        (bytes("repoint.db-wal") < bytes("repoint.db") / 4).then_some(())
    });
    let (out, _) = run(&server, 0, &["import", &one, "--json"]);
    let again: Value = serde_json::from_str(&out).expect("one object");
    assert_eq!((&again["changed"], &again["pointers"]["unchanged"]), (&json!(false), &json!(MANY)));

    run(&server, 0, &["export", &two]);
    let elsewhere = Server::up();
    run(&elsewhere, 0, &["import", &two]);
    run(&elsewhere, 0, &["export", &three]);
    let [two, three] = [two, three].map(|name| std::fs::read_to_string(name).expect("it was written"));
    assert!(two == three, "an export is the same after it was imported elsewhere");
}

#[test]
fn a_bad_file_is_refused_line_by_line_and_leaves_nothing() {
    let (server, folder) = (Server::up(), folder());
    let bad = path(folder.path(), "bad.ndjson");
    let lines = format!("{}{{\"kind\":\"pointer\"}}\nnonsense\n", file(2, "127.0.0.1:9"));
    std::fs::write(&bad, lines).expect("room for a file");
    let (_, said) = run(&server, 1, &["import", &bad]);
    assert!(said.contains("line 8: ") && said.contains("line 9: ") && said.contains("nothing was imported"), "{said}");
    assert_eq!(server.api().get("/api/v1/projects").ok()["items"], json!([]));
    let (_, said) = run(&server, 1, &["import", &path(folder.path(), "no such file")]);
    assert!(said.contains("no such file"), "{said}");
}

#[test]
fn an_imported_endpoint_that_does_not_answer_is_found_out_afterwards() {
    let (server, folder) = (Server::up(), folder());
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let dead = path(folder.path(), "dead.ndjson");
    std::fs::write(&dead, file(3, &gone.to_string())).expect("room for a file");
    run(&server, 0, &["import", &dead]);
    let api = server.api();
    let environments = api.get("/api/v1/environments").ok();
    let found =
        environments["items"].as_array().expect("a list").iter().filter(|found| found["current_ref"].is_string());
    let ids: Vec<String> = found.map(|found| text(&found["id"])).collect();
    assert_eq!(ids.len(), 3);
    for id in ids {
        until("probes to find the endpoint out", || {
            let shown = api.get(&format!("/api/v1/environments/{id}")).ok();
            (shown["pools"][0]["ready"] == 0 && shown["pools"][0]["state"] == "failing").then_some(())
        });
    }
}

/// Invariant 1: whoever sees one environment on the next deployment finds the other one there, too.
#[test]
fn invariant_1_environments_that_move_together_are_never_seen_apart() {
    let story = Story::begin();
    let labels = ["1", "2", "3", "4", "5", "6"];
    let replicas = labels.map(Replica::start);
    let deployments: Vec<String> = replicas.iter().map(|replica| story.deploy(replica)).collect();
    // Downwards, so that every one is ready in both and the first is current.
    for deployment in deployments.iter().rev() {
        until("it to be ready in both", || {
            let moved = ["staging", "production"].map(|name| story.api.promote(deployment, story.environment(name)));
            moved.iter().all(|moved| moved.status == 200).then_some(())
        });
    }
    let (done, pairs) = (AtomicBool::new(false), AtomicU64::new(0));
    let look = |first: &str, second: &str| {
        while !done.load(Ordering::SeqCst) {
            let [earlier, later] = [first, second].map(|name| story.served(name).parse::<u32>().expect("a label"));
            assert!(earlier <= later, "{first} was seen on {earlier}, and {second} after it on {later}");
            pairs.fetch_add(1, Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(|| look("staging", "production")), scope.spawn(|| look("production", "staging"))];
        for deployment in &deployments[1..] {
            let seen = pairs.load(Ordering::SeqCst);
            until("both readers to go on", || {
                let alive = readers.iter().all(|reader| !reader.is_finished());
                (!alive || pairs.load(Ordering::SeqCst) > seen + 20).then_some(())
            });
            let one = |name: &str| json!({ "source_deployment_id": deployment, "target_environment_id": story.environment(name) });
            let asked = json!({ "promotions": [one("staging"), one("production")], "wait_ms": 30_000 });
            let moved = story.api.post("/api/v1/promotions", &asked).ok();
            assert_eq!((&moved["changed"], &moved["propagation"]["complete"]), (&json!(true), &json!(true)), "{moved}");
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!((story.served("staging").as_str(), story.served("production").as_str()), ("6", "6"));
}
