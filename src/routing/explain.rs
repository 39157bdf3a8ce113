//! Explaining a resolve: what an address matched, and by what, besides where it
//! leads.
//!
//! For people who ask; requests only want the answer and use
//! [`Table::resolve`]. Decides nothing: it asks the same table the same things.

use std::sync::Arc;

use crate::model::revision::Revision;
use crate::routing::address::{Address, Folded};
use crate::routing::route::EnvironmentRoute;
use crate::routing::table::{Resolved, Table, Unresolved};

/// What an address leads to, and how.
pub struct Explained<'t> {
    /// What it matched; also where nothing serves it.
    pub matched: Option<(&'t Arc<EnvironmentRoute>, Way)>,
    /// What a request would get.
    pub resolved: Result<Resolved<'t>, Unresolved>,
}

/// By what an environment was matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// One of its hosts.
    Host,
    /// A wildcard among its hosts.
    Wildcard,
    /// The host of a deployment.
    DeploymentHost,
    /// Project and environment, named by headers on a shared host.
    Headers,
}

impl Way {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Wildcard => "wildcard",
            Self::DeploymentHost => "deployment_host",
            Self::Headers => "headers",
        }
    }
}

impl Table {
    /// The revision it shows; `None` before the first table.
    pub fn loaded_revision(&self) -> Option<Revision> {
        self.settings.is_some().then_some(self.revision)
    }

    /// What this address leads to here, and how.
    pub fn explain(&self, address: &Address<'_>) -> Explained<'_> {
        Explained { matched: self.way(address), resolved: self.resolve(address) }
    }

    fn way(&self, address: &Address<'_>) -> Option<(&Arc<EnvironmentRoute>, Way)> {
        let (settings, host) = (self.settings.as_deref()?, Folded::host(address.host)?);
        let (environment, named) = self.matched(settings, &host, address).ok()?;
        let way = if named.is_some() {
            Way::DeploymentHost
        } else if self.environments.by_host(host.as_bytes()).is_some() {
            Way::Host
        } else if self.shared_hosts.contains(host.as_bytes()) {
            Way::Headers
        } else {
            Way::Wildcard
        };
        Some((environment, way))
    }
}
