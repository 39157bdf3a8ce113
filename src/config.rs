//! Settings of the servers, gathered from flags, environment and file.
//!
//! Flag beats environment beats file; what none of them says is left to each
//! module's own default. No defaults and no rules of its own, but for the
//! addresses: those belong to no single module.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::ingress;
use crate::ingress::config::{AccessLog, CertificateSource, LogFormat, Spans, Tls};
use crate::ingress::trust::Network;
use crate::ingress::watched::EnvironmentPattern;
use crate::model::host::HostPattern;
use crate::model::manifest::Span;
use crate::{fleet, store, worker};

/// What every server command takes. A field that is set here, by flag or by
/// environment variable, wins over the file.
#[derive(Args, Deserialize, Clone, Debug, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerArgs {
    /// Directory that holds everything: database, bundles, key, logs
    #[arg(long, env = "REPOINT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where requests arrive (default port 8080 of 127.0.0.1 and ::1; port 0 picks one)
    #[arg(long, env = "REPOINT_INGRESS", value_name = "ADDR", value_delimiter = ',')]
    pub ingress: Vec<SocketAddr>,
    /// Where requests arrive over TLS, as 0.0.0.0:8443; needs certificates
    #[arg(long, env = "REPOINT_TLS_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    #[serde(skip)]
    pub tls_listen: Vec<SocketAddr>,
    /// Certificates: PEM files with their keys in them or beside them, or folders of such
    #[arg(long, env = "REPOINT_TLS_CERTIFICATES", value_name = "PATH", value_delimiter = ',')]
    #[serde(skip)]
    pub tls_certificates: Vec<PathBuf>,
    /// Try TLS out: make a certificate for every host, signed by tls-ca.pem in the data directory (listens on
    /// 127.0.0.1:8443 unless told)
    #[arg(long, env = "REPOINT_TLS_SELF_SIGNED")]
    #[serde(skip)]
    pub tls_self_signed: bool,
    /// Client connections of the ingress, in total (default 10000)
    #[arg(long, env = "REPOINT_CONNECTIONS_MAX", value_name = "N")]
    pub connections_max: Option<NonZeroUsize>,
    /// HTTP/2 requests that run at once, in total (default 1000)
    #[arg(long, env = "REPOINT_STREAMS_MAX", value_name = "N")]
    pub streams_max: Option<NonZeroUsize>,
    /// Requests, streams and tunnels that run at once, in total (default 10000)
    #[arg(long, env = "REPOINT_IN_FLIGHT_MAX", value_name = "N")]
    pub in_flight_max: Option<NonZeroUsize>,
    /// Where the REST API listens (default 127.0.0.1:8090)
    #[arg(long, env = "REPOINT_API", value_name = "ADDR")]
    pub api: Option<SocketAddr>,
    /// Where proxies connect for the control stream (default 127.0.0.1:8091)
    #[arg(long, env = "REPOINT_STREAM", value_name = "ADDR")]
    pub stream: Option<SocketAddr>,
    /// Where metrics and health checks answer (default 127.0.0.1:8092)
    #[arg(long, env = "REPOINT_ADMIN", value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Parent of every host made from names (default localhost)
    #[arg(long, env = "REPOINT_BASE_DOMAIN", value_name = "DOMAIN")]
    pub base_domain: Option<HostPattern>,
    /// Further hosts on which X-Project and X-Environment choose
    #[arg(long, env = "REPOINT_SHARED_HOSTS", value_name = "HOST", value_delimiter = ',')]
    pub shared_hosts: Vec<HostPattern>,
    /// Threads of the ingress (default: CPUs allowed)
    #[arg(long, env = "REPOINT_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// One line per request: off, - for standard output, or a file (default off)
    #[arg(long, env = "REPOINT_ACCESS_LOG", value_name = "WHERE")]
    pub access_log: Option<String>,
    /// How a line of the access log looks: json or text (default json)
    #[arg(long, env = "REPOINT_ACCESS_LOG_FORMAT", value_name = "FORMAT")]
    pub access_log_format: Option<LogFormat>,
    /// Log one request in N, and every one that fails with 5xx or is cut short (default 1)
    #[arg(long, env = "REPOINT_ACCESS_LOG_SAMPLE", value_name = "N")]
    pub access_log_sample: Option<NonZeroU32>,
    /// Send requests as spans to this OpenTelemetry collector: its gRPC address, as http://127.0.0.1:4317, or off
    /// (default OTEL_EXPORTER_OTLP_ENDPOINT, where that is set)
    #[arg(long, env = "REPOINT_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// How many of the traces that begin here become spans, from 0 to 1 (default 1)
    #[arg(long, env = "REPOINT_OTLP_SAMPLE_RATIO", value_name = "RATIO")]
    pub otlp_sample_ratio: Option<f64>,
    /// Environments with metrics of their own (support/production, or support/*; 100 at most)
    #[arg(long, env = "REPOINT_METRICS_ENVIRONMENTS", value_name = "PROJECT/NAME", value_delimiter = ',')]
    pub metrics_environments: Vec<EnvironmentPattern>,
    /// Networks whose X-Forwarded-* headers are believed (10.0.0.0/8, or one address)
    #[arg(long, env = "REPOINT_TRUSTED_PROXIES", value_name = "NETWORK", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
    /// Longest wait for a client that stalls: announced body, or answer not taken, in seconds (default 60; 0: for ever)
    #[arg(long, env = "REPOINT_STALL_TIMEOUT", value_name = "SECONDS")]
    pub stall_timeout: Option<u64>,
    /// Networks of balancers that begin each connection with a PROXY header (version 1 or 2)
    #[arg(long, env = "REPOINT_PROXY_PROTOCOL_FROM", value_name = "NETWORK", value_delimiter = ',')]
    pub proxy_protocol_from: Vec<Network>,
    /// Ports given to local replicas (default 20000-29999)
    #[arg(long, env = "REPOINT_WORKER_PORTS", value_name = "FROM-TO")]
    pub worker_ports: Option<String>,
    /// How proxies on other machines reach local replicas
    #[arg(long, env = "REPOINT_REPLICA_ADVERTISE", value_name = "IP")]
    pub replica_advertise: Option<std::net::IpAddr>,
    /// Who vouches for replicas reached over TLS: PEM files of CA certificates (default: whom the system trusts)
    #[arg(long, env = "REPOINT_REPLICA_CA", value_name = "FILE", value_delimiter = ',')]
    pub replica_ca: Vec<PathBuf>,
    /// Longest wait for running requests when stopping, in seconds (default 30)
    #[arg(long, env = "REPOINT_STOP_TIMEOUT", value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    /// How the silence of proxies is read: in the settings file only, because
    /// who changes it should know why.
    #[arg(skip)]
    pub fleet: FleetArgs,
    /// TLS towards clients: all of it in the settings file, what is needed most as flags too.
    #[arg(skip)]
    pub tls: Tls,
    /// Log lines as JSON
    #[arg(long, env = "REPOINT_LOG_JSON")]
    pub log_json: bool,
    /// Print the bound addresses as one JSON object
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
    /// Settings file (TOML, the long flags' names as keys)
    #[arg(long, env = "REPOINT_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// The `[fleet]` table of the settings file.
