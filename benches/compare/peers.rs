//! The proxies: their configurations, at equal work, and their processes.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::server::Server;
use crate::support::until;
use crate::{Ask, machine};

/// What is spoken to clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Http1,
    Tls,
    H2c,
}

/// What `--peers` may name; the first of those that are here is what the others' rates go by.
pub const NAMES: [&str; 4] = ["haproxy", "nginx", "nginx-tuned", "envoy"];

/// A running proxy.
pub struct Peer {
    pub name: String,
    pub address: SocketAddr,
    /// Whom TLS clients are to trust.
    pub authority: Option<Arc<str>>,
    process: Process,
    // Removed after the process has ended.
    _folder: TempDir,
}

enum Process {
    Repoint(Box<Server>),
    Other(Child),
}

impl Peer {
    /// Nanoseconds of processor time so far.
    pub fn cpu(&self) -> u64 {
        machine::cpu_of(match &self.process {
            Process::Repoint(server) => server.pid(),
            Process::Other(child) => child.id(),
        })
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.process {
            Process::Repoint(server) => !server.is_running(),
            Process::Other(child) => !matches!(child.try_wait(), Ok(None)),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Process::Other(child) = &mut self.process {
            // NGINX's master ends its workers when it is asked to.
            crate::support::server::signal(child.id(), "TERM");
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            // It is ours, whatever it did.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The host of an environment, and the replica behind it.
pub fn host(environment: usize) -> String {
    format!("env-{environment:07}.example.test")
}

/// What a configuration is made of.
struct Site<'a> {
    folder: &'a Path,
    port: u16,
    mode: Mode,
    environments: usize,
    replicas: &'a [u16],
    tls: &'a Tls,
}

struct Tls {
    certificate: String,
    key: String,
}

/// Starts Repoint and the peers that are here.
pub fn start(ask: &Ask, mode: Mode, replicas: &[u16]) -> Result<Vec<Peer>, String> {
    let hosts = ["*.example.test".to_owned()];
    let made = rcgen::generate_simple_self_signed(hosts).map_err(|error| format!("make a certificate: {error}"))?;
    let tls = Tls { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() };
    let mut peers = Vec::new();
    machine::pin_to(machine::PROXY_CORE)?;
    for name in &ask.peers {
        let Some(binary) = binary_of(name) else {
            eprintln!("{name} is not here, and is left out");
            continue;
        };
        let folder = tempfile::tempdir().map_err(|error| format!("make a folder: {error}"))?;
        let port = free_port();
        let site = Site { folder: folder.path(), port, mode, environments: ask.environments, replicas, tls: &tls };
        let child = site.start(name, &binary)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let log = site.path("log");
        let mut peer = Peer {
            name: name.clone(),
            address,
            authority: Some(tls.certificate.as_str().into()),
            process: Process::Other(child),
            _folder: folder,
        };
        let listens = until(&format!("{name} to listen or to end"), || match TcpStream::connect(address) {
            Ok(_) => Some(true),
            Err(_) if peer.has_ended() => Some(false),
            Err(_) => None,
        });
        if !listens {
            return Err(format!("{name} ended: {}", std::fs::read_to_string(log).unwrap_or_default()));
        }
        peers.push(peer);
    }
    peers.push(repoint(ask, mode, replicas, &tls)?);
    machine::pin_to(machine::LOAD_CORE)?;
    Ok(peers)
}

fn free_port() -> u16 {
    // Free a moment ago; peers cannot be given a socket.
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port on loopback").port()
}

fn binary_of(name: &str) -> Option<PathBuf> {
    let binary = name.split('-').next().unwrap_or(name);
    let own = std::env::var_os(binary.to_ascii_uppercase()).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    own.into_iter().chain(folders.map(|folder| folder.join(binary))).find(|path| path.is_file())
}

/// All of it: control plane, API, metrics, limits, claims; the environments come by REST.
fn repoint(ask: &Ask, mode: Mode, replicas: &[u16], tls: &Tls) -> Result<Peer, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("make a folder: {error}"))?;
    write(&folder.path().join("tls.crt"), &tls.certificate)?;
    write(&folder.path().join("tls.key"), &tls.key)?;
    let path = folder.path().to_str().unwrap_or_default();
    let mut arguments = vec!["--threads", "1"];
    if mode == Mode::Tls {
        arguments.extend(["--tls-listen", "127.0.0.1:0", "--tls-certificates", path]);
    }
    let server = Server::up_from(&ask.repoint, &arguments);
    import(&server, ask.environments, replicas)?;
    let address = if mode == Mode::Tls { server.address_of("tls") } else { server.ingress() };
    let authority = Some(tls.certificate.as_str().into());
    Ok(Peer {
        name: "repoint".to_owned(),
        address,
        authority,
        process: Process::Repoint(Box::new(server)),
        _folder: folder,
    })
}

fn import(server: &Server, environments: usize, replicas: &[u16]) -> Result<(), String> {
    let reference = |k: usize| format!("pbbbbbb{}", char::from(b"bcdfghjkmnpqrstvwxyz"[k]));
    let mut lines = json!({ "kind": "project", "name": "compare" }).to_string() + "\n";
    for (k, port) in replicas.iter().enumerate() {
        let source = json!({ "kind": "endpoints", "endpoints": [format!("http://127.0.0.1:{port}")] });
        let line = json!({ "kind": "deployment", "project": "compare", "ref": reference(k), "source": source });
        let _ = writeln!(lines, "{line}");
    }
    for n in 0..environments {
        let name = format!("e{n}");
        let line = json!({ "kind": "environment", "project": "compare", "name": name, "hosts": [host(n)] });
        let _ = writeln!(lines, "{line}");
        let pointer = reference(n % replicas.len());
        let line = json!({ "kind": "pointer", "project": "compare", "environment": name, "ref": pointer });
        let _ = writeln!(lines, "{line}");
    }
    let api = server.api();
    api.import(&lines);
    let list = |path: &str| api.get(path).ok()["items"].as_array().cloned().unwrap_or_default();
    let project = text(&list("/api/v1/projects")[0]["id"]);
    let known = list(&format!("/api/v1/deployments?project_id={project}"));
    let id = |k: usize| known.iter().find(|made| made["ref"] == reference(k).as_str()).map(|made| text(&made["id"]));
    let first = list(&format!("/api/v1/environments?project_id={project}&limit=50"));
    let first = first.iter().find(|made| made["name"] == "e0").ok_or("the import has no environment e0")?;
    // Each is promoted once: the first move to a deployment waits until it was probed.
    for k in (0..replicas.len()).chain([0]) {
        let body = json!({ "source_deployment_id": id(k), "target_environment_id": first["id"], "wait_ms": 10_000 });
        api.post("/api/v1/deployments/promote", &body).ok();
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("write {}: {error}", path.display()))
}

impl Site<'_> {
    fn start(&self, name: &str, binary: &Path) -> Result<Child, String> {
        write(&self.path("cert.pem"), &self.tls.certificate)?;
        write(&self.path("key.pem"), &self.tls.key)?;
        write(&self.path("both.pem"), &format!("{}{}", self.tls.certificate, self.tls.key))?;
        let mut command = Command::new(binary);
        match name {
            "haproxy" => {
                write(&self.path("haproxy.cfg"), &self.haproxy()?)?;
                command.arg("-db").arg("-f").arg(self.path("haproxy.cfg"));
            }
            "nginx" | "nginx-tuned" => {
                write(&self.path("nginx.conf"), &self.nginx(name == "nginx-tuned")?)?;
                command.arg("-p").arg(self.folder).arg("-c").arg(self.path("nginx.conf"));
            }
            "envoy" => {
                write(&self.path("envoy.json"), &self.envoy().to_string())?;
                command.arg("-c").arg(self.path("envoy.json"));
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
            }
            other => return Err(format!("{other} is not known; there are {}", NAMES.join(", "))),
        }
        let log = std::fs::File::create(self.path("log")).map_err(|error| format!("make a log: {error}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().map_err(|error| format!("start {}: {error}", binary.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A line for each environment: its host, and what it leads to.
    fn map(&self, end: &str) -> String {
        let line = |n| format!("{} dep{}{end}\n", host(n), n % self.replicas.len());
        (0..self.environments).map(line).collect()
    }

    fn haproxy(&self) -> Result<String, String> {
        write(&self.path("hosts.map"), &self.map(""))?;
        let (map, port) = (self.shown("hosts.map"), self.port);
        let bind = match self.mode {
            Mode::Http1 => String::new(),
            Mode::H2c => "proto h2".to_owned(),
            Mode::Tls => format!("ssl crt {} alpn h2,http/1.1 ssl-min-ver TLSv1.3", self.shown("both.pem")),
        };
        let proto = if self.mode == Mode::Tls { "https" } else { "http" };
        let mut text = format!(
            "global\n nbthread 1\n maxconn 4000\n tune.h2.max-concurrent-streams 1000\n\
             defaults\n mode http\n option http-keep-alive\n no log\n option forwardfor\n unique-id-format %[uuid()]\n \
             timeout connect 5s\n timeout client 600s\n timeout server 600s\n timeout http-keep-alive 600s\n\
             frontend f\n bind 127.0.0.1:{port} backlog 4096 {bind}\n maxconn 4000\n \
             http-request set-header X-Forwarded-Proto {proto}\n http-request set-header Via \"1.1 compare\"\n \
             unique-id-header X-Request-Id\n use_backend %[req.hdr(host),field(1,:),lower,map_str({map})]\n"
        );
        for (k, port) in self.replicas.iter().enumerate() {
            let _ = writeln!(
                text,
                "backend dep{k}\n http-reuse always\n server s 127.0.0.1:{port} pool-max-conn 512 pool-purge-delay 300s"
            );
        }
        Ok(text)
    }

    fn nginx(&self, tuned: bool) -> Result<String, String> {
        write(&self.path("map.conf"), &self.map(";"))?;
        let folder = self.folder.display();
        let (listen, tls) = match self.mode {
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
        let hash = (2 * self.environments).next_power_of_two().max(2_048);
        let mut upstreams = String::new();
        for (k, port) in self.replicas.iter().enumerate() {
            let _ = writeln!(
                upstreams,
                "upstream dep{k} {{ server 127.0.0.1:{port}; keepalive 256; keepalive_requests 100000000; keepalive_timeout 300s; }}"
            );
        }
        Ok(format!(
            "worker_processes 1; pid {folder}/pid; error_log {folder}/err.log error; daemon off;\n\
             events {{ worker_connections 8000; }}\n\
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
            self.port
        ))
    }

    fn envoy(&self) -> Value {
        let address = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
        let cluster = |(k, port): (usize, &u16)| {
            let endpoint = json!({ "lb_endpoints": [{ "endpoint": { "address": address(*port) } }] });
            let name = format!("dep{k}");
            let most = json!({ "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 });
            json!({ "name": name, "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": { "thresholds": [most] },
                "load_assignment": { "cluster_name": name, "endpoints": [endpoint] } })
        };
        let environment = |n: usize| {
            let route = json!({ "cluster": format!("dep{}", n % self.replicas.len()), "timeout": "0s" });
            json!({ "name": format!("e{n}"), "domains": [host(n)], "routes": [{ "match": { "prefix": "/" }, "route": route }] })
        };
        let extension = "type.googleapis.com/envoy.extensions";
        let router = format!("{extension}.filters.http.router.v3.Router");
        let manager = json!({
            "@type": format!("{extension}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "x", "codec_type": "AUTO", "use_remote_address": true, "generate_request_id": true,
            "http2_protocol_options": { "max_concurrent_streams": 1_000 },
            "http_filters": [{ "name": "router", "typed_config": { "@type": router, "suppress_envoy_headers": true, "dynamic_stats": false } }],
            "route_config": {
                "name": "r", "ignore_port_in_host_matching": true,
                "virtual_hosts": (0..self.environments).map(environment).collect::<Vec<_>>(),
                "request_headers_to_add": [{ "header": { "key": "via", "value": "1.1 compare" } }],
            },
        });
        let mut chain = json!({ "filters": [{ "name": "hcm", "typed_config": manager }] });
        if self.mode == Mode::Tls {
            let file = |name| json!({ "filename": self.shown(name) });
            let versions =
                json!({ "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" });
            let certificates = json!([{ "certificate_chain": file("cert.pem"), "private_key": file("key.pem") }]);
            chain["transport_socket"] = json!({ "name": "tls", "typed_config": {
                "@type": format!("{extension}.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": { "alpn_protocols": ["h2", "http/1.1"], "tls_params": versions, "tls_certificates": certificates },
            } });
        }
        let listener = json!({ "name": "l", "address": address(self.port), "filter_chains": [chain] });
        let clusters: Vec<_> = self.replicas.iter().enumerate().map(cluster).collect();
        json!({ "node": { "id": "n", "cluster": "c" }, "static_resources": { "listeners": [listener], "clusters": clusters } })
    }
}
