//! A data directory with a supervisor over it, and the verbs the tests are told with.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use repoint::bundle::{archive_path, pack::pack};
use repoint::fleet::member::{Greeting, Report};
use repoint::fleet::members::Session;
use repoint::fleet::{self, Fleet};
use repoint::logs::{self, LogFolder};
use repoint::model::bounds::Bounds;
use repoint::model::deployment::{Deployment, HostHeader, Source};
use repoint::model::environment::Environment;
use repoint::model::host::HostPattern;
use repoint::model::id::DeploymentId;
use repoint::model::manifest::Protocol;
use repoint::model::policy::Policy;
use repoint::model::pool::{EndpointState, Pool, PoolError, PoolErrorKind, PoolKey, PoolState};
use repoint::model::project::Project;
use repoint::model::revision::Revision;
use repoint::store::{self, Store};
use repoint::worker::{Config, Probe, Restart, Running, Supervisor};
use uuid::Uuid;

/// Whatever is waited for takes milliseconds; a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What replicas are given to end when the supervisor stops.
const STOP: Duration = Duration::from_secs(3);

/// A worker that answers each request with what it sees of itself, as JSON.
pub const MIRROR: &str = r#"
import http.server, json, os, resource, signal, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        def may_write(path):
            try:
                open(os.path.join(path, "probe"), "w").close()
                return True
            except OSError:
                return False
        def link(fd):
            try:
                return os.readlink("/proc/self/fd/" + fd)
            except OSError:
                return "closed"
        umask = os.umask(0); os.umask(umask)
        seen = {
            "environment": dict(os.environ), "folder": os.getcwd(), "umask": umask,
            "descriptors": {fd: link(fd) for fd in os.listdir("/proc/self/fd")},
            "pid": os.getpid(), "group": os.getpgid(0), "session": os.getsid(0), "user": os.getuid(),
            "groups": os.getgroups(),
            "writes_home": may_write(os.environ["HOME"]), "writes_folder": may_write("."),
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
        }
        body = json.dumps(seen).encode()
        self.send_response(200 if self.path != "/ill" else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
print("listening", flush=True)
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// How the worker of [`MIRROR`] is started.
pub const MIRROR_TOML: &str = "[worker]\ncommand = [\"python3\", \"worker.py\"]\nstop_grace = \"5s\"\n";

/// The data directory and what works on it.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub fleet: Fleet,
    pub logs: LogFolder,
    pub environment: Environment,
    supervisor: Option<Running>,
    proxy: Option<Session>,
}

