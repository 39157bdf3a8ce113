//! TLS towards clients: which certificate a connection gets.
//!
//! Certificates are chosen by SNI: an exact name, then a wildcard of one label,
//! both from the certificates themselves (RFC 6066 §3, RFC 9525 §6.3). `files`
//! says which files there are, `read` makes certificates of them, `collection`
//! keeps them, and `watch` looks again when files change; `authority` makes them
//! for who tries things out. Knows nothing of
//! requests; the handshake itself is `downstream`'s.

pub(super) mod authority;
mod collection;
mod files;
mod metrics;
mod read;
mod validity;
pub(super) mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use hashbrown::HashMap;
use jiff::Timestamp;
use rustls::ServerConfig;

use crate::ingress::config::Tls;
use crate::ingress::tls::authority::Minting;
use crate::ingress::tls::collection::Collection;
use crate::ingress::tls::validity::Validity;

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
    /// A folder cannot be read, or holds no certificate with its key.
    #[error(
        "read certificates from the folder {path}: {reason}; put name.pem or name.crt there, each with its key in it or \
         in name.key beside it"
    )]
    Folder {
        /// Which folder.
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
    /// Clients refuse it.
    #[error("use the certificate {path}: it has expired at {not_after}; renew it")]
    Expired {
        /// Its file.
        path: PathBuf,
        /// Until when it was good.
        not_after: Timestamp,
    },
    /// The authority of self-signed certificates cannot be kept or used.
    #[error(
        "use the authority of self-signed certificates {path}: {reason}; where it is damaged, remove tls-ca.key and \
         tls-ca.pem there, and the next start makes another, which clients have to be given anew"
    )]
    Authority {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings that contradict each other.
    #[error("use the settings of [tls]: {0}")]
    Settings(&'static str),
    /// The cryptography refuses to start.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// Everything that is wrong with these settings and the files they name.
pub(super) fn check(tls: &Tls) -> Vec<Error> {
    if tls.certificates.is_empty() && !tls.self_signed {
        return vec![collection::NO_CERTIFICATE];
    }
    Collection::problems(tls)
}

/// The certificates that are served now: read once by each handshake, replaced
/// whole when files have changed. Connections keep what they began with.
#[derive(Debug)]
pub(super) struct Served(ArcSwap<Certificates>);

impl Served {
    fn new(certificates: Certificates) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(certificates)))
    }

    fn replace(&self, certificates: Certificates) {
        self.0.store(Arc::new(certificates));
    }

    fn now(&self) -> Guard<Arc<Certificates>> {
        self.0.load()
    }

    /// What a client that names this host is shown; see [`Certificates::choose`].
    pub(super) fn choose(&self, name: Option<&str>) -> Option<Arc<Certificate>> {
        self.now().choose(name)
    }
}

/// A certificate that is served, and the names it is good for.
pub(super) struct Certificate {
    /// Its file.
    path: PathBuf,
    names: Vec<String>,
    validity: Validity,
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

    /// The same, with other settings around it.
    fn under(&self, base: &ServerConfig) -> Self {
        let mut config = base.clone();
        config.cert_resolver = Arc::clone(&self.config.cert_resolver);
        Self { path: self.path.clone(), names: self.names.clone(), validity: self.validity, config: Arc::new(config) }
    }

    /// Why it is of no use, where its time is over.
    fn expired(&self, now: Timestamp) -> Option<Error> {
        let not_after = self.validity.not_after;
        (not_after <= now).then(|| Error::Expired { path: self.path.clone(), not_after })
    }

    /// Says that it ends, or has ended.
    fn warn(&self, now: Timestamp) {
        let (path, not_after) = (self.path.display(), self.validity.not_after);
        let names = self.names.join(" ");
        if not_after <= now {
            tracing::error!(%path, %names, %not_after, "a certificate has expired, and clients refuse it; renew it");
        } else {
            tracing::warn!(%path, %names, %not_after, "a certificate expires soon; renew it");
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("path", &self.path).field("names", &self.names).finish_non_exhaustive()
    }
}

/// All certificates, by name.
#[derive(Debug)]
struct Certificates {
    all: Vec<Arc<Certificate>>,
    by_name: HashMap<String, Arc<Certificate>>,
    default: Option<Arc<Certificate>>,
    /// Makes those that are not among them.
    minting: Option<Minting>,
}

impl Certificates {
    /// Of two that have a name, the first gets it.
    fn new(all: Vec<Arc<Certificate>>, default: Option<&PathBuf>, minting: Option<Minting>) -> Self {
        let mut by_name = HashMap::new();
        for certificate in &all {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_insert_with(|| Arc::clone(certificate));
            }
        }
        let default = default.and_then(|path| all.iter().find(|certificate| certificate.path == *path)).cloned();
        Self { all, by_name, default, minting }
    }

    /// The certificate for the host that the client named: exact, then a
    /// wildcard of one label; for a client that named none, the default. Never
    /// the default for another host: no request on it could be answered. Where
    /// there is none, one is made, if that is wanted.
    fn choose(&self, name: Option<&str>) -> Option<Arc<Certificate>> {
        let name = name.map(str::to_ascii_lowercase);
        let name = name.as_deref();
        let kept = name.map_or(self.default.as_ref(), |name| self.named(name)).cloned();
        kept.or_else(|| self.minting.as_ref()?.mint(name))
    }

    fn named(&self, name: &str) -> Option<&Arc<Certificate>> {
        let wildcard = || self.by_name.get(format!("*.{}", name.split_once('.')?.1).as_str());
        self.by_name.get(name).or_else(wildcard)
    }
}
