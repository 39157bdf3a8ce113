//! One core's thread: accepting connections, the sweep, and coming to an end.
//!
//! Knows nothing of requests. A drain goes in two stages: ask (accept what
//! already waits, then nothing new; connections finish what they have), and
//! insist (the runtime is dropped, and what is left with it).

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{Either, join_all, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::{spawn_local, yield_now};
use tokio::time::timeout;

use crate::drain;
use crate::ingress::alarm::TICK;
use crate::ingress::core::{Core, Shared};
use crate::ingress::downstream::{Connection, Peer, serve};
use crate::ingress::error::Error;
use crate::ingress::metrics::Counters;

/// Connections over the limit that are told so at once, per core; further ones
/// are just closed.
const REFUSING_MAX: usize = 64;

/// How long a client over the limit is given to send the request we refuse.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// A core that has not started.
pub(super) struct Start {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    /// And whether they are for TLS.
    pub(super) sockets: Vec<(std::net::TcpListener, bool)>,
    pub(super) watch: drain::Watch,
}

/// The runtime of a core, made on its own thread.
pub(super) fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

impl Start {
    /// Serves until drained; answers how many connections were cut.
    pub(super) fn run(self, runtime: LocalRuntime) -> io::Result<usize> {
        // Held until the runtime, and with it everything that was cut, is gone.
        let _hold = self.watch.hold();
        let cut = runtime.block_on(self.serve());
        drop(runtime);
        cut
    }

    async fn serve(self) -> io::Result<usize> {
        let core = Core::new(self.index, &self.shared, &self.counters);
        let listeners: Vec<_> = self
            .sockets
            .into_iter()
            .map(|(socket, encrypted)| Ok((TcpListener::from_std(socket)?, encrypted)))
            .collect::<io::Result<_>>()?;
        let accepting =
            listeners.iter().map(|(listener, encrypted)| accept(&core, listener, *encrypted, self.watch.clone()));
        let sweeping = spawn_local(sweep(Rc::clone(&core)));
        join_all(accepting).await;
        drop(listeners);
        core.alarms.ask();
        let mut watch = self.watch;
        select(pin!(core.alarms.none()), pin!(watch.insisted())).await;
        sweeping.abort();
        Ok(core.alarms.count())
    }
}

/// Rings alarms that are due, and keeps house.
async fn sweep(core: Rc<Core>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        core.tell_time(SystemTime::now());
        core.alarms.sweep(now);
        core.streams.sweep(now);
        core.upstream.sweep(now);
    }
}

async fn accept(core: &Rc<Core>, listener: &TcpListener, encrypted: bool, mut watch: drain::Watch) {
    let mut asked = pin!(watch.asked());
    loop {
        match select(asked.as_mut(), pin!(listener.accept())).await {
            Either::Left(_) => break,
            Either::Right((accepted, _)) => admit_or_pause(core, accepted, encrypted).await,
        }
    }
    // Closing a socket resets what waits in its queue: take that first. Yielding
    // lets the event loop hear of what has come.
    yield_now().await;
    while let Some(accepted) = listener.accept().now_or_never() {
        admit_or_pause(core, accepted, encrypted).await;
    }
}

async fn admit_or_pause(core: &Rc<Core>, accepted: io::Result<(TcpStream, SocketAddr)>, encrypted: bool) {
    match accepted {
        Ok((stream, peer)) => admit(core, stream, peer, encrypted),
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            // Out of descriptors or memory: others must end before it gets better.
            tracing::warn!(error = &error as &dyn std::error::Error, "failed to accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn admit(core: &Rc<Core>, stream: TcpStream, peer: SocketAddr, encrypted: bool) {
    let Some(permit) = core.limits.connections.take() else {
        core.counters.refused.one();
        if !encrypted && core.refusing.get() < REFUSING_MAX {
            core.refusing.set(core.refusing.get() + 1);
            spawn_local(refuse(Rc::clone(core), stream));
        }
        return;
    };
    let connection = Connection::new(Peer::new(peer.ip(), core), core, permit);
    spawn_local(serve::connection(Rc::clone(core), connection, stream, encrypted));
}

/// Tells a client over the limit why, whatever it asks for.
async fn refuse(core: Rc<Core>, mut stream: TcpStream) {
    let told = async {
        // An answer sent before the request has arrived may be reset with it.
        let _ = stream.read(&mut [0; 1024]).await?;
        stream.write_all(&refusal()).await?;
        serve::linger(&mut stream).await;
        io::Result::Ok(())
    };
    // Whatever came of it, this connection is over.
    let _ = timeout(REFUSAL_PATIENCE, told).await;
    core.refusing.set(core.refusing.get() - 1);
}

fn refusal() -> Vec<u8> {
    let (parts, body) = Error::Overloaded.answer(None).into_parts();
    let mut answer = format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", parts.status, body.len());
    for (name, value) in &parts.headers {
        answer.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    answer.push_str("\r\n");
    [answer.as_bytes(), &body[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_an_answer_from_the_table() {
        let text = String::from_utf8(refusal()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())) && head.contains("retry-after: 1"), "{head}");
        assert!(body.contains("\"overloaded\""), "{body}");
    }
}
