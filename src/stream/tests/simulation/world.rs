//! What is true in the simulation, whatever anybody in it believes: the store and
//! its history, which replicas run, what every proxy serves, and which requests
//! are where. Broken promises are noted here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::drain::Drain;
use crate::fleet::Fleet;
use crate::model::id::InstanceId;
use crate::model::revision::{Position, Revision};
use crate::routing::live::{Live, Reader};
use crate::stream::last_known_good::tests::memory::Memory;
use crate::stream::tests::log::{Log, environment};
use crate::stream::tests::sabotage::{self, Sabotage};
use crate::stream::tests::simulation::state::{ENVIRONMENTS, Key, State};
use crate::stream::tests::simulation::transport::Stall;

/// The world, shared by everything on the simulation's one thread.
pub type Shared = Arc<Lock>;

/// Everything in it; a lock only because tasks must be able to change threads.
pub struct Lock(Mutex<World>);

/// Proxies: the last one keeps no table.
pub const PROXIES: usize = 3;
/// How far the simulation goes at a time.
pub const TICK: Duration = Duration::from_millis(10);

pub struct World {
    pub now: Duration,
    /// Chooses the work: what moves, who asks.
    pub rng: fastrand::Rng,
    pub log: Log,
    pub lineages: u128,
    pub state: State,
    /// Every position there was, and the state there.
    pub history: Vec<(Position, State)>,
    pub control: Control,
    pub proxies: Vec<Proxy>,
    /// Every run of every proxy, ended ones too.
    pub runs: Vec<Run>,
    pub requests: BTreeMap<u64, Request>,
    /// Replicas that run, by number.
    pub replicas: BTreeSet<u64>,
    /// Since when a pool is closing, and the change that closed it.
    pub closing: BTreeMap<Key, (Revision, Duration)>,
    /// The change since when a replica is draining.
    pub draining: BTreeMap<u64, Revision>,
    /// Changes whose arrival is watched.
    pub moves: Vec<Revision>,
    /// A transaction that was numbered and is not committed, where numbers come
    /// from a sequence.
    pub open: Option<Revision>,
    /// No more work: everything is to come to an end.
    pub is_settling: bool,
    pub trace: Vec<String>,
    pub broken: Option<Violation>,
    pub seen: Seen,
    ids: u64,
}

/// The control plane's machine.
#[derive(Default)]
pub struct Control {
    pub fleet: Option<Fleet>,
    pub drain: Option<Drain>,
    pub stall: Stall,
    /// How far its clock is to jump.
    pub jump: Option<Duration>,
    /// What reads of the store take.
    pub store_delay: Duration,
    /// How much the clock on the wall is wrong at the next start, in seconds.
    pub wall_seconds: i64,
}

/// A proxy's machine.
#[derive(Default)]
pub struct Proxy {
    pub disk: Option<Memory>,
    pub disk_is_slow: bool,
    pub stall: Stall,
    pub drain: Option<Drain>,
    /// It takes no more requests, and stops when it has none.
    pub is_stopping: bool,
    pub jump: Option<Duration>,
    /// Runs that its disk knows to have ended.
    pub ended: Vec<InstanceId>,
    /// Its run, while one is up.
    pub run: Option<usize>,
    /// The furthest that was believed to be on its disk.
    pub durable: Option<Position>,
}

/// One run of a proxy.
pub struct Run {
    pub proxy: usize,
    pub instance: InstanceId,
    pub live: Arc<Live>,
    pub reader: Reader,
    /// Where its table was seen last.
    pub position: Option<Position>,
    /// When the control plane heard it last.
    pub heard: Option<Duration>,
    /// What was believed to be durable when the disk was looked at last.
    pub durable: Option<Revision>,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Request {
    pub run: usize,
    pub key: Key,
    pub replica: u64,
}

/// A promise that was found broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub promise: Promise,
    pub what: String,
}

/// What the checker knows: invariants by their number, and what else was promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    Invariant(u8),
    /// One revision for each committed change, in the order of the commits.
    RevisionOrder,
    /// A move that is applied is applied by everybody who is waited for.
    Applied,
    /// What is committed arrives, and what is drained stops.
    Liveness,
}

/// How much of what is to be tried was tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub commits: u64,
    pub claims: u64,
    pub refused_claims: u64,
    pub tables: u64,
    pub applied_moves: u64,
    pub drained: u64,
    pub cut: u64,
    pub reopened: u64,
    pub disks: u64,
    pub loaded: u64,
    pub faults: u64,
    pub nacks: u64,
}

impl Lock {
    pub fn new(seed: u64) -> Shared {
        Arc::new(Self(Mutex::new(World::new(seed))))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("a panic ends the simulation")
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let log = Log::new(1);
        let proxies = (0..PROXIES).map(|n| Proxy { disk: (n + 1 < PROXIES).then(Memory::default), ..Proxy::default() });
        let mut world = Self {
            now: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
            history: vec![(log.head(), State::default())],
            log,
            lineages: 1,
            state: State::default(),
            control: Control::default(),
            proxies: proxies.collect(),
            runs: Vec::new(),
            requests: BTreeMap::new(),
            replicas: BTreeSet::new(),
            closing: BTreeMap::new(),
            draining: BTreeMap::new(),
            moves: Vec::new(),
            open: None,
            is_settling: false,
            trace: Vec::new(),
            broken: None,
            seen: Seen::default(),
            ids: 0,
        };
        for n in 0..ENVIRONMENTS {
            world.move_to(n, 0);
        }
        world
    }

