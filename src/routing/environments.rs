//! The environments of a table, found by host, by names and by id.
//!
//! Routes lie in slots, and two indexes say which. A host leads to its route at
//! once, for it is what requests ask for: a pointer move replaces the route in its
//! slot and at its hosts, and touches no index. A clone shares everything. Owns no rules: [`change`](crate::routing::change) decides what
//! may be put in.

use std::sync::Arc;

use crate::model::id::EnvironmentId;
use crate::routing::hosts::Hosts;
use crate::routing::index::{Index, KeyHasher, Slot};
use crate::routing::route::{EnvironmentRoute, Head};
use crate::routing::slots::Slots;

/// Every environment of a table.
#[derive(Clone)]
pub struct Environments {
    slots: Slots<EnvironmentRoute>,
    hasher: KeyHasher,
    /// Hosts and wildcards.
    hosts: Hosts,
    /// Pairs of project and environment.
    names: Index,
    ids: Index,
}

impl Environments {
    /// None, with room for this many.
    pub(super) fn with_capacity(environments: usize) -> Self {
        let index = || Index::with_capacity(environments);
        let hosts = Hosts::with_capacity(environments);
        Self { slots: Slots::default(), hasher: KeyHasher::default(), hosts, names: index(), ids: index() }
    }

    /// The environment that this folded host or wildcard leads to.
    #[inline]
    pub fn by_host(&self, host: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        self.hosts.get(self.hasher.hash(host), host)
    }

    /// The environment of these names.
    pub fn by_names(&self, project: &[u8], environment: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        self.names.get(self.hasher.hash_pair(project, environment), |at| {
            let is_it = |head: &Head| head.name() == environment && head.project() == project;
            self.slots.get(at).filter(|route| is_it(route.head()))
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ids.count()
    }

    /// The environment of this id.
    pub fn by_id(&self, id: EnvironmentId) -> Option<&Arc<EnvironmentRoute>> {
        self.slots.get(self.slot_of(id)?)
    }

    /// Every environment, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<EnvironmentRoute>> {
        self.slots.iter()
    }

    pub(super) fn slot_of(&self, id: EnvironmentId) -> Option<Slot> {
        let is_it = |at: Slot| self.slots.get(at).is_some_and(|route| route.id == id);
        self.ids.get(self.hash_of_id(id), |at| is_it(at).then_some(at))
    }

    /// Puts a new environment into an empty slot; its keys come separately.
    pub(super) fn add(&mut self, slot: Slot, route: Arc<EnvironmentRoute>) {
        let hash = self.hash_of_id(route.id);
        self.slots.set(slot, Some(route));
        let Self { slots, hasher, ids, .. } = self;
        let hash_of = |at: Slot| slots.get(at).map_or(0, |route| hasher.hash(route.id.uuid().as_bytes()));
        insert(ids, hash, slot, hash_of);
    }

    /// Replaces the route to the same environment. Its keys must be the same, or
    /// have been taken out.
    pub(super) fn replace(&mut self, slot: Slot, route: Arc<EnvironmentRoute>) {
        for (host, ordinal) in route.head().hosts().zip(0..) {
            self.hosts.replace(self.hasher.hash(host), &route, ordinal);
        }
        self.slots.set(slot, Some(route));
    }

    /// Takes an environment out, whose keys have been taken out.
    pub(super) fn remove(&mut self, slot: Slot, id: EnvironmentId) {
        self.ids.remove(self.hash_of_id(id), slot);
        self.slots.set(slot, None);
    }

    /// Takes every key out that leads to this route, which lies in this slot.
    pub(super) fn remove_keys(&mut self, slot: Slot, route: &EnvironmentRoute) {
        let head = route.head();
        for (host, ordinal) in head.hosts().zip(0..) {
            self.hosts.remove(self.hasher.hash(host), route, ordinal);
        }
        self.names.remove(self.hasher.hash_pair(head.project(), head.name()), slot);
    }

    /// Leads every key of this route, which lies in this slot, to it.
    ///
    /// # Errors
    ///
    /// The key that leads to another environment; this is to be thrown away then.
    pub(super) fn add_keys(&mut self, slot: Slot, route: &Arc<EnvironmentRoute>) -> Result<(), String> {
        let head = route.head();
        for (host, ordinal) in head.hosts().zip(0..) {
            let hash = self.hasher.hash(host);
            match self.hosts.get(hash, host) {
                None => self.hosts.insert(&self.hasher, hash, route, ordinal),
                // The same host twice in one record.
                Some(known) if known.id == route.id => {}
                Some(_) => return Err(String::from_utf8_lossy(host).into_owned()),
            }
        }
        if self.by_names(head.project(), head.name()).is_some() {
            let (project, name) = (String::from_utf8_lossy(head.project()), String::from_utf8_lossy(head.name()));
            return Err(format!("{project}/{name}"));
        }
        let hash = self.hasher.hash_pair(head.project(), head.name());
        let Self { slots, hasher, names, .. } = self;
        let head_at = |at: Slot| slots.get(at).map(|route| route.head());
        let hash_of = |at: Slot| head_at(at).map_or(0, |head| hasher.hash_pair(head.project(), head.name()));
        insert(names, hash, slot, hash_of);
        Ok(())
    }

    fn hash_of_id(&self, id: EnvironmentId) -> u64 {
        self.hasher.hash(id.uuid().as_bytes())
    }
}

fn insert(index: &mut Index, hash: u64, at: Slot, hash_of: impl Fn(Slot) -> u64) {
    while index.is_full() || !index.insert(hash, at) {
        *index = index.grown(&hash_of);
    }
}
