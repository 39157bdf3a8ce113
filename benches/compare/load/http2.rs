//! Connections of HTTP/2 with so many streams at any time.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;

use super::Plan;
use crate::peers::host;

/// One connection for as long as there is time.
pub(super) async fn connection(plan: &Rc<Plan>, streams: usize) -> io::Result<()> {
    let stream = TcpStream::connect(plan.addresses[0]).await?;
    stream.set_nodelay(true)?;
    let (send, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    let driver = tokio::task::spawn_local(connection);
    let streams: Vec<_> =
        (0..streams).map(|_| tokio::task::spawn_local(stream_of(Rc::clone(plan), send.clone()))).collect();
    drop(send);
    for stream in streams {
        stream.await.map_err(io::Error::other)??;
    }
    driver.abort();
    Ok(())
}

async fn stream_of(plan: Rc<Plan>, send: h2::client::SendRequest<Bytes>) -> io::Result<()> {
    let mut send = send.ready().await.map_err(io::Error::other)?;
    while Instant::now() < plan.until {
        let began = Instant::now();
        let environment = plan.draw(0);
        let asked = plan.expected.asks();
        let request = Request::get(format!("http://{}/1k", host(environment)));
        let request = request.header("user-agent", "compare").body(()).map_err(io::Error::other)?;
        let (answer, _) = send.send_request(request, true).map_err(io::Error::other)?;
        let (head, mut body) = answer.await.map_err(io::Error::other)?.into_parts();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data.map_err(io::Error::other)?;
            length += data.len();
            body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
        }
        let replica = head.headers.get("x-replica").and_then(|replica| replica.to_str().ok()?.parse().ok());
        let is_right = replica.is_some_and(|replica| plan.expected.admits(environment, asked, replica));
        if head.status != 200 || length != 1_024 || !is_right {
            return Err(io::Error::other(format!("environment {environment} answered {head:?} with {length} bytes")));
        }
        plan.count(1, began);
        send = send.ready().await.map_err(io::Error::other)?;
    }
    Ok(())
}
