//! The control stream, both ends side by side: what the store committed reaches
//! every proxy, and what the proxies say comes back.
//!
//! [`server`] sends what a proxy lacks and reports to `fleet` what it says;
//! [`client`] checks, applies to `routing::live` and answers. What either end
//! does next is decided by a pure [`server::session`] and [`client::session`].
//! [`last_known_good`] keeps on disk what a client has applied.
//! Refuses to know why a pointer moved or what a table is for. `app` starts both.

pub mod client;
pub mod last_known_good;
pub mod metrics;
pub mod server;
pub mod source;
pub mod token;
pub mod token_file;

pub use token::Token;

/// How this build introduces itself.
pub const BUILD: &str = concat!("repoint/", env!("CARGO_PKG_VERSION"));

/// Why the control stream cannot be served or dialled. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server ended.
    #[error("serve the control stream")]
    Serve(#[source] tonic::transport::Error),
    /// Plaintext would cross a network.
    #[error(
        "dial the control plane at {0}: the token and every address would cross the network in clear; give \
         --insecure-control if that network is trusted, or reach it through a tunnel on this machine"
    )]
    Plaintext(http::Uri),
    /// Not an address this build can dial.
    #[error("dial the control plane at {0}: give http://HOST:PORT")]
    Address(http::Uri),
    /// Not a token.
    #[error("read the control stream token: give 16 to 512 visible ASCII characters without spaces")]
    Token,
}

#[cfg(test)]
mod tests;
