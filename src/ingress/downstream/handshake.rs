//! The TLS handshake of a client connection, before its first request.
//!
//! Runs in the connection's own task and under its alarm, so that a slow one
//! holds up nobody; how many run at once on a core is limited.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use crate::ingress::core::Core;
use crate::ingress::downstream::Connection;
use crate::ingress::downstream::io::Stream;
use crate::ingress::downstream::serve::linger;
use crate::ingress::metrics::HandshakeFailure;

/// The first byte of a TLS connection: a handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// The alert `unrecognized_name` (RFC 6066 §3), fatal, as a record of its own.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What plain HTTP gets here.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    content-length: 43\r\n\r\nthis port speaks TLS; use https:// instead\n";

/// Takes a connection from its first byte to the end of the handshake. `None`:
/// it is over, and counted.
pub(super) async fn handshake(core: &Rc<Core>, connection: &Connection, stream: TcpStream) -> Option<Stream> {
    let Some(_running) = Running::begin(core) else {
        core.counters.handshake_failures[HandshakeFailure::Overloaded as usize].one();
        return None;
    };
    connection.alarm.within(core.config().tls.handshake_timeout.duration());
    let mut shaking = pin!(shake(core, connection, stream));
    let ended = poll_fn(|cx| {
        if let Poll::Ready(result) = shaking.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        if !connection.is_told_to_end(cx) {
            return Poll::Pending;
        }
        let draining = connection.is_draining();
        Poll::Ready(Err(if draining { HandshakeFailure::Draining } else { HandshakeFailure::Timeout }))
    });
    match ended.await {
        Ok(stream) => {
            core.counters.handshakes.one();
            // A drain that has begun meanwhile gives less time, and its word stands.
            if !connection.hurried.get() {
                connection.alarm.within(connection.head_timeout);
            }
            Some(stream)
        }
        Err(failure) => {
            core.counters.handshake_failures[failure as usize].one();
            None
        }
    }
}

async fn shake(core: &Core, connection: &Connection, mut stream: TcpStream) -> Result<Stream, HandshakeFailure> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) if first[0] == HANDSHAKE => {}
        Ok(1) if first[0].is_ascii_uppercase() => {
            // Whether the client reads this is its own affair.
            let _ = stream.write_all(PLAIN).await;
            linger(&mut stream).await;
            return Err(HandshakeFailure::PlainHttp);
        }
        Ok(1) => return Err(HandshakeFailure::Protocol),
        _ => return Err(HandshakeFailure::Closed),
    }
    let accepting = Box::pin(LazyConfigAcceptor::new(Acceptor::default(), stream));
    let mut start = accepting.await.map_err(|error| failed(connection, &error))?;
    let (certificate, named) = {
        let hello = start.client_hello();
        let name = hello.server_name();
        let certificate = core.shared.certificates.as_ref().and_then(|served| served.choose(name));
        (certificate, name.is_some())
    };
    let Some(certificate) = certificate else {
        let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
        linger(&mut start.io).await;
        return Err(HandshakeFailure::UnrecognizedName);
    };
    let accepting = Box::pin(start.into_stream(certificate.config.clone()));
    let stream = accepting.await.map_err(|error| failed(connection, &error))?;
    if named {
        // Set once, before the first request.
        let _ = connection.certificate.set(certificate);
    }
    connection.is_secure.set(true);
    Ok(Stream::Tls(Box::new(stream)))
}

fn failed(connection: &Connection, error: &io::Error) -> HandshakeFailure {
    tracing::debug!(error = error as &dyn std::error::Error, peer = %connection.peer().address(), "TLS handshake failed");
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
            HandshakeFailure::ClientCertificate
        }
        Some(rustls::Error::AlertReceived(_)) => HandshakeFailure::Alert,
        Some(_) => HandshakeFailure::Protocol,
        None => HandshakeFailure::Closed,
    }
}

/// A place among the handshakes that run on a core.
struct Running<'a>(&'a Core);

impl<'a> Running<'a> {
    fn begin(core: &'a Core) -> Option<Self> {
        let running = core.handshaking.get();
        (running < core.config().tls.handshakes_max).then(|| {
            core.handshaking.set(running + 1);
            Self(core)
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.handshaking.set(self.0.handshaking.get() - 1);
    }
}
