//! The idle work: what a connection costs in memory while its client waits.
//!
//! Every round has a process of its own, because memory that was once taken is seldom given back. It answers one
//! request; that is the empty process. Then come the connections, with one request each, and when its memory has come
//! to rest, the difference counts for each. What a peer takes in advance for the connections that it may have is part
//! of the empty process. A connection that the proxy has closed by then is an error.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::load::http1::{Head, answer};
use crate::peers::{self, Peer};
use crate::report::Row;
use crate::works::{Kind, Work};
use crate::{Ask, rounds};

/// Requests at a time while connections are made.
const AT_A_TIME: usize = 64;
/// Longest wait for memory to come to rest.
const REST: Duration = Duration::from_secs(15);
/// Memory is at rest when it moved by less than a hundredth of what the connections took in this time.
const LOOK: Duration = Duration::from_millis(500);

pub fn measure(ask: &Ask, work: &'static Work, replicas: &[u16]) -> Result<Vec<Row>, String> {
    let names = peers::here(ask);
    let mut rows = Vec::new();
    for round in 0..ask.rounds {
        for name in rounds::order(&names.iter().collect::<Vec<_>>(), round) {
            let started = peers::start(ask, std::slice::from_ref(name), work.mode, replicas)?;
            let [peer] = &started[..] else { return Err("one proxy was to start".to_owned()) };
            rows.push(one(work, peer, round)?);
        }
    }
    Ok(rows)
}

fn one(work: &'static Work, peer: &Peer, round: usize) -> Result<Row, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("make a runtime: {error}"))?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        drop(connect(peer.addresses[0], peer.environments, 1).await);
        let empty = at_rest(peer, 0).await;
        let (streams, mut errors) = connect(peer.addresses[0], peer.environments, work.connections).await;
        let full = at_rest(peer, empty).await;
        errors += streams.iter().filter(|stream| !is_open(stream)).count() as u64;
        let kib = full.saturating_sub(empty) as f64 / 1024.0 / streams.len().max(1) as f64;
        let mut row = Row::of_memory(work, &peer.name, round, kib, errors);
        row.more = vec![("connections", streams.len() as f64), ("empty MiB", empty as f64 / 1024.0 / 1024.0)];
        Ok(row)
    })
}

/// So many connections after one request each, and how many there should be beside them.
async fn connect(address: SocketAddr, environments: usize, count: usize) -> (Vec<TcpStream>, u64) {
    let turns = Rc::new(Semaphore::new(AT_A_TIME));
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let turns = Rc::clone(&turns);
            tokio::task::spawn_local(async move {
                let _turn = turns.acquire().await.map_err(io::Error::other)?;
                client(address, fastrand::usize(..environments)).await
            })
        })
        .collect();
    let (mut streams, mut errors) = (Vec::with_capacity(count), 0);
    for client in clients {
        match client.await.map_err(io::Error::other).flatten() {
            Ok(stream) => streams.push(stream),
            Err(error) => {
                errors += 1;
                if errors < 4 {
                    eprintln!("wrong: {error}");
                }
            }
        }
    }
    (streams, errors)
}

async fn client(address: SocketAddr, environment: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(Head::of(Kind::Idle).to(environment)).await?;
    let (replica, _) = answer(Kind::Idle, &mut stream, &mut Vec::with_capacity(2_048)).await?;
    if replica == environment % crate::replicas::COUNT {
        Ok(stream)
    } else {
        Err(io::Error::other(format!("replica {replica} answered for environment {environment}")))
    }
}

fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The memory of a proxy, once it does not move.
async fn at_rest(peer: &Peer, empty: u64) -> u64 {
    let end = Instant::now() + REST;
    let mut last = peer.memory();
    loop {
        // The pause between two looks, not the wait.
        tokio::time::sleep(LOOK).await;
        let now = peer.memory();
        let is_still = now.abs_diff(last) <= now.saturating_sub(empty) / 100;
        if is_still || Instant::now() > end {
            return now;
        }
        last = now;
    }
}
