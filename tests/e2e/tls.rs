//! TLS as somebody sets it up: a settings file, the real binary, curl.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use super::Story;
use super::handover::Scene;

use super::support::http;
use super::support::replica::Replica;
use super::support::server::{Server, folder, signal};
use super::support::until;

/// What curl says of a host at an address, with the authorities of a file. `None`: there is no curl.
fn curl(host: &str, address: SocketAddr, authorities: &Path) -> Option<Output> {
    let resolve = format!("{host}:{}:{}", address.port(), address.ip());
    let curl = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--resolve", &resolve, "--cacert"])
        .arg(authorities)
        .args(["--write-out", " %{http_version} %{http_code}", &format!("https://{host}:{}/", address.port())])
        .output();
    if curl.is_err() {
        println!("skipped: there is no curl here");
    }
    curl.ok()
}

fn said(curl: &Output) -> String {
    format!("{} {}", String::from_utf8_lossy(&curl.stderr), String::from_utf8_lossy(&curl.stdout))
}

/// Files of a certificate for `support-production.localhost`, and of settings
/// that listen with it.
fn settings(files: &Path) -> (String, String) {
    let path = |name: &str| files.join(name).to_str().expect("temporary paths are UTF-8").to_owned();
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    let (chain, key, settings) = (path("chain.pem"), path("key.pem"), path("settings.toml"));
    std::fs::write(&chain, made.cert.pem()).expect("a file of ours");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file of ours");
    let text = format!(
        "[tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{{ certificate = \"{chain}\", key = \"{key}\" }}]\n"
    );
    std::fs::write(&settings, text).expect("a file of ours");
    (settings, chain)
}

const HOST: &str = "support-production.localhost";

/// Whether curl is answered 200 over HTTP/2; also where there is no curl.
fn reaches(address: SocketAddr, chain: &str) -> bool {
    let Some(curl) = curl(HOST, address, Path::new(chain)) else { return true };
    println!("{}", said(&curl));
    said(&curl).ends_with(" 2 200")
}

#[test]
fn curl_reaches_a_replica_over_tls_at_the_announced_address() {
    let files = folder();
    let (settings, chain) = settings(files.path());
    let story = Story::on(Server::up_with(&["--config", &settings]));
    let replica = Replica::start("v1");
    story.deploy_to(&replica, "production");
    let address = story.server.address_of("tls");
    assert!(reaches(address, &chain));

    let endpoint = format!("127.0.0.1:{}", address.port());
    let refused = story.api.deploy_endpoints(&story.project, &[endpoint.parse().expect("an address")], None);
    assert_eq!(refused.status, 400, "an endpoint that leads back into the ingress");
}

#[test]
fn a_tls_address_is_handed_over_like_the_others() {
    let files = folder();
    let (settings, chain) = settings(files.path());
    let mut scene = Scene::begin(&["--config", &settings]);
    let address = scene.proxy.address_of("tls");
    assert!(reaches(address, &chain));
    let successor = scene.proxy.successor();
    assert_eq!(successor.address_of("tls"), address);
    assert!(scene.proxy.ended().success());
    assert!(reaches(address, &chain));
}

#[test]
fn a_hangup_makes_a_running_proxy_read_its_certificates_again() {
    let files = folder();
    let path = |name: &str| files.path().join(name);
    let host = "support-production.localhost";
    let renew = |copy: &str| {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
        for name in ["tls.crt", copy] {
            std::fs::write(path(name), made.cert.pem()).expect("a file of ours");
        }
        std::fs::write(path("tls.key"), made.signing_key.serialize_pem()).expect("a file of ours");
    };
    renew("first");
    let settings = path("settings.toml");
    let text =
        format!("[tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{:?}]\nreload-interval = \"1h\"\n", files.path());
    std::fs::write(&settings, text).expect("a file of ours");
    let control = Server::control();
    let mut proxy = Server::proxy_with(&control, &["--config", settings.to_str().expect("temporary paths are UTF-8")]);
    let address = proxy.address_of("tls");
    if curl(host, address, &path("first")).is_none() {
        return;
    }
    until("the proxy to have a table", || {
        curl(host, address, &path("first")).filter(|curl| said(curl).ends_with(" 2 404"))
    });

    renew("second");
    signal(proxy.pid(), "HUP");
    until("the new certificate to be shown", || {
        curl(host, address, &path("second")).filter(|curl| said(curl).ends_with(" 2 404"))
    });
    let first = curl(host, address, &path("first")).expect("it was there");
    assert!(said(&first).contains("certificate"), "the old one is gone: {}", said(&first));
    std::fs::write(path("tls.key"), "no key").expect("a file of ours");
    signal(proxy.pid(), "HUP");
    until("the log to say what is wrong", || {
        proxy.log().contains("give a PEM file that this user may read").then_some(())
    });
    let second = curl(host, address, &path("second")).expect("it was there");
    assert!(said(&second).ends_with(" 2 404"), "it goes on with the last good one: {}", said(&second));
    proxy.terminate();
    assert!(proxy.ended().success());
}