#[derive(Deserialize, Clone, Copy, Debug, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FleetArgs {
    /// Heard within this long: live.
    pub live: Option<Span>,
    /// Heard within this long: suspect, and still waited for.
    pub suspect: Option<Span>,
    /// Gone for this long: not waited for any more when something is stopped.
    pub gone_grace: Option<Span>,
    /// Silent for this long: forgotten.
    pub forget: Option<Span>,
}

/// Where TLS is tried out.
const LOOPBACK_TLS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8443);

/// Why settings cannot be used. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read the settings file {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or names a setting that does not exist.
    #[error("read the settings file {path}: {message}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong, and on which line.
        message: String,
    },
    /// No home to keep data in.
    #[error("choose a data directory: neither XDG_DATA_HOME nor HOME is set; give --data-dir")]
    NoHome,
    /// A wildcard has no hosts below it.
    #[error("use {0} as base domain: give a plain name such as agents.example.com")]
    BaseDomain(HostPattern),
    /// Silence that means less the longer it lasts.
    #[error(
        "use the settings of [fleet]: live has to be at least \"1s\", and no longer than suspect, nor that than forget"
    )]
    Fleet,
    /// Not a range of ports.
    #[error("read --worker-ports {0:?}: give two ports as 20000-29999")]
    Ports(String),
}

