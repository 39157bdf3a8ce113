//! What is open while pointers move: it stays where it began.

use std::net::TcpStream;

use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::Story;
use super::support::DEADLINE;
use super::support::http::Client;
use super::support::replica::Replica;

#[test]
fn an_open_stream_and_a_websocket_survive_fifty_moves() {
    let story = Story::begin();
    let (first, second) = (Replica::start("v1"), Replica::start("v2"));
    let (old, new) = (story.deploy_to(&first, "production"), story.deploy(&second));

    let mut stream = open_stream(&story, "production");
    first.streams_open(1);
    let mut socket = open_websocket(&story, "production");
    let mut received = Vec::new();
    for n in 0..50 {
        let target = if n % 2 == 0 { &new } else { &old };
        story.promote(target, "production");
        first.emit(&format!("event {n}"));
        received.extend(stream.chunk().expect("the stream goes on").expect("it is not over"));
        socket.send(Message::text(format!("message {n}"))).expect("the socket is open");
        let reply = socket.read().expect("the socket is open");
        assert_eq!(reply, Message::text(format!("v1:message {n}")));
        let response = story.get("production");
        assert_eq!(response.deployment(), target, "new requests go where the pointer is");
    }

    let sent: String = (0..50).map(|n| format!("data: v1 event {n}\n\n")).collect();
    assert_eq!(String::from_utf8_lossy(&received), sent, "byte for byte");
    first.finish_streams();
    assert_eq!(stream.chunk().expect("a proper end"), None);
    socket.close(None).expect("it closes");
}

#[test]
fn a_running_request_finishes_on_the_deployment_it_began_on() {
    let story = Story::begin();
    let (first, second) = (Replica::start("v1"), Replica::start("v2"));
    story.deploy_to(&first, "production");
    let mut client = Client::connect(story.server.ingress());
    let host = story.host("production");
    client.send("GET", &host, "/hold", &[], b"").expect("sent");
    first.holding(1);

    story.deploy_to(&second, "production");
    assert_eq!(story.served("production"), "v2");
    first.release();
    let response = client.read().expect("its answer");
    assert_eq!((response.status, response.body.as_str()), (200, "v1"));
}

#[test]
fn a_client_that_leaves_ends_its_request_at_the_replica() {
    let story = Story::begin();
    let replica = Replica::start("v1");
    story.deploy(&replica);
    let stream = open_stream(&story, "preview");
    replica.streams_open(1);
    let path = format!("/api/v1/environments/{}", story.environment("preview"));
    let in_flight = || story.api.get(&path).ok()["pools"][0]["in_flight"].as_u64();
    super::support::until("the stream to be counted", || (in_flight() == Some(1)).then_some(()));
    drop(stream);
    super::support::until("the claim to end", || (in_flight() == Some(0)).then_some(()));
}

fn open_stream(story: &Story, environment: &str) -> Client {
    let mut client = Client::connect(story.server.ingress());
    client.send("GET", &story.host(environment), "/stream", &[], b"").expect("sent");
    let (status, _) = client.head().expect("the head comes before the first event");
    assert_eq!(status, 200);
    client
}

fn open_websocket(story: &Story, environment: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(story.server.ingress()).expect("the ingress accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
    let url = format!("ws://{}/ws", story.host(environment));
    let (socket, response) = tungstenite::client(url, stream).expect("an upgrade");
    assert_eq!(response.status(), 101);
    socket
}
