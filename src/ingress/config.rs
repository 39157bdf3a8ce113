//! What can be set about the ingress, with its defaults beside the meaning.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::ingress::tls::authority::certificate_path;
use crate::ingress::trust::Network;
use crate::ingress::watched::EnvironmentPattern;
use crate::model::manifest::Span;
use crate::telemetry::otlp;

/// Settings of the ingress. Limits hold for this process: they are per proxy.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on; port 0 takes a free one. An IPv4 loopback address
    /// brings `[::1]` with the same port along, where the machine has it.
    pub listen: Vec<SocketAddr>,
    /// Threads, each with its own runtime, sockets and connections. `None`: as
    /// many as CPUs this process may use.
    pub threads: Option<NonZeroUsize>,
    /// Client connections in total. A further one is answered `503 overloaded`
    /// and closed.
    pub connections_max: usize,
    /// HTTP/2 requests running in total. A further one is answered `503 overloaded`.
    pub streams_max: usize,
    /// Requests, streams and tunnels running in total. A further one is answered
    /// `503 overloaded`. Threads look at their own share first: where connections
    /// are spread very unevenly, up to half more may run. An environment may have
    /// half of it, unless its own `in_flight_max` says otherwise, so that none
    /// takes everything.
    pub in_flight_max: usize,
    /// HTTP/2 requests running on one connection, as told to the client.
    pub streams_per_connection_max: u32,
    /// Bytes of a request's head; more is answered 431.
    pub head_bytes_max: u32,
    /// Header fields of a request; more is answered 431. HTTP/1 allows 100 of
    /// them whatever is set here: a larger table would cost every request.
    pub fields_max: usize,
    /// Bytes of a request's path and query; more is answered 414.
    pub uri_bytes_max: usize,
    /// Longest wait for a whole request head once its first byte is in.
    pub head_timeout: Span,
    /// How long a client connection may be kept without a request.
    pub idle_timeout: Span,
    /// How long a client may leave the peers of its request waiting: with a body
    /// that it has announced, until the answer begins (408), and with an answer of
    /// which it takes nothing (cut). 60 s, as nginx has for both; 0: for ever. A
    /// stream that is silent because the replica is, a tunnel, and the requests of
    /// gRPC, which may pause, are not meant.
    pub stall_timeout: Span,
    /// How long a connection to a replica is kept without a request. 4 s: common
    /// servers close theirs at 5 s, and whoever closes first cannot be raced.
    pub upstream_idle_timeout: Span,
    /// Connections to one replica kept without a request, in total.
    pub upstream_idle_max: usize,
    /// How long a replica is given to ask for a body announced with `Expect:
    /// 100-continue`. RFC 9110 §10.1.1: nobody waits for ever, as the replica may
    /// not know the header.
    pub continue_timeout: Span,
    /// How often one request is tried at most.
    pub attempts_max: u32,
    /// How long sent bytes may stay unacknowledged before a peer counts as gone.
    pub peer_timeout: Span,
    /// Networks whose `X-Forwarded-*` are believed and added to. Where a PROXY
    /// header names the client, it is that address, not the balancer's.
    pub trusted_proxies: Vec<Network>,
    /// Networks of balancers that begin each connection with a PROXY header
    /// (version 1 or 2) and pass bytes on. From these one is required; from others
    /// none is read.
    pub proxy_protocol_from: Vec<Network>,
    /// TLS towards clients.
    pub tls: Tls,
    /// Files of the authorities that vouch for replicas reached over TLS (PEM).
    /// None: those that the system trusts.
    pub replica_ca: Vec<PathBuf>,
    /// Where access-log lines go.
    pub access_log: AccessLog,
    /// How an access-log line looks.
    pub access_log_format: LogFormat,
    /// One request in so many has its line; one that went wrong has it in any
    /// case (a status of 5xx, or an answer that was cut short).
    pub access_log_sample: NonZeroU32,
    /// Environments that have metrics of their own; at most
    /// [`WATCHED_MAX`](crate::ingress::watched::WATCHED_MAX) patterns, and as many
    /// environments.
    pub metrics_environments: Vec<EnvironmentPattern>,
    /// Where requests go as spans.
    pub spans: Spans,
}

/// Requests as spans of OpenTelemetry.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spans {
    /// A collector's gRPC address (`http://127.0.0.1:4317`). `None`: there are none.
    pub endpoint: Option<String>,
    /// How many of the traces that begin here are recorded: 0 to 1. Of others
    /// their sampled flag decides.
    pub ratio: f64,
    /// Facts about this process, besides `service.version`; `service.name` is
    /// `repoint` unless it is among them.
    pub resource: Vec<(String, String)>,
    /// Spans that may wait for the collector; further ones are dropped and counted.
    pub queue_max: usize,
}

impl Default for Spans {
    fn default() -> Self {
        Self { endpoint: None, ratio: 1.0, resource: Vec::new(), queue_max: 8 * 1024 }
    }
}

impl Spans {
    /// What the exporter is to do, where there is one.
    pub(super) fn exporter(&self) -> Option<otlp::Config> {
        let endpoint = self.endpoint.clone()?;
        let mut resource = self.resource.clone();
        resource.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
        if !resource.iter().any(|(name, _)| name == "service.name") {
            resource.push(("service.name".to_owned(), "repoint".to_owned()));
        }
        Some(otlp::Config { endpoint, resource, queue_max: self.queue_max })
    }
}

