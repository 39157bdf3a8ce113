//! What may be expected of the ingress, on real sockets: one test per promise.

#![allow(clippy::unwrap_used, reason = "a test that panics with a line number is a test that reports")]

mod real_clients;
mod slow_start;
mod support;

mod addressing;
mod claims;
mod draining;
mod errors;
mod grpc_tonic;
mod headers;
mod hostile;
mod hostile_http2;
mod http1;
mod http2;
mod http2_upstream;
mod limits;
mod outside;
mod overload;
mod protocol_lines;
mod proxy_protocol;
mod queue;
mod retries;
mod secure_replicas;
mod smuggling;
mod stalls;
mod streaming;
mod tls;
mod tls_clients;
mod tls_drain;
mod tls_openssl;
mod tls_reload;
mod traces;
mod upgrades;
mod upstream;
mod usual;
mod websockets_http2;
