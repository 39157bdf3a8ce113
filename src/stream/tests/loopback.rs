//! Over real sockets, from a log that can also hold what no store commits.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::cluster::{Control, LIMIT, Proxy, config, fleet_shows};
use super::log::{Log, environment, host, moved, pool, pool_key};
use crate::fleet::Fleet;
use crate::fleet::member::Reason;
use crate::model::change::{PoolRecordState, Record};
use crate::model::id::DeploymentId;
use crate::model::revision::{Position, Revision};
use crate::routing::live::Live;
use crate::routing::table::Unresolved;
use crate::store::{Changes, Error, MembersChange, Snapshot};
use crate::stream::Token;
use crate::stream::last_known_good::Config;
use crate::stream::last_known_good::folder::Folder;
use crate::stream::last_known_good::keeper::Keeper;
use crate::stream::last_known_good::metrics::DiskMetrics;
use crate::stream::source::Source;
use crate::wire::proto::control_stream_service_server::{ControlStreamService, ControlStreamServiceServer};
use crate::wire::proto::{SyncRequest, SyncResponse};
use crate::wire::response::{self, SyncMode, Welcome};

fn served(proxy: &Proxy, n: u8) -> Result<DeploymentId, Unresolved> {
    proxy.claim(&host(n)).map(|claimed| claimed.pool.key.deployment)
}

#[tokio::test]
async fn a_proxy_gets_a_snapshot_and_then_only_what_changes() {
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    assert_eq!(served(&proxy, 1), Ok(super::log::deployment_id(1)));

    log.commit(moved(1, 2), &[]);
    proxy.reaches(log.head()).await;
    assert_eq!(served(&proxy, 1), Ok(super::log::deployment_id(2)));
    assert_eq!((proxy.metrics.snapshots.get(), proxy.metrics.deltas.get()), (1, 1));
}

/// Environments without a pool; twenty thousand are more than 1 MiB.
fn many(count: u128) -> Vec<Record> {
    let named = |n: u128| {
        let Record::Environment(mut record) = environment(1, None) else { unreachable!() };
        record.id = uuid::Uuid::from_u128(n).into();
        record.name = format!("e{n}").parse().unwrap();
        record.hosts = vec![format!("support-e{n}.localhost").parse().unwrap()];
        Record::Environment(record)
    };
    (0..count).map(named).collect()
}

#[tokio::test]
async fn a_large_state_arrives_in_parts_as_one_table() {
    let log = Log::new(1);
    log.commit(many(20_000), &[]);
    let size: usize = log.whole().records.iter().map(bytes::Bytes::len).sum();
    assert!(size > 1 << 20, "{size} bytes fit into one part");
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    assert_eq!(proxy.metrics.snapshots.get(), 1);
    assert_eq!(proxy.claim("support-e19999.localhost").map(drop), Err(Unresolved::EnvironmentEmpty));
}

#[tokio::test]
async fn a_large_change_arrives_in_parts_too() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    log.commit(many(40_000), &[]);
    let size: usize = log.whole().records.iter().map(bytes::Bytes::len).sum();
    assert!(size > 2 << 20, "{size} bytes fit into one frame");
    proxy.reaches(log.head()).await;
    assert_eq!((proxy.metrics.snapshots.get(), proxy.metrics.deltas.get()), (2, 0));
}

#[tokio::test]
async fn a_store_that_reads_slowly_is_no_silence() {
    let log = Log::new(1);
    let gate = watch::Sender::new(false);
    let slow = Slow { log: log.clone(), open: gate.subscribe() };
    let control = Control::start(slow).await;
    let mut proxy = Proxy::start(control.address);
    // The snapshot is being read: only a heartbeat can tell where the head has gone.
    proxy.link_shows(|link| link.connected).await;
    log.commit(moved(1, 1), &[]);
    proxy.link_shows(|link| link.head == Some(log.head())).await;
    gate.send_replace(true);
    proxy.reaches(log.head()).await;

    // The same while changes are being read.
    gate.send_replace(false);
    log.commit(moved(1, 2), &[]);
    proxy.link_shows(|link| link.head == Some(log.head())).await;
    log.commit(moved(1, 3), &[]);
    proxy.link_shows(|link| link.head == Some(log.head())).await;
    gate.send_replace(true);
    proxy.reaches(log.head()).await;
    assert_eq!(proxy.metrics.connects.get(), 1, "the stream never broke");
    assert_eq!((control.metrics.snapshots.get(), proxy.metrics.snapshots.get()), (1, 1));
}

