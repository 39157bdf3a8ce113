//! Listening sockets that were bound before this process began, by an init system
//! (`sd_listen_fds(3)`) or by a proxy that is taken over, and binding the others.
//!
//! Owns the names of sockets. One of an init system stands for its setting: what
//! is passed as `ingress` is listened on instead of `--ingress`. One of another
//! proxy stands for the same address, and is let go where that is not wanted.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use tokio::net::TcpListener;

use crate::config::ServerArgs;
use crate::handover::Passed;
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
pub(super) struct Sockets(Vec<Passed>);

impl From<Vec<Passed>> for Sockets {
    fn from(passed: Vec<Passed>) -> Self {
        Self(passed)
    }
}

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
            let failed = || format!("listen on the socket {name:?}");
            let Some(listener) = passed.take_tcp_listener(index).with_context(failed)? else { continue };
            let asked = listener.local_addr().with_context(failed)?;
            sockets.push(Passed { name: name.to_owned(), asked, is_fixed: true, listener });
        }
        Ok(Self(sockets))
    }

    /// Those on which requests arrive. The settings are changed to what these
    /// are, where an init system has decided.
    pub(super) fn ingress(&mut self, args: &mut ServerArgs) -> Vec<Given> {
        let mut given = Vec::new();
        for (name, encrypted) in [(INGRESS, false), (TLS, true)] {
            let mut fixed = Vec::new();
            for Passed { asked, is_fixed, listener, .. } in self.0.extract_if(.., |passed| passed.name == name) {
                if is_fixed && !fixed.contains(&asked) {
                    fixed.push(asked);
                }
                given.push(Given { listener, asked, encrypted, is_fixed });
            }
            match (fixed.is_empty(), encrypted) {
                (true, _) => {}
                (false, false) => args.ingress = fixed,
                (false, true) => args.tls.listen = fixed,
            }
        }
        given
    }

    /// What [`Sockets::ingress`] has taken, as it is passed on.
    pub(super) fn passed_on(given: Given) -> Passed {
        let Given { listener, asked, encrypted, is_fixed } = given;
        Passed { name: (if encrypted { TLS } else { INGRESS }).to_owned(), asked, is_fixed, listener }
    }

    /// Whether an init system has bound what has this name.
    pub(super) fn is_fixed(&self, name: &str) -> bool {
        self.0.iter().any(|passed| passed.name == name && passed.is_fixed)
    }

    /// The socket of that name, or one that is bound to `addr`.
    pub(super) async fn listen(&mut self, name: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
        let is_there =
            |passed: &Passed| passed.asked == addr || passed.listener.local_addr().is_ok_and(|at| at == addr);
        let is_it = |passed: &Passed| passed.name == name && (passed.is_fixed || is_there(passed));
        let Some(at) = self.0.iter().position(is_it) else {
            let taken = || {
                format!(
                    "listen on {addr}: if another process has it, stop that one or give another --{name} (port 0 picks \
                     a free one)"
                )
            };
            return TcpListener::bind(addr).await.with_context(taken);
        };
        let Passed { listener, .. } = self.0.remove(at);
        listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)).context("listen")
    }

    /// To be called when everything listens.
    pub(super) fn none_left(&self) -> anyhow::Result<()> {
        match self.0.iter().find(|passed| passed.is_fixed) {
            None => Ok(()),
            Some(Passed { name, .. }) => {
                bail!("use the socket {name:?} that the init system passes: nothing here listens on it")
            }
        }
    }
}
