//! Tasks that watch something: one for each target that is probed, one for each
//! name that is resolved. What nobody needs any more is no longer watched.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::Probe;
use super::event::Event;
use super::health::Health;
use super::probe::Target;

/// Probes under way at once. Each holds a socket for two seconds at worst; more would starve the ingress of them.
const PROBES_MAX: usize = 256;

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
    places: Arc<Semaphore>,
    told: mpsc::UnboundedSender<Event>,
}

impl Prober {
    /// Verdicts go to `told`, when they change.
    pub fn new(probe: Probe, told: mpsc::UnboundedSender<Event>) -> Self {
        Self { probe, places: Arc::new(Semaphore::new(PROBES_MAX)), told }
    }

    /// Begins to probe. `settled`: it was ready when it was seen last.
    pub fn watch(&self, target: Target, settled: bool) -> JoinHandle<()> {
        let Self { probe, places, told } = self.clone();
        tokio::spawn(async move {
            let (since, mut health) = (Instant::now(), Health::new(settled));
            loop {
                // The semaphore is never closed.
                let Ok(place) = places.acquire().await else { return };
                let result = target.probe(probe.timeout).await;
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
