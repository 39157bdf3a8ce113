//! The stage: an ingress with its table filled by hand, and both ends of the wire.
//!
//! A test plays client and replica itself, line by line, so that what was on the
//! wire when is never in doubt. Everything waits for a value, with a limit.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use repoint::ingress::config::Config;
use repoint::ingress::{self, Running};
use repoint::model::change::{EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, SettingsRecord};
use repoint::model::deployment::HostHeader;
use repoint::model::id::{DeploymentId, EndpointId, EnvironmentId, Lineage};
use repoint::model::manifest::Protocol;
use repoint::model::name::DeploymentRef;
use repoint::model::policy::Policy;
use repoint::model::pool::PoolKey;
use repoint::model::revision::{Digest, Position, Revision};
use repoint::routing::live::Live;
use repoint::telemetry::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// Longest wait for anything: far more than it takes, so that only a real fault ends it.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Waits for something with a limit.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it should have happened by now")
}

/// Waits until something is so.
pub async fn until(mut is_so: impl FnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    soon(async {
        while !is_so() {
            ticks.tick().await;
        }
    })
    .await;
}

/// An ingress and the table it reads.
pub struct Stage {
    pub live: Arc<Live>,
    pub metrics: Metrics,
    pub running: Running,
    environments: Vec<EnvironmentRecord>,
    pools: Vec<PoolRecord>,
    revision: u64,
}

pub fn environment_id(name: &str) -> EnvironmentId {
    Uuid::new_v5_like(name).into()
}

/// The id of deployment `n`.
pub fn deployment(n: u8) -> DeploymentId {
    Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)).into()
}

/// The ref of deployment `n`.
pub fn reference(n: u8) -> DeploymentRef {
    DeploymentRef::from_bytes([n; 8])
}

trait NamedUuid {
    fn new_v5_like(name: &str) -> Uuid;
}

impl NamedUuid for Uuid {
    /// Any injective map from short names will do.
    fn new_v5_like(name: &str) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Uuid::from_bytes(bytes)
    }
}

impl Stage {
    /// Two cores, a free port, no environment.
    pub fn open() -> Self {
        Self::with(|_| {})
    }

