//! The load: kept connections that send the next request when the last one is
//! answered, and long streams that are open throughout.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Ask;
use crate::checks::{Tally, count};
use crate::timeline::{Moment, Timeline};

/// A running load.
pub struct Load {
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Lets every connection finish what it has sent, then ends.
    pub fn stop(self) {
        self.done.store(true, Ordering::SeqCst);
        self.thread.join().expect("the load does not panic");
    }
}

struct Shared {
    address: SocketAddr,
    host: String,
    timeline: Arc<Timeline>,
    tally: Arc<Tally>,
    done: Arc<AtomicBool>,
}

/// Starts the load on a thread of its own.
pub fn start(ask: &Ask, address: SocketAddr, host: &str, timeline: &Arc<Timeline>, tally: &Arc<Tally>) -> Load {
    let done = Arc::new(AtomicBool::new(false));
    let shared = Arc::new(Shared {
        address,
        host: host.to_owned(),
        timeline: Arc::clone(timeline),
        tally: Arc::clone(tally),
        done: Arc::clone(&done),
    });
    let (connections, streams) = (ask.connections, ask.streams);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut tasks = JoinSet::new();
            for n in 0..connections {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move { shared.requests(n).await });
            }
            for _ in 0..streams {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move { shared.long_stream().await });
            }
            tasks.join_all().await;
        });
    });
    Load { done, thread }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Shared {
    async fn requests(&self, seed: usize) {
        let mut connection = None;
        let mut n = seed;
        while !self.done.load(Ordering::SeqCst) {
            n += 1;
            if let Err(failure) = self.one(&mut connection, n).await {
                self.tally.wrong(format!("transport: {failure}"));
                connection = None;
            }
        }
    }

    /// One request in ten streams, two post, the rest get.
    async fn one(&self, connection: &mut Option<SendRequest<Full<Bytes>>>, n: usize) -> Result<(), Failure> {
        if let Some(kept) = connection
            && kept.ready().await.is_err()
        {
            *connection = None;
        }
        let sender = match connection {
            Some(kept) => kept,
            None => connection.insert(self.connect().await?),
        };
        match n % 10 {
            0 => {
                let response = self.send(sender, "GET", "/stream?tokens=20&delay_ms=1", Bytes::new()).await?;
                self.check_stream(response, 20).await?;
                count(&self.tally.streams);
            }
            1 | 2 => {
                let sent = format!("{n:0width$}", width = 64 + n % 1_000);
                let response = self.send(sender, "POST", "/echo", sent.clone().into()).await?;
                self.check_whole(response, |body| {
                    let echoed: Value = serde_json::from_slice(body).ok()?;
                    (echoed["body"] == sent.as_str()).then(|| echoed["deployment"].as_str().map(str::to_owned))?
                })
                .await?;
                count(&self.tally.posts);
            }
            _ => {
                let response = self.send(sender, "GET", "/", Bytes::new()).await?;
                self.check_whole(response, |body| {
                    let line = std::str::from_utf8(body).ok()?;
                    Some(line.trim_end().rsplit_once(' ')?.1.to_owned())
                })
                .await?;
                count(&self.tally.gets);
            }
        }
        Ok(())
    }

    /// A stream that is open for the whole run and stays where it began.
    async fn long_stream(&self) {
        let run = async {
            let mut sender = self.connect().await?;
            let path = "/stream?tokens=1000000&delay_ms=100";
            let (_, response) = self.send(&mut sender, "GET", path, Bytes::new()).await?;
            let deployment = header(&response)?;
            let mut body = response.into_body();
            while !self.done.load(Ordering::SeqCst) {
                let frame = body.frame().await.ok_or("a long stream ended before the run")??;
                let text = frame.into_data().map_err(|_| "a stream has no trailers")?;
                check_tokens(&text, &deployment)?;
                self.tally.tokens.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failure>(())
        };
        if let Err(failure) = run.await {
            self.tally.wrong(format!("long stream: {failure}"));
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn send(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<(Moment, Response<Incoming>), Failure> {
        let request = Request::builder().method(method).uri(path).header("host", &self.host).body(Full::new(body))?;
        let sent = self.timeline.now();
        let response = sender.send_request(request).await?;
        if response.status() != 200 {
            return Err(format!("{method} {path} was answered {}", response.status()).into());
        }
        Ok((sent, response))
    }

    async fn check_whole(
        &self,
        (sent, response): (Moment, Response<Incoming>),
        writer: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Result<(), Failure> {
        let deployment = header(&response)?;
        self.check_moment(sent, &deployment)?;
        let body = response.into_body().collect().await?.to_bytes();
        match writer(&body) {
            Some(wrote) if wrote == deployment => Ok(()),
            wrote => Err(format!("X-Deployment-ID is {deployment}, the body was written by {wrote:?}").into()),
        }
    }

    async fn check_stream(&self, (sent, response): (Moment, Response<Incoming>), tokens: usize) -> Result<(), Failure> {
        let deployment = header(&response)?;
        self.check_moment(sent, &deployment)?;
        let body = response.into_body().collect().await?.to_bytes();
        match check_tokens(&body, &deployment)? {
            count if count == tokens => Ok(()),
            count => Err(format!("a stream of {tokens} tokens ended after {count}").into()),
        }
    }

    fn check_moment(&self, sent: Moment, deployment: &str) -> Result<(), Failure> {
        match self.timeline.allows(sent, deployment) {
            (false, _) => Err(format!("{deployment} served a request sent after the pointer had left it").into()),
            (true, exact) => {
                self.tally.exact.fetch_add(u64::from(exact), Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

fn header(response: &Response<Incoming>) -> Result<String, Failure> {
    let value = response.headers().get("x-deployment-id").ok_or("an answer without X-Deployment-ID")?;
    Ok(value.to_str()?.to_owned())
}

/// How many tokens; all of them written by `deployment`, or it fails.
fn check_tokens(events: &[u8], deployment: &str) -> Result<usize, Failure> {
    let mut tokens = 0;
    for event in std::str::from_utf8(events)?.split_terminator("\n\n") {
        let token: Value = serde_json::from_str(event.strip_prefix("data: ").ok_or("an event without data")?)?;
        if token["deployment"] != deployment {
            return Err(format!("a stream of {deployment} carried a token of {}", token["deployment"]).into());
        }
        tokens += 1;
    }
    Ok(tokens)
}
