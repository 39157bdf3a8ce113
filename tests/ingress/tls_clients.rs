//! TLS with all sorts of clients: with and without names and certificates, slow, old, returning.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use repoint::ingress;
use repoint::ingress::config::{CertificateSource, ClientCertificates, Config, Tls};
use repoint::model::manifest::Span;
use repoint::routing::live::Live;
use repoint::telemetry::metrics::Metrics;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{accept_async, client_async};

use crate::support::*;
use crate::tls::*;

/// Signs clients' certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    pub fn wanted(&self, wanted: ClientCertificates, tls: &mut Tls) {
        tls.client_certificates = wanted;
        tls.client_ca = Some(self.folder.path().join("ca.pem"));
    }

    /// A client's certificate and its key.
    pub fn signed(&self) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client with a certificate from here.
    pub fn client(&self, secure: &Secure) -> Arc<ClientConfig> {
        let (certificate, key) = self.signed();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = secure.client(rustls::DEFAULT_VERSIONS);
        Arc::new(builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap())
    }
}

fn bare(secure: &Secure) -> Arc<ClientConfig> {
    Arc::new(secure.client(rustls::DEFAULT_VERSIONS).with_no_client_auth())
}

/// Whether a request gets an answer. With TLS 1.3 a client learns only then that it was refused.
pub async fn is_served(secure: &Secure, config: &Arc<ClientConfig>) -> bool {
    let Ok(mut stream) = secure.connect_as(config, HOST).await else { return false };
    let request = head("GET", "/", HOST, &["Connection: close"]);
    let mut answer = Vec::new();
    // Either may fail: that is what is asked here.
    let _ = soon(stream.write_all(request.as_bytes())).await;
    let _ = soon(stream.read_to_end(&mut answer)).await;
    answer.starts_with(b"HTTP/1.1 ")
}

#[tokio::test]
async fn a_required_client_certificate_is_accepted_and_a_foreign_or_missing_one_refused() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let replica = nobody_replica().await;
    let secure = Secure::with(&[HOST], &replica, |tls| ours.wanted(ClientCertificates::Required, tls));
    assert!(is_served(&secure, &ours.client(&secure)).await);
    assert!(!is_served(&secure, &bare(&secure)).await);
    secure.failed("client_certificate", 1.0).await;
    assert!(!is_served(&secure, &foreign.client(&secure)).await);
    secure.failed("client_certificate", 2.0).await;
}

#[tokio::test]
async fn an_optional_client_certificate_may_be_missing_but_not_foreign() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let replica = nobody_replica().await;
    let secure = Secure::with(&[HOST], &replica, |tls| ours.wanted(ClientCertificates::Optional, tls));
    assert!(is_served(&secure, &ours.client(&secure)).await);
    assert!(is_served(&secure, &bare(&secure)).await);
    assert!(!is_served(&secure, &foreign.client(&secure)).await);
    secure.failed("client_certificate", 1.0).await;
}

/// A replica that is gone: every answer is the ingress's own.
pub async fn nobody_replica() -> Replica {
    let mut replica = Replica::listen().await;
    replica.address = nobody().await;
    replica
}

fn nameless(secure: &Secure) -> Arc<ClientConfig> {
    let mut config = secure.client(rustls::DEFAULT_VERSIONS).with_no_client_auth();
    config.enable_sni = false;
    Arc::new(config)
}

#[tokio::test]
async fn a_client_that_names_no_host_gets_the_default_and_may_ask_for_every_host() {
    let replica = Replica::listen().await;
    let default = |tls: &mut Tls| tls.default = Some(file_of(tls));
    let secure = Secure::with(&[HOST], &replica, default);
    let stream = secure.connect_as(&nameless(&secure), HOST).await.unwrap();
    let answer = asked(stream, "elsewhere.localhost").await;
    assert!(answer.contains("environment_not_found"), "{answer}");
    let mut named = secure.client(rustls::DEFAULT_VERSIONS).with_no_client_auth();
    named.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refused = secure.connect_as(&Arc::new(named), "other.localhost").await.unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
}

#[tokio::test]
async fn without_a_default_a_client_that_names_no_host_gets_unrecognized_name() {
    let secure = Secure::serving(&[HOST], &Replica::listen().await);
    let refused = secure.connect_as(&nameless(&secure), HOST).await.unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    secure.failed("unrecognized_name", 1.0).await;
}

