//! TLS towards replicas: who vouches for them, and the handshake.
//!
//! Used by `ingress` for requests and by `worker` for probes, so that a replica
//! that is ready is one that requests can reach. A replica proves the name in its
//! endpoint's URL (RFC 9525), to the authorities in the files that are given or,
//! without any, to those that the system trusts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::model::endpoint_url::host_of;
use crate::model::manifest::Protocol;

/// How connections to replicas are secured.
#[derive(Clone, Debug)]
pub struct ReplicaTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    configs: OnceCell<Configs>,
}

/// One for each protocol: a client says beforehand what it speaks (RFC 7301).
#[derive(Debug)]
struct Configs {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

/// Why the authorities cannot be used. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file holds no certificates that could vouch for anybody.
    #[error("read the authorities of --replica-ca from {path}: {reason}; give a PEM file of CA certificates")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library refuses its own settings.
    #[error("set up TLS towards replicas: {0}")]
    Setup(#[source] rustls::Error),
}

impl ReplicaTls {
    /// Trusts the authorities in `files`, which are read now; without files those
    /// of the system, which are read when they are first needed.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or holds no certificate of an authority.
    pub fn new(files: &[PathBuf]) -> Result<Self, Error> {
        if files.is_empty() {
            return Ok(Self::default());
        }
        let mut roots = RootCertStore::empty();
        for path in files {
            add(path, &mut roots).map_err(|reason| Error::File { path: path.clone(), reason })?;
        }
        let configs = Configs::new(roots).map_err(Error::Setup)?;
        Ok(Self(Arc::new(Inner { configs: OnceCell::new_with(Some(configs)) })))
    }

    /// Shakes hands over `stream` with the replica that is known as `authority`,
    /// its `host:port`. The caller limits the time.
    ///
    /// # Errors
    ///
    /// When the replica does not prove its name, or does not speak `protocol`.
    pub async fn connect(
        &self,
        stream: TcpStream,
        authority: &str,
        protocol: Protocol,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host_of(authority).to_owned()).map_err(io::Error::other)?;
        let configs = self.0.configs.get_or_try_init(of_system).await?;
        let config = match protocol {
            Protocol::Http1 => &configs.http1,
            Protocol::H2c => &configs.http2,
        };
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol();
        if protocol == Protocol::H2c && agreed != Some(HTTP2) {
            return Err(io::Error::other("the replica does not offer HTTP/2 over TLS (ALPN h2)"));
        }
        Ok(stream)
    }
}

impl Default for ReplicaTls {
    /// Trusts whom the system trusts.
    fn default() -> Self {
        Self(Arc::new(Inner { configs: OnceCell::new() }))
    }
}

const HTTP2: &[u8] = b"h2";

impl Configs {
    fn new(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let speaking = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            // A memory of sessions each: one of the other protocol is of no use.
            config.resumption = Resumption::default();
            Arc::new(config)
        };
        Ok(Self { http1: speaking(b"http/1.1"), http2: speaking(HTTP2) })
    }
}

/// The system's authorities; reading them takes a while, and is done elsewhere.
async fn of_system() -> io::Result<Configs> {
    let read = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
    let found = read.await.map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(io::Error::other(format!(
            "the system trusts no certificate authority{why}; install its CA certificates, or give --replica-ca"
        )));
    }
    Configs::new(roots).map_err(io::Error::other)
}

fn add(path: &Path, roots: &mut RootCertStore) -> Result<(), String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("there are no certificates in it".to_owned());
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        let missing = folder.path().join("missing.pem");
        for path in [empty, missing] {
            let message = ReplicaTls::new(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(message.contains(path.to_str().unwrap()) && message.contains("give a PEM file"), "{message}");
        }
    }
}
