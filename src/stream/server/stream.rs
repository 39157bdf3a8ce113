//! One proxy's stream: a reader and a writer that never wait for each other.
//!
//! The reader turns what the proxy says into facts for `fleet` and the session;
//! the writer carries out what the session asks for. They share the session and
//! a bell, so a proxy that does not read cannot stop its own acks from counting.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};
use tonic::{Status, Streaming};
use tracing::{debug, error, info, warn};

use crate::drain;
use crate::fleet::Fleet;
use crate::fleet::member::{Greeting, Refused};
use crate::fleet::members::Session as Membership;
use crate::model::revision::{Position, Revision};
use crate::store;
use crate::stream::BUILD;
use crate::stream::metrics::ServerMetrics;
use crate::stream::server::Config;
use crate::stream::server::bucket::Bucket;
use crate::stream::server::roll::Roll;
use crate::stream::server::session::{Session, Step};
use crate::stream::server::snapshots::Snapshots;
use crate::stream::server::status::{Statuses, reason};
use crate::stream::source::Source;
use crate::wire::MINOR;
use crate::wire::proto::{NackReason, SyncRequest, SyncResponse};
use crate::wire::request::{Ack, Hello, Nack, Request};
use crate::wire::response::{GoAway, GoAwayReason, Response, Welcome};

mod frames;

/// What all streams of one server share.
pub struct Shared<S> {
    pub source: S,
    pub fleet: Fleet,
    pub config: Config,
    pub metrics: ServerMetrics,
    pub snapshots: Snapshots,
    pub roll: Roll,
    pub hellos: Hellos,
    pub drain: drain::Watch,
}

/// The tokens for introductions, shared by all streams.
pub struct Hellos(Mutex<Bucket>);

impl Hellos {
    pub fn new(config: &Config) -> Self {
        let now = Instant::now().into_std();
        Self(Mutex::new(Bucket::new(config.hellos_per_second, config.hellos_at_once, now)))
    }

    fn take(&self) -> Result<(), Duration> {
        // Nothing in the bucket is half-done after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now().into_std())
    }
}

/// One proxy's stream.
pub struct Stream<S> {
    shared: Arc<Shared<S>>,
    address: SocketAddr,
    outbound: mpsc::Sender<Result<SyncResponse, Status>>,
}

/// Why a stream ended.
enum End {
    /// The proxy is gone, or has said goodbye.
    Closed,
    /// It is to come back later.
    Away(GoAway),
    /// It cannot go on.
    Failed(Status),
}

/// A proxy that has introduced itself.
struct Joined {
    proxy_id: String,
    membership: Membership,
    /// The newest protocol minor it understands.
    minor: u32,
    session: Mutex<Session>,
    /// Rung by the reader when the writer should look at the session again.
    bell: Notify,
}

/// What the proxy hears however little there is to say.
struct Pulse {
    head: watch::Receiver<Position>,
    ticks: Interval,
}

/// The first message comes with the connection; 10 s is a slow handshake.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a token a proxy stays away for this long at least.
const HELLO_DELAY: Duration = Duration::from_millis(250);

impl<S: Source> Stream<S> {
    pub fn new(
        shared: Arc<Shared<S>>,
        address: SocketAddr,
        outbound: mpsc::Sender<Result<SyncResponse, Status>>,
    ) -> Self {
        Self { shared, address, outbound }
    }

    pub async fn run(self, inbound: Streaming<SyncRequest>) {
        // A stop waits until the proxy has been told to come back.
        let _hold = self.shared.drain.hold();
        let end = self.converse(inbound).await;
        match end {
            End::Closed => {}
            End::Away(away) => {
                debug!(address = %self.address, reason = ?away.reason, "proxy sent away");
                let _ = self.send(Response::GoAway(away)).await;
            }
            End::Failed(status) => {
                warn!(address = %self.address, reason = status.message(), "control stream failed");
                // The proxy may be gone; then nobody needs to be told.
                let _ = self.outbound.send(Err(status)).await;
            }
        }
    }

    async fn converse(&self, mut inbound: Streaming<SyncRequest>) -> End {
        let hello = match timeout(HELLO_TIMEOUT, next(&mut inbound)).await {
            Ok(Ok(Some(Request::Hello(hello)))) => hello,
            Ok(Ok(None)) => return End::Closed,
            Ok(Ok(Some(_))) => return End::Failed(Status::invalid_argument("the first message must be Hello")),
            Ok(Err(status)) => return End::Failed(status),
            Err(_) => return End::Failed(Status::deadline_exceeded("no Hello came within 10 seconds")),
        };
        // Rule 3: before the log, the members and the store are asked.
        if let Err(spread) = self.shared.hellos.take() {
            self.shared.metrics.turned_away.inc();
            return End::Away(GoAway { reason: GoAwayReason::Overloaded, delay: HELLO_DELAY, spread });
        }
        let mut drain = self.shared.drain.clone();
        let joined = match self.join(hello).await {
            Ok(joined) => joined,
            Err(end) => return end,
        };
        self.shared.metrics.streams.inc();
        // The three are polled in one task: none of them waits for another.
        // In the same order every time, here and below, so that a simulation replays.
        let end = tokio::select! {
            biased;
            () = drain.asked() => End::Away(GoAway {
                reason: GoAwayReason::Shutdown,
                delay: Duration::ZERO,
                spread: self.shared.reconnect_spread(),
            }),
            end = joined.read(&self.shared, &mut inbound) => end,
            end = self.write(&joined) => end,
        };
        self.shared.metrics.streams.dec();
        self.shared.fleet.lost(&joined.membership);
        info!(proxy = joined.proxy_id, address = %self.address, "control stream ended");
        end
    }

