//! A replica that a test holds in its hand: a small real server on a real
//! socket, whose readiness, streams and held answers the test decides.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};

use tokio_tungstenite::tungstenite;

use super::{DEADLINE, until};

/// A running replica; ends when dropped.
pub struct Replica {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    label: String,
    ready: AtomicBool,
    stopped: AtomicBool,
    requests: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
    streams: Mutex<Vec<mpsc::Sender<String>>>,
    held: Mutex<u64>,
    released: Mutex<bool>,
    release: Condvar,
}

impl Replica {
    /// A ready replica that answers with `label`.
    pub fn start(label: &str) -> Self {
        Self::start_with(label, true)
    }

    /// A replica whose health path answers 503 until it is made ready.
    pub fn not_ready(label: &str) -> Self {
        Self::start_with(label, false)
    }

    fn start_with(label: &str, ready: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            label: label.to_owned(),
            ready: AtomicBool::new(ready),
            stopped: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            open: Mutex::default(),
            streams: Mutex::default(),
            held: Mutex::default(),
            released: Mutex::default(),
            release: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets its health path answer 200.
    pub fn make_ready(&self) {
        self.shared.ready.store(true, Ordering::SeqCst);
    }

    /// Requests answered so far, health checks aside.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Waits until so many event streams are open here.
    pub fn streams_open(&self, count: usize) {
        until("event streams to be open", || (self.shared.streams().len() >= count).then_some(()));
    }

    /// Sends an event on every open stream.
    pub fn emit(&self, event: &str) {
        self.shared.streams().retain(|stream| stream.send(event.to_owned()).is_ok());
    }

    /// Ends every open stream properly.
    pub fn finish_streams(&self) {
        self.shared.streams().clear();
    }

    /// Waits until so many requests are held at `/hold`.
    pub fn holding(&self, count: u64) {
        until("requests to be held", || (*self.shared.held.lock().expect(CALM) >= count).then_some(()));
    }

    /// Answers the requests held at `/hold`.
    pub fn release(&self) {
        *self.shared.released.lock().expect(CALM) = true;
        self.shared.release.notify_all();
    }

    /// Ends it the way a crash does: listener and connections gone at once.
    pub fn kill(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which drops the listener.
        drop(TcpStream::connect(self.address));
        for stream in self.shared.open.lock().expect(CALM).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        until("its port to be closed", || TcpStream::connect(self.address).is_err().then_some(()));
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.release();
        self.shared.streams().clear();
        if !self.shared.stopped.load(Ordering::SeqCst) {
            self.kill();
        }
    }
}

/// Why a lock cannot be poisoned.
const CALM: &str = "nobody panics while holding it";

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    raw: String,
    body: Vec<u8>,
}

impl Shared {
    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<String>>> {
        self.streams.lock().expect(CALM)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().map_while(Result::ok) {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            self.open.lock().expect(CALM).push(stream.try_clone().expect("descriptors are left"));
            let shared = Arc::clone(&self);
            std::thread::spawn(move || {
                // A connection that breaks is the peer's business.
                let _ = shared.serve(stream);
            });
        }
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            let stream = reader.get_mut();
            if request.path == "/healthz" {
                let status = if self.ready.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
                answer(stream, status, &[], b"")?;
                continue;
            }
            self.requests.fetch_add(1, Ordering::SeqCst);
            match request.path.as_str() {
                "/stream" => return self.stream_events(stream),
                "/ws" => return self.websocket(reader, &request),
                "/hold" => self.hold(stream)?,
                "/echo" => answer(stream, "200 OK", &[], &[self.label.as_bytes(), b":", &request.body].concat())?,
                "/headers" => answer(stream, "200 OK", &[], request.raw.as_bytes())?,
                _ if request.method == "HEAD" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")?,
                _ => answer(stream, "200 OK", &[("X-Deployment-ID", "forged")], self.label.as_bytes())?,
            }
        }
        Ok(())
    }

    fn hold(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        *self.held.lock().expect(CALM) += 1;
        let released = self.released.lock().expect(CALM);
        drop(self.release.wait_timeout_while(released, DEADLINE, |released| !*released).expect(CALM));
        answer(stream, "200 OK", &[], self.label.as_bytes())
    }

    fn stream_events(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let (sender, events) = mpsc::channel();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        self.streams().push(sender);
        while let Ok(event) = events.recv() {
            let event = format!("data: {} {event}\n\n", self.label);
            stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
        }
        stream.write_all(b"0\r\n\r\n")
    }

    fn websocket(&self, reader: BufReader<TcpStream>, request: &Request) -> std::io::Result<()> {
        let mut stream = reader.into_inner();
        let key =
            request.headers.iter().find(|(name, _)| name == "sec-websocket-key").map(|(_, value)| value.as_bytes());
        let accept = tungstenite::handshake::derive_accept_key(key.unwrap_or_default());
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
        stream.write_all(format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes())?;
        let role = tungstenite::protocol::Role::Server;
        let mut socket = tungstenite::WebSocket::from_raw_socket(stream, role, None);
        while let Ok(message) = socket.read() {
            if let tungstenite::Message::Text(text) = message {
                let reply = tungstenite::Message::text(format!("{}:{text}", self.label));
                socket.send(reply).map_err(std::io::Error::other)?;
            }
        }
        // Dropping is not enough: `open` has another descriptor.
        let _ = socket.get_ref().shutdown(Shutdown::Both);
        Ok(())
    }
}

fn answer(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    // One write: the head alone would wait for the peer's acknowledgement.
    stream.write_all(&[head.as_bytes(), b"\r\n", body].concat())
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut raw = String::new();
    if reader.read_line(&mut raw)? == 0 {
        return Ok(None);
    }
    let mut parts = raw.split(' ').map(str::to_owned);
    let (method, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        raw.push_str(&line);
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, headers, raw, body }))
}
