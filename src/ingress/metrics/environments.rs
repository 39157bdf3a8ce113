//! Metrics of single environments, for those that the settings name.
//!
//! Bounded however many environments match: each that is seen gets a slot, in
//! which every core counts for itself, until the slots are given out; what comes
//! after that is counted as over the limit. Where the settings name none, nothing
//! here exists. A core asks once per environment and remembers the answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use crate::ingress::metrics::durations::{self, Durations};
use crate::ingress::metrics::summed::count;
use crate::ingress::metrics::{CLASSES, Counter};
use crate::ingress::watched::{EnvironmentPattern, WATCHED_MAX};
use crate::model::id::EnvironmentId;
use crate::routing::route::EnvironmentRoute;

/// Which environments are watched, and what is counted of them.
#[derive(Debug)]
pub(in crate::ingress) struct Watched {
    patterns: Vec<EnvironmentPattern>,
    /// Project and name of each slot that is given out.
    slots: Mutex<Vec<(String, String)>>,
    cores: Vec<Arc<CoreCounters>>,
}

/// What one core counts of every slot.
#[derive(Debug)]
struct CoreCounters {
    slots: Vec<SlotCounters>,
    /// Requests of environments that match and have no slot.
    over_limit: Counter,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct SlotCounters {
    requests: [Counter; CLASSES.len()],
    errors: Counter,
    durations: Durations,
}

/// One core's own.
pub(in crate::ingress) struct Watcher {
    watched: Arc<Watched>,
    counters: Arc<CoreCounters>,
    known: RefCell<HashMap<EnvironmentId, Known, RandomState>>,
}

/// What a core knows of an environment.
#[derive(Clone, Copy)]
enum Known {
    Slot(usize),
    OverLimit,
    Unwatched,
}

/// Some 20 bytes each. When full, all are forgotten and looked up anew.
const KNOWN_MAX: usize = 8 * 1024;

impl Watched {
    /// Nothing where no pattern is given.
    pub(in crate::ingress) fn new(patterns: &[EnvironmentPattern], cores: usize) -> Option<Arc<Self>> {
        let of_core = || CoreCounters {
            slots: (0..WATCHED_MAX).map(|_| SlotCounters::default()).collect(),
            over_limit: Counter::default(),
        };
        (!patterns.is_empty()).then(|| {
            let cores = (0..cores).map(|_| Arc::new(of_core())).collect();
            Arc::new(Self { patterns: patterns.to_vec(), slots: Mutex::default(), cores })
        })
    }

    /// What core `index` counts with.
    pub(in crate::ingress) fn watcher(self: &Arc<Self>, index: usize) -> Watcher {
        let counters = Arc::clone(&self.cores[index]);
        Watcher { watched: Arc::clone(self), counters, known: RefCell::default() }
    }

    /// Its slot. An environment that was removed and made again by the same names
    /// goes on in the one it had.
    fn look_up(&self, environment: &EnvironmentRoute) -> Known {
        let (project, name) = (environment.project(), environment.name());
        if !self.patterns.iter().any(|pattern| pattern.covers(project, name)) {
            return Known::Unwatched;
        }
        let mut slots = self.slots();
        if let Some(slot) = slots.iter().position(|(of, named)| of == project && named == name) {
            return Known::Slot(slot);
        }
        if slots.len() >= WATCHED_MAX {
            return Known::OverLimit;
        }
        slots.push((project.to_owned(), name.to_owned()));
        Known::Slot(slots.len() - 1)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_slot(&self, slot: usize) -> impl Iterator<Item = &SlotCounters> + Clone {
        self.cores.iter().map(move |core| &core.slots[slot])
    }
}

impl Watcher {
    /// Counts a request that has ended.
    pub(in crate::ingress) fn record(
        &self,
        environment: &EnvironmentRoute,
        class: usize,
        is_error: bool,
        took: Duration,
    ) {
        match self.known(environment) {
            Known::Unwatched => {}
            Known::OverLimit => self.counters.over_limit.one(),
            Known::Slot(slot) => {
                let counters = &self.counters.slots[slot];
                counters.requests[class].one();
                counters.durations.observe(took);
                counters.errors.add(u64::from(is_error));
            }
        }
    }

    fn known(&self, environment: &EnvironmentRoute) -> Known {
        let mut known = self.known.borrow_mut();
        if let Some(known) = known.get(&environment.id) {
            return *known;
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let found = self.watched.look_up(environment);
        known.insert(environment.id, found);
        found
    }
}

/// Shows them.
#[derive(Debug)]
pub(in crate::ingress) struct PerEnvironment(pub(in crate::ingress) Arc<Watched>);

impl Collector for PerEnvironment {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (watched, slots) = (&self.0, self.0.slots().clone());
        let labels = |slot: usize| [("project", slots[slot].0.as_str()), ("environment", slots[slot].1.as_str())];
        let help = "Requests of a watched environment by status class";
        let mut metric = encoder.encode_descriptor("ingress_environment_requests", help, None, MetricType::Counter)?;
        for (slot, (index, class)) in
            (0..slots.len()).flat_map(|slot| CLASSES.iter().enumerate().map(move |class| (slot, class)))
        {
            let [project, environment] = labels(slot);
            let sum = watched.of_slot(slot).map(|counters| counters.requests[index].value()).sum();
            count(&mut metric.encode_family(&[project, environment, ("class", *class)])?, sum)?;
        }
        let help = "Requests of a watched environment that ended badly";
        let mut metric = encoder.encode_descriptor("ingress_environment_errors", help, None, MetricType::Counter)?;
        for slot in 0..slots.len() {
            let sum = watched.of_slot(slot).map(|counters| counters.errors.value()).sum();
            count(&mut metric.encode_family(&labels(slot))?, sum)?;
        }
        let (name, help) =
            ("ingress_environment_request_duration_seconds", "From head to last byte, of a watched environment");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for slot in 0..slots.len() {
            let cores = watched.of_slot(slot).map(|counters| &counters.durations);
            durations::encode(&mut metric.encode_family(&labels(slot))?, &cores)?;
        }
        let help = "Requests of environments that are to be watched and are too many";
        let name = "ingress_environment_metrics_over_limit";
        let over: u64 = watched.cores.iter().map(|core| core.over_limit.value()).sum();
        count(&mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?, over)
    }
}
