//! TLS as somebody sets it up: a settings file, the real binary, curl.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::Story;
use super::handover::Scene;
use super::support::replica::Replica;
use super::support::server::{Server, folder};

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
    let url = format!("https://{HOST}:{}/", address.port());
    let resolve = format!("{HOST}:{}:{}", address.port(), address.ip());
    let curl = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--cacert", chain, "--resolve", &resolve])
        .args(["--write-out", " %{http_version} %{http_code}", &url])
        .output();
    let Ok(curl) = curl else {
        println!("skipped: there is no curl here");
        return true;
    };
    let said = String::from_utf8_lossy(&curl.stdout);
    println!("{said} {}", String::from_utf8_lossy(&curl.stderr));
    said.ends_with(" 2 200")
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