#[test]
fn flags_are_enough_for_tls_and_an_address_in_use_is_told_by_its_flag() {
    let files = folder();
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    let chain = files.path().join("chain.pem");
    let both = made.cert.pem() + &made.signing_key.serialize_pem();
    std::fs::write(&chain, both).expect("a file of ours");
    let chain = chain.to_str().expect("temporary paths are UTF-8");
    let story = Story::on(Server::up_with(&["--tls-listen", "127.0.0.1:0", "--tls-certificates", chain]));
    let replica = Replica::start("v1");
    story.deploy_to(&replica, "production");
    assert!(reaches(story.server.address_of("tls"), chain));

    let taken = story.server.address_of("tls").to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_repoint"))
        .args(["up", "--data-dir"])
        .arg(files.path().join("other"))
        .args(["--ingress", "127.0.0.1:0", "--api", "127.0.0.1:0", "--stream", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--tls-listen", &taken, "--tls-certificates", chain])
        .output()
        .expect("our own binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("with --tls-listen"), "{said}");
}

/// Answers every request over TLS with its path, as 127.0.0.1; gives its URL.
fn secure_replica(chain: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(chain, made.cert.pem()).expect("a file of ours");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).expect("a pair");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (url, config) = (format!("https://{}", listener.local_addr().expect("its address")), Arc::new(config));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            std::thread::spawn(move || answer(BufReader::new(StreamOwned::new(session, stream))));
        }
    });
    url
}

/// Answers requests without bodies until the connection ends.
fn answer(mut stream: BufReader<StreamOwned<ServerConnection, TcpStream>>) -> Option<()> {
    loop {
        let mut lines = stream.by_ref().lines().map_while(Result::ok);
        let path = lines.next()?.split(' ').nth(1)?.to_owned();
        lines.find(String::is_empty)?;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
        stream.get_mut().write_all(head.as_bytes()).ok()?;
    }
}

#[test]
fn a_replica_over_tls_is_reached_when_a_trusted_authority_vouches_for_it() {
    let files = folder();
    let path = |name: &str| files.path().join(name).to_str().expect("temporary paths are UTF-8").to_owned();
    let (chain, no_authority) = (path("chain.pem"), path("empty.pem"));
    std::fs::write(&no_authority, "").expect("a file of ours");
    let endpoint = secure_replica(Path::new(&chain));
    let deploy = |story: &Story, wait_ms: u64| {
        let source = json!({ "kind": "endpoints", "endpoints": [endpoint], "health_path": "/healthz" });
        let environment = story.project.environment("production");
        let body = json!({
            "project_id": story.project.id, "environment_id": environment, "source": source, "wait_ms": wait_ms,
        });
        story.api.post("/api/v1/deployments", &body)
    };

    let trusting = Story::on(Server::up_with(&["--replica-ca", &chain]));
    let deployed = deploy(&trusting, 30_000).ok();
    assert!(deployed["promotion"].is_object(), "{deployed}");
    let answer = http::get(trusting.server.ingress(), HOST, "/over-tls");
    assert_eq!((answer.status, answer.body.as_str()), (200, "/over-tls"));

    let doubting = Story::on(Server::up());
    let id = deploy(&doubting, 0).ok()["id"].as_str().expect("its id").to_owned();
    until("the reason to be told", || {
        let errors = doubting.api.get(&format!("/api/v1/deployments/{id}/errors")).body.to_string();
        errors.contains("the TLS handshake failed").then_some(())
    });
    let unreadable = Command::new(env!("CARGO_BIN_EXE_repoint"))
        .args(["up", "--replica-ca", &no_authority, "--data-dir", &path("data")])
        .output()
        .expect("our own binary starts");
    let said = String::from_utf8_lossy(&unreadable.stderr);
    assert!(!unreadable.status.success() && said.contains("--replica-ca") && said.contains(&no_authority), "{said}");
}
