//! Hosts: the one look-up of a usual request, straight to the route.
//!
//! A persistent hash map whose entries hold the route itself, so that a resolve
//! waits for memory twice, for the entry and for the route, as the probe of a
//! plain map does. The route is compared with the host, so no key is kept. A
//! clone shares every chunk; a write copies one chunk and the way to it.
//! [`environments`](crate::routing::environments) keeps it in step with its slots.

use std::sync::Arc;

use crate::routing::index::KeyHasher;
use crate::routing::route::EnvironmentRoute;

/// Hosts and wildcards to routes.
#[derive(Clone)]
pub struct Hosts {
    /// Two levels, so that a write copies two short lists of pointers.
    nodes: Arc<[Node]>,
    chunk_count: usize,
    count: usize,
}

type Node = Arc<[Arc<Chunk>]>;
type Chunk = [Group; CHUNK_GROUPS];

/// Entries that are looked at together: one cache line, compared whole before
/// the first branch. A search that had to guess how many entries it will look at
/// would guess wrong at every other host, and wait for memory to learn it.
#[derive(Clone, Default)]
#[repr(align(64))]
struct Group {
    // Each kind side by side: that takes fewer instructions to look through.
    tags: [u32; GROUP_ENTRIES],
    ordinals: [u32; GROUP_ENTRIES],
    routes: [Option<Arc<EnvironmentRoute>>; GROUP_ENTRIES],
}

/// Where a host leads. In a group the free ones come last.
#[derive(Clone)]
struct Entry {
    /// Of the hash of the host; 0 where an entry is free, and only there.
    tag: u32,
    /// The host's place among those of the route.
    ordinal: u32,
    route: Arc<EnvironmentRoute>,
}

const GROUP_ENTRIES: usize = 4;
const CHUNK_GROUPS: usize = 32;
const NODE_CHUNKS: usize = 64;
/// Keys in a chunk on average at most: 65 %, at which nineteen of twenty hosts
/// are found in the first group. That a chunk with this average fills up
/// entirely is out at the fifth standard deviation.
const CHUNK_KEYS: usize = CHUNK_GROUPS * GROUP_ENTRIES * 65 / 100;

impl Hosts {
    /// None, with room for this many.
    pub fn with_capacity(hosts: usize) -> Self {
        let chunk_count = hosts.div_ceil(CHUNK_KEYS).max(1);
        // They share one empty chunk until they are written to.
        let empty: Arc<Chunk> = Arc::default();
        let node = |at: usize| (0..(chunk_count - at).min(NODE_CHUNKS)).map(|_| Arc::clone(&empty)).collect();
        let nodes = (0..chunk_count).step_by(NODE_CHUNKS).map(node).collect();
        Self { nodes, chunk_count, count: 0 }
    }

    /// The route of this host. Neither locks nor allocates.
    // Inlined, and with nothing in it but the usual case: a call and a loop would
    // cost as much as the rest of a resolve.
    #[inline(always)]
    pub fn get(&self, hash: u64, host: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        let group = &self.chunk(hash)[home(tag(hash))];
        let first = group.hits(tag(hash)).trailing_zeros() as usize;
        let found = group.leads_from(first, host);
        found.or_else(|| self.search(hash, host))
    }

    /// Looks at every entry that may be the host's.
    #[inline(never)]
    fn search(&self, hash: u64, host: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        let (chunk, tag) = (self.chunk(hash), tag(hash));
        for step in 0..CHUNK_GROUPS {
            let group = &chunk[(home(tag) + step) % CHUNK_GROUPS];
            let found =
                (0..GROUP_ENTRIES).filter(|at| group.tags[*at] == tag).find_map(|at| group.leads_from(at, host));
            if found.is_some() || group.has_room() {
                return found;
            }
        }
        None
    }

    /// Adds a host of this route that leads nowhere yet.
    pub fn insert(&mut self, hasher: &KeyHasher, hash: u64, route: &Arc<EnvironmentRoute>, ordinal: u32) {
        let entry = Entry { route: Arc::clone(route), tag: tag(hash), ordinal };
        if self.count >= self.chunk_count * CHUNK_KEYS || !self.has_room(hash) {
            *self = self.grown(hasher);
        }
        // A chunk may still be full where hosts were chosen to make it so.
        while !place(self.chunk_mut(hash), entry.clone()) {
            *self = self.grown(hasher);
        }
        self.count += 1;
    }

    /// Leads a host to the next route of its environment. One that leads to
    /// another environment, or nowhere, is left as it is.
    pub fn replace(&mut self, hash: u64, route: &Arc<EnvironmentRoute>, ordinal: u32) {
        let chunk = self.chunk_mut(hash);
        let mut places = (0..CHUNK_GROUPS).flat_map(|group| (0..GROUP_ENTRIES).map(move |at| (group, at)));
        if let Some((group, at)) = places.find(|(group, at)| chunk[*group].is_of(*at, hash, route, ordinal)) {
            chunk[group].routes[at] = Some(Arc::clone(route));
        }
    }

