//! What the names in endpoint URLs come to, asked once before anything is written.
//!
//! The supervisor asks again and again afterwards; here a pool gets the addresses
//! that it begins with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use uuid::Uuid;

use crate::control::Config;
use crate::model::endpoint_url::{EndpointUrl, Host, check_address};
use crate::model::pool::{Endpoint, EndpointState};

/// Names asked at once: what a resolver of one machine takes without dropping any.
const ASKED_MAX: usize = 32;

/// Longest wait for one name, as resolvers themselves have it.
const NAME_MAX: Duration = Duration::from_secs(5);

/// Addresses used of one name, as the supervisor does.
const ADDRESSES_MAX: usize = 16;

/// What names came to; an error is for people.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, Result<BTreeSet<IpAddr>, String>>);

/// Why a URL is no endpoint to begin with.
pub(super) enum NoEndpoint {
    /// This name was not asked for yet.
    Unresolved(String),
    /// For people.
    Refused(String),
}

impl Names {
    /// Asks for each name once.
    pub async fn resolve(&mut self, names: BTreeMap<String, u64>) {
        let asked = stream::iter(names.into_keys()).map(|name| async move {
            let found = {
                let asking = tokio::net::lookup_host((name.as_str(), 0));
                let found = tokio::time::timeout(NAME_MAX, asking).await;
                found.map(|found| {
                    found.map(|found| found.map(|address| address.ip().to_canonical()).collect::<BTreeSet<_>>())
                })
            };
            let found = match found {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", NAME_MAX.as_secs())),
            };
            (name, found)
        });
        self.0.extend(asked.buffer_unordered(ASKED_MAX).collect::<Vec<_>>().await);
    }

    /// The endpoints that a URL comes to, ready because whoever imports it says so.
    pub fn endpoints(&self, url: &str, config: &Config, now: Timestamp) -> Result<Vec<Endpoint>, NoEndpoint> {
        let refused = |why: &dyn std::fmt::Display| NoEndpoint::Refused(why.to_string());
        let url = EndpointUrl::parse(url).map_err(|error| refused(&error))?;
        let addresses = match url.host() {
            Host::Address(address) => BTreeSet::from([*address]),
            Host::Name(name) => match self.0.get(name) {
                None => return Err(NoEndpoint::Unresolved(name.clone())),
                Some(Ok(addresses)) if !addresses.is_empty() => addresses.clone(),
                Some(Ok(_)) => return Err(NoEndpoint::Refused(format!("{name} has no address"))),
                Some(Err(error)) => return Err(NoEndpoint::Refused(format!("{name} does not resolve: {error}"))),
            },
        };
        let endpoint = |address: IpAddr| {
            let address = SocketAddr::new(address, url.port());
            check_address(address, &config.own_listeners).map_err(|error| refused(&format!("cannot {error}")))?;
            let authority = Some(url.authority());
            let id = Uuid::now_v7().into();
            let (secure, state) = (url.is_secure(), EndpointState::Ready);
            Ok(Endpoint { id, address, authority, secure, state, pid: None, since: now })
        };
        addresses.into_iter().take(ADDRESSES_MAX).map(endpoint).collect()
    }
}