impl ServerArgs {
    /// Fills what flags and environment left open from the file, if one is named.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds an unknown or wrong setting.
    pub fn with_file(self) -> Result<Self, Error> {
        let Some(path) = self.config.clone() else { return Ok(self.with_tls_flags()) };
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Unreadable { path: path.clone(), source })?;
        let file = toml::from_str(&text).map_err(|error| Error::Invalid { path, message: error.to_string() })?;
        Ok(self.over(file).with_tls_flags())
    }

    /// Flags for a list of the `[tls]` table stand in its place.
    fn with_tls_flags(mut self) -> Self {
        self.tls.listen = given(self.tls_listen.clone(), self.tls.listen);
        let certificates = self.tls_certificates.iter().cloned().map(CertificateSource::Path).collect();
        self.tls.certificates = given(certificates, self.tls.certificates);
        self.tls.self_signed |= self.tls_self_signed;
        if self.tls.self_signed && self.tls.listen.is_empty() {
            self.tls.listen.push(LOOPBACK_TLS);
        }
        self.tls.data_dir = self.data_dir().ok();
        self
    }

    fn over(self, file: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(file.data_dir),
            ingress: given(self.ingress, file.ingress),
            tls_listen: self.tls_listen,
            tls_certificates: self.tls_certificates,
            tls_self_signed: self.tls_self_signed,
            connections_max: self.connections_max.or(file.connections_max),
            streams_max: self.streams_max.or(file.streams_max),
            in_flight_max: self.in_flight_max.or(file.in_flight_max),
            api: self.api.or(file.api),
            stream: self.stream.or(file.stream),
            admin: self.admin.or(file.admin),
            base_domain: self.base_domain.or(file.base_domain),
            shared_hosts: given(self.shared_hosts, file.shared_hosts),
            threads: self.threads.or(file.threads),
            access_log: self.access_log.or(file.access_log),
            access_log_format: self.access_log_format.or(file.access_log_format),
            access_log_sample: self.access_log_sample.or(file.access_log_sample),
            otlp_endpoint: self.otlp_endpoint.or(file.otlp_endpoint),
            otlp_sample_ratio: self.otlp_sample_ratio.or(file.otlp_sample_ratio),
            metrics_environments: given(self.metrics_environments, file.metrics_environments),
            trusted_proxies: given(self.trusted_proxies, file.trusted_proxies),
            proxy_protocol_from: given(self.proxy_protocol_from, file.proxy_protocol_from),
            stall_timeout: self.stall_timeout.or(file.stall_timeout),
            worker_ports: self.worker_ports.or(file.worker_ports),
            replica_advertise: self.replica_advertise.or(file.replica_advertise),
            replica_ca: given(self.replica_ca, file.replica_ca),
            stop_timeout: self.stop_timeout.or(file.stop_timeout),
            fleet: file.fleet,
            tls: file.tls,
            log_json: self.log_json || file.log_json,
            json: self.json,
            config: self.config,
        }
    }

    /// The data directory: as given, or where such data belongs on this system
    /// (XDG base directories; `/var/lib/repoint` for root, whose home other
    /// users, such as those workers run as, cannot enter).
    ///
    /// # Errors
    ///
    /// When nothing is given and there is no home directory.
    pub fn data_dir(&self) -> Result<PathBuf, Error> {
        if let Some(given) = &self.data_dir {
            return Ok(std::path::absolute(given).unwrap_or_else(|_| given.clone()));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Path::new("/var/lib/repoint").to_owned());
        }
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = from("XDG_DATA_HOME").or_else(|| from("HOME").map(|home| home.join(".local/share")));
        home.map(|home| home.join("repoint")).ok_or(Error::NoHome)
    }

    /// The base domain: as given, or `localhost`, which resolvers answer with
    /// loopback (RFC 6761 §6.3).
    ///
    /// # Errors
    ///
    /// When it is a wildcard.
    pub fn base_domain(&self) -> Result<HostPattern, Error> {
        match &self.base_domain {
            Some(domain) if domain.as_str().starts_with('*') => Err(Error::BaseDomain(domain.clone())),
            Some(domain) => Ok(domain.clone()),
            None => Ok("localhost".parse().expect("localhost is a host")),
        }
    }

    /// Longest wait for running requests when stopping.
    pub fn stop_timeout(&self) -> Duration {
        // 30 s: what init systems and orchestrators allow before they kill.
        Duration::from_secs(self.stop_timeout.unwrap_or(30))
    }

    /// The fleet's section.
    ///
    /// # Errors
    ///
    /// When the times contradict each other.
    pub fn fleet(&self) -> Result<fleet::Config, Error> {
        let defaults = fleet::Config::default();
        let or = |given: Option<Span>, usual: Duration| given.map_or(usual, Span::duration);
        let live = or(self.fleet.live, defaults.live);
        let suspect = or(self.fleet.suspect, defaults.suspect);
        let gone_grace = or(self.fleet.gone_grace, defaults.gone_grace);
        let forget = or(self.fleet.forget, defaults.forget);
        // A status comes every second: less than that, and everybody is suspect all the time.
        if live < Duration::from_secs(1) || live > suspect || suspect > forget {
            return Err(Error::Fleet);
        }
        Ok(fleet::Config { live, suspect, gone_grace, settle: suspect, forget })
    }

    /// The ingress's section.
    pub fn ingress(&self) -> ingress::config::Config {
        let defaults = ingress::config::Config::default();
        ingress::config::Config {
            listen: given(self.ingress.clone(), defaults.listen),
            threads: self.threads.or(defaults.threads),
            connections_max: self.connections_max.map_or(defaults.connections_max, NonZeroUsize::get),
            streams_max: self.streams_max.map_or(defaults.streams_max, NonZeroUsize::get),
            in_flight_max: self.in_flight_max.map_or(defaults.in_flight_max, NonZeroUsize::get),
            tls: self.tls.clone(),
            replica_ca: self.replica_ca.clone(),
            trusted_proxies: given(self.trusted_proxies.clone(), defaults.trusted_proxies),
            proxy_protocol_from: given(self.proxy_protocol_from.clone(), defaults.proxy_protocol_from),
            stall_timeout: self.stall_timeout.map_or(defaults.stall_timeout, Span::seconds),
            metrics_environments: self.metrics_environments.clone(),
            spans: self.spans(),
            access_log: match self.access_log.as_deref() {
                None | Some("off") => AccessLog::Off,
                Some("-") => AccessLog::Stdout,
                Some(path) => AccessLog::File(path.into()),
            },
            access_log_format: self.access_log_format.unwrap_or(defaults.access_log_format),
            access_log_sample: self.access_log_sample.unwrap_or(defaults.access_log_sample),
            ..defaults
        }
    }

    /// The standard variables of OpenTelemetry stand behind our own settings.
    fn spans(&self) -> Spans {
        let defaults = Spans::default();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let standard =
            || variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let facts = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let facts = facts.split(',').filter_map(|fact| fact.split_once('='));
        let facts = facts.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        let name = variable("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name));
        let facts = facts.filter(|(known, _)| name.is_none() || known != "service.name");
        Spans {
            endpoint: self.otlp_endpoint.clone().or_else(standard).filter(|endpoint| endpoint != "off"),
            ratio: self.otlp_sample_ratio.unwrap_or(defaults.ratio),
            resource: facts.chain(name.clone()).collect(),
            ..defaults
        }
    }

    /// The store's section.
    ///
    /// # Errors
    ///
    /// When there is no data directory, or the base domain is a wildcard.
    pub fn store(&self) -> Result<store::Config, Error> {
        let shared_hosts = self.shared_hosts.clone();
        Ok(store::Config { data_dir: self.data_dir()?, base_domain: self.base_domain()?, shared_hosts })
    }

    /// The supervisor's section.
    ///
    /// # Errors
    ///
    /// When there is no data directory, or `worker-ports` is no range.
    pub fn worker(&self) -> Result<worker::Config, Error> {
        let defaults = worker::Config::new(self.data_dir()?);
        let ports = self.worker_ports()?.unwrap_or_else(|| defaults.ports.clone());
        let advertise = self.replica_advertise.unwrap_or(defaults.advertise);
        Ok(worker::Config { ports, advertise, replica_ca: self.replica_ca.clone(), ..defaults })
    }

    fn worker_ports(&self) -> Result<Option<std::ops::RangeInclusive<u16>>, Error> {
        let Some(text) = &self.worker_ports else { return Ok(None) };
        let range = text.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        match range {
            Some((from, to)) if 0 < from && from <= to => Ok(Some(from..=to)),
            _ => Err(Error::Ports(text.clone())),
        }
    }
}