impl Bench {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut bench = Self::without_supervisor().await;
        bench.supervise(change).await;
        bench
    }

    pub async fn without_supervisor() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Replicas of root have users of their own, who pass through.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let (store, environment) = open(dir.path()).await;
        let logs = LogFolder::open(dir.path().join("logs"), logs::Config::default()).unwrap();
        // The proxy of the test is there from the start, and nobody else was before.
        let fleet = Fleet::new(fleet::Config { settle: Duration::ZERO, ..fleet::Config::default() });
        let mut bench = Self { dir, store, fleet, logs, environment, supervisor: None, proxy: None };
        bench.proxy_says(&[]);
        bench
    }

    pub async fn supervise(&mut self, change: impl FnOnce(&mut Config)) {
        let config = config(self.dir.path(), change);
        let registry = repoint::telemetry::metrics::Metrics::default();
        let started = Supervisor::start(config, self.store.clone(), self.fleet.clone(), self.logs.clone(), &registry);
        self.supervisor = Some(started.await.unwrap());
    }

    /// Stops the supervisor as a shutdown does.
    pub async fn stop(&mut self) {
        if let Some(running) = self.supervisor.take() {
            running.stop(STOP).await;
        }
    }

    /// Deploys a bundle of these files with a wanted pool of `min` replicas.
    pub async fn deploy(&self, manifest: &str, files: &[(&str, &str)], min: u32) -> PoolKey {
        let source = tempfile::tempdir().unwrap();
        for (name, text) in files.iter().chain([&("repoint.toml", manifest)]) {
            let path = source.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        let mut packed = pack(source.path(), &[], &mut |_| {}).unwrap();
        let path = archive_path(self.dir.path(), &packed.digest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        io::copy(&mut packed.file, &mut File::create(path).unwrap()).unwrap();
        let digest = packed.digest.to_string();
        self.deploy_source(Source::Bundle { digest, manifest: packed.manifest }, min).await
    }

    pub async fn deploy_mirror(&self, min: u32) -> PoolKey {
        self.deploy(MIRROR_TOML, &[("worker.py", MIRROR)], min).await
    }

    pub async fn deploy_endpoints(&self, urls: &[String]) -> PoolKey {
        let (endpoints, host) = (urls.to_vec(), HostHeader::default());
        self.deploy_source(Source::Endpoints { endpoints, protocol: Protocol::Http1, health_path: None, host }, 1).await
    }

    pub async fn deploy_source(&self, source: Source, min: u32) -> PoolKey {
        let deployment = deployment(&self.environment, source);
        let key = PoolKey { environment: self.environment.id, deployment: deployment.id };
        let mut writing = self.store.write().await.unwrap();
        writing.insert_deployment(&deployment).await.unwrap();
        writing.put_pool(&Pool::starting(key, Bounds { min, max: 9 })).await.unwrap();
        writing.commit().await.unwrap();
        key
    }

    pub async fn pool(&self, key: PoolKey) -> Pool {
        self.store.read().await.unwrap().pool(key).await.unwrap().unwrap()
    }

    pub async fn errors(&self, key: PoolKey) -> Vec<PoolError> {
        self.store.read().await.unwrap().pool_errors(key, 100).await.unwrap()
    }

    /// Waits until the pool is as `wanted`, and answers it.
    #[track_caller]
    pub fn until(&self, key: PoolKey, what: &str, wanted: impl Fn(&Pool) -> bool) -> impl Future<Output = Pool> {
        let described = format!("{what} of {key}");
        async move {
            let mut last = None;
            let found = eventually(async || {
                let pool = self.pool(key).await;
                last = Some(pool.clone());
                wanted(&pool).then_some(pool)
            })
            .await;
            match found {
                Some(pool) => pool,
                None => panic!("no {described}: {last:?}, errors {:?}", self.errors(key).await),
            }
        }
    }

    pub async fn until_ready(&self, key: PoolKey, count: usize) -> Pool {
        let ready = |pool: &Pool| pool.state == PoolState::Running && pool.ready_count() == count;
        self.until(key, &format!("{count} ready replicas"), ready).await
    }

    pub async fn until_state(&self, key: PoolKey, state: PoolState) -> Pool {
        self.until(key, state.as_str(), |pool| pool.state == state).await
    }

    pub async fn until_error(&self, key: PoolKey, kind: PoolErrorKind) -> PoolError {
        let mut last = Vec::new();
        let found = eventually(async || {
            last = self.errors(key).await;
            last.iter().find(|error| error.kind == kind).cloned()
        });
        match found.await {
            Some(error) => error,
            None => panic!("no {kind:?} among {last:?}"),
        }
    }

    /// Changes a pool as the control plane does.
    pub async fn change(&self, key: PoolKey, change: impl FnOnce(&mut Pool)) {
        let mut writing = self.store.write().await.unwrap();
        let mut pool = writing.pool(key).await.unwrap().unwrap();
        change(&mut pool);
        writing.put_pool(&pool).await.unwrap();
        writing.commit().await.unwrap();
    }

    /// Closes a pool as the control plane does.
    pub async fn close(&self, key: PoolKey) {
        let mut writing = self.store.write().await.unwrap();
        let mut pool = writing.pool(key).await.unwrap().unwrap();
        pool.state = PoolState::Closing;
        pool.closing_since = Some(Timestamp::now());
        pool.closing_revision = Some(writing.next_revision().await.unwrap());
        writing.put_pool(&pool).await.unwrap();
        writing.commit().await.unwrap();
    }

    /// A proxy that has applied everything and holds requests on `busy`.
    pub fn proxy_says(&mut self, busy: &[PoolKey]) {
        self.proxy_says_at(self.store.head().revision, busy);
    }

    /// The same of a proxy that has applied as much as `head`.
    pub fn proxy_says_at(&mut self, head: Revision, busy: &[PoolKey]) {
        let session = self.proxy.get_or_insert_with(|| {
            self.fleet.hello(Greeting {
                applied: Some(head),
                ..Greeting::new("test", Uuid::new_v4().into(), "127.0.0.1:1".parse().unwrap())
            })
        });
        self.fleet.ack(session, Some(head), Some(head));
        let busy_pools = busy.iter().map(|key| (*key, 1)).collect();
        self.fleet.status(session, Report { applied: Some(head), busy_pools, ..Report::default() });
    }

    /// A proxy that was heard, and has applied nothing of this store.
    pub fn proxy_is_behind(&mut self) {
        self.proxy_says(&[]);
        let session = self.proxy.take().unwrap();
        self.fleet.goodbye(&session);
        self.another_is_behind("behind");
    }

    pub fn another_is_behind(&self, name: &str) {
        self.fleet.hello(Greeting::new(name, Uuid::new_v4().into(), "127.0.0.1:1".parse().unwrap()));
    }
}

pub fn config(dir: &Path, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::new(dir);
    config.executable = Some(env!("CARGO_BIN_EXE_repoint").into());
    config.ports = ports();
    config.probe =
        Probe { starting_every: Duration::from_millis(20), every: Duration::from_millis(50), ..Probe::default() };
    config.restart =
        Restart { delay_min: Duration::from_millis(10), delay_max: Duration::from_millis(80), ..Restart::default() };
    change(&mut config);
    config
}

/// Tests run side by side, and a port that is found free may be taken before its replica binds it: each has ports of its
/// own, also where it supervises in another process.
fn ports() -> RangeInclusive<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let given = std::env::var(PORTS).ok().and_then(|first| first.parse().ok());
    let first = given.unwrap_or_else(|| 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 98 * 100);
    first..=first + 99
}

