//! What a request costs, where that can be counted exactly: system calls and allocations.
//!
//! Not times: those are for the benches. The numbers below are a ratchet. They may only go down; whoever has made
//! one smaller writes it down here.

#![allow(clippy::unwrap_used, reason = "a test that panics with a line number is a test that reports")]

#[allow(dead_code, reason = "the other tests of the ingress use the rest")]
#[path = "ingress/support.rs"]
mod stage;
#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use stage::Stage;
use support::server::{Server, signal};
use support::until;

/// Counts every allocation of this process.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// One at a time: the allocator does not know who asks.
static ALONE: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is made of nothing else; each call is passed on as it came")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Allocations for each, at most.
const REQUEST: u64 = 6;
const UPLOAD: u64 = 8;
const LARGE_ANSWER: u64 = 9;
const CHUNK: u64 = 0;

/// Requests of a run: enough for what happens now and then to vanish in the quotient.
const MANY: u64 = 2_000;
const FEW: u64 = 200;

/// Answers by path, from memory that it has from the start.
fn replica(barrier: &Arc<Barrier>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let barrier = Arc::clone(barrier);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let barrier = Arc::clone(&barrier);
            // How a connection ends is the proxy's to say.
            std::thread::spawn(move || drop(answer_all(stream.unwrap(), &barrier)));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream, barrier: &Barrier) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = vec![0; 64 * 1024];
    let [small, large] = [1_024, 65_536].map(|bytes| {
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").into_bytes(), vec![b'x'; bytes]].concat()
    });
    loop {
        let mut filled = 0;
        let end = loop {
            if let Some(end) = read[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut read[filled..])? {
                0 => return Ok(()),
                taken => filled += taken,
            }
        };
        let body = if read.starts_with(b"POST") { 1_024 } else { 0 };
        while filled < end + body {
            filled += stream.read(&mut read[filled..])?;
        }
        let path = read[..end].split(|byte| *byte == b' ').nth(1).unwrap();
        if path == b"/64k" {
            stream.write_all(&large)?;
        } else if path == b"/events" {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            loop {
                // One by one: the next when the client has the one before.
                barrier.wait();
                stream.write_all(b"9\r\ndata: x\n\n\r\n")?;
            }
        } else {
            stream.write_all(&small)?;
        }
    }
}

/// Sends a request and reads its answer of so many bytes.
fn ask(client: &mut TcpStream, request: &[u8], body: usize, into: &mut [u8]) {
    client.write_all(request).unwrap();
    let mut filled = 0;
    loop {
        filled += client.read(&mut into[filled..]).unwrap();
        let end = into[..filled].windows(4).position(|window| window == b"\r\n\r\n");
        if end.is_some_and(|end| filled == end + 4 + body) {
            return assert!(into.starts_with(b"HTTP/1.1 200 "));
        }
    }
}