fn given<T>(here: Vec<T>, file: Vec<T>) -> Vec<T> {
    if here.is_empty() { file } else { here }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str, args: ServerArgs) -> Result<ServerArgs, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("repoint.conf");
        std::fs::write(&path, text).unwrap();
        ServerArgs { config: Some(path), ..args }.with_file()
    }

    #[test]
    fn what_is_given_beats_the_file() {
        let args = ServerArgs { api: Some("127.0.0.1:1".parse().unwrap()), ..ServerArgs::default() };
        let merged =
            with_file("api = \"127.0.0.1:2\"\nstream = \"127.0.0.1:3\"\ningress = [\"127.0.0.1:4\"]", args).unwrap();
        assert_eq!(merged.api, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(merged.stream, Some("127.0.0.1:3".parse().unwrap()));
        assert_eq!(merged.ingress, ["127.0.0.1:4".parse().unwrap()]);
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_line() {
        let error = with_file("api = \"127.0.0.1:2\"\nbase-domian = \"x\"", ServerArgs::default()).unwrap_err();
        assert!(error.to_string().contains("base-domian"), "{error}");
        let error = with_file("api = 7", ServerArgs::default()).unwrap_err();
        assert!(error.to_string().contains("api"), "{error}");
        let missing = ServerArgs { config: Some("/nowhere/repoint.conf".into()), ..ServerArgs::default() }.with_file();
        assert!(matches!(missing, Err(Error::Unreadable { .. })));
    }

    #[test]
    fn what_the_ingress_expects_of_clients_is_set_by_flag_or_file() {
        let text = "proxy-protocol-from = [\"10.0.0.0/8\", \"192.0.2.1\"]\nstall-timeout = 7";
        let set = with_file(text, ServerArgs::default()).unwrap().ingress();
        assert_eq!(set.proxy_protocol_from, ["10.0.0.0/8", "192.0.2.1"].map(|network| network.parse().unwrap()));
        assert_eq!(set.stall_timeout, Span::seconds(7));
        let given = ServerArgs { stall_timeout: Some(0), ..ServerArgs::default() };
        assert_eq!(with_file(text, given).unwrap().ingress().stall_timeout, Span::seconds(0));
        let defaults = ServerArgs::default().ingress();
        assert_eq!((defaults.proxy_protocol_from, defaults.stall_timeout), (Vec::new(), Span::seconds(60)));
        assert!(with_file("proxy-protocol-from = [\"everybody\"]", ServerArgs::default()).is_err());
    }

    #[test]
    fn the_silence_of_proxies_is_read_as_the_file_says() {
        assert_eq!(ServerArgs::default().fleet().unwrap(), fleet::Config::default());
        let text = "[fleet]\nlive = \"2s\"\nsuspect = \"3s\"\ngone-grace = \"1m\"";
        let config = with_file(text, ServerArgs::default()).unwrap().fleet().unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((config.live, config.suspect, config.gone_grace), (seconds(2), seconds(3), seconds(60)));
        assert_eq!((config.settle, config.forget), (seconds(3), fleet::Config::default().forget));
        for wrong in ["live = \"2m\"", "live = \"10ms\"", "suspect = \"48h\""] {
            let args = with_file(&format!("[fleet]\n{wrong}"), ServerArgs::default()).unwrap();
            assert!(matches!(args.fleet(), Err(Error::Fleet)), "{wrong}");
        }
        assert!(with_file("[fleet]\nlive = \"soon\"", ServerArgs::default()).is_err());
    }

    #[test]
    fn flags_for_tls_and_limits_win_over_the_file() {
        let text =
            "connections-max = 5\nin-flight-max = 6\n[tls]\nlisten = [\"127.0.0.1:1\"]\ncertificates = [\"a.pem\"]";
        let file = with_file(text, ServerArgs::default()).unwrap().ingress();
        assert_eq!((file.connections_max, file.in_flight_max, file.streams_max), (5, 6, 1_000));
        assert_eq!(file.tls.listen, ["127.0.0.1:1".parse().unwrap()]);
        let flags = ServerArgs {
            tls_listen: vec!["127.0.0.1:2".parse().unwrap()],
            tls_certificates: vec!["certs".into()],
            connections_max: NonZeroUsize::new(7),
            ..ServerArgs::default()
        };
        let both = with_file(text, flags).unwrap().ingress();
        assert_eq!((both.connections_max, both.in_flight_max), (7, 6));
        assert_eq!(both.tls.listen, ["127.0.0.1:2".parse().unwrap()]);
        assert_eq!(both.tls.certificates, [CertificateSource::Path("certs".into())]);
    }

    #[test]
    fn a_wildcard_is_no_base_domain() {
        let domain = |text: &str| ServerArgs { base_domain: Some(text.parse().unwrap()), ..ServerArgs::default() };
        assert!(domain("*.example.com").base_domain().is_err());
        assert_eq!(domain("example.com").base_domain().unwrap().as_str(), "example.com");
        assert_eq!(ServerArgs::default().base_domain().unwrap().as_str(), "localhost");
    }

    #[test]
    fn worker_ports_are_a_range() {
        let ports = |text: &str| ServerArgs { worker_ports: Some(text.into()), ..ServerArgs::default() }.worker_ports();
        assert_eq!(ports("20000-20100").unwrap(), Some(20_000..=20_100));
        for bad in ["20000", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
