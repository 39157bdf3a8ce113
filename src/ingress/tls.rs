//! TLS towards clients: which certificate a connection gets, and the handshake.
//!
//! Certificates are chosen by SNI: an exact name, then a wildcard of one label,
//! both from the certificates themselves (RFC 6066 §3, RFC 9525 §6.3). Knows
//! nothing of requests; what comes out is a stream like the plain one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ResolvesServerCert, ResolvesServerCertUsingSni, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use crate::ingress::config::{CertificateFiles, ClientCertificates, Tls};

/// Sessions kept for TLS 1.2 clients that do not take tickets.
const SESSIONS_MAX: usize = 4096;

/// Why TLS cannot be served. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or holds something else.
    #[error("read {what} from {path}: {reason}; give a PEM file that this user may read")]
    File {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key cannot be used together.
    #[error("use the certificate {path} with the key {key}: {source}; give the key that it was made with")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// Settings that contradict each other.
    #[error("use the settings of [tls]: {0}")]
    Settings(&'static str),
    /// The cryptography refuses to start.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// A certificate that is served, and the names it is good for.
pub(super) struct Certificate {
    names: Vec<String>,
    pub(super) config: Arc<ServerConfig>,
}

impl Certificate {
    /// Whether a request's authority, with or without port, is one of its names
    /// (RFC 9110 §7.4).
    pub(super) fn covers(&self, authority: &[u8]) -> bool {
        let Ok(authority) = std::str::from_utf8(authority) else { return false };
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.strip_suffix('.').unwrap_or(host);
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(below) => parent.is_some_and(|parent| parent.eq_ignore_ascii_case(below)),
            None => host.eq_ignore_ascii_case(name),
        })
    }
}

/// All certificates, by name.
pub(super) struct Certificates {
    by_name: HashMap<String, Arc<Certificate>>,
    default: Option<Arc<Certificate>>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("names", &self.by_name.len()).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads every file that the settings name.
    pub(super) fn load(tls: &Tls) -> Result<Self, Error> {
        if tls.certificates.is_empty() {
            return Err(Error::Settings("listening needs at least one entry in certificates"));
        }
        let base = base(tls)?;
        let mut all = Self { by_name: HashMap::new(), default: None };
        for files in &tls.certificates {
            let certificate = Arc::new(certificate(files, &base)?);
            for name in &certificate.names {
                // The first to say a name has it.
                all.by_name.entry(name.clone()).or_insert_with(|| Arc::clone(&certificate));
            }
            if tls.default.as_ref() == Some(&files.certificate) {
                all.default = Some(certificate);
            }
        }
        match (&tls.default, &all.default) {
            (Some(_), None) => Err(Error::Settings("default has to name the certificate file of one of certificates")),
            _ => Ok(all),
        }
    }

    /// The certificate for the host that the client named: exact, then a
    /// wildcard of one label; for a client that named none, the default. Never
    /// the default for another host: no request on it could be answered.
    pub(super) fn choose(&self, name: Option<&str>) -> Option<&Arc<Certificate>> {
        name.map_or(self.default.as_ref(), |name| self.named(&name.to_ascii_lowercase()))
    }

    fn named(&self, name: &str) -> Option<&Arc<Certificate>> {
        let wildcard = || self.by_name.get(format!("*.{}", name.split_once('.')?.1).as_str());
        self.by_name.get(name).or_else(wildcard)
    }
}

/// What all certificates have in common: versions, clients, resumption. One
/// ticketer and one cache, so that a session goes on whichever core takes it.
fn base(tls: &Tls) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(Error::Setup)?;
    let builder = match (tls.client_certificates, &tls.client_ca) {
        (ClientCertificates::Off, _) => builder.with_no_client_auth(),
        (_, None) => return Err(Error::Settings("client-certificates needs client-ca, the file of who signs them")),
        (wanted, Some(path)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider);
            let verifier = match wanted {
                ClientCertificates::Required => verifier.build(),
                _ => verifier.allow_unauthenticated().build(),
            };
            let file =
                |error: rustls::server::VerifierBuilderError| unreadable("certificates", path, error.to_string());
            builder.with_client_cert_verifier(verifier.map_err(file)?)
        }
    };
    // Replaced for each certificate.
    let mut base = builder.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    base.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    base.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(Error::Setup)?;
    base.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    Ok(base)
}

fn certificate(files: &CertificateFiles, base: &ServerConfig) -> Result<Certificate, Error> {
    let path = &files.certificate;
    let chain = chain(path)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unreadable("a private key", &files.key, error.to_string()))?;
    let names = names(&chain, path)?;
    let pair = CertifiedKey::from_der(chain, key, base.crypto_provider()).map_err(|source| Error::Pair {
        path: path.clone(),
        key: files.key.clone(),
        source,
    })?;
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(pair));
    let mut config = base.clone();
    config.cert_resolver = resolver;
    Ok(Certificate { names, config: Arc::new(config) })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|error| unreadable("certificates", path, error.to_string()))?;
    if chain.is_empty() { Err(unreadable("certificates", path, "there are none in it".into())) } else { Ok(chain) }
}

fn names(chain: &[CertificateDer<'_>], path: &Path) -> Result<Vec<String>, Error> {
    let leaf = webpki::EndEntityCert::try_from(&chain[0])
        .map_err(|error| unreadable("certificates", path, error.to_string()))?;
    Ok(leaf.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|error| unreadable("certificates", path, error.to_string()))?;
    }
    Ok(roots)
}

fn unreadable(what: &'static str, path: &Path, reason: String) -> Error {
    Error::File { what, path: path.to_owned(), reason }
}
