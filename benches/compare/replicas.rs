//! The replicas: eight deployments on eight ports, on the load's core.
//!
//! `/1k` and `/64k` answer with so many bytes, `/events` with 200 chunks, one each 5 ms; bodies are read and dropped.
//! `X-Replica` says which of them answers.

use std::io;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How many deployments there are.
pub const COUNT: usize = 8;
/// Chunks of an event stream.
pub const CHUNKS: usize = 200;

const BETWEEN_CHUNKS: Duration = Duration::from_millis(5);

/// Running replicas; they end with the process.
pub struct Replicas {
    pub ports: Vec<u16>,
}

impl Replicas {
    pub fn start() -> Self {
        let bound: Vec<_> =
            (0..COUNT).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port on loopback")).collect();
        let ports = bound.iter().map(|listener| listener.local_addr().expect("it is bound").port()).collect();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for (index, listener) in bound.into_iter().enumerate() {
                    listener.set_nonblocking(true).expect("a socket of ours");
                    let listener = TcpListener::from_std(listener).expect("a socket of ours");
                    tokio::spawn(accept(listener, index));
                }
                std::future::pending::<()>().await;
            });
        });
        Self { ports }
    }
}

async fn accept(listener: TcpListener, index: usize) {
    while let Ok((stream, _)) = listener.accept().await {
        // How a connection ends is the proxy's to say.
        tokio::spawn(async move { drop(serve(stream, index).await) });
    }
}

async fn serve(mut stream: TcpStream, index: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let head = |bytes: usize| format!("HTTP/1.1 200 OK\r\nX-Replica: {index}\r\nContent-Length: {bytes}\r\n\r\n");
    let [small, large] = [1_024, 65_536].map(|bytes| [head(bytes).into_bytes(), vec![b'x'; bytes]].concat());
    let events = format!(
        "HTTP/1.1 200 OK\r\nX-Replica: {index}\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let (mut read, mut chunk) = (Vec::with_capacity(64 * 1024), vec![0; 64 * 1024]);
    loop {
        let Some((asked, mut body)) = request(&mut stream, &mut read).await? else { return Ok(()) };
        while body > 0 {
            let room = body.min(chunk.len());
            body -= match stream.read(&mut chunk[..room]).await? {
                0 => return Ok(()),
                taken => taken,
            };
        }
        match asked {
            Asked::Large => stream.write_all(&large).await?,
            Asked::Events => {
                stream.write_all(events.as_bytes()).await?;
                let mut ticks = tokio::time::interval(BETWEEN_CHUNKS);
                for _ in 0..CHUNKS {
                    ticks.tick().await;
                    let data = [b'.'; 90];
                    stream.write_all(&[b"62\r\ndata: ", &data[..], b"\n\n\r\n"].concat()).await?;
                }
                stream.write_all(b"0\r\n\r\n").await?;
            }
            Asked::Small => stream.write_all(&small).await?,
        }
    }
}

enum Asked {
    Small,
    Large,
    Events,
}

/// Reads a request's head: what it asks for, and how much of its body is still to come. None when the proxy has closed.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<(Asked, usize)>> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Request::new(&mut fields);
        if let httparse::Status::Complete(end) = head.parse(read).map_err(io::Error::other)? {
            let asked = match head.path {
                Some("/64k") => Asked::Large,
                Some("/events") => Asked::Events,
                _ => Asked::Small,
            };
            let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok()).unwrap_or(0);
            let body = read.len() - end;
            read.drain(..(end + length).min(read.len()));
            return Ok(Some((asked, length.saturating_sub(body))));
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}
