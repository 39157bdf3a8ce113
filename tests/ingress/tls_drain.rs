//! Drains and limits over TLS: what a client is told before its connection ends, and that it ends properly.

use std::net::TcpStream as Dial;
use std::sync::Arc;

use repoint::ingress::config::Config;
use repoint::model::manifest::Span;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::hostile_http2::{block, frame};
use crate::support::*;
use crate::tls::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Kinds of frames and their flags (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Above every stream: nothing is refused yet (RFC 9113 §6.8).
const ANY_STREAM: u32 = (1 << 31) - 1;

/// A GET of `production` on its own stream.
fn request(stream: u32) -> Vec<u8> {
    let mut block = block(0x82);
    block[1] = 0x87;
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

/// What a frame was.
#[derive(Debug, PartialEq)]
enum Got {
    Headers(u32),
    Data(u32, String),
    /// With the last stream and the code.
    Goaway(u32, u32),
    /// The end, said by close_notify.
    End,
}

/// A client's side of an HTTP/2 connection, frame by frame.
struct Frames(TlsStream<TcpStream>);

impl Frames {
    async fn open(mut stream: TlsStream<TcpStream>) -> Self {
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        soon(stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat())).await.unwrap();
        Self(stream)
    }

    async fn say(&mut self, frame: &[u8]) {
        soon(self.0.write_all(frame)).await.unwrap();
    }

    /// The next frame that says something about streams; settings and pings are acknowledged.
    async fn next(&mut self) -> Got {
        loop {
            let mut head = [0; 9];
            // An end without close_notify is an error here.
            if soon(self.0.read(&mut head[..1])).await.unwrap() == 0 {
                return Got::End;
            }
            soon(self.0.read_exact(&mut head[1..])).await.unwrap();
            let [_, a, b, kind, flags, ..] = head;
            let mut payload = vec![0; u16::from_be_bytes([a, b]).into()];
            soon(self.0.read_exact(&mut payload)).await.unwrap();
            let number = |at: &[u8]| u32::from_be_bytes(at[..4].try_into().unwrap());
            match kind {
                HEADERS => return Got::Headers(number(&head[5..])),
                DATA if !payload.is_empty() => {
                    return Got::Data(number(&head[5..]), String::from_utf8(payload).unwrap());
                }
                GOAWAY => return Got::Goaway(number(&payload), number(&payload[4..])),
                SETTINGS if flags & ACK == 0 => self.say(&frame(SETTINGS, ACK, 0, b"")).await,
                PING if flags & ACK == 0 => self.say(&frame(PING, ACK, 0, &payload)).await,
                _ => {}
            }
        }
    }
}

/// Waits until nobody listens on the TLS port any more: the drain has begun.
async fn nobody_listens(secure: &Secure) {
    let address = secure.stage.running.tls_addresses()[0];
    until(|| Dial::connect(address).is_err()).await;
}

/// Reads to the end, which has to be a close_notify.
async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.expect("close_notify before the end");
    text
}

async fn connections(secure: &Secure, count: f64) {
    until(|| secure.stage.metric("repoint_ingress_connections") == count).await;
}

