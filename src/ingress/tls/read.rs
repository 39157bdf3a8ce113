//! From files to certificates that can be served.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ResolvesServerCert, ResolvesServerCertUsingSni, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use crate::ingress::config::{ClientCertificates, Tls};
use crate::ingress::tls::files::Pair;
use crate::ingress::tls::validity::Validity;
use crate::ingress::tls::{Certificate, Error};

/// Sessions kept for TLS 1.2 clients that do not take tickets.
const SESSIONS_MAX: usize = 4096;

/// What all certificates have in common: versions, clients, resumption. One
/// ticketer and one cache, so that a session goes on whichever core takes it.
pub(super) fn base(tls: &Tls) -> Result<ServerConfig, Error> {
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

/// Reads a certificate with its key.
pub(super) fn certificate(pair: &Pair, base: &ServerConfig) -> Result<Certificate, Error> {
    let path = &pair.certificate;
    let chain = chain(path)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key)
        .map_err(|error| unreadable("a private key", &pair.key, error.to_string()))?;
    let names = names(&chain, path)?;
    let validity = Validity::of(&chain[0])
        .ok_or_else(|| unreadable("certificates", path, "it does not say until when it is good".into()))?;
    let certified = CertifiedKey::from_der(chain, key, base.crypto_provider()).map_err(|source| Error::Pair {
        path: path.clone(),
        key: pair.key.clone(),
        source,
    })?;
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(certified));
    let mut config = base.clone();
    config.cert_resolver = resolver;
    Ok(Certificate { path: path.clone(), names, validity, config: Arc::new(config) })
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
