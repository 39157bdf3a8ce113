//! Connections of HTTP/1.1, over TLS or not.

use std::io;
use std::time::Instant;

use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Plan;
use crate::peers::host;
use crate::replicas::CHUNKS;
use crate::works::Kind;

const UPLOAD_BYTES: usize = 1024 * 1024;
/// What a client has at hand of a large body, and gives its socket at once: curl's and Go's clients and most others
/// read their file in pieces of 16 to 64 KiB.
static PIECE: [u8; 64 * 1024] = [b'u'; 64 * 1024];

/// One connection for as long as there is time, or for one request.
pub(super) async fn connection(
    plan: &Plan,
    number: usize,
    connector: Option<&TlsConnector>,
    resumes: bool,
) -> io::Result<()> {
    let began = Instant::now();
    let stream = TcpStream::connect(plan.addresses[number % plan.addresses.len()]).await?;
    stream.set_nodelay(true)?;
    match connector {
        None => requests(plan, number, stream, began).await,
        Some(connector) => {
            let name = ServerName::try_from(host(0)).map_err(io::Error::other)?;
            let stream = connector.connect(name, stream).await?;
            let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            if resumes && !is_resumed {
                return Err(io::Error::other("the handshake was not resumed"));
            }
            requests(plan, number, stream, began).await
        }
    }
}

/// The requests of one connection.
async fn requests(
    plan: &Plan,
    number: usize,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut began: Instant,
) -> io::Result<()> {
    let mut read = Vec::with_capacity(128 * 1024);
    let mut head = Head::of(plan.kind);
    if let Some(pace) = &plan.pace {
        pace.open();
    }
    loop {
        if let Some(pace) = &plan.pace {
            let Some(due) = pace.next().await else { return Ok(()) };
            began = due;
        }
        let environment = plan.draw(number);
        let asked = plan.expected.asks();
        stream.write_all(head.to(environment)).await?;
        if plan.kind == Kind::Upload {
            for _ in 0..UPLOAD_BYTES / PIECE.len() {
                stream.write_all(&PIECE).await?;
            }
        }
        stream.flush().await?;
        let (replica, done) = answer(plan.kind, &mut stream, &mut read).await?;
        if !plan.expected.admits(environment, asked, replica) {
            return Err(io::Error::other(format!("replica {replica} answered for environment {environment}")));
        }
        let now = plan.count(done, began);
        if let Kind::Closing { .. } = plan.kind {
            // The answer is here; how the end goes is not asked.
            let _ = stream.shutdown().await;
            return Ok(());
        }
        // With a pace, what was due before the end is still sent.
        if now >= plan.until && plan.pace.is_none() {
            return Ok(());
        }
        began = now;
    }
}

/// A request's head, in which only the number of the environment changes.
pub struct Head {
    bytes: Vec<u8>,
    digits: std::ops::Range<usize>,
}

impl Head {
    pub fn of(kind: Kind) -> Self {
        let host = host(0);
        let path = match kind {
            Kind::Kept { bytes: 65_536 } => "/64k",
            Kind::Events => "/events",
            _ => "/1k",
        };
        let (method, more) = match kind {
            Kind::Upload => ("POST", format!("Content-Length: {UPLOAD_BYTES}\r\n")),
            Kind::Closing { .. } => ("GET", "Connection: close\r\n".to_owned()),
            _ => ("GET", String::new()),
        };
        let start = format!("{method} {path} HTTP/1.1\r\nHost: ");
        let first = start.len() + host.find(|at: char| at.is_ascii_digit()).unwrap_or(0);
        let text = format!("{start}{host}\r\nUser-Agent: compare\r\nAccept: */*\r\n{more}\r\n");
        Self { bytes: text.into_bytes(), digits: first..first + 7 }
    }

    /// The head of a request to that environment.
    pub fn to(&mut self, environment: usize) -> &[u8] {
        let mut rest = environment;
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        &self.bytes
    }
}

/// Reads an answer to its end and looks at it: who answered, and how many it counts for.
pub async fn answer(kind: Kind, stream: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> io::Result<(usize, u64)> {
    read.clear();
    let (end, replica, length) = loop {
        more(stream, read).await?;
        if let Some(head) = head_of(read)? {
            break head;
        }
    };
    if kind == Kind::Events {
        while !read.ends_with(b"\r\n0\r\n\r\n") {
            more(stream, read).await?;
        }
        let chunks = read.windows(6).filter(|window| *window == b"data: ").count();
        return if chunks == CHUNKS {
            Ok((replica, chunks as u64))
        } else {
            Err(io::Error::other("chunks are missing"))
        };
    }
    let wanted = if kind == (Kind::Kept { bytes: 65_536 }) { 65_536 } else { 1_024 };
    if length != Some(wanted) {
        return Err(io::Error::other(format!("{length:?} bytes announced, not {wanted}")));
    }
    while read.len() < end + wanted {
        more(stream, read).await?;
    }
    if read.len() > end + wanted { Err(io::Error::other("more came than was announced")) } else { Ok((replica, 1)) }
}

/// Where the head of a good answer ends, who gave it, and how long it says its body is; none while the head is not all
/// there.
fn head_of(read: &[u8]) -> io::Result<Option<(usize, usize, Option<usize>)>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(end) = head.parse(read).map_err(io::Error::other)? else { return Ok(None) };
    let number = |name: &str| {
        let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()?.parse::<usize>().ok()
    };
    match (head.code, number("x-replica")) {
        (Some(200), Some(replica)) => Ok(Some((end, replica, number("content-length")))),
        _ => Err(io::Error::other(format!("answered: {}", String::from_utf8_lossy(&read[..end])))),
    }
}

async fn more(stream: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(read).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
