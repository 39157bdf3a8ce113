//! Addressing: which deployment a request reaches, by every door there is.

use repoint::model::policy::Door;

use crate::support::*;

/// `production` on 1 with 2 beside it, `preview` on 2; each answers with its name.
async fn stage() -> Stage {
    let mut stage = Stage::open();
    let one = Replica::listen().await.always("one");
    let two = Replica::listen().await.always("two");
    let preview = Replica::listen().await.always("preview");
    stage.environment("preview", Some(2)).environment("production", Some(1));
    stage.pool_at("production", 1, &[one]).pool_at("production", 2, &[two]).pool_at("preview", 2, &[preview]);
    stage.publish();
    stage
}

async fn ask(stage: &Stage, host: &str, lines: &[&str]) -> Message {
    stage.send(&head("GET", "/", host, lines)).await.message().await
}

#[tokio::test]
async fn environment_hosts_lead_to_what_the_pointer_names() {
    let stage = stage().await;
    for host in ["support-production.localhost", "SUPPORT-production.localhost:8080", "support-production.localhost."] {
        let answer = ask(&stage, host, &[]).await;
        assert_eq!(answer.body, "one");
        assert_eq!(answer.header("x-environment"), Some("production"));
        assert_eq!(answer.header("x-deployment-id"), Some(deployment(1).to_string().as_str()));
    }
    assert_eq!(ask(&stage, "support-preview.localhost", &[]).await.body, "preview");
}

#[tokio::test]
async fn a_pin_chooses_another_pool_of_the_same_environment() {
    let mut stage = stage().await;
    let host = "support-production.localhost";
    let by_id = format!("X-Deployment-ID: {}", deployment(2));
    let by_ref = format!("X-Deployment-ID: {}", reference(2));
    assert_eq!(ask(&stage, host, &[&by_id]).await.body, "two");
    assert_eq!(ask(&stage, host, &[&by_ref]).await.body, "two");
    assert_eq!(ask(&stage, "support-preview.localhost", &[&by_id]).await.body, "preview");

    let unknown = ask(&stage, host, &["X-Deployment-ID: unknown"]).await;
    assert_eq!((unknown.status(), unknown.code().as_str()), (404, "deployment_not_found"));
    stage.policy(|policy| policy.pins = Door::Off).publish();
    assert_eq!(ask(&stage, host, &[&by_id]).await.code(), "deployment_not_found");
}

#[tokio::test]
async fn deployment_hosts_lead_to_their_pool() {
    let mut stage = stage().await;
    let in_preview = format!("support--{}.localhost", reference(2));
    assert_eq!(ask(&stage, &in_preview, &[]).await.body, "preview");
    let in_production = format!("support--{}--production.localhost", reference(2));
    assert_eq!(ask(&stage, &in_production, &[]).await.code(), "deployment_not_running");
    stage.policy(|policy| policy.deployment_hosts = Some(Door::Open)).publish();
    assert_eq!(ask(&stage, &in_production, &[]).await.body, "two");
    assert_eq!(ask(&stage, "support--bbbbbbbb.localhost", &[]).await.code(), "deployment_not_running");
}

#[tokio::test]
async fn headers_choose_on_shared_hosts_only() {
    let stage = stage().await;
    let lines = ["X-Project: support", "X-Environment: production"];
    assert_eq!(ask(&stage, "localhost", &lines).await.body, "one");
    assert_eq!(ask(&stage, "api.example.com", &lines).await.body, "one");
    assert_eq!(ask(&stage, "api.example.com", &lines[..1]).await.code(), "environment_not_found");
    assert_eq!(ask(&stage, "support-preview.localhost", &lines).await.body, "preview");
    assert_eq!(ask(&stage, "other.example.com", &lines).await.code(), "environment_not_found");
}

#[tokio::test]
async fn an_absolute_target_addresses_like_a_host() {
    let stage = stage().await;
    let host = "support-production.localhost";
    let mut client = stage.send(&head("GET", &format!("http://{host}/"), host, &[])).await;
    assert_eq!(client.message().await.body, "one");
}

#[tokio::test]
async fn each_request_of_a_connection_resolves_for_itself() {
    let stage = stage().await;
    let mut client = stage.send(&head("GET", "/", "support-production.localhost", &[])).await;
    assert_eq!(client.message().await.body, "one");
    client.say(&head("GET", "/", "support-preview.localhost", &[])).await;
    assert_eq!(client.message().await.body, "preview");
    client.say(&head("GET", "/", "nowhere.localhost", &[])).await;
    assert_eq!(client.message().await.status(), 404);
    client.say(&head("GET", "/", "support-production.localhost", &[])).await;
    assert_eq!(client.message().await.body, "one");
}

#[tokio::test]
async fn both_loopback_addresses_answer() {
    let stage = stage().await;
    let twin = stage.running.addresses().get(1).copied();
    let Some(twin) = twin else { return assert!(std::net::TcpListener::bind("[::1]:0").is_err()) };
    assert_eq!(twin.port(), stage.address().port());
    let mut client = Wire::new(tokio::net::TcpStream::connect(twin).await.unwrap());
    client.say(&get("/", &[])).await;
    assert_eq!(client.message().await.body, "one");
}
