//! The thread beside the stream: what a disk that fails or hangs delays, and what
//! it does not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::memory::Memory;
use super::world::served;
use crate::model::revision::Position;
use crate::routing::live::Live;
use crate::stream::last_known_good::Config;
use crate::stream::last_known_good::disk::Disk;
use crate::stream::last_known_good::keeper::Keeper;
use crate::stream::last_known_good::metrics::DiskMetrics;
use crate::stream::server::snapshots::chunks;
use crate::stream::tests::log::{Log, moved};
use crate::wire::response::{Delta, Response};

const LIMIT: Duration = Duration::from_secs(30);

struct Bench {
    log: Log,
    disk: Memory,
    keeper: Keeper,
    metrics: DiskMetrics,
    /// Where the last thing that was said to be applied leads.
    at: Option<Position>,
}

impl Bench {
    fn start(config: Config) -> Self {
        Self::on(Memory::default(), Log::new(1), config)
    }

    fn on(disk: Memory, log: Log, config: Config) -> Self {
        let metrics = DiskMetrics::default();
        let live = Live::new(1);
        let keeper = Keeper::start(disk.clone(), config, &live, metrics.clone()).unwrap();
        Self { log, disk, keeper, metrics, at: live.position() }
    }

    /// The head is applied, as a delta where that is possible.
    fn apply(&mut self) {
        let head = self.log.head();
        match self.at {
            None => self.apply_whole(),
            Some(from) => {
                let crate::store::Changes::Log(changes) = self.log.changes(from.revision, usize::MAX) else {
                    return self.apply_whole();
                };
                let change_sets = changes.into_iter().map(|change| change.bytes).collect();
                self.keeper.heard(&Response::Delta(Delta { from, to: head, change_sets }));
                self.keeper.applied();
            }
        }
        self.at = Some(head);
    }

    fn apply_whole(&mut self) {
        for chunk in chunks(&self.log.whole(), false) {
            self.keeper.heard(&Response::SnapshotChunk(chunk));
        }
        self.keeper.applied();
        self.at = Some(self.log.head());
    }

    fn moves(&mut self, n: u8, deployment: u8) {
        self.log.commit(moved(n, deployment), &[]);
        self.apply();
    }

    async fn durable(&self, position: Position) {
        let mut watch = self.keeper.watch();
        let reached = watch.wait_for(|durable| *durable == Some(position));
        let reached = timeout(LIMIT, reached).await.map(drop);
        assert!(reached.is_ok(), "{position:?}, not {:?}", self.keeper.durable());
    }

    async fn shows(&self, shows: impl Fn(&Self) -> bool) {
        let shown = timeout(LIMIT, async {
            while !shows(self) {
                tokio::task::yield_now().await;
            }
        });
        assert!(shown.await.is_ok(), "{:?}", self.metrics);
    }

    async fn restarted(self, config: Config) -> (Self, Arc<Live>) {
        let Self { log, disk, keeper, .. } = self;
        keeper.close().await;
        let (metrics, live) = (DiskMetrics::default(), Live::new(1));
        let keeper = Keeper::start(disk.clone(), config, &live, metrics.clone()).unwrap();
        (Self { log, disk, keeper, metrics, at: live.position() }, live)
    }
}

