//! A proxy's machine: the real client, table and last-known-good, over the
//! simulated network and disk; and the requests that it carries.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, interval, sleep_until};
use tonic::transport::Endpoint;

use crate::drain::Drain;
use crate::model::pool::PoolKey;
use crate::model::revision::Revision;
use crate::routing::address::Address;
use crate::routing::claim::Claim;
use crate::routing::live::{Live, Reader};
use crate::routing::pool::PoolRoute;
use crate::routing::table::Unresolved;
use crate::stream::client::{self, Client};
use crate::stream::last_known_good;
use crate::stream::last_known_good::keeper::Keeper;
use crate::stream::last_known_good::metrics::DiskMetrics;
use crate::stream::last_known_good::tests::memory::Memory;
use crate::stream::last_known_good::worker::Worker;
use crate::stream::metrics::ClientMetrics;
use crate::stream::tests::cluster::token;
use crate::stream::tests::log::{deployment_id, host, pool_key};
use crate::stream::tests::sabotage::{self, Sabotage};
use crate::stream::tests::simulation::control::PORT;
use crate::stream::tests::simulation::state::{DEPLOYMENTS, ENVIRONMENTS, Key, endpoint_id};
use crate::stream::tests::simulation::transport::Connector;
use crate::stream::tests::simulation::world::{Promise, Request, Shared, TICK, World, text};

/// Small, so that a minute of the simulation sees checkpoints and a full queue.
const DISK: last_known_good::Config = last_known_good::Config { checkpoint_bytes: 8 << 10, queue_bytes_max: 8 << 10 };

/// The name of a proxy's machine.
pub fn name(proxy: usize) -> String {
    format!("proxy-{proxy}")
}

/// One run of a proxy.
pub async fn run(world: Shared, proxy: usize) -> turmoil::Result {
    let live = Live::new(1);
    let (disk, stall, ended) = {
        let world = world.lock();
        let machine = &world.proxies[proxy];
        (machine.disk.clone(), machine.stall.clone(), machine.ended.clone())
    };
    let config = client::Config {
        control: format!("http://control:{PORT}").parse().unwrap(),
        token: token(),
        proxy_id: name(proxy),
        zone: String::new(),
        insecure: true,
    };
    let mut client = Client::new(config, Arc::clone(&live), ClientMetrics::default())?;
    if let Some(disk) = disk {
        let (keeper, worker) = Keeper::start_driven(disk, DISK, &live, DiskMetrics::default());
        client = client.keeping(keeper).following_on(ended);
        spawn_local(write(Shared::clone(&world), proxy, worker));
    }
    let drain = Drain::new();
    let asked = drain.watch();
    let run = {
        let mut world = world.lock();
        world.proxies[proxy].drain = Some(drain);
        world.begins(proxy, client.instance_id(), Arc::clone(&live))
    };
    spawn_local(ask(Shared::clone(&world), run, live.reader()));
    let connector = Connector(stall);
    client.run_with(async |endpoint: &Endpoint| endpoint.connect_with_connector(connector.clone()).await, asked).await;
    world.lock().ends(proxy);
    Ok(())
}

/// Gives the writer of the disk its turns.
async fn write(world: Shared, proxy: usize, mut worker: Worker<Memory>) {
    let mut ticks = interval(TICK);
    loop {
        ticks.tick().await;
        let is_slow = world.lock().proxies[proxy].disk_is_slow;
        if !is_slow && worker.is_due() && !worker.turn() {
            return;
        }
    }
}

/// Begins a request now and then.
async fn ask(world: Shared, run: usize, mut reader: Reader) {
    let mut ticks = interval(TICK * 2);
    loop {
        ticks.tick().await;
        let (jump, asks, late) = {
            let mut world = world.lock();
            if world.proxies[world.runs[run].proxy].run != Some(run) {
                return;
            }
            let proxy = world.runs[run].proxy;
            let late = sabotage::is(Sabotage::ClaimAfterAwait);
            let is_stopping = world.proxies[proxy].is_stopping;
            if is_stopping && world.requests.values().all(|request| request.run != run) {
                world.proxies[proxy].drain.iter().for_each(Drain::ask);
            }
            let asks = !world.is_settling && !is_stopping && world.rng.u8(0..4) == 0;
            (world.proxies[proxy].jump.take(), asks, late)
        };
        if let Some(jump) = jump {
            tokio::time::advance(jump).await;
        }
        if asks {
            let begun = world.lock().begins_request(run, &mut reader, late);
            if let Some((held, hold)) = begun {
                spawn_local(carry(Shared::clone(&world), held, hold));
            }
        }
    }
}

/// A request that is on its way, with what it holds.
struct Held {
    id: u64,
    _claims: Option<(Claim, Claim)>,
    world: Shared,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before the claims, as the last byte is.
        self.world.lock().requests.remove(&self.id);
    }
}

