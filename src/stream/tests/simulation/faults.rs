//! What goes wrong, as the seed has it: the network, the machines, their disks
//! and their clocks. Everything is put right again after a while.

use std::time::Duration;

use turmoil::Sim;

use crate::drain::Drain;
use crate::stream::tests::simulation::proxy::name;
use crate::stream::tests::simulation::world::{PROXIES, Shared};

/// What is wrong now, and what comes next.
pub struct Faults {
    rng: fastrand::Rng,
    world: Shared,
    active: Vec<(Duration, Fault)>,
    next: Duration,
}

/// What may go wrong. A number is a proxy's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// Nothing passes, either way.
    Cut(usize),
    /// Nothing passes to the control plane.
    CutUp(usize),
    /// Nothing passes to the proxy.
    CutDown(usize),
    /// Everything waits, and arrives at once when that is over.
    Hold(usize),
    /// The way takes so many milliseconds.
    Lag(usize, u64),
    /// The proxy does not read.
    Deaf(usize),
    /// The control plane does not read.
    DeafControl,
    /// The proxy is killed; true: with its machine, whose disk loses what was not synced.
    Crash(usize, bool),
    /// The proxy is stopped, and says goodbye.
    Stop(usize),
    CrashControl,
    /// The control plane sends everybody away, and stops.
    StopControl,
    /// The store is restored from a copy: another history.
    Restore,
    FullDisk(usize),
    FailingSyncs(usize),
    SlowDisk(usize),
    /// Members cannot be written.
    FullStore,
    SlowStore,
    /// A clock runs ahead at once, as after a machine was suspended.
    Jump(usize),
    JumpControl,
}

const CONTROL: &str = "control";
const LATENCY: Duration = Duration::from_millis(10);

impl Faults {
    pub fn new(seed: u64, world: Shared) -> Self {
        let rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        Self { rng, world, active: Vec::new(), next: Duration::from_secs(2) }
    }

    /// Puts right what is over, and lets something else go wrong.
    pub fn step(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        let (over, active) = self.active.drain(..).partition(|(until, _)| *until <= now);
        self.active = active;
        for (_, fault) in over {
            self.end(sim, fault);
        }
        if now < self.next {
            return;
        }
        self.next = now + Duration::from_millis(self.rng.u64(200..3_000));
        let fault = self.any();
        if self.active.iter().any(|(_, active)| excludes(*active, fault)) {
            return;
        }
        let lasts = match self.rng.u8(0..6) {
            0 => self.rng.u64(5_000..20_000),
            1 | 2 => self.rng.u64(1_000..5_000),
            _ => self.rng.u64(50..1_000),
        };
        self.begin(sim, fault);
        self.active.push((now + Duration::from_millis(lasts), fault));
    }

    /// Puts everything right.
    pub fn end_all(&mut self, sim: &mut Sim<'_>) {
        for (_, fault) in std::mem::take(&mut self.active) {
            self.end(sim, fault);
        }
    }

    fn any(&mut self) -> Fault {
        let proxy = self.rng.usize(0..PROXIES);
        match self.rng.u8(0..36) {
            0..3 => Fault::Cut(proxy),
            3..5 => Fault::CutUp(proxy),
            5..7 => Fault::CutDown(proxy),
            7..10 => Fault::Hold(proxy),
            10..12 => Fault::Lag(proxy, self.rng.u64(1..20) * 20),
            12..14 => Fault::Deaf(proxy),
            14 => Fault::DeafControl,
            15..19 => Fault::Crash(proxy, self.rng.bool()),
            19 => Fault::Stop(proxy),
            20..22 => Fault::CrashControl,
            22 => Fault::StopControl,
            23 => Fault::Restore,
            24..26 => Fault::FullDisk(proxy),
            26..28 => Fault::FailingSyncs(proxy),
            28..31 => Fault::SlowDisk(proxy),
            31 => Fault::FullStore,
            32..34 => Fault::SlowStore,
            34 => Fault::Jump(proxy),
            _ => Fault::JumpControl,
        }
    }

