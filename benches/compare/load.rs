//! The clients: as many connections as a work has, each checking every answer.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use crate::peers::{Mode, Peer, host};
use crate::replicas::{CHUNKS, COUNT};
use crate::works::{Kind, Work};

/// What came of one round.
#[derive(Default)]
pub struct Tally {
    /// Answers; of event streams their chunks.
    pub done: u64,
    /// Wrong answers, and missing ones.
    pub errors: u64,
    /// Microseconds.
    pub latencies: Vec<u32>,
    pub seconds: f64,
}

/// Longest wait for one answer: what takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(20);
const UPLOAD_BYTES: usize = 1024 * 1024;

struct Plan {
    kind: Kind,
    peer: std::net::SocketAddr,
    environments: usize,
    until: Instant,
    tls: Option<ClientConfig>,
    /// Between two requests of one connection, where there is a rate.
    every: Option<Duration>,
    tally: RefCell<Tally>,
}

impl Plan {
    /// Counts an answer, which has come now.
    fn count(&self, done: u64, began: Instant) -> Instant {
        let now = Instant::now();
        let mut tally = self.tally.borrow_mut();
        tally.done += done;
        tally.latencies.push(u32::try_from((now - began).as_micros()).unwrap_or(u32::MAX));
        now
    }
}

/// Runs a work against a proxy for so long; `rate` is in requests a second.
pub fn run(
    work: &Work,
    peer: &Peer,
    environments: usize,
    length: Duration,
    rate: Option<f64>,
) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("make a runtime: {error}"))?;
    let started = Instant::now();
    let plan = Rc::new(Plan {
        kind: work.kind,
        peer: peer.address,
        environments,
        until: started + length,
        tls: if work.mode == Mode::Tls { Some(tls(peer)?) } else { None },
        every: rate.map(|rate| Duration::from_secs_f64(work.connections as f64 / rate)),
        tally: RefCell::default(),
    });
    runtime.block_on(LocalSet::new().run_until(async {
        let clients: Vec<_> =
            (0..work.connections).map(|_| tokio::task::spawn_local(client(Rc::clone(&plan)))).collect();
        for client in clients {
            if client.await.is_err() {
                plan.tally.borrow_mut().errors += 1;
            }
        }
    }));
    let mut tally = plan.tally.take();
    tally.seconds = started.elapsed().as_secs_f64();
    Ok(tally)
}

fn tls(peer: &Peer) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let pem = peer.authority.as_deref().unwrap_or_default();
    let certificate =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("read a certificate: {error}"))?;
    roots.add(certificate).map_err(|error| format!("trust a certificate: {error}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config =
        config.map_err(|error| format!("speak TLS 1.3: {error}"))?.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// One connection after the other, for as long as there is time.
async fn client(plan: Rc<Plan>) {
    let resumes = plan.kind == (Kind::Closing { resumes: true });
    let connector = plan.tls.clone().map(|mut config| {
        if resumes {
            // Its own: a ticket is good for one connection, and others would take it.
            config.resumption = Resumption::in_memory_sessions(8);
        }
        TlsConnector::from(Arc::new(config))
    });
    let mut first = true;
    while Instant::now() < plan.until {
        let served = match plan.kind {
            Kind::Streams(streams) => http2(&plan, streams).await,
            _ => connection(&plan, connector.as_ref(), resumes && !first).await,
        };
        if let Err(error) = served {
            let mut tally = plan.tally.borrow_mut();
            tally.errors += 1;
            if tally.errors < 4 {
                eprintln!("wrong: {error}");
            }
        }
        first = false;
    }
}

async fn connection(plan: &Plan, connector: Option<&TlsConnector>, resumes: bool) -> io::Result<()> {
    let began = Instant::now();
    let stream = TcpStream::connect(plan.peer).await?;
    stream.set_nodelay(true)?;
    match connector {
        None => requests(plan, stream, began).await,
        Some(connector) => {
            let name = ServerName::try_from(host(0)).map_err(io::Error::other)?;
            let stream = connector.connect(name, stream).await?;
            let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            if resumes && !is_resumed {
                return Err(io::Error::other("the handshake was not resumed"));
            }
            requests(plan, stream, began).await
        }
    }
}

/// The requests of one connection.
async fn requests(plan: &Plan, mut stream: impl AsyncRead + AsyncWrite + Unpin, mut began: Instant) -> io::Result<()> {
    let mut read = Vec::with_capacity(128 * 1024);
    let upload = if plan.kind == Kind::Upload { vec![b'u'; UPLOAD_BYTES] } else { Vec::new() };
    let mut next = Instant::now() + plan.every.unwrap_or_default().mul_f64(fastrand::f64());
    loop {
        if let Some(every) = plan.every {
            tokio::time::sleep_until(next.into()).await;
            began = next;
            next += every;
        }
        let environment = fastrand::usize(..plan.environments);
        stream.write_all(head(plan.kind, environment).as_bytes()).await?;
        if !upload.is_empty() {
            stream.write_all(&upload).await?;
        }
        stream.flush().await?;
        let answer = tokio::time::timeout(PATIENCE, answer(plan, &mut stream, &mut read, environment));
        let done = answer.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let now = plan.count(done, began);
        if now >= plan.until {
            return Ok(());
        }
        if let Kind::Closing { .. } = plan.kind {
            // The answer is here; how the end goes is not asked.
            let _ = stream.shutdown().await;
            return Ok(());
        }
        began = now;
    }
}

fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Kept { bytes: 65_536 } => "/64k",
        Kind::Events => "/events",
        _ => "/1k",
    }
}