async fn carry(world: Shared, held: (u64, Option<(Claim, Claim)>), hold: Duration) {
    let (id, claims) = held;
    let held = Held { id, _claims: claims, world };
    sleep_until(Instant::now() + hold).await;
    drop(held);
}

type Begun = ((u64, Option<(Claim, Claim)>), Duration);

impl World {
    /// Resolves, claims and goes on its way; `late`: claims only then, which is
    /// as good as never.
    fn begins_request(&mut self, run: usize, reader: &mut Reader, late: bool) -> Option<Begun> {
        let (n, pin) = (self.rng.u8(0..ENVIRONMENTS), self.rng.u8(0..4 * DEPLOYMENTS));
        let host = host(n);
        let pinned = (pin < DEPLOYMENTS).then(|| deployment_id(pin).to_string());
        let address =
            Address { host: host.as_bytes(), pin: pinned.as_ref().map(|pin| pin.as_bytes()), ..Address::default() };
        // Mostly short, some for seconds, and now and then a tunnel.
        let hold = Duration::from_millis(match self.rng.u8(0..20) {
            0..15 => self.rng.u64(1..400),
            15..19 => self.rng.u64(400..6_000),
            _ => self.rng.u64(6_000..40_000),
        });
        let (key, replica, claims) = if late {
            let table = reader.current();
            let resolved = table.resolve(&address).ok()?;
            (self.key_of(resolved.pool.key), self.first_replica(resolved.pool)?, None)
        } else {
            let claimed = match reader.claim(&address, 0) {
                Ok(claimed) => claimed,
                Err(unresolved) => {
                    self.refuses(run, n, pinned.is_some(), unresolved);
                    return None;
                }
            };
            let key = self.key_of(claimed.pool.key);
            self.check_claim(run, key, claimed.revision);
            let (replica, endpoint) = self.any_endpoint(&claimed.pool)?;
            (key, replica, Some((claimed.claim, endpoint)))
        };
        self.seen.claims += 1;
        let id = self.id();
        self.requests.insert(id, Request { run, key, replica });
        Some(((id, claims), hold))
    }

    /// Invariant 2: what the table calls closing gives no claims.
    fn check_claim(&mut self, run: usize, key: Key, revision: Revision) {
        let Some(at) = self.runs[run].live.position() else {
            return self.breaks(Promise::Invariant(2), format!("run {run} claims without a table"));
        };
        let is_open = self.state_at(at).and_then(|state| state.pools.get(&key)).is_some_and(|pool| pool.is_open);
        if at.revision != revision || !is_open {
            self.breaks(Promise::Invariant(2), format!("run {run} at {} claims {key:?} at {revision}", text(Some(at))));
        }
    }

    /// Invariant 7: without a table nothing is said to be absent, and with one
    /// every pointer leads somewhere.
    fn refuses(&mut self, run: usize, n: u8, is_pinned: bool, unresolved: Unresolved) {
        self.seen.refused_claims += 1;
        let at = self.runs[run].live.position();
        let is_right = match (at, unresolved) {
            (None, unresolved) => unresolved == Unresolved::TableNotLoaded,
            (Some(_), Unresolved::DeploymentNotFound) => is_pinned,
            (Some(at), _) => !self.state_at(at).is_some_and(|state| state.pointers.contains_key(&n)),
        };
        if !is_right {
            self.breaks(Promise::Invariant(7), format!("run {run} at {} answers {unresolved:?} for {n}", text(at)));
        }
    }

    fn key_of(&self, key: PoolKey) -> Key {
        let mut all = (0..ENVIRONMENTS).flat_map(|n| (0..DEPLOYMENTS).map(move |deployment| (n, deployment)));
        all.find(|(n, deployment)| pool_key(*n, *deployment) == key).expect("a pool of the simulation")
    }

    fn any_endpoint(&mut self, pool: &PoolRoute) -> Option<(u64, Claim)> {
        let count = pool.endpoints.len();
        let first = self.rng.usize(0..count.max(1));
        let claimed = (0..count).map(|at| (first + at) % count).find_map(|at| Some((at, pool.claim_endpoint(at, 0)?)));
        let (at, claim) = claimed?;
        Some((self.replica_of(pool, at), claim))
    }

    fn first_replica(&self, pool: &PoolRoute) -> Option<u64> {
        let at = pool.endpoints.iter().position(|endpoint| !endpoint.draining)?;
        Some(self.replica_of(pool, at))
    }

    fn replica_of(&self, pool: &PoolRoute, at: usize) -> u64 {
        let id = pool.endpoints[at].id;
        (0..).find(|replica| endpoint_id(*replica) == id).expect("a replica of the simulation")
    }
}
