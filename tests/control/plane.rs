//! The harness: a control plane with good verbs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use repoint::control::{Config, Control, api, keys};
use repoint::drain::Drain;
use repoint::fleet::{self, Fleet};
use repoint::logs::{self, LogFolder};
use repoint::model::host::HostPattern;
use repoint::model::id::{DeploymentId, EnvironmentId};
use repoint::model::pool::{Endpoint, EndpointState, Pool, PoolError, PoolErrorKind, PoolKey, PoolState};
use repoint::model::promotion::Promotion;
use repoint::store::{self, Store};
use repoint::telemetry::metrics::Metrics;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Longer than anything here takes on a loaded machine.
pub const LONG: Duration = Duration::from_secs(30);

/// A running control plane.
pub struct Plane {
    pub store: Store,
    pub fleet: Fleet,
    pub logs: LogFolder,
    pub address: SocketAddr,
    pub key: String,
    pub metrics: Metrics,
    dir: TempDir,
    drain: Drain,
    serving: JoinHandle<std::io::Result<()>>,
}

/// What the API answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub headers: http::HeaderMap,
}

impl Answer {
    pub fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id in {self:?}")).to_owned()
    }

    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("")
    }

    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or("")
    }

    /// The same answer, which is to be a success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!((200..300).contains(&self.status), "{self:?}");
        self
    }

    /// The same answer, which is to be this refusal.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        assert!(self.message().len() > 20, "a refusal says what to do next: {self:?}");
        self
    }
}

