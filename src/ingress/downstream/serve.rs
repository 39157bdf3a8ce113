//! Driving a client connection from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ingress::core::Core;
use crate::ingress::downstream::Connection;
use crate::ingress::downstream::gather::Gather;
use crate::ingress::downstream::handshake::handshake;
use crate::ingress::downstream::http1::client::Client;
use crate::ingress::downstream::http1::{self, End};
use crate::ingress::downstream::io::{ClientIo, Stream};
use crate::ingress::downstream::proxied;
use crate::ingress::proxy;

/// What HTTP/2 by prior knowledge begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection without a single request is kept once a drain has
/// begun: enough for one that was on its way, no more.
const FRESH_GRACE: Duration = Duration::from_secs(1);

/// How long we read on after closing our side, for clients that are still
/// sending: closing at once would reset what they have not read yet.
const LINGER: Duration = Duration::from_secs(2);

/// Serves a connection to its end.
pub(in crate::ingress) async fn connection(
    core: Rc<Core>,
    connection: Rc<Connection>,
    mut stream: TcpStream,
    encrypted: bool,
) {
    if !proxied::identify(&core, &connection, &mut stream).await {
        return;
    }
    let mut stream = if encrypted {
        let Some(stream) = Box::pin(handshake(&core, &connection, stream)).await else { return };
        stream
    } else {
        Stream::Plain(stream)
    };
    let Some((protocol, early)) = tell(&connection, &mut stream).await else { return part(&mut stream) };
    match protocol {
        Protocol::Http1 => http1(&core, &connection, stream, early).await,
        Protocol::Http2 => http2(&core, &connection, stream, early).await,
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Reads until the protocol is clear. A difference in the first byte is enough
/// for nearly every HTTP/1 request.
async fn tell(connection: &Connection, stream: &mut Stream) -> Option<(Protocol, Bytes)> {
    if let Stream::Tls(stream) = stream {
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => return Some((Protocol::Http2, Bytes::new())),
            Some(_) => return Some((Protocol::Http1, Bytes::new())),
            None => {}
        }
    }
    let mut early = BytesMut::with_capacity(1024);
    loop {
        let shared = early.len().min(PREFACE.len());
        if early[..shared] != PREFACE[..shared] {
            return Some((Protocol::Http1, early.freeze()));
        }
        if shared == PREFACE.len() {
            return Some((Protocol::Http2, early.freeze()));
        }
        let mut read = pin!(stream.read_buf(&mut early));
        let read = poll_fn(|cx| {
            if let Poll::Ready(result) = read.as_mut().poll(cx) {
                return Poll::Ready(result.ok().filter(|read| *read > 0));
            }
            if connection.is_told_to_end(cx) { Poll::Ready(None) } else { Poll::Pending }
        });
        read.await?;
    }
}

/// Reads requests ourselves for as long as they are usual ones; then hyper does.
pub(in crate::ingress) async fn http1(core: &Rc<Core>, connection: &Rc<Connection>, stream: Stream, early: Bytes) {
    let io = ClientIo::new(stream, Bytes::new(), Some(Rc::clone(connection)));
    let client = Client::new(io, early, &core.buffers);
    let ended = {
        let mut usual = pin!(http1::serve(core, connection, &client));
        let ended = poll_fn(|cx| {
            if let Poll::Ready(end) = usual.as_mut().poll(cx) {
                return Poll::Ready(Some(end));
            }
            if connection.is_told_to_end(cx) {
                return Poll::Ready(None);
            }
            // The answer that runs says that it is the last.
            let is_idle = connection.is_idle() && !client.is_answered() && !client.has_more();
            let is_over = connection.should_close() && is_idle;
            if is_over { Poll::Ready(Some(End::Over)) } else { Poll::Pending }
        });
        ended.await
    };
    let Some((mut stream, rest)) = client.take() else { return };
    match ended {
        // Boxed: few need it, and all would have to have room for it.
        Some(End::Unusual) => Box::pin(by_hyper(core, connection, stream, rest)).await,
        Some(End::Over) if connection.lingers.get() => linger(&mut stream).await,
        Some(End::Over) => part(&mut stream),
        // An answer that is cut short must not look whole.
        None if !connection.is_busy() && !client.is_answered() => part(&mut stream),
        None | Some(End::Cut) => {}
    }
}

async fn by_hyper(core: &Rc<Core>, connection: &Rc<Connection>, stream: Stream, early: Bytes) {
    let _released = Released(connection);
    let service = service_fn(|request: Request<Incoming>| {
        let (core, connection) = (Rc::clone(core), Rc::clone(connection));
        async move { Ok::<_, Infallible>(proxy::handle(core, connection, request).await) }
    });
    let io = ClientIo::new(stream, early, Some(Rc::clone(connection)));
    let mut http = core.http1.serve_connection(TokioIo::new(io), service);
    let mut asked = false;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut http).poll(cx) {
                return Poll::Ready(Some(result));
            }
            if connection.is_told_to_end(cx) {
                return Poll::Ready(None);
            }
            if asked || !connection.should_close() {
                return Poll::Pending;
            }
            // `Connection: close` on the answer that runs, or the end if none does.
            asked = true;
            Pin::new(&mut http).graceful_shutdown();
        }
    });
    let ended = ended.await;
    let parts = http.into_parts();
    let mut stream = parts.io.into_inner().stream;
    let Some(ended) = ended else {
        // An answer that is cut short must not look whole.
        if !connection.is_busy() {
            part(&mut stream);
        }
        return;
    };
    let tunnel = connection.tunnel.borrow_mut().take();
    match (ended, tunnel) {
        (Ok(()), Some(tunnel)) => {
            connection.alarm.off();
            tunnel.run(&mut stream, parts.read_buf).await;
        }
        (Ok(()), None) if connection.lingers.get() => linger(&mut stream).await,
        (Ok(()), None) => {}
        // hyper has answered what it could not parse.
        (Err(error), _) if error.is_parse() => linger(&mut stream).await,
        (Err(error), _) => {
            let peer = connection.peer().address();
            tracing::debug!(error = &error as &dyn std::error::Error, %peer, "HTTP/1 ended");
        }
    }
}

