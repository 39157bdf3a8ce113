//! A deployment whose replicas are killed under load.
//!
//! What is in flight at a replica that dies cannot be kept. Everything else can:
//! each request that was lost has to be one that the proxy's access log saw go to
//! a replica that was killed while it ran.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::site::{Failure, Shared};
use crate::support::api::Api;
use crate::support::server::signal;

/// What became of this deployment's requests and replicas.
#[derive(Default)]
pub struct Victims {
    lost: Mutex<Vec<Lost>>,
    kills: Mutex<Vec<Kill>>,
    pub answered: std::sync::atomic::AtomicU64,
}

struct Lost {
    id: String,
    began: Instant,
    ended: Instant,
    why: String,
}

struct Kill {
    address: SocketAddr,
    at: Instant,
}

/// A write may be on its way to a replica while the news of its end is, too.
const NEWS: Duration = Duration::from_secs(1);

const CALM: &str = "nobody panics while holding it";

impl Victims {
    /// Requests on a kept connection until the run is over: every fourth posts, every fifth streams.
    pub async fn load(self: Arc<Self>, task: usize, address: SocketAddr, host: String, shared: Arc<Shared>) {
        let mut connection = None;
        let mut n = 0;
        while !shared.is_done() {
            n += 1;
            let id = format!("victim-{task}-{n}");
            let began = Instant::now();
            match one(&mut connection, address, &host, &id, n).await {
                Ok(()) => crate::checks::count(&self.answered),
                Err(why) => {
                    connection = None;
                    let lost = Lost { id, began, ended: Instant::now(), why: why.to_string() };
                    self.lost.lock().expect(CALM).push(lost);
                }
            }
        }
    }

    /// Kills a replica of the deployment, where at least two are ready.
    pub fn kill_one(&self, api: &Api, deployment: &str) {
        let status = api.get(&format!("/api/v1/deployments/{deployment}/status")).ok();
        let pools = status["pools"].as_array().into_iter().flatten();
        let endpoints = pools.flat_map(|pool| pool["endpoints"].as_array().into_iter().flatten());
        let ready: Vec<_> = endpoints.filter(|endpoint| endpoint["state"] == "ready").collect();
        if ready.len() < 2 {
            return;
        }
        let victim = ready[fastrand::usize(..ready.len())];
        let (Some(pid), Some(address)) = (victim["pid"].as_u64(), victim["address"].as_str()) else { return };
        let address = address.parse().expect("replicas of ours have addresses");
        self.kills.lock().expect(CALM).push(Kill { address, at: Instant::now() });
        signal(u32::try_from(pid).expect("a process id"), "KILL");
    }

    /// How many were killed, and how many requests were lost with them.
    pub fn counts(&self) -> (usize, usize) {
        (self.kills.lock().expect(CALM).len(), self.lost.lock().expect(CALM).len())
    }

    /// The lost requests that were not in flight at a replica that was killed.
    pub fn unexcused(&self, access_log: &str) -> Vec<String> {
        let lines = access_log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let upstreams: HashMap<String, SocketAddr> = lines
            .filter_map(|line| {
                Some((line["request_id"].as_str()?.to_owned(), line["upstream"].as_str()?.parse().ok()?))
            })
            .collect();
        let kills = self.kills.lock().expect(CALM);
        let is_excused = |lost: &&Lost| {
            let Some(upstream) = upstreams.get(&lost.id) else { return false };
            kills.iter().any(|kill| kill.address == *upstream && lost.began <= kill.at + NEWS && lost.ended >= kill.at)
        };
        let lost = self.lost.lock().expect(CALM);
        lost.iter()
            .filter(|lost| !is_excused(lost))
            .map(|lost| format!("{}: {}, sent to {:?}", lost.id, lost.why, upstreams.get(&lost.id)))
            .collect()
    }
}

async fn one(
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    address: SocketAddr,
    host: &str,
    id: &str,
    n: usize,
) -> Result<(), Failure> {
    if let Some(kept) = connection
        && kept.ready().await.is_err()
    {
        *connection = None;
    }
    let sender = match connection {
        Some(kept) => kept,
        None => {
            let stream = TcpStream::connect(address).await?;
            let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(async move { drop(driver.await) });
            connection.insert(sender)
        }
    };
    let (method, path, body) = match n {
        n if n.is_multiple_of(5) => ("GET", "/stream?tokens=20&delay_ms=5", ""),
        n if n.is_multiple_of(4) => ("POST", "/echo", "kept"),
        _ => ("GET", "/", ""),
    };
    let request = Request::builder().method(method).uri(path).header("host", host).header("x-request-id", id);
    let response = sender.send_request(request.body(Full::from(body))?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status != 200 {
        return Err(format!("{method} {path} was answered {status} {}", String::from_utf8_lossy(&body)).into());
    }
    let text = String::from_utf8_lossy(&body);
    let is_whole = match n {
        n if n.is_multiple_of(5) => text.matches("data: ").count() == 20,
        n if n.is_multiple_of(4) => text.contains("\"body\":\"kept\""),
        _ => text.starts_with("hello from "),
    };
    if is_whole { Ok(()) } else { Err(format!("{method} {path} was answered with {text:?}").into()) }
}