/// A project's id and those of its environments.
#[derive(Clone, Debug)]
pub struct Project {
    pub id: String,
    pub preview: String,
    pub staging: String,
    pub production: String,
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), fleet::Config::default()).await
    }

    pub async fn start_in(dir: TempDir, fleet: fleet::Config) -> Self {
        let base_domain: HostPattern = "localhost".parse().unwrap();
        let shared_hosts: Vec<HostPattern> = vec!["gate.example".parse().unwrap()];
        let config = store::Config {
            data_dir: dir.path().to_owned(),
            base_domain: base_domain.clone(),
            shared_hosts: shared_hosts.clone(),
        };
        let store = Store::open(&config).await.unwrap();
        keys::ensure_admin_key(&store, dir.path()).await.unwrap();
        let key = std::fs::read_to_string(dir.path().join(keys::FILE_NAME)).unwrap().trim().to_owned();
        let (drain, fleet, metrics) = (Drain::new(), Fleet::new(fleet), Metrics::default());
        let logs = LogFolder::open(dir.path().join("logs"), logs::Config::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config {
            data_dir: dir.path().to_owned(),
            base_domain,
            shared_hosts,
            url_port: Some(8080),
            own_listeners: vec![address],
        };
        let control = Control::start(store.clone(), fleet.clone(), logs.clone(), config, &metrics, &drain.watch());
        let serving = tokio::spawn(api::serve(vec![listener], control, drain.watch()));
        Self { store, fleet, logs, address, key, metrics, dir, drain, serving }
    }

    /// Stops and starts again on the same directory.
    pub async fn restart(self) -> Self {
        self.restart_when(|| true).await
    }

    /// The same, and stays down until `up`.
    pub async fn restart_when(self, up: impl Fn() -> bool) -> Self {
        let Self { store, dir, drain, serving, .. } = self;
        assert_eq!(drain.drain(LONG).await, 0);
        serving.await.unwrap().unwrap();
        store.close().await;
        drop(store);
        until("the time to start again", || std::future::ready(up().then_some(()))).await;
        Self::start_in(dir, fleet::Config::default()).await
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body.to_string().into_bytes())).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body.to_string().into_bytes())).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    async fn send(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Answer {
        let headers = [("x-api-key", self.key.as_str()), ("content-type", "application/json")];
        self.send_with(method, path, &headers, body).await
    }

    pub async fn send_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> Answer {
        let uri = match path.starts_with('/') {
            true => format!("http://{}{path}", self.address),
            false => format!("http://{}/api/v1/{path}", self.address),
        };
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        tokio::task::spawn_blocking(move || {
            let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LONG * 2));
            let agent: ureq::Agent = config.build().into();
            let response = match body {
                Some(body) => agent.run(request.body(body).unwrap()),
                None => agent.run(request.body(()).unwrap()),
            };
            let (parts, mut body) = response.unwrap().into_parts();
            let text = body.read_to_string().unwrap();
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            Answer { status: parts.status.as_u16(), body, headers: parts.headers }
        })
        .await
        .unwrap()
    }

    pub async fn project(&self, name: &str) -> Project {
        let made = self.post("projects", json!({ "name": name })).await.ok();
        let environment = |at: usize| made.body["environments"][at]["id"].as_str().unwrap().to_owned();
        Project { id: made.id(), preview: environment(0), staging: environment(1), production: environment(2) }
    }

    /// A deployment of endpoints that nobody listens on, not brought anywhere.
    pub async fn deployment(&self, project: &Project) -> String {
        self.post("deployments", endpoints(project)).await.ok().id()
    }

    /// Registers a bundle without bytes and deploys it. There is no supervisor to miss them.
    pub async fn bundle_deployment(&self, project: &Project, ready_timeout: &str) -> String {
        let manifest = format!("[worker]\ncommand = [\"./serve\"]\nready_timeout = \"{ready_timeout}\"\n");
        let digest = format!("sha256:{}", format!("{:02x}", ready_timeout.len()).repeat(32));
        let mut tx = self.store.write().await.unwrap();
        tx.insert_bundle(&digest, 1, &manifest, Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
        let body = json!({ "project_id": project.id, "source": { "kind": "bundle", "digest": digest } });
        self.post("deployments", body).await.ok().id()
    }

    /// Points `environment` at a fresh deployment; it is ready when this returns.
    pub async fn serve_fresh(&self, project: &Project, environment: &str) -> String {
        let deployment = self.deployment(project).await;
        self.serve(&deployment, environment).await;
        deployment
    }

    /// Makes a deployment ready in `environment` and points it there.
    pub async fn serve(&self, deployment: &str, environment: &str) {
        self.ready(environment, deployment).await;
        let moved = self.promote(deployment, environment, json!({})).await.ok();
        assert_eq!((moved.status, moved.body["changed"].as_bool()), (200, Some(true)), "{moved:?}");
    }

    pub async fn promote(&self, deployment: &str, environment: &str, more: Value) -> Answer {
        let body = json!({ "source_deployment_id": deployment, "target_environment_id": environment });
        self.post("deployments/promote", merged(body, more)).await
    }

    pub async fn rollback(&self, environment: &str, more: Value) -> Answer {
        self.post("deployments/rollback", merged(json!({ "environment_id": environment }), more)).await
    }

    /// What `environment` points at.
    pub async fn current(&self, environment: &str) -> Option<String> {
        let shown = self.get(&format!("environments/{environment}")).await.ok();
        shown.body["current_deployment_id"].as_str().map(str::to_owned)
    }

    /// The history of `environment`, newest first, as (kind, from, to).
    pub async fn history(&self, environment: &str) -> Vec<Value> {
        let shown = self.get(&format!("environments/{environment}/promotion-history?limit=200")).await.ok();
        shown.body["items"].as_array().unwrap().clone()
    }

    /// Stands in for the supervisor: one replica is ready.
    pub async fn ready(&self, environment: &str, deployment: &str) {
        let endpoint = Endpoint {
            id: Uuid::now_v7().into(),
            address: "127.0.0.1:9".parse().unwrap(),
            authority: None,
            secure: false,
            state: EndpointState::Ready,
            pid: None,
            since: Timestamp::now(),
        };
        self.change_pool(environment, deployment, |pool| {
            pool.state = PoolState::Running;
            pool.endpoints = vec![endpoint];
        })
        .await;
    }

    /// Stands in for the supervisor: the pool's replicas are gone, as after a drain.
    pub async fn stopped(&self, environment: &str, deployment: &str) {
        self.change_pool(environment, deployment, |pool| {
            pool.state = PoolState::Stopped;
            pool.endpoints.clear();
            (pool.closing_revision, pool.closing_since) = (None, None);
        })
        .await;
    }

    /// Stands in for the supervisor: replicas keep failing.
    pub async fn failing(&self, environment: &str, deployment: &str, message: &str) {
        self.change_pool(environment, deployment, |pool| pool.state = PoolState::Failing).await;
        let error = PoolError {
            at: Timestamp::now(),
            kind: PoolErrorKind::CrashLoop,
            message: message.to_owned(),
            output: vec!["Traceback".to_owned()],
            count: 3,
        };
        let mut tx = self.store.write().await.unwrap();
        tx.record_pool_error(pool_key(environment, deployment), &error).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn change_pool(&self, environment: &str, deployment: &str, change: impl FnOnce(&mut Pool)) {
        let key = pool_key(environment, deployment);
        let mut tx = self.store.write().await.unwrap();
        let found = tx.pool(key).await.unwrap();
        let mut pool = found.unwrap_or_else(|| Pool::starting(key, repoint::model::bounds::Bounds::default()));
        change(&mut pool);
        tx.put_pool(&pool).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn pool(&self, environment: &str, deployment: &str) -> Option<Pool> {
        self.store.read().await.unwrap().pool(pool_key(environment, deployment)).await.unwrap()
    }

    /// Everything a refusal must leave alone, to compare before and after.
    pub async fn everything(&self) -> String {
        let mut tx = self.store.read().await.unwrap();
        let page = store::Page { limit: 200, after: None };
        let mut all = format!("{:?}\n{:?}\n", self.store.head(), tx.waiting_moves().await.unwrap());
        for project in tx.projects(&page).await.unwrap().items {
            all += &format!("{project:?}\n{:?}\n", tx.deployments(project.id, &page).await.unwrap());
        }
        for environment in tx.environments(None, &page).await.unwrap().items {
            all += &format!("{environment:?}\n");
            for row in tx.promotions(environment.id, &page).await.unwrap().items {
                // Noted in the background, some time after the answer.
                all += &format!("{:?}\n", Promotion { applied_at: None, ..row });
            }
        }
        all + &format!("{:?}", tx.pools().await.unwrap())
    }
}

/// Waits for `look` to see what it looks for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let started = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(started.elapsed() < LONG, "waited in vain for {what}");
        pace.tick().await;
    }
}

/// A request for a deployment of endpoints.
pub fn endpoints(project: &Project) -> Value {
    json!({ "project_id": project.id, "source": { "kind": "endpoints", "endpoints": ["http://127.0.0.1:9"] } })
}

pub fn merged(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub fn pool_key(environment: &str, deployment: &str) -> PoolKey {
    let environment: EnvironmentId = environment.parse().unwrap();
    let deployment: DeploymentId = deployment.parse().unwrap();
    PoolKey { environment, deployment }
}
