//! TLS towards replicas: played by a real TLS server in front of a plain one, which sees every byte.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use rcgen::{CertificateParams, date_time_ymd};
use repoint::ingress::config::Config;
use repoint::model::manifest::Protocol;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{accept_async, client_async};

use crate::support::*;

const NAME: &str = "agents.internal";

/// Takes TLS off connections and passes them on.
struct Front {
    address: SocketAddr,
    /// The certificate, which vouches for itself.
    folder: TempDir,
    /// Names asked for in handshakes that went well.
    names: Arc<Mutex<Vec<String>>>,
}

impl Front {
    async fn before(replica: &Replica, names: &[&str], alpn: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Self::with(replica, CertificateParams::new(names).unwrap(), alpn).await
    }

    async fn with(replica: &Replica, params: CertificateParams, alpn: &[&str]) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, behind) = (listener.local_addr().unwrap(), replica.address);
        let (acceptor, told) = (TlsAcceptor::from(Arc::new(config)), Arc::<Mutex<Vec<String>>>::default());
        let names = Arc::clone(&told);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    let Ok(mut secure) = acceptor.accept(stream).await else { return };
                    let name = secure.get_ref().1.server_name().unwrap_or_default().to_owned();
                    told.lock().unwrap().push(name);
                    let mut plain = TcpStream::connect(behind).await.unwrap();
                    // An end without close_notify is an end as well.
                    let _ = tokio::io::copy_bidirectional(&mut secure, &mut plain).await;
                });
            }
        });
        Self { address, folder, names }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn names(&self) -> Vec<String> {
        self.names.lock().unwrap().clone()
    }
}

/// `production` on deployment 1 behind these fronts, which are trusted, as `authority`.
fn serving(fronts: &[&Front], authority: &str, protocol: Protocol) -> Stage {
    trusting(&fronts.iter().map(|front| front.ca()).collect::<Vec<_>>(), fronts[0].address, authority, protocol, |_| {})
}

fn trusting(
    ca: &[PathBuf],
    address: SocketAddr,
    authority: &str,
    protocol: Protocol,
    set: impl FnOnce(&mut Config),
) -> Stage {
    let mut stage = Stage::with(|config| {
        config.threads = Some(1.try_into().unwrap());
        config.replica_ca = ca.to_vec();
        set(config);
    });
    stage.environment("production", Some(1)).pool_at("production", 1, &[address]);
    stage.change_pool(|pool| {
        pool.protocol = protocol;
        pool.endpoints[0].authority = Some(authority.to_owned());
        pool.endpoints[0].secure = true;
    });
    stage.publish();
    stage
}

#[tokio::test]
async fn requests_reach_a_replica_over_tls_on_a_connection_that_is_kept() {
    let replica = Replica::listen().await;
    let front = Front::before(&replica, &[NAME], &["http/1.1"]).await;
    let stage = serving(&[&front], &format!("{NAME}:{}", front.address.port()), Protocol::Http1);
    let mut client = stage.send(&get("/one", &[])).await;
    let mut served = replica.accept().await;
    let message = served.next_request().await.unwrap();
    assert_eq!(message.line, "GET /one HTTP/1.1");
    assert_eq!(message.header("host"), Some("support-production.localhost"), "the client's, not the endpoint's");
    served.say(&ok("first")).await;
    assert_eq!(client.message().await.body, "first");
    client.say(&get("/two", &[])).await;
    assert_eq!(served.next_request().await.unwrap().line, "GET /two HTTP/1.1");
    served.say(&ok("second")).await;
    assert_eq!(client.message().await.body, "second");
    assert_eq!(front.names(), [NAME], "one handshake, for this name");
}

#[tokio::test]
async fn large_bodies_pass_byte_for_byte_both_ways_over_tls() {
    let replica = Replica::listen().await;
    let front = Front::before(&replica, &["127.0.0.1"], &[]).await;
    let stage = serving(&[&front], &front.address.to_string(), Protocol::Http1);
    let body: String = (0..3_000_000u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    let length = format!("Content-Length: {}", body.len());
    let mut sending = stage.connect().await.stream;
    let (mut read, mut write) = sending.split();
    let request = post("/echo", &[&length]) + &body;
    let echo = async {
        let mut served = replica.accept().await;
        let message = served.next_request().await.unwrap();
        served.say(&ok(&message.body)).await;
        served
    };
    let write = async { write.write_all(request.as_bytes()).await.unwrap() };
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(&body.as_bytes()[body.len() - 64..]) || answer.len() < body.len() {
            let mut chunk = vec![0; 64 * 1024];
            let count = soon(read.read(&mut chunk)).await.unwrap();
            assert!(count > 0, "the answer ended after {} bytes", answer.len());
            answer.extend_from_slice(&chunk[..count]);
        }
    };
    tokio::join!(echo, write, read);
    assert_eq!(&answer[answer.len() - body.len()..], body.as_bytes());
}

