//! HAProxy: hosts by a map, connections to replicas reused by all, one thread.

use std::fmt::Write as _;

use super::Mode;
use super::site::{CONNECTIONS_MAX, Site};

/// Its settings, and the map of hosts beside them.
pub fn settings(site: &Site) -> Result<String, String> {
    site.write("hosts.map", &site.map(""))?;
    let (map, port) = (site.shown("hosts.map"), site.port);
    let bind = match site.mode {
        Mode::Http1 => String::new(),
        Mode::H2c => "proto h2".to_owned(),
        Mode::Tls => format!("ssl crt {} alpn h2,http/1.1 ssl-min-ver TLSv1.3", site.shown("both.pem")),
    };
    let proto = if site.mode == Mode::Tls { "https" } else { "http" };
    let mut text = format!(
        "global\n nbthread 1\n maxconn {CONNECTIONS_MAX}\n no strict-limits\n tune.h2.max-concurrent-streams 1000\n\
         defaults\n mode http\n option http-keep-alive\n no log\n option forwardfor\n unique-id-format %[uuid()]\n \
         timeout connect 5s\n timeout client 600s\n timeout server 600s\n timeout http-keep-alive 600s\n\
         frontend f\n bind 127.0.0.1:{port} backlog 4096 {bind}\n maxconn {CONNECTIONS_MAX}\n \
         http-request set-header X-Forwarded-Proto {proto}\n http-request set-header Via \"1.1 compare\"\n \
         unique-id-header X-Request-Id\n use_backend %[req.hdr(host),field(1,:),lower,map_str({map})]\n"
    );
    for (k, port) in site.replicas.iter().enumerate() {
        let _ = writeln!(
            text,
            "backend dep{k}\n http-reuse always\n server s 127.0.0.1:{port} pool-max-conn 512 pool-purge-delay 300s"
        );
    }
    Ok(text)
}