    /// Forgets a host of this route.
    pub fn remove(&mut self, hash: u64, route: &EnvironmentRoute, ordinal: u32) {
        let chunk = self.chunk_mut(hash);
        // What lies past its home because of this one comes nearer.
        let mut removed = 0;
        for entry in std::mem::take(chunk).into_iter().flat_map(Group::into_entries) {
            if entry.tag == tag(hash) && entry.ordinal == ordinal && entry.route.id == route.id {
                removed += 1;
            } else {
                place(chunk, entry);
            }
        }
        self.count -= removed;
    }

    /// The same hosts with half as much room again. Amortised: it looks at every
    /// host, for half as many new ones.
    fn grown(&self, hasher: &KeyHasher) -> Self {
        let mut room = self.chunk_count * CHUNK_KEYS * 3 / 2;
        'wider: loop {
            let mut wider = Self::with_capacity(room);
            for entry in self.entries() {
                let hash = hasher.hash(entry.route.head().host(entry.ordinal as usize).unwrap_or_default());
                if !place(wider.chunk_mut(hash), entry) {
                    // The more chunks, the further apart its hosts go.
                    room *= 2;
                    continue 'wider;
                }
            }
            wider.count = self.count;
            return wider;
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let chunks = self.nodes.iter().flat_map(|node| node.iter());
        chunks.flat_map(|chunk| chunk.iter()).cloned().flat_map(Group::into_entries)
    }

    fn has_room(&self, hash: u64) -> bool {
        self.chunk(hash).iter().any(Group::has_room)
    }

    #[inline(always)]
    fn chunk(&self, hash: u64) -> &Chunk {
        let at = self.chunk_of(hash);
        &self.nodes[at / NODE_CHUNKS][at % NODE_CHUNKS]
    }

    #[inline]
    fn chunk_of(&self, hash: u64) -> usize {
        // The high half, scaled to the count: any count will do, so that growing
        // by half is possible. The low half says where in the chunk.
        (((hash >> 32) * self.chunk_count as u64) >> 32) as usize
    }

    fn chunk_mut(&mut self, hash: u64) -> &mut Chunk {
        let chunk = self.chunk_of(hash);
        let node = Arc::make_mut(&mut Arc::make_mut(&mut self.nodes)[chunk / NODE_CHUNKS]);
        Arc::make_mut(&mut node[chunk % NODE_CHUNKS])
    }
}

impl Group {
    /// Which entries have this tag, a bit for each.
    #[inline(always)]
    fn hits(&self, tag: u32) -> u32 {
        (0..GROUP_ENTRIES).fold(0, |hits, at| hits | u32::from(self.tags[at] == tag) << at)
    }

    /// The route at this place, where it is this host that leads there.
    #[inline(always)]
    fn leads_from(&self, at: usize, host: &[u8]) -> Option<&Arc<EnvironmentRoute>> {
        let route = self.routes.get(at)?.as_ref()?;
        route.head().is_host(self.ordinals[at] as usize, host).then_some(route)
    }

    fn is_of(&self, at: usize, hash: u64, route: &EnvironmentRoute, ordinal: u32) -> bool {
        let is_its = |known: &Arc<EnvironmentRoute>| known.id == route.id;
        self.tags[at] == tag(hash) && self.ordinals[at] == ordinal && self.routes[at].as_ref().is_some_and(is_its)
    }

    fn into_entries(self) -> impl Iterator<Item = Entry> {
        let entries = self.tags.into_iter().zip(self.ordinals).zip(self.routes);
        entries.filter_map(|((tag, ordinal), route)| Some(Entry { tag, ordinal, route: route? }))
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.tags[GROUP_ENTRIES - 1] == 0
    }
}

/// Puts an entry as near its home as there is room; `false` when there is none.
fn place(chunk: &mut Chunk, entry: Entry) -> bool {
    let home = home(entry.tag);
    let at = (0..CHUNK_GROUPS).map(|step| (home + step) % CHUNK_GROUPS).find(|at| chunk[*at].has_room());
    let Some(group) = at.map(|at| &mut chunk[at]) else { return false };
    let Some(free) = group.tags.iter().position(|tag| *tag == 0) else { return false };
    group.tags[free] = entry.tag;
    group.ordinals[free] = entry.ordinal;
    group.routes[free] = Some(entry.route);
    true
}

#[inline]
fn tag(hash: u64) -> u32 {
    // The lowest bit tells it from a free entry; the others say where it lies.
    hash as u32 | 1
}

#[inline]
fn home(tag: u32) -> usize {
    (tag >> 1) as usize % CHUNK_GROUPS
}

#[cfg(test)]
mod tests;