/// A log that is read only while a gate is open.
#[derive(Clone)]
struct Slow {
    log: Log,
    open: watch::Receiver<bool>,
}

impl Slow {
    async fn opened(&self) {
        self.open.clone().wait_for(|open| *open).await.unwrap();
    }
}

impl Source for Slow {
    fn watch_head(&self) -> watch::Receiver<Position> {
        self.log.watch_head()
    }

    async fn changes_after(&self, after: Revision, bytes_max: usize) -> Result<Changes, Error> {
        self.opened().await;
        self.log.changes_after(after, bytes_max).await
    }

    async fn position_at(&self, revision: Revision) -> Result<Option<Position>, Error> {
        self.log.position_at(revision).await
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.opened().await;
        self.log.snapshot().await
    }

    async fn keep_members(&self, change: MembersChange) -> Result<(), Error> {
        self.log.keep_members(change).await
    }
}

#[tokio::test]
async fn a_move_is_applied_when_the_proxy_says_so() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    let moved = log.commit(moved(1, 1), &[]);
    let propagation = control.fleet.wait_applied(moved.revision, LIMIT).await;
    assert!(propagation.complete && propagation.required == 1, "{propagation:?}");
    assert_eq!(proxy.live.position(), Some(moved), "invariant 6: acknowledged after publishing");

    let shown = control.fleet.proxies();
    assert_eq!((shown[0].proxy_id.as_str(), shown[0].zone.as_str(), shown[0].connected), ("a", "here", true));
}

#[tokio::test]
async fn a_restarted_control_plane_resumes_and_the_proxy_catches_up() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;

    let control = {
        log.commit(moved(1, 1), &[]);
        control.restart(log.clone()).await
    };
    log.commit(moved(1, 2), &[]);
    proxy.reaches(log.head()).await;
    assert_eq!(proxy.metrics.snapshots.get(), 1, "the one at the start");
    assert_eq!(control.metrics.snapshots.get(), 0, "resuming costs one position");
    assert!(control.fleet.wait_applied(log.head().revision, LIMIT).await.complete);
}

#[tokio::test]
async fn without_the_control_plane_the_last_table_serves() {
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    control.stop().await;
    let link = proxy.link_shows(|link| !link.connected).await;
    assert!(link.problem.is_some());
    assert_eq!(served(&proxy, 1), Ok(super::log::deployment_id(1)));
}

#[tokio::test]
async fn changes_coalesce_while_a_frame_is_on_its_way() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    // Nothing else runs between these: the stream wakes up once, to fifty changes.
    for deployment in 0..50 {
        log.commit(moved(1, deployment), &[]);
    }
    proxy.reaches(log.head()).await;
    assert_eq!(proxy.metrics.deltas.get(), 1);
    assert_eq!(served(&proxy, 1), Ok(super::log::deployment_id(49)));
}

#[tokio::test]
async fn another_lineage_is_taken_whole() {
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;

    log.restore(2);
    let control = control.restart(log.clone()).await;
    proxy.reaches(log.head()).await;
    assert_eq!((proxy.metrics.snapshots.get(), control.metrics.snapshots.get()), (2, 1));
    log.commit(moved(1, 2), &[]);
    proxy.reaches(log.head()).await;
    assert_eq!(served(&proxy, 1), Ok(super::log::deployment_id(2)));
}

#[tokio::test]
async fn a_log_that_does_not_reach_back_is_taken_whole() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    let address = control.address;
    control.stop().await;
    log.commit(moved(1, 1), &[]);
    log.commit(moved(1, 2), &[]);
    log.trim();
    let control = Control::start_at(address, log.clone()).await;
    proxy.reaches(log.head()).await;
    assert_eq!(control.metrics.snapshots.get(), 1);
}

#[tokio::test]
async fn a_wrong_token_is_refused_with_the_remedy() {
    let control = Control::start(Log::new(1)).await;
    let live = Live::new(1);
    let mut proxy = Proxy::start_with(control.address, live, Token::from_bytes([2; 32]));
    let link = proxy.link_shows(|link| link.problem.is_some()).await;
    assert!(link.problem.as_ref().unwrap().contains("--token-file"), "{link:?}");
    assert!(!link.connected && proxy.live.position().is_none());
    assert!(control.fleet.proxies().is_empty(), "a stranger is no member");
}

