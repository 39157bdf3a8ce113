//! A fake server for unit tests: answers what a test tells it to and notes what it was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use crate::cli::args::Command;
use crate::cli::client::Client;
use crate::cli::conclude;
use crate::cli::console::{Console, captured};
use crate::cli::session::{Patience, Session};

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET /path?query`.
    pub line: String,
    /// Header lines, lower-case.
    pub headers: String,
    pub body: String,
}

/// A server that is none. Ends when it is dropped.
pub struct Fake {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Answers each request with the status and body that `answer` gives.
    pub fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + 'static) -> Self {
        Self::serve(move |asked| {
            let (status, body) = answer(asked);
            format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        })
    }

    fn serve(answer: impl Fn(&Asked) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (noted, stop) = (Arc::clone(&asked), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                noted.lock().unwrap().push(request.clone());
                // The client may be gone already; that is its business.
                let _ = stream.write_all(answer(&request).as_bytes());
            }
        });
        Self { address, asked, ended, thread: Some(thread) }
    }

    /// Answers each request with `bytes`, which are no HTTP.
    pub fn start_raw(bytes: &'static str) -> Self {
        Self::serve(move |_| bytes.to_owned())
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked so far, as `GET /path`.
    pub fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// A session with it, as quick as a test wants it.
    pub fn session<'a>(&self, console: &'a mut Console) -> Session<'a> {
        let client = Client::new(&self.url(), Some("key".into()), "a test".into()).unwrap();
        let quick = Duration::from_millis(300);
        Session {
            client,
            console,
            project: None,
            directory: "/nonexistent".into(),
            patience: Patience { applied: quick, step: Duration::from_millis(10), deadline_grace: quick },
        }
    }
}

/// What a command came to.
pub struct Outcome {
    pub exit_code: u8,
    pub results: String,
    pub remarks: String,
}

#[derive(Parser)]
#[command(name = "repoint")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Fake {
    /// Runs a command as `main` would, without a terminal.
    pub fn run<const N: usize>(&self, args: [&str; N]) -> Outcome {
        self.run_answering(&args, None)
    }

    /// Runs a command on a terminal where `answers` are typed in.
    pub fn run_answering(&self, args: &[&str], answers: Option<&'static str>) -> Outcome {
        let command = Cli::try_parse_from(["repoint"].iter().chain(args)).unwrap().command;
        let (mut console, results, remarks) = captured::console(command.common().json, answers);
        let mut session = self.session(&mut console);
        session.project.clone_from(&command.common().project);
        let outcome = command.carry_out(&mut session);
        let exit_code = conclude(outcome, &mut console);
        Outcome { exit_code, results: results.get(), remarks: remarks.get() }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let (line, headers) = head.split_once("\r\n")?;
    let headers = headers.to_ascii_lowercase();
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    Some(Asked { line, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// Ids of the world below.
pub const PROJECT: &str = "01980000-0000-7000-8000-0000000000a1";
pub const STAGING: &str = "01980000-0000-7000-8000-0000000000b2";
pub const OLD: &str = "01980000-0000-7000-8000-0000000000d1";
pub const NEW: &str = "01980000-0000-7000-8000-0000000000d2";
const AT: &str = "2026-11-23T12:00:00Z";

/// What a server with one project and two deployments answers to reading
/// requests: `bcdfghjk` (old) is served everywhere, `bcdfwxyz` (new) nowhere.
pub fn world(asked: &Asked) -> (u16, String) {
    let path = asked.line.trim_start_matches("GET ");
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let list = |items: Vec<Value>| json!({"items": items, "next_cursor": null});
    let body = match path {
        "/api/v1/projects" if query.contains("name=") && !query.contains("name=support&") => list(vec![]),
        "/api/v1/projects" => list(vec![project()]),
        "/api/v1/environments" => {
            list(vec![environment("preview", "b1"), environment("staging", "b2"), environment("production", "b3")])
        }
        "/api/v1/deployments" => {
            let all = [deployment(NEW, "bcdfwxyz"), deployment(OLD, "bcdfghjk")];
            let asked = |one: &Value| !query.contains("ref=") || query.contains(one["ref"].as_str().unwrap());
            list(all.into_iter().filter(asked).collect())
        }
        _ if path.ends_with(PROJECT) => project(),
        _ if path == format!("/api/v1/deployments/{NEW}") => deployment(NEW, "bcdfwxyz"),
        _ if path.starts_with("/api/v1/environments/01980000-0000-7000-8000-0000000000b") => {
            let suffix = &path[path.len() - 2..];
            let name = if suffix == "b3" { "production" } else { "staging" };
            let mut detail = environment(name, suffix);
            detail["rollback_target"] = Value::Null;
            detail["pools"] = json!([]);
            detail
        }
        _ => return refusal(404, "not_found", &format!("nothing at {path}")),
    };
    (200, body.to_string())
}

/// An error of the server's.
pub fn refusal(status: u16, code: &str, message: &str) -> (u16, String) {
    (status, json!({"error": {"code": code, "message": message, "details": {}}}).to_string())
}

pub fn project() -> Value {
    json!({"id": PROJECT, "name": "support", "created_at": AT, "environments": []})
}

pub fn environment(name: &str, suffix: &str) -> Value {
    json!({
        "id": format!("01980000-0000-7000-8000-0000000000{suffix}"), "project_id": PROJECT, "project": "support",
        "name": name, "url": format!("http://support-{name}.localhost:8080"),
        "hosts": [format!("support-{name}.localhost")], "current_deployment_id": OLD, "current_ref": "bcdfghjk",
        "locked": false, "policy": {}, "created_at": AT, "updated_at": AT
    })
}

pub fn deployment(id: &str, reference: &str) -> Value {
    json!({
        "id": id, "ref": reference, "project_id": PROJECT, "created_by": "admin", "created_at": AT,
        "source": {"kind": "endpoints", "endpoints": ["http://127.0.0.1:1"]},
        "url": format!("http://support--{reference}.localhost:8080")
    })
}

/// A committed move of staging from old to new, applied by `applied` of two proxies.
pub fn moved(applied: u32) -> String {
    json!({
        "changed": true, "revision": 42,
        "promotion": {
            "id": "01980000-0000-7000-8000-0000000000e1", "sequence": 7, "kind": "promote", "environment_id": STAGING,
            "from_deployment_id": OLD, "from_ref": "bcdfghjk", "to_deployment_id": NEW, "to_ref": "bcdfwxyz",
            "actor": "admin", "reason": null, "revision": 42, "requested_at": AT, "committed_at": AT
        },
        "propagation": {
            "required": 2, "applied": applied, "refused": [], "unconfirmed": 0, "elapsed_ms": 4, "complete": applied == 2
        },
        "previous": {"deployment_id": OLD, "ref": "bcdfghjk", "state": "running", "in_flight": 1}
    })
    .to_string()
}

/// A pending move of staging to new in `state`.
pub fn pending(state: &str, detail: &str) -> Value {
    let promotion = if state == "committed" { json!("01980000-0000-7000-8000-0000000000e1") } else { Value::Null };
    let ended_at = if state == "waiting" { Value::Null } else { json!("2026-11-23T12:00:01.5Z") };
    json!({"move": {
        "id": 9, "environment_id": STAGING, "deployment_id": NEW, "kind": "promote", "state": state, "detail": detail,
        "actor": "admin", "requested_at": AT, "deadline": "2026-11-23T12:00:01Z",
        "ended_at": ended_at, "promotion_id": promotion
    }})
}
