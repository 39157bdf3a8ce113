//! Hostile framing: one request at the client is one request at the replica, or
//! an error and the end.

use crate::support::*;

const HOST: &str = "Host: support-production.localhost";

#[tokio::test]
async fn what_has_two_meanings_is_refused_and_the_connection_closed() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let cases = [
        format!("POST / HTTP/1.1\r\n{HOST}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        format!("POST / HTTP/1.1\r\n{HOST}\r\nContent-Length: 5, 6\r\n\r\nhello"),
        format!("POST / HTTP/1.1\r\n{HOST}\r\nContent-Length: +5\r\n\r\nhello"),
        format!("POST / HTTP/1.1\r\n{HOST}\r\nContent-Length: 0x5\r\n\r\nhello"),
        format!("POST / HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.0\r\n{HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{HOST}\r\n folded: yes\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{HOST}\r\nSpace : yes\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{HOST}\r\nNul: a\0b\r\n\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{HOST}\r\n{HOST}\r\n\r\n"),
        format!("GET http://other.localhost/ HTTP/1.1\r\n{HOST}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{HOST}/path\r\n\r\n"),
        format!("CONNECT support-production.localhost:80 HTTP/1.1\r\n{HOST}:80\r\n\r\n"),
        "GET / HTTP/3.7\r\nHost: a\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ];
    for request in cases {
        let mut client = stage.send(&request).await;
        let answer = client.head().await;
        assert_eq!(answer.status(), 400, "{request:?} → {answer}");
    }
    assert!(replica.is_alone().await, "none of it reaches a replica");
}

#[tokio::test]
async fn length_beside_chunks_has_one_meaning_upstream() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    for lines in
        [["Content-Length: 4", "Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", "Content-Length: 4"]]
    {
        let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: support-production.localhost\r\n\r\n";
        let mut client = stage.send(&(post("/", &lines) + smuggled)).await;
        let mut upstream = replica.accept().await;
        let request = upstream.message().await;
        assert_eq!((request.header("content-length"), request.header("transfer-encoding")), (None, Some("chunked")));
        assert_eq!((request.line.as_str(), request.body.as_str()), ("POST / HTTP/1.1", ""));
        upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        drop(upstream);
        assert_eq!(client.message().await.status(), 200);
        // What follows has no meaning both sides would agree on: nobody reads it.
        client.ends().await;
        assert!(replica.is_alone().await);
    }
}

#[tokio::test]
async fn equal_lengths_said_twice_go_on_once() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let request = post("/", &["Content-Length: 5", "Content-Length: 5"]) + "hello";
    let _client = stage.send(&request).await;
    let request = replica.accept().await.message().await;
    assert_eq!((request.header("content-length"), request.body.as_str()), (Some("5"), "hello"));
}

#[tokio::test]
async fn an_answer_with_length_and_chunks_is_framed_once() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    upstream.say("7\r\nall of \r\n2\r\nit\r\n0\r\n\r\n").await;
    let answer = client.message().await;
    assert_eq!((answer.header("content-length"), answer.body.as_str()), (None, "all of it"));
}

#[tokio::test]
async fn a_broken_chunk_ends_both_connections() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&(post("/", &["Transfer-Encoding: chunked"]) + "2\r\nok\r\nzz\r\n")).await;
    let mut upstream = replica.accept().await;
    upstream.head().await;
    assert!(!upstream.rest().await.contains("0\r\n\r\n"), "a part is not passed off as the whole");
    client.rest().await;
}

#[tokio::test]
async fn two_answers_are_never_mixed() {
    let replica = Replica::listen().await;
    let stage = Stage::serving(&[&replica]);
    let mut client = stage.send(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    // An answer nobody asked for, right behind the first.
    upstream.say(&[ok("mine"), ok("forged")].concat()).await;
    assert_eq!(client.message().await.body, "mine");
    upstream.ends().await;
    client.say(&get("/", &[])).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say(&ok("second")).await;
    assert_eq!(client.message().await.body, "second");
}
