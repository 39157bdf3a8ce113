//! Clients that call as gRPC does: HTTP/2, messages both ways, an end in trailers.

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;

use crate::checks::count;
use crate::site::{Failure, Site, deployment, pause};

/// Messages of a streaming call, 20 ms apart: long enough for pointers to move under it.
const MESSAGES: usize = 40;

/// Calls on kept connections until the run is over; every tenth call streams.
pub async fn run(site: Arc<Site>) {
    let mut connection = None;
    let mut n = 0;
    while !site.shared.is_done() {
        n += 1;
        let messages = if n % 10 == 0 { MESSAGES } else { 1 };
        match call(&site, &mut connection, messages).await {
            Ok(()) => count(if messages == 1 { &site.shared.unary } else { &site.shared.streaming }),
            Err(failure) => {
                site.shared.tally.wrong(format!("gRPC: {failure}"));
                connection = None;
            }
        }
        // A pace that leaves the processors to the other clients, too.
        pause(5).await;
        if n % 100 == 0 {
            connection = None;
        }
    }
}

async fn call(site: &Site, connection: &mut Option<SendRequest<Bytes>>, messages: usize) -> Result<(), Failure> {
    let sender = match connection.take() {
        Some(kept) => kept,
        None => connect(site).await?,
    };
    let mut sender = sender.ready().await?;
    let request = Request::post(format!("http://{}/soak.Soak/Echo", site.host));
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(())?;
    let sent = site.timeline.now();
    let (answer, mut out) = sender.send_request(request, false)?;
    *connection = Some(sender);
    let message = |n: usize| Bytes::from(format!("{n:0width$}", width = 16 + n * 7));
    out.send_data(message(0), messages == 1)?;
    let answer = answer.await?;
    if answer.status() != 200 || answer.headers().contains_key("grpc-status") {
        return Err(format!("answered {} {:?}", answer.status(), answer.headers()).into());
    }
    let deployment = deployment(answer.headers())?;
    site.check(sent, &deployment)?;
    if answer.headers().get("x-label").and_then(|label| label.to_str().ok()) != Some(site.label(&deployment)?) {
        return Err(format!("X-Deployment-ID is {deployment}, another has answered").into());
    }
    let mut body = answer.into_body();
    let mut bytes = 0;
    for n in 0..messages {
        if n > 0 {
            pause(20).await;
            out.send_data(message(n), n + 1 == messages)?;
        }
        bytes += message(n).len();
        hear(&mut body, &message(n)).await?;
    }
    if body.data().await.is_some() {
        return Err("more than was said came back".into());
    }
    let trailers = body.trailers().await?.ok_or("no trailers")?;
    match (trailers.get("grpc-status"), trailers.get("x-bytes")) {
        (Some(status), Some(counted)) if status == "0" && counted == bytes.to_string().as_str() => Ok(()),
        _ => Err(format!("of {bytes} bytes the trailers say {trailers:?}").into()),
    }
}

async fn connect(site: &Site) -> Result<SendRequest<Bytes>, Failure> {
    let stream = TcpStream::connect(site.address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Waits until the message has come back.
async fn hear(body: &mut RecvStream, message: &[u8]) -> Result<(), Failure> {
    let mut heard = Vec::new();
    while heard.len() < message.len() {
        let data = body.data().await.ok_or("the stream ended before its message came back")??;
        body.flow_control().release_capacity(data.len())?;
        heard.extend_from_slice(&data);
    }
    if heard == message { Ok(()) } else { Err("another message came back".into()) }
}
