//! Who is at the other end of a connection: an address, and over TLS the name it proved.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::routing::pool::EndpointRoute;

/// What connections are kept by. One address may prove several names, and a
/// connection that has proved one of them says nothing of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Its `host:port`, where it is reached over TLS.
    pub(super) secure: Option<Arc<String>>,
}

impl Peer {
    /// Of an endpoint.
    pub(super) fn of(endpoint: &EndpointRoute) -> Self {
        let secure = endpoint.authority.as_ref().filter(|_| endpoint.secure).map(Arc::clone);
        Self { address: endpoint.address, secure }
    }
}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Nearly always enough to tell them apart.
        self.address.hash(state);
    }
}
