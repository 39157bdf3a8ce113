//! The environments of a table, found by host, by names and by id.
//!
//! Routes lie in slots, and three indexes say which. A route keeps its slot, so
//! a pointer move replaces what lies there and touches no index. A clone shares
//! everything. Owns no rules: [`change`](crate::routing::change) decides what
//! may be put in.

use std::sync::Arc;

use crate::model::id::EnvironmentId;
use crate::routing::index::{Index, KeyHasher, Place, Slot};
use crate::routing::route::{EnvironmentRoute, Head};
use crate::routing::slots::Slots;

/// Every environment of a table.
#[derive(Clone)]
pub struct Environments {
    slots: Slots<EnvironmentRoute>,
    hasher: KeyHasher,
    /// Hosts and wildcards.
    hosts: Index,
    /// Pairs of project and environment.
    names: Index,
    ids: Index,
}

impl Environments {
    /// None, with room for this many.
    pub(super) fn with_capacity(environments: usize) -> Self {
        let index = || Index::with_capacity(environments);
        Self { slots: Slots::default(), hasher: KeyHasher::default(), hosts: index(), names: index(), ids: index() }
    }

    /// The environment that this folded host or wildcard leads to.
    #[inline]
    pub fn by_host(&self, host: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        self.hosts.get(self.hasher.hash(host), |at| {
            self.slots.get(at.slot).filter(|route| route.head().host(usize::from(at.ordinal)) == Some(host))
        })
    }

    /// The environment of these names.
    pub fn by_names(&self, project: &[u8], environment: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        self.names.get(self.hasher.hash_pair(project, environment), |at| {
            let is_it = |head: &Head| head.name() == environment && head.project() == project;
            self.slots.get(at.slot).filter(|route| is_it(route.head()))
        })
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
        let is_it = |at: Place| self.slots.get(at.slot).is_some_and(|route| route.id == id);
        self.ids.get(self.hash_of_id(id), |at| is_it(at).then_some(at.slot))
    }

    /// Puts a new environment into an empty slot; its keys come separately.
    pub(super) fn add(&mut self, slot: Slot, route: Arc<EnvironmentRoute>) {
        let hash = self.hash_of_id(route.id);
        self.slots.set(slot, Some(route));
        let Self { slots, hasher, ids, .. } = self;
        let hash_of = |at: Place| slots.get(at.slot).map_or(0, |route| hasher.hash(route.id.uuid().as_bytes()));
        insert(ids, hash, Place { slot, ordinal: 0 }, hash_of);
    }

    /// Replaces the route to the same environment. Its keys must be the same, or
    /// have been taken out.
    pub(super) fn replace(&mut self, slot: Slot, route: Arc<EnvironmentRoute>) {
        self.slots.set(slot, Some(route));
    }

    /// Takes an environment out, whose keys have been taken out.
    pub(super) fn remove(&mut self, slot: Slot, id: EnvironmentId) {
        self.ids.remove(self.hash_of_id(id), Place { slot, ordinal: 0 });
        self.slots.set(slot, None);
    }

    /// Takes every key out that leads to this slot; `head` is what lies there.
    pub(super) fn remove_keys(&mut self, slot: Slot, head: &Head) {
        for (host, ordinal) in head.hosts().zip(0..) {
            self.hosts.remove(self.hasher.hash(host), Place { slot, ordinal });
        }
        self.names.remove(self.hasher.hash_pair(head.project(), head.name()), Place { slot, ordinal: 0 });
    }

    /// Leads every key of what lies in this slot to it.
    ///
    /// # Errors
    ///
    /// The key that leads to another environment; this is to be thrown away then.
    pub(super) fn add_keys(&mut self, slot: Slot, head: &Head) -> Result<(), String> {
        for (host, ordinal) in head.hosts().zip(0..) {
            let hash = self.hasher.hash(host);
            let known = self.hosts.get(hash, |at| (self.host_at(at)? == host).then_some(at.slot));
            match known {
                None => {}
                // The same host twice in one record.
                Some(known) if known == slot => continue,
                Some(_) => return Err(String::from_utf8_lossy(host).into_owned()),
            }
            let Self { slots, hasher, hosts, .. } = self;
            let host_at = |at: Place| slots.get(at.slot)?.head().host(usize::from(at.ordinal));
            insert(hosts, hash, Place { slot, ordinal }, |at| host_at(at).map_or(0, |host| hasher.hash(host)));
        }
        if self.by_names(head.project(), head.name()).is_some() {
            let (project, name) = (String::from_utf8_lossy(head.project()), String::from_utf8_lossy(head.name()));
            return Err(format!("{project}/{name}"));
        }
        let hash = self.hasher.hash_pair(head.project(), head.name());
        let Self { slots, hasher, names, .. } = self;
        let head_at = |at: Place| slots.get(at.slot).map(|route| route.head());
        let hash_of = |at: Place| head_at(at).map_or(0, |head| hasher.hash_pair(head.project(), head.name()));
        insert(names, hash, Place { slot, ordinal: 0 }, hash_of);
        Ok(())
    }

    fn host_at(&self, at: Place) -> Option<&[u8]> {
        self.slots.get(at.slot)?.head().host(usize::from(at.ordinal))
    }

    fn hash_of_id(&self, id: EnvironmentId) -> u64 {
        self.hasher.hash(id.uuid().as_bytes())
    }
}

fn insert(index: &mut Index, hash: u64, at: Place, hash_of: impl Fn(Place) -> u64) {
    while index.is_full() || !index.insert(hash, at) {
        *index = index.grown(&hash_of);
    }
}
