//! The control plane's end: lets proxies in and keeps each one current.
//!
//! Owns the listener's rules: who may connect, how many snapshots run at a
//! time, how a stop is announced. One stream is `stream`'s business, what to
//! send next [`session`]'s. Nothing here waits for a proxy on behalf of another.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use crate::drain;
use crate::fleet::Fleet;
use crate::model::id::InstanceId;
use crate::stream::metrics::ServerMetrics;
use crate::stream::server::entry::Entry;
use crate::stream::server::roll::Roll;
use crate::stream::server::snapshots::Snapshots;
use crate::stream::server::stream::{Hellos, Shared, Stream};
use crate::stream::source::Source;
use crate::stream::{Error, Token};
use crate::wire::proto::control_stream_service_server::{ControlStreamService, ControlStreamServiceServer};
use crate::wire::proto::{SyncRequest, SyncResponse};

pub(super) mod bucket;
pub(super) mod entry;
pub(super) mod roll;
pub mod session;
pub(super) mod snapshots;
pub(super) mod status;
pub(super) mod stream;

/// How the control stream is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// What proxies must show.
    pub token: Token,
    /// The replicas are reachable on this machine only: proxies elsewhere are
    /// refused, because they would get addresses that are somebody else's there.
    pub replicas_local_only: bool,
    /// The proxy in this very process, which ends with it.
    pub embedded: Option<InstanceId>,
    /// A proxy hears something at least this often. 1 s: three missed ones show
    /// a dead stream before a person notices.
    pub heartbeat: Duration,
    /// How often a proxy says what it is doing.
    pub status: Duration,
    /// Proxies come back within this time after a stop or a loss, and
    /// a millisecond more for each that is remembered, so that they do not come
    /// all at once. Half a second for a few: a restart is hardly noticed.
    pub reconnect_spread: Duration,
    /// Proxies that may introduce themselves in a second. 2,000: about half of
    /// what one core lets in, so that moves go on beside a fleet that comes back.
    pub hellos_per_second: u32,
    /// The same at once, after a quiet second.
    pub hellos_at_once: u32,
    /// Snapshots sent at a time; further proxies are asked to come later. 4: a
    /// snapshot of a million environments is 125 MB.
    pub snapshots_max: usize,
    /// A stream on which the proxy says nothing for this long is ended.
    pub silence_max: Duration,
    /// Connections at a time; further ones are closed at once. 20,000: each
    /// proxy has one, and a fleet is hundreds; the limit of descriptors has to
    /// be raised for as many.
    pub connections_max: usize,
    /// A connection over which no stream is let in within this time is closed:
    /// whoever reaches the port may connect, also without the token.
    pub opening_max: Duration,
}

impl Config {
    /// The defaults, with this token.
    pub fn new(token: Token) -> Self {
        Self {
            token,
            replicas_local_only: false,
            embedded: None,
            heartbeat: Duration::from_secs(1),
            status: Duration::from_secs(1),
            reconnect_spread: Duration::from_millis(500),
            hellos_per_second: 2_000,
            hellos_at_once: 2_000,
            snapshots_max: 4,
            silence_max: Duration::from_secs(60),
            connections_max: 20_000,
            opening_max: Duration::from_secs(10),
        }
    }
}

/// Longest spread of reconnects: a third of the time in which a silent proxy is
/// still waited for.
const SPREAD_MAX: Duration = Duration::from_secs(20);

/// 1 ms: 10,000 proxies come back within ten seconds, half as fast as they are let in.
const SPREAD_EACH: Duration = Duration::from_millis(1);

/// Serves proxies on a listener until asked to stop; then sends them away and
/// waits for their streams to end.
///
/// # Errors
///
/// When the server cannot go on.
pub async fn serve<S: Source>(
    listener: TcpListener,
    source: S,
    fleet: Fleet,
    config: Config,
    metrics: ServerMetrics,
    drain: drain::Watch,
) -> Result<(), Error> {
    // Frames are small and waited for: none may sit in the kernel for another.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    serve_incoming(incoming, source, fleet, config, metrics, drain).await
}

