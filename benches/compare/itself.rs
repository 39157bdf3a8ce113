//! The works in which Repoint is beside itself: pointers that move, and a million environments.
//!
//! Both are `repoint proxy` processes fed by the control plane of this run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::peers::{CONNECTIONS_MAX, Peer};
use crate::plane::Plane;
use crate::pointers::Expected;
use crate::records::Records;
use crate::replicas::COUNT;
use crate::report::Row;
use crate::support::server::Server;
use crate::works::Work;
use crate::{Ask, load, machine, rounds};

/// One process, in rounds with pointers that move and rounds with pointers that stand still. All are at one rate: the
/// control plane shares a core with the load, which without a rate would send less while it works, and a proxy that is
/// asked less spends more on each request.
pub fn moves(ask: &Ask, work: &'static Work, replicas: &[u16]) -> Result<Vec<Row>, String> {
    let plane = Plane::start(Records::new(ask.environments, COUNT, replicas))?;
    let mut peer = proxy(ask, &plane, "standing still", ask.environments)?;
    peer.expected = Expected::Moving(plane.pointers.clone());
    let rate = rounds::half_of(&peer)?;
    let mut rows = Vec::new();
    for round in 0..ask.rounds {
        for moving in rounds::order(&[false, true], round) {
            peer.name = if moving { "1,000 moves/s" } else { "standing still" }.to_owned();
            plane.set_moving(moving);
            let (moves, frames) = plane.counts();
            let began = Instant::now();
            let mut row = rounds::one(ask, work, &peer, round, Some(rate))?;
            let seconds = began.elapsed().as_secs_f64();
            let (moves, frames) = (plane.counts().0 - moves, plane.counts().1 - frames);
            plane.set_moving(false);
            row.more.push(("moves each second", moves as f64 / seconds));
            row.more.push(("frames each second", frames as f64 / seconds));
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Two processes, which differ in how many environments they were given.
pub fn million(ask: &Ask, work: &'static Work, replicas: &[u16]) -> Result<Vec<Row>, String> {
    let mut all = Vec::new();
    for (name, environments) in [("100 environments", 100), ("1,000,000", 1_000_000)] {
        let plane = Plane::start(Records::new(environments, 1, replicas))?;
        let began = Instant::now();
        let peer = proxy(ask, &plane, name, environments)?;
        let ready = began.elapsed();
        plane.wait_durable();
        let memory = peer.memory() as f64 / 1024.0 / 1024.0;
        all.push((plane, peer, vec![("start to ready, ms", ready.as_secs_f64() * 1_000.0), ("MiB", memory)]));
    }
    for (_, peer, _) in &mut all {
        ask_each(work, peer)?;
    }
    let mut rows = Vec::new();
    for round in 0..ask.rounds {
        for (_, peer, more) in rounds::order(&all.iter().collect::<Vec<_>>(), round) {
            let mut row = rounds::one(ask, work, peer, round, None)?;
            row.more.clone_from(more);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A proxy that serves what the control plane has.
fn proxy(ask: &Ask, plane: &Plane, name: &str, environments: usize) -> Result<Peer, String> {
    machine::pin_to(machine::PROXY_CORE)?;
    let connections_max = CONNECTIONS_MAX.to_string();
    let arguments = ["--threads", "1", "--connections-max", &connections_max];
    let server = Server::proxy_from(&ask.repoint, plane.address, &plane.token_file(), &arguments);
    machine::pin_to(machine::LOAD_CORE)?;
    plane.wait_applied();
    Ok(Peer::repoint(name, server, environments, Expected::Still))
}

/// Asks every environment once, and for a second at least; not counted. What a proxy keeps of an environment from its
/// first request on is there then, whichever is drawn.
fn ask_each(work: &Work, peer: &mut Peer) -> Result<(), String> {
    let turn = Arc::new(AtomicUsize::new(0));
    peer.turn = Some(Arc::clone(&turn));
    while turn.load(Ordering::Relaxed) < peer.environments {
        let tally = load::run(work, peer, Duration::from_secs(1), None)?;
        if tally.errors > 0 {
            return Err(format!("{} answers were wrong or missing before the first round", tally.errors));
        }
    }
    peer.turn = None;
    Ok(())
}
