//! The proxy's end: keeps the table current, and says so.
//!
//! Owns the connection and its return after a loss. What to do about a message
//! is [`session`]'s decision, applying it is `routing::live`'s. Losing the
//! stream changes nothing but a gauge: the last table keeps serving (invariant 7).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream;
use http::Uri;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::drain;
use crate::model::change::Record;
use crate::model::id::InstanceId;
use crate::model::revision::{Digest, Position, Revision};
use crate::routing::change::Refusal;
use crate::routing::live::Live;
use crate::stream::client::backoff::Backoff;
use crate::stream::client::outbox::{Due, Outbox};
use crate::stream::client::session::{Action, Broken, Session, Work, refusal, unreadable};
use crate::stream::last_known_good::keeper::Keeper;
use crate::stream::metrics::ClientMetrics;
use crate::stream::{BUILD, Error, Token};
use crate::wire::MINOR;
use crate::wire::proto::control_stream_service_client::ControlStreamServiceClient;
use crate::wire::proto::{SyncRequest, SyncResponse};
use crate::wire::request::{Ack, Hello, Nack};
use crate::wire::response::{GoAway, Response, SyncMode, Welcome};

mod backoff;
pub(super) mod outbox;
mod pace;
pub(super) mod report;
pub mod session;

/// Whom to follow, and under which name.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the control plane is: `http://HOST:PORT`.
    pub control: Uri,
    /// What to show it.
    pub token: Token,
    /// This proxy's name, the same after a restart.
    pub proxy_id: String,
    /// Where it runs, for people; may be empty.
    pub zone: String,
    /// Dial other machines although nothing is encrypted.
    pub insecure: bool,
}

/// How the stream is, for readiness and for people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Whether a stream is up.
    pub connected: bool,
    /// Where the control plane was when it was last heard.
    pub head: Option<Position>,
    /// Where the table stands.
    pub applied: Option<Position>,
    /// Why there is no stream, when there is none.
    pub problem: Option<String>,
}

/// A proxy's control stream. Nothing happens before [`Client::run`].
pub struct Client {
    config: Config,
    endpoint: Endpoint,
    bearer: MetadataValue<Ascii>,
    live: Arc<Live>,
    metrics: ClientMetrics,
    instance: InstanceId,
    link: watch::Sender<Link>,
    keeper: Option<Keeper>,
    /// Earlier runs of this proxy whose process has ended.
    ended: Vec<InstanceId>,
    /// Loads a whole table.
    loading: Loading,
}

/// Does what it is given, which takes much memory for a moment.
pub type Loading = fn(&mut dyn FnMut());

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("connect to the control plane")]
    Connect(#[source] tonic::transport::Error),
    #[error("follow the control plane: {}", .0.message())]
    Refused(Status),
    #[error("hear from the control plane: the stream ended")]
    Closed,
    #[error("hear from the control plane: three heartbeats were missed")]
    Silent,
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("stay connected: the control plane asked to come back later ({})", .0.reason.as_str_name())]
    Away(GoAway),
    #[error("keep the table on disk without a gap: all of it is asked for again")]
    Gap,
    #[error("keep the table: a successor has it now")]
    HandedOn,
    #[error("go on: stopped")]
    Stopped,
}

/// Connecting takes a moment even across oceans; 5 s covers two lost packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Rule 6, as on the other side.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A frame is about 1 MiB, 2 at most, or one record of a snapshot, however large:
/// more than any control plane means to send.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;
/// Time for the last words when stopping.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