    /// Compares where the proxy stands with the log, and makes it a member
    /// before it is welcomed.
    async fn join(&self, hello: Hello) -> Result<Joined, End> {
        let head = *self.shared.source.watch_head().borrow();
        let mut session = Session::new(hello.position);
        // Rule 10: of a proxy that is ahead of what is in memory the log is asked, too.
        let ahead = hello.position.filter(|_| session.is_ahead(head));
        let asked = match session.next(head, Instant::now().into_std()) {
            Step::Compare(at) => Some(at),
            _ => ahead,
        };
        if let Some(at) = asked {
            let logged = self.shared.source.position_at(at.revision).await.map_err(|error| unavailable(&error))?;
            // A proxy that is ahead of the log stands where it may get to; nothing is known of that yet.
            if ahead.is_none() || logged.is_some() {
                session.compared(logged);
            }
        }
        let mode = session.mode(head);
        info!(
            proxy = hello.proxy_id, instance = %hello.instance_id, build = hello.build, address = %self.address,
            at = hello.position.map_or(0, |at| at.revision.0), head = %head.revision, mode = mode.as_str_name(),
            "control stream begins"
        );
        let ahead = session.is_ahead(head);
        let membership = self.shared.fleet.hello(Greeting {
            proxy_id: hello.proxy_id.clone(),
            instance_id: hello.instance_id,
            build: hello.build,
            zone: hello.zone,
            address: self.address,
            applied: hello.position.and_then(|at| session.recognised(at)),
            keeps_table: hello.keeps_table,
            ahead,
            embedded: self.shared.config.embedded == Some(hello.instance_id),
            ended: hello.ended,
        });
        if ahead {
            self.tell_of_ahead(&hello.proxy_id, head);
        }
        // A proxy that has been given changes is remembered, whatever happens here next.
        if !self.shared.roll.has(&self.shared.fleet, &membership).await {
            self.shared.fleet.lost(&membership);
            return Err(End::Failed(Status::unavailable("the control plane cannot write to its store")));
        }
        let config = &self.shared.config;
        let welcome = Welcome {
            head,
            mode,
            heartbeat_interval: config.heartbeat,
            status_interval: config.status,
            reconnect_spread: self.shared.reconnect_spread(),
            minor: MINOR,
            build: BUILD.to_owned(),
        };
        if let Err(end) = self.send(Response::Welcome(welcome)).await {
            self.shared.fleet.lost(&membership);
            return Err(end);
        }
        let session = Mutex::new(session);
        Ok(Joined { proxy_id: hello.proxy_id, membership, minor: hello.minor, session, bell: Notify::new() })
    }

    fn tell_of_ahead(&self, proxy_id: &str, head: Position) {
        warn!(
            proxy = proxy_id, head = %head.revision,
            "this proxy has applied changes that the store does not know, and gets nothing until the store is past them"
        );
        if self.shared.fleet.are_all_ahead() {
            error!(
                head = %head.revision,
                "every proxy that is connected has applied changes that the store does not know: an older copy of \
                 the store was put back; give it a new lineage with `repoint restore`, so that the proxies take what \
                 it has"
            );
        }
    }