#[tokio::test]
async fn invariant_6_a_refused_change_leaves_the_table_and_is_reported() {
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    let before = log.head();
    proxy.reaches(before).await;

    let bad = log.commit(vec![environment(1, Some(9))], &[]);
    let propagation = control.fleet.wait_applied(bad.revision, LIMIT).await;
    let [refusal] = propagation.refused.as_slice() else { panic!("{propagation:?}") };
    assert_eq!((refusal.reason, refusal.revision), (Reason::Invalid, bad.revision));
    assert!(refusal.detail.contains("has no pool here"), "{refusal:?}");
    assert!(!propagation.complete);
    assert_eq!(proxy.live.position(), Some(before));
    assert_eq!(served(&proxy, 1), Ok(super::log::deployment_id(1)));

    // The next change heals it, and the bad value is never replayed.
    log.commit(moved(1, 2), &[]);
    proxy.reaches(log.head()).await;
    let propagation = control.fleet.wait_applied(log.head().revision, LIMIT).await;
    assert!(propagation.complete && propagation.refused.is_empty(), "{propagation:?}");
}

#[tokio::test]
async fn invariant_3_a_store_that_was_copied_back_never_takes_a_proxy_back() {
    let (log, older) = (Log::new(1), Log::new(1));
    for deployment in 1..4 {
        log.commit(moved(1, deployment), &[]);
    }
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;

    let control = control.restart(older.clone()).await;
    fleet_shows(&control.fleet, |fleet| !fleet.proxies().is_empty()).await;
    let claimed = older.commit(moved(1, 7), &[]);
    let propagation = control.fleet.wait_applied(claimed.revision, Duration::from_millis(300)).await;
    assert!(!propagation.complete, "its revision {} is of another past", claimed.revision);
    assert_eq!(proxy.live.position(), Some(log.head()));

    // Once the store is past it, the proxy gets all of it.
    for deployment in 4..9 {
        older.commit(moved(1, deployment), &[]);
    }
    proxy.reaches(older.head()).await;
    assert_eq!(served(&proxy, 1), Ok(super::log::deployment_id(8)));
}

#[tokio::test]
async fn a_pool_is_drained_the_moment_its_last_request_ends() {
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    // A status a minute: what arrives sooner was sent because something went idle.
    let config = crate::stream::server::Config { status: Duration::from_secs(60), ..config() };
    let control = Control::start_with(log.clone(), config).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    let request = proxy.claim(&host(1)).unwrap();

    let mut change = moved(1, 2);
    change.push(pool(1, 1, PoolRecordState::Closing));
    let closing = log.commit(change, &[]).revision;
    assert!(control.fleet.wait_applied(closing, LIMIT).await.complete);
    fleet_shows(&control.fleet, |fleet| fleet.in_flight(pool_key(1, 1)) == 1).await;
    assert!(!control.fleet.drained_pool(pool_key(1, 1), closing));

    drop(request);
    fleet_shows(&control.fleet, |fleet| fleet.drained_pool(pool_key(1, 1), closing)).await;
    assert_eq!(control.fleet.in_flight(pool_key(1, 1)), 0);
}

#[tokio::test]
async fn load_arrives_with_the_status() {
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    let request = proxy.claim(&host(1)).unwrap();
    eventually(|| control.fleet.in_flight(pool_key(1, 1)) == 1).await;
    drop(request);
    eventually(|| control.fleet.in_flight(pool_key(1, 1)) == 0).await;
}

#[tokio::test]
async fn a_proxy_that_stops_says_goodbye_and_is_forgotten() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    proxy.stop().await;
    fleet_shows(&control.fleet, |fleet| fleet.proxies().is_empty()).await;
}

#[tokio::test]
async fn a_connection_without_a_stream_is_closed_and_one_with_a_stream_is_not() {
    let log = Log::new(1);
    let config = crate::stream::server::Config { opening_max: Duration::from_millis(300), ..config() };
    let control = Control::start_with(log.clone(), config).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    let mut stranger = TcpStream::connect(control.address).await.unwrap();
    closed(&mut stranger).await;
    log.commit(moved(1, 1), &[]);
    proxy.reaches(log.head()).await;
    assert_eq!(proxy.metrics.connects.get(), 1);
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once() {
    let log = Log::new(1);
    let config = crate::stream::server::Config { connections_max: 1, ..config() };
    let control = Control::start_with(log.clone(), config).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    let begun = std::time::Instant::now();
    closed(&mut TcpStream::connect(control.address).await.unwrap()).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "before its time to open a stream is over");
    // Its place is free again once the proxy has left.
    proxy.stop().await;
    let mut next = Proxy::start(control.address);
    next.reaches(log.head()).await;
}