impl Client {
    /// A client of `config.control` that will keep `live` current.
    ///
    /// # Errors
    ///
    /// When the address cannot be dialled, or only in clear across a network.
    pub fn new(config: Config, live: Arc<Live>, metrics: ClientMetrics) -> Result<Self, Error> {
        let uri = config.control.clone();
        let host =
            uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(|| Error::Address(uri.clone()))?;
        if !config.insecure && !is_loopback(host) {
            return Err(Error::Plaintext(uri));
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let bearer = config.token.bearer().parse().map_err(|_| Error::Token)?;
        let instance = Uuid::new_v4().into();
        let link = watch::Sender::new(Link::default());
        Ok(Self {
            config,
            endpoint,
            bearer,
            live,
            metrics,
            instance,
            link,
            keeper: None,
            ended: Vec::new(),
            loading: |load| load(),
        })
    }

    /// The same, as the successor of runs whose process has ended: the control
    /// plane waits for them no longer.
    pub fn following_on(mut self, ended: Vec<InstanceId>) -> Self {
        self.ended = ended;
        self
    }

    /// The same, with whole tables loaded by this.
    pub fn loading_with(mut self, loading: Loading) -> Self {
        self.loading = loading;
        self
    }

    /// The same, with what is applied kept on disk. The keeper has loaded its
    /// table already, if there was one.
    pub fn keeping(mut self, keeper: Keeper) -> Self {
        let loaded = keeper.loaded();
        if let Some(at) = loaded.and_then(|loaded| loaded.changed_at) {
            // Not heard since then, for all we know.
            self.metrics.heard.set(seconds(at));
        }
        let position = loaded.map(|loaded| loaded.position);
        self.metrics.applied_revision.set(gauge(position));
        self.link.send_modify(|link| link.applied = position);
        self.keeper = Some(keeper);
        self
    }

    /// This run, as the control plane knows it.
    pub fn instance_id(&self) -> InstanceId {
        self.instance
    }

    /// How the stream is, now and from now on.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Keeps the table current over TCP until `drain` asks; then says goodbye.
    /// Ask only when no request is held any more.
    pub async fn run(self, drain: drain::Watch) {
        self.run_with(async |endpoint: &Endpoint| endpoint.connect().await, drain).await;
    }

    /// The same, over whatever `connect` connects to.
    pub async fn run_with<C>(mut self, connect: C, mut drain: drain::Watch)
    where
        C: AsyncFn(&Endpoint) -> Result<Channel, tonic::transport::Error>,
    {
        let _hold = drain.hold();
        self.dial(connect, &mut drain).await;
        if let Some(keeper) = self.keeper.take() {
            keeper.close().await;
        }
    }

    async fn dial<C>(&self, connect: C, drain: &mut drain::Watch)
    where
        C: AsyncFn(&Endpoint) -> Result<Channel, tonic::transport::Error>,
    {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let end = match connect(&self.endpoint).await {
                Ok(channel) => self.follow(channel, &mut backoff, drain).await,
                Err(error) => End::Connect(error),
            };
            self.lost(&end);
            let pause = match end {
                End::Stopped => return,
                End::Away(away) => Backoff::asked(away, fastrand::f64()),
                // The control plane is not to wait for a disk that is somebody else's.
                End::HandedOn => Duration::ZERO,
                _ => backoff.pause(begun.elapsed(), fastrand::f64()),
            };
            tokio::select! {
                biased;
                () = drain.asked() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// One stream, from Hello to its end.
    async fn follow(&self, channel: Channel, backoff: &mut Backoff, drain: &mut drain::Watch) -> End {
        let outbox = Arc::new(Outbox::new(Arc::clone(&self.live), self.hello()));
        let mut disk = self.keeper().map(Keeper::watch);
        let opening = self.open(channel, Arc::clone(&outbox));
        let mut inbound = match timeout(CONNECT_TIMEOUT, opening).await {
            Ok(Ok(inbound)) => inbound,
            Ok(Err(status)) => return End::Refused(status),
            Err(_) => return End::Silent,
        };
        let mut session = Session::new(Instant::now().into_std());
        let mut statuses = interval(DEFAULT_STATUS_INTERVAL);
        statuses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // In the same order every time, so that a simulation replays: what is rare
                // first, silence last, because who was stalled finds what came meanwhile.
                biased;
                () = drain.asked() => {
                    outbox.goodbye();
                    // The server ends the stream once it has heard.
                    let _ = timeout(GOODBYE_TIMEOUT, async { while let Ok(Some(_)) = inbound.message().await {} }).await;
                    return End::Stopped;
                }
                _ = statuses.tick() => outbox.status(Due::Whole),
                () = self.live.idle_notify().notified() => outbox.status(Due::Busy),
                is_there = changed(&mut disk) => match self.keeper() {
                    None => return End::HandedOn,
                    Some(keeper) if keeper.wants_snapshot() => return End::Gap,
                    Some(_) if is_there => outbox.durable(self.ack()),
                    // The thread that keeps the table is gone: no news from there.
                    Some(_) => disk = None,
                },
                message = inbound.message() => match message {
                    Ok(Some(message)) => match self.hear(&mut session, &outbox, message) {
                        Ok(None) => {}
                        Ok(Some(welcome)) => {
                            backoff.welcomed(welcome.reconnect_spread);
                            if welcome.mode == SyncMode::Resume {
                                outbox.ack(self.ack());
                            }
                            statuses = interval(welcome.status_interval.clamp(STATUS_MIN, STATUS_MAX));
                            statuses.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        }
                        Err(end) => return end,
                    },
                    Ok(None) => return End::Closed,
                    Err(status) => return End::Refused(status),
                },
                () = sleep_until(Instant::from_std(session.deadline())) => return End::Silent,
            }
        }
    }

    async fn open(&self, channel: Channel, outbox: Arc<Outbox>) -> Result<Streaming<SyncResponse>, Status> {
        let requests = stream::unfold(outbox, |outbox| async move {
            let request = SyncRequest::from(outbox.next().await?);
            Some((request, outbox))
        });
        let mut request = Request::new(requests);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        let client = ControlStreamServiceClient::new(channel);
        let mut client = client.max_decoding_message_size(FRAME_BYTES_MAX);
        Ok(client.sync(request).await?.into_inner())
    }

    /// Does what a message asks for. Answers the Welcome, when it was that.
    fn hear(&self, session: &mut Session, outbox: &Outbox, message: SyncResponse) -> Result<Option<Welcome>, End> {
        let done = self.act(session, outbox, message);
        session.acted(Instant::now().into_std());
        done
    }

    fn act(&self, session: &mut Session, outbox: &Outbox, message: SyncResponse) -> Result<Option<Welcome>, End> {
        let have = self.live.position();
        let response = match Response::try_from(message) {
            Ok(response) => response,
            Err(error) => {
                // Revision 0: it is not known what it was.
                self.refuse(outbox, unreadable(have, Revision(0), &error));
                return Ok(None);
            }
        };
        self.heard(&response);
        if let Some(keeper) = &self.keeper {
            keeper.heard(&response);
        }
        match session.receive(response, have, Instant::now().into_std())? {
            Action::None => {}
            Action::Begin(welcome) => {
                self.begun(&welcome);
                return Ok(Some(welcome));
            }
            Action::Apply(work) => self.apply(outbox, have, work),
            Action::Refuse(nack) => self.refuse(outbox, nack),
            Action::Leave(away) => return Err(End::Away(away)),
        }
        Ok(None)
    }

    /// Invariant 6: `applied` is acknowledged after publishing; a refused change
    /// leaves the table as it was and is reported.
    fn apply(&self, outbox: &Outbox, have: Option<Position>, work: Work) {
        #[cfg(test)]
        let Some(work) = super::tests::sabotage::acked_before_publish(&self.live, outbox, work) else { return };
        let (revision, closes) = (work.revision(), work.closes());
        let (counter, applied) = match work {
            Work::Snapshot { position, records, is_stamped } => {
                (&self.metrics.snapshots, self.load(position, records, is_stamped))
            }
            Work::Delta { from, to, changes } => (&self.metrics.deltas, self.live.apply_delta(from, to, changes)),
        };
        if let Err(refused) = applied {
            return self.refuse(outbox, refusal(have, revision, &refused));
        }
        counter.inc();
        let applied = self.live.position();
        if let Some(keeper) = &self.keeper {
            keeper.applied();
        }
        outbox.ack(self.ack());
        if closes {
            outbox.status(Due::Busy);
        }
        self.metrics.applied_revision.set(gauge(applied));
        self.link.send_modify(|link| link.applied = applied);
    }

    fn load(&self, position: Position, records: Vec<(Record, Digest)>, is_stamped: bool) -> Result<(), Refusal> {
        let apply = if is_stamped { Live::apply_stamped_snapshot } else { Live::apply_snapshot };
        let (mut records, mut loaded) = (Some(records), Ok(()));
        (self.loading)(&mut || loaded = apply(&self.live, position, records.take().unwrap_or_default()));
        loaded
    }

    /// Where the table stands, published and on disk.
    fn ack(&self) -> Ack {
        Ack { applied: self.live.position(), durable: self.keeper().and_then(Keeper::durable) }
    }

    fn refuse(&self, outbox: &Outbox, nack: Nack) {
        error!(
            revision = %nack.refused, reason = nack.reason.as_str_name(), keys = ?nack.keys, detail = nack.detail,
            "change refused; the table stays as it was"
        );
        self.metrics.refused.inc();
        outbox.nack(nack);
    }

    /// What keeps the table, while that is ours to keep.
    fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref().filter(|keeper| !keeper.is_given_up())
    }

