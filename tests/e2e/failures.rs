//! What happens when things die.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::Story;
use super::support::http::{self, Client};
use super::support::replica::Replica;
use super::support::server::Server;
use super::support::until;

#[test]
fn killing_a_replica_under_load_loses_no_request_that_may_be_retried() {
    let story = Story::begin();
    let (stays, dies) = (Replica::start("v1"), Replica::start("v1"));
    let endpoints = [stays.address(), dies.address()];
    story.api.deploy_endpoints(&story.project, &endpoints, Some("production")).ok();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| load(&story, &done))).collect();
        until("both replicas to be used", || (stays.requests() > 50 && dies.requests() > 50).then_some(()));
        dies.kill();
        let seen = stays.requests();
        until("the load to go on", || (stays.requests() > seen + 500).then_some(()));
        done.store(true, Ordering::SeqCst);
        for client in clients {
            assert_eq!(client.join().expect("it does not panic"), Vec::<String>::new());
        }
    });
}

/// Sends GETs on one connection until `done`; answers what went wrong.
fn load(story: &Story, done: &AtomicBool) -> Vec<String> {
    let mut client = Client::connect(story.server.ingress());
    let host = story.host("production");
    let mut wrong = Vec::new();
    while !done.load(Ordering::SeqCst) {
        match client.request("GET", &host, "/", &[], b"") {
            Ok(response) if response.status == 200 => {}
            Ok(response) => wrong.push(format!("{} {}", response.status, response.body)),
            Err(error) => {
                wrong.push(error.to_string());
                client = Client::connect(story.server.ingress());
            }
        }
    }
    wrong
}

#[test]
fn traffic_goes_on_while_the_control_plane_is_dead_and_it_comes_back_the_same() {
    let mut control = Server::control();
    let proxy = Server::proxy(&control);
    let api = control.api();
    let project = api.project("support");
    let (first, second) = (Replica::start("v1"), Replica::start("v2"));
    api.settled(1);
    let old = api.deploy_endpoints(&project, &[first.address()], Some("production")).ok();
    let new = api.deploy_endpoints(&project, &[second.address()], Some("production")).ok();
    let production = project.environment("production");
    let before = (api.current(production), facts(&api.history(production)));
    assert_eq!(before.0.as_deref(), new["id"].as_str());

    control.kill();
    let served = || http::get(proxy.ingress(), &project.host("production"), "/");
    for _ in 0..20 {
        assert_eq!(served().body, "v2");
    }

    control.start_again();
    let api = control.api();
    assert_eq!((api.current(production), facts(&api.history(production))), before);
    api.settled(1);
    let body = api.rollback(production).ok();
    assert_eq!(body["propagation"]["complete"], true, "the proxy is back: {body}");
    assert_eq!(served().deployment(), old["id"].as_str().expect("an id"));
}

/// A history without what is filled in later.
fn facts(history: &[Value]) -> Vec<Value> {
    let names = ["id", "sequence", "kind", "from_deployment_id", "to_deployment_id", "revision", "committed_at"];
    history.iter().map(|row| names.iter().map(|name| row[*name].clone()).collect()).collect()
}

#[test]
fn a_server_that_was_killed_comes_back_to_the_same_state() {
    let mut story = Story::begin();
    let (first, second) = (Replica::start("v1"), Replica::start("v2"));
    story.deploy_to(&first, "production");
    story.deploy_to(&second, "production");
    story.server.kill();
    story.server.start_again();
    story.api = story.server.api();
    until("the ingress to have its table", || (story.get("production").status == 200).then_some(()));
    assert_eq!(story.served("production"), "v2");
    story.api.settled(1);
    story.rollback("production");
    assert_eq!(story.served("production"), "v1");
}

#[test]
fn stopping_lets_running_requests_finish() {
    let mut story = Story::begin();
    let replica = Replica::start("v1");
    story.deploy(&replica);
    let mut client = Client::connect(story.server.ingress());
    let host = story.host("preview");
    client.send("GET", &host, "/hold", &[], b"").expect("sent");
    replica.holding(1);
    story.server.terminate();
    until("new connections to be refused", || {
        std::net::TcpStream::connect(story.server.ingress()).is_err().then_some(())
    });
    replica.release();
    let (status, _) = client.head().expect("the running request is answered");
    assert_eq!(status, 200);
    assert!(story.server.ended().success());
}

#[test]
fn a_second_signal_insists() {
    let mut story = Story::begin();
    let replica = Replica::start("v1");
    story.deploy(&replica);
    let mut client = Client::connect(story.server.ingress());
    client.send("GET", &story.host("preview"), "/hold", &[], b"").expect("sent");
    replica.holding(1);
    story.server.terminate();
    until("new connections to be refused", || {
        std::net::TcpStream::connect(story.server.ingress()).is_err().then_some(())
    });
    story.server.terminate();
    assert!(!story.server.ended().success(), "it was cut short, and says so");
    assert!(client.head().is_err(), "the running request was cut");
}