#[tokio::test]
async fn tls_1_2_is_spoken() {
    let secure = Secure::serving(&[HOST], &nobody_replica().await);
    let config = Arc::new(secure.client(&[&rustls::version::TLS12]).with_no_client_auth());
    let stream = secure.connect_as(&config, HOST).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert!(asked(stream, HOST).await.starts_with("HTTP/1.1 50"));
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_its_session() {
    let secure = Secure::serving(&[HOST], &nobody_replica().await);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = Arc::new(secure.client(&[version]).with_no_client_auth());
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let stream = secure.connect_as(&config, HOST).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
            asked(stream, HOST).await;
        }
    }
}

#[tokio::test]
async fn a_slow_handshake_is_ended_and_counted() {
    let replica = Replica::listen().await;
    let secure = Secure::with(&[HOST], &replica, |tls| tls.handshake_timeout = Span::seconds(1));
    Wire::new(secure.plain().await).ends().await;
    secure.failed("timeout", 1.0).await;
}

#[tokio::test]
async fn handshakes_over_the_limit_are_closed_and_counted() {
    let replica = Replica::listen().await;
    let secure = Secure::with(&[HOST], &replica, |tls| tls.handshakes_max = 0);
    Wire::new(secure.plain().await).ends().await;
    secure.failed("overloaded", 1.0).await;
}

#[tokio::test]
async fn what_is_no_handshake_is_counted_by_its_reason() {
    let secure = Secure::serving(&[HOST], &Replica::listen().await);
    drop(secure.plain().await);
    secure.failed("closed", 1.0).await;
    Wire::new(secure.plain().await).say("\u{1}\u{2}").await;
    secure.failed("protocol", 1.0).await;
    Wire::new(secure.plain().await).say("GET / HTTP/1.1\r\n\r\n").await;
    secure.failed("plain_http", 1.0).await;
}

#[tokio::test]
async fn a_websocket_speaks_through_tls() {
    let replica = Replica::listen().await;
    let secure = Secure::serving(&[HOST], &replica);
    let echo = async {
        let mut socket = accept_async(replica.accept().await.stream).await.unwrap();
        while let Some(Ok(frame)) = socket.next().await {
            if frame.is_text() {
                socket.send(frame).await.unwrap();
            }
        }
    };
    let talk = async {
        let stream = secure.connect(HOST, b"http/1.1").await.unwrap();
        let (mut socket, _) = client_async(format!("wss://{HOST}/chat"), stream).await.unwrap();
        for text in ["hello", "again", &"long ".repeat(50_000)] {
            socket.send(Frame::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text(text));
        }
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    };
    Box::pin(soon(async { tokio::join!(echo, talk) })).await;
}

#[tokio::test]
async fn a_drain_ends_tls_connections_after_their_answers_and_handshakes_soon() {
    let replica = Replica::listen().await;
    let secure = Secure::serving(&[HOST], &replica);
    let mut running = secure.connect(HOST, b"http/1.1").await.unwrap();
    running.write_all(head("GET", "/", HOST, &[]).as_bytes()).await.unwrap();
    let mut upstream = replica.accept().await;
    upstream.message().await;
    let mut shaking = Wire::new(secure.plain().await);
    until(|| secure.stage.metric("repoint_ingress_connections") == 2.0).await;
    let story = async {
        shaking.ends().await;
        upstream.say(&ok("finished")).await;
        let mut answer = String::new();
        soon(running.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.contains("connection: close") && answer.ends_with("finished"), "{answer}");
    };
    let (cut, ()) = tokio::join!(secure.stage.running.drain(LIMIT), story);
    assert_eq!(cut, 0);
    secure.failed("draining", 1.0).await;
    secure.failed("timeout", 0.0).await;
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    std::fs::write(path("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("other.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    std::fs::write(path("garbage.pem"), "no PEM").unwrap();
    for (certificate, key, wrong, remedy) in [
        ("missing.pem", "key.pem", "missing.pem", "give a PEM file"),
        ("garbage.pem", "key.pem", "garbage.pem", "give a PEM file"),
        ("chain.pem", "missing.pem", "missing.pem", "give a PEM file"),
        ("chain.pem", "garbage.pem", "garbage.pem", "give a PEM file"),
        ("chain.pem", "other.pem", "other.pem", "give the key that it was made with"),
    ] {
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        let certificates = vec![CertificateSource::Files { certificate: path(certificate), key: path(key) }];
        let tls = Tls { listen: listen.clone(), certificates, ..Tls::default() };
        let config = Config { listen, tls, ..Config::default() };
        let live = Live::new(config.cores());
        let error = ingress::start(config, live, &Metrics::default()).err().unwrap().to_string();
        assert!(error.contains(wrong) && error.contains(remedy), "{error}");
    }
}