async fn http2(core: &Rc<Core>, connection: &Rc<Connection>, stream: Stream, early: Bytes) {
    let service = service_fn(|request: Request<Incoming>| {
        // Boxed: hyper moves what it is given several times on its way into a task.
        let answer = Box::pin(proxy::handle(Rc::clone(core), Rc::clone(connection), request));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let io = Gather::new(ClientIo::new(stream, early, None), &core.buffers, || connection.is_busy());
    let mut http = pin!(core.http2.serve_connection(TokioIo::new(io), service));
    let mut asked = false;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = http.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            if connection.alarm.poll_rung(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if asked || !connection.alarm.is_asked() {
                return Poll::Pending;
            }
            // GOAWAY: streams that run go on, later ones are not taken.
            asked = true;
            http.as_mut().graceful_shutdown();
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(error = &error as &dyn std::error::Error, peer = %connection.peer().address(), "HTTP/2 ended");
    }
}

/// A tunnel that is never run holds an exchange, which holds the connection:
/// whatever ends the task opens that circle.
struct Released<'a>(&'a Connection);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        drop(self.0.tunnel.borrow_mut().take());
    }
}

impl Connection {
    /// Whether it is over whatever HTTP thinks: silent for too long, or fresh
    /// when a drain that hurries had begun and still without a request.
    pub(super) fn is_told_to_end(&self, cx: &std::task::Context<'_>) -> bool {
        if self.is_hurried() && !self.served.get() && !self.hurried.replace(true) {
            self.alarm.within(FRESH_GRACE);
        }
        self.alarm.poll_rung(cx).is_ready()
    }

    /// Whether HTTP/1 is to end after the answer that runs, if one does. Where
    /// nothing hurries, the next answer says that it is the last: closing before
    /// that would race with the request.
    fn should_close(&self) -> bool {
        self.is_hurried() && self.served.get()
    }
}

/// Says that nothing is missing, which TLS wants said (RFC 8446 §6.1), where that
/// takes no waiting. Without TLS closing says it, and this would be one more call.
fn part(stream: &mut Stream) {
    if let Stream::Tls(stream) = stream {
        // The connection is dropped next, whether the client hears this or not.
        let _ = stream.shutdown().now_or_never();
    }
}

/// Reads and drops what a client is still sending, for a while.
pub(in crate::ingress) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut dropped = [0; 4096];
    let read_on = async {
        let _ = stream.shutdown().await;
        while stream.read(&mut dropped).await.is_ok_and(|read| read > 0) {}
    };
    // At the end of patience the connection is closed like any other.
    let _ = tokio::time::timeout(LINGER, read_on).await;
}
