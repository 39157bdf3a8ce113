//! The rounds of the works in which every proxy takes part: in turns, ratios round by round.

use std::time::Duration;

use crate::peers::{DIRECT, Peer};
use crate::report::Row;
use crate::works::{Kind, Work};
use crate::{Ask, load, works};

/// All rounds of one work.
pub fn measure(ask: &Ask, work: &'static Work, peers: &[Peer], replicas: &[u16]) -> Result<Vec<Row>, String> {
    let is_half = work.kind == Kind::HalfLoad;
    let by = peers.iter().find(|peer| peer.name == "haproxy").or(peers.first()).filter(|_| is_half);
    let rate = by.map(half_of).transpose()?;
    let direct = is_half.then(|| Peer::direct(ask.environments, replicas));
    let peers: Vec<&Peer> = direct.iter().chain(peers).collect();
    let mut rows = in_turns(ask, work, &peers, rate)?;
    if is_half {
        add_what_each_adds(&mut rows);
    }
    Ok(rows)
}

/// Rounds in the order A B C, C B A, and so on.
fn in_turns(ask: &Ask, work: &'static Work, peers: &[&Peer], rate: Option<f64>) -> Result<Vec<Row>, String> {
    for peer in peers {
        // Warm, and not counted.
        load::run(work, peer, Duration::from_millis(500), rate)?;
    }
    let mut rows = Vec::new();
    for round in 0..ask.rounds {
        for peer in order(peers, round) {
            rows.push(one(ask, work, peer, round, rate)?);
        }
    }
    Ok(rows)
}

/// Every other round the other way round.
pub fn order<T: Copy>(all: &[T], round: usize) -> Vec<T> {
    let mut order = all.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// One round of one proxy.
pub fn one(ask: &Ask, work: &'static Work, peer: &Peer, round: usize, rate: Option<f64>) -> Result<Row, String> {
    let before = peer.cpu();
    let tally = load::run(work, peer, Duration::from_secs_f64(ask.seconds), rate)?;
    let spent = before.zip(peer.cpu()).map(|(before, after)| after - before);
    Ok(Row::of_load(work, &peer.name, round, spent, tally))
}

/// Requests a second: half of what this proxy reaches.
pub fn half_of(peer: &Peer) -> Result<f64, String> {
    let tally = load::run(&works::ALL[0], peer, Duration::from_secs(2), None)?;
    let rate = tally.done as f64 / tally.seconds / 2.0;
    eprintln!("half of {}: {rate:.0} requests a second", peer.name);
    Ok(rate)
}

/// Latencies beside those of the way without a proxy in the same round.
fn add_what_each_adds(rows: &mut [Row]) {
    let direct: Vec<_> = rows.iter().filter(|row| row.proxy == DIRECT).map(|row| (row.round, row.within)).collect();
    for row in rows.iter_mut().filter(|row| row.proxy != DIRECT) {
        let direct = direct.iter().find(|(round, _)| *round == row.round).and_then(|(_, within)| *within);
        let (Some(own), Some(direct)) = (row.within, direct) else { continue };
        for (name, at) in [("added p50 µs", 0), ("added p99 µs", 1), ("added p99.9 µs", 2)] {
            row.more.push((name, f64::from(own[at]) - f64::from(direct[at])));
        }
    }
}
