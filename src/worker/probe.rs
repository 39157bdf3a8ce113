//! One probe: whether something answers at an address, as a client would see it.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::model::manifest::Protocol;
use crate::replica_tls::ReplicaTls;

/// Why a probe's request broke off.
type Broke = Box<dyn std::error::Error + Send + Sync>;

/// What HTTP is spoken over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// What a probe calls itself.
const AGENT: &str = "repoint-probe";

/// What is probed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Target {
    pub address: SocketAddr,
    /// Answers 2xx when all is well; without one it is enough that the port accepts.
    pub path: Option<String>,
    /// The `Host` it is asked as.
    pub host: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether over TLS, as what `host` names.
    pub secure: bool,
}

/// Why a probe failed, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("nothing listens there")]
    Refused,
    #[error("it did not answer within {} ms", .0.as_millis())]
    Slow(Duration),
    #[error("GET {path} answered {status}")]
    Status { path: String, status: StatusCode },
    #[error("{0}")]
    Broken(String),
}

impl Target {
    /// Asks once.
    pub async fn probe(&self, tls: &ReplicaTls, timeout: Duration) -> Result<(), Failure> {
        tokio::time::timeout(timeout, self.ask(tls)).await.unwrap_or(Err(Failure::Slow(timeout)))
    }

    async fn ask(&self, tls: &ReplicaTls) -> Result<(), Failure> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Failure::Refused,
            _ => Failure::Broken(error.to_string()),
        })?;
        if !self.secure {
            return self.get(stream).await;
        }
        // Also where an open port is enough: requests would not get past the handshake either.
        let shaken = tls.connect(stream, &self.host, self.protocol).await;
        let stream = shaken.map_err(|error| Failure::Broken(format!("the TLS handshake failed: {error}")))?;
        self.get(stream).await
    }

    async fn get(&self, stream: impl Stream) -> Result<(), Failure> {
        let Some(path) = &self.path else { return Ok(()) };
        let answer = match self.protocol {
            Protocol::Http1 => self.get_http1(path, stream).await,
            Protocol::H2c => self.get_h2c(path, stream).await,
        };
        match answer {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(Failure::Status { path: path.clone(), status }),
            Err(error) => Err(Failure::Broken(format!("GET {path} broke off: {error}"))),
        }
    }

    async fn get_http1(&self, path: &str, stream: impl Stream) -> Result<StatusCode, Broke> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path)
            .header(HOST, &self.host)
            .header(USER_AGENT, AGENT)
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        first(sender.send_request(request), connection).await
    }

    async fn get_h2c(&self, path: &str, stream: impl Stream) -> Result<StatusCode, Broke> {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let scheme = if self.secure { "https" } else { "http" };
        let request = Request::get(format!("{scheme}://{}{path}", self.host))
            .header(USER_AGENT, AGENT)
            .body(Empty::<Bytes>::new())?;
        first(sender.send_request(request), connection).await
    }
}

/// The status of what comes first: the answer, or the end of the connection.
async fn first(
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<StatusCode, Broke> {
    tokio::pin!(answer);
    let answer = tokio::select! {
        answer = &mut answer => answer?,
        // An answer may have come just before the end, so that one is asked in any case.
        ended = connection => match ended {
            Ok(()) => answer.await?,
            Err(error) => return Err(error.into()),
        },
    };
    Ok(answer.status())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn probe(path: Option<&str>, answer: &'static str) -> Result<(), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            let length = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer == "wait" {
                let _ = stream.read(&mut [0; 1]).await;
            }
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        let target = Target {
            address,
            path: path.map(str::to_owned),
            host: "worker.internal:9001".to_owned(),
            protocol: Protocol::Http1,
            secure: false,
        };
        let result = target.probe(&ReplicaTls::default(), Duration::from_millis(500)).await;
        if path.is_some() {
            let asked = server.await.unwrap();
            assert!(asked.starts_with("GET /healthz HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("host: worker.internal:9001\r\n"), "{asked}");
        }
        result
    }

    #[tokio::test]
    async fn any_2xx_is_well_and_everything_else_is_not() {
        let path = Some("/healthz");
        assert_eq!(probe(path, "HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        let expected = "GET /healthz answered 503 Service Unavailable";
        assert_eq!(
            probe(path, "HTTP/1.1 503 Oh\r\ncontent-length: 0\r\n\r\n").await.unwrap_err().to_string(),
            expected
        );
        assert!(matches!(probe(path, "HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n").await, Err(Failure::Status { .. })));
        assert!(matches!(probe(path, "gibberish\r\n\r\n").await, Err(Failure::Broken(_))));
        assert!(matches!(probe(path, "").await, Err(Failure::Broken(_))));
        assert!(matches!(probe(path, "wait").await, Err(Failure::Slow(_) | Failure::Broken(_))));
    }

    #[tokio::test]
    async fn a_replica_that_speaks_http_2_is_asked_in_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for status in [204, 503] {
                let stream = listener.accept().await.unwrap().0;
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (request, mut answer) = connection.accept().await.unwrap().unwrap();
                asked.push(request.uri().to_string());
                let said = Response::builder().status(status).body(()).unwrap();
                answer.send_response(said, true).unwrap();
                while connection.accept().await.is_some() {}
            }
            asked
        });
        let target = Target {
            address,
            path: Some("/healthz".to_owned()),
            host: "worker.internal:9001".to_owned(),
            protocol: Protocol::H2c,
            secure: false,
        };
        let limit = Duration::from_secs(20);
        assert_eq!(target.probe(&ReplicaTls::default(), limit).await, Ok(()));
        assert_eq!(
            target.probe(&ReplicaTls::default(), limit).await.unwrap_err().to_string(),
            "GET /healthz answered 503 Service Unavailable"
        );
        assert_eq!(server.await.unwrap(), ["http://worker.internal:9001/healthz"; 2]);
    }

    #[tokio::test]
    async fn without_a_path_an_open_port_is_enough() {
        assert_eq!(probe(None, "").await, Ok(()));
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let target =
            Target { address: closed, path: None, host: String::new(), protocol: Protocol::Http1, secure: false };
        assert_eq!(target.probe(&ReplicaTls::default(), Duration::from_secs(5)).await, Err(Failure::Refused));
    }
}
