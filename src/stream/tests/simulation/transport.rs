//! TCP of the simulated network, in the shapes that tonic asks for; its reader
//! can be made slow.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::Service;
use tonic::transport::server::{Connected, TcpConnectInfo};
use turmoil::net::{TcpListener, TcpStream};

/// Whether readers stand still. Cloning shares.
#[derive(Clone, Default)]
pub struct Stall(Arc<Mutex<Stalled>>);

#[derive(Default)]
struct Stalled {
    is_stalled: bool,
    waiting: Vec<Waker>,
}

impl Stall {
    pub fn set(&self, is_stalled: bool) {
        let mut stalled = self.0.lock().unwrap();
        stalled.is_stalled = is_stalled;
        if !is_stalled {
            stalled.waiting.drain(..).for_each(Waker::wake);
        }
    }

    fn holds(&self, cx: &Context<'_>) -> bool {
        let mut stalled = self.0.lock().unwrap();
        if stalled.is_stalled {
            stalled.waiting.push(cx.waker().clone());
        }
        stalled.is_stalled
    }
}

/// A connection.
pub struct Io {
    stream: TcpStream,
    remote: SocketAddr,
    stall: Stall,
}

/// What a listener accepts.
pub fn incoming(listener: TcpListener, stall: Stall) -> impl stream::Stream<Item = io::Result<Io>> {
    stream::unfold(listener, move |listener| {
        let stall = stall.clone();
        async move {
            let accepted = listener.accept().await;
            Some((accepted.map(|(stream, remote)| Io { stream, remote, stall }), listener))
        }
    })
}

/// Connects to wherever it is told.
#[derive(Clone)]
pub struct Connector(pub Stall);

impl Service<http::Uri> for Connector {
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Io>>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let stall = self.0.clone();
        Box::pin(async move {
            let to = (uri.host().unwrap().to_owned(), uri.port_u16().unwrap());
            let stream = TcpStream::connect(to).await?;
            let remote = stream.peer_addr()?;
            Ok(TokioIo::new(Io { stream, remote, stall }))
        })
    }
}

impl Connected for Io {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: None, remote_addr: Some(self.remote) }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stall.holds(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
