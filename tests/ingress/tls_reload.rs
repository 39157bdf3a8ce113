//! Certificates that change while connections are open.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use repoint::ingress;
use repoint::ingress::config::{CertificateSource, ClientCertificates, Config, Tls};
use repoint::model::manifest::Span;
use repoint::routing::live::Live;
use repoint::telemetry::metrics::Metrics;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;

use crate::support::*;
use crate::tls::*;
use crate::tls_clients::*;

/// A certificate that is not on disk yet.
struct Made {
    der: CertificateDer<'static>,
    chain: String,
    key: String,
}

fn made(name: &str) -> Made {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    Made { der: made.cert.der().clone(), chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

/// Replaces a file as careful programs do.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

fn often(tls: &mut Tls) {
    tls.reload_interval = Span::try_from("5ms".to_owned()).unwrap();
}

impl Secure {
    /// With a folder instead of two files.
    async fn of_folder(set: impl FnOnce(&mut Tls)) -> Self {
        Self::with(&[HOST], &nobody_replica().await, |tls| {
            let folder = file_of(tls).parent().unwrap().to_owned();
            // The names that a folder is searched for.
            fs::rename(folder.join("chain.pem"), folder.join("tls.crt")).unwrap();
            fs::rename(folder.join("key.pem"), folder.join("tls.key")).unwrap();
            tls.certificates = vec![CertificateSource::Path(folder)];
            often(tls);
            set(tls);
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn trust(&mut self, made: &Made) {
        self.roots.add(made.der.clone()).unwrap();
    }

    /// What a new handshake for this name is shown.
    async fn shown(&self, name: &str) -> Option<CertificateDer<'static>> {
        let stream = self.connect(name, b"http/1.1").await.ok()?;
        Some(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
    }

    async fn until_shown(&self, name: &str, made: &Made) {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(2));
        soon(async {
            while self.shown(name).await.as_ref() != Some(&made.der) {
                ticks.tick().await;
            }
        })
        .await;
    }

    async fn until_metric(&self, name: &str, value: f64) {
        until(|| self.stage.metric(name) == value).await;
    }
}

const FAILURES: &str = "repoint_ingress_tls_reload_failures_total";
const UNUSABLE: &str = "repoint_ingress_tls_files_unusable";

#[tokio::test]
async fn a_connection_open_across_a_reload_goes_on_and_new_handshakes_see_the_new_certificate() {
    let mut secure = Secure::of_folder(|_| {}).await;
    let old = secure.shown(HOST).await.unwrap();
    let mut open = secure.connect(HOST, b"http/1.1").await.unwrap();
    let mut asked_on_it = async || {
        open.write_all(head("GET", "/", HOST, &[]).as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        soon(tokio::io::AsyncReadExt::read_exact(&mut open, &mut answer)).await.unwrap();
        answer
    };
    let first = asked_on_it().await;

    let new = made(HOST);
    secure.trust(&new);
    replace(&secure.path("tls.key"), &new.key);
    replace(&secure.path("tls.crt"), &new.chain);
    secure.until_shown(HOST, &new).await;

    assert_ne!(old, new.der);
    assert_eq!(&first, b"HTTP/1.1 502");
    asked_on_it().await;
    assert_eq!(open.get_ref().1.peer_certificates().unwrap()[0], old);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_keeps_the_old_certificate_and_is_counted_once() {
    let mut secure = Secure::of_folder(|_| {}).await;
    let old = secure.shown(HOST).await.unwrap();
    replace(&secure.path("tls.crt"), "no PEM");
    secure.until_metric(UNUSABLE, 1.0).await;
    assert_eq!(secure.shown(HOST).await, Some(old));
    assert_eq!(secure.stage.metric(FAILURES), 1.0);

    let new = made(HOST);
    secure.trust(&new);
    // Another reason, which is told and counted as well: the key is not its own yet.
    replace(&secure.path("tls.crt"), &new.chain);
    secure.until_metric(FAILURES, 2.0).await;
    replace(&secure.path("tls.key"), &new.key);
    secure.until_shown(HOST, &new).await;
    secure.until_metric(UNUSABLE, 0.0).await;
    assert_eq!(secure.stage.metric(FAILURES), 2.0);
}

#[tokio::test]
async fn half_of_a_new_pair_keeps_the_old_one_until_the_other_half_is_there() {
    let mut secure = Secure::of_folder(|_| {}).await;
    let old = secure.shown(HOST).await.unwrap();
    let new = made(HOST);
    secure.trust(&new);
    let (half, rest) = new.chain.split_at(new.chain.len() / 2);
    fs::write(secure.path("tls.crt"), half).unwrap();
    secure.until_metric(UNUSABLE, 1.0).await;
    assert_eq!(secure.shown(HOST).await, Some(old.clone()));
    fs::write(secure.path("tls.crt"), [half, rest].concat()).unwrap();
    // Written in place, so that a look may come upon no text at all as well.
    until(|| secure.stage.metric(FAILURES) >= 2.0).await;
    assert_eq!(secure.shown(HOST).await, Some(old));
    fs::write(secure.path("tls.key"), &new.key).unwrap();
    secure.until_shown(HOST, &new).await;
    secure.until_metric(UNUSABLE, 0.0).await;
}

#[tokio::test]
async fn removed_files_keep_their_certificate() {
    let secure = Secure::of_folder(|_| {}).await;
    let old = secure.shown(HOST).await;
    for name in ["tls.crt", "tls.key"] {
        fs::remove_file(secure.path(name)).unwrap();
    }
    secure.until_metric(UNUSABLE, 1.0).await;
    secure.stage.running.reload_certificates();
    // Told again because it was asked for.
    until(|| secure.stage.metric(FAILURES) >= 2.0).await;
    assert!(old.is_some());
    assert_eq!(secure.shown(HOST).await, old);
}

#[tokio::test]
async fn a_certificate_that_is_put_into_the_folder_is_served_beside_the_others() {
    let mut secure = Secure::of_folder(|_| {}).await;
    let old = secure.shown(HOST).await;
    let (more, name) = (made("more.example.com"), "more.example.com");
    secure.trust(&more);
    assert_eq!(secure.shown(name).await, None);
    // Certificate and key in one file.
    replace(&secure.path("more.pem"), &format!("{}{}", more.chain, more.key));
    secure.until_shown(name, &more).await;
    assert_eq!(secure.shown(HOST).await, old);
    secure.until_metric("repoint_ingress_tls_certificates", 2.0).await;
}

#[tokio::test]
async fn a_folder_that_is_swapped_behind_a_link_is_taken_up() {
    let new = made(HOST);
    let mut secure = Secure::of_folder(|tls| {
        // As a mounted secret: tls.crt → ..data/tls.crt, ..data → ..1.
        let folder = file_of(tls);
        fs::create_dir(folder.join("..1")).unwrap();
        symlink("..1", folder.join("..data")).unwrap();
        for name in ["tls.crt", "tls.key"] {
            fs::rename(folder.join(name), folder.join("..1").join(name)).unwrap();
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
    })
    .await;
    assert!(secure.shown(HOST).await.is_some());
    secure.trust(&new);
    fs::create_dir(secure.path("..2")).unwrap();
    fs::write(secure.path("..2/tls.crt"), &new.chain).unwrap();
    fs::write(secure.path("..2/tls.key"), &new.key).unwrap();
    symlink("..2", secure.path("..data_tmp")).unwrap();
    fs::rename(secure.path("..data_tmp"), secure.path("..data")).unwrap();
    fs::remove_dir_all(secure.path("..1")).unwrap();
    secure.until_shown(HOST, &new).await;
    secure.until_metric(UNUSABLE, 0.0).await;
}

#[tokio::test]
async fn certificates_are_read_again_at_once_when_asked() {
    let mut secure = Secure::of_folder(|tls| tls.reload_interval = Span::seconds(3600)).await;
    let new = made(HOST);
    secure.trust(&new);
    replace(&secure.path("tls.key"), &new.key);
    replace(&secure.path("tls.crt"), &new.chain);
    secure.stage.running.reload_certificates();
    secure.until_shown(HOST, &new).await;
    secure.until_metric("repoint_ingress_tls_reloads_total", 1.0).await;
}

#[tokio::test]
async fn clients_of_a_replaced_authority_are_refused_and_those_of_the_new_one_let_in() {
    let (old, new) = (Authority::new(), Authority::new());
    let secure = Secure::of_folder(|tls| old.wanted(ClientCertificates::Required, tls)).await;
    assert!(is_served(&secure, &old.client(&secure)).await);
    replace(&old.folder.path().join("ca.pem"), "no PEM");
    secure.until_metric(UNUSABLE, 1.0).await;
    assert!(is_served(&secure, &old.client(&secure)).await);
    let text = fs::read_to_string(new.folder.path().join("ca.pem")).unwrap();
    replace(&old.folder.path().join("ca.pem"), &text);
    secure.until_metric(UNUSABLE, 0.0).await;
    assert!(is_served(&secure, &new.client(&secure)).await);
    assert!(!is_served(&secure, &old.client(&secure)).await);
}

#[tokio::test]
async fn the_end_of_each_certificate_is_a_metric() {
    let mut path = PathBuf::new();
    let secure = Secure::of_folder(|tls| {
        let folder = file_of(tls);
        let mut params = CertificateParams::new(vec!["short.example.com".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2040, 2, 3);
        let key = KeyPair::generate().unwrap();
        let text = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        path = folder.join("short.pem");
        fs::write(&path, text).unwrap();
    })
    .await;
    let name = "repoint_ingress_tls_certificate_not_after_timestamp_seconds";
    let of = |path: &Path| secure.stage.metric(&format!("{name}{{certificate=\"{}\"}}", path.display()));
    assert_eq!(of(&path), 2_211_840_000.0);
    assert!(of(&secure.path("tls.crt")) > 2_211_840_000.0);
    assert_eq!(secure.stage.metric("repoint_ingress_tls_certificates"), 2.0);
}

#[tokio::test]
async fn what_cannot_be_used_in_a_folder_is_left_out_at_the_start_and_counted() {
    let secure = Secure::of_folder(|tls| {
        let folder = file_of(tls);
        fs::write(folder.join("ca.crt"), made("an authority").chain).unwrap();
        fs::write(folder.join("bad.pem"), made("bad.example.com").chain).unwrap();
        fs::write(folder.join("bad.key"), made("bad.example.com").key).unwrap();
        tls.default = Some(folder.join("tls.crt"));
    })
    .await;
    assert!(secure.shown(HOST).await.is_some());
    assert_eq!((secure.stage.metric(FAILURES), secure.stage.metric(UNUSABLE)), (1.0, 1.0));
}

#[test]
fn a_folder_without_a_certificate_and_its_key_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        let certificates = vec![CertificateSource::Path(folder.path().to_owned())];
        let tls = Tls { listen: listen.clone(), certificates, ..Tls::default() };
        let config = Config { listen, tls, ..Config::default() };
        let live = Live::new(config.cores());
        ingress::start(config, live, &Metrics::default()).err().unwrap().to_string()
    };
    let says = |error: &str| assert!(error.contains("in it or in name.key beside it"), "{error}");
    says(&start());
    fs::write(folder.path().join("tls.crt"), made(HOST).chain).unwrap();
    says(&start());
    fs::write(folder.path().join("tls.key"), made(HOST).key).unwrap();
    assert!(start().contains("give the key that it was made with"));
}
