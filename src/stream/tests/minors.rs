//! Ends of different protocol minors: one behind, one ahead, either way round.
//!
//! The end of this build is the real one each time. The other end is played
//! message by message, because a build speaks one minor.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::cluster::{Control, LIMIT, Proxy, fleet_shows, token};
use super::log::{Log, host, moved};
use crate::fleet::member::Reason;
use crate::model::change::Record;
use crate::model::revision::{Position, Revision};
use crate::wire::proto::control_stream_service_client::ControlStreamServiceClient;
use crate::wire::proto::control_stream_service_server::{ControlStreamService, ControlStreamServiceServer};
use crate::wire::proto::{self, NackReason, SyncRequest, SyncResponse};
use crate::wire::request::{Ack, Hello, Nack, Request};
use crate::wire::response::{Delta, GoAwayReason, Response, SnapshotChunk, SyncMode, Welcome};
use crate::wire::{MINOR, decode_change_set};

/// A move to a pool that is reached over TLS, which only the newest minor knows.
fn moved_with_tls(n: u8, deployment: u8) -> Vec<Record> {
    let mut records = moved(n, deployment);
    let Record::Pool(pool) = &mut records[0] else { unreachable!("the pool comes first") };
    pool.endpoints[0].authority = Some("replica.internal:443".into());
    pool.endpoints[0].secure = true;
    records
}

#[test]
fn the_newest_addition_is_of_the_newest_minor() {
    let records: Vec<_> = moved_with_tls(1, 1).iter().map(crate::wire::encode_record).collect();
    assert_eq!(crate::wire::minor_needed(&records), MINOR, "these tests want a change that only this minor knows");
    let records: Vec<_> = moved(1, 1).iter().map(crate::wire::encode_record).collect();
    assert_eq!(crate::wire::minor_needed(&records), 1);
    assert_eq!(crate::wire::minor_needed(&[]), 1);
}

/// A proxy of another minor, word by word.
struct OtherProxy {
    say: mpsc::Sender<SyncRequest>,
    heard: Streaming<SyncResponse>,
}

impl OtherProxy {
    async fn connect(control: &Control, minor: u32) -> (Self, Welcome) {
        let (say, requests) = mpsc::channel(4);
        let mut request = tonic::Request::new(ReceiverStream::new(requests));
        request.metadata_mut().insert("authorization", token().bearer().parse().unwrap());
        let hello = Hello {
            proxy_id: "other".into(),
            instance_id: Uuid::from_u128(9).into(),
            build: "other/1".into(),
            minor,
            zone: String::new(),
            position: None,
            keeps_table: false,
            ended: Vec::new(),
        };
        say.send(Request::Hello(hello).into()).await.unwrap();
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", control.address)).unwrap();
        let channel = channel.connect().await.unwrap();
        let heard = ControlStreamServiceClient::new(channel).sync(request).await.unwrap().into_inner();
        let mut proxy = Self { say, heard };
        let Response::Welcome(welcome) = proxy.hear().await else { panic!("the first word is Welcome") };
        (proxy, welcome)
    }

    /// The next word that is no heartbeat.
    async fn hear(&mut self) -> Response {
        loop {
            let message = timeout(LIMIT, self.heard.message()).await.expect("it says something").unwrap();
            match Response::try_from(message.expect("the stream goes on")).unwrap() {
                Response::Heartbeat(_) => {}
                other => return other,
            }
        }
    }

    async fn delta(&mut self) -> Delta {
        match self.hear().await {
            Response::Delta(delta) => delta,
            other => panic!("{other:?}"),
        }
    }

    async fn snapshot(&mut self) -> Position {
        match self.hear().await {
            Response::SnapshotChunk(SnapshotChunk { position, last: true, .. }) => position,
            other => panic!("{other:?}"),
        }
    }

    async fn ack(&self, applied: Position) {
        let ack = Ack { applied: Some(applied), durable: None };
        self.say.send(Request::Ack(ack).into()).await.unwrap();
    }
}

/// The minor that each change of a delta asks for.
fn minors(delta: &Delta) -> Vec<u32> {
    let read = |bytes: &bytes::Bytes| decode_change_set(bytes).unwrap().minor_min;
    delta.change_sets.iter().map(read).collect()
}

