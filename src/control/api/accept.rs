//! Takes connections and serves requests on them until the drain asks.
//!
//! `axum::serve` would do but for one thing: it sets no timer, so that a client
//! which sends the head of a request for ever keeps its place for ever. Knows
//! nothing of paths; `api::serve` calls it with the router.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::control::api::listener::Bounded;
use crate::drain::Watch;

/// Longest until the head of a request is complete, from when it may begin: a
/// connection that waits for its next request ends too. Ten seconds: heads are a
/// few hundred bytes, and to connect again costs little.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// Runs until the drain asks and what runs has ended, or until it insists.
pub(super) async fn run(mut listener: Bounded, router: Router, drain: Watch) {
    let _hold = drain.hold();
    let (mut asked, mut insisted) = (drain.clone(), drain.clone());
    // Dropped, it cuts what is left.
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            (stream, _) = listener.accept() => drop(open.spawn(connection(stream, router.clone(), drain.clone()))),
            Some(_) = open.join_next() => {}
            () = asked.asked() => break,
        }
    }
    drop(listener);
    tokio::select! {
        () = async { while open.join_next().await.is_some() {} } => {}
        () = insisted.insisted() => {}
    }
}

/// Serves one connection: HTTP/1, which all the clients of an API speak.
async fn connection<S>(stream: S, router: Router, mut drain: Watch)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = drain.asked() => {
            // The request that runs gets its answer; none follows it.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection to the API broke off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, interval, sleep, timeout};

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_does_not_keep_its_connection() {
        let drain = Drain::new();
        let (mut client, server) = tokio::io::duplex(4096);
        let serving = tokio::spawn(connection(server, Router::new(), drain.watch()));
        let (started, mut pace) = (Instant::now(), interval(Duration::from_secs(1)));
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        while !serving.is_finished() {
            assert!(started.elapsed() < HEAD_MAX * 2, "what arrives buys no time");
            pace.tick().await;
            // Fails once the connection is cut, which is what is waited for.
            let _ = client.write_all(b"x-more: of it\r\n").await;
        }
        assert!(started.elapsed() >= HEAD_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_longer_than_a_head() {
        let drain = Drain::new();
        let (mut client, server) = tokio::io::duplex(4096);
        let slow = get(|| async {
            sleep(HEAD_MAX * 3).await;
            "done"
        });
        tokio::spawn(connection(server, Router::new().route("/", slow), drain.watch()));
        client.write_all(b"GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(HEAD_MAX * 6, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    }
}
