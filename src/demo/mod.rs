//! The built-in agent worker of `repoint up --demo`.
//!
//! A small HTTP server in the same binary, in two visibly different versions:
//! it streams tokens as server-sent events, echoes, and sleeps on demand. Knows
//! nothing of the rest of Repoint: it is given a port and promised variables, as
//! any worker is.

mod answers;
mod body;
pub mod setup;

use std::convert::Infallible;
use std::net::Ipv4Addr;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use answers::Worker;

/// Why the demo worker could not run. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was started by hand without the variables a worker is promised.
    #[error("read PORT: this worker is started by repoint; to try it by hand, set PORT")]
    Port,
    /// The port is taken, or the system is out of descriptors.
    #[error("serve on port {port}")]
    Serve {
        /// Which port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
}

/// Serves as `version` on `$PORT` until the process is ended. SIGTERM stops it
/// accepting; streams that are open then go on until it is killed.
///
/// # Errors
///
/// When there is no port to serve on.
pub fn run(version: &str) -> Result<(), Error> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).ok_or(Error::Port)?;
    let deployment = std::env::var("REPOINT_DEPLOYMENT_ID").unwrap_or_else(|_| "none".to_owned());
    let worker = Worker { version: version.to_owned(), deployment };
    let failed = |source| Error::Serve { port, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(serve(port, worker)).map_err(failed)
}

async fn serve(port: u16, worker: Worker) -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let worker = worker.clone();
        let answer = service_fn(move |request| {
            let worker = worker.clone();
            async move { Ok::<_, Infallible>(worker.answer(request).await) }
        });
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
        // A connection that breaks is the peer's business.
        tokio::spawn(async move { drop(connection.await) });
    }
}
