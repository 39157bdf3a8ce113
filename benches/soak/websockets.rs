//! Clients with WebSockets: short conversations, and some as long as the run.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::checks::count;
use crate::site::{Failure, Site, deployment, pause};

/// Messages of a short conversation.
const MESSAGES: usize = 50;

/// One conversation after the other until the run is over, or one for all of it.
pub async fn run(site: Arc<Site>, is_long: bool) {
    while !site.shared.is_done() {
        match talk(&site, if is_long { usize::MAX } else { MESSAGES }).await {
            Ok(()) => count(&site.shared.websockets),
            Err(failure) => site.shared.tally.wrong(format!("WebSocket: {failure}")),
        }
    }
}

async fn talk(site: &Site, messages: usize) -> Result<(), Failure> {
    let stream = TcpStream::connect(site.address).await?;
    stream.set_nodelay(true)?;
    let sent = site.timeline.now();
    let (mut socket, answer) = client_async(format!("ws://{}/chat", site.host), stream).await?;
    let deployment = deployment(answer.headers())?;
    site.check(sent, &deployment)?;
    let label = site.label(&deployment)?;
    for n in 0..messages {
        if site.shared.is_done() {
            break;
        }
        socket.send(Message::text(n.to_string())).await?;
        let heard = socket.next().await.ok_or("it ended in the middle of a conversation")??;
        if heard != Message::text(format!("{label}:{n}")) {
            return Err(format!("{label}:{n} was expected, and {heard} came").into());
        }
        count(&site.shared.messages);
        pause(20).await;
    }
    socket.close(None).await?;
    while let Some(last) = socket.next().await {
        last?;
    }
    Ok(())
}