/// The same, on any transport.
///
/// # Errors
///
/// When the server cannot go on.
pub async fn serve_incoming<S, Io, E>(
    incoming: impl tokio_stream::Stream<Item = Result<Io, E>>,
    source: S,
    fleet: Fleet,
    config: Config,
    metrics: ServerMetrics,
    drain: drain::Watch,
) -> Result<(), Error>
where
    S: Source,
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let snapshots = Snapshots::new(config.snapshots_max);
    let incoming = entry::guard(incoming, config.connections_max, config.opening_max);
    let mut stop = drain.clone();
    let roll = Roll::start(source.clone(), fleet.clone(), &drain);
    let hellos = Hellos::new(&config);
    let shared = Arc::new(Shared { source, fleet: fleet.clone(), config, metrics, snapshots, roll, hellos, drain });
    let serving = tonic::transport::Server::builder()
        // Rule 6: a proxy whose machine vanished is noticed although nothing is sent to it.
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        // One stream per proxy; a few more for a reconnect that overtakes its end.
        .max_concurrent_streams(8)
        .add_service(ControlStreamServiceServer::new(Service(shared)))
        .serve_with_incoming_shutdown(incoming, async move { stop.asked().await });
    tokio::select! {
        biased;
        never = pulses(fleet) => match never {},
        served = serving => served.map_err(Error::Serve),
    }
}

/// Shows that this process runs: the silence of proxies counts only while it does.
async fn pulses(fleet: Fleet) -> Infallible {
    #[cfg(test)]
    if super::tests::sabotage::is(super::tests::sabotage::Sabotage::OwnSilenceCounts) {
        std::future::pending::<()>().await;
    }
    let mut ticks = interval(PULSE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let slept = fleet.pulse();
        if !slept.is_zero() {
            warn!(
                slept_s = slept.as_secs(),
                "the control plane was stopped for a while: proxies are waited for as long"
            );
        }
    }
}

/// As often as `fleet` asks for it.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);

/// 10 s, answered within 5 s: as quick as `live` in fleet, without waking idle machines.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

struct Service<S>(Arc<Shared<S>>);

#[tonic::async_trait]
impl<S: Source> ControlStreamService for Service<S> {
    type SyncStream = ReceiverStream<Result<SyncResponse, Status>>;

    async fn sync(&self, request: Request<Streaming<SyncRequest>>) -> Result<Response<Self::SyncStream>, Status> {
        let entry = request.extensions().get::<Entry>().cloned();
        let address = entry.as_ref().and_then(|entry| entry.address);
        let address = address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        if let Err(status) = self.0.admit(&request, address) {
            warn!(%address, reason = status.message(), "proxy refused");
            return Err(status);
        }
        if let Some(entry) = entry {
            entry.opened();
        }
        let (outbound, responses) = mpsc::channel(OUTBOUND_MAX);
        let stream = Stream::new(Arc::clone(&self.0), address, outbound);
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// Frames ready to be written; the writer waits while there are two.
const OUTBOUND_MAX: usize = 2;

impl<S> Shared<S> {
    /// The time over which the fleet is to come back after a loss.
    pub(super) fn reconnect_spread(&self) -> Duration {
        let members = u32::try_from(self.fleet.count()).unwrap_or(u32::MAX);
        // A fleet that is configured to come back later does.
        let grown = self.config.reconnect_spread + SPREAD_EACH.saturating_mul(members);
        grown.min(SPREAD_MAX.max(self.config.reconnect_spread))
    }

    fn admit<T>(&self, request: &Request<T>, address: SocketAddr) -> Result<(), Status> {
        let shown = request.metadata().get("authorization");
        if !shown.is_some_and(|value| self.config.token.admits(value.as_bytes())) {
            return Err(Status::unauthenticated(
                "the control stream token is missing or wrong: give the proxy the control plane's token with --token-file",
            ));
        }
        if self.config.replicas_local_only && !address.ip().to_canonical().is_loopback() {
            return Err(Status::failed_precondition(
                "the replicas of this control plane listen on its own machine only: start it with \
                 --replica-advertise ADDR to say how proxies elsewhere reach them",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use crate::fleet;

    #[test]
    fn proxies_elsewhere_are_refused_while_replicas_are_local() {
        let token = Token::from_bytes([1; 32]);
        let shared = |replicas_local_only| Shared {
            source: (),
            fleet: Fleet::new(fleet::Config::default()),
            config: Config { replicas_local_only, ..Config::new(token.clone()) },
            metrics: ServerMetrics::default(),
            snapshots: Snapshots::new(1),
            roll: Roll::idle(),
            hellos: Hellos::new(&Config::new(token.clone())),
            drain: Drain::new().watch(),
        };
        let mut request = Request::new(());
        request.metadata_mut().insert("authorization", token.bearer().parse().unwrap());
        let elsewhere = "192.0.2.1:1".parse().unwrap();
        for here in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(shared(true).admit(&request, here.parse().unwrap()).is_ok(), "{here}");
        }
        let refused = shared(true).admit(&request, elsewhere).unwrap_err();
        assert!(refused.message().contains("--replica-advertise"), "{refused}");
        assert!(shared(false).admit(&request, elsewhere).is_ok());
        assert!(shared(false).admit(&Request::new(()), elsewhere).is_err(), "without a token");
    }
}
