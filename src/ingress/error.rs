//! Errors the ingress makes, and the one table from error to answer.
//!
//! Every failure on a request's walk comes back here. The client reads a status,
//! a code from a closed list and what to do; the log gets the whole chain; the
//! metric gets the code. Two facts go with each error: whose fault it was, and
//! whether trying again is safe.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};

use crate::ingress::upstream::http1::Malformed;
use crate::routing::table::Unresolved;

/// Why a request gets no answer from a replica. Reads as "failed to …".
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The request is not one HTTP request with one meaning.
    #[error("understand the request: {0}")]
    BadRequest(&'static str),
    /// Path and query are too long.
    #[error("take a path of more than {0} bytes")]
    UriTooLong(usize),
    /// Too many header fields.
    #[error("take more than {0} header fields")]
    HeadersTooLarge(usize),
    /// The body passes the environment's limit.
    #[error("take a request body of more than {0} bytes")]
    RequestTooLarge(u64),
    /// A limit of this process is reached.
    #[error("take one more request")]
    Overloaded,
    /// An environment has as many requests running as it may.
    #[error("take one more request for an environment that runs {0}")]
    EnvironmentOverloaded(u64),
    /// The certificate that was shown is not for this host (RFC 9110 §15.5.20).
    #[error("answer for a host that the connection's certificate does not cover")]
    Misdirected,
    /// The address leads nowhere.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// Every replica is full, and so is the queue.
    #[error("let one more wait for a replica")]
    QueueFull,
    /// No replica had room in time.
    #[error("find room at a replica in time")]
    QueueTimeout,
    /// Every endpoint of the pool is gone or draining.
    #[error("find a ready endpoint")]
    NoReadyEndpoint,
    /// No connection to a replica.
    #[error("connect to {endpoint}")]
    Connect {
        /// Where to.
        endpoint: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The replica closed before it answered.
    #[error("get an answer: the replica closed the connection")]
    UpstreamReset(#[source] Option<io::Error>),
    /// What the replica sent is not HTTP.
    #[error("read the replica's answer")]
    UpstreamInvalid(#[source] Malformed),
    /// The replica did not begin, or go on with, its answer in time.
    #[error("get the replica's answer in time")]
    ResponseTimeout,
    /// The client sent nothing more of its body.
    #[error("get the rest of the request in time")]
    RequestTimeout,
    /// The client took nothing more of its answer.
    #[error("answer a client that does not read")]
    ClientStalled,
    /// The client left before its answer was complete.
    #[error("answer a client that is gone")]
    ClientGone,
}

/// The closed list of reasons: answer, metric label and log field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    BadRequest,
    UriTooLong,
    HeadersTooLarge,
    RequestTooLarge,
    Overloaded,
    MisdirectedRequest,
    TableNotLoaded,
    EnvironmentNotFound,
    EnvironmentEmpty,
    DeploymentNotFound,
    DeploymentNotRunning,
    DeploymentTerminated,
    QueueFull,
    QueueTimeout,
    NoReadyEndpoint,
    ConnectFailed,
    UpstreamReset,
    UpstreamInvalid,
    ResponseTimeout,
    RequestTimeout,
    ClientStalled,
    ClientGone,
}

/// Whose fault an error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The client's: the same request fails again.
    Client,
    /// The replica's.
    Replica,
    /// Ours, or of how things are set up.
    Repoint,
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

// Statuses of gRPC ("Status codes and their use in gRPC").
const CANCELLED: &str = "1";
const DEADLINE_EXCEEDED: &str = "4";
const RESOURCE_EXHAUSTED: &str = "8";
const UNIMPLEMENTED: &str = "12";
const INTERNAL: &str = "13";
const UNAVAILABLE: &str = "14";

const ENVIRONMENT_FULL: &str =
    "this environment has as many requests running as it may; try again, or raise its in_flight_max";
const QUEUE_FULL: &str = "every replica is busy and as many requests wait as may; try again, or add replicas";
const QUEUE_SLOW: &str = "every replica was busy for too long; try again, or add replicas";

/// What the client is told.
struct Row {
    status: StatusCode,
    code: Code,
    message: &'static str,
    /// Seconds after which waiting may have helped.
    retry_after: Option<&'static str>,
}

impl Error {
    /// The table. No catch-all: a new error is a decision about its answer.
    fn row(&self) -> Row {
        use StatusCode as S;
        let row = |status, code, message| Row { status, code, message, retry_after: None };
        let later = |status, code, message| Row { status, code, message, retry_after: Some("1") };
        match self {
            Self::BadRequest(message) => row(S::BAD_REQUEST, Code::BadRequest, message),
            Self::UriTooLong(_) => {
                row(S::URI_TOO_LONG, Code::UriTooLong, "the path is too long; send the data as a body")
            }
            Self::HeadersTooLarge(_) => row(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Code::HeadersTooLarge,
                "too many header fields; send fewer, or clear this site's cookies",
            ),
            Self::RequestTooLarge(_) => row(
                S::PAYLOAD_TOO_LARGE,
                Code::RequestTooLarge,
                "the request body is larger than this environment takes; send less, or raise its request_body_max",
            ),
            Self::Overloaded => {
                later(S::SERVICE_UNAVAILABLE, Code::Overloaded, "too many requests are running; try again")
            }
            Self::EnvironmentOverloaded(_) => later(S::SERVICE_UNAVAILABLE, Code::Overloaded, ENVIRONMENT_FULL),
            Self::QueueFull => later(S::SERVICE_UNAVAILABLE, Code::QueueFull, QUEUE_FULL),
            Self::QueueTimeout => later(S::SERVICE_UNAVAILABLE, Code::QueueTimeout, QUEUE_SLOW),
            Self::Misdirected => row(
                S::MISDIRECTED_REQUEST,
                Code::MisdirectedRequest,
                "this connection's certificate is not for this host; connect anew with the host's own name",
            ),
            Self::Unresolved(unresolved) => unresolved_row(*unresolved),
            Self::NoReadyEndpoint => later(
                S::SERVICE_UNAVAILABLE,
                Code::NoReadyEndpoint,
                "the deployment has no ready replica; see `repoint deployment errors`",
            ),
            Self::Connect { .. } => later(
                S::BAD_GATEWAY,
                Code::ConnectFailed,
                "no replica accepts connections; see `repoint deployment status`",
            ),
            Self::UpstreamReset(_) => row(
                S::BAD_GATEWAY,
                Code::UpstreamReset,
                "the replica closed the connection before it answered; it may have acted on the request",
            ),
            Self::UpstreamInvalid(_) => {
                row(S::BAD_GATEWAY, Code::UpstreamInvalid, "the replica's answer is not valid HTTP")
            }
            Self::ResponseTimeout => row(
                S::GATEWAY_TIMEOUT,
                Code::ResponseTimeout,
                "the replica did not answer in time; it may still act on the request",
            ),
            Self::RequestTimeout => row(
                S::REQUEST_TIMEOUT,
                Code::RequestTimeout,
                "the rest of the request body did not come in time; send it again without pausing",
            ),
            // Nobody reads these two; 499 is what access logs customarily call it.
            Self::ClientStalled => row(gone(), Code::ClientStalled, "the client took nothing more of its answer"),
            Self::ClientGone => row(gone(), Code::ClientGone, "the client closed the connection"),
        }
    }

    /// The reason, for the metric and the log.
    pub(super) fn code(&self) -> Code {
        self.row().code
    }

    /// Status and message of its answer.
    pub(super) fn told(&self) -> (StatusCode, &'static str) {
        let row = self.row();
        (row.status, row.message)
    }

    /// Whose fault it was.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::BadRequest(_)
            | Self::UriTooLong(_)
            | Self::HeadersTooLarge(_)
            | Self::RequestTooLarge(_)
            | Self::Misdirected
            | Self::RequestTimeout
            | Self::ClientStalled
            | Self::ClientGone => Fault::Client,
            Self::Overloaded
            | Self::EnvironmentOverloaded(_)
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Unresolved(_)
            | Self::NoReadyEndpoint => Fault::Repoint,
            Self::Connect { .. } | Self::UpstreamReset(_) | Self::UpstreamInvalid(_) | Self::ResponseTimeout => {
                Fault::Replica
            }
        }
    }

    /// Whether no replica can have seen the request, so that any method may be
    /// sent again.
    pub(super) fn is_retry_safe(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::NoReadyEndpoint
            | Self::Unresolved(_)
            | Self::Overloaded
            | Self::EnvironmentOverloaded(_)
            | Self::QueueFull
            | Self::QueueTimeout => true,
            Self::BadRequest(_)
            | Self::UriTooLong(_)
            | Self::HeadersTooLarge(_)
            | Self::RequestTooLarge(_)
            | Self::Misdirected
            | Self::UpstreamReset(_)
            | Self::UpstreamInvalid(_)
            | Self::ResponseTimeout
            | Self::RequestTimeout
            | Self::ClientStalled
            | Self::ClientGone => false,
        }
    }

    /// The status of gRPC that it is told as: what a client of gRPC would make of
    /// the HTTP status (gRPC, "HTTP to gRPC Status Code Mapping"), save where gRPC
    /// has a word for the reason itself.
    fn grpc_status(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::UriTooLong(_) => INTERNAL,
            Self::HeadersTooLarge(_) | Self::RequestTooLarge(_) => RESOURCE_EXHAUSTED,
            Self::Unresolved(unresolved) => match unresolved {
                Unresolved::EnvironmentNotFound | Unresolved::DeploymentNotFound | Unresolved::DeploymentNotRunning => {
                    UNIMPLEMENTED
                }
                Unresolved::TableNotLoaded | Unresolved::EnvironmentEmpty | Unresolved::DeploymentTerminated => {
                    UNAVAILABLE
                }
            },
            Self::Overloaded
            | Self::EnvironmentOverloaded(_)
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Misdirected
            | Self::NoReadyEndpoint
            | Self::Connect { .. }
            | Self::UpstreamReset(_)
            | Self::UpstreamInvalid(_) => UNAVAILABLE,
            Self::ResponseTimeout => DEADLINE_EXCEEDED,
            Self::RequestTimeout | Self::ClientStalled | Self::ClientGone => CANCELLED,
        }
    }

    /// The answer a client of gRPC gets: trailers alone, in the head (gRPC over
    /// HTTP/2, "Responses").
    pub(super) fn grpc_answer(&self) -> Response<Bytes> {
        let row = self.row();
        let mut answer = Response::new(Bytes::new());
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(self.grpc_status()));
        // Ours hold no byte that "Percent-Encoded" would change but this one.
        let message = format!("{}: {}", row.code.as_str(), row.message).replace('%', "%25");
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert(GRPC_MESSAGE, message);
        }
        answer
    }

    /// The answer the client gets.
    pub(super) fn answer(&self, request_id: Option<&HeaderValue>) -> Response<Bytes> {
        let row = self.row();
        let request_id = request_id.and_then(|id| id.to_str().ok());
        let details = request_id.map_or_else(|| serde_json::json!({}), |id| serde_json::json!({ "request_id": id }));
        let body = serde_json::json!({
            "error": { "code": row.code.as_str(), "message": row.message, "details": details }
        });
        let mut answer = Response::new(Bytes::from(body.to_string()));
        *answer.status_mut() = row.status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = row.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        answer
    }
}

