//! Composition root: the only file that names both planes.
//!
//! Owns the order in which things start and stop. Every address is bound before
//! anything runs, so that a port in use is one clear error and nothing is
//! half-started. Stopping goes the other way round: the ingress finishes what it
//! has, then the workers are stopped, then the control plane.

mod activation;
mod bound;
mod check;
mod data_plane;
mod kept;
mod memory;
mod notify;
mod proxy;
mod reload;
mod stop;
mod successors;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::app::activation::Sockets;
use crate::app::bound::{Bound, demo_steps, program, say};
use crate::app::data_plane::DataPlane;
use crate::config::ServerArgs;
use crate::control::{self, Control};
use crate::drain::Drain;
use crate::fleet::{self, Fleet};
use crate::logs::{self, LogFolder};
use crate::model::id::InstanceId;
use crate::store::Store;
use crate::stream::metrics::ServerMetrics;
use crate::stream::{self, Token, client, last_known_good, server};
use crate::telemetry::admin::Admin;
use crate::telemetry::metrics::Metrics;
use crate::worker::{self, Supervisor};
use crate::{cli, demo, telemetry};

pub use crate::app::check::{CheckArgs, check};

/// Arguments of `repoint up`.
#[derive(Args)]
pub struct UpArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Deploy a small built-in worker in two versions to try things with
    #[arg(long)]
    demo: bool,
}

/// Arguments of `repoint proxy`.
#[derive(Args)]
pub struct ProxyArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The control plane's stream
    #[arg(long, env = "REPOINT_CONTROL", value_name = "URL")]
    control: http::Uri,
    /// File with the stream's token: stream.token in the control plane's data directory
    #[arg(long, env = "REPOINT_TOKEN_FILE", value_name = "FILE")]
    token_file: PathBuf,
    /// Name of this proxy, the same after a restart (default: the host's name and the ingress's port)
    #[arg(long, env = "REPOINT_PROXY_ID", value_name = "NAME")]
    proxy_id: Option<String>,
    /// Keep no table on disk: after a restart, serve nothing until the control plane is reached
    #[arg(long, env = "REPOINT_NO_STATE")]
    no_state: bool,
    /// Take the place of the proxy that runs with the same data directory: its sockets, and its table once this one
    /// serves; where none runs, start as usual
    #[arg(long, env = "REPOINT_TAKE_OVER", conflicts_with = "no_state")]
    take_over: bool,
    /// How long a successor may take until it could serve, in seconds (default 60); after that this proxy goes on
    #[arg(long, env = "REPOINT_HANDOVER_DEADLINE", value_name = "SECONDS")]
    handover_deadline: Option<u64>,
    /// Longest wait for what still runs here once a successor serves, in seconds (default: however long it takes)
    #[arg(long, env = "REPOINT_HANDOVER_DRAIN", value_name = "SECONDS")]
    handover_drain: Option<u64>,
    /// Bytes of journal after which the whole table is written anew
    #[arg(long, env = "REPOINT_CHECKPOINT_BYTES", value_name = "BYTES", hide = true)]
    checkpoint_bytes: Option<u64>,
    /// Reach a control plane on another machine without TLS
    #[arg(long, env = "REPOINT_INSECURE_CONTROL")]
    insecure_control: bool,
}

impl ProxyArgs {
    fn handover_deadline(&self) -> Duration {
        // 60 s: a table of a million environments, loaded and caught up.
        Duration::from_secs(self.handover_deadline.unwrap_or(60))
    }

    fn handover_drain(&self) -> Option<Duration> {
        self.handover_drain.map(Duration::from_secs)
    }

    fn kept(&self) -> last_known_good::Config {
        let defaults = last_known_good::Config::default();
        last_known_good::Config {
            checkpoint_bytes: self.checkpoint_bytes.unwrap_or(defaults.checkpoint_bytes),
            ..defaults
        }
    }
}

