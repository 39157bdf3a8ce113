//! An authority of our own, for trying TLS out: it vouches for whatever host is
//! asked for, to whoever was told to trust it.
//!
//! Kept in the data directory, so that it is the same after a restart. Its
//! certificate is made of its key alone, so that the key is all there is to keep.
//! Wildcards would not do: what is below a top-level domain, as `*.localhost` is,
//! is matched by no client worth the name.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sha2::{Digest, Sha256};

use crate::ingress::tls::validity::Validity;
use crate::ingress::tls::{Certificate, Error};

/// Certificates kept; past that all are made anew. Each costs a signature, some
/// 40 µs, which is less than its handshake.
const MADE_MAX: usize = 1024;
/// How long a certificate is good.
const GOOD_DAYS: i32 = 30;
/// What has less left is made anew.
const LEFT_MIN_DAYS: i64 = 10;

/// Its key, and the file that clients are to trust.
pub(in crate::ingress) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Of every certificate that it makes: these are for trying things out.
    key: KeyPair,
    path: PathBuf,
}

/// What it vouches for under the settings as they are.
pub(super) struct Minting {
    authority: Arc<Authority>,
    base: ServerConfig,
    made: Mutex<HashMap<String, Arc<Certificate>>>,
}

impl Authority {
    /// The one that is kept in `folder`, or a new one.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let (kept, path) = (key_path(folder), certificate_path(folder));
        let failed = |what, path: &Path, error: &io::Error| unkept(path, format!("{what}: {error}"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| failed("make it", folder, &error))?;
        let authority = match kept_key(&kept)? {
            Some(key) => key,
            None => {
                let pem = KeyPair::generate().map_err(|error| unkept(&kept, error.to_string()))?.serialize_pem();
                keep(&kept, &pem).map_err(|error| failed("write it", &kept, &error))?;
                // Whoever came first has made it.
                kept_key(&kept)?.ok_or_else(|| unkept(&kept, "it is gone again".to_owned()))?
            }
        };
        let params = params_of(&authority);
        let certificate = params.self_signed(&authority).map_err(|error| unkept(&path, error.to_string()))?;
        fs::write(&path, certificate.pem()).map_err(|error| failed("write it", &path, &error))?;
        let key = KeyPair::generate().map_err(|error| unkept(&kept, error.to_string()))?;
        Ok(Self { issuer: Issuer::new(params, authority), key, path })
    }

    /// Whether the one that is kept in `folder`, if there is one, could be used.
    pub(super) fn check(folder: &Path) -> Result<(), Error> {
        kept_key(&key_path(folder)).map(drop)
    }
}

/// The key in this file; `None` where there is no file.
fn kept_key(path: &Path) -> Result<Option<KeyPair>, Error> {
    let pem = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| unkept(path, format!("read it: {error}")))?,
    };
    let key = KeyPair::from_pem(&pem);
    key.map(Some).map_err(|error| unkept(path, format!("it holds no private key ({error})")))
}

fn key_path(folder: &Path) -> PathBuf {
    folder.join("tls-ca.key")
}

/// What clients are to trust, in this folder.
pub(in crate::ingress) fn certificate_path(folder: &Path) -> PathBuf {
    folder.join("tls-ca.pem")
}

/// Of the authority itself. Named after its key: a client that has seen two of
/// them tells them apart.
fn params_of(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let named: String = Sha256::digest(key.public_key_raw()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Repoint self-signed {named}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // From the key's file, not from the clock: the same at every start.
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2025, 1, 1), rcgen::date_time_ymd(2045, 1, 1));
    params
}

/// Writes a file that is whole from the start, for its owner only. One that is
/// there already stays.
fn keep(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("key.{}", std::process::id()));
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

fn unkept(path: &Path, reason: String) -> Error {
    Error::Authority { path: path.to_owned(), reason }
}