fn gone() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

fn unresolved_row(unresolved: Unresolved) -> Row {
    use StatusCode as S;
    let (status, code, message, retry_after) = match unresolved {
        Unresolved::TableNotLoaded => (
            S::SERVICE_UNAVAILABLE,
            Code::TableNotLoaded,
            "this proxy has no routing table yet; it is waiting for the control plane",
            Some("1"),
        ),
        Unresolved::EnvironmentNotFound => (
            S::NOT_FOUND,
            Code::EnvironmentNotFound,
            "no environment answers to this host; see `repoint env list` for the hosts there are",
            None,
        ),
        Unresolved::EnvironmentEmpty => (
            S::SERVICE_UNAVAILABLE,
            Code::EnvironmentEmpty,
            "nothing has been deployed to this environment yet; deploy or promote to it first",
            Some("5"),
        ),
        Unresolved::DeploymentNotFound => (
            S::NOT_FOUND,
            Code::DeploymentNotFound,
            "the deployment named by X-Deployment-ID does not serve this environment",
            None,
        ),
        Unresolved::DeploymentNotRunning => (
            S::NOT_FOUND,
            Code::DeploymentNotRunning,
            "the deployment named by this host is not running here; start it, or use the environment's host",
            None,
        ),
        Unresolved::DeploymentTerminated => (
            S::SERVICE_UNAVAILABLE,
            Code::DeploymentTerminated,
            "the environment's deployment was terminated; start it again, or promote another one",
            Some("5"),
        ),
    };
    Row { status, code, message, retry_after }
}