/// Everything in one process.
///
/// # Errors
///
/// When something cannot be started; nothing keeps running then.
pub fn up(arguments: &UpArgs) -> anyhow::Result<()> {
    run(&arguments.server, async |mut args, mut sockets| {
        let given = sockets.ingress(&mut args);
        let plane = ControlPlane::bind(&args, &mut sockets).await?;
        let following = client::Config {
            control: loopback_of(plane.stream_addr()?)?,
            token: plane.token.clone(),
            proxy_id: "up".to_owned(),
            zone: String::new(),
            insecure: false,
        };
        let (data, _) = DataPlane::prepare(&args, following, None, given)?.start()?;
        let metrics = data.metrics.clone();
        let admin = admin(&args, &mut sockets).await?;
        let bound = Bound { admin: admin.local_addr()?, ..data.bound(plane.bound()?) };
        let plane = plane.start(&args, &bound, &metrics, Some(data.instance)).await?;
        serve_admin(admin, data.shown(), std::future::pending());
        let loaded = tokio::time::timeout(FIRST_TABLE_TIMEOUT, data.first_table()).await;
        loaded.context("get the first routing table from the control plane next door")??;
        bound.announce(&args, &plane.first_steps(arguments.demo));
        if arguments.demo {
            plane.deploy_demo(&bound, args.json);
        }
        notify::ready(SERVING);
        stop::Signals::listen()?.requested().await;
        data.drain(args.stop_timeout()).await;
        plane.stop(args.stop_timeout()).await;
        Ok(())
    })
}

/// The control plane and the workers.
///
/// # Errors
///
/// When something cannot be started; nothing keeps running then.
pub fn control(arguments: &ServerArgs) -> anyhow::Result<()> {
    run(arguments, async |args, mut sockets| {
        if !args.tls.listen.is_empty() {
            tracing::warn!("[tls] and --tls-listen are for the ingress, which `repoint up` and `repoint proxy` have");
        }
        let plane = ControlPlane::bind(&args, &mut sockets).await?;
        let metrics = Metrics::default();
        let admin = admin(&args, &mut sockets).await?;
        let bound = Bound { admin: admin.local_addr()?, ..plane.bound()? };
        let plane = plane.start(&args, &bound, &metrics, None).await?;
        let shown = Admin { metrics, ready_when: Vec::new(), pages: Vec::new() };
        serve_admin(admin, shown, std::future::pending());
        bound.announce(&args, &plane.first_steps(false));
        notify::ready(SERVING);
        stop::Signals::listen()?.requested().await;
        plane.stop(args.stop_timeout()).await;
        Ok(())
    })
}

/// One ingress, fed by a control plane elsewhere.
///
/// # Errors
///
/// When something cannot be started; nothing keeps running then, and what ran
/// before goes on.
pub fn proxy(arguments: &ProxyArgs) -> anyhow::Result<()> {
    run(&arguments.server, async |args, sockets| proxy::run(arguments, args, sockets).await)
}

/// How a server is that lacks nothing.
const SERVING: &str = "serving";

/// Sets up settings, logging and the control runtime, and runs `serve` on it,
/// with the sockets that were passed. Request threads are the ingress's own: a
/// slow scrape or a large snapshot never delays a request.
fn run(
    arguments: &ServerArgs,
    serve: impl AsyncFnOnce(ServerArgs, Sockets) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let sockets = Sockets::passed()?;
    let args = arguments.clone().with_file()?;
    telemetry::log::init(if args.log_json { telemetry::log::Format::Json } else { telemetry::log::Format::Text })?;
    raise_open_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build();
    let runtime = runtime.context("start the control runtime")?;
    let outcome = runtime.block_on(async {
        notify::keep_watchdog();
        serve(args, sockets).await
    });
    // What still runs was asked and insisted upon; it is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Shells give a process 1,024 open files and allow it many more; each request
/// in flight takes two.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        warn!(%error, open_files = limit.current, "the limit of open files stays as it is");
    }
}