impl Minting {
    pub(super) fn new(authority: Arc<Authority>, base: ServerConfig) -> Self {
        Self { authority, base, made: Mutex::default() }
    }

    /// A certificate for this host; for a client that names none, one for this
    /// machine.
    pub(super) fn mint(&self, name: Option<&str>) -> Option<Arc<Certificate>> {
        let now = Timestamp::now();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.unwrap_or_default();
        if let Some(known) = made.get(name).filter(|known| is_fresh(known.validity, now)) {
            return Some(Arc::clone(known));
        }
        let certificate = self
            .make(name, now)
            .inspect_err(|error| tracing::error!(%error, name, "failed to make a certificate"))
            .ok()?;
        if made.len() >= MADE_MAX {
            made.clear();
        }
        let certificate = Arc::new(certificate);
        made.insert(name.to_owned(), Arc::clone(&certificate));
        Some(certificate)
    }

    fn make(&self, name: &str, now: Timestamp) -> Result<Certificate, String> {
        let Authority { issuer, key, path } = &*self.authority;
        let names = match name {
            "" => ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
            name => vec![name.to_owned()],
        };
        let mut params = CertificateParams::new(names.clone()).map_err(|error| error.to_string())?;
        // Some clients ask for one, and it may be no longer than 64 characters (RFC 5280, ub-common-name).
        let common: String = names[0].chars().take(64).collect();
        params.distinguished_name.push(DnType::CommonName, common);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let today = now.to_zoned(TimeZone::UTC).date();
        // Since yesterday: clocks differ.
        let (from, until) = (today.saturating_sub(1.day()), today.saturating_add(GOOD_DAYS.days()));
        let at = |date: Date| rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
        (params.not_before, params.not_after) = (at(from), at(until));
        let der = params.signed_by(key, issuer).map_err(|error| error.to_string())?.der().clone();
        let validity = Validity::of(&der).ok_or("it does not say until when it is good")?;
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::from_der(vec![der], secret, self.base.crypto_provider());
        let certified = certified.map_err(|error| error.to_string())?;
        let mut config = self.base.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(Certificate { path: path.clone(), names, validity, config: Arc::new(config) })
    }
}

impl fmt::Debug for Minting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minting").field("authority", &self.authority.path).finish_non_exhaustive()
    }
}

fn is_fresh(validity: Validity, now: Timestamp) -> bool {
    let left = 24 * LEFT_MIN_DAYS;
    now.checked_add(left.hours()).is_ok_and(|then| then < validity.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::config::Tls;
    use crate::ingress::tls::read;

    fn minting(folder: &Path) -> Minting {
        Minting::new(Arc::new(Authority::open(folder).unwrap()), read::base(&Tls::default()).unwrap())
    }

    #[test]
    fn a_certificate_is_made_once_and_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let minting = minting(folder.path());
        let of = |name: &str| minting.mint(Some(name)).unwrap();
        let one = of("a.localhost");
        assert!(
            Arc::ptr_eq(&one, &of("a.localhost")) && one.covers(b"a.localhost:8443") && !one.covers(b"b.localhost")
        );
        for n in 0..2 * MADE_MAX {
            of(&format!("host-{n}.localhost"));
            assert!(minting.made.lock().unwrap().len() <= MADE_MAX);
        }
        assert!(minting.mint(None).unwrap().covers(b"localhost"));
        let long = [&"a".repeat(63), &"b".repeat(63), "localhost"].map(|label| label.to_owned()).join(".");
        assert!(of(&long).covers(long.as_bytes()));
    }

    #[test]
    fn what_is_about_to_end_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let made = minting(folder.path()).mint(Some("a.localhost")).unwrap();
        let now = Timestamp::now();
        assert!(is_fresh(made.validity, now));
        assert!(made.validity.not_before < now, "also for who is behind");
        assert!(!is_fresh(made.validity, now + (24 * 21).hours()) && made.validity.not_after > now + (24 * 28).hours());
    }
}