    async fn write(&self, joined: &Joined) -> End {
        match self.try_write(joined).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_write(&self, joined: &Joined) -> Result<std::convert::Infallible, End> {
        let Config { heartbeat, .. } = self.shared.config;
        let mut ticks = interval_at(Instant::now() + heartbeat, heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = Pulse { head: self.shared.source.watch_head(), ticks };
        loop {
            let at = *pulse.head.borrow_and_update();
            let now = Instant::now();
            let step = joined.session().next(at, now.into_std());
            let until = match step {
                Step::Wait => None,
                Step::WaitUntil(until) => Some(Instant::from_std(until)),
                Step::Compare(at) => {
                    let logged = self.reading(joined, &mut pulse, self.shared.source.position_at(at.revision)).await?;
                    joined.session().compared(logged);
                    continue;
                }
                Step::Delta { from, net } => {
                    self.send_delta(joined, &mut pulse, from, net).await?;
                    continue;
                }
                Step::Snapshot => {
                    self.send_snapshot(joined, &mut pulse, at).await?;
                    continue;
                }
            };
            tokio::select! {
                biased;
                () = self.outbound.closed() => return Err(End::Closed),
                _ = pulse.ticks.tick() => self.beat(joined, at)?,
                // The store is going away, and the server with it.
                moved = pulse.head.changed() => moved.map_err(|_| End::Closed)?,
                () = joined.bell.notified() => {}
                () = sleep_until(until.unwrap_or(now)), if until.is_some() => {}
            }
        }
    }

    /// Waits for the store without losing the proxy: to it, a long read would
    /// look like a dead stream, and the next stream would begin with the same read.
    async fn reading<T>(
        &self,
        joined: &Joined,
        pulse: &mut Pulse,
        read: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, End> {
        let mut read = pin!(read);
        loop {
            tokio::select! {
                biased;
                () = self.outbound.closed() => return Err(End::Closed),
                read = &mut read => return read.map_err(|error| unavailable(&error)),
                _ = pulse.ticks.tick() => {
                    let head = *pulse.head.borrow();
                    self.beat(joined, head)?;
                }
            }
        }
    }

    /// Does not wait: where frames wait to be written, the proxy hears those,
    /// and a read must not stand still for it, because others wait for the read.
    fn beat(&self, joined: &Joined, head: Position) -> Result<(), End> {
        if !self.shared.fleet.is_current(&joined.membership) {
            return Err(away(GoAwayReason::Superseded, Duration::ZERO));
        }
        match self.outbound.try_send(Ok(Response::Heartbeat(head).into())) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(End::Closed),
        }
    }

    async fn send(&self, response: Response) -> Result<(), End> {
        self.outbound.send(Ok(response.into())).await.map_err(|_| End::Closed)
    }
}

impl Joined {
    async fn read<S>(&self, shared: &Shared<S>, inbound: &mut Streaming<SyncRequest>) -> End {
        let mut statuses = Statuses::default();
        loop {
            let request = match timeout(shared.config.silence_max, next(inbound)).await {
                Ok(Ok(Some(request))) => request,
                Ok(Ok(None)) => return End::Closed,
                Ok(Err(status)) => return End::Failed(status),
                Err(_) => return End::Failed(Status::deadline_exceeded("the proxy said nothing for too long")),
            };
            match request {
                Request::Hello(_) => return End::Failed(Status::invalid_argument("a second Hello on one stream")),
                Request::Ack(ack) => self.acked(shared, ack),
                Request::Nack(nack) => self.refused(shared, nack),
                Request::Status(status) => {
                    let Some(status) = statuses.take(status) else { continue };
                    let applied = self.seen(status.applied);
                    shared.fleet.status(&self.membership, status.report(applied));
                    // What it has published it has applied, should its ack be lost.
                    shared.fleet.ack(&self.membership, applied, None);
                }
                // Nothing sleeps yet, so nothing needs to be woken.
                Request::Demand(_) => {}
                Request::Goodbye => {
                    shared.fleet.goodbye(&self.membership);
                    shared.roll.strike_out();
                    return End::Closed;
                }
            }
            self.bell.notify_one();
        }
    }

    fn acked<S>(&self, shared: &Shared<S>, ack: Ack) {
        let mut session = self.session();
        if ack.applied.is_some_and(|applied| !session.ack(applied, Instant::now().into_std())) {
            self.diverged(shared);
        }
        let recognised = |position: Option<Position>| position.and_then(|position| session.recognised(position));
        let (applied, durable) = (recognised(ack.applied), recognised(ack.durable));
        drop(session);
        shared.fleet.ack(&self.membership, applied, durable);
    }

    /// An alarm: memory, disk or a build is wrong, on one of the two sides.
    fn diverged<S>(&self, shared: &Shared<S>) {
        shared.metrics.diverged.inc();
        error!(proxy = self.proxy_id, "the proxy's table does not add up to this store's digest: sending it anew");
    }

    fn refused<S>(&self, shared: &Shared<S>, nack: Nack) {
        warn!(
            proxy = self.proxy_id, revision = %nack.refused, reason = nack.reason.as_str_name(), keys = ?nack.keys,
            detail = nack.detail, "the proxy refused a change"
        );
        shared.metrics.refused.inc();
        if nack.reason == NackReason::DigestMismatch {
            self.diverged(shared);
        }
        self.session().nack(&nack, Instant::now().into_std());
        let refused = Refused { revision: nack.refused, reason: reason(nack.reason), detail: nack.detail };
        shared.fleet.nack(&self.membership, refused);
    }

    /// What a status says is published, as far as it is of this history.
    fn seen(&self, applied: Option<Position>) -> Option<Revision> {
        let mut session = self.session();
        session.seen(applied?);
        session.recognised(applied?)
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        // Every change of the session is one assignment.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn next(inbound: &mut Streaming<SyncRequest>) -> Result<Option<Request>, Status> {
    let Some(message) = inbound.message().await? else { return Ok(None) };
    Request::try_from(message).map(Some).map_err(|error| Status::invalid_argument(format!("failed to {error}")))
}

fn away(reason: GoAwayReason, delay: Duration) -> End {
    End::Away(GoAway { reason, delay, spread: delay })
}

fn unavailable(error: &store::Error) -> End {
    error!(error = error as &dyn std::error::Error, "the control stream cannot read the store");
    End::Failed(Status::unavailable("the control plane cannot read its store"))
}