const LOOPBACK_API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8090);
const LOOPBACK_STREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8091);
const LOOPBACK_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8092);

/// Longest wait for the first table in `up`, whose control plane is next door.
const FIRST_TABLE_TIMEOUT: Duration = Duration::from_secs(30);

/// 2 s: the first attempts of a `proxy` beside `up` to come back are over, should
/// an older build have left it out of the store.
const ALONE_SETTLE: Duration = Duration::from_secs(2);

/// The control plane before it runs: its store is open, its sockets are bound.
struct ControlPlane {
    store: Store,
    data_dir: PathBuf,
    token: Token,
    api: TcpListener,
    stream: TcpListener,
}

impl ControlPlane {
    async fn bind(args: &ServerArgs, sockets: &mut Sockets) -> anyhow::Result<Self> {
        let data_dir = args.data_dir()?;
        let api = sockets.listen(activation::API, args.api.unwrap_or(LOOPBACK_API)).await?;
        let stream = sockets.listen(activation::STREAM, args.stream.unwrap_or(LOOPBACK_STREAM)).await?;
        let store = Store::open(&args.store()?).await?;
        control::keys::ensure_admin_key(&store, &data_dir).await?;
        let token = stream::token_file::ensure(&data_dir.join("stream.token"))?;
        Ok(Self { store, data_dir, token, api, stream })
    }

    fn stream_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    fn bound(&self) -> anyhow::Result<Bound> {
        let (api, stream) = (Some(self.api.local_addr()?), Some(self.stream_addr()?));
        Ok(Bound { api, stream, data_dir: Some(self.data_dir.clone()), ..Bound::nowhere() })
    }

    async fn start(
        self,
        args: &ServerArgs,
        bound: &Bound,
        metrics: &Metrics,
        embedded: Option<InstanceId>,
    ) -> anyhow::Result<RunningPlane> {
        let drain = Drain::new();
        let fleet = Fleet::new(fleet_config(args, bound)?);
        fleet.restore(self.store.take_over_members().await?);
        stream::metrics::register_members(metrics, &fleet);
        let api_addr = self.api.local_addr()?;
        let logs =
            LogFolder::open(self.data_dir.join("logs"), logs::Config::default()).context("open the folder of logs")?;
        let config = worker::Config { own_listeners: bound.all(), ..args.worker()? };
        let supervisor = Supervisor::start(config, self.store.clone(), fleet.clone(), logs.clone(), metrics).await?;
        let config = control::Config {
            data_dir: self.data_dir.clone(),
            base_domain: args.base_domain()?,
            shared_hosts: args.shared_hosts.clone(),
            url_port: Some(bound.ingress_port(args)),
            own_listeners: bound.all(),
        };
        let control = Control::start(self.store.clone(), fleet.clone(), logs, config, metrics, &drain.watch());
        let local_only = args.replica_advertise.is_none();
        let config = server::Config { replicas_local_only: local_only, embedded, ..server::Config::new(self.token) };
        let counters = ServerMetrics::registered(metrics);
        let served = server::serve(self.stream, self.store.clone(), fleet, config, counters, drain.watch());
        tokio::spawn(report("control stream", served));
        tokio::spawn(report("REST API", control::api::serve(vec![self.api], control, drain.watch())));
        let key = admin_key(&self.data_dir);
        note_context(api_addr, key.as_deref());
        Ok(RunningPlane { drain, supervisor, store: self.store, data_dir: self.data_dir, key })
    }
}

/// How long the control plane waits for proxies to come back before it concludes
/// anything from the absence of those that the store does not know either. In
/// `up` its own is the only one while no other machine can reach the stream, and
/// that one has just started with nothing; its last run ended with the last
/// process, and the store has forgotten it. Closing a pool need not wait a minute
/// for nobody. A `proxy` beside it is stored like any other.
fn fleet_config(args: &ServerArgs, bound: &Bound) -> anyhow::Result<fleet::Config> {
    let alone = !bound.ingress.is_empty() && bound.stream.is_some_and(|stream| stream.ip().is_loopback());
    let usual = args.fleet()?;
    let settle = if alone { usual.settle.min(ALONE_SETTLE) } else { usual.settle };
    Ok(fleet::Config { settle, ..usual })
}

