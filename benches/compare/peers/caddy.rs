//! Caddy: hosts by a matcher for each deployment, kept connections to replicas, one processor.

use std::fmt::Write as _;

use super::site::Site;
use super::{Mode, host};

/// Its settings. `X-Forwarded-For` and `X-Forwarded-Proto` it adds of itself.
pub fn settings(site: &Site) -> String {
    let (protocols, scheme, tls) = match site.mode {
        Mode::Http1 => ("h1", "http", String::new()),
        Mode::H2c => ("h1 h2c", "http", String::new()),
        Mode::Tls => {
            let files = format!("{} {}", site.shown("cert.pem"), site.shown("key.pem"));
            ("h1 h2", "https", format!("tls {files} {{\nprotocols tls1.3\n}}\n"))
        }
    };
    let mut text = format!(
        "{{\nadmin off\nauto_https off\nservers {{\nprotocols {protocols}\n}}\n}}\n\
         {scheme}://:{} {{\nbind 127.0.0.1\n{tls}",
        site.port
    );
    for (k, port) in site.replicas.iter().enumerate() {
        let hosts: String =
            (k..site.environments).step_by(site.replicas.len()).map(|n| format!(" {}", host(n))).collect();
        if hosts.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "@dep{k} host{hosts}\nhandle @dep{k} {{\nreverse_proxy 127.0.0.1:{port} {{\n\
             header_up Via \"1.1 compare\"\nheader_up X-Request-Id {{http.request.uuid}}\n\
             transport http {{\nversions 1.1\ncompression off\nkeepalive 300s\nkeepalive_idle_conns 4096\n\
             keepalive_idle_conns_per_host 512\n}}\n}}\n}}"
        );
    }
    text + "handle {\nrespond 404\n}\n}\n"
}
