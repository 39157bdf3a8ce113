//! TLS as somebody sets it up: a settings file, the real binary, curl.

use std::process::Command;

use super::Story;
use super::support::replica::Replica;
use super::support::server::{Server, folder};

#[test]
fn curl_reaches_a_replica_over_tls_at_the_announced_address() {
    let files = folder();
    let path = |name: &str| files.path().join(name).to_str().expect("temporary paths are UTF-8").to_owned();
    let story_host = "support-production.localhost";
    let made = rcgen::generate_simple_self_signed([story_host.to_owned()]).expect("a certificate");
    let (chain, key, settings) = (path("chain.pem"), path("key.pem"), path("settings.toml"));
    std::fs::write(&chain, made.cert.pem()).expect("a file of ours");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file of ours");
    let text = format!(
        "[tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{{ certificate = \"{chain}\", key = \"{key}\" }}]\n"
    );
    std::fs::write(&settings, text).expect("a file of ours");

    let story = Story::on(Server::up_with(&["--config", &settings]));
    let replica = Replica::start("v1");
    story.deploy_to(&replica, "production");
    let host = story.project.host("production");
    let address = story.server.address_of("tls");

    let url = format!("https://{host}:{}/", address.port());
    let resolve = format!("{host}:{}:{}", address.port(), address.ip());
    let curl = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--cacert", &chain, "--resolve", &resolve])
        .args(["--write-out", " %{http_version} %{http_code}", &url])
        .output();
    let Ok(curl) = curl else {
        println!("skipped: there is no curl here");
        return;
    };
    let said = String::from_utf8_lossy(&curl.stdout);
    assert!(said.ends_with(" 2 200"), "{said} {}", String::from_utf8_lossy(&curl.stderr));

    let endpoint = format!("127.0.0.1:{}", address.port());
    let refused = story.api.deploy_endpoints(&story.project, &[endpoint.parse().expect("an address")], None);
    assert_eq!(refused.status, 400, "an endpoint that leads back into the ingress");
}
