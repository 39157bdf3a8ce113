//! The routing table: what a request resolves to, as one immutable value.
//!
//! Owns matching and resolution. Knows nothing of sockets, clocks or who moved
//! a pointer. [`live::Reader`](crate::routing::live::Reader) reads it once per
//! request; [`live::Live`](crate::routing::live::Live) replaces it whole and
//! never edits it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::change::SettingsRecord;
use crate::model::policy::Door;
use crate::model::revision::Revision;
use crate::routing::address::{Address, DeploymentHost, Folded};
use crate::routing::index::Index;
use crate::routing::route::{EnvironmentRoute, PoolRoute};
use crate::routing::slots::Slots;

/// What every request resolves to, as of one revision. Cloning shares.
#[derive(Clone)]
pub struct Table {
    pub(super) revision: Revision,
    /// Absent until the first table is in: without one, "not found" would be
    /// said out of ignorance (invariant 7).
    pub(super) settings: Option<Arc<SettingsRecord>>,
    pub(super) shared_hosts: Arc<HashSet<Box<[u8]>>>,
    /// Hosts, wildcards and `project/environment` pairs; a host holds no slash,
    /// so the kinds of key never meet.
    pub(super) index: Index,
    pub(super) environments: Slots<EnvironmentRoute>,
}

/// What a request resolved to.
#[derive(Clone)]
pub struct Resolved {
    /// The environment it addressed.
    pub environment: Arc<EnvironmentRoute>,
    /// The pool that serves it.
    pub pool: Arc<PoolRoute>,
}

/// Why a request resolves to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// No table has arrived yet.
    #[error("resolve before the first routing table has arrived")]
    TableNotLoaded,
    /// No route matches.
    #[error("find an environment for this host")]
    EnvironmentNotFound,
    /// The environment points at nothing yet.
    #[error("find a deployment: nothing has been deployed to this environment yet")]
    EnvironmentEmpty,
    /// The pinned deployment has no open pool in the environment.
    #[error("find the pinned deployment in this environment")]
    DeploymentNotFound,
    /// The deployment's host leads to no open pool.
    #[error("find an open pool behind this deployment host")]
    DeploymentNotRunning,
    /// What the environment points at was terminated.
    #[error("use the environment's deployment: it was terminated")]
    DeploymentTerminated,
}

impl Table {
    /// A table before the first one.
    pub fn empty() -> Self {
        Self {
            revision: Revision::default(),
            settings: None,
            shared_hosts: Arc::default(),
            index: Index::with_capacity(0),
            environments: Slots::default(),
        }
    }

    /// The revision it shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Matches the address to an environment and resolves that to a pool: a pin
    /// first, then what the deployment host names, then the pointer. A pin opens
    /// no door that is shut: on a deployment host it chooses among the pools of
    /// an environment whose deployment hosts lead somewhere.
    ///
    /// # Errors
    ///
    /// Why there is nothing to forward to.
    pub fn resolve(&self, address: &Address<'_>) -> Result<Resolved, Unresolved> {
        let settings = self.settings.as_deref().ok_or(Unresolved::TableNotLoaded)?;
        let host = Folded::host(address.host).ok_or(Unresolved::EnvironmentNotFound)?;
        let (environment, named) = self.matched(settings, host.as_bytes(), &host, address)?;
        let by_host = named.map(|reference| named_by_host(environment, reference)).transpose()?;
        let pool = match (address.pin, by_host) {
            (Some(pin), _) => pinned(environment, pin)?,
            (None, Some(pool)) => pool,
            (None, None) => pointed_at(environment)?,
        };
        Ok(Resolved { environment: Arc::clone(environment), pool: Arc::clone(pool) })
    }

    /// The environment that `project/environment` names.
    pub fn environment_named(&self, project: &[u8], environment: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        self.environment_at(Folded::names(project, environment)?.as_bytes())
    }

    /// The environment, and the ref where a deployment host named one.
    fn matched<'h>(
        &self,
        settings: &SettingsRecord,
        host: &'h [u8],
        folded: &Folded,
        address: &Address<'_>,
    ) -> Result<(&Arc<EnvironmentRoute>, Option<&'h [u8]>), Unresolved> {
        // The common case first; the control plane refuses custom domains that
        // look like deployment hosts, so the order cannot change an answer.
        if let Some(environment) = self.environment_at(host) {
            return Ok((environment, None));
        }
        if let Some(named) = DeploymentHost::parse(host, settings.base_domain.as_str().as_bytes()) {
            let environment = self.environment_named(named.project, named.environment);
            return Ok((environment.ok_or(Unresolved::DeploymentNotRunning)?, Some(named.reference)));
        }
        if self.shared_hosts.contains(host) {
            let names = address.project.zip(address.environment);
            let environment = names.and_then(|(project, environment)| self.environment_named(project, environment));
            return Ok((environment.ok_or(Unresolved::EnvironmentNotFound)?, None));
        }
        let wildcard = folded.wildcard().ok_or(Unresolved::EnvironmentNotFound)?;
        let environment = self.environment_at(wildcard.as_bytes());
        Ok((environment.ok_or(Unresolved::EnvironmentNotFound)?, None))
    }

    fn environment_at(&self, key: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        self.environments.get(self.index.get(key)?)
    }
}

/// A pin is honoured for an open pool of the addressed environment, or refused:
/// another build than the one asked for is never served instead.
fn pinned<'a>(environment: &'a EnvironmentRoute, pin: &[u8]) -> Result<&'a Arc<PoolRoute>, Unresolved> {
    let pool = environment.pool_of(pin).filter(|pool| pool.is_open()).ok_or(Unresolved::DeploymentNotFound)?;
    let is_current = environment.pointer == Some(pool.key.deployment);
    if environment.policy.pins == Door::Open || is_current { Ok(pool) } else { Err(Unresolved::DeploymentNotFound) }
}

fn named_by_host<'a>(environment: &'a EnvironmentRoute, reference: &[u8]) -> Result<&'a Arc<PoolRoute>, Unresolved> {
    if !environment.policy.deployment_hosts_open(environment.name.as_str()) {
        return Err(Unresolved::DeploymentNotRunning);
    }
    environment.pool_of(reference).filter(|pool| pool.is_open()).ok_or(Unresolved::DeploymentNotRunning)
}

fn pointed_at(environment: &EnvironmentRoute) -> Result<&Arc<PoolRoute>, Unresolved> {
    let pool = environment.current().ok_or(Unresolved::EnvironmentEmpty)?;
    // A pointer names a closing pool only after a forced terminate.
    if pool.is_open() { Ok(pool) } else { Err(Unresolved::DeploymentTerminated) }
}
