//! What the table is filled with and asked for: environments with one pool and
//! one endpoint each, three to a project, as a sender of changes would name them.

use std::fmt;

use repoint::model::change::{EndpointRecord, EnvironmentRecord, PoolRecord, PoolRecordState, Record, SettingsRecord};
use repoint::model::deployment::HostHeader;
use repoint::model::id::DeploymentId;
use repoint::model::manifest::Protocol;
use repoint::model::name::DeploymentRef;
use repoint::model::policy::Policy;
use repoint::model::pool::PoolKey;
use repoint::model::revision::{Digest, Position, Revision};
use repoint::routing::change::Change;
use repoint::routing::live::Live;
use uuid::Uuid;

/// Hosts by number.
pub trait Hosts {
    fn host(&self, at: usize) -> String;
}

/// The sender's side: what stands where, and what it adds up to.
pub struct World {
    n: usize,
    position: Position,
    /// Environments with two pools, and which of them each points at.
    movable: Vec<(usize, bool)>,
    next: usize,
}

/// Hosts are made from numbers alone.
pub struct HostsOnly;

impl Hosts for HostsOnly {
    fn host(&self, at: usize) -> String {
        let (project, name) = names(at);
        format!("{project}-{name}.{BASE_DOMAIN}")
    }
}

impl Hosts for World {
    fn host(&self, at: usize) -> String {
        HostsOnly.host(at)
    }
}

const BASE_DOMAIN: &str = "agents.example.com";
const NAMES: [&str; 3] = ["production", "staging", "preview"];

fn names(at: usize) -> (String, &'static str) {
    (format!("team-{:06}", at / NAMES.len()), NAMES[at % NAMES.len()])
}

impl World {
    pub fn new(n: usize) -> Self {
        let lineage = Uuid::from_u128(1).into();
        let position = Position { lineage, revision: Revision(0), digest: Digest::default() };
        Self { n, position, movable: Vec::new(), next: 0 }
    }

    pub fn hosts(&self) -> HostsOnly {
        HostsOnly
    }

    pub fn position(&self) -> Position {
        self.position
    }

    pub fn host_bytes(&self) -> usize {
        (0..self.n).map(|at| self.host(at).len()).sum()
    }

    pub fn first_deployment(&self, at: usize) -> DeploymentId {
        deployment(at, false)
    }

    /// Everything, in the order of a store's keys.
    pub fn snapshot(&mut self) -> Vec<(Record, Digest)> {
        let settings = SettingsRecord { base_domain: parsed(BASE_DOMAIN), shared_hosts: Vec::new() };
        let mut records = Vec::with_capacity(1 + 2 * self.n);
        records.push((Record::Settings(settings), Digest(1)));
        records.extend((0..self.n).map(|at| (environment(at, false), digest(at, 0))));
        records.extend((0..self.n).map(|at| (pool(at, false), digest(at, 1))));
        self.position.digest = records.iter().fold(Digest::default(), |sum, (_, digest)| sum.with(*digest));
        self.position.revision = Revision(1);
        records
    }

    /// Gives this many environments, spread over all, a second pool to move to.
    pub fn second_pools(&mut self, live: &Live, count: usize) {
        for i in 0..count {
            let at = i * (self.n / count);
            let upsert = Change::Upsert(pool(at, true), digest(at, 2));
            self.send(live, vec![upsert], Digest::default().with(digest(at, 2)), |apply| apply());
            self.movable.push((at, false));
        }
        // Neighbours in the table are not moved one after the other.
        fastrand::Rng::with_seed(7).shuffle(&mut self.movable);
    }

    /// Moves the next pointer to the other pool, as `around` says.
    pub fn move_pointer(&mut self, live: &Live, around: impl FnOnce(&mut dyn FnMut())) {
        let place = self.next % self.movable.len();
        self.next += 1;
        let (at, second) = self.movable[place];
        self.movable[place] = (at, !second);
        let (old, new) = (digest(at, 4 * u128::from(second)), digest(at, 4 * u128::from(!second)));
        let upsert = Change::Upsert(environment(at, !second), new);
        self.send(live, vec![upsert], new.without(old), around);
    }

    fn send(&mut self, live: &Live, changes: Vec<Change>, adds: Digest, around: impl FnOnce(&mut dyn FnMut())) {
        let from = self.position;
        let to = Position { revision: from.revision.next(), digest: from.digest.with(adds), ..from };
        let mut changes = Some(changes);
        around(&mut || {
            let changes = changes.take().expect("applied once");
            live.apply_delta(from, to, changes).expect("the change holds");
        });
        self.position = to;
    }
}

fn environment(at: usize, second: bool) -> Record {
    let (project, name) = names(at);
    Record::Environment(EnvironmentRecord {
        id: Uuid::from_u128(1 << 64 | at as u128).into(),
        project: parsed(&project),
        name: parsed(name),
        hosts: vec![parsed(&HostsOnly.host(at))],
        pointer: Some(deployment(at, second)),
        policy: Policy::default(),
    })
}

fn pool(at: usize, second: bool) -> Record {
    let id = at as u128 * 2 + u128::from(second);
    let Record::Environment(EnvironmentRecord { id: environment, .. }) = environment(at, second) else {
        unreachable!("made just now")
    };
    Record::Pool(PoolRecord {
        key: PoolKey { environment, deployment: deployment(at, second) },
        reference: DeploymentRef::from_bytes((at as u64).to_ne_bytes()),
        state: PoolRecordState::Open,
        protocol: Protocol::Http1,
        host: HostHeader::Client,
        retry_on_reused_close: false,
        endpoints: vec![EndpointRecord {
            id: Uuid::from_u128(3 << 64 | id).into(),
            address: "127.0.0.1:9000".parse().expect("an address"),
            authority: None,
            secure: false,
            draining: false,
        }],
    })
}

fn deployment(at: usize, second: bool) -> DeploymentId {
    Uuid::from_u128(2 << 64 | (at as u128 * 2 + u128::from(second))).into()
}

/// Any numbers will do that differ; real ones cost their sender a SHA-256.
fn digest(at: usize, which: u128) -> Digest {
    Digest((at as u128 * 8 + which + 1) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

fn parsed<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: fmt::Debug,
{
    text.parse().expect("made to be valid")
}

/// How hosts are drawn.
#[derive(Clone, Copy)]
pub enum Draw {
    Uniform,
    /// The k-th most asked for is asked for 1/k times as often as the first.
    Zipf,
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uniform => "uniform",
            Self::Zipf => "Zipf",
        })
    }
}

impl Draw {
    /// Keys to look up, one after the other in memory as in a read buffer.
    pub fn keys(self, n: usize, count: usize, hosts: &impl Hosts) -> Keys {
        let mut keys = Keys { text: String::new(), ends: Vec::new() };
        for _ in 0..count {
            let at = match self {
                Self::Uniform => fastrand::usize(..n),
                // Ranks are strewn over the environments by a step coprime to n.
                Self::Zipf => ((n as f64).powf(fastrand::f64()) as usize - 1) * 7_919 % n,
            };
            keys.text.push_str(&hosts.host(at));
            keys.ends.push(keys.text.len());
        }
        keys
    }
}

/// Hosts to look up.
pub struct Keys {
    text: String,
    ends: Vec<usize>,
}

impl Keys {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.ends.iter().scan(0, |start, end| Some(&self.text[std::mem::replace(start, *end)..*end]))
    }
}