    /// The same with other settings.
    pub fn with(set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            threads: Some(2.try_into().unwrap()),
            ..Config::default()
        };
        set(&mut config);
        let live = Live::new(config.cores());
        let metrics = Metrics::default();
        let running = ingress::start(config, Arc::clone(&live), &metrics).unwrap();
        Self { live, metrics, running, environments: Vec::new(), pools: Vec::new(), revision: 0 }
    }

    /// `production` on deployment 1, served by `replicas`.
    pub fn serving(replicas: &[&Replica]) -> Self {
        let mut stage = Self::open();
        stage.environment("production", Some(1)).pool("production", 1, replicas).publish();
        stage
    }

    /// An environment of project `support`, at `support-{name}.localhost`.
    pub fn environment(&mut self, name: &str, pointer: Option<u8>) -> &mut Self {
        self.environments.retain(|environment| environment.name.as_str() != name);
        self.environments.push(EnvironmentRecord {
            id: environment_id(name),
            project: "support".parse().unwrap(),
            name: name.parse().unwrap(),
            hosts: vec![format!("support-{name}.localhost").parse().unwrap()],
            pointer: pointer.map(deployment),
            policy: Policy::default(),
        });
        self
    }

    /// The pool of deployment `n` in an environment.
    pub fn pool(&mut self, environment: &str, n: u8, replicas: &[&Replica]) -> &mut Self {
        let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
        self.pool_at(environment, n, &addresses)
    }

    /// The same, by address.
    pub fn pool_at(&mut self, environment: &str, n: u8, addresses: &[SocketAddr]) -> &mut Self {
        let key = PoolKey { environment: environment_id(environment), deployment: deployment(n) };
        let endpoints = addresses.iter().map(|address| EndpointRecord {
            id: endpoint(*address, key),
            address: *address,
            authority: None,
            secure: false,
            draining: false,
        });
        self.pools.retain(|pool| pool.key != key);
        self.pools.push(PoolRecord {
            key,
            reference: reference(n),
            state: PoolRecordState::Open,
            protocol: Protocol::Http1,
            host: HostHeader::Client,
            retry_on_reused_close: false,
            endpoints: endpoints.collect(),
        });
        self
    }

    /// Environments `e-0` and so on instead of all others, all on deployment 1 and served by one address.
    pub fn environments(&mut self, count: usize, address: SocketAddr) -> &mut Self {
        let mut other = Self { environments: Vec::new(), pools: Vec::new(), ..Self::open() };
        self.environments.clear();
        self.pools.clear();
        for name in (0..count).map(|n| format!("e-{n}")) {
            // Each alone: looking for one of the same name among thousands takes a while.
            other.environment(&name, Some(1)).pool_at(&name, 1, &[address]);
            self.environments.append(&mut other.environments);
            self.pools.append(&mut other.pools);
        }
        self
    }

    /// Changes the pool that was added last.
    pub fn change_pool(&mut self, change: impl FnOnce(&mut PoolRecord)) -> &mut Self {
        change(self.pools.last_mut().unwrap());
        self
    }

    /// Changes the policy of the environment that was added last.
    pub fn policy(&mut self, change: impl FnOnce(&mut Policy)) -> &mut Self {
        change(&mut self.environments.last_mut().unwrap().policy);
        self
    }

    /// Moves a pointer and publishes.
    pub fn promote(&mut self, name: &str, n: u8) {
        let environment = self.environments.iter_mut().find(|environment| environment.name.as_str() == name).unwrap();
        environment.pointer = Some(deployment(n));
        self.publish();
    }

    /// Puts what was said into the table.
    pub fn publish(&mut self) {
        let settings = SettingsRecord {
            base_domain: "localhost".parse().unwrap(),
            shared_hosts: vec!["api.example.com".parse().unwrap()],
        };
        let mut records = vec![Record::Settings(settings)];
        records.extend(self.environments.iter().cloned().map(Record::Environment));
        records.extend(self.pools.iter().cloned().map(Record::Pool));
        let records: Vec<_> = records
            .into_iter()
            .map(|record| {
                let digest = Digest::of_record(&record.key().to_string(), format!("{record:?}").as_bytes());
                (record, digest)
            })
            .collect();
        self.revision += 1;
        let position = Position {
            lineage: Lineage::from(Uuid::from_u128(1)),
            revision: Revision(self.revision),
            digest: records.iter().fold(Digest::default(), |sum, (_, digest)| sum.with(*digest)),
        };
        self.live.apply_snapshot(position, records).unwrap();
    }

    /// Where it listens on IPv4.
    pub fn address(&self) -> SocketAddr {
        self.running.addresses()[0]
    }

    /// A new client connection.
    pub async fn connect(&self) -> Wire {
        Wire::new(soon(TcpStream::connect(self.address())).await.unwrap())
    }

    /// A new client connection and one request on it.
    pub async fn send(&self, request: &str) -> Wire {
        let mut client = self.connect().await;
        client.say(request).await;
        client
    }

    /// Requests that hold a claim on deployment `n` in an environment.
    pub fn in_flight(&self, environment: &str, n: u8) -> u64 {
        let key = PoolKey { environment: environment_id(environment), deployment: deployment(n) };
        self.live.load().iter().filter(|load| load.key == key).map(|load| load.in_flight).sum()
    }

    /// The value of a metric, by its whole name with labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.text().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }
}

fn endpoint(address: SocketAddr, key: PoolKey) -> EndpointId {
    let pool = key.environment.uuid().as_u128() ^ key.deployment.uuid().as_u128();
    Uuid::from_u128((pool << 16) ^ u128::from(address.port())).into()
}

/// A request head for `production`, with further lines.
pub fn get(path: &str, lines: &[&str]) -> String {
    head("GET", path, "support-production.localhost", lines)
}

/// The same for POST.
pub fn post(path: &str, lines: &[&str]) -> String {
    head("POST", path, "support-production.localhost", lines)
}

/// A request head.
pub fn head(method: &str, path: &str, host: &str, lines: &[&str]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head + "\r\n"
}

/// An answer with a length.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A replica whose part the test plays.
pub struct Replica {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Replica {
    /// Listens; nothing is accepted until the test says so.
    pub async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The next connection from the ingress.
    pub async fn accept(&self) -> Wire {
        Wire::new(soon(self.listener.accept()).await.unwrap().0)
    }

    /// The same, however long it takes.
    pub async fn accept_whenever(&self) -> Wire {
        Wire::new(self.listener.accept().await.unwrap().0)
    }

    /// Whether nobody has tried to connect.
    pub async fn is_alone(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(20), self.listener.accept()).await.is_err()
    }

