//! TLS as OpenSSL's client sees it: another implementation than the one that serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use repoint::ingress::config::{CertificateSource, ClientCertificates};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::*;
use crate::tls::*;
use crate::tls_clients::*;

/// Whether there is an OpenSSL to ask; says so where there is none.
async fn is_missing() -> bool {
    let asked = Command::new("openssl").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    let is_missing = !asked.is_ok_and(|status| status.success());
    if is_missing {
        eprintln!("skipped: no openssl on this machine");
    }
    is_missing
}

/// What `openssl s_client` did and said.
struct Said {
    is_fine: bool,
    text: String,
}

impl Said {
    #[track_caller]
    fn has(&self, what: &str) -> &Self {
        assert!(self.text.contains(what), "no {what:?} in\n{}", self.text);
        self
    }
}

/// Shakes hands and, where there is a `request`, reads to the end of its answer.
async fn s_client(secure: &Secure, request: &str, more: &[&str]) -> Said {
    let address = secure.stage.running.tls_addresses()[0].to_string();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address, "-verify_return_error"]).args(more);
    if !request.is_empty() {
        command.arg("-ign_eof");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut running = command.spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    // It may have ended already, having been refused.
    let _ = stdin.write_all(request.as_bytes()).await;
    drop(stdin);
    let output = soon(running.wait_with_output()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    Said { is_fine: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
}

/// Asks as a client that knows whom it asks.
async fn named(secure: &Secure, request: &str, more: &[&str]) -> Said {
    let trusted = secure.files.path().join("chain.pem");
    let known = ["-servername", HOST, "-verify_hostname", HOST, "-CAfile", path(&trusted)];
    s_client(secure, request, &[&known[..], more].concat()).await
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A request on whose answer the connection ends.
fn last(host: &str) -> String {
    head("GET", "/", host, &["Connection: close"])
}

async fn secure() -> Secure {
    Secure::serving(&[HOST], &nobody_replica().await)
}

#[tokio::test]
async fn openssl_agrees_on_http_2_or_1_and_goes_without() {
    if is_missing().await {
        return;
    }
    let secure = secure().await;
    for (offered, agreed) in [
        ("h2,http/1.1", "ALPN protocol: h2"),
        ("http/1.1,h2", "ALPN protocol: h2"),
        ("http/1.1", "ALPN protocol: http/1.1"),
    ] {
        assert!(named(&secure, "", &["-alpn", offered]).await.has(agreed).is_fine, "{offered}");
    }
    named(&secure, &last(HOST), &[]).await.has("No ALPN negotiated").has("HTTP/1.1 50");
}

#[tokio::test]
async fn openssl_that_speaks_only_other_protocols_is_told_so() {
    if is_missing().await {
        return;
    }
    let said = named(&secure().await, "", &["-alpn", "smtp"]).await;
    assert!(!said.has("no application protocol").is_fine);
}

#[tokio::test]
async fn openssl_is_served_with_tls_1_2_and_1_3_and_refused_with_1_1() {
    if is_missing().await {
        return;
    }
    let secure = secure().await;
    for (version, spoken) in [("-tls1_2", "New, TLSv1.2"), ("-tls1_3", "New, TLSv1.3")] {
        let said = named(&secure, &last(HOST), &[version]).await;
        assert!(said.has(spoken).has("Verify return code: 0 (ok)").has("HTTP/1.1 50").is_fine, "{}", said.text);
    }
    // Without lowering its own standards it would not even offer that.
    let said = named(&secure, "", &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]).await;
    assert!(!said.has("SSL alert number").has("Cipher is (NONE)").is_fine, "{}", said.text);
}

#[tokio::test]
async fn openssl_resumes_its_sessions_with_and_without_tickets() {
    if is_missing().await {
        return;
    }
    let secure = secure().await;
    for kind in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_2", "-no_ticket"]] {
        let session = secure.files.path().join("session.pem");
        let kept = [kind, &["-sess_out", path(&session)]].concat();
        named(&secure, &last(HOST), &kept).await.has("New, TLSv1.");
        let again = [kind, &["-sess_in", path(&session)]].concat();
        named(&secure, &last(HOST), &again).await.has("Reused, TLSv1.").has("HTTP/1.1 50");
    }
}

#[tokio::test]
async fn openssl_is_refused_without_a_required_certificate_and_served_without_an_optional_one() {
    if is_missing().await {
        return;
    }
    for (wanted, is_served_without) in [(ClientCertificates::Required, false), (ClientCertificates::Optional, true)] {
        let (ours, foreign) = (Authority::new(), Authority::new());
        let secure = Secure::with(&[HOST], &nobody_replica().await, |tls| ours.wanted(wanted, tls));
        let without = named(&secure, &last(HOST), &[]).await;
        assert_eq!(without.text.contains("HTTP/1.1 50"), is_served_without, "{wanted:?}\n{}", without.text);
        if !is_served_without {
            without.has("alert certificate required");
        }
        for (authority, is_served) in [(ours, true), (foreign, false)] {
            let [certificate, key] = files_of(&authority);
            let said = named(&secure, &last(HOST), &["-cert", path(&certificate), "-key", path(&key)]).await;
            assert_eq!(said.text.contains("HTTP/1.1 50"), is_served, "{wanted:?}\n{}", said.text);
        }
    }
}

fn files_of(authority: &Authority) -> [PathBuf; 2] {
    let (certificate, key) = authority.signed();
    let files = ["client.pem", "client.key"].map(|name| authority.folder.path().join(name));
    fs::write(&files[0], certificate.pem()).unwrap();
    fs::write(&files[1], key.serialize_pem()).unwrap();
    files
}

#[tokio::test]
async fn openssl_gets_the_certificate_of_the_host_that_it_names() {
    if is_missing().await {
        return;
    }
    const OTHER: &str = "other.localhost";
    let secure = Secure::with(&[HOST], &nobody_replica().await, |tls| {
        let folder = file_of(tls).parent().unwrap().to_owned();
        let made = rcgen::generate_simple_self_signed([OTHER.to_owned()]).unwrap();
        let (certificate, key) = (folder.join("other.pem"), folder.join("other.key"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        tls.certificates.push(CertificateSource::Files { certificate, key });
    });
    let (first, second) = (secure.files.path().join("chain.pem"), secure.files.path().join("other.pem"));
    for (name, trusted, is_fine) in
        [(HOST, &first, true), (OTHER, &second, true), (HOST, &second, false), (OTHER, &first, false)]
    {
        let asked = ["-servername", name, "-verify_hostname", name, "-CAfile", path(trusted)];
        let said = s_client(&secure, "", &asked).await;
        assert_eq!(said.is_fine, is_fine, "{name} with {}\n{}", trusted.display(), said.text);
    }
    for asked in [&["-servername", "unknown.localhost"][..], &["-noservername"]] {
        let said = s_client(&secure, "", asked).await;
        assert!(!said.has("unrecognized name").is_fine, "{}", said.text);
    }
}

#[tokio::test]
async fn openssl_that_asks_for_a_host_the_certificate_does_not_cover_is_answered_421() {
    if is_missing().await {
        return;
    }
    let said = named(&secure().await, &last("other.localhost"), &[]).await;
    said.has("HTTP/1.1 421").has("misdirected_request");
}
