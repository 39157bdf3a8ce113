//! One HTTP/2 connection to a replica, shared by the requests of one core.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::Mutex;

use crate::ingress::alarm::Alarm;
use crate::ingress::upstream::connection::Connection;
use crate::ingress::upstream::http1::HEAD_BYTES_MAX;
use crate::ingress::upstream::http2::stream::Stream;
use crate::ingress::upstream::http2::{STREAMS_MAX, WINDOW_BYTES};

/// A connection, and what its streams share. Dropped, it ends after the last of them.
pub(in crate::ingress::upstream) struct Session {
    send: SendRequest<Bytes>,
    /// Over TLS.
    is_secure: bool,
    shared: Rc<Shared>,
}

/// What a session and its streams know of each other.
struct Shared {
    running: Cell<usize>,
    /// When its last stream ended.
    since: Cell<Instant>,
    /// The connection is over.
    ended: Cell<bool>,
    /// A stream of it was answered.
    served: Cell<bool>,
    /// For who has to know its settings; nothing once they are here.
    pings: Mutex<Option<PingPong>>,
}

/// A stream's place in its session.
pub(super) struct Place(Rc<Shared>);

impl Session {
    /// Begins to speak HTTP/2 with the replica at `address`. The caller limits the time.
    pub(in crate::ingress::upstream) async fn open(connection: Connection, address: SocketAddr) -> io::Result<Self> {
        let is_secure = matches!(connection, Connection::Secure(_));
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * STREAMS_MAX as u32)
            .max_header_list_size(HEAD_BYTES_MAX as u32);
        let (send, mut connection) = builder.handshake(connection).await.map_err(io::Error::other)?;
        let shared = Rc::new(Shared {
            running: Cell::new(0),
            since: Cell::new(Instant::now()),
            ended: Cell::new(false),
            served: Cell::new(false),
            pings: Mutex::new(connection.ping_pong()),
        });
        let ends = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, replica = %address, "connection failed");
            }
            ends.ended.set(true);
        });
        Ok(Self { send, is_secure, shared })
    }

    /// A stream, unless the replica takes no more of them here. `true` with it: the
    /// connection has served before.
    pub(in crate::ingress::upstream) fn stream(&self, alarm: Alarm) -> Option<(Stream, bool)> {
        let most = self.send.current_max_send_streams().min(STREAMS_MAX);
        if !self.is_open() || self.shared.running.get() >= most {
            return None;
        }
        self.shared.running.set(self.shared.running.get() + 1);
        let place = Place(Rc::clone(&self.shared));
        Some((Stream::new(self.send.clone(), self.is_secure, place, alarm), self.shared.served.get()))
    }

    /// Whether it goes on: streams run on it, or have until a moment ago.
    pub(in crate::ingress::upstream) fn is_wanted(&self, now: Instant, idle_timeout: Duration) -> bool {
        let rested = now.saturating_duration_since(self.shared.since.get());
        self.is_open() && (self.shared.running.get() > 0 || rested < idle_timeout)
    }

    /// Whether it takes new streams: it lives, and the replica has not said GOAWAY.
    fn is_open(&self) -> bool {
        // A new handle waits for nothing, so this is never woken.
        let mut send = self.send.clone();
        !self.shared.ended.get()
            && matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }
}

impl Place {
    /// The replica has answered.
    pub(super) fn served(&self) {
        self.0.served.set(true);
    }

    /// Whether the replica takes an extended CONNECT (RFC 8441 §3). It says so in its
    /// settings, before anything else (RFC 9113 §3.4): once a PING is answered they are here.
    pub(super) async fn may_connect(&self, send: &SendRequest<Bytes>) -> Result<bool, h2::Error> {
        let mut waits = self.0.pings.lock().await;
        if !send.is_extended_connect_protocol_enabled()
            && let Some(pings) = waits.as_mut()
        {
            // Refused where one is under way, of somebody who has left: its answer does as well.
            let _ = pings.send_ping(Ping::opaque());
            poll_fn(|cx| pings.poll_pong(cx)).await?;
            *waits = None;
        }
        Ok(send.is_extended_connect_protocol_enabled())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.since.set(Instant::now());
    }
}