#[tokio::test]
async fn a_proxy_one_minor_behind_refuses_what_it_does_not_know_and_gets_the_rest() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let (mut proxy, welcome) = OtherProxy::connect(&control, MINOR - 1).await;
    assert_eq!((welcome.minor, welcome.mode), (MINOR, SyncMode::Snapshot));
    let stands = proxy.snapshot().await;
    proxy.ack(stands).await;
    let known = log.commit(moved(1, 1), &[]);
    let delta = proxy.delta().await;
    assert_eq!((minors(&delta), delta.to), (vec![1], known));
    proxy.ack(known).await;
    assert!(control.fleet.wait_applied(known.revision, LIMIT).await.complete);

    // It sees that it is too old from the change set alone.
    let newer = log.commit(moved_with_tls(1, 2), &[]);
    let delta = proxy.delta().await;
    assert_eq!((minors(&delta), delta.to), (vec![MINOR], newer));
    let nack = Nack {
        stuck: Some(known),
        refused: newer.revision,
        reason: NackReason::Unsupported,
        keys: Vec::new(),
        detail: "a change set of a newer protocol minor".into(),
    };
    proxy.say.send(Request::Nack(nack).into()).await.unwrap();
    fleet_shows(&control.fleet, |fleet| !fleet.propagation(newer.revision).refused.is_empty()).await;
    let propagation = control.fleet.propagation(newer.revision);
    assert_eq!((propagation.refused[0].reason, propagation.complete), (Reason::Unsupported, false));

    // The net of what follows is known to it again.
    let healed = log.commit(moved(1, 2), &[]);
    let delta = proxy.delta().await;
    assert_eq!((minors(&delta), delta.from, delta.to), (vec![1], known, healed));
    proxy.ack(healed).await;
    assert!(control.fleet.wait_applied(healed.revision, LIMIT).await.complete);
}

#[tokio::test]
async fn a_proxy_one_minor_behind_gets_no_snapshot_that_it_would_half_understand() {
    let log = Log::new(1);
    let head = log.commit(moved_with_tls(1, 1), &[]);
    let control = Control::start(log.clone()).await;
    let (mut behind, _) = OtherProxy::connect(&control, MINOR - 1).await;
    let Response::GoAway(away) = behind.hear().await else { panic!("nothing else is for it") };
    assert_eq!(away.reason, GoAwayReason::Unsupported);
    assert!(away.delay >= Duration::from_secs(1), "it does not come back at once");
    let propagation = control.fleet.propagation(head.revision);
    let [refusal] = propagation.refused.as_slice() else { panic!("{propagation:?}") };
    assert_eq!((refusal.reason, refusal.revision), (Reason::Unsupported, head.revision));
    assert!(refusal.detail.contains(&format!("needs protocol minor {MINOR}")), "{refusal:?}");
    assert_eq!(control.metrics.snapshots.get(), 0);

    // One that speaks the minor is served meanwhile; one that needs no more than it has, too.
    let mut proxy = Proxy::start(control.address);
    proxy.reaches(head).await;
    let known = log.commit(moved(1, 1), &[]);
    let (mut behind, _) = OtherProxy::connect(&control, MINOR - 1).await;
    assert_eq!(behind.snapshot().await, known);
}

#[tokio::test]
async fn a_proxy_one_minor_ahead_is_served_what_there_is() {
    let log = Log::new(1);
    let control = Control::start(log.clone()).await;
    let (mut proxy, welcome) = OtherProxy::connect(&control, MINOR + 1).await;
    assert_eq!(welcome.minor, MINOR, "it is told what may be said here");
    let stands = proxy.snapshot().await;
    proxy.ack(stands).await;
    let newest = log.commit(moved_with_tls(1, 1), &[]);
    assert_eq!(proxy.delta().await.to, newest);
    proxy.ack(newest).await;
    assert!(control.fleet.wait_applied(newest.revision, LIMIT).await.complete);

    // What it was not told to be known here ends the stream, and is not skipped.
    proxy.say.send(SyncRequest::default()).await.unwrap();
    let ended = timeout(LIMIT, async {
        loop {
            if let Err(status) = proxy.heard.message().await.map(|message| message.expect("it says why it ends")) {
                return status;
            }
        }
    });
    let status = ended.await.expect("the stream ends");
    assert!(status.message().contains("protocol minor"), "{status}");
}

/// A control plane of another minor, which says these words one after the other, each
/// once the one before has been answered, and passes on what it hears.
struct OtherControl {
    minor: u32,
    head: Position,
    words: Vec<SyncResponse>,
    heard: mpsc::Sender<Request>,
}

#[tonic::async_trait]
impl ControlStreamService for OtherControl {
    type SyncStream = ReceiverStream<Result<SyncResponse, Status>>;