    /// Answers every request with `body`, for as long as the test goes on.
    pub fn always(self, body: &'static str) -> SocketAddr {
        let address = self.address;
        tokio::spawn(async move {
            while let Ok((stream, _)) = self.listener.accept().await {
                tokio::spawn(async move {
                    let mut wire = Wire::new(stream);
                    while wire.next_request().await.is_some() {
                        wire.say(&ok(body)).await;
                    }
                });
            }
        });
        address
    }
}

/// An address that refuses connections.
pub async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// An address whose accept queue is full: connections to it hang.
pub struct Full {
    _listener: socket2::Socket,
    _waiting: Vec<TcpStream>,
    pub address: SocketAddr,
}

impl Full {
    pub async fn listen() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        // The kernel takes one or two more than it was told.
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await {
            waiting.push(stream);
        }
        Self { _listener: listener, _waiting: waiting, address }
    }
}

/// One end of a connection, spoken by hand.
pub struct Wire {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// A message as it was on the wire.
pub struct Message {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Writes.
    pub async fn say(&mut self, text: &str) {
        soon(self.stream.write_all(text.as_bytes())).await.unwrap();
    }

    /// Reads a head, up to its empty line. `None` at the end of the connection.
    pub async fn next_head(&mut self) -> Option<Message> {
        if self.read.is_empty() && !self.more().await {
            return None;
        }
        let text = self.raw_head().await;
        let mut lines = text.trim_end().split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let headers = lines.map(|line| line.split_once(':').unwrap());
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Some(Message { line, headers, body: String::new() })
    }

    /// Reads a head as it is written.
    pub async fn raw_head(&mut self) -> String {
        let end = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end;
            }
            assert!(self.more().await, "half a head: {:?}", String::from_utf8_lossy(&self.read));
        };
        self.take(end + 4)
    }

    /// Reads a head that must come.
    pub async fn head(&mut self) -> Message {
        self.next_head().await.expect("a head, and not the end of the connection")
    }

    /// Reads a message with its body, by length or chunks.
    pub async fn message(&mut self) -> Message {
        let mut message = self.head().await;
        message.body = self.body_of(&message).await;
        message
    }

    /// Reads a request with its body; `None` at the end of the connection.
    pub async fn next_request(&mut self) -> Option<Message> {
        let mut message = self.next_head().await?;
        message.body = self.body_of(&message).await;
        Some(message)
    }

    async fn body_of(&mut self, message: &Message) -> String {
        if let Some(length) = message.header("content-length") {
            return self.exactly(length.parse().unwrap()).await;
        }
        let mut body = String::new();
        if message.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await {
                body.push_str(&chunk);
            }
        }
        body
    }

    /// Reads so many bytes.
    pub async fn exactly(&mut self, count: usize) -> String {
        while self.read.len() < count {
            assert!(self.more().await, "the end after {} of {count} bytes", self.read.len());
        }
        self.take(count)
    }

    /// Reads a chunk; `None` for the last one and the end of the message.
    pub async fn chunk(&mut self) -> Option<String> {
        let length = usize::from_str_radix(self.line().await.split(';').next().unwrap(), 16).unwrap();
        if length == 0 {
            while !self.line().await.is_empty() {}
            return None;
        }
        let chunk = self.exactly(length).await;
        assert_eq!(self.line().await, "");
        Some(chunk)
    }

    /// Reads a line.
    pub async fn line(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.read, b"\r\n") {
                let line = self.take(end + 2);
                return line.trim_end().to_owned();
            }
            assert!(self.more().await, "the end within a line: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Reads to the end of the connection, however that comes.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        let all = self.read.len();
        self.take(all)
    }

    /// Waits for the end, before which nothing comes.
    pub async fn ends(&mut self) {
        let rest = self.rest().await;
        assert_eq!(rest, "", "nothing should come before the end");
    }

    /// Whether nothing has come. For what must not happen a short look has to do.
    pub async fn is_silent(&mut self) -> bool {
        self.read.is_empty() && tokio::time::timeout(Duration::from_millis(30), self.stream.readable()).await.is_err()
    }

    async fn more(&mut self) -> bool {
        // A reset ends a connection as much as a close does.
        soon(self.stream.read_buf(&mut self.read)).await.is_ok_and(|read| read > 0)
    }

    fn take(&mut self, count: usize) -> String {
        String::from_utf8(self.read.drain(..count).collect()).unwrap()
    }
}

impl Message {
    /// The only value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} more than once in {self}");
        first
    }

    /// Every value of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The code of an error answer.
    pub fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self}"));
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(body["error"]["message"].is_string() && body["error"]["details"].is_object(), "{self}");
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {value}")?;
        }
        write!(f, "\n{}", self.body)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
