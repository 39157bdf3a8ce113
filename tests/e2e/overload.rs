//! A proxy that has as much as it takes is still watched, and others are served.

use super::Story;
use super::support::http::{self, Client};
use super::support::replica::Replica;
use super::support::server::Server;

#[test]
fn health_and_metrics_answer_while_the_ingress_is_overloaded_and_other_environments_are_served() {
    // Half of them for one environment.
    let story = Story::on(Server::up_with(&["--in-flight-max", "4"]));
    let (busy, other) = (Replica::start("busy"), Replica::start("other"));
    story.deploy_to(&busy, "production");
    story.deploy_to(&other, "preview");
    let hold = |environment: &str| {
        let mut client = Client::connect(story.server.ingress());
        client.send("GET", &story.host(environment), "/hold", &[], b"").expect("sent");
        client
    };
    let status = |environment: &str| http::get(story.server.ingress(), &story.host(environment), "/").status;

    let mut held = vec![hold("production"), hold("production")];
    busy.holding(2);
    assert_eq!((status("production"), status("preview")), (503, 200), "one environment does not starve another");

    held.extend([hold("preview"), hold("preview")]);
    other.holding(2);
    assert_eq!((status("production"), status("preview")), (503, 503));
    let admin = |path: &str| http::get(story.server.admin(), "localhost", path);
    assert_eq!(admin("/healthz").status, 200);
    let metrics = admin("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.lines().any(|line| line == "repoint_ingress_requests_in_flight 4"), "{}", metrics.body);

    busy.release();
    other.release();
    for client in &mut held {
        assert_eq!(client.read().expect("an answer").status, 200, "what runs is finished");
    }
}
