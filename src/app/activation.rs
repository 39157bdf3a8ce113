//! Listening sockets that an init system has bound (`sd_listen_fds(3)`), and
//! binding those that it has not.
//!
//! Owns the names of sockets. A socket that is passed stands for its setting:
//! what is passed as `ingress` is listened on instead of `--ingress`.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, bail};
use listenfd::ListenFd;

use crate::config::ServerArgs;
use crate::ingress::Given;

/// Requests arrive here.
const INGRESS: &str = "ingress";
/// The same with TLS.
const TLS: &str = "tls";
/// The REST API.
pub(super) const API: &str = "api";
/// Proxies connect here.
pub(super) const STREAM: &str = "stream";
/// Metrics and health.
pub(super) const ADMIN: &str = "admin";

/// Sockets that were passed and are not taken yet.
pub(super) struct Sockets(Vec<(String, TcpListener)>);

impl Sockets {
    /// What was passed to this process. Changes the environment, so that no
    /// child takes them for its own: to be called before there are threads.
    pub(super) fn passed() -> anyhow::Result<Self> {
        let mut passed = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let name = names.get(index).copied().unwrap_or_default();
            if ![INGRESS, TLS, API, STREAM, ADMIN].contains(&name) {
                bail!(
                    "use the socket {name:?} that the init system passes: set FileDescriptorName= to {INGRESS}, {TLS}, \
                     {API}, {STREAM} or {ADMIN}, in a socket unit of its own for each"
                );
            }
            let socket = passed.take_tcp_listener(index).with_context(|| format!("listen on the socket {name:?}"))?;
            sockets.extend(socket.map(|socket| (name.to_owned(), socket)));
        }
        Ok(Self(sockets))
    }

    /// Those on which requests arrive. The settings are changed to what these are.
    pub(super) fn ingress(&mut self, args: &mut ServerArgs) -> anyhow::Result<Vec<Given>> {
        let mut given = Vec::new();
        for (name, encrypted) in [(INGRESS, false), (TLS, true)] {
            let mut addresses = Vec::new();
            for (_, listener) in self.0.extract_if(.., |(passed, _)| passed == name) {
                let asked = listener.local_addr().context("ask where a passed socket listens")?;
                addresses.push(asked);
                given.push(Given { listener, asked, encrypted });
            }
            addresses.dedup();
            match (addresses.is_empty(), encrypted) {
                (true, _) => {}
                (false, false) => args.ingress = addresses,
                (false, true) => args.tls.listen = addresses,
            }
        }
        Ok(given)
    }

    /// The socket of that name, or one that is bound to `addr`.
    pub(super) async fn listen(&mut self, name: &str, addr: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
        let Some(at) = self.0.iter().position(|(passed, _)| passed == name) else {
            let taken = || {
                format!(
                    "listen on {addr}: if another process has it, stop that one or give another --{name} (port 0 picks \
                     a free one)"
                )
            };
            return tokio::net::TcpListener::bind(addr).await.with_context(taken);
        };
        let (_, listener) = self.0.remove(at);
        listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener)).context("listen")
    }

    /// To be called when everything listens.
    pub(super) fn none_left(&self) -> anyhow::Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => bail!("use the socket {name:?} that the init system passes: nothing here listens on it"),
        }
    }
}