fn head(kind: Kind, environment: usize) -> String {
    let (path, host) = (path(kind), host(environment));
    let (method, more) = match kind {
        Kind::Upload => ("POST", format!("Content-Length: {UPLOAD_BYTES}\r\n")),
        Kind::Closing { .. } => ("GET", "Connection: close\r\n".to_owned()),
        _ => ("GET", String::new()),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: compare\r\nAccept: */*\r\n{more}\r\n")
}

/// Reads an answer and looks at it. How many it counts for.
async fn answer(
    plan: &Plan,
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut Vec<u8>,
    environment: usize,
) -> io::Result<u64> {
    read.clear();
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, read).await?;
    };
    let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
    let field = |name: &str| {
        let value = head.split(&format!("\r\n{name}:")).nth(1).and_then(|rest| rest.split("\r\n").next());
        value.map(|value| value.trim().to_owned())
    };
    let replica = field("x-replica").and_then(|replica| replica.parse().ok());
    if !head.starts_with("http/1.1 200 ") || replica != Some(environment % COUNT) {
        return Err(io::Error::other(format!("environment {environment} answered: {head}")));
    }
    if plan.kind == Kind::Events {
        while !read.ends_with(b"\r\n0\r\n\r\n") {
            more(stream, read).await?;
        }
        let chunks = read.windows(6).filter(|window| *window == b"data: ").count();
        return if chunks == CHUNKS { Ok(chunks as u64) } else { Err(io::Error::other("chunks are missing")) };
    }
    let wanted = if path(plan.kind) == "/64k" { 65_536 } else { 1_024 };
    // A proxy may frame anew; then the end of the chunks is the end.
    let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
    if length != Some(wanted) {
        return Err(io::Error::other(format!("not of {wanted} bytes: {head}")));
    }
    while read.len() < end + wanted {
        more(stream, read).await?;
    }
    Ok(1)
}

async fn more(stream: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(read).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// A connection of HTTP/2 with so many streams at any time.
async fn http2(plan: &Rc<Plan>, streams: usize) -> io::Result<()> {
    let stream = TcpStream::connect(plan.peer).await?;
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
        let environment = fastrand::usize(..plan.environments);
        let request = Request::get(format!("http://{}{}", host(environment), path(plan.kind)));
        let request = request.header("user-agent", "compare").body(()).map_err(io::Error::other)?;
        let (answer, _) = send.send_request(request, true).map_err(io::Error::other)?;
        let answer =
            tokio::time::timeout(PATIENCE, answer).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let (head, mut body) = answer.map_err(io::Error::other)?.into_parts();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data.map_err(io::Error::other)?;
            length += data.len();
            body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
        }
        let replica = head.headers.get("x-replica").and_then(|replica| replica.to_str().ok()?.parse().ok());
        if head.status != 200 || length != 1_024 || replica != Some(environment % COUNT) {
            return Err(io::Error::other(format!("environment {environment} answered {head:?} with {length} bytes")));
        }
        plan.count(1, began);
        send = send.ready().await.map_err(io::Error::other)?;
    }
    Ok(())
}
