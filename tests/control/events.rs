//! What happens, as it happens.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::plane::{LONG, Plane};

struct Events(Lines<BufReader<TcpStream>>);

impl Events {
    async fn open(plane: &Plane, query: &str) -> Self {
        let mut stream = TcpStream::connect(plane.address).await.unwrap();
        let head = format!("GET /api/v1/events{query} HTTP/1.1\r\nHost: api\r\nX-API-KEY: {}\r\n\r\n", plane.key);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events = Self(BufReader::new(stream).lines());
        // The first comment is sent once the subscription stands.
        events.line(|line| line.starts_with(": ")).await;
        events
    }

    async fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let search = async {
            loop {
                let line = self.0.next_line().await.unwrap().expect("the stream goes on");
                if wanted(&line) {
                    return line;
                }
            }
        };
        timeout(LONG, search).await.expect("the line comes in time")
    }

    async fn next(&mut self, name: &str) -> Value {
        self.line(|line| line == format!("event: {name}")).await;
        let data = self.line(|line| line.starts_with("data: ")).await;
        serde_json::from_str(&data["data: ".len()..]).unwrap()
    }
}

#[tokio::test]
async fn a_move_is_told_with_what_it_moved() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let mut events = Events::open(&plane, "").await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    let moved = events.next("pointer_moved").await;
    assert_eq!((&moved["environment_id"], &moved["to"]), (&json!(project.staging), &json!(deployment)));
    assert_eq!((&moved["kind"], &moved["from"]), (&json!("promote"), &json!(null)));
    let applied = events.next("applied").await;
    assert_eq!(applied["revision"], moved["revision"]);
}

#[tokio::test]
async fn only_the_asked_environment_is_told_of() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let mut events = Events::open(&plane, &format!("?environment_id={}", project.production)).await;
    let deployment = plane.serve_fresh(&project, &project.staging).await;
    plane.serve(&deployment, &project.production).await;
    let moved = events.next("pointer_moved").await;
    assert_eq!(moved["environment_id"], json!(project.production));
}

#[tokio::test]
async fn a_superseded_move_and_a_closing_pool_are_told() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let old = plane.serve_fresh(&project, &project.staging).await;
    let (never, new) = (plane.deployment(&project).await, plane.deployment(&project).await);
    let mut events = Events::open(&plane, "").await;
    plane.promote(&never, &project.staging, json!({ "wait_ms": 0 })).await.ok();
    plane.ready(&project.staging, &new).await;
    plane.promote(&new, &project.staging, json!({ "scale_previous_to_zero": true })).await.ok();
    let ended = events.next("move_ended").await;
    assert_eq!(ended["state"], "superseded");
    let draining = events.next("draining").await;
    assert_eq!(draining["deployment_id"], json!(old));
}

#[tokio::test]
async fn one_watcher_too_many_is_sent_away() {
    let plane = Plane::start().await;
    let mut watching = Vec::new();
    for _ in 0..256 {
        watching.push(Events::open(&plane, "").await);
    }
    let refused = plane.get("events").await.refused(503, "unavailable");
    assert_eq!(refused.headers["retry-after"], "1");
    watching.pop();
    crate::plane::until("a place to be free", || async {
        timeout(std::time::Duration::from_millis(200), Events::open(&plane, "")).await.ok()
    })
    .await;
}

#[tokio::test]
async fn watchers_do_not_hold_up_the_end() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let deployment = plane.deployment(&project).await;
    let _watching = Events::open(&plane, "").await;
    let ask = json!({ "wait_ms": 60000 });
    let key = plane.key.clone();
    let (waiting, plane) = tokio::join!(
        {
            let (address, project, deployment) = (plane.address, project.clone(), deployment.clone());
            async move { long_promote(address, &key, &deployment, &project.staging, &ask).await }
        },
        async {
            crate::plane::until("the move to wait", || plane.pool(&project.staging, &deployment)).await;
            plane.restart().await
        }
    );
    assert!(waiting.starts_with("HTTP/1.1 202"), "a wait ends with what there is: {waiting}");
    plane.get("projects").await.ok();
}

async fn long_promote(
    address: std::net::SocketAddr,
    key: &str,
    deployment: &str,
    environment: &str,
    ask: &Value,
) -> String {
    let body = crate::plane::merged(
        json!({ "source_deployment_id": deployment, "target_environment_id": environment }),
        ask.clone(),
    )
    .to_string();
    let head = format!(
        "POST /api/v1/deployments/promote HTTP/1.1\r\nHost: api\r\nX-API-KEY: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    BufReader::new(stream).lines().next_line().await.unwrap().unwrap_or_default()
}