#[tokio::test]
async fn what_is_applied_becomes_durable_and_a_restart_begins_there() {
    let mut bench = Bench::start(Config::default());
    bench.apply();
    for deployment in 1..=5 {
        bench.moves(0, deployment);
    }
    bench.durable(bench.log.head()).await;
    let head = bench.log.head();
    let (bench, live) = bench.restarted(Config::default()).await;
    assert_eq!((live.position(), served(&live)[0]), (Some(head), Some(5)));
    bench.durable(head).await;
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_durable_and_nothing_else() {
    let mut bench = Bench::start(Config::default());
    bench.apply();
    bench.durable(bench.log.head()).await;
    let before = bench.log.head();
    bench.disk.hold(true);
    for deployment in 1..=50 {
        bench.moves(0, deployment);
    }
    assert_eq!(bench.keeper.durable(), Some(before), "every call came back, and nothing was claimed");
    bench.disk.hold(false);
    bench.durable(bench.log.head()).await;
}

#[tokio::test]
async fn a_full_disk_is_noticed_and_caught_up_with() {
    let mut bench = Bench::start(Config::default());
    bench.apply();
    bench.durable(bench.log.head()).await;
    let before = bench.log.head();
    bench.disk.room(Some(10));
    bench.moves(0, 1);
    bench.shows(|bench| bench.metrics.failing.get() == 1).await;
    bench.moves(0, 2);
    assert_eq!(bench.keeper.durable(), Some(before), "invariant 6: what is not on disk is not claimed");
    bench.disk.room(None);
    bench.durable(bench.log.head()).await;
    bench.shows(|bench| bench.metrics.failing.get() == 0).await;
    assert!(bench.metrics.failures.get() > 0);
    let head = bench.log.head();
    let (_, live) = bench.restarted(Config::default()).await;
    assert_eq!(live.position(), Some(head));
}

#[tokio::test]
async fn after_a_failed_sync_everything_is_written_elsewhere() {
    let mut bench = Bench::start(Config::default());
    bench.apply();
    bench.durable(bench.log.head()).await;
    bench.disk.fail_syncs(1);
    bench.moves(0, 1);
    bench.durable(bench.log.head()).await;
    let head = bench.log.head();
    // The failed pages never reached the disk.
    bench.disk.crash(|_| 0);
    let (_, live) = bench.restarted(Config::default()).await;
    assert_eq!(live.position(), Some(head));
}

#[tokio::test]
async fn a_journal_that_is_long_enough_is_followed_by_a_checkpoint() {
    let config = Config { checkpoint_bytes: 2_000, ..Config::default() };
    let mut bench = Bench::start(config);
    bench.apply();
    for deployment in 1..=100 {
        bench.moves(0, deployment % 5);
        bench.durable(bench.log.head()).await;
    }
    bench.shows(|bench| bench.metrics.checkpoints.get() >= 5).await;
    let head = bench.log.head();
    let (bench, live) = bench.restarted(config).await;
    assert_eq!(live.position(), Some(head));
    assert!(bench.disk.names().unwrap().len() <= 2, "one checkpoint, one journal");
}

#[tokio::test]
async fn more_than_the_queue_takes_is_let_go_and_a_whole_table_asked_for() {
    let mut bench = Bench::start(Config { queue_bytes_max: 4_000, ..Config::default() });
    bench.apply();
    bench.durable(bench.log.head()).await;
    let before = bench.log.head();
    bench.disk.room(Some(0));
    for deployment in 1..=100 {
        bench.moves(0, deployment % 5);
    }
    assert!(!bench.keeper.wants_snapshot(), "not before there is a disk to write it to");
    bench.disk.room(None);
    bench.shows(|bench| bench.keeper.wants_snapshot()).await;
    assert_eq!(bench.keeper.durable(), Some(before));
    assert!(bench.keeper.take_wants_snapshot() && !bench.keeper.wants_snapshot(), "asked for once");
    bench.apply_whole();
    bench.durable(bench.log.head()).await;
}

#[tokio::test]
async fn a_disk_damaged_while_it_is_used_is_healed_by_a_whole_table() {
    let config = Config { checkpoint_bytes: 1_000, ..Config::default() };
    let mut bench = Bench::start(config);
    bench.apply();
    bench.durable(bench.log.head()).await;
    bench.disk.damage("checkpoint-00000001", |bytes| bytes[60] ^= 1);
    for deployment in 1..=10 {
        bench.moves(0, deployment % 5);
    }
    bench.shows(|bench| bench.keeper.take_wants_snapshot()).await;
    bench.apply_whole();
    bench.durable(bench.log.head()).await;
    let head = bench.log.head();
    let (_, live) = bench.restarted(config).await;
    assert_eq!(live.position(), Some(head));
}

/// Every file, byte for byte.
fn files(disk: &Memory) -> Vec<(String, Vec<u8>)> {
    disk.names().unwrap().into_iter().map(|name| (name.clone(), disk.bytes(&name))).collect()
}

#[tokio::test]
async fn a_pause_begins_when_all_is_on_disk_and_what_comes_meanwhile_waits() {
    let mut bench = Bench::start(Config::default());
    bench.apply();
    bench.moves(0, 1);
    let before = bench.log.head();
    let pausing = bench.keeper.pausing();
    let paused = timeout(LIMIT, pausing.pause()).await.unwrap().unwrap();
    assert_eq!(bench.keeper.durable(), Some(before), "what was applied by then is on disk");
    let resting = files(&bench.disk);
    bench.moves(0, 2);
    bench.moves(1, 3);

    // Somebody else may read meanwhile, and keep what it hears to itself.
    let live = Live::new(1);
    let (reader, reading) =
        Keeper::start_paused(bench.disk.clone(), Config::default(), &live, DiskMetrics::default()).unwrap();
    assert_eq!((live.position(), reader.durable()), (Some(before), None));
    drop((reader, reading));
    assert_eq!((files(&bench.disk), bench.keeper.durable()), (resting, Some(before)), "nothing was written");

    drop(paused);
    bench.durable(bench.log.head()).await;
    let (_restarted, live) = bench.restarted(Config::default()).await;
    assert_eq!(served(&live), [Some(2), Some(3), None]);
}

#[tokio::test]
async fn what_is_given_up_is_never_touched_again() {
    let mut bench = Bench::start(Config::default());
    bench.apply();
    let paused = timeout(LIMIT, bench.keeper.pausing().pause()).await.unwrap().unwrap();
    let live = Live::new(1);
    let (successor, waiting) =
        Keeper::start_paused(bench.disk.clone(), Config::default(), &live, DiskMetrics::default()).unwrap();
    bench.moves(0, 1);
    paused.give_up();
    let mut ended = bench.keeper.watch();
    timeout(LIMIT, async { while ended.changed().await.is_ok() {} }).await.expect("its thread ends");
    let left = files(&bench.disk);
    bench.moves(0, 2);
    assert!(bench.keeper.is_given_up() && files(&bench.disk) == left);

    waiting.resume();
    let mut durable = successor.watch();
    timeout(LIMIT, durable.wait_for(|durable| *durable == live.position())).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_disk_that_refuses_does_not_keep_a_pause_from_beginning() {
    let mut bench = Bench::start(Config::default());
    bench.apply();
    bench.durable(bench.log.head()).await;
    bench.disk.room(Some(0));
    bench.moves(0, 1);
    bench.shows(|bench| bench.metrics.failing.get() == 1).await;
    let paused = timeout(LIMIT, bench.keeper.pausing().pause()).await.unwrap();
    assert!(paused.is_ok());
    bench.disk.room(None);
    drop(paused);
    bench.durable(bench.log.head()).await;
}