    fn begin(&mut self, sim: &mut Sim<'_>, fault: Fault) {
        {
            let mut world = self.world.lock();
            world.seen.faults += 1;
            world.note(format!("fault {fault:?}"));
        }
        match fault {
            Fault::Cut(proxy) => sim.partition(name(proxy), CONTROL),
            Fault::CutUp(proxy) => sim.partition_oneway(name(proxy), CONTROL),
            Fault::CutDown(proxy) => sim.partition_oneway(CONTROL, name(proxy)),
            Fault::Hold(proxy) => sim.hold(name(proxy), CONTROL),
            Fault::Lag(proxy, lag) => sim.set_link_latency(name(proxy), CONTROL, Duration::from_millis(lag)),
            Fault::Deaf(proxy) => self.world.lock().proxies[proxy].stall.set(true),
            Fault::DeafControl => self.world.lock().control.stall.set(true),
            Fault::Crash(proxy, with_machine) => self.crash(sim, proxy, with_machine),
            Fault::Stop(proxy) => self.world.lock().proxies[proxy].is_stopping = true,
            Fault::CrashControl => self.crash_control(sim),
            Fault::StopControl => self.world.lock().control.drain.iter().for_each(Drain::ask),
            Fault::Restore => {
                self.crash_control(sim);
                self.world.lock().restore();
            }
            Fault::FullDisk(proxy) => {
                let room = self.rng.usize(0..2_000);
                self.world.lock().proxies[proxy].disk.iter().for_each(|disk| disk.room(Some(room)));
            }
            Fault::FailingSyncs(proxy) => {
                let count = self.rng.usize(1..4);
                self.world.lock().proxies[proxy].disk.iter().for_each(|disk| disk.fail_syncs(count));
            }
            Fault::SlowDisk(proxy) => self.world.lock().proxies[proxy].disk_is_slow = true,
            Fault::FullStore => self.world.lock().log.set_full(true),
            Fault::SlowStore => self.world.lock().control.store_delay = Duration::from_millis(self.rng.u64(10..700)),
            Fault::Jump(proxy) => {
                let jump = Duration::from_millis(self.rng.u64(100..30_000));
                self.world.lock().proxies[proxy].jump = Some(jump);
            }
            Fault::JumpControl => {
                let jump = Duration::from_millis(self.rng.u64(100..120_000));
                let mut world = self.world.lock();
                world.control.jump = Some(jump);
                // And the one on the wall, either way, for whoever reads it next.
                world.control.wall_seconds = self.rng.i64(-100_000..100_000);
            }
        }
    }

    fn end(&mut self, sim: &mut Sim<'_>, fault: Fault) {
        self.world.lock().note(format!("over: {fault:?}"));
        match fault {
            Fault::Cut(proxy) => sim.repair(name(proxy), CONTROL),
            Fault::CutUp(proxy) => sim.repair_oneway(name(proxy), CONTROL),
            Fault::CutDown(proxy) => sim.repair_oneway(CONTROL, name(proxy)),
            Fault::Hold(proxy) => sim.release(name(proxy), CONTROL),
            Fault::Lag(proxy, _) => sim.set_link_latency(name(proxy), CONTROL, LATENCY),
            Fault::Deaf(proxy) => self.world.lock().proxies[proxy].stall.set(false),
            Fault::DeafControl => self.world.lock().control.stall.set(false),
            Fault::Crash(proxy, _) => sim.bounce(name(proxy)),
            Fault::Stop(proxy) => {
                // It may have requests still, and is killed then.
                self.crash(sim, proxy, false);
                sim.bounce(name(proxy));
            }
            Fault::CrashControl | Fault::StopControl | Fault::Restore => {
                self.crash_control(sim);
                sim.bounce(CONTROL);
            }
            Fault::FullDisk(proxy) => self.world.lock().proxies[proxy].disk.iter().for_each(|disk| disk.room(None)),
            Fault::FailingSyncs(proxy) => {
                self.world.lock().proxies[proxy].disk.iter().for_each(|disk| disk.fail_syncs(0));
            }
            Fault::SlowDisk(proxy) => self.world.lock().proxies[proxy].disk_is_slow = false,
            Fault::FullStore => self.world.lock().log.set_full(false),
            Fault::SlowStore => self.world.lock().control.store_delay = Duration::ZERO,
            Fault::Jump(_) | Fault::JumpControl => {}
        }
    }

    fn crash(&mut self, sim: &mut Sim<'_>, proxy: usize, with_machine: bool) {
        sim.crash(name(proxy));
        let mut world = self.world.lock();
        world.ends(proxy);
        if let Some(disk) = world.proxies[proxy].disk.clone().filter(|_| with_machine) {
            disk.crash(|below| self.rng.usize(0..below));
        }
    }

    fn crash_control(&mut self, sim: &mut Sim<'_>) {
        sim.crash(CONTROL);
        let mut world = self.world.lock();
        world.control.fleet = None;
        world.note("the control plane ends");
    }
}

/// Whether two faults touch the same thing.
fn excludes(active: Fault, next: Fault) -> bool {
    let concerns = |fault| match fault {
        Fault::Cut(proxy) | Fault::CutUp(proxy) | Fault::CutDown(proxy) | Fault::Hold(proxy) | Fault::Lag(proxy, _) => {
            (0, proxy)
        }
        Fault::Crash(proxy, _) | Fault::Stop(proxy) | Fault::Jump(proxy) => (1, proxy),
        Fault::Deaf(proxy) => (2, proxy),
        Fault::FullDisk(proxy) | Fault::FailingSyncs(proxy) | Fault::SlowDisk(proxy) => (3, proxy),
        Fault::CrashControl | Fault::StopControl | Fault::Restore | Fault::JumpControl => (4, 0),
        Fault::DeafControl => (5, 0),
        Fault::FullStore | Fault::SlowStore => (6, 0),
    };
    concerns(active) == concerns(next)
}
