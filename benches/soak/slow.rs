//! Clients that keep a proxy waiting: some read slowly and leave, some never end
//! their head, some send a body byte by byte.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::checks::count;
use crate::site::{Failure, Site, pause};

/// Far more than a head may take (10 s).
const HEAD_CUT_BY: Duration = Duration::from_secs(60);

/// Slow readers, one after the other, until the run is over.
pub async fn readers(site: Arc<Site>) {
    while !site.shared.is_done() {
        match read(&site).await {
            Ok(()) => count(&site.shared.slow_readers),
            Err(failure) => site.shared.tally.wrong(format!("slow reader: {failure}")),
        }
    }
}

/// Heads that do not end.
pub async fn heads(site: Arc<Site>) {
    while !site.shared.is_done() {
        match timeout(HEAD_CUT_BY, drip_head(&site)).await {
            Ok(Ok(())) => count(&site.shared.slow_heads),
            Ok(Err(failure)) => site.shared.tally.wrong(format!("slow head: {failure}")),
            Err(_) => site.shared.tally.wrong("slow head: nobody ended it".to_owned()),
        }
    }
}

/// Bodies that come byte by byte.
pub async fn bodies(site: Arc<Site>) {
    while !site.shared.is_done() {
        match drip_body(&site).await {
            Ok(()) => count(&site.shared.slow_bodies),
            Err(failure) => site.shared.tally.wrong(format!("slow body: {failure}")),
        }
    }
}

async fn read(site: &Site) -> Result<(), Failure> {
    let socket = TcpSocket::new_v4()?;
    // Small, so that the proxy has to wait and not the kernel.
    socket.set_recv_buffer_size(4 * 1024)?;
    let mut stream = socket.connect(site.address).await?;
    let ask = format!("GET /stream?tokens=20000&delay_ms=0 HTTP/1.1\r\nHost: {}\r\n\r\n", site.host);
    stream.write_all(ask.as_bytes()).await?;
    let mut piece = [0; 512];
    stream.read_exact(&mut piece).await?;
    if !piece.starts_with(b"HTTP/1.1 200 ") {
        return Err(String::from_utf8_lossy(&piece).into());
    }
    for _ in 0..100 {
        if site.shared.is_done() {
            break;
        }
        stream.read_exact(&mut piece).await?;
        pause(20).await;
    }
    Ok(())
}

async fn drip_head(site: &Site) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(site.address).await?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {}\r\nX-Drip: ", site.host).as_bytes()).await?;
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let drip = async {
        while !site.shared.is_done() && write.write_all(b"x").await.is_ok() {
            pause(200).await;
        }
    };
    tokio::select! {
        () = drip => {}
        // Closed, or reset: either is an end.
        _ = read.read_to_end(&mut answer) => {}
    }
    if answer.starts_with(b"HTTP/1.1 2") { Err("half a head was answered".into()) } else { Ok(()) }
}

async fn drip_body(site: &Site) -> Result<(), Failure> {
    const BODY: &str = "byte by byte";
    let mut stream = TcpStream::connect(site.address).await?;
    stream.set_nodelay(true)?;
    let (host, length) = (&site.host, BODY.len());
    let head = format!("POST /echo HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for byte in BODY.as_bytes() {
        pause(50).await;
        stream.write_all(&[*byte]).await?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let is_whole = answer.starts_with("HTTP/1.1 200 ") && answer.contains(&format!("\"body\":\"{BODY}\""));
    if is_whole { Ok(()) } else { Err(answer.into()) }
}
