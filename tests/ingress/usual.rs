//! Requests that are read and passed on as lines, and those among them that are not.

use crate::support::*;

#[tokio::test]
async fn a_connection_goes_on_when_an_unusual_request_follows_usual_ones() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    // All at once: what was read with one belongs to the next.
    let all = [get("/1", &[]), get("/2", &[]), get("/3", &["TE: trailers"]), get("/4", &[])].concat();
    let mut client = stage.send(&all).await;
    let mut upstream = replica.accept().await;
    for path in ["/1", "/2", "/3", "/4"] {
        assert_eq!(upstream.message().await.line, format!("GET {path} HTTP/1.1"));
        upstream.say(&ok(path)).await;
        assert_eq!(client.message().await.body, path);
    }
}

#[tokio::test]
async fn the_body_of_a_usual_request_ends_where_the_next_request_begins() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let chunked = post("/2", &["Transfer-Encoding: chunked"]) + "3\r\ntwo\r\n0\r\n\r\n";
    let all = [post("/1", &["Content-Length: 3"]) + "one", chunked, get("/3", &[])].concat();
    let mut client = stage.send(&all).await;
    let mut upstream = replica.accept().await;
    for (line, body) in [("POST /1 HTTP/1.1", "one"), ("POST /2 HTTP/1.1", "two"), ("GET /3 HTTP/1.1", "")] {
        let request = upstream.message().await;
        assert_eq!((request.line.as_str(), request.body.as_str()), (line, body));
        upstream.say(&ok("")).await;
        assert_eq!(client.message().await.status(), 200);
    }
}

#[tokio::test]
async fn names_and_values_are_passed_on_as_they_came() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &["X-CamelCase:a  b", "x-Twice: 1", "X-twice: 2"])).await;
    let mut upstream = replica.accept().await;
    let request = upstream.raw_head().await;
    assert!(request.contains("\r\nX-CamelCase:a  b\r\nx-Twice: 1\r\nX-twice: 2\r\n"), "{request}");
    upstream.say("HTTP/1.1 200 Fine\r\nX-Odd:  1 \r\nContent-length: 0\r\nETag: \"x\"\r\n\r\n").await;
    let answer = client.raw_head().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\nX-Odd:  1 \r\nETag: \"x\"\r\n"), "{answer}");
    assert_eq!(answer.matches("ontent-length").count(), 1, "{answer}");
}

#[tokio::test]
async fn an_answer_without_a_date_gets_one() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("")).await;
    let answer = client.message().await;
    assert!(answer.header("date").is_some_and(|date| date.len() == 29 && date.ends_with(" GMT")));
    client.say(&get("/", &[])).await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.message().await.all("date"), ["then"]);
}

#[tokio::test]
async fn what_connection_names_in_an_answer_ends_here() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let fields =
        "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nX-Stays: 2\r\nX-Environment: forged";
    upstream.say(&format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 0\r\n\r\n")).await;
    let answer = client.message().await;
    assert_eq!((answer.header("x-hop"), answer.header("keep-alive")), (None, None));
    assert_eq!((answer.header("x-stays"), answer.all("x-environment")), (Some("2"), vec!["production"]));
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_answered() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.connect().await;
    client.stream.set_nodelay(true).unwrap();
    for byte in get("/slow", &["X-A: 1"]).chars() {
        client.say(&byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.header("x-a"), Some("1"));
    upstream.say(&ok("whole")).await;
    assert_eq!(client.message().await.body, "whole");
}

#[tokio::test]
async fn the_answer_to_head_says_how_long_the_one_to_get_would_be() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&head("HEAD", "/", "support-production.localhost", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await;
    assert_eq!(client.head().await.header("content-length"), Some("1234"));
    client.say(&get("/", &[])).await;
    upstream.message().await;
    upstream.say("HTTP/1.1 304 Not Modified\r\n\r\n").await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.header("content-length")), (304, None));
    client.say(&get("/", &[])).await;
    upstream.message().await;
    upstream.say(&ok("goes on")).await;
    assert_eq!(client.message().await.body, "goes on");
}
