//! What a server says when it is up: where it listens, and what to try.
//!
//! Owns standard output of the servers. Knows addresses and words, and nothing
//! of what runs behind them. `app` announces once everything is bound.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

use crate::config::ServerArgs;

/// Where things listen, once they do.
pub(super) struct Bound {
    pub(super) ingress: Vec<SocketAddr>,
    pub(super) tls: Vec<SocketAddr>,
    pub(super) api: Option<SocketAddr>,
    pub(super) stream: Option<SocketAddr>,
    pub(super) admin: SocketAddr,
    pub(super) data_dir: Option<PathBuf>,
}

impl Bound {
    pub(super) fn nowhere() -> Self {
        Self {
            ingress: Vec::new(),
            tls: Vec::new(),
            api: None,
            stream: None,
            admin: super::LOOPBACK_ADMIN,
            data_dir: None,
        }
    }

    /// Every address, so that no endpoint URL leads back into Repoint.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        self.ingress.iter().chain(&self.tls).copied().chain(self.api).chain(self.stream).chain([self.admin]).collect()
    }

    /// The port in the URLs that answers show. Where the proxies run apart it is
    /// what `--ingress` says of them: 8080 unless told.
    pub(super) fn ingress_port(&self, args: &ServerArgs) -> u16 {
        self.ingress.first().or(args.ingress.first()).map_or(8080, SocketAddr::port)
    }

    /// Says so on standard output: one line each, or one JSON object.
    pub(super) fn announce(&self, args: &ServerArgs, first_steps: &[String]) {
        if args.json {
            let url = |addr: SocketAddr| format!("http://{addr}");
            let object = json!({
                "ingress": if self.ingress.is_empty() { None } else { Some(&self.ingress) },
                "tls": if self.tls.is_empty() { None } else { Some(&self.tls) },
                "api": self.api.map(url),
                "stream": self.stream.map(url),
                "admin": url(self.admin),
                "tls_ca": args.tls.authority(),
                "data_dir": self.data_dir,
            });
            return say(&[object.to_string()]);
        }
        let lines = self.ingress.iter().map(|addr| ("ingress", *addr));
        let lines = lines.chain(self.api.map(|addr| ("api", addr))).chain(self.stream.map(|addr| ("stream", addr)));
        let lines = lines.chain([("admin", self.admin)]).map(|(name, addr)| format!("{name:<8} http://{addr}"));
        let lines = self.tls.iter().map(|addr| format!("{:<8} https://{addr}", "tls")).chain(lines);
        let data_dir = self.data_dir.iter().map(|data_dir| format!("{:<8} {}", "data", data_dir.display()));
        let authority = args.tls.authority();
        let data_dir =
            data_dir.chain(authority.iter().map(|path| format!("{:<8} {} (curl --cacert)", "tls-ca", path.display())));
        say(&lines.chain(data_dir).chain(first_steps.iter().cloned()).collect::<Vec<_>>());
    }
}

/// Says lines on standard output. Whoever closed it does not want to know.
pub(super) fn say(lines: &[String]) {
    let mut output = std::io::stdout().lock();
    for line in lines {
        if writeln!(output, "{line}").is_err() {
            return;
        }
    }
}

/// What to try with the demo, as commands that work as they stand.
pub(super) fn demo_steps(port: u16, second: Option<&str>) -> Vec<String> {
    let (program, reference) = (program(), second.unwrap_or("REF"));
    vec![
        "The demo is deployed: v1 in preview, staging and production, then v2 in preview.".to_owned(),
        "Try next, in another terminal:".to_owned(),
        format!("  curl http://demo-production.localhost:{port}/                  # v1"),
        format!("  curl -H 'Host: demo-production.localhost' http://127.0.0.1:{port}/"),
        format!("  curl -N 'http://demo-production.localhost:{port}/stream?tokens=1000&delay_ms=300'"),
        format!("  {program} promote {reference} --to production -p demo --yes    # v2; the stream stays on v1"),
        format!("  {program} rollback production -p demo --yes"),
    ]
}

/// This program as it was called.
pub(super) fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "repoint".to_owned())
}
