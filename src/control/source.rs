//! What a deployment is made from, judged before anything is stored.

use std::net::SocketAddr;

use crate::control::error::{Error, Noun};
use crate::model::deployment::Source;
use crate::model::endpoint_url::check_endpoint;
use crate::model::manifest::{Manifest, is_path};
use crate::rest::deployments::CreateSource;
use crate::store::Transaction;

/// Endpoints of one deployment. More want a load balancer of their own in front.
const ENDPOINTS_MAX: usize = 64;

/// What a deployment is made from, checked as far as can be without trying it.
pub(super) async fn source(
    tx: &mut Transaction,
    asked: CreateSource,
    own_listeners: &[SocketAddr],
) -> Result<Source, Error> {
    match asked {
        CreateSource::Bundle { digest } => {
            let bundle = tx.bundle(&digest).await?.ok_or_else(|| Error::not_found(Noun::Bundle, &digest))?;
            // It was checked when it was uploaded; a newer build may still read it differently.
            let manifest = Manifest::parse(&bundle.manifest_toml).map_err(|e| Error::BundleInvalid(e.to_string()))?;
            Ok(Source::Bundle { digest, manifest })
        }
        asked @ CreateSource::Endpoints { .. } => outside(asked, own_listeners),
        CreateSource::Image { .. } => Err(Error::NotYetSupported(
            "image sources are not supported yet; deploy a bundle, or endpoints that something else runs",
        )),
    }
}

/// Endpoints that something else runs, or the refusal of what is no endpoints.
pub(super) fn outside(asked: CreateSource, own_listeners: &[SocketAddr]) -> Result<Source, Error> {
    match asked {
        CreateSource::Endpoints { endpoints, protocol, health_path, host } => {
            if !(1..=ENDPOINTS_MAX).contains(&endpoints.len()) {
                return Err(Error::Invalid(format!("source.endpoints: give 1 to {ENDPOINTS_MAX} URLs")));
            }
            for url in &endpoints {
                let checked = check_endpoint(url, own_listeners);
                checked.map_err(|error| Error::Invalid(format!("source.endpoints: cannot {error}")))?;
            }
            if let Some(path) = health_path.as_deref().filter(|path| !is_path(path)) {
                let path: String = path.chars().take(64).collect();
                return Err(Error::Invalid(format!(
                    "source.health_path: {path:?} must start with / and hold visible ASCII only"
                )));
            }
            Ok(Source::Endpoints { endpoints, protocol, health_path, host })
        }
        CreateSource::Bundle { .. } | CreateSource::Image { .. } => {
            Err(Error::Invalid("source.kind: only endpoints can be given here".to_owned()))
        }
    }
}
