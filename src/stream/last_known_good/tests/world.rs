//! A store, a table, and the disk that should keep it: what was applied, and what
//! was said to be durable, as a short list to compare with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::memory::Memory;
use crate::model::change::RecordKey;
use crate::model::revision::Position;
use crate::routing::address::Address;
use crate::routing::live::Live;
use crate::store::Changes;
use crate::stream::client::session::{Action, Session, Work};
use crate::stream::last_known_good::recovery::{Found, recover};
use crate::stream::last_known_good::writer::{Failure, Item, Writer};
use crate::stream::server::snapshots::chunks;
use crate::stream::tests::log::{Log, deployment_id, environment_id, host, moved, pool_key};
use crate::wire::response::{Delta, Response};

pub struct World {
    pub log: Log,
    pub disk: Memory,
    pub live: Arc<Live>,
    pub writer: Writer<Memory>,
    pub waiting: VecDeque<Item>,
    /// Where the disk is said to be.
    pub durable: Option<Position>,
    /// Every position the table has had, with what it served there.
    pub applied: Vec<(Position, Served)>,
    lineages: u128,
    pointers: Served,
    pools: [Vec<u8>; 3],
    is_lost: bool,
}

/// The deployment that each of three environments points at.
pub type Served = [Option<u8>; 3];

impl World {
    pub fn new() -> Self {
        let (log, disk) = (Log::new(1), Memory::default());
        let mut world = Self {
            live: Live::new(1),
            writer: Writer::new(disk.clone(), &Found::default()),
            log,
            disk,
            waiting: VecDeque::new(),
            durable: None,
            applied: Vec::new(),
            lineages: 1,
            pointers: [None; 3],
            pools: Default::default(),
            is_lost: false,
        };
        world.deliver();
        world
    }

    /// An environment moves, and the table follows.
    pub fn moves(&mut self, n: u8, deployment: u8) {
        self.log.commit(moved(n, deployment), &[]);
        self.pointers[usize::from(n)] = Some(deployment);
        if !self.pools[usize::from(n)].contains(&deployment) {
            self.pools[usize::from(n)].push(deployment);
        }
        self.deliver();
    }

    /// An environment goes.
    pub fn deletes(&mut self, n: u8) {
        let pools = std::mem::take(&mut self.pools[usize::from(n)]);
        let mut keys: Vec<RecordKey> = pools.iter().map(|pool| RecordKey::Pool(pool_key(n, *pool))).collect();
        keys.push(RecordKey::Environment(environment_id(n)));
        self.log.commit(Vec::new(), &keys);
        self.pointers[usize::from(n)] = None;
        self.deliver();
    }

    /// The store becomes another history.
    pub fn restore(&mut self) {
        self.lineages += 1;
        self.log.restore(self.lineages);
        self.deliver();
    }

    /// Everything is sent again.
    pub fn snapshot(&mut self) {
        let parts: Vec<_> = chunks(&self.log.whole(), false).collect();
        for part in &parts {
            self.apply(Response::SnapshotChunk(part.clone()));
        }
        self.is_lost = false;
        self.waiting.push_back(Item::Snapshot(parts));
        self.remember();
    }

    /// What the table lacks arrives and is applied.
    pub fn deliver(&mut self) {
        let (head, at) = (self.log.head(), self.live.position());
        let Some(at) = at.filter(|at| at.lineage == head.lineage && !self.is_lost) else { return self.snapshot() };
        let Changes::Log(changes) = self.log.changes(at.revision, usize::MAX) else { return self.snapshot() };
        if changes.is_empty() {
            return;
        }
        let change_sets = changes.into_iter().map(|change| change.bytes).collect();
        let delta = Delta { from: at, to: head, change_sets };
        self.apply(Response::Delta(delta.clone()));
        self.waiting.push_back(Item::Delta(delta));
        self.remember();
    }

    fn apply(&self, message: Response) {
        // A session per snapshot: its parts are few enough here to be one.
        let mut session = Session::replay(Instant::now());
        match session.receive(message, self.live.position(), Instant::now()).unwrap() {
            Action::Apply(Work::Snapshot { position, records, .. }) => {
                self.live.apply_snapshot(position, records).unwrap()
            }
            Action::Apply(Work::Delta { from, to, changes }) => self.live.apply_delta(from, to, changes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn remember(&mut self) {
        assert_eq!(served(&self.live), self.pointers);
        self.applied.push((self.live.position().unwrap(), self.pointers));
    }

    /// What waits is put on disk, or not.
    pub fn write(&mut self) {
        let written = self.writer.write(&mut self.waiting);
        self.took(&written);
    }

    pub fn compact(&mut self) {
        let compacted = self.writer.compact(&[]);
        self.took(&compacted);
    }

    fn took(&mut self, done: &Result<(), Failure>) {
        match done {
            Ok(()) => {
                let now = self.writer.position();
                assert!(self.index(now) >= self.index(self.durable), "invariant 3: {:?} -> {now:?}", self.durable);
                self.durable = now;
            }
            Err(Failure::Disk(_)) => {}
            Err(Failure::Lost(_)) => {
                self.waiting.clear();
                self.is_lost = true;
            }
        }
    }

    /// The machine loses power and starts again.
    pub fn crash(&mut self, chance: impl FnMut(usize) -> usize) {
        self.disk.crash(chance);
        self.waiting.clear();
        self.is_lost = false;
        self.live = Live::new(1);
        let found = recover(&self.disk, &self.live);
        let loaded = found.loaded.map(|loaded| loaded.position);
        assert_eq!(loaded, self.live.position());
        self.check(loaded);
        self.writer = Writer::new(self.disk.clone(), &found);
        let settled = self.writer.settle();
        self.took(&settled);
        self.deliver();
    }

    /// What is loaded was applied once, and not before what was durable.
    fn check(&self, loaded: Option<Position>) {
        let (loaded_at, durable_at) = (self.index(loaded), self.index(self.durable));
        assert!(loaded_at >= durable_at, "invariant 3: {:?} was durable, {loaded:?} is loaded", self.durable);
        if let Some(at) = loaded_at {
            assert_eq!(served(&self.live), self.applied[at].1, "the whole of it, and nothing else");
        }
    }

    /// The last time the table stood there.
    pub fn index(&self, position: Option<Position>) -> Option<usize> {
        let position = position?;
        let at = self.applied.iter().rposition(|(applied, _)| *applied == position);
        Some(at.unwrap_or_else(|| panic!("{position:?} was never applied")))
    }
}

/// What each environment is served from.
pub fn served(live: &Live) -> Served {
    let mut reader = Arc::new(live).reader();
    [0, 1, 2].map(|n| {
        let host = host(n);
        let address = Address { host: host.as_bytes(), ..Address::default() };
        let claimed = reader.claim(&address, 0).ok()?;
        (0..u8::MAX).find(|deployment| deployment_id(*deployment) == claimed.pool.key.deployment)
    })
}