impl Code {
    /// Every code, in order: its place is its index in the counters.
    pub(super) const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::UriTooLong,
        Self::HeadersTooLarge,
        Self::RequestTooLarge,
        Self::Overloaded,
        Self::MisdirectedRequest,
        Self::TableNotLoaded,
        Self::EnvironmentNotFound,
        Self::EnvironmentEmpty,
        Self::DeploymentNotFound,
        Self::DeploymentNotRunning,
        Self::DeploymentTerminated,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::NoReadyEndpoint,
        Self::ConnectFailed,
        Self::UpstreamReset,
        Self::UpstreamInvalid,
        Self::ResponseTimeout,
        Self::RequestTimeout,
        Self::ClientStalled,
        Self::ClientGone,
    ];

    /// The word used in answers, logs and metric labels.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::RequestTooLarge => "request_too_large",
            Self::Overloaded => "overloaded",
            Self::MisdirectedRequest => "misdirected_request",
            Self::TableNotLoaded => "table_not_loaded",
            Self::EnvironmentNotFound => "environment_not_found",
            Self::EnvironmentEmpty => "environment_empty",
            Self::DeploymentNotFound => "deployment_not_found",
            Self::DeploymentNotRunning => "deployment_not_running",
            Self::DeploymentTerminated => "deployment_terminated",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::NoReadyEndpoint => "no_ready_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::ResponseTimeout => "response_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::ClientStalled => "client_stalled",
            Self::ClientGone => "client_gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_listed_in_order_and_are_distinct() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index, "{}", code.as_str());
        }
        let words: std::collections::BTreeSet<_> = Code::ALL.into_iter().map(Code::as_str).collect();
        assert_eq!(words.len(), Code::ALL.len());
    }

    #[test]
    fn an_answer_says_what_to_do_and_when() {
        let id = HeaderValue::from_static("r-1");
        let answer = Error::from(Unresolved::EnvironmentEmpty).answer(Some(&id));
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "5");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(body["error"]["code"], "environment_empty");
        assert!(body["error"]["message"].as_str().unwrap().contains("promote"));
        assert_eq!(body["error"]["details"]["request_id"], "r-1");
    }

    #[test]
    fn what_a_replica_may_have_seen_is_not_safe_to_send_again() {
        assert!(!Error::UpstreamReset(None).is_retry_safe());
        assert!(!Error::ResponseTimeout.is_retry_safe());
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(Error::Connect { endpoint: "127.0.0.1:1".parse().unwrap(), source: refused }.is_retry_safe());
    }

    #[test]
    fn statuses_are_as_documented() {
        let cases = [
            (Error::from(Unresolved::EnvironmentNotFound), 404, Fault::Repoint),
            (Error::from(Unresolved::TableNotLoaded), 503, Fault::Repoint),
            (Error::from(Unresolved::DeploymentNotFound), 404, Fault::Repoint),
            (Error::from(Unresolved::DeploymentNotRunning), 404, Fault::Repoint),
            (Error::from(Unresolved::DeploymentTerminated), 503, Fault::Repoint),
            (Error::NoReadyEndpoint, 503, Fault::Repoint),
            (Error::UpstreamReset(None), 502, Fault::Replica),
            (Error::ResponseTimeout, 504, Fault::Replica),
            (Error::RequestTooLarge(1), 413, Fault::Client),
            (Error::HeadersTooLarge(1), 431, Fault::Client),
            (Error::UriTooLong(1), 414, Fault::Client),
            (Error::Overloaded, 503, Fault::Repoint),
            (Error::QueueFull, 503, Fault::Repoint),
            (Error::QueueTimeout, 503, Fault::Repoint),
            (Error::Misdirected, 421, Fault::Client),
            (Error::BadRequest("x"), 400, Fault::Client),
            (Error::RequestTimeout, 408, Fault::Client),
            (Error::ClientStalled, 499, Fault::Client),
            (Error::ClientGone, 499, Fault::Client),
        ];
        for (error, status, fault) in cases {
            assert_eq!((error.row().status.as_u16(), error.fault()), (status, fault), "{error}");
        }
    }
}
