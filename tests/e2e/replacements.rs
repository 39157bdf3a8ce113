//! Twenty replacements of a proxy under load: from new connections, kept ones and
//! HTTP/2, with event streams open throughout.

use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::handover::Scene;
use super::support::api::text;
use super::support::http::{self, Client};
use super::support::replica::Replica;
use super::support::server::Server;
use super::support::until;

const REPLACEMENTS: usize = 20;
/// Every so many of the runs carry a stream.
const STREAM_EVERY: usize = 6;
/// Answers of each kind between two replacements, at least.
const ANSWERS_BETWEEN: u64 = 50;
/// Clients of each kind.
const CLIENTS: usize = 2;

/// What clients do until they are told to stop, and what became of it.
struct Load {
    ingress: SocketAddr,
    host: String,
    is_over: AtomicBool,
    fresh: AtomicU64,
    kept: AtomicU64,
    multiplexed: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// Ends the load however the test ends.
struct Ending<'a>(&'a Load);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

impl Load {
    fn on(ingress: SocketAddr, host: String) -> Self {
        let (fresh, kept, multiplexed) = Default::default();
        Self { ingress, host, is_over: AtomicBool::new(false), fresh, kept, multiplexed, wrong: Mutex::default() }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }

    fn answers(&self) -> [u64; 3] {
        [&self.fresh, &self.kept, &self.multiplexed].map(|count| count.load(Ordering::SeqCst))
    }

    fn note(&self, count: &AtomicU64, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => drop(count.fetch_add(1, Ordering::SeqCst)),
            Err(wrong) => self.wrong.lock().expect("nobody panics with it").push(wrong),
        }
    }

    fn wrong(&self) -> Vec<String> {
        self.wrong.lock().expect("nobody panics with it").clone()
    }

    fn connect(&self) -> Result<Client, String> {
        TcpStream::connect(self.ingress).map(Client::on).map_err(|error| format!("connect: {error}"))
    }

    fn ask(&self, client: &mut Client) -> Result<http::Response, String> {
        let answer = client.request("POST", &self.host, "/echo", &[], b"ping").map_err(|error| format!("{error:?}"))?;
        is_right(answer.status, &answer.body).map(|()| answer)
    }

    /// A connection for each request.
    fn fresh(&self) {
        while self.goes_on() {
            let outcome = self.connect().and_then(|mut client| self.ask(&mut client)).map(drop);
            self.note(&self.fresh, outcome.map_err(|error| format!("new connection: {error}")));
        }
    }

    /// One connection for as long as the proxy keeps it; with each answer an
    /// event on every stream.
    fn kept(&self, replica: &Replica, events: &Mutex<u64>) {
        let mut kept: Option<Client> = None;
        while self.goes_on() {
            let asked = kept.take().map_or_else(|| self.connect(), Ok).and_then(|mut client| {
                let answer = self.ask(&mut client)?;
                kept = answer.header("connection").is_none().then_some(client);
                Ok(())
            });
            self.note(&self.kept, asked.map_err(|error| format!("kept connection: {error}")));
            let mut events = events.lock().expect("nobody panics with it");
            replica.emit(&format!("event {events}."));
            *events += 1;
        }
    }

    /// One HTTP/2 connection until the proxy says goodbye.
    async fn multiplexed(&self) {
        let mut kept = None;
        while self.goes_on() {
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => connect_h2(self.ingress).await.expect("the ingress accepts"),
            };
            if sender.ready().await.is_err() {
                continue;
            }
            let request = Request::get(format!("http://{}/", self.host)).body(Empty::new()).expect("a request");
            let outcome = match sender.try_send_request(request).await {
                Ok(answer) => {
                    kept = Some(sender);
                    let status = answer.status().as_u16();
                    let body = answer.into_body().collect().await.map(|body| body.to_bytes());
                    let body = body.map_err(|error| format!("its body: {error:?}"));
                    body.and_then(|body| is_right(status, &String::from_utf8_lossy(&body)))
                }
                Err(mut error) => match error.take_message() {
                    // The goodbye was faster: this one was never sent.
                    Some(_) => continue,
                    None => Err(format!("{:?}", error.into_error())),
                },
            };
            self.note(&self.multiplexed, outcome.map_err(|error| format!("HTTP/2: {error}")));
        }
    }
}

fn is_right(status: u16, body: &str) -> Result<(), String> {
    let is_right = status == 200 && ["v1", "v2", "v1:ping", "v2:ping"].contains(&body);
    if is_right { Ok(()) } else { Err(format!("{status} {body:?}")) }
}

async fn connect_h2(address: SocketAddr) -> std::io::Result<http2::SendRequest<Empty<Bytes>>> {
    let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(std::io::Error::other)?;
    // How it ends shows in what is sent on it.
    tokio::spawn(async { drop(connection.await) });
    Ok(sender)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads are left")
}

