//! TLS towards clients: certificates by name, protocols, refusals.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use repoint::ingress::config::{CertificateSource, Config, Tls};
use rustls::client::WantsClientCert;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ConfigBuilder, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::*;

pub const HOST: &str = "support-production.localhost";

pub struct Secure {
    pub stage: Stage,
    pub roots: RootCertStore,
    pub files: TempDir,
}

impl Secure {
    pub fn serving(names: &[&str], replica: &Replica) -> Self {
        Self::with(names, replica, |_| {})
    }

    /// The same with other settings.
    pub fn with(names: &[&str], replica: &Replica, set: impl FnOnce(&mut Tls)) -> Self {
        Self::with_config(names, replica, |config| set(&mut config.tls))
    }

    /// The same with other settings of the whole ingress.
    pub fn with_config(names: &[&str], replica: &Replica, set: impl FnOnce(&mut Config)) -> Self {
        let files = tempfile::tempdir().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (certificate, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut stage = Stage::with(|config| {
            config.tls = Tls {
                listen: vec!["127.0.0.1:0".parse().unwrap()],
                certificates: vec![CertificateSource::Files { certificate, key }],
                ..Tls::default()
            };
            set(config);
        });
        stage.environment("production", Some(1)).pool("production", 1, &[replica]).publish();
        Self { stage, roots, files }
    }

    pub async fn plain(&self) -> TcpStream {
        soon(TcpStream::connect(self.stage.running.tls_addresses()[0])).await.unwrap()
    }

    pub async fn connect(&self, name: &str, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_as(&self.offering(alpn), name).await
    }

    /// A client without a certificate that offers one protocol.
    fn offering(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut config = self.client(rustls::DEFAULT_VERSIONS).with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }

    /// Shakes hands on a connection that is open already.
    pub async fn shake(&self, stream: TcpStream, alpn: &[u8]) -> TlsStream<TcpStream> {
        let name = ServerName::try_from(HOST).unwrap();
        soon(TlsConnector::from(self.offering(alpn)).connect(name, stream)).await.unwrap()
    }

    /// A client that trusts the certificate.
    pub fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        builder.with_root_certificates(self.roots.clone())
    }

    pub async fn connect_as(&self, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        soon(TlsConnector::from(Arc::clone(config)).connect(name, self.plain().await)).await
    }

    /// Waits until handshakes have failed so often for `reason`.
    pub async fn failed(&self, reason: &str, times: f64) {
        let name = format!("repoint_ingress_tls_handshake_failures_total{{reason=\"{reason}\"}}");
        until(|| self.stage.metric(&name) == times).await;
    }
}

/// The certificate's file.
pub fn file_of(tls: &Tls) -> PathBuf {
    let (CertificateSource::Path(path) | CertificateSource::Files { certificate: path, .. }) = &tls.certificates[0];
    path.clone()
}

pub async fn asked(mut stream: TlsStream<TcpStream>, host: &str) -> String {
    let request = head("GET", "/", host, &["Connection: close"]);
    soon(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    // An end without close_notify is an end as well.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_request_over_tls_reaches_its_replica_as_https() {
    let replica = Replica::listen().await;
    let secure = Secure::serving(&[HOST], &replica);
    let asking = tokio::spawn(asked(secure.connect(HOST, b"http/1.1").await.unwrap(), HOST));
    let mut upstream = replica.accept().await;
    assert_eq!(upstream.message().await.header("x-forwarded-proto"), Some("https"));
    upstream.say(&ok("safe")).await;
    let answer = soon(asking).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("safe"), "{answer}");
    assert_eq!(secure.stage.metric("repoint_ingress_tls_handshakes_total"), 1.0);
}

#[tokio::test]
async fn a_host_that_the_certificate_does_not_cover_is_misdirected_on_http_1() {
    let secure = Secure::serving(&[HOST], &Replica::listen().await);
    let answer = asked(secure.connect(HOST, b"http/1.1").await.unwrap(), "other.localhost").await;
    assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("misdirected_request"), "{answer}");
}

#[tokio::test]
async fn http_2_is_agreed_on_and_misdirected_requests_are_refused_on_it() {
    let secure = Secure::serving(&[HOST], &Replica::listen().await);
    let stream = secure.connect(HOST, b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = soon(handshake).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://other.localhost/").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(soon(sender.send_request(request)).await.unwrap().status(), 421);
}

#[tokio::test]
async fn an_unknown_name_ends_the_handshake_with_unrecognized_name() {
    let secure = Secure::serving(&[HOST], &Replica::listen().await);
    let error = secure.connect("other.localhost", b"h2").await.unwrap_err();
    let error = error.get_ref().unwrap().downcast_ref::<rustls::Error>();
    assert_eq!(error, Some(&rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)));
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() {
    let secure = Secure::serving(&[HOST], &Replica::listen().await);
    let mut wire = Wire::new(secure.plain().await);
    wire.say(&get("/", &[])).await;
    let answer = wire.message().await;
    assert!(answer.line.contains("400") && answer.body.contains("https://"), "{} {}", answer.line, answer.body);
}

#[tokio::test]
async fn a_wildcard_is_chosen_and_covers_its_other_hosts() {
    let secure = Secure::serving(&["*.example.com"], &Replica::listen().await);
    let answer = asked(secure.connect("a.example.com", b"http/1.1").await.unwrap(), "b.example.com").await;
    assert!(answer.contains("environment_not_found"), "{answer}");
    let answer = asked(secure.connect("a.example.com", b"http/1.1").await.unwrap(), "a.b.example.com").await;
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}