    async fn sync(
        &self,
        request: tonic::Request<Streaming<SyncRequest>>,
    ) -> Result<tonic::Response<Self::SyncStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let welcome = Welcome {
            head: self.head,
            mode: SyncMode::Snapshot,
            heartbeat_interval: Duration::from_secs(20),
            status_interval: Duration::from_secs(20),
            reconnect_spread: Duration::ZERO,
            minor: self.minor,
            build: "other/1".into(),
        };
        let (heard, mut words) = (self.heard.clone(), self.words.clone().into_iter());
        tokio::spawn(async move {
            let mut inbound = request.into_inner();
            sender.send(Ok(Response::Welcome(welcome).into())).await.unwrap();
            sender.send(Ok(words.next().unwrap())).await.unwrap();
            while let Ok(Some(message)) = inbound.message().await {
                let request = Request::try_from(message).unwrap();
                if matches!(request, Request::Ack(_) | Request::Nack(_)) {
                    heard.send(request).await.unwrap();
                    if let Some(word) = words.next() {
                        sender.send(Ok(word)).await.unwrap();
                    }
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }
}

async fn follow(
    minor: u32,
    head: Position,
    words: Vec<Response>,
    more: Vec<SyncResponse>,
) -> (Proxy, mpsc::Receiver<Request>) {
    let (heard, answers) = mpsc::channel(16);
    let words = words.into_iter().map(Into::into).chain(more).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tonic::transport::Server::builder()
        .add_service(ControlStreamServiceServer::new(OtherControl { minor, head, words, heard }))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    (Proxy::start(address), answers)
}

async fn answer(answers: &mut mpsc::Receiver<Request>) -> Request {
    timeout(LIMIT, answers.recv()).await.expect("it answers").unwrap()
}

fn snapshot(log: &Log) -> Response {
    let whole = log.whole();
    let (position, records) = (whole.position, whole.records);
    Response::SnapshotChunk(SnapshotChunk { position, index: 0, last: true, records, mass_change_allowed: false })
}

fn delta(log: &Log, from: Position) -> Delta {
    let crate::store::Changes::Log(changes) = log.changes(from.revision, usize::MAX) else { panic!("it is all there") };
    Delta { from, to: log.head(), change_sets: changes.into_iter().map(|change| change.bytes).collect() }
}

#[tokio::test]
async fn a_control_plane_one_minor_behind_is_followed() {
    let log = Log::new(1);
    let from = log.head();
    let whole = snapshot(&log);
    let to = log.commit(moved(1, 1), &[]);
    let (mut proxy, mut answers) = follow(MINOR - 1, to, vec![whole, Response::Delta(delta(&log, from))], vec![]).await;
    proxy.reaches(to).await;
    for at in [from, to] {
        assert_eq!(answer(&mut answers).await, Request::Ack(Ack { applied: Some(at), durable: None }));
    }
    assert!(proxy.claim(&host(1)).is_ok());
}

#[tokio::test]
async fn a_control_plane_one_minor_ahead_is_followed_as_far_as_it_is_understood() {
    let log = Log::new(1);
    let from = log.head();
    let whole = snapshot(&log);
    let to = log.commit(moved(1, 1), &[]);
    let known = delta(&log, from);
    // The same, but for what it says it needs; a kind of message, and one of record, that are not known here.
    let newer = proto::ChangeSet { revision: to.revision.0, minor_min: MINOR + 1, ..proto::ChangeSet::default() };
    let newer = Delta { change_sets: vec![prost::Message::encode_to_vec(&newer).into()], ..known.clone() };
    let unknown = proto::ChangeSet {
        revision: to.revision.0,
        minor_min: 1,
        upserts: vec![bytes::Bytes::from_static(&[0xa2, 0x06, 0x00])],
        ..proto::ChangeSet::default()
    };
    let unknown = Delta { change_sets: vec![prost::Message::encode_to_vec(&unknown).into()], ..known.clone() };
    let words = vec![whole, Response::Delta(newer), Response::Delta(unknown)];
    let more = vec![SyncResponse::default(), Response::Delta(known).into()];
    let (mut proxy, mut answers) = follow(MINOR + 1, to, words, more).await;

    assert_eq!(answer(&mut answers).await, Request::Ack(Ack { applied: Some(from), durable: None }));
    for refused in [to.revision, to.revision, Revision(0)] {
        let Request::Nack(nack) = answer(&mut answers).await else { panic!("it is refused") };
        assert_eq!((nack.reason, nack.stuck, nack.refused), (NackReason::Unsupported, Some(from), refused));
    }
    proxy.reaches(to).await;
    assert_eq!(answer(&mut answers).await, Request::Ack(Ack { applied: Some(to), durable: None }));
    assert!(proxy.claim(&host(1)).is_ok(), "nothing of what was refused is left");
    assert_eq!(proxy.metrics.connects.get(), 1, "the stream never broke");
}
