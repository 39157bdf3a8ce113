//! TLS as somebody sets it up: a settings file, the real binary, curl.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use super::Story;
use super::handover::Scene;
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
    let Some(first) = curl(host, address, &path("first")) else { return };
    assert!(said(&first).ends_with(" 2 404"), "{}", said(&first));

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