/// The admin key, where its file is still there: the operator may have put it away.
fn admin_key(data_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data_dir.join(control::keys::FILE_NAME)).ok()?;
    Some(text.trim().to_owned())
}

fn note_context(api: SocketAddr, key: Option<&str>) {
    let Some(key) = key else { return };
    let context = cli::context::Context { server: format!("http://{api}"), api_key: key.to_owned() };
    match cli::context::write(&context) {
        Ok(path) => info!(path = %path.display(), "the command line finds this server by its context"),
        Err(error) => warn!(error = %chain(&error), "the command line needs --server and --api-key"),
    }
}

/// The control plane while it runs.
struct RunningPlane {
    drain: Drain,
    supervisor: worker::Running,
    store: Store,
    data_dir: PathBuf,
    key: Option<String>,
}

impl RunningPlane {
    /// Deploys the demo through the REST API, beside everything else, and says
    /// what to try with it.
    fn deploy_demo(&self, bound: &Bound, quiet: bool) {
        let server = format!("http://{}", bound.api.map_or_else(String::new, |api| api.to_string()));
        let (key, folder) = (self.key.clone().unwrap_or_default(), self.data_dir.join("demo"));
        let port = bound.ingress.first().map_or(0, SocketAddr::port);
        tokio::task::spawn_blocking(move || {
            let own_users = rustix::process::geteuid().is_root();
            let setup = demo::setup::Setup { server: &server, key: &key, folder: &folder, own_users };
            match setup.deploy() {
                Ok(reference) if !quiet => say(&demo_steps(port, reference.as_deref())),
                Ok(_) => {}
                Err(error) => warn!(error = %chain(&error), "the demo is not deployed"),
            }
        });
    }

    fn first_steps(&self, demo: bool) -> Vec<String> {
        let key = self.data_dir.join("admin.key");
        let mut lines =
            vec![String::new(), format!("The admin key is in {}; the command line knows it.", key.display())];
        if demo {
            lines.push("Deploying the demo …".to_owned());
        } else {
            let program = program();
            lines.push("Try next, in another terminal:".to_owned());
            lines.push(format!("  {program} deploy DIR        # a directory with a repoint.toml"));
            lines.push(format!("  {program} project list"));
        }
        lines
    }

    async fn stop(self, timeout: Duration) {
        self.supervisor.stop(timeout).await;
        let cut = self.drain.drain(STOP_API).await;
        if cut > 0 {
            info!(cut, "cut what was still open at the control plane");
        }
        self.store.close().await;
    }
}

/// API calls and streams are short or follow something; none is worth a longer wait.
const STOP_API: Duration = Duration::from_secs(2);

/// The admin listener's socket, which is the last that is bound.
async fn admin(args: &ServerArgs, sockets: &mut Sockets) -> anyhow::Result<TcpListener> {
    let admin = sockets.listen(activation::ADMIN, args.admin.unwrap_or(LOOPBACK_ADMIN)).await?;
    sockets.none_left()?;
    Ok(admin)
}

/// How this process itself reaches what is bound there.
fn loopback_of(bound: SocketAddr) -> anyhow::Result<http::Uri> {
    let host = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(host, bound.port())).parse().context("reach the control stream next door")
}

/// Until the process ends, mostly: probes are answered while everything else drains.
fn serve_admin(listener: TcpListener, shown: Admin, stop: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(report("admin listener", shown.serve(listener, stop)));
}

/// Logs what ended although nobody asked it to.
async fn report<E: std::error::Error + 'static>(what: &'static str, serving: impl Future<Output = Result<(), E>>) {
    if let Err(error) = serving.await {
        tracing::error!(error = %chain(&error), "the {what} has failed");
    }
}

/// An error with everything that caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