#[tokio::test]
async fn an_answer_that_comes_before_its_request_is_whole_goes_on_with_it_over_tls() {
    let replica = Replica::listen().await;
    let front = Front::before(&replica, &[NAME], &[]).await;
    let stage = serving(&[&front], NAME, Protocol::Http1);
    let mut client = stage.send(&post("/", &["Transfer-Encoding: chunked"])).await;
    let mut served = replica.accept().await;
    served.head().await;
    served.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.chunk().await.as_deref(), Some("early"));
    client.say("4\r\nlate\r\n0\r\n\r\n").await;
    assert_eq!(served.chunk().await.as_deref(), Some("late"));
    assert_eq!(served.chunk().await, None);
    served.say("3\r\nend\r\n0\r\n\r\n").await;
    assert_eq!(client.chunk().await.as_deref(), Some("end"));
    assert_eq!(client.chunk().await, None);
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn http_2_over_tls_is_agreed_by_alpn() {
    let replica = Replica::listen().await;
    let front = Front::before(&replica, &[NAME], &["h2"]).await;
    let stage = serving(&[&front], NAME, Protocol::H2c);
    let mut client = stage.send(&get("/over-h2", &[])).await;
    let stream = replica.accept().await.stream;
    let mut connection = soon(h2::server::handshake(stream)).await.unwrap();
    let (request, mut answer) = soon(connection.accept()).await.unwrap().unwrap();
    assert_eq!(request.uri(), "https://support-production.localhost/over-h2");
    answer.send_response(http::Response::new(()), true).unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    assert_eq!(client.message().await.status(), 200);
}

#[tokio::test]
async fn a_replica_that_does_not_agree_to_http_2_is_not_spoken_to() {
    let replica = Replica::listen().await;
    let front = Front::before(&replica, &[NAME], &[]).await;
    let stage = serving(&[&front], NAME, Protocol::H2c);
    let answer = stage.send(&get("/", &[])).await.message().await;
    assert_eq!((answer.status(), answer.code()), (502, "connect_failed".to_owned()));
}

#[tokio::test]
async fn who_does_not_prove_its_name_is_sent_nothing() {
    let replica = Replica::listen().await;
    let front = Front::before(&replica, &[NAME], &[]).await;
    let stranger = Front::before(&replica, &[NAME], &[]).await;
    let mut old = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    old.not_after = date_time_ymd(2020, 1, 1);
    let expired = Front::with(&replica, old, &[]).await;
    let wrong = [
        ("another name", &front, "other.internal", front.ca()),
        ("an address it has no name for", &front, "127.0.0.1:443", front.ca()),
        ("an authority that is not trusted", &stranger, NAME, front.ca()),
        ("a certificate of the past", &expired, NAME, expired.ca()),
    ];
    for (what, at, authority, ca) in wrong {
        let stage = trusting(&[ca], at.address, authority, Protocol::Http1, |_| {});
        let answer = stage.send(&get("/secret", &[])).await.message().await;
        assert_eq!((answer.status(), answer.code()), (502, "connect_failed".to_owned()), "{what}");
        assert_eq!(stage.in_flight("production", 1), 0);
    }
    // A plain server is no TLS server either.
    let stage = trusting(&[front.ca()], replica.address, NAME, Protocol::Http1, |_| {});
    let mut client = stage.send(&get("/secret", &[])).await;
    let mut first = replica.accept().await;
    let mut seen = vec![0; 4096];
    let count = soon(first.stream.read(&mut seen)).await.unwrap();
    assert!(count > 0 && !seen.windows(6).any(|bytes| bytes == b"secret"));
    first.say("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    drop((first, replica));
    assert_eq!(client.message().await.status(), 502);
    assert!(front.names().is_empty() && stranger.names().is_empty() && expired.names().is_empty());
}

#[tokio::test]
async fn a_connection_that_proved_one_name_is_not_used_for_another() {
    let replica = Replica::listen().await;
    let front = Front::before(&replica, &[NAME, "other.internal"], &[]).await;
    let mut stage = serving(&[&front], NAME, Protocol::Http1);
    for authority in [NAME, "other.internal", NAME] {
        let authority = authority.to_owned();
        stage.change_pool(|pool| pool.endpoints[0].authority = Some(authority)).publish();
        let mut client = stage.send(&get("/", &[])).await;
        if front.names().len() < 2 {
            let mut served = replica.accept().await;
            tokio::spawn(async move {
                while served.next_request().await.is_some() {
                    served.say(&ok("")).await;
                }
            });
        }
        assert_eq!(client.message().await.status(), 200);
    }
    assert_eq!(front.names(), [NAME, "other.internal"], "the first connection served twice");
}

#[tokio::test]
async fn a_web_socket_reaches_a_replica_over_tls() {
    let replica = Replica::listen().await;
    let front = Front::before(&replica, &[NAME], &["http/1.1"]).await;
    let stage = serving(&[&front], NAME, Protocol::Http1);
    let served = tokio::spawn(async move {
        let mut socket = accept_async(replica.accept().await.stream).await.unwrap();
        while let Some(Ok(Frame::Text(text))) = socket.next().await {
            socket.send(Frame::Text(format!("echo {text}").into())).await.unwrap();
        }
    });
    let stream = stage.connect().await.stream;
    let (mut socket, _) = soon(client_async("ws://support-production.localhost/chat", stream)).await.unwrap();
    socket.send(Frame::Text("hello".into())).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Frame::Text("echo hello".into()));
    soon(socket.close(None)).await.unwrap();
    while soon(socket.next()).await.is_some() {}
    drop(socket);
    soon(served).await.unwrap();
    until(|| stage.in_flight("production", 1) == 0).await;
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_with_the_connect_timeout() {
    let (replica, silent) = (Replica::listen().await, Replica::listen().await);
    let front = Front::before(&replica, &[NAME], &[]).await;
    let mut stage = trusting(&[front.ca()], silent.address, NAME, Protocol::Http1, |config| config.attempts_max = 1);
    stage.policy(|policy| policy.connect_timeout_ms = 100).publish();
    let answer = stage.send(&get("/", &[])).await.message().await;
    assert_eq!((answer.status(), answer.code()), (502, "connect_failed".to_owned()));
}