    /// A number that nothing else has.
    pub fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn note(&mut self, what: impl Into<String>) {
        let (at, what) = (self.now.as_millis(), what.into());
        self.trace.push(format!("{at:>7} {what}"));
    }

    /// The first broken promise ends the simulation.
    pub fn breaks(&mut self, promise: Promise, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("BROKEN {promise:?}: {what}"));
        self.broken.get_or_insert(Violation { promise, what });
    }

    /// Commits what `change` makes of the state. Answers where that is.
    pub fn commit(&mut self, change: impl FnOnce(&mut State)) -> Revision {
        let mut next = self.state.clone();
        change(&mut next);
        let mut revision = self.log.head().revision.next();
        if sabotage::is(Sabotage::RevisionFromSequence) {
            match self.open.take() {
                // Numbered before the last one, and committed after it.
                Some(late) => {
                    let touched = environment(0, self.state.pointers.get(&0).copied());
                    self.log.commit_as(late, vec![touched], &[]);
                }
                None if self.rng.u8(0..4) == 0 => {
                    self.open = Some(revision);
                    revision = revision.next();
                }
                None => {}
            }
        }
        self.commit_as(revision, next);
        revision
    }

    fn commit_as(&mut self, revision: Revision, next: State) {
        let (upserts, deletes) = self.state.changes_to(&next);
        let position = self.log.commit_as(revision, upserts, &deletes);
        self.state = next;
        self.history.push((position, self.state.clone()));
        self.moves.push(position.revision);
        self.seen.commits += 1;
        self.note(format!("commit {revision}: {:?}", self.state.pointers));
    }

    /// The store becomes another history, with the same state.
    pub fn restore(&mut self) {
        self.lineages += 1;
        self.log.restore(self.lineages);
        let head = self.log.head();
        self.history.push((head, self.state.clone()));
        self.closing.values_mut().for_each(|(revision, _)| *revision = head.revision);
        self.draining.values_mut().for_each(|revision| *revision = head.revision);
        self.moves.clear();
        self.note(format!("the store is restored, at {}", text(Some(head))));
    }

    /// No more work.
    pub fn settle(&mut self) {
        self.is_settling = true;
        if self.state.is_spoiled {
            self.commit(|state| state.is_spoiled = false);
        }
        self.note("everything is put right, and nothing new begins");
    }

    /// Whether everything that was committed has arrived, and what was closed has stopped.
    pub fn is_at_rest(&self) -> bool {
        let head = Some(self.log.head());
        let is_there = |proxy: &Proxy| proxy.run.is_some_and(|run| self.runs[run].live.position() == head);
        self.closing.is_empty()
            && self.draining.is_empty()
            && self.moves.is_empty()
            && self.proxies.iter().all(is_there)
    }

    /// It has not come to rest in the time it has.
    pub fn never_rests(&mut self) {
        let blocking = |fleet: &Fleet| fleet.proxies();
        let what = format!(
            "closing {:?}, draining {:?}, moves {:?}, proxies {:?}, known as {:?}",
            self.closing,
            self.draining,
            self.moves,
            self.proxies.iter().map(|proxy| proxy.run).collect::<Vec<_>>(),
            self.control.fleet.as_ref().map(blocking),
        );
        self.breaks(Promise::Liveness, what);
    }

    /// The state at a position, if the store has ever been there.
    pub fn state_at(&self, position: Position) -> Option<&State> {
        self.history.iter().rev().find(|(at, _)| *at == position).map(|(_, state)| state)
    }

    /// The store's histories, older ones first: where this one is among them.
    pub fn age(&self, position: Position) -> usize {
        let first = self.history.iter().position(|(at, _)| at.lineage == position.lineage);
        first.expect("a history that was there")
    }

    /// A run of a proxy begins, with what its disk had.
    pub fn begins(&mut self, proxy: usize, instance: InstanceId, live: Arc<Live>) -> usize {
        let position = live.position();
        let reader = live.reader();
        self.runs.push(Run { proxy, instance, live, reader, position, heard: None, durable: None });
        let run = self.runs.len() - 1;
        self.proxies[proxy].run = Some(run);
        self.proxies[proxy].is_stopping = false;
        self.note(format!("run {run} of proxy {proxy} begins at {}", text(position)));
        self.seen.loaded += u64::from(position.is_some());
        if let Some(durable) = self.proxies[proxy].durable {
            let is_behind = position.is_none_or(|at| match at.lineage == durable.lineage {
                true => at.revision < durable.revision,
                false => self.age(at) < self.age(durable),
            });
            if is_behind {
                let what =
                    format!("proxy {proxy} had {} on disk and begins at {}", text(Some(durable)), text(position));
                self.breaks(Promise::Invariant(3), what);
            }
        }
        run
    }

    /// The run of a proxy is over, with everything it held.
    pub fn ends(&mut self, proxy: usize) {
        if let Some(run) = self.proxies[proxy].run.take() {
            let instance = self.runs[run].instance;
            if self.proxies[proxy].disk.is_some() {
                self.proxies[proxy].ended.push(instance);
            }
            self.note(format!("run {run} of proxy {proxy} ends"));
        }
    }
}

/// A position, shortly.
pub fn text(position: Option<Position>) -> String {
    position.map_or("nothing".into(), |at| format!("{} of {}", at.revision, &at.lineage.to_string()[30..]))
}
