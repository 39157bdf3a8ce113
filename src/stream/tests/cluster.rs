//! A control plane and its proxies on loopback, with verbs for tests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::drain::Drain;
use crate::fleet::{self, Fleet};
use crate::model::revision::Position;
use crate::routing::live::{Claimed, Live, Reader};
use crate::routing::table::Unresolved;
use crate::stream::Token;
use crate::stream::client::{self, Client, Link};
use crate::stream::last_known_good;
use crate::stream::last_known_good::folder::Folder;
use crate::stream::last_known_good::keeper::Keeper;
use crate::stream::last_known_good::metrics::DiskMetrics;
use crate::stream::metrics::{ClientMetrics, ServerMetrics};
use crate::stream::server::{self, serve};
use crate::stream::source::Source;

/// How long a test waits for what must come.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The control plane's end.
pub struct Control {
    pub address: SocketAddr,
    pub fleet: Fleet,
    pub metrics: ServerMetrics,
    drain: Drain,
    serving: JoinHandle<()>,
}

/// Quick enough for tests, slow enough for a busy machine.
pub fn config() -> server::Config {
    server::Config {
        heartbeat: Duration::from_millis(200),
        status: Duration::from_millis(50),
        reconnect_spread: Duration::from_millis(10),
        ..server::Config::new(token())
    }
}

pub fn token() -> Token {
    Token::from_bytes([1; 32])
}

impl Control {
    pub async fn start(source: impl Source) -> Self {
        Self::start_with(source, config()).await
    }

    pub async fn start_with(source: impl Source, config: server::Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, source, config)
    }

    /// Stops, and starts again on the same port with nothing remembered.
    pub async fn restart(self, source: impl Source) -> Self {
        let address = self.address;
        self.stop().await;
        Self::start_at(address, source).await
    }

    pub async fn start_at(address: SocketAddr, source: impl Source) -> Self {
        Self::serve(TcpListener::bind(address).await.unwrap(), source, config())
    }

    pub async fn stop(self) {
        self.drain.ask();
        timeout(LIMIT, self.serving).await.expect("a stop ends").unwrap();
    }

    fn serve(listener: TcpListener, source: impl Source, config: server::Config) -> Self {
        let address = listener.local_addr().unwrap();
        // Nobody but the proxies of the test may have been there before.
        let fleet = Fleet::new(fleet::Config { settle: Duration::ZERO, ..fleet::Config::default() });
        let (metrics, drain) = (ServerMetrics::default(), Drain::new());
        let serving = serve(listener, source, fleet.clone(), config, metrics.clone(), drain.watch());
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, fleet, metrics, drain, serving }
    }
}

/// A proxy's end.
pub struct Proxy {
    pub live: Arc<Live>,
    pub metrics: ClientMetrics,
    pub link: tokio::sync::watch::Receiver<Link>,
    drain: Drain,
    running: JoinHandle<()>,
}

impl Proxy {
    pub fn start(address: SocketAddr) -> Self {
        Self::start_with(address, Live::new(1), token())
    }

    /// A proxy that serves a table already, or shows another token.
    pub fn start_with(address: SocketAddr, live: Arc<Live>, token: Token) -> Self {
        Self::run(address, live, token, None)
    }

    /// A proxy that keeps its table in this folder, and begins with it.
    pub fn keeping(address: SocketAddr, folder: &Path) -> Self {
        let (folder, live) = (Folder::own(folder).unwrap(), Live::new(1));
        let keeper = Keeper::start(folder, last_known_good::Config::default(), &live, DiskMetrics::default()).unwrap();
        Self::run(address, live, token(), Some(keeper))
    }

    /// The same, from a disk of the test's own.
    pub fn keeping_with(address: SocketAddr, live: Arc<Live>, keeper: Keeper) -> Self {
        Self::run(address, live, token(), Some(keeper))
    }

    fn run(address: SocketAddr, live: Arc<Live>, token: Token, keeper: Option<Keeper>) -> Self {
        let config = client::Config {
            control: format!("http://{address}").parse().unwrap(),
            token,
            proxy_id: "a".into(),
            zone: "here".into(),
            insecure: false,
        };
        let metrics = ClientMetrics::default();
        let client = Client::new(config, Arc::clone(&live), metrics.clone()).unwrap();
        let client = if let Some(keeper) = keeper { client.keeping(keeper) } else { client };
        let (link, drain) = (client.link(), Drain::new());
        let running = tokio::spawn(client.run(drain.watch()));
        Self { live, metrics, link, drain, running }
    }

    /// Waits until the table stands there.
    pub async fn reaches(&mut self, position: Position) {
        self.link_shows(|link| link.applied == Some(position)).await;
        assert_eq!(self.live.position(), Some(position));
    }

    pub async fn link_shows(&mut self, shows: impl Fn(&Link) -> bool) -> Link {
        let waiting = timeout(LIMIT, self.link.wait_for(|link| shows(link))).await;
        let found = waiting.map(|link| link.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{:?}", *self.link.borrow()))
    }

    pub fn claim(&self, host: &str) -> Result<Claimed, Unresolved> {
        let mut reader: Reader = self.live.reader();
        let address = crate::routing::address::Address { host: host.as_bytes(), ..Default::default() };
        reader.claim(&address, 0)
    }

    pub async fn stop(self) -> Arc<Live> {
        self.drain.ask();
        timeout(LIMIT, self.running).await.expect("a stop ends").unwrap();
        self.live
    }
}

/// Waits until the fleet shows something.
pub async fn fleet_shows(fleet: &Fleet, shows: impl Fn(&Fleet) -> bool) {
    let mut changed = fleet.watch();
    let waiting = async {
        while !shows(fleet) {
            changed.changed().await.unwrap();
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{:?}", fleet.proxies()));
}
