//! TLS as somebody tries it out: certificates made on the spot, and curl that checks them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::Story;
use super::support::replica::Replica;
use super::support::server::{Server, folder};

const FLAGS: [&str; 3] = ["--tls-self-signed", "--tls-listen", "127.0.0.1:0"];

/// What curl says of this host, checking with these authorities: the version of HTTP and the status, or why not. `None`:
/// there is no curl.
fn curl(url_host: &str, host: &str, address: SocketAddr, authorities: &Path) -> Option<String> {
    let port = address.port();
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--output", "/dev/null", "--cacert"])
        .arg(authorities)
        .args(["--resolve", &format!("{url_host}:{port}:{}", address.ip()), "--header", &format!("Host: {host}")])
        .args(["--write-out", "%{http_version} %{http_code}", &format!("https://{url_host}:{port}/")])
        .output();
    if output.is_err() {
        println!("skipped: there is no curl here");
    }
    let output = output.ok()?;
    Some(format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn every_host_has_a_certificate_that_curl_accepts_also_after_a_restart() {
    let mut server = Server::up_with(&FLAGS);
    let authority = server.data_dir().join("tls-ca.pem");
    let key = authority.with_extension("key");
    assert_eq!(fs::metadata(&key).expect("the authority's key").permissions().mode() & 0o777, 0o600);
    let (first, kept) = (folder(), fs::read(&authority).expect("the authority"));
    let copy = first.path().join("copy.pem");
    fs::write(&copy, kept).expect("a file of ours");

    let look = |server: &Server, trusted: &Path| {
        let address = server.address_of("tls");
        for host in ["support-production.localhost", "support-preview.localhost"] {
            let Some(said) = curl(host, host, address, trusted) else { return };
            assert_eq!(said, "2 200", "{host}");
        }
        // By address no host is named in the handshake.
        let host = "support-preview.localhost";
        assert_eq!(curl("127.0.0.1", host, address, trusted).as_deref(), Some("2 200"));
        assert_eq!(
            curl("localhost", host, address, trusted).as_deref(),
            Some("2 421"),
            "a connection for another host"
        );
    };
    let (v1, v2) = (Replica::start("v1"), Replica::start("v2"));
    let story = Story::on(server);
    story.deploy_to(&v1, "production");
    story.deploy_to(&v2, "preview");
    look(&story.server, &copy);
    let host = "support-production.localhost";
    let other = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    let stranger = first.path().join("stranger.pem");
    fs::write(&stranger, other.cert.pem()).expect("a file of ours");
    if let Some(said) = curl(host, host, story.server.address_of("tls"), &stranger) {
        assert!(said.contains("certificate"), "nobody else vouches for it: {said}");
    }

    server = story.server;
    server.kill();
    server.start_again();
    look(&server, &copy);
}

#[test]
fn certificates_of_the_operator_come_first() {
    let files = folder();
    let host = "support-production.localhost";
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    let chain = files.path().join("chain.pem");
    fs::write(&chain, made.cert.pem() + &made.signing_key.serialize_pem()).expect("a file of ours");
    let server = Server::up_with(&[&FLAGS[..], &["--tls-certificates", chain.to_str().expect("UTF-8")]].concat());
    let (address, authority) = (server.address_of("tls"), server.data_dir().join("tls-ca.pem"));
    let Some(said) = curl(host, host, address, &chain) else { return };
    assert_eq!(said, "2 404");
    let preview = "support-preview.localhost";
    assert_eq!(curl(preview, preview, address, &authority).as_deref(), Some("2 404"));
}

#[test]
fn a_damaged_authority_is_told_with_what_to_do_and_left_as_it_is() {
    let data = folder();
    let key = data.path().join("tls-ca.key");
    fs::write(&key, "no key").expect("a file of ours");
    let output = Command::new(env!("CARGO_BIN_EXE_repoint"))
        .args(["up", "--ingress", "127.0.0.1:0", "--api", "127.0.0.1:0", "--stream", "127.0.0.1:0"])
        .args(["--admin", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .args(FLAGS)
        .output()
        .expect("our own binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("tls-ca.key") && said.contains("remove tls-ca.key and tls-ca.pem"), "{said}");
    assert_eq!(fs::read_to_string(&key).expect("it is still there"), "no key");
    assert!(!data.path().join("tls-ca.pem").exists());
}