/// TLS towards clients: the `[tls]` table of the settings file.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// Addresses to listen on with TLS 1.2 and 1.3, beside the plain ones.
    pub listen: Vec<SocketAddr>,
    /// What to show to clients, chosen by the names in it.
    pub certificates: Vec<CertificateSource>,
    /// Makes a certificate for every host that has none among them, signed by an
    /// authority of our own (`tls-ca.pem` in the data directory): to try TLS out.
    pub self_signed: bool,
    /// Where that authority is kept.
    #[serde(skip)]
    pub data_dir: Option<PathBuf>,
    /// The certificate file for clients that name no host (no SNI). `None`: their
    /// handshake ends with `unrecognized_name`, as that for an unknown host does.
    pub default: Option<PathBuf>,
    /// Who signs clients' certificates (PEM).
    pub client_ca: Option<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// Longest handshake.
    pub handshake_timeout: Span,
    /// Handshakes that run at once on one thread; a further connection is closed.
    pub handshakes_max: usize,
    /// How often the files are looked at, whether they have changed. New
    /// handshakes get what they hold then; connections keep what they have.
    pub reload_interval: Span,
}

impl Tls {
    /// What clients have to trust where certificates are made here.
    pub fn authority(&self) -> Option<PathBuf> {
        let folder = self.data_dir.as_ref().filter(|_| self.self_signed && !self.listen.is_empty());
        folder.map(|folder| certificate_path(folder))
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            certificates: Vec::new(),
            self_signed: false,
            data_dir: None,
            default: None,
            client_ca: None,
            client_certificates: ClientCertificates::Off,
            handshake_timeout: Span::seconds(10),
            handshakes_max: 1_000,
            // 5 s: a look costs microseconds, and nobody waits longer for a file
            // to be taken up before wondering.
            reload_interval: Span::seconds(5),
        }
    }
}

/// Where certificates are.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "give a path, or { certificate = \"…\", key = \"…\" }")]
pub enum CertificateSource {
    /// A certificate whose key is in the same file or beside it (`tls.crt` and
    /// `tls.key`), or a folder of such: every `*.pem` and `*.crt` in it that has
    /// its key.
    Path(PathBuf),
    /// Both files.
    Files {
        /// The certificate, and behind it those between it and a root (PEM).
        certificate: PathBuf,
        /// Its private key (PEM).
        key: PathBuf,
    },
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// No.
    #[default]
    Off,
    /// Yes; one that is given has to be valid.
    Optional,
    /// Yes, and without a valid one there is no connection.
    Required,
}

/// Where access-log lines go: one per finished request.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// How an access-log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object; what is not known is left out.
    #[default]
    Json,
    /// The combined log format, and behind it `name=value` for what that has no
    /// place for.
    Text,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err("give json or text"),
        }
    }
}

impl Config {
    /// How long a client may stall; `None`: for ever.
    pub(super) fn stall_limit(&self) -> Option<Duration> {
        Some(self.stall_timeout.duration()).filter(|limit| !limit.is_zero())
    }

    /// How many threads there will be; `routing::live::Live` wants as many words.
    pub fn cores(&self) -> usize {
        let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(available).get()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            threads: None,
            connections_max: 10_000,
            streams_max: 1_000,
            in_flight_max: 10_000,
            streams_per_connection_max: 100,
            head_bytes_max: 64 * 1024,
            fields_max: 128,
            uri_bytes_max: 16 * 1024,
            head_timeout: Span::seconds(10),
            idle_timeout: Span::seconds(60),
            stall_timeout: Span::seconds(60),
            upstream_idle_timeout: Span::seconds(4),
            upstream_idle_max: 512,
            continue_timeout: Span::seconds(1),
            attempts_max: 3,
            peer_timeout: Span::seconds(60),
            trusted_proxies: Vec::new(),
            proxy_protocol_from: Vec::new(),
            tls: Tls::default(),
            replica_ca: Vec::new(),
            access_log: AccessLog::Off,
            access_log_format: LogFormat::Json,
            access_log_sample: NonZeroU32::MIN,
            metrics_environments: Vec::new(),
            spans: Spans::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_may_set_some_and_keep_the_rest() {
        let text =
            "listen = ['0.0.0.0:80']\nidle_timeout = '30s'\ntrusted_proxies = ['10.0.0.0/8']\naccess_log = 'stdout'";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!((config.idle_timeout, config.connections_max), (Span::seconds(30), 10_000));
        assert_eq!(config.access_log, AccessLog::Stdout);
        let file: Config = toml::from_str("access_log = { file = '/var/log/access' }").unwrap();
        assert_eq!(file.access_log, AccessLog::File("/var/log/access".into()));
        assert!(toml::from_str::<Config>("lisen = []").is_err());
    }

    #[test]
    fn certificates_are_paths_or_pairs_of_files() {
        let text = "certificates = ['certs', { certificate = 'a.pem', key = 'b.pem' }]";
        let tls: Tls = toml::from_str(text).unwrap();
        let pair = CertificateSource::Files { certificate: "a.pem".into(), key: "b.pem".into() };
        assert_eq!(tls.certificates, [CertificateSource::Path("certs".into()), pair]);
        for wrong in ["certificates = [{ certificate = 'a.pem' }]", "certificates = [{ key = 'k', cert = 'c' }]"] {
            let error = toml::from_str::<Tls>(wrong).unwrap_err().to_string();
            assert!(error.contains("give a path, or"), "{error}");
        }
    }
}
