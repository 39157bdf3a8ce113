//! The PROXY protocol: who is behind a balancer that passes bytes on.

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use repoint::ingress::config::AccessLog;
use repoint::model::manifest::Span;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use crate::support::*;
use crate::tls::{HOST, Secure, asked};

const V1: &str = "PROXY TCP4 203.0.113.9 192.0.2.1 51000 443\r\n";

/// Version 2, TCP over IPv4, with an extension behind the addresses.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xcb\0\x71\x09\xc0\0\x02\x01\xc7\x38\x01\xbb\x04\0\x01\x2a";

/// Version 2 of a balancer that speaks for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Balancers at `networks` say who is behind them.
fn behind(networks: &str, replica: &Replica, set: impl FnOnce(&mut repoint::ingress::config::Config)) -> Stage {
    let mut stage = Stage::with(|config| {
        config.proxy_protocol_from = vec![networks.parse().unwrap()];
        set(config);
    });
    stage.environment("production", Some(1)).pool("production", 1, &[replica]).publish();
    stage
}

/// Whom the replica is told of, for a connection that begins with `header`.
async fn forwarded_for(stage: &Stage, replica: &Replica, header: &[u8], lines: &[&str]) -> String {
    let mut client = stage.connect().await;
    client.stream.write_all(&[header, get("/", lines).as_bytes()].concat()).await.unwrap();
    let mut upstream = replica.accept().await;
    let seen = upstream.message().await.all("x-forwarded-for").join(", ");
    upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.message().await.status(), 200);
    seen
}

fn failures(stage: &Stage, reason: &str) -> f64 {
    stage.metric(&format!("repoint_ingress_proxy_header_failures_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn a_proxy_header_of_either_version_names_the_client() {
    let replica = Replica::listen().await;
    let stage = behind("127.0.0.0/8", &replica, |_| {});
    for header in [V1.as_bytes(), V2] {
        assert_eq!(forwarded_for(&stage, &replica, header, &[]).await, "203.0.113.9");
    }
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        assert_eq!(forwarded_for(&stage, &replica, header, &[]).await, "127.0.0.1");
    }
}

#[tokio::test]
async fn a_proxy_header_that_comes_byte_by_byte_is_one_header() {
    let replica = Replica::listen().await;
    let stage = behind("127.0.0.1", &replica, |_| {});
    for header in [V1.as_bytes(), V2] {
        let mut client = stage.connect().await;
        client.stream.set_nodelay(true).unwrap();
        for byte in [header, get("/", &[]).as_bytes()].concat() {
            client.stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let request = replica.accept().await.message().await;
        assert_eq!(request.header("x-forwarded-for"), Some("203.0.113.9"));
    }
}

#[tokio::test]
async fn whom_a_proxy_header_names_is_who_is_trusted_and_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let replica = Replica::listen().await;
    let stage = behind("127.0.0.0/8", &replica, |config| {
        config.trusted_proxies = vec!["203.0.113.0/24".parse().unwrap()];
        config.access_log = AccessLog::File(path.clone());
    });
    let said = ["X-Forwarded-For: 198.51.100.7"];
    assert_eq!(forwarded_for(&stage, &replica, V1.as_bytes(), &said).await, "198.51.100.7, 203.0.113.9");
    assert_eq!(forwarded_for(&stage, &replica, LOCAL, &said).await, "127.0.0.1", "the balancer is not in the list");
    stage.running.drain(LIMIT).await;
    drop(stage);
    let text = std::fs::read_to_string(&path).unwrap();
    let clients: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["client"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(clients, ["203.0.113.9", "127.0.0.1"]);
}

#[tokio::test]
async fn a_proxy_header_comes_before_the_tls_handshake() {
    let replica = Replica::listen().await;
    let secure = Secure::with_config(&[HOST], &replica, |config| {
        config.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let mut plain = secure.plain().await;
    plain.write_all(V2).await.unwrap();
    let config = Arc::new(secure.client(rustls::DEFAULT_VERSIONS).with_no_client_auth());
    let name = ServerName::try_from(HOST.to_owned()).unwrap();
    let stream = soon(TlsConnector::from(config).connect(name, plain)).await.unwrap();
    let answering = async {
        let mut upstream = replica.accept().await;
        let request = upstream.message().await;
        upstream.say(&ok("secure")).await;
        (request.header("x-forwarded-for").map(str::to_owned), request.header("x-forwarded-proto").map(str::to_owned))
    };
    let (answer, seen) = tokio::join!(asked(stream, HOST), answering);
    assert!(answer.ends_with("secure"), "{answer}");
    assert_eq!(seen, (Some("203.0.113.9".to_owned()), Some("https".to_owned())));
    assert!(secure.connect(HOST, b"http/1.1").await.is_err(), "without one there is no handshake");
    until(|| failures(&secure.stage, "missing") == 1.0).await;
}

#[tokio::test]
async fn a_proxy_header_comes_before_http_2() {
    let replica = Replica::listen().await;
    let stage = behind("127.0.0.0/8", &replica, |_| {});
    let mut stream = stage.connect().await.stream;
    stream.write_all(V1.as_bytes()).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = soon(handshake).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{HOST}/")).body(Empty::<Bytes>::new()).unwrap();
    let asked = tokio::spawn(async move { sender.send_request(request).await.unwrap() });
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.header("x-forwarded-for"), Some("203.0.113.9"));
    upstream.say(&ok("two")).await;
    assert_eq!(soon(asked).await.unwrap().into_body().collect().await.unwrap().to_bytes(), "two");
}

#[tokio::test]
async fn a_connection_without_its_proxy_header_is_closed_and_counted() {
    let replica = Replica::listen().await;
    let stage = behind("127.0.0.0/8", &replica, |config| {
        config.head_timeout = Span::try_from("50ms".to_owned()).unwrap();
    });
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    for (said, reason) in [
        (get("/", &[]), "missing"),
        ("PROXY TCP4 nonsense\r\n".to_owned(), "malformed"),
        (long, "too_long"),
        ("PROXY TC".to_owned(), "timeout"),
    ] {
        let mut client = stage.send(&said).await;
        client.ends().await;
        until(|| failures(&stage, reason) == 1.0).await;
    }
    drop(stage.send("PROXY TCP4 ").await);
    until(|| failures(&stage, "closed") + failures(&stage, "timeout") == 2.0).await;
    assert!(replica.is_alone().await, "none of it reaches a replica");
    assert_eq!(stage.metric("repoint_ingress_requests_in_flight"), 0.0);
}

#[tokio::test]
async fn a_proxy_header_from_another_network_is_not_believed() {
    let replica = Replica::listen().await;
    let stage = behind("192.0.2.0/24", &replica, |_| {});
    assert_eq!(forwarded_for(&stage, &replica, b"", &[]).await, "127.0.0.1", "none is wanted");
    for header in [V1.as_bytes(), V2] {
        let mut client = stage.connect().await;
        client.stream.write_all(&[header, get("/", &[]).as_bytes()].concat()).await.unwrap();
        assert_eq!(client.head().await.status(), 400);
    }
    assert!(replica.is_alone().await);
}

#[tokio::test]
async fn curl_is_served_behind_a_proxy_header() {
    let address = Replica::listen().await.always("hello");
    let mut stage = Stage::with(|config| config.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()]);
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]).publish();
    let url = format!("http://{}/", stage.address());
    let host = format!("Host: {HOST}");
    let run = move || Command::new("curl").args(["-sS", "--haproxy-protocol", "-H", &host, &url]).output();
    match tokio::task::spawn_blocking(run).await.unwrap() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "hello", "{output:?}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "curl is not installed here"),
    }
}