/// The first of a hundred ports, for a supervisor in another process.
pub const PORTS: &str = "REPOINT_TEST_PORTS";

/// A hundred ports that nobody else here uses, for a supervisor in another process.
pub fn first_port() -> String {
    ports().start().to_string()
}

pub async fn open(dir: &Path) -> (Store, Environment) {
    let base_domain: HostPattern = "localhost".parse().unwrap();
    let config = store::Config { data_dir: dir.to_owned(), base_domain: base_domain.clone(), shared_hosts: Vec::new() };
    let store = Store::open(&config).await.unwrap();
    fs::set_permissions(dir, Permissions::from_mode(0o711)).unwrap();
    let project = Project { id: Uuid::now_v7().into(), name: "support".parse().unwrap(), created_at: Timestamp::now() };
    let name = "preview".parse().unwrap();
    let environment = Environment {
        id: Uuid::now_v7().into(),
        project: project.id,
        project_name: project.name.clone(),
        hosts: vec![HostPattern::of_environment(&project.name, &name, &base_domain)],
        name,
        pointer: None,
        bounds: None,
        policy: Policy::default(),
        locked: None,
        created_at: Timestamp::now(),
        updated_at: Timestamp::now(),
    };
    let mut writing = store.write().await.unwrap();
    writing.insert_project(&project).await.unwrap();
    writing.insert_environment(&environment).await.unwrap();
    writing.commit().await.unwrap();
    (store, environment)
}

fn deployment(environment: &Environment, source: Source) -> Deployment {
    let id: DeploymentId = Uuid::now_v7().into();
    let alphabet = b"bcdfghjkmnpqrstvwxyz23456789";
    let reference: String = (0..8).map(|_| char::from(alphabet[fastrand::usize(..alphabet.len())])).collect();
    Deployment {
        id,
        reference: reference.parse().unwrap(),
        project: environment.project,
        source,
        message: None,
        git_commit: None,
        created_by: "test".to_owned(),
        created_at: Timestamp::now(),
    }
}

/// Asks again and again until there is an answer; `None` when there was none in time.
pub async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let asked = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tick.tick().await;
        }
    });
    asked.await.ok()
}

/// Waits until `wanted` holds.
#[track_caller]
pub fn until(what: &str, mut wanted: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let what = what.to_owned();
    async move {
        let held = eventually(async || wanted().then_some(())).await;
        held.unwrap_or_else(|| panic!("waited in vain for {what}"));
    }
}

/// The addresses that take requests.
pub fn ready(pool: &Pool) -> Vec<SocketAddr> {
    let ready = pool.endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Ready);
    ready.map(|endpoint| endpoint.address).collect()
}

/// What a worker made of [`MIRROR`] sees.
pub fn look(address: SocketAddr) -> serde_json::Value {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

pub fn environment_of(seen: &serde_json::Value) -> BTreeMap<String, String> {
    serde_json::from_value(seen["environment"].clone()).unwrap()
}

/// Whether a process runs; one that has ended and waits to be reaped does not.
pub fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

pub fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Numbers that a worker has printed, one a line, after `word`.
pub fn printed(logs: &LogFolder, key: PoolKey, word: &str) -> Vec<u32> {
    let lines = logs.tail(key, None, 10_000).unwrap();
    lines.iter().filter_map(|line| line.text.strip_prefix(word)?.trim().parse().ok()).collect()
}