    fn hello(&self) -> Hello {
        let wants_snapshot = self.keeper().is_some_and(Keeper::take_wants_snapshot);
        Hello {
            proxy_id: self.config.proxy_id.clone(),
            instance_id: self.instance,
            build: BUILD.to_owned(),
            minor: MINOR,
            zone: self.config.zone.clone(),
            // A proxy without a table is sent all of it, which the disk needs.
            position: self.live.position().filter(|_| !wants_snapshot),
            keeps_table: self.keeper().is_some(),
            ended: self.ended.clone(),
        }
    }

    fn heard(&self, response: &Response) {
        let head = match response {
            Response::Welcome(welcome) => Some(welcome.head),
            Response::Heartbeat(head) => Some(*head),
            Response::Delta(delta) => Some(delta.to),
            Response::SnapshotChunk(_) | Response::GoAway(_) => None,
        };
        self.metrics.heard.set(seconds(SystemTime::now()));
        if head.is_some() {
            self.metrics.head_revision.set(gauge(head));
            self.link.send_if_modified(|link| std::mem::replace(&mut link.head, head) != head);
        }
    }

    fn begun(&self, welcome: &Welcome) {
        info!(
            control = %self.config.control, build = welcome.build, mode = welcome.mode.as_str_name(),
            head = %welcome.head.revision, "following the control plane"
        );
        self.metrics.connects.inc();
        self.metrics.connected.set(1);
        self.link.send_modify(|link| {
            link.connected = true;
            link.problem = None;
        });
    }

