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
use crate::routing::environments::Environments;
use crate::routing::pool::PoolRoute;
use crate::routing::route::EnvironmentRoute;

/// What every request resolves to, as of one revision. Cloning shares.
#[derive(Clone)]
pub struct Table {
    pub(super) revision: Revision,
    /// Absent until the first table is in: without one, "not found" would be
    /// said out of ignorance (invariant 7).
    pub(super) settings: Option<Arc<SettingsRecord>>,
    pub(super) shared_hosts: Arc<HashSet<Box<[u8]>>>,
    pub(super) environments: Environments,
}

/// What a request resolved to, as long as the table is at hand.
#[derive(Clone, Copy)]
pub struct Resolved<'t> {
    /// The environment it addressed.
    pub environment: &'t Arc<EnvironmentRoute>,
    /// The pool that serves it.
    pub pool: &'t PoolRoute,
    /// Where that pool is among the environment's.
    pub(super) position: usize,
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
            environments: Environments::with_capacity(0),
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
    // Into its caller: the way to the caller and back, and an address that has to
    // lie in memory, would be a tenth of it.
    #[inline(always)]
    pub fn resolve(&self, address: &Address<'_>) -> Result<Resolved<'_>, Unresolved> {
        // Nearly every host arrives as it is kept: in lower case, without a port.
        // Only what is found nowhere like that is folded.
        match (self.environments.by_host(address.host), address.pin) {
            (Some(environment), None) => pointed_at(environment),
            (Some(environment), Some(pin)) => pinned(environment, pin),
            (None, _) => self.resolve_folded(address),
        }
    }

    /// Apart from [`Table::resolve`], whose stack it would make large.
    #[inline(never)]
    fn resolve_folded(&self, address: &Address<'_>) -> Result<Resolved<'_>, Unresolved> {
        let settings = self.settings.as_deref().ok_or(Unresolved::TableNotLoaded)?;
        let host = Folded::host(address.host).ok_or(Unresolved::EnvironmentNotFound)?;
        let (environment, named) = self.matched(settings, &host, address)?;
        let by_host = named.map(|reference| named_by_host(environment, reference)).transpose()?;
        match (address.pin, by_host) {
            (Some(pin), _) => pinned(environment, pin),
            (None, Some(resolved)) => Ok(resolved),
            (None, None) => pointed_at(environment),
        }
    }

    /// Takes settings over.
    pub(super) fn set_settings(&mut self, settings: SettingsRecord) {
        let hosts = std::iter::once(&settings.base_domain).chain(&settings.shared_hosts);
        self.shared_hosts = Arc::new(hosts.map(|host| host.as_str().as_bytes().into()).collect());
        self.settings = Some(Arc::new(settings));
    }

    /// The environment, and the ref where a deployment host named one.
    pub(super) fn matched<'h>(
        &self,
        settings: &SettingsRecord,
        folded: &'h Folded,
        address: &Address<'_>,
    ) -> Result<(&Arc<EnvironmentRoute>, Option<&'h [u8]>), Unresolved> {
        let host = folded.as_bytes();
        // The common case first; the control plane refuses custom domains that
        // look like deployment hosts, so the order cannot change an answer.
        if let Some(environment) = self.environments.by_host(host) {
            return Ok((environment, None));
        }
        if let Some(named) = DeploymentHost::parse(host, settings.base_domain.as_str().as_bytes()) {
            let environment = self.environments.by_names(named.project, named.environment);
            return Ok((environment.ok_or(Unresolved::DeploymentNotRunning)?, Some(named.reference)));
        }
        if self.shared_hosts.contains(host) {
            let names = address.project.zip(address.environment);
            let environment = names.and_then(|(project, environment)| self.environments.by_names(project, environment));
            return Ok((environment.ok_or(Unresolved::EnvironmentNotFound)?, None));
        }
        let wildcard = folded.wildcard().ok_or(Unresolved::EnvironmentNotFound)?;
        let environment = self.environments.by_host(wildcard.as_bytes());
        Ok((environment.ok_or(Unresolved::EnvironmentNotFound)?, None))
    }
}

/// A pin is honoured for an open pool of the addressed environment, or refused:
/// another build than the one asked for is never served instead.
#[inline(never)]
fn pinned<'t>(environment: &'t Arc<EnvironmentRoute>, pin: &[u8]) -> Result<Resolved<'t>, Unresolved> {
    let resolved = open_pool(environment, pin).ok_or(Unresolved::DeploymentNotFound)?;
    let is_current = environment.pointer() == Some(resolved.pool.key.deployment);
    if environment.policy.pins == Door::Open || is_current { Ok(resolved) } else { Err(Unresolved::DeploymentNotFound) }
}

fn named_by_host<'t>(environment: &'t Arc<EnvironmentRoute>, reference: &[u8]) -> Result<Resolved<'t>, Unresolved> {
    if !environment.policy.deployment_hosts_open(environment.name()) {
        return Err(Unresolved::DeploymentNotRunning);
    }
    open_pool(environment, reference).ok_or(Unresolved::DeploymentNotRunning)
}

fn open_pool<'t>(environment: &'t Arc<EnvironmentRoute>, id_or_ref: &[u8]) -> Option<Resolved<'t>> {
    let position = environment.position_of(id_or_ref)?;
    let pool = environment.pool(position).filter(|pool| pool.is_open())?;
    Some(Resolved { environment, pool, position })
}

#[inline]
fn pointed_at(environment: &Arc<EnvironmentRoute>) -> Result<Resolved<'_>, Unresolved> {
    let pool = environment.current().ok_or(Unresolved::EnvironmentEmpty)?;
    // A pointer names a closing pool only after a forced terminate.
    if !pool.is_open() {
        return Err(Unresolved::DeploymentTerminated);
    }
    Ok(Resolved { environment, pool, position: EnvironmentRoute::CURRENT })
}
