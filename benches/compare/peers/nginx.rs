//! NGINX: hosts by a map, kept connections to replicas, one worker; as it comes, and tuned.

use std::fmt::Write as _;

use super::Mode;
use super::site::{CONNECTIONS_MAX, Site};

/// Its settings; tuned, with buffers for large bodies.
pub fn settings(site: &Site, tuned: bool) -> Result<String, String> {
    site.write("map.conf", &site.map(";"))?;
    let folder = site.folder.display();
    // Of clients and replicas together.
    let worker_connections = CONNECTIONS_MAX + 4_000;
    let (listen, tls) = match site.mode {
        Mode::Http1 => ("", String::new()),
        Mode::H2c => (" http2", String::new()),
        Mode::Tls => (
            " ssl http2",
            format!(
                "ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3; \
                 ssl_session_tickets on; ssl_session_cache shared:S:10m;"
            ),
        ),
    };
    let buffers = if tuned {
        "proxy_buffer_size 16k; proxy_buffers 16 16k; proxy_busy_buffers_size 64k; proxy_request_buffering off; \
         client_body_buffer_size 64k;"
    } else {
        ""
    };
    let hash = (2 * site.environments).next_power_of_two().max(2_048);
    let mut upstreams = String::new();
    for (k, port) in site.replicas.iter().enumerate() {
        let _ = writeln!(
            upstreams,
            "upstream dep{k} {{ server 127.0.0.1:{port}; keepalive 256; keepalive_requests 100000000; keepalive_timeout 300s; }}"
        );
    }
    Ok(format!(
        "worker_processes 1; pid {folder}/pid; error_log {folder}/err.log error; daemon off;\n\
         events {{ worker_connections {worker_connections}; }}\n\
         http {{ access_log off; map_hash_max_size {hash}; map_hash_bucket_size 128; keepalive_requests 100000000; \
         keepalive_timeout 600s; http2_max_concurrent_streams 1000; tcp_nodelay on; server_tokens off; client_max_body_size 0;\n\
         client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; \
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         map $host $up {{ default \"\"; include {folder}/map.conf; }}\n{upstreams}\
         server {{ listen 127.0.0.1:{}{listen} backlog=4096; {tls}\n\
         location / {{ if ($up = \"\") {{ return 404; }} proxy_pass http://$up; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; \
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header Via \"1.1 compare\"; \
         proxy_set_header X-Request-Id $request_id; proxy_max_temp_file_size 0; {buffers} }} }} }}\n",
        site.port
    ))
}