/// Waits until the other side has closed, whatever it says before.
async fn closed(connection: &mut TcpStream) {
    let mut said = Vec::new();
    let reading = connection.read_to_end(&mut said);
    // A reset is an end as well.
    let _ = tokio::time::timeout(LIMIT, reading).await.expect("it is closed");
}

#[tokio::test]
async fn a_snapshot_too_many_is_asked_to_come_later() {
    let config = crate::stream::server::Config { snapshots_max: 0, ..config() };
    let control = Control::start_with(Log::new(1), config).await;
    let mut proxy = Proxy::start(control.address);
    let link = proxy.link_shows(|link| link.problem.is_some()).await;
    assert!(link.problem.as_ref().unwrap().contains("OVERLOADED"), "{link:?}");
    assert_eq!(control.metrics.snapshots.get(), 0);
}

#[tokio::test]
async fn a_control_plane_that_falls_silent_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tonic::transport::Server::builder()
        .add_service(ControlStreamServiceServer::new(Silent))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let mut proxy = Proxy::start(address);
    proxy.link_shows(|link| link.connected).await;
    let link = proxy.link_shows(|link| !link.connected).await;
    assert!(link.problem.as_ref().unwrap().contains("three heartbeats"), "{link:?}");
    proxy.link_shows(|link| link.connected).await;
}

/// Welcomes, and never says another word.
struct Silent;

#[tonic::async_trait]
impl ControlStreamService for Silent {
    type SyncStream = ReceiverStream<Result<SyncResponse, Status>>;

    async fn sync(&self, request: Request<Streaming<SyncRequest>>) -> Result<Response<Self::SyncStream>, Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let welcome = response::Response::Welcome(Welcome {
            head: Log::new(1).head(),
            mode: SyncMode::Snapshot,
            heartbeat_interval: Duration::from_millis(10),
            status_interval: Duration::from_secs(1),
            reconnect_spread: Duration::ZERO,
            minor: 1,
            build: "silent".into(),
        });
        sender.send(Ok(welcome.into())).await.unwrap();
        tokio::spawn(async move {
            let mut inbound = request.into_inner();
            while let Ok(Some(_)) = inbound.message().await {}
            drop(sender);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Waits for what no bell announces.
async fn eventually(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("it comes about");
}

#[tokio::test]
async fn a_proxy_is_written_down_before_it_is_welcomed() {
    let log = Log::new(1);
    log.set_full(true);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    let link = proxy.link_shows(|link| link.problem.as_ref().is_some_and(|problem| problem.contains("store"))).await;
    assert_eq!((link.head, link.applied), (None, None), "it was told nothing");
    assert!(log.members().is_empty());

    log.set_full(false);
    proxy.reaches(log.head()).await;
    let [member] = log.members().try_into().unwrap();
    assert_eq!(member.proxy_id, "a");
    // It takes its leave, and is struck out before the server has ended.
    proxy.stop().await;
    control.stop().await;
    assert!(log.members().is_empty());
}

#[tokio::test]
async fn a_proxy_that_has_given_its_disk_up_is_not_waited_for_with_it() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let (folder, live) = (tempfile::tempdir().unwrap(), Live::new(1));
    let folder = Folder::own(&folder.path().join("proxy")).unwrap();
    let keeper = Keeper::start(folder, Config::default(), &live, DiskMetrics::default()).unwrap();
    let pausing = keeper.pausing();
    let mut proxy = Proxy::keeping_with(control.address, live, keeper);
    proxy.reaches(log.head()).await;
    fleet_shows(&control.fleet, |fleet| fleet.closing_known(log.head().revision)).await;

    let paused = pausing.pause().await.unwrap();
    log.commit(moved(0, 1), &[]);
    proxy.reaches(log.head()).await;
    let applied = |fleet: &Fleet| fleet.proxies()[0].applied_revision == Some(log.head().revision);
    fleet_shows(&control.fleet, applied).await;
    assert!(!control.fleet.closing_known(log.head().revision), "its disk is behind, and it would begin with that");

    paused.give_up();
    fleet_shows(&control.fleet, |fleet| fleet.closing_known(log.head().revision)).await;
    let shown = control.fleet.proxies();
    assert_eq!((shown.len(), shown[0].keeps_table, shown[0].connected), (1, false, true), "the same run");
    proxy.stop().await;
}