/// An event stream over HTTP/2, read to its end.
async fn stream_h2(load: &Load, is_open: &AtomicBool) -> String {
    let mut sender = connect_h2(load.ingress).await.expect("the ingress accepts");
    let request = Request::get(format!("http://{}/stream", load.host)).body(Empty::new()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    is_open.store(true, Ordering::SeqCst);
    let body = answer.into_body().collect().await.expect("it is never cut");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

fn read_to_end(mut stream: Client) -> String {
    let mut received = Vec::new();
    while let Some(bytes) = stream.chunk().expect("it is never cut") {
        received.extend(bytes);
    }
    String::from_utf8_lossy(&received).into_owned()
}

/// Every event from the first one on, in order, up to the last there was.
#[track_caller]
fn check_events(received: &str, count: u64) {
    let number = |event: &str| event.strip_prefix("data: v1 event ")?.strip_suffix('.')?.parse::<u64>().ok();
    let events: Vec<_> = received.split_terminator("\n\n").map(|event| number(event).expect("an event")).collect();
    let first = events.first().copied().expect("at least one");
    assert!(events.iter().copied().eq(first..count), "{first}..{count}, in order: {} events", events.len());
}

#[test]
fn twenty_replacements_under_load_lose_nothing() {
    let scene = Scene::begin(&["--threads", "2"]);
    let other = Replica::start("v2");
    let preview = scene.api.deploy_endpoints(&scene.project, &[other.address()], Some("preview")).ok();
    let (first, second) = (scene.deployment.clone(), text(&preview["id"]));
    let move_to = |deployment: &str| {
        let body = scene.api.promote(deployment, scene.project.environment("production")).ok();
        assert_eq!(body["propagation"]["complete"], true, "every run has it: {body}");
    };
    let load = Load::on(scene.proxy.ingress(), scene.host());
    let (events, is_open) = (Mutex::new(0), AtomicBool::new(false));
    let mut successors: Vec<Server> = Vec::new();
    std::thread::scope(|scope| {
        let ending = Ending(&load);
        let (load, events, is_open, scene) = (&load, &events, &is_open, &scene);
        let mut loads = Vec::new();
        for _ in 0..CLIENTS {
            loads.push(scope.spawn(|| load.fresh()));
            loads.push(scope.spawn(|| load.kept(&scene.replica, events)));
            loads.push(scope.spawn(|| runtime().block_on(load.multiplexed())));
        }
        let mut streams = vec![scope.spawn(|| runtime().block_on(stream_h2(load, is_open)))];
        until("the stream over HTTP/2", || is_open.load(Ordering::SeqCst).then_some(()));
        for round in 0..REPLACEMENTS {
            // Some runs carry a stream to the very end.
            if round % STREAM_EVERY == 0 {
                move_to(&first);
                let stream = scene.stream();
                streams.push(scope.spawn(|| read_to_end(stream)));
            } else if round % STREAM_EVERY == STREAM_EVERY / 2 {
                move_to(&second);
            }
            let before = load.answers();
            successors.push(successors.last().unwrap_or(&scene.proxy).successor());
            until("answers of every kind", || {
                let mut grown = load.answers().into_iter().zip(before);
                grown.all(|(now, before)| now >= before + ANSWERS_BETWEEN).then_some(())
            });
            assert_eq!(load.wrong(), Vec::<String>::new(), "replacement {round}");
        }
        let carrying = REPLACEMENTS.div_ceil(STREAM_EVERY);
        scene.until_runs(carrying + 1);

        // What old runs carry keeps their pool.
        move_to(&second);
        scene.terminate();
        until("only streams to be waited for", || {
            let pool = scene.pool();
            assert_eq!(pool["state"], "closing", "{pool}");
            let blocked: Vec<_> = pool["closing"]["blocked_by"].as_array()?.iter().map(text).collect();
            (blocked.len() == carrying && blocked.iter().all(|by| by.contains("carries"))).then_some(())
        });
        drop(ending);
        loads.into_iter().for_each(|load| load.join().expect("it does not panic"));
        scene.replica.finish_streams();
        let count = *events.lock().expect("nobody panics with it");
        for stream in streams {
            check_events(&stream.join().expect("it is read to its end"), count);
        }
        until("the pool to be stopped", || (scene.pool()["state"] == "stopped").then_some(()));
        scene.until_runs(1);
    });
    println!("{:?} answers on new, kept and HTTP/2 connections, {events:?} events", load.answers());
    assert_eq!(load.wrong(), Vec::<String>::new());
    let (last, old) = successors.split_last_mut().expect("there are some");
    old.iter_mut().for_each(|old| assert!(old.ended().success()));
    assert!(last.is_running());
}
