//! Tasks that watch something: one for each target that is probed, one for each
//! name that is resolved. What nobody needs any more is no longer watched.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use super::Probe;
use super::event::Event;
use super::health::Health;
use super::probe::Target;
use crate::replica_tls::ReplicaTls;

/// Probes of what was well under way at once. Each holds a socket for two seconds at worst; more would starve the
/// ingress of them.
const CALM_MAX: usize = 192;

/// Probes at once of what has not been ready yet. These have places of their own: a move waits for them.
const HURRIED_MAX: usize = 64;

/// Probes of what was well that begin in one second. A hundred thousand addresses are then asked every hundred seconds
/// instead of every five, and cost a twentieth of a core instead of a whole one.
const CALM_PER_SECOND_MAX: u32 = 1_000;

/// One task for each key; dropped with it.
#[derive(Debug)]
pub(super) struct Watching<K> {
    tasks: HashMap<K, JoinHandle<()>>,
}

impl<K: Eq + Hash + Clone> Watching<K> {
    pub fn new() -> Self {
        Self { tasks: HashMap::new() }
    }

    /// Begins to watch, unless it is watched already.
    pub fn start(&mut self, key: K, watch: impl FnOnce(K) -> JoinHandle<()>) {
        if let Entry::Vacant(unwatched) = self.tasks.entry(key) {
            let task = watch(unwatched.key().clone());
            unwatched.insert(task);
        }
    }

    /// Watches it no longer.
    pub fn stop(&mut self, key: &K) {
        if let Some(task) = self.tasks.remove(key) {
            task.abort();
        }
    }
}

impl<K> Drop for Watching<K> {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

/// Probes targets and tells when what is known about one has changed.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    probe: Probe,
    tls: ReplicaTls,
    places: Arc<Places>,
    told: mpsc::UnboundedSender<Event>,
}

impl Prober {
    /// Verdicts go to `told`, when they change.
    pub fn new(probe: Probe, tls: ReplicaTls, told: mpsc::UnboundedSender<Event>) -> Self {
        Self { probe, tls, places: Arc::default(), told }
    }

    /// Begins to probe. `settled`: it was ready when it was seen last.
    pub fn watch(&self, target: Target, settled: bool) -> JoinHandle<()> {
        let Self { probe, tls, places, told } = self.clone();
        tokio::spawn(async move {
            let (since, mut health) = (Instant::now(), Health::new(settled));
            loop {
                // The semaphores are never closed.
                let Some(place) = places.take(health.is_settled()).await else { return };
                // On the heap: a task that sleeps, as nearly all do, is small.
                let result = Box::pin(target.probe(&tls, probe.timeout)).await;
                drop(place);
                let before = health.clone();
                health.take(result.map_err(|failure| failure.to_string()), &probe);
                let news = (before.verdict, &before.error) != (health.verdict, &health.error);
                if news && told.send(Event::Probed(target.clone(), health.clone())).is_err() {
                    return;
                }
                tokio::time::sleep(health.pause(since.elapsed(), &probe)).await;
            }
        })
    }
}

/// Places for probes, and the pace at which those that are in no hurry begin.
#[derive(Debug)]
struct Places {
    calm: Semaphore,
    hurried: Semaphore,
    /// When the next calm one may begin.
    next: Mutex<tokio::time::Instant>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            calm: Semaphore::new(CALM_MAX),
            hurried: Semaphore::new(HURRIED_MAX),
            next: Mutex::new(tokio::time::Instant::now()),
        }
    }
}

impl Places {
    /// Waits for a place; `settled` ones also for their turn.
    async fn take(&self, settled: bool) -> Option<SemaphorePermit<'_>> {
        if !settled {
            return self.hurried.acquire().await.ok();
        }
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            // Turns that nobody took are gone: no rush makes up for them.
            let turn = tokio::time::Instant::now().max(*next);
            *next = turn + Duration::from_secs(1) / CALM_PER_SECOND_MAX;
            turn
        };
        tokio::time::sleep_until(turn).await;
        self.calm.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_well_is_asked_at_a_pace_and_what_starts_does_not_wait_for_it() {
        let places = Places::default();
        let began = tokio::time::Instant::now();
        for _ in 0..3 * CALM_PER_SECOND_MAX {
            drop(places.take(true).await.unwrap());
        }
        assert!(began.elapsed() >= Duration::from_millis(2_900), "{:?}", began.elapsed());
        let held: Vec<_> = futures_util::future::join_all((0..CALM_MAX).map(|_| places.take(true))).await;
        let hurried = tokio::time::Instant::now();
        drop(places.take(false).await.unwrap());
        assert_eq!(hurried.elapsed(), Duration::ZERO, "although {} places are taken", held.len());
    }
}