    fn lost(&self, end: &End) {
        if let Some(keeper) = &self.keeper {
            keeper.forget();
        }
        self.metrics.connected.set(0);
        let problem = match end {
            End::Stopped | End::HandedOn => None,
            end => Some(chain(end)),
        };
        // Once per reason: a control plane that is down for a day is one line.
        if problem.is_some() && self.link.borrow().problem != problem {
            let reason = problem.as_deref();
            warn!(control = %self.config.control, reason, "control stream lost; the last table keeps serving");
        }
        self.link.send_modify(|link| {
            link.connected = false;
            link.problem = problem;
        });
    }
}

/// Until Welcome says otherwise.
const DEFAULT_STATUS_INTERVAL: Duration = Duration::from_secs(1);
const STATUS_MIN: Duration = Duration::from_millis(10);
const STATUS_MAX: Duration = Duration::from_secs(60);

/// Whether what is sent to this host stays on this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn gauge(position: Option<Position>) -> i64 {
    position.map_or(0, |position| i64::try_from(position.revision.0).unwrap_or(i64::MAX))
}

fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Resolves when there is news from the disk, with true, or when there will be
/// none any more; never, where no table is kept.
async fn changed(disk: &mut Option<watch::Receiver<Option<Position>>>) -> bool {
    match disk {
        Some(durable) => durable.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

fn chain(end: &End) -> String {
    let mut text = format!("failed to {end}");
    let mut source = std::error::Error::source(end);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(control: &'static str, insecure: bool) -> Result<Client, Error> {
        let config = Config {
            control: Uri::from_static(control),
            token: Token::from_bytes([1; 32]),
            proxy_id: "a".into(),
            zone: String::new(),
            insecure,
        };
        Client::new(config, Live::new(1), ClientMetrics::default())
    }

    #[test]
    fn plaintext_stays_on_this_machine_unless_asked() {
        for local in ["http://127.0.0.1:8091", "http://[::1]:8091", "http://localhost:8091"] {
            assert!(client(local, false).is_ok(), "{local}");
        }
        let refused = client("http://control.example.com:8091", false).map(drop).unwrap_err();
        assert!(refused.to_string().contains("--insecure-control"), "{refused}");
        assert!(client("http://control.example.com:8091", true).is_ok());
    }

    #[test]
    fn what_cannot_be_dialled_is_refused_with_an_example() {
        for bad in ["https://127.0.0.1:8091", "127.0.0.1:8091", "/stream"] {
            let refused = client(bad, true).map(drop).unwrap_err();
            assert!(refused.to_string().contains("http://HOST:PORT"), "{refused}");
        }
    }
}
