//! Replicas that live in the run itself: one kind echoes messages over HTTP/2 as
//! gRPC does, the other over WebSockets. Each puts its label before what it says.

use std::net::SocketAddr;
use std::sync::mpsc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;

/// Where they listen.
pub struct Replicas {
    pub grpc: [SocketAddr; 2],
    pub websockets: [SocketAddr; 2],
}

/// The labels of the first and the second of either kind.
pub const LABELS: [&str; 2] = ["first", "second"];

/// Starts two of each kind, on a thread of their own that ends with the process.
pub fn start() -> Replicas {
    let (said, addresses) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut bound = Vec::new();
            for label in LABELS {
                let (grpc, websockets) = (listen().await, listen().await);
                bound.push((grpc.local_addr().expect("bound"), websockets.local_addr().expect("bound")));
                tokio::spawn(serve_grpc(grpc, label));
                tokio::spawn(serve_websockets(websockets, label));
            }
            said.send(bound).expect("somebody waits for it");
            std::future::pending::<()>().await;
        });
    });
    let bound = addresses.recv().expect("they bind");
    Replicas { grpc: [bound[0].0, bound[1].0], websockets: [bound[0].1, bound[1].1] }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

async fn serve_grpc(listener: TcpListener, label: &'static str) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // Who connects and says nothing wants to know whether we are here.
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, answer))) = connection.accept().await {
                // A call that breaks is the client's to notice.
                tokio::spawn(async move { drop(echo(request, answer, label).await) });
            }
        });
    }
}

/// Every message as it comes, then `grpc-status` and how many bytes there were.
async fn echo(
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
    label: &'static str,
) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    head.headers_mut().insert("x-label", label.parse().expect("a value"));
    let mut out = answer.send_response(head, false)?;
    let mut body = request.into_body();
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes += data.len();
        out.send_data(data, false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    trailers.insert("x-bytes", bytes.into());
    out.send_trailers(trailers)
}

async fn serve_websockets(listener: TcpListener, label: &'static str) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(talk(stream, label));
    }
}

async fn talk(stream: TcpStream, label: &'static str) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        let Ok(text) = message.to_text() else { return };
        if message.is_text() && socket.send(format!("{label}:{text}").into()).await.is_err() {
            return;
        }
    }
}