fn request(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: support-production.localhost\r\nUser-Agent: counted\r\nAccept: */*\r\n{more}\r\n")
}

/// Allocations for one of what `work` does so many times.
fn allocations_of(mut work: impl FnMut(u64)) -> u64 {
    work(FEW);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work(MANY);
    (ALLOCATIONS.load(Ordering::Relaxed) - before) / MANY
}

#[test]
fn a_kept_connections_request_allocates_as_often_as_is_written_here() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let barrier = Arc::new(Barrier::new(2));
    let mut stage = Stage::with(|config| config.threads = Some(1.try_into().unwrap()));
    stage.environment("production", Some(1)).pool_at("production", 1, &[replica(&barrier)]).publish();
    let mut client = TcpStream::connect(stage.address()).unwrap();
    client.set_nodelay(true).unwrap();
    let mut into = vec![0; 128 * 1024];
    let mut each = |request: &str, body: usize| {
        allocations_of(|times| (0..times).for_each(|_| ask(&mut client, request.as_bytes(), body, &mut into)))
    };
    let upload = request("POST /1k", "Content-Length: 1024\r\n") + &"u".repeat(1_024);
    let counted = [
        ("a request", each(&request("GET /1k", ""), 1_024), REQUEST),
        ("an upload", each(&upload, 1_024), UPLOAD),
        ("a large answer", each(&request("GET /64k", ""), 65_536), LARGE_ANSWER),
        ("a chunk", chunk(&stage, &barrier), CHUNK),
    ];
    println!("{counted:?}");
    for (what, counted, written) in counted {
        assert!(counted <= written, "{what} allocates {counted} times; {written} were enough once");
    }
}

fn chunk(stage: &Stage, barrier: &Barrier) -> u64 {
    let mut client = TcpStream::connect(stage.address()).unwrap();
    client.write_all(request("GET /events", "").as_bytes()).unwrap();
    let mut into = vec![0; 4_096];
    let mut filled = 0;
    while !into[..filled].ends_with(b"\r\n\r\n") {
        filled += client.read(&mut into[filled..]).unwrap();
    }
    allocations_of(|times| {
        for _ in 0..times {
            barrier.wait();
            let mut filled = 0;
            while !into[..filled].ends_with(b"x\n\n\r\n") {
                filled += client.read(&mut into[filled..]).unwrap();
            }
        }
    })
}

/// System calls by name, as `strace -c` counts them for the ingress's one thread.
fn calls_of(server: &Server, work: impl FnOnce()) -> Vec<(String, u64)> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
    let name = |path: &std::path::Path| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    let ingress = threads.map(|thread| thread.path()).find(|path| name(path).trim().starts_with("ingress")).unwrap();
    let folder = support::server::folder();
    let out = folder.path().join("calls");
    let id = ingress.file_name().unwrap().to_str().unwrap().to_owned();
    let mut strace = Command::new("strace")
        .args(["-c", "-U", "calls,name", "-p", &id, "-o"])
        .arg(&out)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let traced =
        || std::fs::read_to_string(ingress.join("status")).unwrap().contains(&format!("TracerPid:\t{}", strace.id()));
    until("strace to look on", || traced().then_some(()));
    work();
    signal(strace.id(), "INT");
    strace.wait().unwrap();
    let text = std::fs::read_to_string(out).unwrap();
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let count = words.next()?.parse().ok()?;
        Some((words.next()?.to_owned(), count))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn a_kept_connections_request_takes_four_system_calls_and_its_waits() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let tries = Command::new("strace").args(["-c", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !tries.is_ok_and(|status| status.success()) {
        return println!("skipped: there is no strace here, or it may not look at processes");
    }
    let replica = replica(&Arc::new(Barrier::new(2)));
    let server = Server::up_with(&["--threads", "1"]);
    let source = json!({ "kind": "endpoints", "endpoints": [format!("http://{replica}")] });
    let lines = [
        json!({ "kind": "project", "name": "counted" }),
        json!({ "kind": "deployment", "project": "counted", "ref": "pbbbbbbb", "source": source }),
        json!({ "kind": "environment", "project": "counted", "name": "e", "hosts": ["support-production.localhost"] }),
        json!({ "kind": "pointer", "project": "counted", "environment": "e", "ref": "pbbbbbbb" }),
    ];
    server.api().import(&lines.map(|line| line.to_string()).join("\n"));
    let mut into = vec![0; 64 * 1024];
    let connect = || TcpStream::connect(server.ingress()).unwrap();
    let get = request("GET /1k", "");
    until("the replica to be reached", || {
        let mut client = connect();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.write_all(get.as_bytes()).unwrap();
        let read = client.read(&mut into).unwrap_or(0);
        into[..read].starts_with(b"HTTP/1.1 200 ").then_some(())
    });
    let mut client = connect();
    ask(&mut client, get.as_bytes(), 1_024, &mut into);
    let calls = calls_of(&server, || (0..MANY).for_each(|_| ask(&mut client, get.as_bytes(), 1_024, &mut into)));
    println!("{calls:?}");
    let count = |names: &[&str]| -> u64 {
        calls.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(_, count)| count).sum()
    };
    // A tick now and then has its own; a hundredth of a call is room enough for them.
    let each = |calls: u64| (calls as f64 / MANY as f64 * 50.0).round() / 50.0;
    assert!(each(count(&["sendto", "sendmsg", "write", "writev"])) <= 2.0, "{calls:?}");
    assert!(each(count(&["recvfrom", "recvmsg", "read", "readv"])) <= 2.0, "{calls:?}");
    // Alone, each arrival is waited for: the request's and the answer's.
    assert!(each(count(&["epoll_wait", "epoll_pwait", "epoll_pwait2"])) <= 2.0, "{calls:?}");
    let known = [
        "sendto",
        "sendmsg",
        "write",
        "writev",
        "recvfrom",
        "recvmsg",
        "read",
        "readv",
        "epoll_wait",
        "epoll_pwait",
        "epoll_pwait2",
        "total",
    ];
    let others: u64 = calls.iter().filter(|(name, _)| !known.contains(&name.as_str())).map(|(_, count)| count).sum();
    assert!(each(others) <= 0.02, "{calls:?}");
}
