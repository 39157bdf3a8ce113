//! Workers that something else runs: probed and routed to.

use std::net::TcpListener;
use std::sync::Arc;

use repoint::model::pool::{PoolErrorKind, PoolState};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::bench::{Bench, ready};

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_ready_while_it_answers() {
    let bench = Bench::start().await;
    let (one, url) = listener();
    let address = one.local_addr().unwrap();
    let (two, other) = listener();
    let key = bench.deploy_endpoints(&[url.clone(), other]).await;
    let pool = bench.until_ready(key, 2).await;
    assert_eq!(pool.endpoints[0].authority.as_deref(), url.strip_prefix("http://"));
    drop(two);
    let pool = bench.until_ready(key, 1).await;
    assert_eq!(ready(&pool), [address]);
    drop(one);
    bench.until_state(key, PoolState::Failing).await;
    let error = bench.until_error(key, PoolErrorKind::Unhealthy).await;
    assert!(error.message.contains("nothing listens there"), "{}", error.message);
    let _again = TcpListener::bind(address).unwrap();
    bench.until_ready(key, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_endpoints_ready_until_probes_say_otherwise() {
    let mut bench = Bench::start().await;
    let (listener, url) = listener();
    let key = bench.deploy_endpoints(&[url]).await;
    let before = bench.until_ready(key, 1).await;
    bench.stop().await;
    bench.supervise(|_| {}).await;
    assert_eq!(bench.pool(key).await, before, "nothing is concluded from a restart");
    drop(listener);
    bench.until_state(key, PoolState::Failing).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved_and_own_listeners_are_refused() {
    let (listener, _) = listener();
    let address = listener.local_addr().unwrap();
    let bench = Bench::start_with(|config| config.own_listeners = vec![address]).await;
    let (other, _) = self::listener();
    let named = format!("http://localhost:{}", other.local_addr().unwrap().port());
    let pool = bench.until_ready(bench.deploy_endpoints(std::slice::from_ref(&named)).await, 1).await;
    assert_eq!(ready(&pool), [other.local_addr().unwrap()]);
    assert_eq!(pool.endpoints[0].authority.as_deref(), named.strip_prefix("http://"));

    let own = bench.deploy_endpoints(&[format!("http://localhost:{}", address.port())]).await;
    let error = bench.until_error(own, PoolErrorKind::Unhealthy).await;
    assert!(error.message.contains("Repoint's own listeners"), "{}", error.message);
    assert_eq!(bench.pool(own).await.ready_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_endpoint_pool_is_stopped_when_idle_and_probed_anew_when_started() {
    let mut bench = Bench::start().await;
    let (listener, url) = listener();
    let key = bench.deploy_endpoints(&[url]).await;
    bench.until_ready(key, 1).await;
    bench.close(key).await;
    bench.proxy_says(&[]);
    let stopped = bench.until_state(key, PoolState::Stopped).await;
    assert_eq!(stopped.endpoints, []);
    drop(listener);
    bench.change(key, |pool| pool.state = PoolState::Starting).await;
    bench.until_state(key, PoolState::Failing).await;
}

/// Shakes hands with everybody, as `name`; answers its URL and the certificate that vouches for it.
async fn secure(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(acceptor.accept(stream));
        }
    });
    (url, made.cert.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_over_tls_is_ready_once_it_proves_its_name() {
    let (good, certificate) = secure("127.0.0.1").await;
    let (misnamed, other) = secure("agents.internal").await;
    let (stranger, _) = secure("127.0.0.1").await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate + &other).unwrap();
    let bench = Bench::start_with(|config| config.replica_ca = vec![ca]).await;
    let pool = bench.until_ready(bench.deploy_endpoints(&[good]).await, 1).await;
    assert!(pool.endpoints[0].secure);
    for url in [misnamed, stranger] {
        let key = bench.deploy_endpoints(&[url]).await;
        let error = bench.until_error(key, PoolErrorKind::Unhealthy).await;
        assert!(error.message.contains("TLS handshake failed: invalid peer certificate"), "{}", error.message);
        assert_eq!(bench.pool(key).await.ready_count(), 0);
    }
}