#[tokio::test]
async fn http_1_connections_that_wait_are_ended_with_close_notify_by_a_drain() {
    let secure = Secure::serving(&[HOST], &Replica::listen().await);
    let mut idle = secure.connect(HOST, b"http/1.1").await.unwrap();
    soon(idle.write_all(head("OPTIONS", "*", HOST, &[]).as_bytes())).await.unwrap();
    assert!(soon(idle.read(&mut [0; 1024])).await.unwrap() > 0);
    let mut fresh = secure.connect(HOST, b"http/1.1").await.unwrap();
    let nothing = Arc::new(secure.client(rustls::DEFAULT_VERSIONS).with_no_client_auth());
    let mut undecided = secure.connect_as(&nothing, HOST).await.unwrap();
    connections(&secure, 3.0).await;
    let story = async {
        rest(&mut idle).await;
        assert_eq!(rest(&mut fresh).await, "");
        assert_eq!(rest(&mut undecided).await, "");
    };
    let (cut, ()) = tokio::join!(secure.stage.running.drain(LIMIT), story);
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn a_silent_http_1_connection_is_ended_with_close_notify() {
    let set = |config: &mut Config| config.head_timeout = Span::seconds(1);
    let secure = Secure::with_config(&[HOST], &Replica::listen().await, set);
    let mut silent = secure.connect(HOST, b"http/1.1").await.unwrap();
    assert_eq!(rest(&mut silent).await, "");
}

#[tokio::test]
async fn an_http_1_answer_that_is_cut_short_is_not_ended_with_close_notify() {
    let replica = Replica::listen().await;
    let secure = Secure::serving(&[HOST], &replica);
    let mut client = secure.connect(HOST, b"http/1.1").await.unwrap();
    let request = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    soon(client.write_all(request.as_bytes())).await.unwrap();
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let mut text = Vec::new();
    while !text.ends_with(b"half") {
        assert!(soon(client.read_buf(&mut text)).await.unwrap() > 0);
    }
    drop(upstream);
    // With HTTP/1.0 the end is all that tells a whole answer from half of one.
    assert!(soon(client.read_buf(&mut text)).await.is_err(), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test]
async fn a_drain_says_goaway_over_tls_and_lets_open_streams_end() {
    let replica = Replica::listen().await;
    let secure = Secure::serving(&[HOST], &replica);
    let mut client = Frames::open(secure.connect(HOST, b"h2").await.unwrap()).await;
    client.say(&request(1)).await;
    let mut upstream = replica.accept().await;
    upstream.message().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert_eq!(client.next().await, Got::Headers(1));
    assert_eq!(client.next().await, Got::Data(1, "half".to_owned()));
    let story = async {
        assert_eq!(client.next().await, Got::Goaway(ANY_STREAM, 0));
        upstream.say("whole").await;
        let mut said = vec![client.next().await, client.next().await];
        // Which of them is first depends on when the ping is answered.
        said.sort_by_key(|got| matches!(got, Got::Goaway(..)));
        assert_eq!(said, [Got::Data(1, "whole".to_owned()), Got::Goaway(1, 0)]);
        assert_eq!(client.next().await, Got::End);
    };
    let (cut, ()) = tokio::join!(secure.stage.running.drain(LIMIT), story);
    assert_eq!(cut, 0);
    assert_eq!(secure.stage.in_flight("production", 1), 0);
}

#[tokio::test]
async fn a_handshake_that_ends_during_a_drain_gets_one_answer_on_http_1() {
    let secure = Secure::serving(&[HOST], &Replica::listen().await);
    let waiting = secure.plain().await;
    connections(&secure, 1.0).await;
    let story = async {
        nobody_listens(&secure).await;
        let mut client = secure.shake(waiting, b"http/1.1").await;
        soon(client.write_all(head("GET", "/", "other.localhost", &[]).as_bytes())).await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("connection: close"), "{answer}");
    };
    let (cut, ()) = tokio::join!(secure.stage.running.drain(LIMIT), story);
    assert_eq!(cut, 0);
    secure.failed("draining", 0.0).await;
}

#[tokio::test]
async fn a_handshake_that_ends_during_a_drain_has_its_request_served_on_http_2() {
    let replica = Replica::listen().await;
    let secure = Secure::serving(&[HOST], &replica);
    let waiting = secure.plain().await;
    connections(&secure, 1.0).await;
    let story = async {
        nobody_listens(&secure).await;
        let mut client = Frames::open(secure.shake(waiting, b"h2").await).await;
        client.say(&request(1)).await;
        assert_eq!(client.next().await, Got::Goaway(ANY_STREAM, 0));
        let serve = async {
            let mut upstream = replica.accept().await;
            upstream.message().await;
            upstream.say(&ok("served")).await;
        };
        let read = async {
            let mut said = Vec::new();
            while said.last() != Some(&Got::End) {
                said.push(client.next().await);
            }
            said
        };
        let ((), said) = tokio::join!(serve, read);
        assert!(said.contains(&Got::Data(1, "served".to_owned())) && said.contains(&Got::Goaway(1, 0)), "{said:?}");
    };
    let (cut, ()) = tokio::join!(secure.stage.running.drain(LIMIT), story);
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn connections_on_the_tls_port_count_towards_the_limit_of_both() {
    let replica = Replica::listen().await;
    let address = replica.always("served");
    let gone = Replica::listen().await;
    let mut secure = Secure::with_config(&[HOST], &gone, |config| config.connections_max = 1);
    secure.stage.pool_at("production", 1, &[address]).publish();
    let first = secure.connect(HOST, b"http/1.1").await.unwrap();
    // Over TLS there is nobody to tell why without a handshake.
    Wire::new(secure.plain().await).ends().await;
    let mut plain = secure.stage.send(&get("/", &[])).await;
    assert_eq!(plain.message().await.status(), 503);
    plain.ends().await;
    assert_eq!(secure.stage.metric("repoint_ingress_connections_refused_total"), 2.0);
    assert!(asked(first, HOST).await.ends_with("served"));
    connections(&secure, 0.0).await;
    let third = secure.connect(HOST, b"http/1.1").await.unwrap();
    assert!(asked(third, HOST).await.ends_with("served"));
}
