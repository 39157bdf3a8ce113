//! The control plane's machine: the real server and fleet, over the simulated
//! network and store.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep_until};
use turmoil::net::TcpListener;

use crate::drain::Drain;
use crate::fleet::{self, Fleet};
use crate::model::revision::{Position, Revision};
use crate::store::{Changes, Error, MembersChange, Snapshot};
use crate::stream::metrics::ServerMetrics;
use crate::stream::server::{self, serve_incoming};
use crate::stream::source::Source;
use crate::stream::tests::cluster::token;
use crate::stream::tests::log::Log;
use crate::stream::tests::simulation::transport::incoming;
use crate::stream::tests::simulation::world::{Shared, TICK};

/// Where it listens.
pub const PORT: u16 = 8091;

/// Silence is read six times as fast as in production, so that a minute of the
/// simulation has all of it.
pub const FLEET: fleet::Config = fleet::Config {
    live: Duration::from_secs(2),
    suspect: Duration::from_secs(10),
    gone_grace: Duration::from_secs(50),
    settle: Duration::from_secs(10),
    forget: Duration::from_secs(3_600),
};

fn config() -> server::Config {
    server::Config {
        heartbeat: Duration::from_millis(400),
        status: Duration::from_millis(200),
        reconnect_spread: Duration::from_millis(500),
        snapshots_max: 2,
        ..server::Config::new(token())
    }
}

/// One run of the control plane.
pub async fn run(world: Shared) -> turmoil::Result {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let fleet = Fleet::new(FLEET);
    let drain = Drain::new();
    let source = SlowLog { log: world.lock().log.clone(), world: Shared::clone(&world) };
    let (watch, stall) = {
        let mut world = world.lock();
        let mut stored = world.log.stored_members();
        // The clock on the wall may have been set meanwhile.
        let wrong = jiff::SignedDuration::from_secs(world.control.wall_seconds);
        stored.iter_mut().for_each(|member| member.last_heard = member.last_heard.checked_add(wrong).unwrap());
        fleet.restore(stored);
        let watch = drain.watch();
        world.control.fleet = Some(fleet.clone());
        world.control.drain = Some(drain);
        world.note("the control plane begins");
        (watch, world.control.stall.clone())
    };
    let incoming = incoming(listener, stall);
    let serving = serve_incoming(incoming, source, fleet.clone(), config(), ServerMetrics::default(), watch);
    let mut serving = pin!(serving);
    let mut ticks = interval(TICK);
    loop {
        tokio::select! {
            biased;
            ended = &mut serving => return Ok(ended?),
            _ = ticks.tick() => {}
        }
        let jump = {
            let mut world = world.lock();
            world.check_fleet(&fleet);
            world.stop_drained(&fleet);
            if !world.is_settling {
                world.work();
            }
            world.control.jump.take()
        };
        if let Some(jump) = jump {
            tokio::time::advance(jump).await;
        }
    }
}

/// The log, on a disk that takes its time.
#[derive(Clone)]
struct SlowLog {
    log: Log,
    world: Shared,
}

impl SlowLog {
    async fn turn(&self) {
        let delay = self.world.lock().control.store_delay;
        if !delay.is_zero() {
            sleep_until(Instant::now() + delay).await;
        }
    }
}

impl Source for SlowLog {
    fn watch_head(&self) -> watch::Receiver<Position> {
        self.log.watch_head()
    }

    async fn changes_after(&self, after: Revision, bytes_max: usize) -> Result<Changes, Error> {
        self.turn().await;
        self.log.changes_after(after, bytes_max).await
    }

    async fn position_at(&self, revision: Revision) -> Result<Option<Position>, Error> {
        self.turn().await;
        self.log.position_at(revision).await
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.turn().await;
        self.log.snapshot().await
    }

    async fn keep_members(&self, change: MembersChange) -> Result<(), Error> {
        self.turn().await;
        self.log.keep_members(change).await
    }
}
