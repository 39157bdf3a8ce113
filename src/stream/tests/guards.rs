//! What either side does not let pass: too many at a time, tables that diverged,
//! states that an older proxy would misread, and snapshots that lack too much.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Streaming};
use uuid::Uuid;

use super::cluster::{Control, LIMIT, Proxy, config, fleet_shows, token};
use super::log::{Log, environment, moved, pool};
use crate::fleet::member::Reason;
use crate::model::change::{PoolRecordState, Record, RecordKey};
use crate::model::revision::{Digest, Position, Revision};
use crate::routing::change::Change;
use crate::stream::server;
use crate::wire::encode_record;
use crate::wire::proto::SyncResponse;
use crate::wire::proto::control_stream_service_client::ControlStreamServiceClient;
use crate::wire::request::{self, Hello};
use crate::wire::response::{GoAway, GoAwayReason, Response};

/// A proxy whose every word the test says itself.
struct ByHand {
    says: mpsc::Sender<crate::wire::proto::SyncRequest>,
    hears: Streaming<SyncResponse>,
}

impl ByHand {
    async fn hello(control: &Control, minor: u32, position: Option<Position>) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", control.address)).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let (says, requests) = mpsc::channel(16);
        let hello = Hello {
            proxy_id: "by-hand".into(),
            instance_id: Uuid::new_v4().into(),
            build: "test".into(),
            minor,
            zone: String::new(),
            position,
            keeps_table: false,
            ended: Vec::new(),
        };
        says.send(request::Request::Hello(hello).into()).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(requests));
        request.metadata_mut().insert("authorization", token().bearer().parse().unwrap());
        let hears = ControlStreamServiceClient::new(channel).sync(request).await.unwrap().into_inner();
        Self { says, hears }
    }

    /// The next message that is no heartbeat.
    async fn hears(&mut self) -> Option<Response> {
        loop {
            let message = tokio::time::timeout(LIMIT, self.hears.message()).await.expect("a message in time");
            match message.unwrap().map(|message| Response::try_from(message).unwrap()) {
                Some(Response::Heartbeat(_)) => {}
                other => return other,
            }
        }
    }

    async fn is_sent_away(&mut self) -> GoAway {
        match self.hears().await {
            Some(Response::GoAway(away)) => away,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn proxies_too_many_at_a_time_are_asked_to_come_back_over_a_while() {
    let config = server::Config { hellos_per_second: 1, hellos_at_once: 2, ..config() };
    let control = Control::start_with(Log::new(1), config).await;
    let mut let_in = Vec::new();
    for _ in 0..2 {
        let mut proxy = ByHand::hello(&control, 4, None).await;
        assert!(matches!(proxy.hears().await, Some(Response::Welcome(_))));
        let_in.push(proxy);
    }
    let away = ByHand::hello(&control, 4, None).await.is_sent_away().await;
    assert_eq!(away.reason, GoAwayReason::Overloaded);
    assert!(away.delay > Duration::ZERO && away.spread >= Duration::from_secs(1), "{away:?}");
    assert_eq!(control.fleet.proxies().len(), 2, "who was sent away cost no place among the members");
    assert_eq!(control.metrics.turned_away.get(), 1);
    // A proxy that is sent away comes back by itself.
    let mut proxy = Proxy::start(control.address);
    proxy.link_shows(|link| link.applied.is_some()).await;
}

#[tokio::test]
async fn a_fleet_is_asked_to_come_back_over_a_time_that_grows_with_it() {
    let control = Control::start(Log::new(1)).await;
    let spread = async |control: &Control| {
        let mut proxy = ByHand::hello(control, 4, None).await;
        match proxy.hears().await {
            Some(Response::Welcome(welcome)) => (welcome.reconnect_spread, proxy),
            other => panic!("{other:?}"),
        }
    };
    let (alone, _one) = spread(&control).await;
    for n in 0..500_u128 {
        let address = "127.0.0.1:1".parse().unwrap();
        let name = format!("p{n}");
        control.fleet.hello(crate::fleet::member::Greeting::new(&name, Uuid::from_u128(n).into(), address));
    }
    let (among_many, _two) = spread(&control).await;
    assert_eq!(among_many - alone, Duration::from_millis(501));
}

#[tokio::test]
async fn a_table_that_diverged_is_found_in_a_heartbeat_and_replaced() {
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    // A bit in memory has turned: another pool than the store's, at the same revision.
    let rogue = pool(1, 9, PoolRecordState::Open);
    let digest = Digest::of_record(&rogue.key().to_string(), &encode_record(&rogue));
    let wrong = Position { digest: log.head().digest.with(digest), ..log.head() };
    proxy.live.apply_delta(log.head(), wrong, vec![Change::Upsert(rogue, digest)]).unwrap();

    let metrics = proxy.metrics.clone();
    proxy.link_shows(|_| metrics.snapshots.get() == 2).await;
    assert_eq!((proxy.live.position(), control.metrics.snapshots.get()), (Some(log.head()), 2));
    assert!(control.metrics.diverged.get() >= 1, "an alarm");
    log.commit(moved(1, 2), &[]);
    proxy.reaches(log.head()).await;
    assert!(control.fleet.wait_applied(log.head().revision, LIMIT).await.complete);
}

/// A pool of which a proxy that knows nothing of TLS would drop that its endpoint wants it.
fn secure(n: u8) -> Record {
    let Record::Pool(mut pool) = pool(n, 1, PoolRecordState::Open) else { unreachable!() };
    pool.endpoints[0].secure = true;
    pool.endpoints[0].authority = Some("worker.example:443".into());
    Record::Pool(pool)
}

#[tokio::test]
async fn a_state_that_an_older_proxy_would_misread_is_not_sent_to_it() {
    let log = Log::new(1);
    log.commit(moved(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    // What it understands it gets, although its build is older.
    let mut older = ByHand::hello(&control, 3, None).await;
    assert!(matches!(older.hears().await, Some(Response::Welcome(_))));
    assert!(matches!(older.hears().await, Some(Response::SnapshotChunk(_))));

    log.commit(vec![secure(2), environment(2, Some(1))], &[]);
    let mut older = ByHand::hello(&control, 3, None).await;
    assert!(matches!(older.hears().await, Some(Response::Welcome(_))));
    assert_eq!(older.is_sent_away().await.reason, GoAwayReason::Unsupported);
    let propagation = control.fleet.propagation(log.head().revision);
    let refusal = propagation.refused.iter().find(|refusal| refusal.reason == Reason::Unsupported);
    let detail = &refusal.expect("it is shown as one that refuses").detail;
    assert!(detail.contains("needs protocol minor 4") && detail.contains("speaks 3"), "{detail}");
    drop(older.says);

    let mut current = ByHand::hello(&control, 4, None).await;
    assert!(matches!(current.hears().await, Some(Response::Welcome(_))));
    assert!(matches!(current.hears().await, Some(Response::SnapshotChunk(_))));
}

/// More environments than may go at once.
fn many() -> (Vec<Record>, Vec<RecordKey>) {
    let records: Vec<Record> = (0..150).flat_map(|n| moved(n, 1)).collect();
    let keys = records.iter().map(Record::key).collect();
    (records, keys)
}

#[tokio::test]
async fn a_snapshot_that_lacks_too_much_is_refused_until_somebody_allows_it() {
    let (log, empty) = (Log::new(1), Log::new(2));
    log.commit(many().0, &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    let served = log.head();
    proxy.reaches(served).await;

    // An empty store in the place of the full one.
    let control = control.restart(empty.clone()).await;
    fleet_shows(&control.fleet, |fleet| fleet.proxies().iter().any(|proxy| proxy.refused.is_some())).await;
    let refused = control.fleet.proxies()[0].refused.clone().unwrap();
    assert_eq!(refused.reason, Reason::MassChange);
    assert!(refused.detail.contains("150 of 150 environments"), "{refused:?}");
    assert!(refused.detail.contains("repoint proxies allow-mass-change"), "{refused:?}");
    assert_eq!(proxy.live.position(), Some(served), "it serves what it had");

    let allowed = empty.stamp();
    proxy.reaches(allowed).await;
    assert_eq!(proxy.live.environment_count(), 0);
    assert!(control.fleet.wait_applied(allowed.revision, LIMIT).await.complete);
}

#[tokio::test]
async fn a_proxy_that_missed_a_mass_change_is_told_that_it_was_allowed() {
    let log = Log::new(1);
    let (records, keys) = many();
    log.commit(records, &[]);
    let control = Control::start(log.clone()).await;
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(log.head()).await;
    let address = control.address;
    control.stop().await;
    log.commit(Vec::new(), &keys);
    log.stamp();
    // The log no longer reaches back to where the proxy stands.
    log.trim();
    let control = Control::start_at(address, log.clone()).await;
    proxy.reaches(log.head()).await;
    assert_eq!((proxy.live.environment_count(), control.metrics.snapshots.get()), (0, 1));
    assert_eq!(proxy.metrics.refused.get(), 0);
}

#[test]
fn the_stamp_is_for_those_who_do_not_know_of_the_change() {
    use crate::stream::server::session::Session;
    let at = |lineage, revision| Position {
        lineage: Uuid::from_u128(lineage).into(),
        revision: Revision(revision),
        digest: Digest::default(),
    };
    let stamped = |stands, allowed| Session::new(stands).is_stamped_for(at(1, 9), Revision(allowed));
    assert!(!stamped(Some(at(1, 5)), 0), "nothing was ever allowed");
    assert!(stamped(Some(at(1, 5)), 7));
    assert!(!stamped(Some(at(1, 7)), 7), "it has that change");
    assert!(stamped(Some(at(2, 8)), 7), "its history is another");
    assert!(stamped(None, 7));
}
