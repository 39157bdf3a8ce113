//! Which files hold certificates and keys, and whether they have changed.
//!
//! Follows symbolic links: what mounts secrets replaces a link `..data` to a
//! folder, and with it every file behind it at once. Knows nothing of what is in
//! a file, but for whether a key is.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::ingress::config::CertificateSource;
use crate::ingress::tls::Error;

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    /// May be the same file.
    pub(super) key: PathBuf,
}

impl Pair {
    /// What tells whether either file has changed.
    pub(super) fn stamps(&self) -> [Option<Stamp>; 2] {
        [Stamp::of(&self.certificate), Stamp::of(&self.key)]
    }
}

/// What of a file changes when its content does. The time of the last change of
/// its inode is there for copies that keep the time of writing, and for a mode
/// that lets us read at last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    inode: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: there is no such file, or it is kept from us.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            inode: (file.dev(), file.ino()),
            size: file.size(),
            written: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// The pairs of one entry of the settings. A folder is read anew each time.
pub(super) fn pairs(source: &CertificateSource) -> Result<Vec<Pair>, Error> {
    match source {
        CertificateSource::Files { certificate, key } => {
            Ok(vec![Pair { certificate: certificate.clone(), key: key.clone() }])
        }
        CertificateSource::Path(path) if path.is_dir() => folder(path),
        CertificateSource::Path(path) => Ok(vec![beside(path).unwrap_or_else(|| {
            // Neither in it nor beside it: reading says what is missing.
            Pair { certificate: path.clone(), key: path.clone() }
        })]),
    }
}

/// Each certificate of a folder that has its key, by name. Those without are
/// passed over: they are authorities' (`ca.crt`, `chain.pem`), as a rule.
fn folder(path: &Path) -> Result<Vec<Pair>, Error> {
    let failed = |error: io::Error| Error::Folder { path: path.to_owned(), reason: error.to_string() };
    let mut certificates = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = path.join(entry.map_err(failed)?.file_name());
        if is_certificate(&file) && file.is_file() {
            certificates.push(file);
        }
    }
    certificates.sort();
    Ok(certificates.iter().filter_map(|file| beside(file)).collect())
}

fn is_certificate(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|extension| extension == "pem" || extension == "crt")
}

/// A certificate with its key: in the same file, or beside it as `name.key`
/// (`tls.crt`, `tls.key`), `name.pem.key`, `name-key.pem`, or `privkey.pem` for
/// `fullchain.pem`.
fn beside(certificate: &Path) -> Option<Pair> {
    let name = certificate.file_name()?.to_str()?;
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let mut names = vec![format!("{stem}.key"), format!("{name}.key"), format!("{stem}-key.{extension}")];
    if stem == "fullchain" {
        names.push(format!("privkey.{extension}"));
    }
    let apart = names.iter().map(|name| certificate.with_file_name(name)).find(|key| key.is_file());
    let is_both =
        || CertificateDer::from_pem_file(certificate).is_ok() && PrivateKeyDer::from_pem_file(certificate).is_ok();
    let key = apart.or_else(|| is_both().then(|| certificate.to_owned()))?;
    Some(Pair { certificate: certificate.to_owned(), key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

    fn found(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let pairs = pairs(&CertificateSource::Path(folder.path().to_owned())).unwrap();
        pairs.iter().map(|pair| (name(&pair.certificate), name(&pair.key))).collect()
    }

    fn pair(certificate: &str, key: &str) -> (String, String) {
        (certificate.to_owned(), key.to_owned())
    }

    #[test]
    fn keys_are_found_beside_their_certificates_under_each_usual_name() {
        let files = ["a.pem", "a.key", "b.crt", "b.crt.key", "c.pem", "c-key.pem", "tls.crt", "tls.key"];
        let texts = files.map(|name| (name, if name.contains("key") { KEY } else { CERTIFICATE }));
        let expected = [
            pair("a.pem", "a.key"),
            pair("b.crt", "b.crt.key"),
            pair("c.pem", "c-key.pem"),
            pair("tls.crt", "tls.key"),
        ];
        assert_eq!(found(&texts), expected);
    }

    #[test]
    fn a_key_in_the_same_file_is_found() {
        assert_eq!(found(&[("both.pem", &format!("{CERTIFICATE}{KEY}"))]), [pair("both.pem", "both.pem")]);
    }

    #[test]
    fn what_an_acme_client_leaves_is_one_pair() {
        let files = [("cert.pem", CERTIFICATE), ("chain.pem", CERTIFICATE), ("fullchain.pem", CERTIFICATE)];
        assert_eq!(found(&[&files[..], &[("privkey.pem", KEY)]].concat()), [pair("fullchain.pem", "privkey.pem")]);
    }

    #[test]
    fn authorities_hidden_files_and_others_are_passed_over() {
        let files = [("ca.crt", CERTIFICATE), (".hidden.pem", KEY), ("README", KEY), ("a.txt", KEY), ("empty.pem", "")];
        assert_eq!(found(&files), []);
        assert!(
            pairs(&CertificateSource::Path("/nowhere/at/all".into())).unwrap()[0].certificate.starts_with("/nowhere")
        );
    }

    #[test]
    fn a_stamp_changes_with_the_folder_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("tls.crt"), "the same").unwrap();
        }
        std::os::unix::fs::symlink("one", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/tls.crt", path("tls.crt")).unwrap();
        let before = Stamp::of(&path("tls.crt"));
        assert_eq!(before, Stamp::of(&path("tls.crt")));
        std::os::unix::fs::symlink("two", path("..next")).unwrap();
        fs::rename(path("..next"), path("..data")).unwrap();
        assert_ne!(before, Stamp::of(&path("tls.crt")));
        fs::remove_dir_all(path("two")).unwrap();
        assert_eq!(Stamp::of(&path("tls.crt")), None);
    }
}
